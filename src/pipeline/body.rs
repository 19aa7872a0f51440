use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::AccessLogGuard;
use crate::call::Content;
use crate::stream::Aborted;

/// What a connection's socket has to know of the request that it carries.
#[derive(Default)]
pub(crate) struct Exchange {
    /// Whether the request was refused while its body may still be coming.
    pub(crate) refused: AtomicBool,
    /// Whether an answer is under way that only the connection's end delimits: HTTP/1.0, without a length.
    pub(crate) unfinished: AtomicBool,
    /// Whether a body that failed waits until everything before its failure is written.
    awaits_flush: AtomicBool,
}

impl Exchange {
    /// Everything that there was to write is written.
    pub(crate) fn flushed(&self, context: &Context<'_>) {
        if self.awaits_flush.swap(false, Ordering::Relaxed) {
            context.waker().wake_by_ref();
        }
    }
}

/// The body of every answer.
pub(crate) struct ReplyBody {
    content: Content,
    /// Writes the request's line and counts it once hyper is done with the body.
    finish: Box<AccessLogGuard>,
    pub(super) exchange: Option<Arc<Exchange>>,
    failed: bool,
}

impl ReplyBody {
    pub(crate) fn new(content: Content, finish: Box<AccessLogGuard>) -> Self {
        Self {
            content,
            finish,
            exchange: None,
            failed: false,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        if !self.failed {
            let next = match &mut self.content {
                Content::Bytes(bytes) if bytes.is_empty() => None,
                Content::Bytes(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
                Content::Chat(chat) => {
                    ready!(chat.poll_next(context)).map(|part| part.map(Frame::data))
                }
                Content::Own(own) => ready!(own.poll_frame(context)),
            };
            let exchange = self.exchange.as_deref();
            match next {
                Some(Err(Aborted)) => {
                    if let Some(exchange) = exchange {
                        exchange.awaits_flush.store(true, Ordering::Relaxed);
                    }
                    self.failed = true;
                }
                next => {
                    if let Some(Ok(frame)) = &next {
                        self.finish.bytes += frame.data_ref().map_or(0, |part| part.len() as u64);
                    }
                    if let Some(exchange) = &self.exchange
                        && (next.is_none() || self.is_end_stream())
                    {
                        exchange.unfinished.store(false, Ordering::Relaxed);
                    }
                    return Poll::Ready(next);
                }
            }
        }
        // hyper drops what it has not written yet when a body fails, and writes while a body has nothing for now.
        match &self.exchange {
            Some(exchange) if exchange.awaits_flush.load(Ordering::Relaxed) => Poll::Pending,
            _ => Poll::Ready(Some(Err(Aborted))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Chat(_) => false,
            Content::Own(own) => own.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Chat(_) => SizeHint::default(),
            Content::Own(own) => own.size_hint(),
        }
    }
}
