//! The routes: every path there is, with who may call it, how often, and how much it may send. A route without one of
//! these does not compile.

use crate::auth::Scope;
use crate::limits::RateClass;

/// Who may call a [`Route`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Anybody.
    Open,
    /// Anybody where public reads are on; else a key that may read, of the path's wallet where the path has one.
    Public,
    /// Anybody where public reads are on; else an admin.
    PublicElseAdmin,
    /// Any key.
    AnyKey,
    /// A key with this scope.
    Key(Scope),
    /// A key with this scope, of the path's wallet.
    Own(Scope),
    /// A key that may chat; without one the handler says what is missing, as the body may name a wallet.
    Chat,
    /// An admin.
    Admin,
}

/// How large the body of a request to a [`Route`] may be, by the setting that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyClass {
    /// None is read.
    None,
    /// `limits.body`
    Common,
    /// `limits.telemetry_body`
    Telemetry,
    /// `limits.chat_body`
    Chat,
    /// `limits.v1_body`
    V1,
}

/// A method that some route has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET, and HEAD with it.
    Get,
    /// POST.
    Post,
    /// DELETE.
    Delete,
}

impl Method {
    /// As it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    fn fits(self, method: &str) -> bool {
        method == self.as_str() || (self == Self::Get && method == "HEAD")
    }
}

/// One route, a row of [`ROUTES`].
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Which it is.
    pub id: RouteId,
    /// Its method.
    pub method: Method,
    /// Its path; at most one part stands in braces and matches one segment.
    pub path: &'static str,
    /// Who may call it.
    pub auth: Auth,
    /// How often.
    pub rate: RateClass,
    /// How much it may be sent.
    pub body: BodyClass,
    pattern: Pattern,
}

