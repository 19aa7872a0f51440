//! The request context of a handler: the server's state, path and query parameters, headers, body and caller.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Result;
use super::route::Route;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{ApiError, ErrorCode};
use crate::limits::ConcurrencyPermit;
use crate::model::{Wallet, check_depth, percent_decoded, read_object, read_query};
use crate::store::{Actor, IdempotentRequest, OperationId, StoredResponse};
use crate::timings::RequestTimings;

/// A request that has passed every check: routed, within its rates, authenticated, its body read.
pub(crate) struct Context {
    pub(crate) app: Arc<App>,
    pub(crate) route: &'static Route,
    /// Identifies what the request charges.
    pub(crate) operation: OperationId,
    /// The client's address.
    pub(super) client: IpAddr,
    /// The value of the path's parameter; empty where it has none.
    pub(crate) path_param: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) principal: Option<Principal>,
    /// The permit of the request; work that outlives the request holds a clone.
    pub(crate) permit: Arc<OwnedSemaphorePermit>,
    /// Its place among the paid requests of its key, where those are limited.
    pub(crate) concurrency: Option<Arc<ConcurrencyPermit<i64>>>,
    pub(crate) timings: Arc<RequestTimings>,
}

impl Context {
    /// The wallet in the path.
    pub(crate) fn wallet(&self) -> Result<Wallet> {
        Wallet::parse(&self.path_param).map_err(|detail| ApiError::wallet("wallet", detail))
    }

    /// The caller; the table decides which routes have one.
    pub(crate) fn principal(&self) -> Result<&Principal> {
        let missing = || ApiError::internal("a route without authentication needs a caller");
        self.principal.as_ref().ok_or_else(missing)
    }

    /// The caller and the time, for the audit trail. A login has no key yet, and no entry.
    pub(crate) fn actor(&self) -> Actor {
        let caller = self.principal.as_ref().map(|caller| &caller.key_id);
        let at = self.app.clock.stamp();
        match caller {
            // Its connection is in this process.
            Some(id) if id.starts_with("local:") => Actor::local(at),
            id => Actor {
                id: id.map_or("login", String::as_str).to_owned(),
                address: Some(self.client),
                at,
            },
        }
    }

    /// Adds a change that was made outside the storage to the audit trail. It cannot be undone, so that it succeeds all the
    /// same where the entry cannot be written.
    pub(crate) async fn record_action(&self, action: &'static str, target: &str) {
        let actor = self.actor();
        let (id, address) = (actor.id.clone(), self.client);
        let recorded = self
            .app
            .store
            .record_action(action, target.to_owned(), actor);
        if let Err(error) = recorded.await {
            log::error!(
                "not in the audit trail: {action} of {target} by {id} from {address}: {error}"
            );
        }
    }

    /// Refuses a caller who may not act for `wallet`.
    pub(crate) fn check_owner(&self, wallet: &Wallet) -> Result<()> {
        match self.principal()?.owns(wallet) {
            true => Ok(()),
            false => Err(ApiError::other_wallet()),
        }
    }

    /// Refuses a caller whose account is blocked.
    pub(crate) fn check_not_blocked(&self) -> Result<()> {
        match self.principal()?.is_blocked {
            true => Err(ApiError::blocked()),
            false => Ok(()),
        }
    }

    /// The wallet that the request names, if the caller may act for it; else the caller's own. An admin has none.
    pub(crate) fn named_or_own(&self, named: Option<Wallet>) -> Result<Option<Wallet>> {
        let principal = self.principal()?;
        match named {
            Some(wallet) => self.check_owner(&wallet).map(|()| named),
            None if principal.is_admin() => Ok(None),
            None => Ok(principal.wallet),
        }
    }

