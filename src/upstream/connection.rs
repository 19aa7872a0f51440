//! A connection to an upstream that knows whether its last request may be retried. It reads an HTTP/1.0 response as
//! HTTP/1.1: hyper refuses `Transfer-Encoding: chunked` in an HTTP/1.0 response (RFC 9112, 6.1), which is how R3MES nodes
//! stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use hyper::http::Extensions;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tower_service::Service;

/// Wraps the connections of another connector in [`UpstreamStream`].
#[derive(Clone, Debug)]
pub(super) struct Connector<C>(pub(super) C);

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri, Response: Send, Error: Send, Future: Send + 'static>,
{
    type Response = TokioIo<UpstreamStream<TokioIo<C::Response>>>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.call(address);
        Box::pin(async move {
            let stream = TokioIo::new(connecting.await?);
            Ok(TokioIo::new(UpstreamStream::new(stream)))
        })
    }
}

/// Whether the last request was sent on a reused connection, and no byte of its response has arrived. The channel closes with
/// the stream.
#[derive(Clone)]
struct Stale(watch::Receiver<bool>);

impl Stale {
    fn of(connection: Option<&Connected>) -> Option<Self> {
        let mut extras = Extensions::new();
        connection?.get_extras(&mut extras);
        extras.remove()
    }
}

/// Whether a request failed because the server closed the reused connection before it responded.
pub(super) fn is_stale(connection: Option<&Connected>) -> bool {
    Stale::of(connection).is_some_and(|Stale(stale)| *stale.borrow())
}

/// Waits until a request is lost with its connection. hyper hands a request to the task of its connection through a channel;
/// one that is sent just as the task ends stays there, without a response or an error (hyperium/hyper#2312).
pub(super) async fn lost(mut connection: CaptureConnection) -> Option<()> {
    /// By then hyper has returned what it received, or chosen another connection.
    const GRACE: Duration = Duration::from_millis(100);
    let mut closed = None::<Stale>;
    loop {
        let mut link = Stale::of(connection.wait_for_connection_metadata().await.as_ref())?;
        if closed.is_some_and(|closed| closed.0.same_channel(&link.0)) {
            return Some(());
        }
        while link.0.changed().await.is_ok() {}
        tokio::time::sleep(GRACE).await;
        closed = Some(link);
    }
}

/// A stream between hyper and an upstream.
pub(super) struct UpstreamStream<S> {
    stream: S,
    stale: watch::Sender<bool>,
    /// Whether bytes arrived since the last request began.
    responded: bool,
    /// How many bytes of [`VERSION`] have arrived; all of them if nothing is left to rewrite.
    version_bytes: usize,
}

/// The beginning of a response whose version is rewritten.
const VERSION: &[u8] = b"HTTP/1.0";

impl<S> UpstreamStream<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            stale: watch::Sender::default(),
            responded: false,
            version_bytes: 0,
        }
    }

    /// A write after a response begins another request.
    fn sent(&mut self) {
        if std::mem::take(&mut self.responded) {
            self.stale.send_replace(true);
        }
    }

    fn received(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() && !std::mem::replace(&mut self.responded, true) {
            self.stale.send_replace(false);
        }
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

impl<S: AsyncRead + Unpin> AsyncRead for UpstreamStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.received(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UpstreamStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sent();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connection> Connection for UpstreamStream<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Stale(self.stale.subscribe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_request_on_a_reused_connection_is_stale_until_its_answer_begins() {
        let (near, mut far) = duplex(64);
        let mut stream = UpstreamStream::new(near);
        let stale = stream.stale.subscribe();
        let is_stale = || *stale.borrow();
        for reused in [false, true, true] {
            for part in ["POST / HTTP/1.1\r\n", "\r\n"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                assert_eq!(is_stale(), reused);
            }
            stream.flush().await.unwrap();
            assert_eq!(is_stale(), reused);
            for byte in [b"H", b"T"] {
                far.write_all(byte).await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                assert!(!is_stale());
            }
        }
        assert!(stale.has_changed().is_ok());
        drop(stream);
        assert!(stale.has_changed().is_err());
    }

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
                let mut stream = UpstreamStream::new(tokio::io::empty());
                let mut bytes = sent.as_bytes().to_vec();
                let (first, rest) = bytes.split_at_mut(at);
                stream.received(first);
                stream.received(rest);
                assert_eq!(bytes, expected.as_bytes(), "{at}");
            }
        }
    }
}
