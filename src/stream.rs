//! A text on its way to the client, piece by piece.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The client's side: what the answer's body is made of.
pub(crate) struct TextStream {
    pieces: mpsc::Receiver<Piece>,
    /// Told when the first piece is handed to the socket.
    taken: Option<oneshot::Sender<()>>,
    ended: bool,
}

/// What the sender sends. Without an `End` the body is broken off, whatever the reason: no fault of ours can make half
/// an answer look whole.
pub(crate) enum Piece {
    Text(Bytes),
    End,
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

impl TextStream {
    /// A stream that begins with `first`, its sender, and what tells that `first` was handed to the socket.
    pub(crate) fn begin(first: Bytes) -> (mpsc::Sender<Piece>, oneshot::Receiver<()>, Self) {
        // Few pieces wait: a client that reads slowly slows the model down, not our memory up.
        let (sender, pieces) = mpsc::channel(8);
        let (taken, was_taken) = oneshot::channel();
        // There is room for one.
        let _ = sender.try_send(Piece::Text(first));
        (
            sender,
            was_taken,
            Self {
                pieces,
                taken: Some(taken),
                ended: false,
            },
        )
    }

    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Aborted>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context));
        self.ended = !matches!(piece, Some(Piece::Text(_)));
        if let Some(taken) = self.taken.take() {
            // The sender may have given up on this client already; then this text is a gift.
            let _ = taken.send(());
        }
        Poll::Ready(Some(match piece {
            Some(Piece::Text(text)) => Ok(text),
            Some(Piece::End) => Ok(Bytes::from_static(b"\n")),
            None => Err(Aborted),
        }))
    }
}
