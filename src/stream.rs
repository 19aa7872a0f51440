//! The body of a paid response.
//!
//! hyper polls it in the task of the client's connection, and there it reads the model's answer too: from the socket of the
//! upstream to that of the client nothing is handed from task to task. The task that owns the hold learns how the answer
//! ended ([`Relaying`]), charges it, and then gives what the client reads as the end.

mod patience;

pub(crate) use patience::Patience;

use std::fmt::Display;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::model::Credits;
use crate::timings::RequestTimings;
use crate::upstream::answer::Answer;
use crate::upstream::{ResponseBody, UpstreamError};

/// The body of the response.
pub(crate) struct ModelStream<B = ResponseBody> {
    /// The answer, as long as it comes.
    relay: Option<Relay<B>>,
    /// What follows it.
    end: Option<oneshot::Receiver<End>>,
    /// The last bytes.
    last: Option<Bytes>,
    aborts: bool,
    /// What was charged, where that is known before the first byte.
    pub(crate) charged: Option<Credits>,
}

/// What follows the content. Without it the body is aborted, so that no bug can make an incomplete response look complete.
#[derive(Debug)]
pub(crate) enum End {
    /// The last bytes of a whole response.
    Whole(Bytes),
    /// An error that the client reads; then the body is aborted.
    Broken(Bytes),
}

/// How the upstream's part of a response ended.
#[derive(Debug)]
pub(crate) enum Relayed {
    Whole,
    ClientLeft,
    /// The owner of the hold gave the end before.
    Stopped,
    Broken(UpstreamError),
}

/// The upstream aborted: the connection is closed, so that no client takes the text for complete.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off")]
pub(crate) struct Aborted;

/// A response that is being sent, as the owner of the hold has it.
pub(crate) struct Relaying<B = ResponseBody> {
    is_taken: Arc<OnceLock<bool>>,
    ended: oneshot::Receiver<(Answer<B>, Relayed)>,
}

impl<B> Relaying<B> {
    /// Waits until the upstream's part is over. `None` where the first piece was not handed to the socket within `patience`;
    /// from then on it will not be.
    pub(crate) async fn ended(mut self, patience: Duration) -> Option<(Answer<B>, Relayed)> {
        // hyper takes the first piece as soon as the head is written; one that does not is a client that does not read.
        let early = timeout(patience, &mut self.ended).await;
        if !self.is_taken.get_or_init(|| false) {
            return None;
        }
        match early {
            Ok(ended) => ended.ok(),
            Err(_) => self.ended.await.ok(),
        }
    }
}

/// An answer on its way to the client.
struct Relay<B> {
    first: Option<Bytes>,
    /// Set one time: `true` when the first piece is handed out, `false` when its client was given up.
    is_taken: Arc<OnceLock<bool>>,
    answer: Option<Answer<B>>,
    ended: Option<oneshot::Sender<(Answer<B>, Relayed)>>,
    /// How long the next piece may take.
    patience: Patience,
    /// Since when the next piece is waited for.
    waiting: Option<Instant>,
    timings: Arc<RequestTimings>,
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Relay<B> {
    /// The next piece; `None` when the upstream's part is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            let is_taken = *self.is_taken.get_or_init(|| true);
            return Poll::Ready(is_taken.then_some(first));
        }
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(None);
        };
        let next = answer.poll_next(context);
        let (received, is_finished) = (answer.received(), answer.is_finished());
        if next.is_ready() {
            self.waited();
        }
        let ended = match next {
            Poll::Ready(Ok(Some(piece))) => return Poll::Ready(Some(piece)),
            Poll::Ready(Ok(None)) => Relayed::Whole,
            Poll::Ready(Err(error)) => Relayed::Broken(error),
            Poll::Pending => {
                self.waiting.get_or_insert_with(Instant::now);
                ready!(self.patience.poll(received, is_finished, context));
                match is_finished {
                    true => Relayed::Whole,
                    false => Relayed::Broken(UpstreamError::Timeout("the next event")),
                }
            }
        };
        self.end(ended);
        Poll::Ready(None)
    }
}

impl<B> Relay<B> {
    /// Nothing is waited for now.
    fn waited(&mut self) {
        if let Some(since) = self.waiting.take() {
            let now = Instant::now();
            self.patience.renew(now);
            self.timings.add_waited(now - since);
        }
    }

    fn end(&mut self, ended: Relayed) {
        self.waited();
        if let (Some(answer), Some(owner)) = (self.answer.take(), self.ended.take()) {
            let _ = owner.send((answer, ended));
        }
    }
}

impl<B> Drop for Relay<B> {
    fn drop(&mut self) {
        self.end(Relayed::ClientLeft);
    }
}

impl<B> ModelStream<B> {
    /// A body that begins with `first` and relays the rest of the answer; what the owner of the hold has of it, and takes what
    /// follows.
    pub(crate) fn relay(
        first: Bytes,
        answer: Answer<B>,
        patience: Patience,
        timings: Arc<RequestTimings>,
    ) -> (Self, Relaying<B>, oneshot::Sender<End>) {
        let (ended, was_ended) = oneshot::channel();
        let (end, given) = oneshot::channel();
        let is_taken = Arc::<OnceLock<bool>>::default();
        let relay = Relay {
            first: Some(first),
            is_taken: Arc::clone(&is_taken),
            answer: Some(answer),
            ended: Some(ended),
            patience,
            waiting: None,
            timings,
        };
        let body = Self {
            relay: Some(relay),
            end: Some(given),
            last: None,
            aborts: false,
            charged: None,
        };
        let ended = was_ended;
        (body, Relaying { is_taken, ended }, end)
    }

    /// A body of one text that is paid already.
    pub(crate) const fn paid(text: Bytes, charged: Credits) -> Self {
        Self {
            relay: None,
            end: None,
            last: Some(text),
            aborts: false,
            charged: Some(charged),
        }
    }

    /// The next of the last bytes. Not more than hyper buffers: it drops a body when it has the last piece, and with the body what
    /// counts its memory, however long a client takes to read.
    fn next_of_last(&mut self) -> Option<Bytes> {
        const PIECE: usize = 64 << 10;
        let mut last = self.last.take()?;
        let piece = last.split_to(last.len().min(PIECE));
        self.last = Some(last).filter(|last| !last.is_empty());
        Some(piece)
    }

    fn take_end(&mut self, end: Option<End>) {
        self.end = None;
        match end {
            Some(End::Whole(last)) => self.last = Some(last),
            Some(End::Broken(error)) => (self.last, self.aborts) = (Some(error), true),
            None => self.aborts = true,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Body for ModelStream<B> {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self;
        let given = match &mut this.end {
            Some(end) => Pin::new(end).poll(context),
            None => Poll::Pending,
        };
        if let Some(relay) = &mut this.relay {
            match &given {
                Poll::Ready(_) => relay.end(Relayed::Stopped),
                Poll::Pending => {
                    if let Some(piece) = ready!(relay.poll(context)) {
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
            }
            this.relay = None;
        }
        if this.end.is_some() {
            let end = ready!(given).ok();
            this.take_end(end);
        }
        let last = this.next_of_last().map(|last| Ok(Frame::data(last)));
        let aborted = || std::mem::take(&mut this.aborts).then_some(Err(Aborted));
        Poll::Ready(last.or_else(aborted))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() && self.last.is_none() && !self.aborts
    }

    fn size_hint(&self) -> SizeHint {
        match &self.last {
            Some(last) if self.end.is_none() && !self.aborts => {
                SizeHint::with_exact(last.len() as u64)
            }
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
