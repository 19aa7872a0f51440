//! Makes responses: JSON, cached JSON, files, streams, and the one body of every error.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{
    AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;

use super::Result;
use crate::cache::{Cached, Policy};
use crate::error::ApiError;
use crate::limits::seconds_up;
use crate::store::{Outcome, StoreError, StoredResponse};
use crate::stream::Aborted;

/// The body of a response, before it carries the guards of its request.
pub(crate) type Content = UnsyncBoxBody<Bytes, Aborted>;
pub(crate) type Response = hyper::Response<Content>;

/// 200 with a JSON body.
pub(crate) fn json(value: &impl Serialize) -> Result {
    json_with_status(StatusCode::OK, value)
}

/// A JSON body.
pub(crate) fn json_with_status(status: StatusCode, value: &impl Serialize) -> Result {
    Ok(bytes(status, "application/json", json_bytes(value)?))
}

/// JSON as it is sent: with a final newline, for those who read it in a terminal.
pub(crate) fn json_bytes(value: &impl Serialize) -> Result<Bytes> {
    // Large enough for most responses.
    let mut body = Vec::with_capacity(512);
    serde_json::to_writer(&mut body, value)
        .map_err(|error| ApiError::internal(format!("a response was not serialized: {error}")))?;
    body.push(b'\n');
    Ok(body.into())
}

/// A body of a type.
pub(crate) fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let body = Full::new(body).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The response to a write, new or replayed for its `Idempotency-Key`; `stored` creates the one of a new write.
pub(crate) fn idempotent<T>(outcome: Outcome<T>, stored: fn(&T) -> StoredResponse) -> Result {
    match outcome {
        Outcome::New(value) => from_stored(stored(&value)),
        Outcome::Replayed(stored) => replayed(stored),
    }
}

/// The response that was stored for the request's `Idempotency-Key` before.
pub(crate) fn replayed(stored: StoredResponse) -> Result {
    let mut response = from_stored(stored)?;
    let replayed = HeaderValue::from_static("true");
    response
        .headers_mut()
        .insert("idempotency-replayed", replayed);
    Ok(response)
}

fn from_stored(stored: StoredResponse) -> Result {
    let status = StatusCode::from_u16(stored.status).unwrap_or_default();
    let reference = stored.reference;
    let mut body = stored.answer.ok_or(StoreError::AlreadyIssued(reference))?;
    body.push('\n');
    Ok(bytes(status, "application/json", body.into()))
}

/// JSON from a cache, with the headers of RFC 9111.
pub(crate) fn cached<V>(body: Bytes, cached: &Cached<V>, policy: Policy) -> Response {
    let left = policy.ttl.saturating_sub(cached.age).as_secs();
    let mut response = bytes(StatusCode::OK, "application/json", body.clone());
    let headers = response.headers_mut();
    set_etag(headers, &body);
    headers.insert(AGE, cached.age.as_secs().into());
    set(headers, CACHE_CONTROL, format!("public, max-age={left}"));
    let source = HeaderValue::from_static(cached.source.as_str());
    headers.insert("x-cache", source);
    response
}

/// A file compiled in: caches revalidate it by its tag.
pub(crate) fn file(content_type: &'static str, body: &'static [u8]) -> Response {
    let mut response = bytes(StatusCode::OK, content_type, Bytes::from_static(body));
    set_etag(response.headers_mut(), body);
    let revalidate = HeaderValue::from_static("public, no-cache");
    response.headers_mut().insert(CACHE_CONTROL, revalidate);
    response
}

/// Marks a representation that was chosen by `Accept`.
pub(crate) fn by_accept(mut response: Response) -> Response {
    let accept = HeaderValue::from_static("Accept");
    response.headers_mut().append(VARY, accept);
    response
}

/// Sets the tag of a representation: a hash of its bytes, or of what matters of them.
pub(crate) fn set_etag(headers: &mut HeaderMap, of: &[u8]) {
    let hash = blake3::hash(of).to_hex();
    set(headers, ETAG, format!("\"{}\"", &hash[..16]));
}

/// Sets a header; an invalid header value is left out, which does not happen for the server's own.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        headers.insert(name, value);
    }
}

/// Creates the response of an error, and logs its internal details.
pub(crate) fn error_response(error: ApiError, request_id: &str, is_anthropic: bool) -> Response {
    let status = StatusCode::from_u16(error.code.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(internal) = &error.internal {
        // What clients cause does not concern the operator, and must not fill the log: also a request that nothing here serves.
        let level = match status.as_u16() {
            500 | 502.. => log::Level::Error,
            _ => log::Level::Debug,
        };
        log::log!(level, "{request_id} {}: {internal}", error.code.as_str());
    }
    let (content_type, body) = match is_anthropic {
        true => (
            "application/json",
            format!("{}\n", error.for_anthropic(request_id)),
        ),
        false => ("application/problem+json", error.body(request_id)),
    };
    let mut response = bytes(status, content_type, body.into());
    let headers = response.headers_mut();
    if let Some(wait) = error.retry_after {
        headers.insert(RETRY_AFTER, seconds_up(wait).max(1).into());
    }
    if let Some(header) = error.header {
        set(headers, header.0, header.1);
    }
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"r3mes-edge\"");
        headers.insert(WWW_AUTHENTICATE, scheme);
    }
    response
}

/// `If-None-Match` (RFC 9110, 13.1.2): a list of tags, compared weakly, or `*`.
pub(super) fn matches_tag(wanted: &[u8], tag: &[u8]) -> bool {
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
