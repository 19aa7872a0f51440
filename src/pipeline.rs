//! One request from top to bottom. The order is the text of [`run`]; there is no other place where it is decided.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Request, Response, StatusCode};
use tokio::time::timeout;

use crate::app::App;
use crate::auth::{PlainKey, Principal, Scope};
use crate::call::{Call, Content, Reply, ReplyBody};
use crate::error::{ApiError, ErrorCode};
use crate::handlers::dispatch;
use crate::limits::{Bucket, RateClass, Verdict, seconds_up};
use crate::routes::{Auth, BodyClass, Found, Method, Route, RouteId, find};

/// Answers one request, whatever happens.
pub(crate) async fn handle(
    app: Arc<App>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let request_id = request_id(&app, request.headers());
    let mut finish = Finish::begin(&app, request_id);
    let wanted = request.headers().get(IF_NONE_MATCH).cloned();
    let mut reply = match run(&app, peer.ip(), request, &mut finish).await {
        Ok(reply) => reply,
        Err(error) => refusal(&error, &finish.request_id),
    };
    reply.set(HeaderName::from_static("x-request-id"), &finish.request_id);
    reply.headers.insert(
        X_CONTENT_TYPE_OPTIONS,
        hyper::header::HeaderValue::from_static("nosniff"),
    );
    if let Some(verdict) = &finish.verdict {
        reply.set(
            HeaderName::from_static("ratelimit-policy"),
            &verdict.policy(),
        );
        reply.set(HeaderName::from_static("ratelimit"), &verdict.state());
    }
    if finish.key_id.is_some() || !reply.headers.contains_key(CACHE_CONTROL) {
        reply.set(CACHE_CONTROL, "no-store");
    }
    if let (Some(wanted), Some(tag)) = (wanted, reply.headers.get(ETAG))
        && matches_tag(wanted.as_bytes(), tag.as_bytes())
    {
        reply.status = StatusCode::NOT_MODIFIED;
        reply.headers.remove(CONTENT_TYPE);
        reply.content = Content::Bytes(Bytes::new());
    }
    finish.status = reply.status.as_u16();
    let mut response = Response::new(ReplyBody::new(reply.content, finish));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

async fn run(
    app: &Arc<App>,
    client: IpAddr,
    request: Request<Incoming>,
    finish: &mut Finish,
) -> Result<Reply, ApiError> {
    // Room.
    let place = Arc::clone(&app.in_flight).try_acquire_owned();
    let place = Arc::new(place.map_err(|_| {
        ApiError::new(
            ErrorCode::Overloaded,
            "the server works on as many requests as it can",
        )
    })?);
    let (head, body) = request.into_parts();

    // Route.
    let (route, part) = match find(head.method.as_str(), head.uri.path()) {
        Found::Route(route, part) => (route, part.to_owned()),
        Found::OtherMethods(allow) => {
            let detail = format!("this path answers to {allow}");
            return Err(ApiError {
                allow: Some(allow),
                ..ApiError::new(ErrorCode::MethodNotAllowed, detail)
            });
        }
        Found::Nothing => return Err(ApiError::new(ErrorCode::NotFound, "no route has this path")),
    };
    finish.route = route.path;
    finish.method = route.method.as_str();
    let query = head.uri.query().map(str::to_owned);
    if query.as_deref().is_some_and(holds_key) {
        let detail = "a key in a query string ends up in logs; send it as X-API-Key or Authorization: Bearer, and revoke this one";
        return Err(ApiError::new(ErrorCode::KeyInQuery, detail));
    }
    if app.is_draining() && route.rate != RateClass::Health {
        return Err(ApiError::new(
            ErrorCode::ShuttingDown,
            "the server is shutting down",
        ));
    }

    // Rate by address, before any hash or query.
    limit(app, finish, route.rate, client.into())?;

    // Who asks, and may they?
    let known = match route.auth {
        Auth::Open => None,
        _ => authenticate(app, &head.headers, client).await?,
    };
    if let Some(key) = &known {
        finish.key_id = Some(key.principal.key_id.clone());
        limit(app, finish, route.rate, key.bucket)?;
    }
    let principal = known.map(|key| key.principal);
    let public = app.config.public_reads() && !is_forwarded(&head.headers);
    authorize(route, &part, principal.as_ref(), public)?;

    // Body.
    let body = match route.body {
        BodyClass::None => Bytes::new(),
        class => {
            check_media_type(&head.headers, principal.is_some())?;
            read_body(app, class, body).await?
        }
    };

    // Handler.
    let call = Call {
        route,
        part,
        query,
        headers: head.headers,
        body,
        principal,
        place,
    };
    let answer = answer(app, call);
    if route.id == RouteId::Chat {
        // A chat has deadlines of its own, between texts.
        return answer.await;
    }
    let late = |_| ApiError::new(ErrorCode::Overloaded, "the answer was not ready in time");
    timeout(app.config.limits.request_timeout, answer)
        .await
        .map_err(late)?
}

/// Runs the handler. What changes something runs in a task of its own: hyper drops this future when the client leaves,
/// and nobody may come between a commit and the invalidation that follows it.
async fn answer(app: &Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let (changes, app) = (
        call.route.method != Method::Get && call.route.id != RouteId::Chat,
        Arc::clone(app),
    );
    let panicked = || ApiError::internal("a handler panicked");
    if changes {
        return tokio::spawn(dispatch(app, call))
            .await
            .unwrap_or_else(|_| Err(panicked()));
    }
    let mut handler = pin!(dispatch(app, call));
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

fn limit(app: &App, finish: &mut Finish, class: RateClass, bucket: Bucket) -> Result<(), ApiError> {
    let Some(verdict) = app.limits.check(class, bucket) else {
        return Ok(());
    };
    finish.verdict = Some(verdict);
    if verdict.retry_after.is_some() {
        app.metrics.limited(class);
        return Err(verdict.into());
    }
    Ok(())
}

struct KnownKey {
    principal: Principal,
    bucket: Bucket,
}

/// Header, checksum, hash, cache, store. `None` where no key was sent.
async fn authenticate(
    app: &App,
    headers: &HeaderMap,
    client: IpAddr,
) -> Result<Option<KnownKey>, ApiError> {
    let Some(text) = credentials(headers) else {
        return Ok(None);
    };
    let refused = |code, detail| {
        app.metrics.auth_failed();
        Err(ApiError::new(code, detail))
    };
    let Some(hash) = text
        .to_str()
        .ok()
        .and_then(PlainKey::parse)
        .map(|key| key.hash())
    else {
        return refused(
            ErrorCode::InvalidApiKey,
            "this is no API key of this server (r3mes_ and 49 characters, the last 6 a checksum)",
        );
    };
    let key = match app.keys.get(&hash) {
        Some(key) => key,
        None => {
            // Counted before the look-up, so that guessing costs the guesser and not the file.
            if let Some(verdict) = app
                .limits
                .check(RateClass::Failures, client)
                .filter(|verdict| verdict.retry_after.is_some())
            {
                app.metrics.limited(RateClass::Failures);
                return Err(verdict.into());
            }
            let generation = app.keys.generation();
            match app.store.key_by_hash(hash).await? {
                Some(record) => app.keys.insert(record, generation),
                None => return refused(ErrorCode::InvalidApiKey, "no such key"),
            }
        }
    };
    let now = app.clock.now();
    if key.record.revoked_at.is_some() {
        return refused(ErrorCode::InvalidApiKey, "this key was revoked");
    }
    if key.record.is_expired(now) {
        return refused(ErrorCode::ExpiredApiKey, "this key has expired");
    }
    key.touch(now);
    Ok(Some(KnownKey {
        principal: Principal::from(&key.record),
        bucket: Bucket::from(&hash),
    }))
}

/// The key as it was sent; `X-API-Key` wins.
fn credentials(headers: &HeaderMap) -> Option<hyper::header::HeaderValue> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.clone());
    }
    let value = headers.get(AUTHORIZATION)?;
    let (scheme, key) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") {
        return hyper::header::HeaderValue::from_str(key.trim()).ok();
    }
    // Another scheme: credentials, but none that open anything here.
    Some(value.clone())
}

