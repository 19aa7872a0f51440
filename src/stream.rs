//! An answer of a model on its way to the client, piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};

/// The client's side: what the answer's body is made of.
pub(crate) struct ModelStream {
    pieces: mpsc::Receiver<Piece>,
    /// The pieces of one poll; empty between two.
    batch: Vec<Piece>,
    /// Signalled when the first piece is handed to the socket.
    first_sent: Option<oneshot::Sender<()>>,
    ended: bool,
}

/// What the sender sends. Without an `End` the body is broken off, whatever the reason: no fault of ours can make half
/// an answer look whole.
pub(crate) enum Piece {
    Part(Bytes),
    /// The last bytes.
    End(&'static str),
}

/// The upstream broke off: the connection is cut, so that no client takes the text for whole.
#[derive(Debug)]
pub(crate) struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer was broken off")
    }
}

impl std::error::Error for Aborted {}

impl ModelStream {
    /// Pieces that may wait: a client that reads slowly slows the model down, not our memory up.
    const ROOM: usize = 8;

    /// A stream that begins with `first`, its sender, and a signal that `first` was handed to the socket. Once that is
    /// closed, the stream hands out nothing any more.
    pub(crate) fn begin(first: Bytes) -> (mpsc::Sender<Piece>, oneshot::Receiver<()>, Self) {
        let (sender, pieces) = mpsc::channel(Self::ROOM);
        let (first_sent, was_sent) = oneshot::channel();
        // There is room for one.
        let _ = sender.try_send(Piece::Part(first));
        let stream = Self {
            pieces,
            batch: Vec::with_capacity(Self::ROOM),
            first_sent: Some(first_sent),
            ended: false,
        };
        (sender, was_sent, stream)
    }

    /// A stream of one text that was paid already.
    pub(crate) fn paid(text: Bytes, last: &'static str) -> Self {
        let (sender, _, mut stream) = Self::begin(text);
        stream.first_sent = None;
        // There is room for one more.
        let _ = sender.try_send(Piece::End(last));
        stream
    }

    /// Everything that is ready, as one.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let count = ready!(
            self.pieces
                .poll_recv_many(context, &mut self.batch, Self::ROOM)
        );
        if count == 0 {
            self.ended = true;
            return Poll::Ready(Some(Err(Aborted)));
        }
        if let Some(first_sent) = self.first_sent.take()
            && first_sent.send(()).is_err()
        {
            // The sender gave up on this client, and gave the price back.
            self.batch.clear();
            self.ended = true;
            return Poll::Ready(Some(Err(Aborted)));
        }
        let mut pieces = self.batch.drain(..).map(|piece| match piece {
            Piece::Part(part) => part,
            Piece::End(last) => {
                self.ended = true;
                Bytes::from_static(last.as_bytes())
            }
        });
        let first = pieces.next().unwrap_or_default();
        let mut rest = pieces.peekable();
        if rest.peek().is_none() {
            return Poll::Ready(Some(Ok(first)));
        }
        let mut joined = BytesMut::from(first);
        rest.for_each(|part| joined.extend_from_slice(&part));
        Poll::Ready(Some(Ok(joined.freeze())))
    }
}

impl Body for ModelStream {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let next = ready!(self.poll_next(context));
        Poll::Ready(next.map(|part| part.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(stream: &mut ModelStream) -> Option<Result<Bytes, Aborted>> {
        std::future::poll_fn(|context| stream.poll_next(context)).await
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
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "paid\n");
        assert!(next(&mut stream).await.is_none());
    }
}
