use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::Finish;
use crate::call::Content;
use crate::stream::Aborted;

/// The body of every answer.
pub(crate) struct ReplyBody {
    content: Content,
    /// Writes the request's line and counts it once hyper is done with the body.
    finish: Box<Finish>,
}

impl ReplyBody {
    pub(crate) fn new(content: Content, finish: Box<Finish>) -> Self {
        Self { content, finish }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let next = match &mut self.content {
            Content::Bytes(bytes) if bytes.is_empty() => None,
            Content::Bytes(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Content::Chat(chat) => {
                ready!(chat.poll_next(context)).map(|part| part.map(Frame::data))
            }
            Content::Own(own) => ready!(own.poll_frame(context)),
        };
        if let Some(Ok(frame)) = &next {
            self.finish.bytes += frame.data_ref().map_or(0, |part| part.len() as u64);
        }
        Poll::Ready(next)
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
