//! Calls to other programs over HTTP: inference servers, the chain, the miner. Each has an `Endpoint`: one pooled client,
//! a breaker, and a deadline and a size limit on everything that is read.
//!
//! No client headers are passed on, redirects are not followed, and a connection with an invalid certificate is refused.
//! What a client may read of an [`UpstreamError`] is decided in `error.rs`.

pub(crate) mod answer;
mod availability;
pub(crate) mod chain;
mod client;
mod connection;
pub(crate) mod discovery;
pub(crate) mod inference;
mod json;
mod miner;
pub(crate) mod queue;
pub(crate) mod request;
mod sse;
#[cfg_attr(not(feature = "tls"), path = "upstream/no_tls.rs")]
mod tls;

pub(crate) use client::HttpClient;
pub(crate) use connection::ResponseBody;
pub use discovery::{ProbeResult, probe_all};
pub use inference::refusal::{Meaning, Refusal};

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::rt::{Read as ReadIo, Write as WriteIo};
use hyper::{Method, Request, Response, Uri};
use tokio::sync::SetOnce;
use zeroize::Zeroizing;

use self::availability::Availability;
use self::inference::refusal::parse_wait;
use crate::breaker::{Breaker, Outcome};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Origin};

/// Why an upstream gave no usable response. The texts are for the log, never for a client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The breaker is open; when to try again.
    #[error("the breaker is open for {0:?}")]
    Open(Duration),
    /// The server asked to be left alone; for how long.
    #[error("out of rotation for {0:?}, as it asked for")]
    Paused(Duration),
    /// All slots are in use and the queue is full, or a slot was waited for too long; when to try again.
    #[error("at capacity")]
    Busy(Duration),
    /// It does not have the model, or not for this endpoint; its other answers are as good as before.
    #[error("it does not serve this request")]
    NotServed,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// Timed out; in which phase.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// A status that is not a success.
    #[error("status {0}")]
    Status(u16),
    /// The status by which the chain or the miner asked to be left alone, and for how long.
    #[error("status {0}: left alone for {1:?}")]
    Limited(u16, Duration),
    /// The status by which an inference server refused a request, and what it means.
    #[error("status {}{}{}", .0.status, if .0.words.is_empty() { "" } else { ": " }, .0.words)]
    Refused(Refusal),
    /// A response that cannot be parsed, or is too large.
    #[error("unreadable: {0:.500}")]
    Unreadable(String),
    /// It ended well, without any text for a client that reads nothing else.
    #[error("no text in the answer")]
    NoText,
    /// It reported a failure inside a response that had begun.
    #[error("reported an error inside the answer: {0:.500}")]
    Reported(String),
    /// The response was aborted.
    #[error("broke off: {0:.500}")]
    Cut(String),
    /// An inference server that is healthy and serves no chat: the request for one, and its status. [`probe_all`] finds it.
    #[error(
        "its health check passes, but POST {0} has status {1}: it serves no inference, or not with this key"
    )]
    NoChat(&'static str, u16),
}

impl UpstreamError {
    /// Whether another upstream may succeed.
    pub(crate) const fn is_retryable(&self) -> bool {
        match self {
            Self::NoText => false,
            // A 500 for a picture is of this server's model; another may read it.
            Self::Refused(refusal) => !refusal.is_of_client() || refusal.status >= 500,
            _ => true,
        }
    }

    /// When to try again, where it says so.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(wait) | Self::Paused(wait) | Self::Busy(wait) | Self::Limited(_, wait) => {
                Some(*wait)
            }
            Self::Refused(refusal) => match refusal.meaning {
                Meaning::Unavailable(wait) => Some(wait),
                Meaning::Loading(wait) => wait,
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the model is loading.
    pub(crate) const fn is_loading(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal.meaning, Meaning::Loading(_)),
            _ => false,
        }
    }

    /// The error in short, without words of the upstream, a path or an address.
    fn reason(&self) -> String {
        let reason = match self {
            Self::Status(status) | Self::Limited(status, _) => return format!("status {status}"),
            Self::Connect(_) => "no connection",
            Self::Timeout(_) => "no answer in time",
            Self::Reported(_) => "an error instead of an answer",
            Self::Cut(_) => "a broken answer",
            _ => "an unreadable answer",
        };
        reason.to_owned()
    }

    /// What it implies for the upstream's health.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) => Outcome::Unreachable,
            // Neither what the client asked for, nor a wrong key or address, nor a server that is busy has failed.
            Self::Refused(refusal) => match refusal.meaning {
                Meaning::Server if refusal.status >= 500 => Outcome::Failure,
                _ => Outcome::Unknown,
            },
            Self::Status(500..)
            | Self::Timeout(_)
            | Self::Unreadable(_)
            | Self::Reported(_)
            | Self::Cut(_) => Outcome::Failure,
            Self::NoText => Outcome::Success,
            _ => Outcome::Unknown,
        }
    }
}

fn unreadable(what: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::Unreadable(what.to_string())
}

