//! The request context of a handler: the server's state, path and query parameters, headers, body and caller.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::ACCEPT;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::route::Route;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{ApiError, ErrorCode};
use crate::model::{Wallet, check_depth, read_object};
use crate::store::{IdempotentRequest, StoredResponse};
use crate::timings::RequestTimings;

/// A request that has passed every check: routed, within its rates, authenticated, its body read.
pub(crate) struct Context {
    pub(crate) app: Arc<App>,
    pub(crate) route: &'static Route,
    /// The value of the path's parameter; empty where it has none.
    pub(crate) path_param: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) principal: Option<Principal>,
    /// The permit of the request; work that outlives the request holds a clone.
    pub(crate) permit: Arc<OwnedSemaphorePermit>,
    pub(crate) timings: Arc<RequestTimings>,
}

impl Context {
    /// The wallet in the path.
    pub(crate) fn wallet(&self) -> Result<Wallet, ApiError> {
        Wallet::parse(&self.path_param).map_err(|detail| ApiError::wallet("wallet", detail))
    }

    /// The caller; the table decides which routes have one.
    pub(crate) fn principal(&self) -> Result<&Principal, ApiError> {
        self.principal
            .as_ref()
            .ok_or_else(|| ApiError::internal("a route without authentication needs a caller"))
    }

    /// Refuses a caller who may not act for `wallet`.
    pub(crate) fn check_owner(&self, wallet: &Wallet) -> Result<(), ApiError> {
        match self.principal()?.owns(wallet) {
            true => Ok(()),
            false => Err(ApiError::other_wallet()),
        }
    }

    /// The body as text, to be read as JSON.
    pub(crate) fn text(&self) -> Result<&str, ApiError> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|_| ApiError::new(ErrorCode::InvalidJson, "the body is not UTF-8"))?;
        check_depth(text)?;
        Ok(text)
    }

    /// The body, a JSON object.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        Ok(read_object(self.text()?, "")?)
    }

    /// A text header, if it was sent.
    pub(crate) fn header(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let value = self.headers.get(name).map(|value| value.to_str());
        value
            .transpose()
            .map_err(|_| ApiError::parameter(name, "must be plain text"))
    }

    /// Whether the client prefers a media type to JSON.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        let accept = self.headers.get(ACCEPT);
        let accept = accept.and_then(|accept| accept.to_str().ok());
        let mut types = accept.unwrap_or_default().split(',');
        types.any(|accepted| accepted.trim().starts_with(media_type))
    }

    /// The `Idempotency-Key` of this request, if any. Its scope is the wallet that pays (`payer`; where none pays, that of
    /// the API key, or `admin`) and the route: another API key of the same wallet gets the same answer, and no wallet gets
    /// another's. `stored` creates the stored response of a success.
    pub(crate) fn idempotency<T>(
        &self,
        payer: Option<Wallet>,
        stored: fn(&T) -> StoredResponse,
    ) -> Result<Option<IdempotentRequest<T>>, ApiError> {
        let invalid = |detail| Err(ApiError::parameter("Idempotency-Key", detail));
        let Some(text) = self.header(IDEMPOTENCY_KEY)? else {
            return Ok(None);
        };
        if self.headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1 {
            return invalid("is a duplicate header; send it once");
        }
        let bare = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if !(1..=255).contains(&bare.len()) || !bare.bytes().all(visible) {
            return invalid("must be 1 to 255 visible characters, quoted or bare");
        }
        let principal = self.principal()?;
        let owner = match payer {
            Some(payer) => payer.to_string(),
            None if principal.is_admin() => "admin".to_owned(),
            None => match principal.wallet {
                Some(wallet) => wallet.to_string(),
                None => principal.key_id.clone(),
            },
        };
        // Those of the route, also where its alias was called.
        let (method, path) = (self.route.method.as_str(), self.route.path);
        let scope = format!("{owner} {method} {path}");
        let query = self.query.as_deref().unwrap_or_default();
        Ok(Some(IdempotentRequest {
            key: digest(&[scope.as_bytes(), bare.as_bytes()]),
            request: digest(&[
                method.as_bytes(),
                path.as_bytes(),
                self.path_param.as_bytes(),
                query.as_bytes(),
                &self.body,
            ]),
            scope,
            answer: stored,
        }))
    }

    /// Refuses an `Idempotency-Key` where the response is a stream, which is not stored: to ignore it would charge again.
    pub(crate) fn refuse_idempotency_key(&self) -> Result<(), ApiError> {
        if !self.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(());
        }
        let detail = "is not supported on a streamed answer: leave it out, or use /v1/chat/completions without stream";
        Err(ApiError::parameter("Idempotency-Key", detail))
    }

    /// The query's parameters, which must be among `known`, each at most once.
    pub(crate) fn parameters(&self, known: &[&str]) -> Result<Parameters<'_>, ApiError> {
        Parameters::parse(self.query.as_deref().unwrap_or_default(), known)
    }
}

/// The parameters of a query. Every value is plain ASCII, so a percent sign is part of none.
pub(crate) struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn parse(query: &'a str, known: &[&str]) -> Result<Self, ApiError> {
        let mut parameters = Self(Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                let known = match known {
                    [] => "none".to_owned(),
                    known => known.join(", "),
                };
                let detail = format!("is not a parameter here; known are {known}");
                return Err(ApiError::parameter(name, &detail));
            }
            if parameters.get(name).is_some() {
                let detail = "is a duplicate parameter; give it once";
                return Err(ApiError::parameter(name, detail));
            }
            parameters.0.push((name, value));
        }
        Ok(parameters)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let mut named = self.0.iter().filter(|(known, _)| *known == name);
        named.next().map(|(_, value)| *value)
    }

    /// A whole number in a range, or an error: it is not clamped.
    pub(crate) fn number(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => {
                let (from, to) = range.into_inner();
                let detail = format!("must be a whole number from {from} to {to}");
                Err(ApiError::parameter(name, &detail))
            }
        }
    }

    /// The size of a page of a list.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        Ok(self.number("limit", 1..=500)?.unwrap_or(50))
    }

    /// Where a page of a list begins, read by `parse`.
    pub(crate) fn cursor<T>(
        &self,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get("cursor") else {
            return Ok(None);
        };
        let cursor = parse(text);
        match cursor {
            Some(_) => Ok(cursor),
            None => Err(ApiError::parameter(
                "cursor",
                "must be the next_cursor of an earlier page",
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parameters_are_known_and_not_duplicate(pairs in prop::collection::vec("(limit|days|top|Limit|)(=[0-9=]{0,3})?", 0..4), junk in any::<String>()) {
            let known = ["limit", "days"];
            let names: Vec<&str> = pairs.iter().filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap()).collect();
            let fine = names.iter().enumerate().all(|(at, name)| known.contains(name) && !names[..at].contains(name));
            prop_assert_eq!(Parameters::parse(&pairs.join("&"), &known).is_ok(), fine);
            let _ = Parameters::parse(&junk, &known);
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
