//! How long an answer is waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long the next piece of content is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Without anything from the upstream. Whatever it sends is a sign of life: a comment, reasoning, progress.
    pub(crate) idle: Duration,
    /// In all.
    pub(crate) total: Duration,
}

/// How long a finished answer waits for its usage and the end of the stream.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The timer of an answer.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// Moved only where it is reached or too late, not for each of thousands of pieces.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Since when the next piece is waited for.
    since: Option<Instant>,
    /// When the last sign of life came.
    alive: Option<Instant>,
    /// When the answer was finished.
    finished: Option<Instant>,
}

impl Timer {
    /// The next piece came.
    pub(super) const fn stop(&mut self) {
        self.since = None;
        self.alive = None;
    }

    /// The answer is finished: only its end is waited for.
    pub(super) fn finish(&mut self) {
        self.finished.get_or_insert_with(Instant::now);
    }

    /// Ready when the patience has ended.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        patience: Patience,
        is_alive: bool,
    ) -> Poll<()> {
        if is_alive || self.since.is_none() {
            self.alive = Some(Instant::now());
        }
        let alive = self.alive.unwrap_or_else(Instant::now);
        let since = *self.since.get_or_insert(alive);
        let mut late = (alive + patience.idle).min(since + patience.total);
        if let Some(finished) = self.finished {
            late = late.min(finished + END_TIMEOUT);
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(late)));
        if sleep.deadline() > late {
            sleep.as_mut().reset(late);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= late {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(late);
        }
    }
}
