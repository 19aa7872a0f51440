//! One request from top to bottom. The order is the text of [`run`]; there is no other place where it is decided.

mod access_log;
mod body;
mod gate;
mod host_routes;
mod origin;

use access_log::AccessLogGuard;
pub(crate) use body::{Exchange, ReplyBody};
pub use host_routes::Caller;
pub(crate) use host_routes::{HostBody, HostRoutes};

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::app::App;
use crate::auth::Principal;
use crate::body::Unread;
use crate::call::{Call, Content, Reply};
use crate::config::Peer;
use crate::error::{ApiError, ErrorCode};
use crate::handlers::dispatch;
use crate::limits::{Bucket, RateClass, seconds_up};
use crate::metrics::ROUTE;
use crate::model::{InputError, new_id};
use crate::routes::{Auth, BodyClass, MatchedRoute, Method, RouteId, RouteMatch, find};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers one request, whatever happens; `exchange` tells the connection's socket of it.
///
/// Here and below, what is awaited is kept small, as hyper copies it for each request: an `async fn` keeps its arguments
/// twice (<https://github.com/rust-lang/rust/issues/62958>), and what few requests need is in a box.
pub(crate) fn handle(
    app: Arc<App>,
    peer: Peer,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> + Send {
    let (head, body) = request.into_parts();
    async move {
        let request_id = request_id(&head.headers);
        let mut finish = AccessLogGuard::begin(&app, request_id);
        let wanted = head.headers.get(IF_NONE_MATCH).cloned();
        let has_body = !body.is_end_stream();
        let is_http_1_0 = head.version == Version::HTTP_10 && head.method != hyper::Method::HEAD;
        let reply = run(&app, peer, head, body, &mut finish)
            .await
            .unwrap_or_else(|error| error_response(&error, &finish.request_id));
        let mut response = finished(reply, wanted.as_ref(), finish);
        let is_refusal = !response.status().is_success();
        let refused = has_body && is_refusal;
        exchange.refused.store(refused, Ordering::Relaxed);
        let bodiless = matches!(response.status().as_u16(), 204 | 304);
        let body = response.body_mut();
        if is_http_1_0 && !bodiless && !body.is_end_stream() && body.size_hint().exact().is_none() {
            exchange.unfinished.store(true, Ordering::Relaxed);
        }
        body.exchange = Some(exchange);
        Ok(response)
    }
}

/// The answer with what every answer has.
fn finished(
    mut reply: Reply,
    wanted: Option<&HeaderValue>,
    mut finish: Box<AccessLogGuard>,
) -> Response<ReplyBody> {
    reply.set(X_REQUEST_ID.clone(), &finish.request_id);
    reply
        .headers
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(verdict) = &finish.verdict {
        let name = HeaderName::from_static("ratelimit-policy");
        reply.headers.insert(name, verdict.policy().clone());
        reply.set_made(HeaderName::from_static("ratelimit"), verdict.state());
    }
    if let Some(origin) = finish.origin.take() {
        origin::allow(&mut reply.headers, origin);
    }
    if finish.key_id.is_some() || !reply.headers.contains_key(CACHE_CONTROL) {
        let no_store = HeaderValue::from_static("no-store");
        reply.headers.insert(CACHE_CONTROL, no_store);
    }
    if let (Some(wanted), Some(tag)) = (wanted, reply.headers.get(ETAG))
        && matches_tag(wanted.as_bytes(), tag.as_bytes())
    {
        reply.status = StatusCode::NOT_MODIFIED;
        reply.headers.remove(CONTENT_TYPE);
        reply.content = Content::Bytes(Bytes::new());
    }
    finish.status = Some(reply.status.as_u16());
    finish.ready = Some(finish.server_time());
    let mut response = Response::new(ReplyBody::new(reply.content, finish));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

async fn run(
    app: &Arc<App>,
    peer: Peer,
    head: Parts,
    body: Incoming,
    finish: &mut AccessLogGuard,
) -> Result<Reply, ApiError> {
    // Where from.
    let client = origin::client_address(&app.config, peer, &head.headers);
    origin::check_host(&app.config, &head)?;
    finish.origin = origin::check_origin(&app.config, &head)?;

    // Route.
    let (route, part) = match find(head.method.as_str(), head.uri.path()) {
        RouteMatch::Route(route, part) => (route, part.to_owned()),
        RouteMatch::OtherMethods(allow) if head.method == hyper::Method::OPTIONS => {
            let mut reply = Reply::bytes(StatusCode::NO_CONTENT, "text/plain", Bytes::new());
            reply.headers.remove(CONTENT_TYPE);
            reply.set(ALLOW, &allow);
            if finish.origin.is_some() {
                for (name, value) in origin::preflight(&allow) {
                    reply.set(name, &value);
                }
            }
            return Ok(reply);
        }
        RouteMatch::OtherMethods(allow) => {
            let detail = format!("this path answers to {allow}");
            return Err(ApiError {
                allow: Some(allow),
                ..ApiError::new(ErrorCode::MethodNotAllowed, detail)
            });
        }
        RouteMatch::Nothing => {
            let Some(own) = app.own.iter().find(|own| own.has(head.uri.path())) else {
                return Err(ApiError::new(ErrorCode::NotFound, "no route has this path"));
            };
            finish.reached = MatchedRoute::Own;
            return Box::pin(answer_own(app, own, client, head, body, finish)).await;
        }
    };
    finish.reached = MatchedRoute::Route(route);
    admit(app, &head, route.rate, client, finish)?;

    // Who asks, and may they?
    let principal = match route.auth {
        Auth::Open => None,
        _ => identify(app, &head, route.rate, client, finish).await?,
    };
    gate::authorize(&app.config, &head, route, &part, principal.as_ref())?;

    // Body.
    let body = match route.body {
        BodyClass::None => Bytes::new(),
        class => {
            check_media_type(&head.headers, principal.is_some())?;
            let sending = finish.trace.sending(&app.clock);
            let read = Box::pin(read_body(app, class, body)).await;
            drop(sending);
            read.map_err(|error| ApiError {
                close: true,
                ..error
            })?
        }
    };

    // Room. Not before: whoever takes his time over his body would keep others out.
    let place = Arc::new(place(app)?);

    // Handler.
    let call = Call {
        route,
        part,
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        principal,
        place,
        trace: Arc::clone(&finish.trace),
    };
    let answer = answer(app, call);
    let is_long = matches!(route.id, RouteId::BackUp | RouteId::VerifyLedger);
    if route.rate == RateClass::Chat || is_long {
        // A chat has deadlines of its own, between texts; what goes over the whole file takes as long as that is large.
        return answer.await;
    }
    in_time(app, answer).await
}

/// What is none of ours goes the same way as far as it goes; who may call it is for the host to say.
async fn answer_own(
    app: &Arc<App>,
    own: &HostRoutes,
    client: IpAddr,
    mut head: Parts,
    body: Incoming,
    finish: &mut AccessLogGuard,
) -> Result<Reply, ApiError> {
    admit(app, &head, RateClass::Read, client, finish)?;
    let principal = identify(app, &head, RateClass::Read, client, finish).await?;
    head.extensions.insert(Caller {
        address: client,
        request_id: finish.request_id.clone(),
        principal,
    });
    let request = Request::from_parts(head, body);
    in_time(app, own.answer(request, place(app)?)).await
}

/// Lets a request in, by what can be seen before any hash or query: its query string, the shutdown, its client's rate.
fn admit(
    app: &App,
    head: &Parts,
    class: RateClass,
    client: IpAddr,
    finish: &mut AccessLogGuard,
) -> Result<(), ApiError> {
    if head.uri.query().is_some_and(gate::holds_key) {
        let detail = "a key in a query string ends up in logs; send it as X-API-Key or Authorization: Bearer, and revoke this one";
        return Err(ApiError::new(ErrorCode::KeyInQuery, detail));
    }
    if app.is_draining() && class != RateClass::Health {
        return Err(ApiError::shutting_down());
    }
    limit(app, finish, class, client.into())
}

/// Whose key was sent, if one was; it has a rate of its own.
async fn identify(
    app: &App,
    head: &Parts,
    class: RateClass,
    client: IpAddr,
    finish: &mut AccessLogGuard,
) -> Result<Option<Principal>, ApiError> {
    let key = gate::authenticate(app, &head.headers, client, &mut finish.verdict).await?;
    let Some(key) = key else {
        return Ok(None);
    };
    finish.key_id = Some(key.principal.key_id.clone());
    finish.wallet = key.principal.wallet;
    limit(app, finish, class, key.bucket)?;
    Ok(Some(key.principal))
}

/// A place among the requests in flight.
fn place(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    let place = Arc::clone(&app.in_flight).try_acquire_owned();
    place.map_err(|_| {
        ApiError::new(
            ErrorCode::Overloaded,
            "the server works on as many requests as it can",
        )
    })
}

async fn in_time(
    app: &App,
    answer: impl Future<Output = Result<Reply, ApiError>>,
) -> Result<Reply, ApiError> {
    let mut answer = pin!(answer);
    // Most are there at once, and need no timer.
    if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await
    {
        return answer;
    }
    let late = |_| ApiError::new(ErrorCode::Overloaded, "request timed out on the server");
    timeout(app.config.limits.request_timeout, answer)
        .await
        .map_err(late)?
}

/// Runs the handler. What changes something runs in a task of its own: hyper drops this future when the client leaves,
/// and nobody may come between a commit and the invalidation that follows it.
fn answer(
    app: &Arc<App>,
    call: Call,
) -> impl Future<Output = Result<Reply, ApiError>> + Send + use<> {
    let changes = call.route.method != Method::Get && call.route.rate != RateClass::Chat;
    let route = call.route.id;
    // It is as large as the largest of the handlers.
    let mut handler = Box::pin(ROUTE.scope(route, dispatch(Arc::clone(app), call)));
    let panicked = || ApiError::internal("a handler panicked");
    async move {
        if changes {
            return tokio::spawn(handler)
                .await
                .unwrap_or_else(|_| Err(panicked()));
        }
        poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context)));
            polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
        })
        .await
    }
}

