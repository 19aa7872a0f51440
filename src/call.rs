//! What a handler sees of a request, and what it may answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Principal;
use crate::cache::{Cached, Policy};
use crate::clock::Clock;
use crate::error::{ApiError, ErrorCode};
use crate::model::{Wallet, check_depth};
use crate::pipeline::HostBody;
use crate::routes::Route;
use crate::store::{Kept, Once, StoreError};
use crate::stream::ModelStream;

/// What is measured of a request on its way.
#[derive(Debug)]
pub(crate) struct RequestTimings {
    started: Instant,
    waited_nanos: AtomicU64,
    sent_nanos: AtomicU64,
}

impl RequestTimings {
    pub(crate) fn begin(clock: &Clock) -> Self {
        Self {
            started: clock.instant(),
            waited_nanos: AtomicU64::new(0),
            sent_nanos: AtomicU64::new(0),
        }
    }

    /// Since the request's head was read.
    pub(crate) fn elapsed(&self, clock: &Clock) -> Duration {
        clock.instant().saturating_duration_since(self.started)
    }

    /// How much of it was spent waiting for an upstream, or for a place there.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }

    /// Since the request's head was read, without the time that its client took to send the body.
    pub(crate) fn server_time(&self, clock: &Clock) -> Duration {
        let sent = Duration::from_nanos(self.sent_nanos.load(Ordering::Relaxed));
        self.elapsed(clock).saturating_sub(sent)
    }

    /// Counts the time until what is returned is dropped as a wait for an upstream.
    pub(crate) fn waiting<'a>(&'a self, clock: &'a Clock) -> TimingGuard<'a> {
        TimingGuard::begin(&self.waited_nanos, clock)
    }

    /// The same for the client's body.
    pub(crate) fn sending<'a>(&'a self, clock: &'a Clock) -> TimingGuard<'a> {
        TimingGuard::begin(&self.sent_nanos, clock)
    }
}

/// A wait whose time counts.
pub(crate) struct TimingGuard<'a> {
    nanos: &'a AtomicU64,
    clock: &'a Clock,
    began: Instant,
}

impl<'a> TimingGuard<'a> {
    fn begin(nanos: &'a AtomicU64, clock: &'a Clock) -> Self {
        Self {
            nanos,
            clock,
            began: clock.instant(),
        }
    }
}

impl Drop for TimingGuard<'_> {
    fn drop(&mut self) {
        let took = self.clock.instant().saturating_duration_since(self.began);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A request whose way through the pipeline is done: routed, within its rates, its caller known, its body read.
pub(crate) struct Call {
    pub(crate) route: &'static Route,
    /// What the braces of the route's path matched.
    pub(crate) part: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) principal: Option<Principal>,
    /// The request's place among those in flight; what outlives the request keeps a clone.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
    pub(crate) trace: Arc<RequestTimings>,
}

impl Call {
    /// The wallet in the path.
    pub(crate) fn wallet(&self) -> Result<Wallet, ApiError> {
        Wallet::parse(&self.part).map_err(|detail| ApiError {
            pointer: Some("wallet".to_owned()),
            ..ApiError::new(ErrorCode::InvalidWallet, detail)
        })
    }

    /// The caller; the table says which routes have one.
    pub(crate) fn principal(&self) -> Result<&Principal, ApiError> {
        self.principal
            .as_ref()
            .ok_or_else(|| ApiError::internal("a route without a key asked for one"))
    }