    /// The body as text, to be read as JSON.
    pub(crate) fn text(&self) -> Result<&str> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|_| ApiError::new(ErrorCode::InvalidJson, "the body is not UTF-8"))?;
        // PowerShell writes a byte order mark before JSON.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        check_depth(text)?;
        Ok(text)
    }

    /// The body, a JSON object.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        Ok(read_object(self.text()?, "")?)
    }

    /// The query's parameters, each at most once.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(read_query(self.query.as_deref().unwrap_or_default())?)
    }

    /// A parameter of the query as it was written: [`Self::query`], which checks it, takes digits for a number.
    pub(crate) fn text_parameter(&self, name: &str) -> Option<String> {
        let query = self.query.as_deref().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut named = pairs.filter(|(own, _)| *own == name);
        percent_decoded(named.next()?.1)
    }

    /// A text header, if it was sent.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&str>> {
        let value = single(&self.headers, name)?.map(HeaderValue::to_str);
        value
            .transpose()
            .map_err(|_| ApiError::parameter(name, "must be plain text"))
    }

    /// Whether the client prefers a media type to the usual one.
    pub(crate) fn prefers(&self, media_type: &str, usual: &str) -> bool {
        let [this, usual] = [media_type, usual].map(|name| accepted(&self.headers, name));
        // Where both are named alike, the usual one is what a client gets without asking.
        this > usual || (this == usual && this.1 == NAMED)
    }

    /// The `Idempotency-Key` of this request, if any. Its scope is the wallet that pays (`payer`; where none pays, that of
    /// the API key, or `admin`) and the route: another API key of the same wallet gets the same answer, and no wallet gets
    /// another's. `stored` creates the stored response of a success.
    pub(crate) fn idempotency<T>(
        &self,
        payer: Option<Wallet>,
        stored: fn(&T) -> StoredResponse,
    ) -> Result<Option<IdempotentRequest<T>>> {
        let Some(text) = self.header(IDEMPOTENCY_KEY)? else {
            return Ok(None);
        };
        let unquoted = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let key = unquoted.unwrap_or(text);
        let visible = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !(1..=255).contains(&key.len()) || !visible {
            let detail = "must be 1 to 255 visible characters, quoted or bare";
            return Err(ApiError::parameter(IDEMPOTENCY_KEY, detail));
        }
        let principal = self.principal()?;
        let owner = match (payer, principal.wallet) {
            (Some(payer), _) => payer.to_string(),
            (None, _) if principal.is_admin() => "admin".to_owned(),
            (None, Some(own)) => own.to_string(),
            (None, None) => principal.key_id.clone(),
        };
        // Those of the route, also where its alias was called.
        let (method, path) = (self.route.method, self.route.path);
        let scope = format!("{owner} {method} {path}");
        let query = self.query.as_deref().unwrap_or_default();
        // Neither part contains a line feed, so no two requests are hashed as the same text.
        let target = format!("{method} {path} {} {query}\n", self.path_param);
        let mut request = blake3::Hasher::new();
        request.update(target.as_bytes()).update(&self.body);
        Ok(Some(IdempotentRequest {
            key: blake3::hash(format!("{scope}\n{key}").as_bytes()).into(),
            request: request.finalize().into(),
            scope,
            answer: stored,
        }))
    }

    /// Refuses an `Idempotency-Key` where the response is a stream, which is not stored: to ignore it would charge again.
    pub(crate) fn refuse_idempotency_key(&self) -> Result<()> {
        if !self.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(());
        }
        let whole = match self.route.path {
            "/chat" => "use /v1/chat/completions without stream",
            _ => "leave stream out",
        };
        let detail = format!("is not supported on a streamed answer: leave it out, or {whole}");
        Err(ApiError::parameter(IDEMPOTENCY_KEY, &detail))
    }
}

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The precision of a range without a wildcard.
const NAMED: u8 = 3;

/// How much a client wants a media type by `Accept` (RFC 9110, 12.5.1): the quality and the precision of the range that
/// names it most precisely; 0 where it is not wanted.
fn accepted(headers: &HeaderMap, media_type: &str) -> (f32, u8) {
    let lines = headers.get_all(ACCEPT).iter();
    let ranges = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    let matching = ranges.filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let precision = match name.strip_suffix('*') {
            Some("*/") => 1,
            Some(main) if main.ends_with('/') && media_type.starts_with(main) => 2,
            None if name == media_type => NAMED,
            _ => return None,
        };
        let mut parameters = parts.filter_map(|parameter| parameter.split_once('='));
        let quality = parameters.find(|(name, _)| name.trim_end().eq_ignore_ascii_case("q"));
        let quality = quality.map_or(Ok(1.0), |(_, text)| text.trim_start().parse());
        Some((precision, quality.unwrap_or(0.0_f32).clamp(0.0, 1.0)))
    });
    let most_precise = matching.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    match most_precise {
        Some((precision, quality)) if quality > 0.0 => (quality, precision),
        _ => (0.0, 0),
    }
}

/// A header that may be sent one time.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(ApiError::parameter(name, "is a duplicate header")),
    }
}
