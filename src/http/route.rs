//! The types of the routes table, and the matching of paths. The rows with their handlers are in `routes.rs`; this module
//! does not depend on the handlers.

use std::pin::Pin;

use super::{Context, Result};
use crate::auth::Scope;
use crate::limits::RateClass;

/// Who may call a [`Route`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Everyone.
    Open,
    /// Everyone if public reads are on; otherwise a key that may read, of the path's wallet if the path has one.
    Public,
    /// Everyone if public reads are on; otherwise a key that may read metrics.
    PublicElseMetrics,
    /// Any key.
    AnyKey,
    /// A key with this scope.
    Key(Scope),
    /// A key with this scope, of the path's wallet.
    Own(Scope),
    /// A key that may chat; without one the handler decides what is missing, as the body may name a wallet.
    Chat,
    /// An admin.
    Admin,
}

/// The setting that bounds the body of a request to a [`Route`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyClass {
    /// No body is read.
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

pub(crate) type Handler = fn(Context) -> HandlerFuture;
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result> + Send>>;

/// One route, a row of [`ROUTES`](crate::routes::ROUTES).
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Its method, as in a request line; HEAD is answered where GET is.
    pub method: &'static str,
    /// Its path; at most one segment is a parameter in braces.
    pub path: &'static str,
    /// The path by which clients of the R3MES backend know it, where that is another.
    pub alias: Option<&'static str>,
    /// Who may call it.
    pub auth: Auth,
    /// The rate limit that it counts against.
    pub rate: RateClass,
    /// How large its body may be.
    pub body: BodyClass,
    /// Whether its handler runs to its end in a task of its own, also where the client disconnects: a handler that changes
    /// something must not stop between its commit and what follows. All others are dropped with their connection.
    pub detached: bool,
    /// Whether `limits.request_timeout` does not apply: the handler has deadlines of its own, or takes as long as the file is
    /// large.
    pub unbounded: bool,
    /// Whether it is answered during a shutdown too.
    pub while_draining: bool,
    /// Whether it has no query parameters, so that every parameter is refused as unknown.
    pub no_query: bool,
    pub(crate) handler: Handler,
    /// Its position in the table.
    pub(crate) index: usize,
}

impl Route {
    pub(crate) const fn new(
        method: &'static str,
        path: &'static str,
        handler: Handler,
        auth: Auth,
        rate: RateClass,
        body: BodyClass,
    ) -> Self {
        Self {
            method,
            path,
            alias: None,
            auth,
            rate,
            body,
            detached: false,
            unbounded: false,
            while_draining: false,
            no_query: false,
            handler,
            index: 0,
        }
    }

    pub(crate) fn has_method(&self, method: &str) -> bool {
        method == self.method || (self.method == "GET" && method == "HEAD")
    }

    fn has_one_spelling(&self) -> bool {
        matches!(self.auth, Auth::Admin | Auth::PublicElseMetrics) || is_below_v1(self.path)
    }

    /// The value of its parameter in `path`, empty where it has none; `None` where the path does not match.
    fn param<'a>(&self, path: &'a str) -> Option<&'a str> {
        let alias = || match_path(self.alias?, path);
        match_path(self.path, path).or_else(alias)
    }
}

fn is_below_v1(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

fn match_path<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((prefix, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (_, suffix) = rest.split_once('}')?;
    let param = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
    // The name of a model may hold slashes, which some clients do not encode.
    let may_have_slashes = prefix == "/v1/models/";
    (!param.is_empty() && (may_have_slashes || !param.contains('/'))).then_some(param)
}

/// Gives each row its position.
pub(crate) const fn numbered<const N: usize>(mut routes: [Route; N]) -> [Route; N] {
    let mut index = 0;
    while index < N {
        routes[index].index = index;
        index += 1;
    }
    routes
}

/// The result of matching a method and a path.
#[derive(Debug)]
pub enum RouteMatch<'a> {
    /// A route, with the value of its path parameter.
    Route(&'static Route, &'a str),
    /// The path exists with other methods, as `Allow` lists them.
    OtherMethods(String),
    /// No route has this path.
    NotFound,
}

/// Finds the route of a request. `//livez` is `/livez`, as clients of the R3MES backend send it that are given a base address with
/// a slash at its end. A route below `/v1`, which they do not know, and one of the operator have one spelling, as a second would
/// bypass a proxy's rules.
pub(crate) fn find<'a>(routes: &'static [Route], method: &str, path: &'a str) -> RouteMatch<'a> {
    let segments = path.trim_start_matches('/');
    let is_doubled = !segments.is_empty() && path.len() > segments.len() + 1;
    let path = match is_doubled {
        true => &path[path.len() - segments.len() - 1..],
        false => path,
    };
    let mut others = Vec::new();
    for route in routes
        .iter()
        .filter(|route| !(is_doubled && route.has_one_spelling()))
    {
        match route.param(path) {
            Some(param) if route.has_method(method) => return RouteMatch::Route(route, param),
            Some(_) if route.method == "GET" => others.push("GET, HEAD"),
            Some(_) => others.push(route.method),
            None => {}
        }
    }
    match others.is_empty() {
        true => RouteMatch::NotFound,
        false => RouteMatch::OtherMethods(others.join(", ")),
    }
}

/// The error text for a path that no route has: the one that was meant, or those beside it.
pub(crate) fn suggestion(routes: &'static [Route], path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let plain = format!("/{}", segments.collect::<Vec<_>>().join("/"));
    let lower = plain.to_ascii_lowercase();
    // A client adds `/v1`, or leaves it out, for a base address that has it, or has it not.
    let from_v1 = |path: &str| path.rfind("/v1/").map(|at| path[at..].to_owned());
    let below_v1 = |path: &str| format!("/v1{path}");
    let meant = [&plain, &lower].map(|path| [from_v1(path), Some(below_v1(path))]);
    let meant = meant.into_iter().flatten().flatten();
    for meant in [plain.clone(), lower.clone()].into_iter().chain(meant) {
        let is_meant = |route: &Route| route.param(&meant).is_some();
        if meant != path && routes.iter().any(is_meant) {
            return format!("no route has this path; it is {meant}");
        }
    }
    let paths: Vec<_> = routes
        .iter()
        .map(|route| route.path)
        .filter(|path| is_below_v1(path))
        .collect();
    match is_below_v1(path) {
        true => format!(
            "no route has this path; below /v1 there are {}",
            paths.join(", ")
        ),
        false => "no route has this path".to_owned(),
    }
}