fn limit(
    app: &App,
    finish: &mut AccessLogGuard,
    class: RateClass,
    bucket: Bucket,
) -> Result<(), ApiError> {
    let Some(verdict) = app.limits.check(class, bucket) else {
        return Ok(());
    };
    let verdict = finish.verdict.insert(verdict);
    if verdict.retry_after.is_some() {
        app.metrics.limited(class);
        return Err((&*verdict).into());
    }
    Ok(())
}

/// With a key sent, a body is read as JSON whatever its type, so that `curl -d` works. Without one it must say so:
/// a web page can make a browser send any other type to this address unasked.
fn check_media_type(headers: &HeaderMap, has_key: bool) -> Result<(), ApiError> {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default().trim();
    if has_key || media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::UnsupportedMediaType,
        "without a key, send the body as Content-Type: application/json",
    ))
}

async fn read_body(app: &App, class: BodyClass, body: Incoming) -> Result<Bytes, ApiError> {
    let limits = &app.config.limits;
    let most = match class {
        BodyClass::None => 0,
        BodyClass::Common => limits.body,
        BodyClass::Telemetry => limits.telemetry_body,
        BodyClass::Chat => limits.chat_body,
        BodyClass::V1 => limits.v1_body,
    };
    let too_large = || {
        ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("a body may have {most} bytes here"),
        )
    };
    // One that says so in its head is not read at all.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let read = tokio::select! {
        biased;
        read = timeout(limits.body_timeout, crate::body::read(body, most)) => read,
        // Nothing is done of it yet.
        () = app.past_waiting() => return Err(ApiError::shutting_down()),
    };
    match read {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(Unread::TooLong)) => Err(too_large()),
        Ok(Err(Unread::Broken(error))) => {
            let broke_off = ApiError::from(InputError::field("", "the body broke off"));
            Err(broke_off.for_the_log(error.to_string()))
        }
        Err(_) => Err(ApiError::new(
            ErrorCode::RequestTimeout,
            "the body did not come in time",
        )),
    }
}

