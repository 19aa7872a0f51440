//! An upstream that speaks HTTP exactly as a test writes it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A request, and where it came.
#[derive(Clone, Debug)]
pub(crate) struct RawRequest {
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
    /// Its number on that connection, from 0.
    pub(crate) on_connection: usize,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawRequest {
    pub(crate) fn is(&self, method_and_path: &str) -> bool {
        self.head.starts_with(&format!("{method_and_path} "))
    }
}

/// What happens to the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    Keep,
    Close,
    Reset,
}

/// The bytes of an answer.
pub(crate) struct RawAnswer {
    bytes: Vec<u8>,
    then: Then,
}

impl RawAnswer {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        let bytes = bytes.into();
        Self { bytes, then }
    }

    /// Each of `chunks` as one, after the status line and headers.
    pub(crate) fn chunked(head: &str, chunks: &[&str], then: Then) -> Self {
        let mut text = format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in chunks {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        Self::new(text + "0\r\n\r\n", then)
    }
}

type Script = dyn Fn(&RawRequest) -> RawAnswer + Send + Sync;

pub(crate) struct RawUpstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<RawRequest>>>,
    /// Held by every open connection.
    connections: Arc<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl RawUpstream {
    pub(crate) async fn start(
        script: impl Fn(&RawRequest) -> RawAnswer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(None, script).await
    }

    /// Speaks TLS where an acceptor is given.
    pub(crate) async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&RawRequest) -> RawAnswer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(());
        let (script, requests): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let open = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (tls, script) = (tls.clone(), Arc::clone(&script));
                let (requests, open) = (Arc::clone(&requests), Arc::clone(&open));
                tasks.spawn(async move {
                    match tls {
                        None => serve(stream, connection, &script, &requests).await,
                        Some(tls) => {
                            let stream = tls.accept(stream).await.unwrap();
                            serve(stream, connection, &script, &requests).await;
                        }
                    }
                    drop(open);
                });
            }
        });
        Self {
            address,
            seen,
            connections,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        // This one's own, and the accepting task's.
        Arc::strong_count(&self.connections) - 2
    }

    /// The requests so far with this method and path.
    pub(crate) fn seen(&self, method_and_path: &str) -> Vec<RawRequest> {
        let seen = self.seen.lock().unwrap();
        let seen = seen.iter().filter(|request| request.is(method_and_path));
        seen.cloned().collect()
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a plain connection can do and one of TLS cannot.
trait Connection: AsyncRead + AsyncWrite + Unpin {
    fn reset(self);
}

impl Connection for TcpStream {
    fn reset(self) {
        self.set_zero_linger().unwrap();
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

async fn serve(
    mut stream: impl Connection,
    connection: usize,
    script: &Arc<Script>,
    seen: &Mutex<Vec<RawRequest>>,
) {
    let mut buffer = Vec::new();
    for on_connection in 0.. {
        let Some((head, body)) = read_request(&mut stream, &mut buffer).await else {
            return;
        };
        let request = RawRequest {
            connection,
            on_connection,
            head,
            body,
        };
        seen.lock().unwrap().push(request.clone());
        let answer = script(&request);
        // Some tests disconnect the reader.
        let _ = stream.write_all(&answer.bytes).await;
        match answer.then {
            Then::Keep => {}
            Then::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Reset => return stream.reset(),
        }
    }
}

/// The head and the body of the next request; `None` where the connection ends first.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<(String, String)> {
    loop {
        let end = buffer.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(buffer[..end + 4].to_vec()).unwrap();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse().unwrap())
            });
            let length: usize = length.unwrap_or_default();
            if buffer.len() >= end + 4 + length {
                let request: Vec<u8> = buffer.drain(..end + 4 + length).collect();
                let body = String::from_utf8(request[end + 4..].to_vec()).unwrap();
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.unwrap_or_default() == 0 {
            return None;
        }
    }
}