/// One address of an upstream, with all that a call to it needs.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    /// Sent as `Authorization`.
    token: Option<HeaderValue>,
    client: HttpClient,
    clock: Clock,
    pub(crate) breaker: Arc<Breaker>,
    /// Of the chain and the miner; inference servers have a standing.
    pub(crate) availability: Availability,
    /// Set permanently when it is configured or found.
    present: SetOnce<()>,
}

impl Endpoint {
    pub(crate) fn is_present(&self) -> bool {
        self.present.initialized()
    }

    pub(crate) async fn wait_present(&self) {
        self.present.wait().await;
    }

    /// A GET of a path below the address, or a POST of this JSON.
    fn request(
        &self,
        path: &str,
        json: Option<String>,
    ) -> Result<Request<Full<Bytes>>, UpstreamError> {
        const AGENT: &str = concat!("r3mes-edge/", env!("CARGO_PKG_VERSION"));
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let (method, header) = match json {
            None => (Method::GET, ACCEPT),
            Some(_) => (Method::POST, CONTENT_TYPE),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header(header, "application/json")
            // Answers are read as they come.
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, AGENT);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request
            .body(json.map(Full::from).unwrap_or_default())
            .map_err(|error| unreadable(format_args!("{url:?}: {error}")))
    }

    /// The whole answer to a GET.
    async fn get(&self, path: &str, deadline: Duration) -> Result<Bytes, UpstreamError> {
        let request = self.request(path, None)?;
        self.client.fetch(request, deadline).await
    }

    /// Removes what must not be logged from what the upstream said.
    fn redact(&self, words: &mut String) {
        let token = self.token.as_ref().and_then(|token| token.to_str().ok());
        if let Some(token) = token.and_then(|token| token.strip_prefix("Bearer ")) {
            *words = words.replace(token, "[redacted]");
        }
    }

    /// The body of an answer that must be a success.
    fn success(&self, answer: Response<Bytes>) -> Result<Bytes, UpstreamError> {
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let status = answer.status().as_u16();
        let after = answer.headers().get(RETRY_AFTER);
        let after = after.and_then(|after| parse_wait(after.to_str().ok()?, self.clock.now()));
        Err(match availability::pause(status, after) {
            Some(wait) => UpstreamError::Limited(status, wait),
            None => UpstreamError::Status(status),
        })
    }

    /// Makes one call under the breaker, unless the upstream asked to be left alone.
    async fn guarded<T>(
        &self,
        call: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        self.availability.check(self.clock.instant())?;
        let permit = self.breaker.admit().map_err(UpstreamError::Open)?;
        let answer = call.await;
        let (name, now) = (self.breaker.name(), self.clock.instant());
        self.availability.record(name, answer.as_ref().err(), now);
        let outcome = (answer.as_ref()).map_or_else(UpstreamError::outcome, |_| Outcome::Success);
        if let Some(health_check) = permit.end(outcome) {
            // There is nothing else to check: the call was a health check itself.
            health_check.end(Outcome::Failure);
        }
        answer
    }
}

/// Opens a connection to the server of an `http` or `https` address, for a client of that server. Trusted are the authorities
/// in `ca_file` (PEM), or without one those of browsers.
///
/// # Errors
/// [`UpstreamError::Connect`], also where the file cannot be used or this build has no TLS.
pub async fn connect(
    address: Uri,
    ca_file: Option<PathBuf>,
) -> Result<impl ReadIo + WriteIo + Send + Unpin, UpstreamError> {
    let client = HttpClient::new(&address.to_string(), ca_file.as_deref());
    let client = client.map_err(|(_, what)| UpstreamError::Connect(what))?;
    let stream = client.stream(address).await;
    stream.map_err(|error| UpstreamError::Connect(client::with_causes(&*error)))
}

/// The first line of a file with a secret, as editors of every system write it: with a byte order mark, or with CRLF.
pub(crate) fn first_line(file: &Path) -> std::io::Result<Zeroizing<String>> {
    const LONGEST: u64 = 64 << 10;
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(file)?
        .take(LONGEST)
        .read_to_string(&mut text)?;
    let text = text.trim_start_matches('\u{feff}');
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().trim().to_owned(),
    ))
}

/// The first line of a file as a Bearer token. The error does not hold what the file holds.
fn read_bearer_token(file: &Path) -> Result<HeaderValue, String> {
    let shown = file.display();
    let token = first_line(file).map_err(|error| unusable(file, &error))?;
    match HeaderValue::try_from(format!("Bearer {}", *token)) {
        Ok(mut value) if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(format!(
            "{shown}: its first line must be the token alone, in visible ASCII"
        )),
    }
}

/// Why a file that a setting names cannot be used, and what to do.
pub(crate) fn unusable(file: &Path, error: &dyn std::fmt::Display) -> String {
    let shown = file.display();
    format!("{shown}: {error}; name a file that the server's user can read")
}

/// Checks what a start would read for the upstreams: the files with keys and certificates.
///
/// # Errors
/// The first setting whose file cannot be used.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    discovery::Upstreams::new(config, &Clock::default())?;
    let token = config.miner.token_file.as_deref().map(read_bearer_token);
    let invalid = |what| ConfigError::new(Origin::Default, "miner.token_file", what);
    token.transpose().map(drop).map_err(invalid)
}
