//! The HTTP client of all upstreams. A request on a reused connection that the server closed before it answered is
//! retried on a new one: llama.cpp closes a connection after most streams.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connection::{self, Connector};
use super::{UpstreamError, tls, unreadable};
use crate::body::{self, BodyError};

type Client = legacy::Client<Connector<tls::Connector>, Full<Bytes>>;

/// The client of all upstreams that trust the same certificate authorities; clones share its idle connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    /// Reuses connections; `None` if each request gets its own.
    pub(super) pooled: Option<Client>,
    /// Opens a connection per request.
    unpooled: Client,
}

impl HttpClient {
    /// Trusts the authorities in `ca_file` (PEM) and no others, or without one, those that browsers trust.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(2)));
        let connector = Connector(tls::connector(http, ca_file)?);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .http1_max_buf_size(256 << 10)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(64);
        let pooled = Some(builder.build(connector.clone()));
        let unpooled = builder.pool_max_idle_per_host(0).build(connector);
        Ok(Self { pooled, unpooled })
    }

    /// Sends a request and waits for the head of its answer, which must be a success.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let is_stale = |error: &legacy::Error| connection::is_stale(error.connect_info());
        let mut response = None;
        if let Some(pooled) = &self.pooled {
            let mut request = request.clone();
            let connection = capture_connection(&mut request);
            response = tokio::select! {
                biased;
                response = pooled.request(request) => Some(response),
                Some(()) = connection::lost(connection) => None,
            };
        }
        let response = match response {
            Some(response) if !response.as_ref().is_err_and(is_stale) => response,
            _ => {
                let close = HeaderValue::from_static("close");
                request.headers_mut().insert(CONNECTION, close);
                self.unpooled.request(request).await
            }
        };
        match response {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(UpstreamError::Status(response.status().as_u16())),
            Err(error) if error.is_connect() => Err(UpstreamError::Connect(with_causes(&error))),
            Err(error) => Err(UpstreamError::Cut(with_causes(&error))),
        }
    }

    /// Reads a whole answer of at most `max_bytes` within `deadline`; it must be a success.
    pub(crate) async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
        max_bytes: usize,
    ) -> Result<Bytes, UpstreamError> {
        let whole = async {
            let body = self.send(request).await?.into_body();
            body::read(body, max_bytes)
                .await
                .map_err(|unread| match unread {
                    BodyError::TooLong => unreadable(format_args!("more than {max_bytes} bytes")),
                    BodyError::Broken(error) => UpstreamError::Cut(error.to_string()),
                })
        };
        let answer = tokio::time::timeout(deadline, whole).await;
        answer.unwrap_or(Err(UpstreamError::Timeout("the whole answer")))
    }
}

/// hyper's own message is only "client error (Connect)"; the cause is in its source.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
