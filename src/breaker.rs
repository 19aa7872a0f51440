//! A circuit breaker: it stops asking an upstream that keeps failing, and finds out with one request at a time whether
//! it is back.
//!
//! [`State`] is a pure state machine, time passed in, so that every transition can be tested without waiting; [`Breaker`]
//! puts it behind a lock and hands out [`Permit`]s. CLOSED lets everything pass and counts; OPEN refuses at once;
//! HALF_OPEN lets exactly one probe pass. Every transition starts a new generation, and the result of a call that began
//! in an older one counts for nothing (Nygard, "Release It!"; the generation counter is sony/gobreaker's idea).

mod state;

pub use state::{Outcome, Phase, Settings, State, Ticket};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// A breaker shared by the requests to one upstream.
#[derive(Debug)]
pub struct Breaker {
    name: String,
    clock: Clock,
    state: Mutex<State>,
    opened: AtomicU64,
}

impl Breaker {
    /// A closed breaker for the upstream `name`.
    #[must_use]
    pub fn new(name: &str, settings: Settings, clock: Clock) -> Arc<Self> {
        let seed = name
            .bytes()
            .fold(u64::from(std::process::id()), |seed, byte| {
                seed.wrapping_mul(31).wrapping_add(byte.into())
            });
        Arc::new(Self {
            name: name.to_owned(),
            clock,
            state: Mutex::new(State::new(settings, seed)),
            opened: AtomicU64::new(0),
        })
    }

    /// The upstream it guards.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is doing now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase(self.clock.instant())
    }

    /// How often it opened so far.
    #[must_use]
    pub fn times_opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether a call would be refused now, and for how long, without asking for a permit.
    #[must_use]
    pub fn refusal(&self) -> Option<Duration> {
        let now = self.clock.instant();
        // On a copy, so that looking neither takes the probe nor starts a generation.
        let mut copy = self.lock().clone();
        copy.admit(now).err()
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Duration> {
        let ticket = self.lock().admit(self.clock.instant())?;
        Ok(Permit {
            breaker: Arc::clone(self),
            ticket: Some(ticket),
        })
    }

    fn record(&self, ticket: Ticket, outcome: Outcome) {
        let now = self.clock.instant();
        let (before, after) = {
            let mut state = self.lock();
            let before = state.phase(now);
            state.record(ticket, outcome, now);
            (before, state.phase(now))
        };
        if before != after {
            self.opened
                .fetch_add(u64::from(after == Phase::Open), Ordering::Relaxed);
            log::warn!("breaker {}: {before:?} -> {after:?}", self.name);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call. Dropped without a word it is given back and counts for nothing.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    ticket: Option<Ticket>,
}

impl Permit {
    /// The upstream it is for.
    #[must_use]
    pub fn name(&self) -> &str {
        self.breaker.name()
    }

    /// The upstream began to do its work. That is enough for a probe; any other call is judged by its end.
    pub fn working(&mut self) {
        if let Some(ticket) = self.ticket.take_if(|ticket| ticket.probe) {
            self.breaker.record(ticket, Outcome::Success);
        }
    }

    /// Tells how the call ended.
    pub fn end(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.record(ticket, outcome);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.record(ticket, Outcome::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_gives_the_probe_back() {
        let clock = Clock::default();
        let breaker = Breaker::new("test", Settings::default(), clock.clone());
        for _ in 0..5 {
            breaker.admit().unwrap().end(Outcome::Failure);
        }
        assert!(breaker.refusal().is_some());
        clock.advance(Duration::from_secs(67));
        assert_eq!(breaker.phase(), Phase::HalfOpen);
        assert!(breaker.refusal().is_none());
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err());
        drop(probe);
        breaker.admit().unwrap().working();
        assert_eq!(breaker.phase(), Phase::Closed);
    }
}
