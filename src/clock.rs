//! The clock: all code reads the time here, so that a test can advance it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::model::Timestamp;

/// The system's clocks plus an offset that only grows, for tests and simulations; only the wall clock can also be set back.
/// Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_nanos: Arc<AtomicU64>,
    back_nanos: Arc<AtomicU64>,
    advanced: Arc<Notify>,
}

impl Clock {
    /// The monotonic clock, for durations.
    #[must_use]
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let back = Duration::from_nanos(self.back_nanos.load(Ordering::SeqCst));
        Timestamp::from(SystemTime::now() + self.ahead() - back)
    }

    /// Advances both clocks.
    pub fn advance(&self, by: Duration) {
        self.ahead_nanos
            .fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Waits until the monotonic clock is at `instant`.
    pub(crate) async fn sleep_until(&self, instant: Instant) {
        loop {
            // Subscribed before the time is read, so that no advance after that is missed.
            let advanced = self.advanced.notified();
            let left = instant.saturating_duration_since(self.instant());
            if left.is_zero() || tokio::time::timeout(left, advanced).await.is_err() {
                return;
            }
        }
    }

    /// Sets the wall clock back; the monotonic clock goes on.
    pub fn set_back(&self, by: Duration) {
        self.back_nanos
            .fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead_nanos.load(Ordering::SeqCst))
    }
}

impl governor::clock::Clock for Clock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.instant()
    }
}
