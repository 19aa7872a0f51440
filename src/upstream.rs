//! Asking other programs over HTTP: one pooled client, a deadline and a size on everything, a breaker in front.
//!
//! An error here says what happened; whether it counts against the upstream is [`UpstreamError::outcome`], what a client
//! hears of it is decided in `error.rs`. No client header goes up; redirects are not followed; a certificate that does
//! not hold is no connection.

pub(crate) mod answer;
pub(crate) mod chain;
pub(crate) mod completion;
mod connection;
pub(crate) mod discovery;
mod health_check;
pub(crate) mod inference;
mod miner;
mod sse;
mod survey;
#[cfg_attr(not(feature = "tls"), path = "upstream/no_tls.rs")]
mod tls;

pub use survey::{ProbeResult, UpstreamKind, survey};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::SetOnce;

use crate::body::{self, Unread};
use crate::breaker::{Breaker, Outcome};
use connection::Connector;

/// What went wrong with an upstream. The texts are for the log, never for a client.
///
/// [`survey`] shows one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The breaker is open; when to try again.
    Open(Duration),
    /// Every place at the upstream and in the queue before it is taken.
    Busy,
    /// No connection.
    Connect(String),
    /// Too slow; what was waited for.
    Timeout(&'static str),
    /// A status that is not a success.
    Status(u16),
    /// The status by which it refused what the client asked for.
    Refused(u16),
    /// An answer that cannot be understood, or is too large.
    Unreadable(String),
    /// The answer broke off.
    Cut(String),
    /// An R3MES node that is healthy and serves no inference: the status of `POST /chat`. [`survey`] finds it.
    NoChat(u16),
}

impl UpstreamError {
    /// Whether another upstream may do better.
    pub(crate) const fn is_worth_another(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Status(status) => *status >= 500 || *status == 429,
            Self::Open(_)
            | Self::Busy
            | Self::Connect(_)
            | Self::Timeout(_)
            | Self::Unreadable(_)
            | Self::Cut(_)
            | Self::NoChat(_) => true,
        }
    }

    /// Whether the upstream is to blame.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Open(_) | Self::Busy | Self::Refused(_) | Self::NoChat(_) => Outcome::Unknown,
            // A request the upstream refuses says nothing about its health.
            Self::Status(status) if *status < 500 => Outcome::Unknown,
            Self::Connect(_) => Outcome::Unreachable,
            Self::Status(_) | Self::Timeout(_) | Self::Unreadable(_) | Self::Cut(_) => {
                Outcome::Failure
            }
        }
    }
}

impl std::fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(wait) => write!(f, "the breaker is open for {wait:?}"),
            Self::Busy => f.write_str("no place free"),
            Self::Connect(what) => write!(f, "no connection: {what}"),
            Self::Timeout(what) => write!(f, "too slow: {what}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Refused(status) => write!(f, "the request was refused with status {status}"),
            Self::Unreadable(what) => write!(f, "unreadable: {what:.500}"),
            Self::Cut(what) => write!(f, "broke off: {what:.500}"),
            Self::NoChat(status) => write!(
                f,
                "GET /health answers, but POST /chat has status {status}: it serves no inference"
            ),
        }
    }
}

impl std::error::Error for UpstreamError {}

type Client = legacy::Client<Connector<tls::Connector>, Full<Bytes>>;

/// The client of all upstreams that trust the same certificate authorities; clones share its idle connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    /// Keeps idle connections and uses them again.
    keeping: Client,
    /// Makes a connection for each request.
    fresh: Client,
    keep_alive: bool,
}

/// Why a request got no answer.
struct Failed {
    error: UpstreamError,
    /// It may be sent again: its connection had been kept, and not a byte of an answer came.
    unanswered: bool,
}

impl HttpClient {
    /// Trusts the authorities in `ca_file` (PEM) and no others, or where none is given, those that browsers trust.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let connector = Connector::new(tls::over(connector, ca_file)?);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.http1_max_buf_size(256 << 10);
        let mut fresh = builder.clone();
        fresh.pool_max_idle_per_host(0);
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(64);
        Ok(Self {
            keeping: builder.build(connector.clone()),
            fresh: fresh.build(connector.reading_http10_as_11()),
            keep_alive: true,
        })
    }

    /// The same with a new connection for each request, on which an answer of HTTP/1.0 is read as one of HTTP/1.1.
    pub(crate) fn without_keep_alive(self) -> Self {
        Self {
            keep_alive: false,
            ..self
        }
    }

    /// Sends a request and waits for the head of its answer, which must be a success.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        tls::check(request.uri()).map_err(|what| UpstreamError::Connect(what.to_owned()))?;
        let answered = if self.keep_alive {
            match Self::request(&self.keeping, request.clone()).await {
                // The server closed it while it was idle, or without a word after the answer before (llama.cpp does so
                // after most streams).
                Err(Failed {
                    error,
                    unanswered: true,
                }) => {
                    log::debug!("sent again on a new connection: {error}");
                    self.send_on_new_connection(request).await
                }
                answered => answered,
            }
        } else {
            self.send_on_new_connection(request).await
        };
        let response = answered.map_err(|Failed { error, .. }| error)?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(UpstreamError::Status(status.as_u16())),
        }
    }

    async fn send_on_new_connection(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failed> {
        let close = HeaderValue::from_static("close");
        request.headers_mut().insert(CONNECTION, close);
        Self::request(&self.fresh, request).await
    }

    async fn request(
        client: &Client,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failed> {
        let connection = capture_connection(&mut request);
        tokio::select! {
            biased;
            answered = client.request(request) => answered.map_err(|error| {
                let text = with_cause(&error);
                Failed {
                    unanswered: connection::is_stale(error.connect_info()),
                    error: if error.is_connect() {
                        UpstreamError::Connect(text)
                    } else {
                        UpstreamError::Cut(text)
                    },
                }
            }),
            () = connection::lost(connection) => Err(Failed {
                unanswered: true,
                error: UpstreamError::Cut("the connection closed before the request".to_owned()),
            }),
        }
    }

    /// Reads a whole answer of at most `most` bytes within `deadline`; it must be a success.
    pub(crate) async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
        most: usize,
    ) -> Result<Bytes, UpstreamError> {
        let whole = async {
            let body = self.send(request).await?.into_body();
            body::read(body, most).await.map_err(|unread| match unread {
                Unread::TooLong => UpstreamError::Unreadable(format!("more than {most} bytes")),
                Unread::Broken(error) => UpstreamError::Cut(error.to_string()),
            })
        };
        tokio::time::timeout(deadline, whole)
            .await
            .unwrap_or(Err(UpstreamError::Timeout("the whole answer")))
    }
}

