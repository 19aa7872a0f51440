//! A connection to an upstream that knows whether its last request may be retried. It reads an HTTP/1.0 response as
//! HTTP/1.1: hyper refuses `Transfer-Encoding: chunked` in an HTTP/1.0 response (RFC 9112, 6.1), which is how R3MES nodes
//! stream.
//!
//! It has no task of its own: who waits for a response or its body reads the socket too, so nothing is handed from task to
//! task, and all that has arrived is read in one go.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, rt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Reads and writes the socket; `None` after its end.
    io: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    /// Whether bytes arrived since the last request was sent.
    responded: Arc<AtomicBool>,
}

impl Connection {
    pub(super) async fn open(
        stream: impl rt::Read + rt::Write + Unpin + Send + 'static,
    ) -> hyper::Result<Self> {
        let responded = Arc::default();
        let stream = TokioIo::new(ResponseReader {
            stream: TokioIo::new(stream),
            responded: Arc::clone(&responded),
            version_bytes: 0,
        });
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder.max_buf_size(256 << 10).handshake(stream).await?;
        Ok(Self {
            sender,
            io: Some(Box::pin(connection)),
            responded,
        })
    }

    /// The head of the response. `None` where the connection closed before any byte of it: the request may be retried. After
    /// the body it is kept in `idle`.
    pub(super) async fn send(
        mut self,
        request: Request<Full<Bytes>>,
        idle: Option<Arc<IdleConnections>>,
    ) -> Option<hyper::Result<Response<ResponseBody>>> {
        self.responded.store(false, Ordering::Relaxed);
        let mut response = pin!(self.sender.send_request(request));
        let response = poll_fn(|context| {
            poll_io(&mut self.io, context);
            match response.as_mut().poll(context) {
                // One that was sent just as the connection ended may stay without a response (hyperium/hyper#2312).
                Poll::Pending if self.io.is_none() => Poll::Ready(None),
                polled => polled.map(Some),
            }
        });
        let response = response.await?;
        if response.is_err() && !self.responded.load(Ordering::Relaxed) {
            return None;
        }
        let body = |incoming| ResponseBody {
            incoming,
            connection: Some(self),
            idle,
        };
        Some(response.map(|response| response.map(body)))
    }

    /// Whether it can take a request.
    fn is_ready(&mut self) -> bool {
        poll_io(&mut self.io, &mut Context::from_waker(Waker::noop()));
        self.io.is_some() && self.sender.is_ready()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sender.fmt(f)
    }
}

fn poll_io(
    io: &mut Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    context: &mut Context<'_>,
) {
    if let Some(reading) = io
        && reading.as_mut().poll(context).is_ready()
    {
        // Its error is that of the response or of the body.
        *io = None;
    }
}

/// The body of a response; polled, it reads its connection. Dropped before its end, it closes that.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    incoming: Incoming,
    connection: Option<Connection>,
    idle: Option<Arc<IdleConnections>>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if let Some(connection) = &mut self.connection {
            poll_io(&mut connection.io, context);
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        if frame.is_none()
            && let (Some(connection), Some(idle)) = (self.connection.take(), self.idle.take())
        {
            idle.put(connection);
        }
        Poll::Ready(frame)
    }
}

/// Open connections without a request, and since when.
#[derive(Default, Debug)]
pub(super) struct IdleConnections(Mutex<Vec<(Connection, Instant)>>);

impl IdleConnections {
    const MAX: usize = 64;
    const TIMEOUT: Duration = Duration::from_secs(30);

    /// One that its server has not closed.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < Self::TIMEOUT);
        std::iter::from_fn(|| idle.pop()).find_map(|(mut connection, _)| {
            let is_ready = connection.is_ready();
            is_ready.then_some(connection)
        })
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < Self::MAX {
            idle.push((connection, Instant::now()));
        }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for ResponseReader<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
