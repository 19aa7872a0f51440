//! A circuit breaker: it stops asking an upstream that keeps failing, and finds out with one request at a time whether
//! it is back.
//!
//! `State` is a pure state machine, time passed in, so that every transition can be tested without waiting; [`Breaker`]
//! puts it behind a lock and hands out [`Permit`]s. CLOSED lets everything pass and counts; OPEN refuses at once;
//! HALF_OPEN lets exactly one probe pass. Every transition starts a new generation, and the result of a call that began
//! in an older one counts for nothing (Nygard, "Release It!"; the generation counter is sony/gobreaker's idea).
//!
//! A request may make a healthy upstream fail. So before failures open it, a [`HealthCheck`] is asked for: if it passes,
//! the breaker stays closed, up to twenty failures in a row. A connection that is refused needs none: the breaker opens,
//! and health checks find out when the upstream is back.

mod settings;
mod state;
#[cfg(test)]
mod walk;

pub use settings::Settings;
pub use state::{Outcome, Phase};

use state::{Check, State, Ticket};

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// A breaker shared by the requests to one upstream.
///
/// ```
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Outcome, Phase, Settings};
///
/// let clock = Clock::default();
/// let mut settings = Settings::default();
/// settings.consecutive_failures = 2;
/// let pause = settings.max_open;
/// let breaker = Breaker::new("pool", settings, clock.clone());
/// assert!(breaker.admit()?.end(Outcome::Failure).is_none());
/// if let Some(check) = breaker.admit()?.end(Outcome::Failure) {
///     // Its health page answered: it stays closed.
///     check.end(Outcome::Success);
/// }
/// assert_eq!(breaker.phase(), Phase::Closed);
/// breaker.admit()?.end(Outcome::Failure);
/// if let Some(check) = breaker.admit()?.end(Outcome::Failure) {
///     check.end(Outcome::Failure);
/// }
/// assert_eq!(breaker.phase(), Phase::Open);
/// // After a pause, one probe closes it.
/// clock.advance(pause);
/// let probe = breaker.admit()?;
/// assert!(breaker.admit().is_err());
/// probe.end(Outcome::Success);
/// assert_eq!(breaker.phase(), Phase::Closed);
/// # Ok::<_, std::time::Duration>(())
/// ```
#[derive(Debug)]
pub struct Breaker {
    name: String,
    clock: Clock,
    state: Mutex<State>,
    entered: [AtomicU64; 3],
    checks: [AtomicU64; 2],
}

/// What a breaker is doing, as health and operators read it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Status {
    /// The upstream it guards.
    pub name: String,
    /// What it is doing.
    pub state: Phase,
    /// Whether an operator opened it: it stays open until it is reset.
    pub forced: bool,
    /// Why it opened.
    pub reason: Option<String>,
    /// When the next call may pass; `None` where one may now, or an operator opened it.
    pub retry_after_seconds: Option<u64>,
}

