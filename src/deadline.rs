//! A deadline for one wait after the other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Gives each of many waits the same time. Where `timeout` puts a timer into the runtime's wheel for every wait and takes
/// it out again, this one is moved only when it has run out: of a stream of pieces most waits touch no timer.
pub(crate) struct Deadline {
    patience: Duration,
    /// Never later than the end of the wait under way.
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            timer: Box::pin(sleep(patience)),
        }
    }

    /// What `work` gives, or `None` where that takes too long.
    pub(crate) async fn within<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut until = None;
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.patience);
            loop {
                ready!(self.timer.as_mut().poll(context));
                if Instant::now() >= until {
                    return Poll::Ready(None);
                }
                self.timer.as_mut().reset(until);
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn each_wait_has_the_whole_time_whatever_came_before() {
        const PATIENCE: Duration = Duration::from_millis(40);
        let mut deadline = Deadline::new(PATIENCE);
        for _ in 0..3 {
            assert_eq!(deadline.within(ready(7)).await, Some(7));
            let began = Instant::now();
            let half = PATIENCE / 2;
            assert_eq!(deadline.within(sleep(half)).await, Some(()));
            assert!(began.elapsed() >= half);
            let began = Instant::now();
            assert_eq!(deadline.within(pending::<()>()).await, None);
            assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
        }
    }
}