fn authorize(
    route: &Route,
    part: &str,
    principal: Option<&Principal>,
    public: bool,
) -> Result<(), ApiError> {
    let missing = || {
        ApiError::new(
            ErrorCode::MissingCredentials,
            "send a key as X-API-Key or Authorization: Bearer",
        )
    };
    let forbidden = |detail: String| Err(ApiError::new(ErrorCode::Forbidden, detail));
    let needs = |scope: Scope| -> Result<&Principal, ApiError> {
        let principal = principal.ok_or_else(missing)?;
        if principal.is_admin() || principal.scopes.contains(scope) {
            return Ok(principal);
        }
        Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("this needs a key with the scope {}", scope.as_str()),
        ))
    };
    let of_the_wallet = |principal: &Principal| {
        let named = route.path.contains("{wallet}");
        let own = principal.is_admin()
            || principal
                .wallet
                .is_some_and(|wallet| wallet.as_str() == part);
        if named && !own {
            forbidden("this key belongs to another wallet".to_owned())
        } else {
            Ok(())
        }
    };
    match route.auth {
        Auth::Open => Ok(()),
        Auth::Public | Auth::PublicElseAdmin if public => Ok(()),
        Auth::Public | Auth::Own(Scope::Read) => of_the_wallet(needs(Scope::Read)?),
        Auth::Own(scope) => of_the_wallet(needs(scope)?),
        Auth::PublicElseAdmin | Auth::Admin => needs(Scope::Admin).map(drop),
        Auth::Key(scope) => needs(scope).map(drop),
        Auth::AnyKey => principal.map(drop).ok_or_else(missing),
        Auth::Chat if principal.is_none() => Ok(()),
        Auth::Chat => needs(Scope::Chat).map(drop),
    }
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
    };
    match timeout(limits.body_timeout, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("a body may have {most} bytes here"),
        )),
        Ok(Err(error)) => Err(
            ApiError::new(ErrorCode::InvalidRequest, "the body broke off")
                .for_the_log(error.to_string()),
        ),
        Err(_) => Err(ApiError::new(
            ErrorCode::RequestTimeout,
            "the body did not come in time",
        )),
    }
}