macro_rules! routes {
    ($($(#[$only:meta])* $id:ident $method:ident $path:literal $auth:expr, $rate:ident, $body:ident;)*) => {
        /// The name of a route. Those of the operator's page are there with the feature `page`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum RouteId {
            $($(#[$only])* #[doc = concat!("`", stringify!($method), " ", $path, "`")] $id,)*
        }

        /// THE table.
        ///
        /// ```
        /// use r3mes_edge::routes::{Auth, Method, ROUTES};
        ///
        /// // What a stranger may write to: logging in, and nothing else.
        /// let open = ROUTES.iter().filter(|route| route.auth == Auth::Open && route.method != Method::Get);
        /// let paths: Vec<_> = open.map(|route| route.path).collect();
        /// assert_eq!(paths, ["/login/challenge", "/login"]);
        /// ```
        pub const ROUTES: &[Route] = &[$(
            $(#[$only])*
            Route::new(RouteId::$id, Method::$method, $path, $auth, RateClass::$rate, BodyClass::$body),
        )*];
    };
}

routes! {
    Challenge    Post   "/login/challenge"         Auth::Open,               Auth,      Common;
    Login        Post   "/login"                   Auth::Open,               Auth,      Common;
    CreateKey    Post   "/api/keys"                Auth::Key(Scope::Keys),   Auth,      Common;
    ListKeys     Get    "/api/keys"                Auth::Key(Scope::Keys),   Read,      None;
    GetKey       Get    "/api/keys/{id}"           Auth::Key(Scope::Keys),   Read,      None;
    RevokeKey    Delete "/api/keys/{id}"           Auth::Key(Scope::Keys),   Write,     None;
    ListKeysOf   Get    "/api-keys/list/{wallet}"  Auth::Own(Scope::Keys),   Read,      None;
    RevokeByPost Post   "/api-keys/revoke"         Auth::Key(Scope::Keys),   Write,     Common;
    RevokeByBody Delete "/api-keys/delete"         Auth::Key(Scope::Keys),   Write,     Common;
    RotateKey    Post   "/api/keys/{id}/rotate"    Auth::Key(Scope::Keys),   Auth,      Common;
    Me           Get    "/auth/me"                 Auth::AnyKey,             Read,      None;
    CreateUser   Post   "/users"                   Auth::AnyKey,             Write,     Common;
    ListUsers    Get    "/users"                   Auth::Admin,              Read,      None;
    GetUser      Get    "/users/{wallet}"          Auth::Public,             Read,      None;
    Grant        Post   "/users/{wallet}/credits"  Auth::Admin,              Write,     Common;
    Ledger       Get    "/users/{wallet}/ledger"   Auth::Own(Scope::Read),   Read,      None;
    PostStats    Post   "/miner/stats"             Auth::Key(Scope::Miner),  Telemetry, Telemetry;
    PostEarnings Post   "/miner/earnings"          Auth::Admin,              Write,     Common;
    MinerStats   Get    "/miner/stats/{wallet}"    Auth::Public,             Read,      None;
    Earnings     Get    "/miner/earnings/{wallet}" Auth::Public,             Read,      None;
    Hashrate     Get    "/miner/hashrate/{wallet}" Auth::Public,             Read,      None;
    Leaderboard  Get    "/leaderboard"             Auth::Public,             Read,      None;
    Chat         Post   "/chat"                    Auth::Chat,               Chat,      Chat;
    Completions  Post   "/v1/chat/completions"     Auth::Key(Scope::Chat),   Chat,      V1;
    Models       Get    "/v1/models"               Auth::Key(Scope::Chat),   Read,      None;
    NetworkStats Get    "/network/stats"           Auth::Public,             Read,      None;
    ChainStatus  Get    "/chain/status"            Auth::Public,             Read,      None;
    Blocks       Get    "/blocks"                  Auth::Public,             Read,      None;
    BackUp       Post   "/admin/backup"            Auth::Admin,              Write,     None;
    VerifyLedger Get    "/admin/ledger/verify"     Auth::Admin,              Write,     None;
    Breakers     Get    "/admin/breakers"          Auth::Admin,              Read,      None;
    SetBreaker   Post   "/admin/breakers/{name}"   Auth::Admin,              Write,     Common;
    Health       Get    "/health"                  Auth::Open,               Health,    None;
    Livez        Get    "/livez"                   Auth::Open,               Health,    None;
    Readyz       Get    "/readyz"                  Auth::Open,               Health,    None;
    Alerts       Get    "/alerts"                  Auth::PublicElseAdmin,    Health,    None;
    Metrics      Get    "/metrics"                 Auth::PublicElseAdmin,    Health,    None;
    Version      Get    "/system/version"          Auth::Open,               Read,      None;
    Time         Get    "/system/time"             Auth::Open,               Read,      None;
    OpenApi      Get    "/openapi.json"            Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    Page         Get    "/"                        Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    PageScript   Get    "/page.js"                 Auth::Open,               Read,      None;
    #[cfg(feature = "page")]
    PageStyle    Get    "/page.css"                Auth::Open,               Read,      None;
}

/// Another path of a route, as the R3MES backend called it; one of [`ALIASES`].
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// The route.
    pub id: RouteId,
    /// Its other path.
    pub path: &'static str,
    pattern: Pattern,
}

/// The paths that clients of the R3MES backend know these routes by.
pub const ALIASES: &[Alias] = &[
    Alias::new(RouteId::Login, "/auth/login"),
    Alias::new(RouteId::CreateKey, "/api-keys/create"),
    Alias::new(RouteId::GetUser, "/user/info/{wallet}"),
    Alias::new(RouteId::Health, "/ping"),
];

impl Alias {
    const fn new(id: RouteId, path: &'static str) -> Self {
        Self {
            id,
            path,
            pattern: Pattern::new(path),
        }
    }
}

impl Route {
    const fn new(
        id: RouteId,
        method: Method,
        path: &'static str,
        auth: Auth,
        rate: RateClass,
        body: BodyClass,
    ) -> Self {
        Self {
            id,
            method,
            path,
            auth,
            rate,
            body,
            pattern: Pattern::new(path),
        }
    }
}

/// A path split once, around its braces.
#[derive(Clone, Copy, Debug)]
struct Pattern {
    prefix: &'static str,
    suffix: Option<&'static str>,
}

impl Pattern {
    const fn new(path: &'static str) -> Self {
        let bytes = path.as_bytes();
        let (mut open, mut close) = (bytes.len(), bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'{' => open = at,
                b'}' => close = at,
                _ => {}
            }
            at += 1;
        }
        let (prefix, rest) = path.split_at(open);
        let suffix = if rest.is_empty() {
            None
        } else {
            Some(path.split_at(close + 1).1)
        };
        Self { prefix, suffix }
    }

    /// What the braces match in `path`: an empty text where there are none, `None` where it is another path.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.prefix)?;
        match self.suffix {
            None => rest.is_empty().then_some(""),
            Some(suffix) => rest
                .strip_suffix(suffix)
                .filter(|part| !part.is_empty() && !part.contains('/')),
        }
    }
}

/// What a method and a path lead to, as [`find`] says.
#[derive(Debug)]
pub enum RouteMatch<'a> {
    /// A route, with the part of the path that its braces matched.
    Route(&'static Route, &'a str),
    /// The path is there, the method is not; the methods that are, for `Allow`.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

/// Where a request ended, for its line and its figures.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) enum MatchedRoute {
    /// Nowhere.
    #[default]
    Nothing,
    /// At a route of ours.
    Route(&'static Route),
    /// At the host's own routes, whose paths and methods nobody here knows.
    Own,
}

/// Looks a request up.
#[must_use]
pub fn find<'a>(method: &str, path: &'a str) -> RouteMatch<'a> {
    let mut others = Vec::new();
    let known = ROUTES.iter().map(|route| (route, &route.pattern));
    let aliases = ALIASES
        .iter()
        .map(|alias| (&ROUTES[alias.id as usize], &alias.pattern));
    for (route, pattern) in known.chain(aliases) {
        let Some(part) = pattern.matches(path) else {
            continue;
        };
        if route.method.fits(method) {
            return RouteMatch::Route(route, part);
        }
        others.push(route.method.as_str());
        if route.method == Method::Get {
            others.push("HEAD");
        }
    }
    if others.is_empty() {
        RouteMatch::Nothing
    } else {
        RouteMatch::OtherMethods(others.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_stands_in_the_order_of_its_names_and_no_route_hides_another() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.id as usize, index);
            let path = route
                .path
                .replace("{wallet}", "remes1x")
                .replace("{id}", "key_1");
            match find(route.method.as_str(), &path) {
                RouteMatch::Route(found, _) => assert_eq!(found.id, route.id),
                other => panic!("{}: {other:?}", route.path),
            }
        }
    }

    #[test]
    fn an_alias_leads_to_its_route() {
        for alias in ALIASES {
            let (method, path) = (
                ROUTES[alias.id as usize].method.as_str(),
                alias.path.replace("{wallet}", "remes1x"),
            );
            assert!(
                matches!(find(method, &path), RouteMatch::Route(route, _) if route.id == alias.id),
                "{path}"
            );
        }
    }

    #[test]
    fn a_part_in_braces_is_one_segment() {
        let part = |path| match find("GET", path) {
            RouteMatch::Route(route, part) => Some((route.id, part)),
            _ => None,
        };
        assert_eq!(part("/users/abc"), Some((RouteId::GetUser, "abc")));
        assert_eq!(part("/users/abc/ledger"), Some((RouteId::Ledger, "abc")));
        for path in [
            "/users/",
            "/users/a/b",
            "/users//ledger",
            "/users/a/ledger/",
            "//",
            "",
            "/metrics/",
        ] {
            assert_eq!(part(path), None, "{path}");
        }
    }

    #[test]
    fn another_method_is_told_which_there_are() {
        assert!(
            matches!(find("PUT", "/api/keys"), RouteMatch::OtherMethods(allow) if allow == "POST, GET, HEAD")
        );
        assert!(
            matches!(find("HEAD", "/livez"), RouteMatch::Route(route, "") if route.id == RouteId::Livez)
        );
        assert!(matches!(find("get", "/nothing"), RouteMatch::Nothing));
    }

    /// The table read segment by segment.
    fn by_segments(path: &str) -> Vec<&'static Route> {
        let fits = |route: &&Route| {
            let (wanted, given) = (route.path.split('/'), path.split('/'));
            wanted.clone().count() == given.clone().count()
                && wanted.zip(given).all(|(wanted, given)| {
                    wanted == given || (wanted.starts_with('{') && !given.is_empty())
                })
        };
        ROUTES.iter().filter(fits).collect()
    }

    proptest! {
        #[test]
        fn a_path_leads_where_its_segments_lead(method in "(GET|HEAD|POST|DELETE|PUT|get|)", path in "(/(users|miner|stats|earnings|api|keys|rotate|ledger|credits|livez|blocks||\\.\\.|%2e|\\{id\\}|[a-z\u{F6}]{1,3})){0,4}/?", junk in any::<String>()) {
            for path in [path.as_str(), junk.as_str()] {
                let fitting = by_segments(path);
                let wanted = fitting.iter().find(|route| route.method.fits(&method));
                match find(&method, path) {
                    RouteMatch::Route(found, part) => {
                        prop_assert_eq!(Some(found.id), wanted.map(|route| route.id));
                        prop_assert!(!part.contains('/') && path.contains(part));
                    }
                    RouteMatch::OtherMethods(allow) => {
                        prop_assert!(wanted.is_none());
                        prop_assert!(fitting.iter().all(|route| allow.contains(route.method.as_str())));
                        prop_assert!(!fitting.is_empty());
                    }
                    RouteMatch::Nothing => prop_assert!(fitting.is_empty()),
                }
            }
        }
    }
}
