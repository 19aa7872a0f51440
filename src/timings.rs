//! The timings of a request: its duration, and the time that it waited for an upstream or the client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// The times of one request.
#[derive(Debug)]
pub(crate) struct RequestTimings {
    started: Instant,
    upstream_nanos: AtomicU64,
    upload_nanos: AtomicU64,
}

impl RequestTimings {
    pub(crate) fn start(clock: &Clock) -> Self {
        Self {
            started: clock.instant(),
            upstream_nanos: AtomicU64::new(0),
            upload_nanos: AtomicU64::new(0),
        }
    }

    /// Since the request's head was read.
    pub(crate) fn elapsed(&self, clock: &Clock) -> Duration {
        clock.instant().saturating_duration_since(self.started)
    }

    /// How much of it was spent waiting for an upstream, or in the queue for one.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.upstream_nanos.load(Ordering::Relaxed))
    }

    /// Since the request's head was read, without the time that the client took to send the body.
    pub(crate) fn server_time(&self, clock: &Clock) -> Duration {
        let upload = Duration::from_nanos(self.upload_nanos.load(Ordering::Relaxed));
        self.elapsed(clock).saturating_sub(upload)
    }

    /// Counts the time until the guard is dropped as a wait for an upstream.
    pub(crate) fn waiting<'a>(&'a self, clock: &'a Clock) -> TimingGuard<'a> {
        TimingGuard(&self.upstream_nanos, clock, clock.instant())
    }

    /// Counts this time as a wait for an upstream.
    pub(crate) fn add_waited(&self, time: Duration) {
        add(&self.upstream_nanos, time);
    }

    /// The same for the client's body.
    pub(crate) fn receiving<'a>(&'a self, clock: &'a Clock) -> TimingGuard<'a> {
        TimingGuard(&self.upload_nanos, clock, clock.instant())
    }
}

/// Adds the time since its start to a sum when dropped.
pub(crate) struct TimingGuard<'a>(&'a AtomicU64, &'a Clock, Instant);

impl Drop for TimingGuard<'_> {
    fn drop(&mut self) {
        let Self(sum, clock, started) = self;
        let took = clock.instant().saturating_duration_since(*started);
        add(sum, took);
    }
}

fn add(sum: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    sum.fetch_add(nanos, Ordering::Relaxed);
}
