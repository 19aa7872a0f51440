//! The body of a streamed chat response, sent piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};

/// The receiving side: the body of the response.
pub(crate) struct ModelStream {
    pieces: mpsc::Receiver<Piece>,
    /// Signalled when the first piece is handed to the socket.
    first_sent: Option<oneshot::Sender<()>>,
    ended: bool,
}

/// A message of the sender. Without an `End` the body is aborted, so that no bug can make an incomplete response look
/// complete.
pub(crate) enum Piece {
    Part(Bytes),
    /// The last bytes.
    End(&'static str),
}

/// The upstream aborted: the connection is closed, so that no client takes the text for complete.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off")]
pub(crate) struct Aborted;

impl ModelStream {
    /// The capacity of the channel: a slow client slows the model down instead of using memory.
    const CAPACITY: usize = 8;

    /// A stream that begins with `first`, its sender, and a signal that `first` was handed to the socket. When that is
    /// closed, the stream ends.
    pub(crate) fn begin(first: Bytes) -> (mpsc::Sender<Piece>, oneshot::Receiver<()>, Self) {
        let (sender, pieces) = mpsc::channel(Self::CAPACITY);
        let (first_sent, was_sent) = oneshot::channel();
        // The channel is empty.
        let _ = sender.try_send(Piece::Part(first));
        let stream = Self {
            pieces,
            first_sent: Some(first_sent),
            ended: false,
        };
        (sender, was_sent, stream)
    }

    /// A stream of one text that is paid already.
    pub(crate) fn paid(text: Bytes, last: &'static str) -> Self {
        let (sender, _, mut stream) = Self::begin(text);
        stream.first_sent = None;
        // The channel has capacity for a second.
        let _ = sender.try_send(Piece::End(last));
        stream
    }
}

impl Body for ModelStream {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context));
        // Where nothing receives the signal, the sender gave up on this client and released the price.
        let released = |signal: oneshot::Sender<()>| signal.send(()).is_err();
        let (data, ended) = match piece {
            Some(_) if self.first_sent.take().is_some_and(released) => (Err(Aborted), true),
            Some(Piece::Part(part)) => (Ok(part), false),
            Some(Piece::End(last)) => (Ok(Bytes::from_static(last.as_bytes())), true),
            None => (Err(Aborted), true),
        };
        self.ended = ended;
        Poll::Ready(Some(data.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn next(stream: &mut ModelStream) -> Option<Result<Bytes, Aborted>> {
        let frame = stream.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn an_abandoned_stream_yields_nothing() {
        let (sender, mut was_sent, mut stream) = ModelStream::begin("not paid".into());
        let _ = sender.try_send(Piece::End("\n"));
        was_sent.close();
        assert!(was_sent.try_recv().is_err());
        assert!(matches!(next(&mut stream).await, Some(Err(Aborted))));
        assert!(next(&mut stream).await.is_none());
    }

    #[tokio::test]
    async fn the_sender_learns_that_the_first_piece_was_handed_out() {
        let (_sender, mut was_sent, mut stream) = ModelStream::begin("paid".into());
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "paid");
        was_sent.close();
        assert!(was_sent.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_stream_of_a_paid_text_yields_all_of_it() {
        let mut stream = ModelStream::paid("paid".into(), "\n");
        for piece in ["paid", "\n"] {
            assert_eq!(next(&mut stream).await.unwrap().unwrap(), piece);
        }
        assert!(next(&mut stream).await.is_none());
    }
}