fn refusal(error: &ApiError, request_id: &str) -> Reply {
    if let Some(internal) = &error.internal {
        log::error!("{request_id} {}: {internal}", error.code.as_str());
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
    if status == StatusCode::UNAUTHORIZED {
        reply.set(WWW_AUTHENTICATE, "Bearer realm=\"r3mes-edge\"");
    }
    reply
}

fn request_id(app: &App, headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let sent = headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok());
    match sent.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(plain)) {
        Some(id) => id.to_owned(),
        None => app.ids.make("req_", app.clock.now()),
    }
}

fn holds_key(query: &str) -> bool {
    let names = [
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
        "access_token",
        "token",
        "key",
    ];
    let named = |pair: &str| {
        names.contains(
            &pair
                .split('=')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
                .as_str(),
        )
    };
    query.contains(PlainKey::PREFIX) || query.split('&').any(named)
}

/// Whether somebody else's request was passed on to us: then the peer's being local says nothing.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// `If-None-Match` (RFC 9110, 13.1.2): a list of tags, compared weakly, or `*`.
fn matches_tag(wanted: &[u8], tag: &[u8]) -> bool {
    let wanted = wanted.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    wanted
        .map(|one| one.strip_prefix(b"W/").unwrap_or(one))
        .any(|one| one == tag || one == b"*")
}

/// What is known of a request at its end. Dropped, it counts the request and writes its line: when hyper is done with
/// the answer, or, with the status still 499, when the client left before there was one.
pub(crate) struct Finish {
    app: Arc<App>,
    started: Instant,
    request_id: String,
    route: &'static str,
    method: &'static str,
    status: u16,
    key_id: Option<String>,
    verdict: Option<Verdict>,
}

impl Finish {
    fn begin(app: &Arc<App>, request_id: String) -> Self {
        let (app, started) = (Arc::clone(app), Instant::now());
        Self {
            app,
            started,
            request_id,
            route: "none",
            method: "none",
            status: 499,
            key_id: None,
            verdict: None,
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.app
            .metrics
            .request(self.route, self.method, self.status, took);
        // The route's template, never the path: what a client sends by mistake may be a key.
        log::info!(
            "{} {} {} {:.1}ms {} {}",
            self.method,
            self.route,
            self.status,
            took.as_secs_f64() * 1000.0,
            self.request_id,
            self.key_id.as_deref().unwrap_or("-"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_a_list() {
        assert!(matches_tag(b"\"a\", W/\"b\"", b"\"b\""));
        assert!(matches_tag(b"*", b"\"b\""));
        assert!(!matches_tag(b"\"a\",\"bc\"", b"\"b\""));
    }

    #[test]
    fn a_key_in_a_query_is_noticed_by_its_name_or_its_look() {
        for query in ["api_key=x", "a=b&Token=x", "q=r3mes_abc", "KEY"] {
            assert!(holds_key(query), "{query}");
        }
        assert!(!holds_key("limit=5&cursor=key_01J"));
    }
}