/// One address that is asked, and what stands before it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    url: String,
    /// What it is shown as `Authorization`.
    token: Option<HeaderValue>,
    client: HttpClient,
    breaker: Arc<Breaker>,
    present: SetOnce<()>,
}

impl Endpoint {
    /// `present` is false for a conventional address where nothing was found yet.
    pub(crate) fn new(
        url: String,
        client: HttpClient,
        breaker: Arc<Breaker>,
        present: bool,
    ) -> Self {
        Self {
            url,
            token: None,
            client,
            breaker,
            present: SetOnce::new_with(present.then_some(())),
        }
    }

    /// Shows this to whoever answers there.
    pub(crate) fn with_token(mut self, token: Option<HeaderValue>) -> Self {
        self.token = token;
        self
    }

    /// Makes a new connection for each request; see [`HttpClient::without_keep_alive`].
    pub(crate) fn without_keep_alive(mut self) -> Self {
        self.client = self.client.without_keep_alive();
        self
    }

    pub(crate) fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    pub(crate) fn is_present(&self) -> bool {
        self.present.initialized()
    }

    /// Waits until something was found here.
    pub(crate) async fn wait_present(&self) {
        self.present.wait().await;
    }

    /// Remembers that something was found here, if it was.
    fn mark_present(&self, found: bool) -> bool {
        if found {
            // It stays so.
            let _ = self.present.set(());
        }
        found
    }
}

/// The first line of a file as a Bearer token. A mistake is told without what the file holds.
pub(crate) fn bearer(file: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(file)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let token = text.lines().next().unwrap_or_default().trim();
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value
        .ok()
        .filter(|_| !token.is_empty())
        .ok_or_else(|| format!("{}: the first line is no token", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A GET of an absolute address.
pub(crate) fn get(
    uri: &Uri,
    token: Option<&HeaderValue>,
) -> Result<Request<Full<Bytes>>, UpstreamError> {
    let request = Request::get(uri).header(ACCEPT, "application/json");
    finished(request, token, Full::default())
}

/// A POST of JSON to an absolute address.
pub(crate) fn post_json(
    uri: &Uri,
    token: Option<&HeaderValue>,
    body: String,
) -> Result<Request<Full<Bytes>>, UpstreamError> {
    let request = Request::post(uri).header(CONTENT_TYPE, "application/json");
    finished(request, token, Full::from(body))
}

fn finished(
    mut request: hyper::http::request::Builder,
    token: Option<&HeaderValue>,
    body: Full<Bytes>,
) -> Result<Request<Full<Bytes>>, UpstreamError> {
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    // The token is not in the error: hyper names the kind of fault only.
    request
        .header(USER_AGENT, USER_AGENT_VALUE)
        .body(body)
        .map_err(|error| UpstreamError::Unreadable(error.to_string()))
}

/// `base` with `path` after it.
pub(crate) fn join(base: &str, path: &str) -> Result<Uri, UpstreamError> {
    let text = format!("{}{path}", base.trim_end_matches('/'));
    text.parse()
        .map_err(|_| UpstreamError::Unreadable(format!("{text:?} is no address")))
}

/// Runs one whole call under the breaker of an upstream that has no health check apart from the call itself.
pub(crate) async fn guarded<T>(
    breaker: &Arc<Breaker>,
    call: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    let permit = breaker.admit().map_err(UpstreamError::Open)?;
    let answer = call.await;
    let outcome = answer
        .as_ref()
        .map_or_else(UpstreamError::outcome, |_| Outcome::Success);
    if let Some(check) = permit.end(outcome) {
        check.open();
    }
    answer
}

const USER_AGENT_VALUE: &str = concat!("r3mes-edge/", env!("CARGO_PKG_VERSION"));

/// hyper's own message says only "client error (Connect)"; why is in its source.
fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
