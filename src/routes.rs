//! THE table: every path there is, with its handler, who may call it, how often, how much it may send and how it runs. A
//! new route is a new row here, a handler, and a line of the README.

use crate::auth::Scope;
#[cfg(feature = "page")]
use crate::handlers::dashboard;
use crate::handlers::{chain, chat, keys, login, miner, network, openai, ops, users};
use crate::http::route;
use crate::limits::RateClass;

pub use crate::http::route::{Auth, BodyClass, Method, Route, RouteMatch};

/// A row: method, path (and its alias), handler, [`Auth`], [`RateClass`], [`BodyClass`], then what is not the default.
macro_rules! routes {
    ($($(#[$only:meta])* $method:ident $path:literal $(| $alias:literal)?
       $handler:path; $auth:expr, $rate:ident, $body:ident $(, $flag:ident)*;)*) => {
        /// Every route, in the order of the README.
        ///
        /// ```
        /// use r3mes_edge::routes::{Auth, Method, ROUTES};
        ///
        /// // What can be written without a key: a login, and nothing else.
        /// let open = ROUTES.iter().filter(|route| route.auth == Auth::Open && route.method != Method::Get);
        /// let paths: Vec<_> = open.map(|route| route.path).collect();
        /// assert_eq!(paths, ["/login/challenge", "/login"]);
        /// ```
        pub static ROUTES: &[Route] = &route::numbered([$(
            $(#[$only])*
            Route {
                $(alias: Some($alias),)?
                $($flag: true,)*
                ..Route::new(
                    Method::$method, $path, |context| Box::pin($handler(context)), $auth, RateClass::$rate, BodyClass::$body,
                )
            },
        )*]);
    };
}

routes! {
    Post   "/login/challenge"         login::challenge;      Auth::Open,               Auth,      Common, detached;
    Post   "/login" | "/auth/login"   login::login;          Auth::Open,               Auth,      Common, detached;
    Post   "/api/keys" | "/api-keys/create" keys::create;    Auth::Key(Scope::Keys),   Auth,      Common, detached;
    Get    "/api/keys"                keys::list;            Auth::Key(Scope::Keys),   Read,      None;
    Get    "/api/keys/{id}"           keys::get;             Auth::Key(Scope::Keys),   Read,      None;
    Delete "/api/keys/{id}"           keys::revoke;          Auth::Key(Scope::Keys),   Write,     None, detached;
    Get    "/api-keys/list/{wallet}"  keys::list;            Auth::Own(Scope::Keys),   Read,      None;
    Post   "/api-keys/revoke"         keys::revoke_named;    Auth::Key(Scope::Keys),   Write,     Common, detached;
    Delete "/api-keys/delete"         keys::revoke_named;    Auth::Key(Scope::Keys),   Write,     Common, detached;
    Post   "/api/keys/{id}/rotate"    keys::rotate;          Auth::Key(Scope::Keys),   Auth,      Common, detached;
    Get    "/auth/me"                 keys::me;              Auth::AnyKey,             Read,      None;
    Post   "/users"                   users::create;         Auth::AnyKey,             Write,     Common, detached;
    Get    "/users"                   users::list;           Auth::Admin,              Read,      None;
    Get    "/users/{wallet}" | "/user/info/{wallet}" users::get; Auth::Public,         Read,      None;
    Post   "/users/{wallet}/credits"  users::grant;          Auth::Admin,              Write,     Common, detached;
    Get    "/users/{wallet}/ledger"   users::ledger;         Auth::Own(Scope::Read),   Read,      None;
    Post   "/miner/stats"             miner::post_stats;     Auth::Key(Scope::Miner),  Telemetry, Telemetry, detached;
    Post   "/miner/earnings"          miner::post_earnings;  Auth::Admin,              Write,     Common, detached;
    Get    "/miner/stats/{wallet}"    miner::stats;          Auth::Public,             Read,      None;
    Get    "/miner/earnings/{wallet}" miner::earnings;       Auth::Public,             Read,      None;
    Get    "/miner/hashrate/{wallet}" miner::hashrate;       Auth::Public,             Read,      None;
    Get    "/leaderboard"             network::leaderboard;  Auth::Public,             Read,      None;
    Post   "/chat"                    chat::chat;            Auth::Chat,               Chat,      Chat, unbounded;
    Post   "/v1/chat/completions"     openai::completions;   Auth::Key(Scope::Chat),   Chat,      V1, unbounded;
    Get    "/v1/models"               openai::models;        Auth::Key(Scope::Chat),   Read,      None;
    Get    "/network/stats"           network::stats;        Auth::Public,             Read,      None;
    Get    "/chain/status"            chain::status;         Auth::Public,             Read,      None;
    Get    "/blocks"                  chain::blocks;         Auth::Public,             Read,      None;
    Post   "/admin/backup"            ops::back_up;          Auth::Admin,              Write,     None, detached, unbounded;
    Get    "/admin/ledger/verify"     ops::verify_ledger;    Auth::Admin,              Write,     None, unbounded;
    Get    "/admin/breakers"          ops::breakers;         Auth::Admin,              Read,      None;
    Post   "/admin/breakers/{name}"   ops::set_breaker;      Auth::Admin,              Write,     Common, detached;
    Get    "/health" | "/ping"        ops::health;           Auth::Open,               Health,    None, while_draining;
    Get    "/livez"                   ops::livez;            Auth::Open,               Health,    None, while_draining;
    Get    "/readyz"                  ops::readyz;           Auth::Open,               Health,    None, while_draining;
    Get    "/alerts"                  ops::alerts;           Auth::PublicElseAdmin,    Health,    None, while_draining;
    Get    "/metrics"                 ops::metrics;          Auth::PublicElseAdmin,    Health,    None, while_draining;
    Get    "/system/version"          ops::version;          Auth::Open,               Read,      None;
    Get    "/system/time"             ops::time;             Auth::Open,               Read,      None;
    Get    "/openapi.json"            ops::openapi;          Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    Get    "/"                        dashboard::page;       Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    Get    "/page.js"                 dashboard::script;     Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    Get    "/page.css"                dashboard::style;      Auth::Open,               Read,      None;
}

/// Path and method of every route, as the metrics label them.
pub(crate) fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES
        .iter()
        .map(|route| (route.path, route.method.as_str()))
}

/// Finds the route of a request.
#[must_use]
pub fn find<'a>(method: &str, path: &'a str) -> RouteMatch<'a> {
    route::find(ROUTES, method, path)
}

#[cfg(test)]
mod tests;
