//! The HTTP client of an upstream, with its idle connections. A request on a reused connection that the server closed before
//! it answered is retried on a new one: llama.cpp closes a connection after most streams.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_ENCODING, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service;

use super::connection::{Connection, IdleConnections, ResponseBody};
use super::{UpstreamError, tls, unreadable};
use crate::body::{self, BodyError};

type BoxError = Box<dyn Error + Send + Sync>;

/// The client of one upstream: all its requests have the same address.
#[derive(Debug)]
pub(crate) struct HttpClient {
    connector: tls::Connector,
    /// Whether a connection serves several requests.
    pub(super) reuses_connections: bool,
    idle: Arc<IdleConnections>,
}

impl HttpClient {
    /// Bytes of an answer that is read whole; 20 blocks are about 30 KB, and the models of a hub a few hundred.
    const MAX_BYTES: usize = 1 << 20;

    /// Trusts the authorities in `ca_file` (PEM) and no others, or without one, those that browsers trust.
    ///
    /// # Errors
    /// If the file cannot be used, or this build cannot connect to the address: the setting, and what is wrong with it.
    pub(crate) fn new(
        address: &str,
        ca_file: Option<&Path>,
    ) -> Result<Self, (&'static str, String)> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(2)));
        Ok(Self {
            connector: tls::connector(http, address, ca_file)?,
            reuses_connections: true,
            idle: Arc::default(),
        })
    }

    /// Sends a request and waits for the head of its answer, whatever its status.
    ///
    /// # Errors
    /// No answer, or one that is compressed.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let address = request.uri().clone();
        let authority = address.authority().map_or("", Authority::as_str);
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(unreadable)?;
        request.headers_mut().insert(HOST, host);
        let path = address.path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        let mut reusable = self.reuses_connections;
        let mut answer = None;
        let kept = || Some(Arc::clone(&self.idle));
        if let Some(connection) = self.idle.take() {
            answer = connection.send(request.clone(), kept()).await;
            // A server that closed one after its answer would close the next too.
            reusable = false;
        }
        if answer.is_none() {
            let connection = self.connect(address).await;
            let connection =
                connection.map_err(|error| UpstreamError::Connect(with_causes(&*error)))?;
            if !reusable {
                let close = HeaderValue::from_static("close");
                request.headers_mut().insert(CONNECTION, close);
            }
            let idle = if reusable { kept() } else { None };
            answer = connection.send(request, idle).await;
        }
        match answer {
            Some(Ok(response)) => match response.headers().get(CONTENT_ENCODING) {
                Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                    let what =
                        format!("Content-Encoding {coding:?}, though only identity is accepted");
                    Err(UpstreamError::Unreadable(what))
                }
                _ => Ok(response),
            },
            Some(Err(error)) => Err(UpstreamError::Cut(with_causes(&error))),
            None => Err(UpstreamError::Cut("closed before an answer".to_owned())),
        }
    }

    async fn connect(&self, address: Uri) -> Result<Connection, BoxError> {
        Ok(Connection::open(self.stream(address).await?).await?)
    }

    /// A new connection, with TLS where the address is `https`.
    pub(super) async fn stream(
        &self,
        address: Uri,
    ) -> Result<<tls::Connector as Service<Uri>>::Response, BoxError> {
        let mut connector = self.connector.clone();
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        let stream = connector.call(address).await?;
        Ok(stream)
    }

    /// Reads a whole answer within `deadline`; it must be a success.
    pub(crate) async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<Bytes, UpstreamError> {
        let answer = self.fetch_any(request, deadline).await?;
        match answer.status().is_success() {
            true => Ok(answer.into_body()),
            false => Err(UpstreamError::Status(answer.status().as_u16())),
        }
    }

    /// Reads a whole answer within `deadline`, whatever its status; the body of one that is no success may be missing.
    pub(super) async fn fetch_any(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let whole = async {
            let (head, body) = self.send(request).await?.into_parts();
            let body = match body::read(body, Self::MAX_BYTES).await {
                Ok(body) => body,
                Err(_) if !head.status.is_success() => Bytes::new(),
                Err(BodyError::TooLong) => return Err(unreadable("more than 1 MiB")),
                Err(BodyError::Broken(error)) => return Err(UpstreamError::Cut(error.to_string())),
            };
            Ok(Response::from_parts(head, body))
        };
        let answer = tokio::time::timeout(deadline, whole).await;
        answer.unwrap_or(Err(UpstreamError::Timeout("the whole answer")))
    }
}

/// The message of an error is often general; the cause is in its source.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const REQUESTS: usize = 4_000;

    /// Closes most connections after their first answer, some at the moment the next request arrives.
    async fn serve(listener: TcpListener, reused: Arc<AtomicUsize>) {
        for number in 0usize.. {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            let reused = Arc::clone(&reused);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                for answered in 0..=number % 3 {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                    reused.fetch_add(usize::from(answered > 0), Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
                if number.is_multiple_of(2) {
                    let _ = stream.read(&mut buffer).await;
                }
            });
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn requests_that_meet_a_closing_connection_are_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let reused = Arc::<AtomicUsize>::default();
        let server = tokio::spawn(serve(listener, Arc::clone(&reused)));
        let client = Arc::new(HttpClient::new(&url, None).unwrap());
        let callers = (0..8).map(|_| {
            let (client, url) = (Arc::clone(&client), url.clone());
            tokio::spawn(async move {
                for _ in 0..REQUESTS / 8 {
                    let request = Request::get(&url).body(Full::default()).unwrap();
                    let answer = client.fetch(request, Duration::from_secs(10)).await;
                    assert_eq!(answer, Ok(Bytes::from("ok")));
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        assert!(reused.load(Ordering::Relaxed) > 0);
        server.abort();
    }
}
