//! THE table: every path there is, with its handler, who may call it, how often, how much it may send and how it runs. A
//! new route is a new row here, a handler, and a line of the README.

use crate::auth::Scope;
#[cfg(feature = "page")]
use crate::handlers::dashboard;
use crate::handlers::{chain, chat, keys, login, miner, network, openai, ops, usage, users};
use crate::http::route;
use crate::limits::RateClass;

pub use crate::http::route::{Auth, BodyClass, Route, RouteMatch};

/// A row: method, path (and its alias), handler, [`Auth`], [`RateClass`], [`BodyClass`], then what is not the default.
macro_rules! routes {
    ($($(#[$only:meta])* $method:ident $path:literal $(| $alias:literal)?
       $handler:path; $auth:expr, $rate:ident, $body:ident $(, $flag:ident)*;)*) => {
        /// Every route, in the order of the README.
        ///
        /// ```
        /// use r3mes_edge::routes::{Auth, ROUTES};
        ///
        /// // What can be written without a key: a login, and nothing else.
        /// let open = ROUTES.iter().filter(|route| route.auth == Auth::Open && route.method != "GET");
        /// let paths: Vec<_> = open.map(|route| route.path).collect();
        /// assert_eq!(paths, ["/login/challenge", "/login"]);
        /// ```
        pub static ROUTES: &[Route] = &route::numbered([$(
            $(#[$only])*
            Route {
                $(alias: Some($alias),)?
                $($flag: true,)*
                ..Route::new(
                    stringify!($method), $path, |context| Box::pin($handler(context)), $auth, RateClass::$rate, BodyClass::$body,
                )
            },
        )*]);
    };
}

routes! {
    POST   "/login/challenge"         login::challenge;      Auth::Open,               Auth,      Common, detached;
    POST   "/login" | "/auth/login"   login::login;          Auth::Open,               Auth,      Common, detached;
    POST   "/api/keys" | "/api-keys/create" keys::create;    Auth::Key(Scope::Keys),   Auth,      Common, detached;
    GET    "/api/keys"                keys::list;            Auth::Key(Scope::Keys),   Read,      None;
    GET    "/api/keys/{id}"           keys::get;             Auth::Key(Scope::Keys),   Read,      None, no_query;
    DELETE "/api/keys/{id}"           keys::revoke;          Auth::Key(Scope::Keys),   Write,     None, detached;
    GET    "/api-keys/list/{wallet}"  keys::list;            Auth::Own(Scope::Keys),   Read,      None;
    POST   "/api-keys/revoke"         keys::revoke_named;    Auth::Key(Scope::Keys),   Write,     Common, detached;
    DELETE "/api-keys/delete"         keys::revoke_named;    Auth::Key(Scope::Keys),   Write,     Common, detached;
    POST   "/api/keys/{id}/rotate"    keys::rotate;          Auth::Key(Scope::Keys),   Auth,      Common, detached;
    GET    "/auth/me"                 keys::me;              Auth::AnyKey,             Read,      None;
    POST   "/users"                   users::create;         Auth::AnyKey,             Write,     Common, detached;
    GET    "/users"                   users::list;           Auth::Admin,              Read,      None;
    GET    "/users/{wallet}" | "/user/info/{wallet}" users::get; Auth::Public,         Read,      None, no_query;
    POST   "/users/{wallet}/block"    users::block;          Auth::Admin,              Write,     None, detached, no_query;
    POST   "/users/{wallet}/unblock"  users::unblock;        Auth::Admin,              Write,     None, detached, no_query;
    POST   "/users/{wallet}/credits"  users::grant;          Auth::Admin,              Write,     Common, detached;
    GET    "/users/{wallet}/ledger"   users::ledger;         Auth::Own(Scope::Read),   Read,      None;
    GET    "/usage"                   usage::get;            Auth::Key(Scope::Read),   Read,      None;
    POST   "/miner/stats"             miner::post_stats;     Auth::Key(Scope::Miner),  Telemetry, Telemetry, detached;
    POST   "/miner/earnings"          miner::post_earnings;  Auth::Admin,              Write,     Common, detached;
    GET    "/miner/stats/{wallet}"    miner::stats;          Auth::Public,             Read,      None, no_query;
    GET    "/miner/workers/{wallet}"  miner::workers;        Auth::Public,             Read,      None, no_query;
    GET    "/miner/earnings/{wallet}" miner::earnings;       Auth::Public,             Read,      None;
    GET    "/miner/hashrate/{wallet}" miner::hashrate;       Auth::Public,             Read,      None;
    GET    "/leaderboard"             network::leaderboard;  Auth::Public,             Read,      None;
    GET    "/leaderboard/miners"      network::backend_leaderboard; Auth::Public,      Read,      None;
    POST   "/chat"                    chat::chat;            Auth::Chat,               Chat,      Chat, unbounded;
    POST   "/v1/chat/completions"     openai::chat_completions; Auth::Key(Scope::Chat), Chat,     V1, unbounded;
    POST   "/v1/completions"          openai::completions;   Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    POST   "/v1/embeddings"           openai::embeddings;    Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    POST   "/v1/messages"             openai::messages;      Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    POST   "/v1/messages/count_tokens" openai::count_tokens; Auth::Key(Scope::Chat),   Read,      V1;
    POST   "/v1/rerank"               openai::rerank;        Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    POST   "/v1/responses"            openai::responses;     Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    GET    "/v1/models"               openai::models;        Auth::Key(Scope::Chat),   Read,      None;
    GET    "/v1/models/{id}"          openai::model;         Auth::Key(Scope::Chat),   Read,      None;
    GET    "/network/stats"           network::stats;        Auth::Public,             Read,      None, no_query;
    GET    "/faucet/status"           network::faucet;       Auth::Open,               Read,      None, no_query;
    GET    "/chain/status"            chain::status;         Auth::Public,             Read,      None, no_query;
    GET    "/blocks"                  chain::blocks;         Auth::Public,             Read,      None;
    POST   "/admin/backup"            ops::back_up;          Auth::Admin,              Write,     None, detached, unbounded, no_query;
    GET    "/admin/backups"           ops::backups;          Auth::Admin,              Read,      None, no_query;
    POST   "/admin/backups/{name}/verify" ops::verify_backup; Auth::Admin,             Write,     None, unbounded, no_query;
    GET    "/admin/ledger/verify"     ops::verify_ledger;    Auth::Admin,              Write,     None, unbounded;
    POST   "/admin/clock/accept"      ops::accept_clock;     Auth::Admin,              Write,     None, detached, no_query;
    GET    "/admin/audit"             ops::audit;            Auth::Admin,              Read,      None;
    GET    "/admin/breakers"          ops::breakers;         Auth::Admin,              Read,      None, no_query;
    POST   "/admin/breakers/{name}"   ops::set_breaker;      Auth::Admin,              Write,     Common, detached;
    GET    "/health" | "/ping"        ops::health;           Auth::Open,               Health,    None, while_draining;
    GET    "/livez"                   ops::livez;            Auth::Open,               Health,    None, while_draining;
    GET    "/readyz"                  ops::readyz;           Auth::Open,               Health,    None, while_draining;
    GET    "/alerts"                  ops::alerts;           Auth::PublicElseMetrics,  Health,    None, while_draining;
    GET    "/metrics"                 ops::metrics;          Auth::PublicElseMetrics,  Health,    None, while_draining;
    GET    "/system/version"          ops::version;          Auth::Open,               Read,      None;
    GET    "/system/time"             ops::time;             Auth::Open,               Read,      None, no_query;
    GET    "/openapi.json"            ops::openapi;          Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    GET    "/"                        dashboard::page;       Auth::Open,               Page,      None;
    #[cfg(feature = "page")]
    GET    "/page.js"                 dashboard::script;     Auth::Open,               Page,      None;
    #[cfg(feature = "page")]
    GET    "/page.css"                dashboard::style;      Auth::Open,               Page,      None;
}

/// Path and method of every route, as the metrics label them.
pub(crate) fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (route.path, route.method))
}

/// Finds the route of a request.
#[must_use]
pub fn find<'a>(method: &str, path: &'a str) -> RouteMatch<'a> {
    route::find(ROUTES, method, path)
}

#[cfg(test)]
mod tests;
