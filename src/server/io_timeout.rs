//! A write time-out: a write that makes no progress for that long fails, and with it the connection.
//!
//! The end of what a client sends (FIN) is also how hyper notices that it has left, and drops the request. So it is held back
//! while a request is answered that outlasts it. Where that may take long, an interim response is sent from time to time: a client
//! that has left answers it with a reset.
//!
//! hyper bounds how slowly a client may send, not how slowly it may read; and where it responds without reading a body, it
//! reads the next request before the response was sent and buffers every response. So nothing is read while a write waits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::listener::Stream;
use super::probe::EndProbe;
use super::reset;
use crate::http::Exchange;

/// How long, and for how many bytes, a refused body is still read after the response. A proxy that finds the connection
/// closed while it sends reports 502 to its client instead of our response.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 << 20;

pub(super) struct WriteTimeoutStream {
    stream: Box<dyn Stream>,
    timeout: Duration,
    /// Runs only while a write waits, or while lingering.
    deadline: Pin<Box<Sleep>>,
    write_waits: bool,
    /// Whether a read is to be woken when the write goes on.
    read_waits: bool,
    /// Whether the client has ended its side; and whether a read waits to say so.
    ended: bool,
    end_waits: bool,
    /// Where it ended its side before there was a response, whether it is still there.
    probe: Option<EndProbe>,
    /// The request that it carries.
    exchange: Arc<Exchange>,
    /// Whether a close is a reset now.
    resets: bool,
    /// How many bytes may still be discarded, after our end of the connection was closed.
    lingering: Option<usize>,
}

impl WriteTimeoutStream {
    pub(super) fn new(stream: Box<dyn Stream>, timeout: Duration, exchange: Arc<Exchange>) -> Self {
        Self {
            stream,
            timeout,
            deadline: Box::pin(sleep(timeout)),
            write_waits: false,
            read_waits: false,
            ended: false,
            end_waits: false,
            probe: None,
            exchange,
            resets: false,
            lingering: None,
        }
    }