    /// The body as text, to be read as JSON.
    pub(crate) fn text(&self) -> Result<&str, ApiError> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|_| ApiError::new(ErrorCode::InvalidJson, "the body is not UTF-8"))?;
        check_depth(text)?;
        Ok(text)
    }

    /// A text header, where it is there.
    pub(crate) fn header(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let value = self.headers.get(name).map(|value| {
            value
                .to_str()
                .map_err(|_| ApiError::parameter(name, "must be plain text"))
        });
        value.transpose()
    }

    /// The idempotency key of this request, if it sends one. Its scope is the wallet that pays (`payer`; where nobody pays,
    /// that of the API key, or `admin`) and the route: another API key of the same wallet gets the same answer, and no
    /// wallet gets another's. `answer` makes what is stored of a success.
    pub(crate) fn once<T>(
        &self,
        payer: Option<Wallet>,
        answer: fn(&T) -> Kept,
    ) -> Result<Option<Once<T>>, ApiError> {
        let Some(text) = self.header(IDEMPOTENCY_KEY)? else {
            return Ok(None);
        };
        if self.headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1 {
            return Err(ApiError::parameter(
                "Idempotency-Key",
                "must be sent only once",
            ));
        }
        let bare = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        if !(1..=255).contains(&bare.len())
            || !bare.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        {
            return Err(ApiError::parameter(
                "Idempotency-Key",
                "must be 1 to 255 visible characters, quoted or bare",
            ));
        }
        let principal = self.principal()?;
        let owner = match (payer, principal.wallet) {
            (Some(payer), _) => payer.to_string(),
            _ if principal.is_admin() => "admin".to_owned(),
            (None, Some(own)) => own.to_string(),
            (None, None) => principal.key_id.clone(),
        };
        // Both are those of the route, also where an alias was called.
        let (method, path) = (self.route.method.as_str(), self.route.path);
        let scope = format!("{owner} {method} {path}");
        let key = digest(&[scope.as_bytes(), bare.as_bytes()]);
        let query = self.query.as_deref().unwrap_or_default();
        let request = digest(&[
            method.as_bytes(),
            path.as_bytes(),
            self.part.as_bytes(),
            query.as_bytes(),
            &self.body,
        ]);
        Ok(Some(Once {
            key,
            scope,
            request,
            answer,
        }))
    }

    /// Refuses an `Idempotency-Key` where the answer is a stream, which is not stored: to ignore it would be to charge again.
    pub(crate) fn refuse_idempotency_key(&self) -> Result<(), ApiError> {
        if !self.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(());
        }
        let detail = "is not supported on a streamed answer: leave it out, or ask /v1/chat/completions without stream";
        Err(ApiError::parameter("Idempotency-Key", detail))
    }

    /// The query's parameters, which must be among `known` and stand there once.
    pub(crate) fn parameters(&self, known: &[&'static str]) -> Result<Parameters<'_>, ApiError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in self
            .query
            .as_deref()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(ApiError::parameter(
                    name,
                    &format!("is not a parameter here; known are {known}"),
                ));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(ApiError::parameter(
                    name,
                    "is a duplicate parameter; give it once",
                ));
            }
            pairs.push((name, value));
        }
        Ok(Parameters(pairs))
    }
}

/// The parameters of a query. Every value we take is plain ASCII, so a percent sign is simply not part of any.
pub(crate) struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }

    /// A whole number within a range; out of range it is refused, not clamped.
    pub(crate) fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::parameter(
                name,
                &format!(
                    "must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A hash over the parts and where each ends.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        let length = part.len() as u64;
        hasher.update(&length.to_le_bytes()).update(part);
    }
    *hasher.finalize().as_bytes()
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
}

/// What an answer holds.
pub(crate) enum Content {
    Bytes(Bytes),
    Chat(Box<ModelStream>),
    Own(Box<HostBody>),
}

impl Reply {
    /// JSON.
    pub(crate) fn json(
        status: StatusCode,
        value: &impl serde::Serialize,
    ) -> Result<Self, ApiError> {
        Ok(Self::bytes(status, "application/json", json_bytes(value)?))
    }

    /// The answer that is stored for its idempotency key, if the request has one.
    pub(crate) fn given(kept: Kept) -> Result<Self, ApiError> {
        let status = StatusCode::from_u16(kept.status)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let answer = kept.answer;
        let mut body = answer
            .ok_or(StoreError::AlreadyIssued(kept.reference))?
            .into_bytes();
        body.push(b'\n');
        Ok(Self::bytes(status, "application/json", body.into()))
    }

    /// The answer that was given before.
    pub(crate) fn again(kept: Kept) -> Result<Self, ApiError> {
        let mut reply = Self::given(kept)?;
        reply.set(HeaderName::from_static("idempotency-replayed"), "true");
        Ok(reply)
    }

