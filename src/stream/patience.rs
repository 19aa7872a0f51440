//! How long the next piece of an answer is waited for: while its server shows life. Whatever comes of the body, a comment,
//! reasoning or progress among it, renews the wait, up to a deadline that content alone moves.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long a finished answer waits for its usage and the end of the upstream's stream.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// The deadline where the configured time is beyond what a clock can hold.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// The deadlines of one answer.
#[derive(Debug)]
pub(crate) struct Patience {
    /// How long nothing may come.
    idle: Duration,
    /// How long no content may come.
    whole: Duration,
    /// For the next content.
    deadline: Instant,
    /// Bytes that came.
    received: usize,
    /// Since when nothing came.
    quiet_since: Option<Instant>,
    /// When the wait for the end of a finished answer began.
    finished_at: Option<Instant>,
    /// Moved only where it is reached or too late, not for each of thousands of pieces.
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// From now; without content for `whole` at most.
    pub(crate) fn start(idle: Duration, whole: Duration) -> Self {
        let deadline = after(Instant::now(), whole);
        Self {
            idle,
            whole,
            deadline,
            received: 0,
            quiet_since: None,
            finished_at: None,
            timer: Box::pin(sleep_until(deadline)),
        }
    }

    /// The same, with another time in which nothing may come.
    pub(crate) fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A piece came, and so the deadline of the next one begins.
    pub(crate) fn renew(&mut self, now: Instant) {
        self.quiet_since = None;
        self.deadline = after(now, self.whole);
    }

    /// Ready when the time for the next piece is over. So many bytes of the body have come.
    pub(crate) fn poll(
        &mut self,
        received: usize,
        is_finished: bool,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let late = self.expires(received, is_finished, Instant::now());
        if self.timer.deadline() > late {
            self.timer.as_mut().reset(late);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if self.timer.deadline() >= late {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(late);
        }
    }

    fn expires(&mut self, received: usize, is_finished: bool, now: Instant) -> Instant {
        if received != self.received {
            self.received = received;
            self.quiet_since = None;
        }
        let quiet_since = *self.quiet_since.get_or_insert(now);
        let late = match is_finished {
            // Comments do not renew this one.
            true => Some(*self.finished_at.get_or_insert(now) + END_TIMEOUT),
            false => quiet_since.checked_add(self.idle),
        };
        late.map_or(self.deadline, |late| late.min(self.deadline))
    }
}

fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_comes_renews_the_wait_up_to_the_deadline_of_the_content() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::start(3 * second, 10 * second);
        let start = patience.deadline - 10 * second;
        let mut expires = |received, is_finished, at: u32| {
            patience.expires(received, is_finished, start + at * second) - start
        };
        assert_eq!(expires(0, false, 1), 4 * second);
        // Nothing came.
        assert_eq!(expires(0, false, 3), 4 * second);
        assert_eq!(expires(7, false, 3), 6 * second);
        assert_eq!(expires(8, false, 6), 9 * second);
        assert_eq!(expires(9, false, 9), 10 * second);
        // After its finish it has two seconds, whatever comes.
        assert_eq!(expires(10, true, 5), 7 * second);
        assert_eq!(expires(11, true, 6), 7 * second);
    }
}