    /// A close is a reset while a response is unfinished.
    fn update_reset(&mut self) {
        let unfinished = self.exchange.unfinished.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.resets, unfinished) != unfinished {
            reset::set(self.stream.as_fd(), unfinished);
        }
    }

    /// The client has ended its side. Who reads a response has no reason to do that but to leave.
    fn start_probe(&mut self) {
        if self.probe.is_none() && !self.exchange.responding.load(Ordering::Relaxed) {
            self.probe = Some(EndProbe::new());
        }
    }

    fn limit<T>(
        &mut self,
        progress: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.write_waits = false;
            if std::mem::take(&mut self.read_waits) {
                context.waker().wake_by_ref();
            }
            return progress;
        }
        if !std::mem::replace(&mut self.write_waits, true) {
            self.deadline.as_mut().reset(Instant::now() + self.timeout);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for WriteTimeoutStream {
    fn drop(&mut self) {
        if self.resets {
            reset::close_when_sent(self.stream.as_fd());
        }
    }
}

impl AsyncRead for WriteTimeoutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.write_waits {
            self.read_waits = true;
            return Poll::Pending;
        }
        if !self.ended {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.ended = true;
            self.start_probe();
            // hyper reads on before it hands over the request that it has just read: only then is known what it is.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.end_waits = self.exchange.outlasts_end.load(Ordering::Relaxed);
        if self.end_waits {
            self.start_probe();
        }
        let this = &mut *self;
        let has_left = match &mut this.probe {
            _ if !this.end_waits => true,
            _ if !this.exchange.probes_end.load(Ordering::Relaxed) => false,
            Some(probe) => {
                let sends = !this.exchange.responding.load(Ordering::Relaxed);
                probe.poll(&mut *this.stream, sends, context).is_ready()
            }
            None => true,
        };
        match has_left {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for WriteTimeoutStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    // Otherwise hyper copies each response into a buffer of its connection, which a slow reader keeps.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Before the first byte of an unfinished response is sent. Only a flush ends that.
        if !self.resets {
            self.update_reset();
        }
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limit(progress, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        if progress.is_ready() {
            // hyper flushes after it has written everything, so a finished response has been sent.
            self.update_reset();
            self.exchange.flushed(context);
            let outlasts_end = self.exchange.outlasts_end.load(Ordering::Relaxed);
            if !outlasts_end && std::mem::take(&mut self.end_waits) {
                context.waker().wake_by_ref();
            }
        }
        self.limit(progress, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.update_reset();
        if self.resets {
            // A shutdown would be an orderly end.
            return Poll::Ready(Ok(()));
        }
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            let refused = self.exchange.refused.load(Ordering::Relaxed);
            self.lingering = Some(if refused { LINGER_BYTES } else { 0 });
            self.deadline.as_mut().reset(Instant::now() + LINGER);
        }
        let mut discarded = [0; 8 << 10];
        while let Some(left @ 1..) = self.lingering
            && self.deadline.as_mut().poll(context).is_pending()
        {
            let mut buffer = ReadBuf::new(&mut discarded);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            self.lingering = Some(match (read, buffer.filled().len()) {
                (Err(_), _) | (Ok(()), 0) => 0,
                (Ok(()), read) => left.saturating_sub(read),
            });
        }
        // Polled again, it is over.
        self.lingering = Some(0);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair(timeout: Duration) -> (WriteTimeoutStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (reader, accepted) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let exchange = Arc::new(Exchange::default());
        exchange.refused.store(true, Ordering::Relaxed);
        (
            WriteTimeoutStream::new(Box::new(accepted.unwrap().0), timeout, exchange),
            reader.unwrap(),
        )
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_times_out() {
        let (mut writer, _reader) = pair(Duration::from_millis(50)).await;
        let error = loop {
            if let Err(error) = writer.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_does_not_time_out() {
        let (mut writer, mut reader) = pair(Duration::from_secs(20)).await;
        let sent = tokio::spawn(async move { writer.write_all(&vec![7; 8 << 20]).await });
        let (mut received, mut buffer) = (0, vec![0; 1000]);
        while received < 8 << 20 {
            received += reader.read(&mut buffer).await.unwrap();
            tokio::task::yield_now().await;
        }
        sent.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_is_read_from_a_client_while_a_write_to_it_waits() {
        let (mut writer, mut reader) = pair(Duration::from_secs(20)).await;
        reader.write_all(b"more").await.unwrap();
        let mut bytes = [0; 4];
        let mut read = |writer: &mut WriteTimeoutStream, context: &mut Context<'_>| {
            Pin::new(writer).poll_read(context, &mut ReadBuf::new(&mut bytes))
        };
        let write = |writer: &mut WriteTimeoutStream, context: &mut Context<'_>| {
            Pin::new(writer).poll_write(context, &[0; 65_536])
        };
        poll_fn(|context| {
            while write(&mut writer, context).is_ready() {}
            assert!(read(&mut writer, context).is_pending());
            Poll::Ready(())
        })
        .await;

        let reading = async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await };
        tokio::spawn(reading);
        // One task, as hyper's: the write that goes on wakes the waiting read.
        poll_fn(|context| {
            let read = read(&mut writer, context);
            if read.is_pending() {
                let _ = write(&mut writer, context);
            }
            read
        })
        .await
        .unwrap();
        assert_eq!(&bytes, b"more");
    }

    #[tokio::test]
    async fn the_rest_of_a_refused_body_is_discarded_within_bounds() {
        let (mut closing, mut sender) = pair(Duration::from_secs(20)).await;
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while sender.write_all(&[0; 65_536]).await.is_ok() {
                sent += 65_536;
            }
            sent
        });
        closing.shutdown().await.unwrap();
        drop(closing);
        // What the kernel holds comes on top.
        let sent = sending.await.unwrap();
        assert!((LINGER_BYTES..8 * LINGER_BYTES).contains(&sent), "{sent}");

        let (mut closing, _silent) = pair(Duration::from_secs(20)).await;
        tokio::time::timeout(2 * LINGER, closing.shutdown())
            .await
            .unwrap()
            .unwrap();
    }
}
