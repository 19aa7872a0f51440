//! One request from top to bottom: the order of its checks is the text of [`respond`], and decided nowhere else.

mod access_log;
mod api_key;
mod auth;
mod body;
mod context;
mod origin;
mod request_body;
pub(crate) mod response;
pub(crate) mod route;

pub use api_key::AuthError;
pub(crate) use api_key::authenticate;
pub(crate) use body::{Exchange, ResponseBody};
pub(crate) use context::Context;
pub(crate) use response::Response;

/// What a request ends in.
pub(crate) type Result<T = Response, E = ApiError> = std::result::Result<T, E>;

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, EXPECT,
    HeaderName, HeaderValue, IF_NONE_MATCH, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use self::access_log::AccessLogGuard;
use self::route::{Auth, BodyClass, Route, RouteMatch};
use crate::app::App;
use crate::config::Peer;
use crate::error::{ApiError, ErrorCode};
use crate::host_routes::{Caller, HostRoutes};
use crate::limits::{Bucket, Decision, RateClass};
use crate::metrics::{ROUTE, RouteSlot, with};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers a request of a connection, of which `exchange` informs its socket.
///
/// Here and below the futures are kept small, as hyper copies them for each request: an `async fn` keeps its arguments
/// twice (<https://github.com/rust-lang/rust/issues/62958>), and what few requests need is in a box.
pub(crate) fn handle(
    app: Arc<App>,
    routes: &'static [Route],
    peer: Peer,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<hyper::Response<ResponseBody>, Infallible>> + Send {
    let (head, body) = request.into_parts();
    async move {
        let mut log_guard = AccessLogGuard::new(&app, sent_request_id(&head.headers));
        // Several lines of it are one list.
        let if_none_match = head.headers.get_all(IF_NONE_MATCH).iter();
        let if_none_match: Vec<_> = if_none_match.cloned().collect();
        let has_body = !body.is_end_stream();
        // A client that waits for 100 Continue may send the body after a refusal, or not.
        let waits = head.headers.contains_key(EXPECT);
        let mut body = Some(body);
        let is_http_1_0 = head.version == Version::HTTP_10;
        let is_anthropic = is_anthropic(head.uri.path());
        let response = respond(
            &app,
            routes,
            peer,
            head,
            &mut body,
            &exchange,
            &mut log_guard,
        )
        .await
        .unwrap_or_else(|error| {
            log_guard.error = Some(error.code);
            response::error_response(error, &log_guard.request_id, is_anthropic)
        });
        let is_unread = match body.filter(|_| has_body) {
            Some(body) if !waits => {
                let _receiving = log_guard.timings.receiving(&app.clock);
                !Box::pin(request_body::drain(body)).await
            }
            unread => unread.is_some(),
        };
        let mut response = finalize_response(&app, response, &if_none_match, &mut log_guard);
        if is_unread {
            // hyper closes the connection, and a client's next request would get no answer.
            response::set(response.headers_mut(), CONNECTION, "close");
        }
        if is_anthropic {
            let request_id = log_guard.request_id.clone();
            let name = HeaderName::from_static("request-id");
            response::set(response.headers_mut(), name, request_id);
        }
        let refused = is_unread || has_body && !response.status().is_success();
        exchange.refused.store(refused, Ordering::Relaxed);
        exchange.responding.store(true, Ordering::Relaxed);
        Ok(response.map(|content| ResponseBody {
            content,
            log_guard,
            exchange,
            is_http_1_0,
            failed: false,
        }))
    }
}

/// Whether a path is of Anthropic's API, whose clients read errors in another shape.
fn is_anthropic(path: &str) -> bool {
    let rest = path.trim_start_matches('/').strip_prefix("v1/messages");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds the headers of every response.
fn finalize_response(
    app: &App,
    mut response: Response,
    if_none_match: &[HeaderValue],
    log_guard: &mut AccessLogGuard,
) -> Response {
    let headers = response.headers_mut();
    let request_id = log_guard.request_id.clone();
    response::set(headers, X_REQUEST_ID.clone(), request_id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(rate) = &log_guard.rate {
        headers.insert("ratelimit-policy", rate.policy().clone());
        response::set(headers, HeaderName::from_static("ratelimit"), rate.state());
    }
    if let Some(origin) = log_guard.origin.take() {
        origin::allow_origin(headers, origin);
    }
    if !app.config.auth.cors_origins.is_empty() {
        // In answers to requests without an Origin too: a cache must not give them to a page.
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    if log_guard.principal.is_some() || !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let mut lists = if_none_match.iter();
    if let Some(tag) = headers.get(ETAG)
        && lists.any(|list| response::matches_tag(list.as_bytes(), tag.as_bytes()))
    {
        headers.remove(CONTENT_TYPE);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = response::Content::default();
    }
    log_guard.response = Some((response.status().as_u16(), log_guard.server_time()));
    response
}

async fn respond(
    app: &Arc<App>,
    routes: &'static [Route],
    peer: Peer,
    head: Parts,
    body: &mut Option<Incoming>,
    exchange: &Exchange,
    log_guard: &mut AccessLogGuard,
) -> Result {
    // Origin and route. What is refused here has a rate of its own: no page of another origin uses up the operator's.
    let client = origin::client_address(&app.config, peer, &head.headers);
    let target = match target(app, routes, &head, log_guard) {
        Ok(target) => target,
        Err(refusal) => {
            limit(app, &mut log_guard.rate, RateClass::Refused, client.into())?;
            return Err(refusal);
        }
    };
    let (rate, is_open, while_draining) = match &target {
        Target::Row(route, _) => (route.rate, route.auth == Auth::Open, route.while_draining),
        Target::Host(_) => (RateClass::Read, false, false),
        Target::Options(_) if log_guard.origin.is_some() => (RateClass::Read, true, false),
        Target::Options(_) => (RateClass::Refused, true, false),
    };
    if app.shutdown.is_draining() && !while_draining {
        return Err(ApiError::shutting_down());
    }
    // A body has to come whole first.
    let (row, version) = (log_guard.route, head.version);
    let outlast = || exchange.outlast(row, version);
    if body.as_ref().is_none_or(Body::is_end_stream) {
        outlast();
    }
    limit(app, &mut log_guard.rate, rate, client.into())?;
    // Before anything that costs a hash or a query.
    if head.uri.query().is_some_and(auth::holds_key) {
        let detail = "a key in a query string ends up in logs; send it as X-API-Key or Authorization: Bearer, and revoke this one";
        return Err(ApiError::new(ErrorCode::KeyInQuery, detail));
    }

    // Authentication.
    let (principal, concurrency) = match is_open {
        true => (None, None),
        false => auth::authenticate(app, &head, rate, client, log_guard).await?,
    };
    let (route, path_param) = match target {
        Target::Row(route, path_param) => (route, path_param),
        Target::Options(allow) => {
            let requested = head.headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS);
            let requested = requested.iter().cloned().collect();
            return Ok(options(
                allow,
                log_guard.origin.is_some().then_some(requested),
            ));
        }
        // The host decides who may call it, and reads the body.
        Target::Host(host) => {
            let caller = Caller {
                address: client,
                request_id: log_guard.request_id.clone(),
                principal,
            };
            let permit = in_flight_permit(app)?;
            let mut request = Request::from_parts(head, taken(body)?);
            request.extensions_mut().insert(caller);
            let response = Box::pin(host.call(request, permit));
            return within_timeout(app, catch_panic(response)).await;
        }
    };
    auth::authorize(&app.config, &head, route, &path_param, principal.as_ref())?;
    let query = head.uri.query().unwrap_or_default();
    if route.no_query && !query.is_empty() {
        let name = query.split(['=', '&']).next().unwrap_or_default();
        return Err(ApiError::parameter(name, "is an unknown parameter"));
    }

    // Body.
    let body = match route.body {
        BodyClass::None => Bytes::new(),
        class => {
            request_body::check_content_coding(&head.headers)?;
            request_body::check_media_type(&head.headers, principal.is_some())?;
            let receiving = log_guard.timings.receiving(&app.clock);
            let read = Box::pin(request_body::read(app, class, taken(body)?)).await;
            drop(receiving);
            outlast();
            read.map_err(|error| ApiError {
                header: Some(Box::new((CONNECTION, "close".to_owned()))),
                ..error
            })?
        }
    };

    // Handler. Its permit comes last: a client that is slow to send its body must not hold one.
    let context = Context {
        app: Arc::clone(app),
        route,
        operation: log_guard.operation,
        client,
        path_param,
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        principal,
        permit: Arc::new(in_flight_permit(app)?),
        concurrency: concurrency.map(Arc::new),
        timings: Arc::clone(&log_guard.timings),
    };
    let slot = RouteSlot::of(route.index);
    let handler = Box::pin(ROUTE.scope(slot, (route.handler)(context)));
    let response = async {
        match route.detached {
            true => tokio::spawn(handler)
                .await
                .unwrap_or_else(|_| Err(panicked())),
            false => catch_panic(handler).await,
        }
    };
    match route.unbounded {
        true => response.await,
        false => within_timeout(app, response).await,
    }
}

/// The body, for its one reader; an unread one is drained.
fn taken(body: &mut Option<Incoming>) -> Result<Incoming> {
    body.take()
        .ok_or_else(|| ApiError::internal("a body was read twice"))
}

/// What answers a request.
enum Target<'a> {
    /// A row of the routes table, with the value of its path parameter.
    Row(&'static Route, String),
    Host(&'a HostRoutes),
    /// OPTIONS of a path, with its other methods.
    Options(String),
}

/// Finds what answers a request that comes from where it may.
fn target<'a>(
    app: &'a App,
    routes: &'static [Route],
    head: &Parts,
    log_guard: &mut AccessLogGuard,
) -> Result<Target<'a>> {
    origin::check_host(&app.config, head)?;
    log_guard.origin = origin::check_origin(&app.config, head)?;
    if log_guard.origin.is_none() {
        origin::check_site(head)?;
    }
    request_body::check_transfer_coding(&head.headers)?;
    match route::find(routes, head.method.as_str(), head.uri.path()) {
        RouteMatch::Route(route, path_param) => {
            log_guard.route = Some(route);
            Ok(Target::Row(route, path_param.to_owned()))
        }
        RouteMatch::OtherMethods(allow) if head.method == hyper::Method::OPTIONS => {
            Ok(Target::Options(allow))
        }
        RouteMatch::OtherMethods(allow) => {
            let detail = format!("this path answers to {allow}");
            Err(ApiError {
                header: Some(Box::new((ALLOW, allow))),
                ..ApiError::new(ErrorCode::MethodNotAllowed, detail)
            })
        }
        RouteMatch::NotFound => {
            let mut hosts = app.own.iter();
            let Some(host) = hosts.find(|host| host.matches(head.uri.path())) else {
                let detail = route::suggestion(routes, head.uri.path());
                return Err(ApiError::new(ErrorCode::NotFound, detail));
            };
            log_guard.is_host = true;
            Ok(Target::Host(host))
        }
    }
}

/// Answers OPTIONS; a preflight where the page's origin is an allowed one.
fn options(allow: String, requested: Option<Vec<HeaderValue>>) -> Response {
    let mut response = response::bytes(StatusCode::NO_CONTENT, "", Bytes::new());
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    response::set(headers, ALLOW, allow);
    if let Some(requested) = requested {
        origin::allow_preflight(headers, &requested);
    }
    response
}

/// Counts a request; `shown` is the budget that the response shows.
fn limit(app: &App, shown: &mut Option<Decision>, class: RateClass, bucket: Bucket) -> Result<()> {
    let Some(decision) = app.limits().check(class, bucket) else {
        return Ok(());
    };
    let error = decision.retry_after.map(|_| ApiError::from(&decision));
    // The budgets of failures and refusals are shown when they are spent.
    if error.is_some() || !matches!(class, RateClass::Failures | RateClass::Refused) {
        *shown = Some(decision);
    }
    error.map_or(Ok(()), |error| {
        with(&app.metrics.table.limited, [("class", class.as_str())]).inc();
        Err(error)
    })
}

fn in_flight_permit(app: &App) -> Result<OwnedSemaphorePermit> {
    let permit = Arc::clone(&app.in_flight).try_acquire_owned();
    let detail = "too many requests in flight; retry shortly";
    permit.map_err(|_| ApiError::new(ErrorCode::Overloaded, detail))
}

async fn within_timeout(app: &App, response: impl Future<Output = Result>) -> Result {
    let late = |_| ApiError::new(ErrorCode::Overloaded, "request timed out on the server");
    timeout(app.config.limits.request_timeout, response)
        .await
        .map_err(late)?
}

async fn catch_panic(mut handler: impl Future<Output = Result> + Unpin) -> Result {
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut handler).poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

fn panicked() -> ApiError {
    ApiError::internal("a handler panicked")
}

/// The request id that the client sent, if it is a plain word.
fn sent_request_id(headers: &HeaderMap) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let sent = headers.get(&X_REQUEST_ID).and_then(|id| id.to_str().ok());
    sent.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(plain))
}
