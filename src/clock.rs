//! Where the time comes in: everything that expires, cools down or is dated asks this clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::model::Timestamp;

/// The system's clocks plus an offset that only ever grows, so that a test (or a simulation in an embedder) can let an
/// hour pass without waiting for it; the time of day alone can be set back, as a correction does. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_nanos: Arc<AtomicU64>,
    back_nanos: Arc<AtomicU64>,
    advanced: Arc<Notify>,
}

impl Clock {
    /// The monotonic time, for durations.
    #[must_use]
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// The time of day, for what is written down.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let back = Duration::from_nanos(self.back_nanos.load(Ordering::SeqCst));
        Timestamp::from(SystemTime::now() + self.ahead() - back)
    }

    /// Lets `by` pass at once.
    pub fn advance(&self, by: Duration) {
        self.ahead_nanos.fetch_add(nanos(by), Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Waits until this clock's monotonic time is `instant`.
    pub(crate) async fn sleep_until(&self, instant: Instant) {
        loop {
            // Before the time is read, so that no advance after that is missed.
            let advanced = self.advanced.notified();
            let left = instant.saturating_duration_since(self.instant());
            if left.is_zero() || tokio::time::timeout(left, advanced).await.is_err() {
                return;
            }
        }
    }

    /// Sets the time of day back by `by`; the monotonic time goes on.
    pub fn set_back(&self, by: Duration) {
        self.back_nanos.fetch_add(nanos(by), Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead_nanos.load(Ordering::SeqCst))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl governor::clock::Clock for Clock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.instant()
    }
}
