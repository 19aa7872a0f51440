use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::Finish;
use crate::call::Content;
use crate::stream::Aborted;

/// The body of every answer.
pub(crate) struct ReplyBody {
    content: Content,
    /// Writes the request's line and counts it once hyper is done with the body.
    _finish: Finish,
}

impl ReplyBody {
    pub(crate) fn new(content: Content, finish: Finish) -> Self {
        Self {
            content,
            _finish: finish,
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
        match &mut self.content {
            Content::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Chat(chat) => chat
                .poll_next(context)
                .map(|next| next.map(|text| text.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Bytes(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Chat(_) => SizeHint::default(),
        }
    }
}
