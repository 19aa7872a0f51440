//! The body of a request: its type, its size limit and its deadline.

use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, TRANSFER_ENCODING};
use tokio::time::timeout;

use super::Result;
use super::route::BodyClass;
use crate::app::App;
use crate::body::BodyError;
use crate::error::{ApiError, ErrorCode};
use crate::model::InputError;

/// With a key, a body is read as JSON whatever its type, so that `curl -d` works. Without one it must be declared as JSON:
/// a web page can make a browser send any other type to this address unasked.
pub(super) fn check_media_type(headers: &HeaderMap, has_key: bool) -> Result<()> {
    let declared = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let media_type = declared.and_then(|text| text.split(|byte| *byte == b';').next());
    let is_json = |text: &[u8]| text.trim_ascii().eq_ignore_ascii_case(b"application/json");
    if has_key || media_type.is_some_and(is_json) {
        return Ok(());
    }
    let detail = "without a key, send the body as Content-Type: application/json";
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail))
}

/// Refuses a body that is compressed.
pub(super) fn check_content_coding(headers: &HeaderMap) -> Result<()> {
    let lists = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    let is_none = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    match codings.all(|coding| is_none(coding.trim_ascii())) {
        true => Ok(()),
        false => {
            let detail = "send the body without Content-Encoding; it is read as it comes";
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail))
        }
    }
}

/// Refuses a body in a coding other than chunked: hyper would hand it on as it is (RFC 9112, 6.1).
pub(super) fn check_transfer_coding(headers: &HeaderMap) -> Result<()> {
    let lists = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    match codings.all(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        true => Ok(()),
        false => Err(ApiError {
            header: Some(Box::new((CONNECTION, "close".to_owned()))),
            ..ApiError::parameter("Transfer-Encoding", "must be chunked, or left out")
        }),
    }
}

/// How much of a body that no handler reads is read away, and how long that may take.
const SMALL: usize = 64 << 10;
const DRAIN: Duration = Duration::from_millis(500);

/// Reads away a small body, so that the connection can carry the next request. Returns whether it came to its end.
pub(super) async fn drain(body: Incoming) -> bool {
    body.size_hint().lower() <= SMALL as u64
        && matches!(
            timeout(DRAIN, crate::body::read(body, SMALL)).await,
            Ok(Ok(_))
        )
}

pub(super) async fn read(app: &App, class: BodyClass, body: Incoming) -> Result<Bytes> {
    let limits = &app.config.limits;
    let limit = match class {
        BodyClass::None => 0,
        BodyClass::Common => limits.body,
        BodyClass::Telemetry => limits.telemetry_body,
        BodyClass::Chat => limits.chat_body,
        BodyClass::V1 => limits.v1_body,
    };
    let detail = format!("the body may have at most {limit} bytes here");
    let too_large = ApiError::new(ErrorCode::BodyTooLarge, detail);
    // One whose Content-Length is too large is not read at all.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large);
    }
    let read = tokio::select! {
        biased;
        read = timeout(limits.body_timeout, crate::body::read(body, limit)) => read,
        () = app.shutdown.drain_grace_elapsed() => return Err(ApiError::shutting_down()),
    };
    match read {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BodyError::TooLong)) => Err(too_large),
        Ok(Err(BodyError::Broken(error))) => {
            let incomplete = ApiError::from(InputError::field("", "the body is incomplete"));
            Err(incomplete.for_the_log(error.to_string()))
        }
        Err(_) => {
            let detail = "the body was not received in time";
            Err(ApiError::new(ErrorCode::RequestTimeout, detail))
        }
    }
}