fn error_response(error: &ApiError, request_id: &str) -> Reply {
    if let Some(internal) = &error.internal {
        // A client's fault is no news to an operator, and must not fill the log.
        let level = if error.code.status() >= 500 {
            log::Level::Error
        } else {
            log::Level::Debug
        };
        log::log!(level, "{request_id} {}: {internal}", error.code.as_str());
    }
    let status =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::bytes(
        status,
        "application/problem+json",
        error.body(request_id).into(),
    );
    if let Some(wait) = error.retry_after {
        reply.set(RETRY_AFTER, &seconds_up(wait).max(1).to_string());
    }
    if let Some(allow) = &error.allow {
        reply.set(ALLOW, allow);
    }
    if error.close {
        reply.set(CONNECTION, "close");
    }
    if status == StatusCode::UNAUTHORIZED {
        reply.set(WWW_AUTHENTICATE, "Bearer realm=\"r3mes-edge\"");
    }
    reply
}

fn request_id(headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let sent = headers
        .get(&X_REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    match sent.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(plain)) {
        Some(id) => id.to_owned(),
        None => new_id("req_"),
    }
}

/// `If-None-Match` (RFC 9110, 13.1.2): a list of tags, compared weakly, or `*`.
fn matches_tag(wanted: &[u8], tag: &[u8]) -> bool {
    let wanted = wanted.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    wanted
        .map(|one| one.strip_prefix(b"W/").unwrap_or(one))
        .any(|one| one == tag || one == b"*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tags_are_compared_as_a_list() {
        assert!(matches_tag(b"\"a\", W/\"b\"", b"\"b\""));
        assert!(matches_tag(b"*", b"\"b\""));
        assert!(!matches_tag(b"\"a\",\"bc\"", b"\"b\""));
    }

    proptest! {
        #[test]
        fn a_tag_is_found_exactly_where_the_list_holds_it(tags in prop::collection::vec("[0-9a-f]{1,2}", 0..5), wanted in "[0-9a-f]{1,2}", before in "( |\t|W/| W/){0,1}", junk in prop::collection::vec(any::<u8>(), 0..40)) {
            let list: Vec<String> = tags.iter().map(|tag| format!("{before}\"{tag}\"")).collect();
            let tag = format!("\"{wanted}\"");
            prop_assert_eq!(matches_tag(list.join(",").as_bytes(), tag.as_bytes()), tags.contains(&wanted));
            matches_tag(&junk, tag.as_bytes());
        }
    }
}
