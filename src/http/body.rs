//! The body of a response: its end writes the access-log line, and after a failure the bytes written before still reach the
//! client.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Version;
use hyper::body::{Body, Frame, SizeHint};

use super::access_log::AccessLogGuard;
use super::response::Content;
use super::route::Route;
use crate::stream::Aborted;

/// State shared between a request and the socket of its connection.
#[derive(Default)]
pub(crate) struct Exchange {
    /// Whether a request has come on the connection.
    pub(crate) requested: AtomicBool,
    /// Whether the request was answered while its body may still be coming.
    pub(crate) refused: AtomicBool,
    /// Whether the request is answered although the client has closed its side of the connection.
    pub(crate) outlasts_end: AtomicBool,
    /// Whether such a client is probed, as an answer that it may not wait for takes long.
    pub(crate) probes_end: AtomicBool,
    /// Whether the response was handed to hyper, and is not yet written.
    pub(crate) responding: AtomicBool,
    /// Whether a response is being written that the end of the connection may delimit: HTTP/1.0.
    pub(crate) unfinished: AtomicBool,
    /// Whether a body that failed waits until everything before its failure is written.
    awaits_flush: AtomicBool,
}

impl Exchange {
    /// A request begins, or its response has ended.
    pub(crate) fn reset(&self) {
        for flag in [&self.outlasts_end, &self.probes_end, &self.responding] {
            flag.store(false, Ordering::Relaxed);
        }
    }

    /// A request was read whole. `nc -N` closes its side after that. Where an answer may take long, of a model above all, that may
    /// be a client that has left, which is probed; one of HTTP/1.0 cannot be.
    pub(super) fn outlast(&self, route: Option<&Route>, version: Version) {
        let probes_end = route.is_some_and(|route| route.unbounded);
        let outlasts_end = route.is_some() && (!probes_end || version > Version::HTTP_10);
        self.probes_end.store(probes_end, Ordering::Relaxed);
        self.outlasts_end.store(outlasts_end, Ordering::Relaxed);
    }

    /// The socket has written everything there was.
    pub(crate) fn flushed(&self, context: &Context<'_>) {
        if self.awaits_flush.swap(false, Ordering::Relaxed) {
            context.waker().wake_by_ref();
        }
    }
}

/// The body of every response.
pub(crate) struct ResponseBody {
    pub(super) content: Content,
    /// Dropped when hyper is done with the body.
    pub(super) log_guard: Box<AccessLogGuard>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) is_http_1_0: bool,
    pub(super) failed: bool,
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.exchange.reset();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        // hyper discards unwritten bytes when a body fails, and writes while a body is pending.
        if self.failed {
            return match self.exchange.awaits_flush.load(Ordering::Relaxed) {
                true => Poll::Pending,
                false => Poll::Ready(Some(Err(Aborted))),
            };
        }
        if self.is_http_1_0 {
            self.exchange.unfinished.store(true, Ordering::Relaxed);
        }
        // A host's body may panic: it must not end like a whole one.
        let poll = || Pin::new(&mut self.content).poll_frame(context);
        let polled = catch_unwind(AssertUnwindSafe(poll));
        let next = ready!(polled.unwrap_or(Poll::Ready(Some(Err(Aborted)))));
        match &next {
            Some(Err(_)) => {
                self.exchange.awaits_flush.store(true, Ordering::Relaxed);
                self.failed = true;
                return Poll::Pending;
            }
            Some(Ok(frame)) => {
                self.log_guard.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            None => {}
        }
        if next.is_none() || self.is_end_stream() {
            self.exchange.unfinished.store(false, Ordering::Relaxed);
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