    /// Bytes of a type.
    pub(crate) fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            content: Content::Bytes(body),
        }
    }

    /// An answer of a model, as it comes.
    pub(crate) fn chat(content_type: &'static str, body: ModelStream) -> Self {
        let mut reply = Self::bytes(StatusCode::OK, content_type, Bytes::new());
        reply.content = Content::Chat(Box::new(body));
        reply
    }

    /// JSON from a cache, with the headers that say so (RFC 9111).
    pub(crate) fn cached<V>(body: Bytes, cached: &Cached<V>, policy: Policy) -> Self {
        let left = policy.ttl.saturating_sub(cached.age).as_secs();
        let mut reply = Self::bytes(StatusCode::OK, "application/json", body.clone());
        reply.tag(&body);
        reply.headers.insert(AGE, cached.age.as_secs().into());
        reply.set_made(CACHE_CONTROL, format!("public, max-age={left}"));
        let source = HeaderValue::from_static(cached.source.as_str());
        reply
            .headers
            .insert(HeaderName::from_static("x-cache"), source);
        reply
    }

    /// Bytes that are the same until the program is another: always asked for anew, by their tag.
    pub(crate) fn fixed(content_type: &'static str, body: Bytes) -> Self {
        let mut reply = Self::bytes(StatusCode::OK, content_type, body.clone());
        reply.tag(&body);
        reply.set(CACHE_CONTROL, "public, no-cache");
        reply
    }

    /// Sets the tag that stands for these bytes: those of the answer, or what of it matters to somebody who has one.
    pub(crate) fn tag(&mut self, of: &[u8]) {
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(of).as_bytes()[..8]);
        self.set_made(ETAG, format!("\"{:016x}\"", u64::from_be_bytes(first)));
    }

    /// Sets a header; what is no header value is left out, which never happens with the texts we write.
    pub(crate) fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    /// Sets a header to a text that was made for it.
    pub(crate) fn set_made(&mut self, name: HeaderName, value: String) {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
            self.headers.insert(name, value);
        }
    }
}

/// JSON as it is sent: with a line's end, for those who read it in a terminal.
pub(crate) fn json_bytes(value: &impl serde::Serialize) -> Result<Bytes, ApiError> {
    // Room for most.
    let mut body = Vec::with_capacity(512);
    serde_json::to_writer(&mut body, value)
        .map_err(|error| ApiError::internal(format!("an answer was not written: {error}")))?;
    body.push(b'\n');
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(query: &str) -> Call {
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned();
        Call {
            route: &crate::routes::ROUTES[0],
            part: String::new(),
            query: Some(query.to_owned()),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            principal: None,
            place: Arc::new(place.unwrap()),
            trace: Arc::new(RequestTimings::begin(&Clock::default())),
        }
    }

    proptest! {
        #[test]
        fn parameters_are_known_ones_that_stand_there_once(pairs in prop::collection::vec("(limit|days|top|Limit|)(=[0-9=]{0,3})?", 0..4), junk in any::<String>()) {
            let known = ["limit", "days"];
            let names: Vec<&str> = pairs.iter().filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap()).collect();
            let fine = names.iter().enumerate().all(|(at, name)| known.contains(name) && !names[..at].contains(name));
            let made = call(&pairs.join("&"));
            prop_assert_eq!(made.parameters(&known).is_ok(), fine);
            let _ = call(&junk).parameters(&known);
        }

        #[test]
        fn a_number_is_digits_within_the_range_and_nothing_else(number in 0usize..500, text in "([0-9]{0,25}|[+-]?[0-9]{1,3}|[0-9]+\\.0|\\PC{0,4})") {
            let read = |text: &str| Parameters(vec![("limit", text)]).number("limit", 1..=100).ok().flatten();
            prop_assert_eq!(read(&number.to_string()), (1..=100).contains(&number).then_some(number));
            if let Some(number) = read(&text) {
                prop_assert_eq!(text.trim_start_matches('0'), number.to_string());
            }
        }
    }
}