impl Breaker {
    /// A closed breaker for the upstream `name`.
    #[must_use]
    pub fn new(name: &str, settings: Settings, clock: Clock) -> Arc<Self> {
        let jitter = (RandomState::new().hash_one(name) % 1_000) as f64 / 10_000.0;
        Arc::new(Self {
            name: name.to_owned(),
            clock,
            state: Mutex::new(State::new(settings, jitter)),
            entered: Default::default(),
            checks: Default::default(),
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

    /// What it is doing now, and why.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.clock.instant();
        let state = self.lock();
        let forced = state.is_forced();
        Status {
            name: self.name.clone(),
            state: state.phase(now),
            forced,
            reason: state.reason.clone(),
            retry_after_seconds: state
                .refusal(now)
                .filter(|_| !forced)
                .map(|wait| wait.as_secs()),
        }
    }

    /// How often it entered `phase`. Half-open is entered by the probe.
    #[must_use]
    pub fn times_entered(&self, phase: Phase) -> u64 {
        self.entered[phase as usize].load(Ordering::Relaxed)
    }

    /// How many health checks passed, or failed.
    #[must_use]
    pub fn health_checks(&self, passed: bool) -> u64 {
        self.checks[usize::from(passed)].load(Ordering::Relaxed)
    }

    /// Whether a call would be refused now, and for how long, without asking for a permit.
    #[must_use]
    pub fn refusal(&self) -> Option<Duration> {
        self.lock().refusal(self.clock.instant())
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Duration> {
        let ticket = self.change(State::admit)?;
        Ok(Permit {
            breaker: Arc::clone(self),
            ticket: Some(ticket),
        })
    }

    /// Opens it until it is [reset](Breaker::reset).
    pub fn force_open(&self) {
        self.change(|state, _| state.force_open());
    }

    /// Closes it and clears all counts.
    pub fn reset(&self) {
        log::info!("breaker {}: reset by the operator", self.name);
        self.change(|state, _| state.reset());
    }

    /// Changes the state; a transition is counted and logged.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = self.clock.instant();
        let mut state = self.lock();
        let (before, generation) = (state.phase, state.generation);
        let result = change(&mut state, now);
        if state.generation != generation {
            let (phase, wait) = (state.phase, state.refusal(now).unwrap_or_default());
            let (forced, reason) = (state.is_forced(), state.reason.clone().unwrap_or_default());
            drop(state);
            self.entered[phase as usize].fetch_add(u64::from(phase != before), Ordering::Relaxed);
            let name = &self.name;
            match phase {
                Phase::Closed => log::info!("breaker {name}: CLOSED"),
                Phase::HalfOpen => log::info!("breaker {name}: HALF_OPEN, one probe is sent"),
                Phase::Open if forced => log::warn!("breaker {name}: OPEN until reset: {reason}"),
                Phase::Open => {
                    log::warn!("breaker {name}: OPEN for {} s: {reason}", wait.as_secs())
                }
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call. Dropped, it is released and counts for nothing.
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

    /// The upstream began to answer. That is enough for a probe; any other call is judged by its end, and by how long
    /// this took.
    pub fn working(&mut self) {
        if self.ticket.is_some_and(|ticket| ticket.probe) {
            self.record(Outcome::Success);
        } else if let Some(ticket) = &mut self.ticket {
            let now = self.breaker.clock.instant();
            ticket.answered.get_or_insert(now);
        }
    }

    /// Records how the call ended. A health check that comes back is to be made when it is due.
    pub fn end(mut self, outcome: Outcome) -> Option<HealthCheck> {
        self.record(outcome)
    }

    fn record(&mut self, outcome: Outcome) -> Option<HealthCheck> {
        let ticket = self.ticket.take()?;
        let record = |state: &mut State, now| state.record(ticket, outcome, now);
        let check = self.breaker.change(record)?;
        Some(HealthCheck::new(&self.breaker, check))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.record(Outcome::Unknown);
    }
}

/// A request that no client makes decides: before failures open the breaker, and where connections were refused, every
/// five seconds while it is open. At most one is under way. Dropped, it changes nothing; the next failure asks for another.
#[derive(Debug)]
pub struct HealthCheck {
    breaker: Arc<Breaker>,
    check: Option<Check>,
}

impl HealthCheck {
    fn new(breaker: &Arc<Breaker>, check: Check) -> Self {
        Self {
            breaker: Arc::clone(breaker),
            check: Some(check),
        }
    }

    /// Waits until it is due; false where it is no longer needed by then.
    pub async fn due(&self) -> bool {
        let Some(check) = &self.check else {
            return false;
        };
        self.breaker.clock.sleep_until(check.due).await;
        self.breaker.lock().generation == check.generation
    }

    /// Records how it ended; the next one, if the upstream is to be checked again.
    pub fn end(mut self, outcome: Outcome) -> Option<Self> {
        let (breaker, passed) = (&self.breaker, outcome == Outcome::Success);
        breaker.checks[usize::from(passed)].fetch_add(1, Ordering::Relaxed);
        if let (true, Phase::Closed, Some(check)) = (passed, breaker.phase(), &self.check) {
            log::warn!(
                "breaker {}: {}, but the health check passed: it stays closed",
                breaker.name,
                check.reason
            );
        }
        self.record(outcome)
    }

    /// Opens the breaker where the upstream has no health check.
    pub fn open(mut self) {
        self.record(Outcome::Failure);
    }

    fn record(&mut self, outcome: Outcome) -> Option<Self> {
        let check = self.check.take()?;
        let record = |state: &mut State, now| state.end_check(check, outcome, now);
        let next = self.breaker.change(record)?;
        Some(Self::new(&self.breaker, next))
    }
}

impl Drop for HealthCheck {
    fn drop(&mut self) {
        self.record(Outcome::Unknown);
    }
}

#[cfg(test)]
mod tests;
