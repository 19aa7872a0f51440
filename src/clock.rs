//! The clock: all code reads the time here, so that a test can advance it and a jump of the wall clock is detected.

mod jump;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use self::jump::JumpDetector;
use crate::model::{ClockReading, Timestamp};

/// The system's clocks plus an offset that only grows, for tests and simulations; only the wall clock can also be set.
/// Clones share both.
#[derive(Clone, Debug)]
pub struct Clock {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    ahead_nanos: AtomicU64,
    /// What a test set the wall clock ahead by, in milliseconds.
    set_millis: AtomicI64,
    /// The last stamp, in unix milliseconds.
    last_stamp: AtomicI64,
    advanced: Notify,
    detector: Mutex<JumpDetector>,
}

impl Default for Clock {
    fn default() -> Self {
        let (wall, boot) = (wall_clock(), since_boot());
        Self {
            state: Arc::new(State {
                ahead_nanos: AtomicU64::new(0),
                set_millis: AtomicI64::new(0),
                last_stamp: AtomicI64::new(i64::MIN / 2),
                advanced: Notify::new(),
                detector: Mutex::new(JumpDetector::new(wall, boot, installed())),
            }),
        }
    }
}

/// Unix milliseconds; 0 before 1970.
fn wall_clock() -> i64 {
    Timestamp::from(SystemTime::now()).millis()
}

/// Milliseconds since the machine's boot. Unlike [`Instant`] it goes on while the machine is suspended, as the wall clock does.
fn since_boot() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// When the program's file was written, in unix milliseconds; 0 where that is unknown.
fn installed() -> i64 {
    let file = std::fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    file.map_or(0, |at| Timestamp::from(at).millis())
}

/// The boot of this machine, if it has a name.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

impl Clock {
    /// The monotonic clock, for durations.
    #[must_use]
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// The time: the wall clock, but for a jump of more than five minutes against the clock since boot, after which the time
    /// goes on as before. The wall clock is followed when it has held for an hour, or [`Clock::accept`] is called.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.with(JumpDetector::now)
    }

    /// [`Clock::now`], but later than any before it, so that what is stored stays in order while the clock is corrected.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        let now = self.now().millis();
        let next = |last: i64| match last - now {
            // More is no correction.
            0..=jump::LARGEST_STEP => last + 1,
            _ => now,
        };
        let last = &self.state.last_stamp;
        let previous =
            last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(next(last)));
        Timestamp::from_millis(next(previous.unwrap_or_else(|last| last)))
    }

    /// [`Clock::now`], if the wall clock has kept step for an hour or was accepted: the time by which stored rows expire.
    #[must_use]
    pub fn confirmed(&self) -> Option<Timestamp> {
        let (wall, boot) = self.read();
        let now = self.detector().confirmed(wall, boot);
        now.map(Timestamp::from_millis)
    }

    /// The time by which credentials expire: the wall clock, or [`Clock::now`] where that is later, so that a clock that is
    /// set back revives none.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        self.with(JumpDetector::latest)
    }

    /// By how many milliseconds the wall clock jumped, negative if back, while that is in question.
    #[must_use]
    pub fn jump(&self) -> Option<i64> {
        let (wall, boot) = self.read();
        self.detector().jump(wall, boot)
    }

    /// Believes the wall clock as it is now; `false` if it was never set.
    pub fn accept(&self) -> bool {
        let (wall, boot) = self.read();
        self.detector().accept(wall, boot)
    }

    /// What the storage keeps for the next start.
    #[must_use]
    pub fn reading(&self) -> ClockReading {
        let (wall, boot) = self.read();
        let mut detector = self.detector();
        ClockReading {
            at: Timestamp::from_millis(detector.now(wall, boot)),
            boot: boot_id(),
            uptime: boot,
            held: detector.held(boot),
        }
    }

    /// Compares the wall clock with what the storage last knew.
    pub fn resume(&self, last: &ClockReading) {
        let (wall, boot) = self.read();
        let same_boot = !last.boot.is_empty() && last.boot == boot_id();
        self.detector().resume(last, same_boot, wall, boot);
    }

    /// Advances all clocks.
    pub fn advance(&self, by: Duration) {
        self.state
            .ahead_nanos
            .fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        self.state.advanced.notify_waiters();
    }

    /// Waits until the monotonic clock is at `instant`.
    pub(crate) async fn sleep_until(&self, instant: Instant) {
        loop {
            // Subscribed before the time is read, so that no advance after that is missed.
            let advanced = self.state.advanced.notified();
            let left = instant.saturating_duration_since(self.instant());
            if left.is_zero() || tokio::time::timeout(left, advanced).await.is_err() {
                return;
            }
        }
    }

    /// Sets the wall clock back; the others go on.
    pub fn set_back(&self, by: Duration) {
        let by = by.as_millis() as i64;
        self.state.set_millis.fetch_sub(by, Ordering::SeqCst);
    }

    /// Sets the wall clock ahead; the others go on.
    pub fn set_ahead(&self, by: Duration) {
        let by = by.as_millis() as i64;
        self.state.set_millis.fetch_add(by, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.state.ahead_nanos.load(Ordering::SeqCst))
    }

    /// The wall clock and the clock since boot.
    fn read(&self) -> (i64, i64) {
        let ahead = self.ahead().as_millis() as i64;
        let set = self.state.set_millis.load(Ordering::SeqCst);
        (wall_clock() + ahead + set, since_boot() + ahead)
    }

    fn detector(&self) -> MutexGuard<'_, JumpDetector> {
        let detector = self.state.detector.lock();
        detector.unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, ask: fn(&mut JumpDetector, i64, i64) -> i64) -> Timestamp {
        let (wall, boot) = self.read();
        Timestamp::from_millis(ask(&mut self.detector(), wall, boot))
    }
}

impl governor::clock::Clock for Clock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.instant()
    }
}
