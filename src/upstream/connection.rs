//! A connection to an upstream that knows whether its last request may be retried. It reads an HTTP/1.0 response as
//! HTTP/1.1: hyper refuses `Transfer-Encoding: chunked` in an HTTP/1.0 response (RFC 9112, 6.1), which is how R3MES nodes
//! stream.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, rt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    /// Ends with the connection.
    task: JoinHandle<hyper::Result<()>>,
    /// Whether bytes arrived since the last request was sent.
    responded: Arc<AtomicBool>,
}

impl Connection {
    pub(super) async fn open(
        stream: impl rt::Read + rt::Write + Send + 'static,
    ) -> hyper::Result<Self> {
        let responded = Arc::default();
        let (stream, write) = tokio::io::split(TokioIo::new(stream));
        let read = ResponseReader {
            stream,
            responded: Arc::clone(&responded),
            version_bytes: 0,
        };
        let stream = TokioIo::new(tokio::io::join(read, write));
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder.max_buf_size(256 << 10).handshake(stream).await?;
        Ok(Self {
            sender,
            task: tokio::spawn(connection),
            responded,
        })
    }

    /// The head of the response. `None` where the connection closed before any byte of it: the request may be retried.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Option<hyper::Result<Response<Incoming>>> {
        self.responded.store(false, Ordering::Relaxed);
        let mut response = pin!(self.sender.send_request(request));
        let response = tokio::select! {
            biased;
            response = &mut response => Some(response),
            // hyper hands a request to the task of its connection through a channel. One that is sent just as the task ends
            // stays there, without a response or an error (hyperium/hyper#2312); all others have theirs by now.
            _ = &mut self.task => {
                tokio::time::timeout(Duration::from_millis(100), response).await.ok()
            }
        };
        response.filter(|response| response.is_ok() || self.responded.load(Ordering::Relaxed))
    }
}

/// The beginning of a response whose version is rewritten.
const VERSION: &[u8] = b"HTTP/1.0";

/// What an upstream sends, as hyper reads it.
struct ResponseReader<S> {
    stream: S,
    responded: Arc<AtomicBool>,
    /// How many bytes of [`VERSION`] have arrived; all of them if nothing is left to rewrite.
    version_bytes: usize,
}

impl<S> ResponseReader<S> {
    fn rewrite_version(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if VERSION.get(self.version_bytes) != Some(&*byte) {
                self.version_bytes = VERSION.len();
                return;
            }
            self.version_bytes += 1;
            if self.version_bytes == VERSION.len() {
                *byte = b'1';
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ResponseReader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = &mut buffer.filled_mut()[before..];
        (self.responded).fetch_or(!read.is_empty(), Ordering::Relaxed);
        self.rewrite_version(read);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_1_0_is_read_as_1_1_wherever_it_is_cut_and_nothing_else_is_changed() {
        for (sent, expected) in [
            ("HTTP/1.0 200 OK\r\nHTTP/1.0", "HTTP/1.1 200 OK\r\nHTTP/1.0"),
            ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
            ("HTTP/2.0 200 OK", "HTTP/2.0 200 OK"),
            ("HTTX/1.0", "HTTX/1.0"),
            ("HTTP", "HTTP"),
        ] {
            for at in 0..=sent.len() {
                let mut reader = ResponseReader {
                    stream: (),
                    responded: Arc::default(),
                    version_bytes: 0,
                };
                let mut bytes = sent.as_bytes().to_vec();
                let (first, rest) = bytes.split_at_mut(at);
                reader.rewrite_version(first);
                reader.rewrite_version(rest);
                assert_eq!(bytes, expected.as_bytes(), "{at}");
            }
        }
    }
}
