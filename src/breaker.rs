//! A circuit breaker: it stops calls to an upstream that keeps failing, and lets one probe at a time find out whether it
//! has recovered. `State` is the state machine, with the time passed in; [`Breaker`] locks it and reads the clock.
//!
//! CLOSED admits every call and counts failures; OPEN refuses all; HALF_OPEN admits exactly one probe. Every transition
//! starts a new generation, and the result of a call of an older one is ignored (Nygard, "Release It!"; the generation
//! counter is sony/gobreaker's idea).
//!
//! A client's request may make a healthy upstream fail. So failures do not open the breaker by themselves: they require a
//! health check, and if it passes, the breaker stays closed, up to twenty failures in a row. A refused connection needs no
//! second opinion: the breaker opens, and a health check every five seconds finds out when the upstream is back.

mod state;

pub use state::{Outcome, Phase};

use state::{State, Ticket};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::section::section;
use crate::model::units;

section! {
    /// When a breaker opens and for how long.
    #[derive(PartialEq)]
    Settings {
        /// Failures in a row after which the health check is made. Twenty in a row, or this many if that is more, open the
        /// breaker even though the health check passes.
        consecutive_failures: u32 = 5, in 1..;
        /// Share of failures among the last calls at which the health check is made, 0 to 1.
        failure_rate: f64 = 0.5, in 0.0..=1.0;
        /// How many calls are "the last calls"; the shares count only once there were that many.
        last_calls: usize = 20, in 1..=1_000_000;
        /// How long it stays open the first time; doubled each time it opens again without a success in between.
        open: Duration as "units::duration" = Duration::from_secs(60), in Duration::from_millis(1)..;
        /// How long it stays open at most.
        max_open: Duration as "units::duration" = Duration::from_secs(300), in Duration::from_millis(1)..;
    }
}

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
/// if let Some(health_check) = breaker.admit()?.end(Outcome::Failure) {
///     // It passed: the breaker stays closed.
///     health_check.end(Outcome::Success);
/// }
/// assert_eq!(breaker.status().state, Phase::Closed);
/// breaker.admit()?.end(Outcome::Failure);
/// if let Some(health_check) = breaker.admit()?.end(Outcome::Failure) {
///     health_check.end(Outcome::Failure);
/// }
/// assert_eq!(breaker.status().state, Phase::Open);
/// // After a pause, one probe closes it.
/// clock.advance(pause);
/// let probe = breaker.admit()?;
/// assert!(breaker.admit().is_err());
/// probe.end(Outcome::Success);
/// assert_eq!(breaker.status().state, Phase::Closed);
/// # Ok::<_, std::time::Duration>(())
/// ```
#[derive(Debug)]
pub struct Breaker {
    name: Arc<str>,
    clock: Clock,
    state: Mutex<State>,
}

/// The state of a breaker, as health and operators read it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Status {
    /// The upstream it guards.
    pub name: String,
    /// Its phase.
    pub state: Phase,
    /// Whether an operator opened it: it stays open until it is reset.
    pub forced: bool,
    /// Why it opened.
    pub reason: Option<String>,
    /// When the next call may pass; `None` where one may now, or an operator opened it.
    pub retry_after_seconds: Option<u64>,
    /// How often it entered each [`Phase`], in their order. Half-open is entered by the probe.
    #[serde(skip)]
    pub entered: [u64; 3],
    /// How many health checks failed, and how many passed.
    #[serde(skip)]
    pub health_checks: [u64; 2],
}

impl Breaker {
    /// A closed breaker for the upstream `name`.
    #[must_use]
    pub fn new(name: &str, settings: Settings, clock: Clock) -> Arc<Self> {
        let name: Arc<str> = name.into();
        let state = Mutex::new(State::new(Arc::clone(&name), settings));
        Arc::new(Self { name, clock, state })
    }

    /// The upstream it guards.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state now, and why.
    #[must_use]
    pub fn status(&self) -> Status {
        let (state, now) = (self.lock(), self.clock.instant());
        let forced = state.is_forced();
        let wait = state.refusal(now).filter(|_| !forced);
        Status {
            name: self.name.to_string(),
            state: state.phase(now),
            forced,
            reason: state.reason.clone(),
            retry_after_seconds: wait.map(|wait| wait.as_secs()),
            entered: state.entered,
            health_checks: state.health_checks,
        }
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
        let ticket = Some(self.lock().admit(self.clock.instant())?);
        let breaker = Arc::clone(self);
        Ok(Permit { breaker, ticket })
    }

    /// Opens it until it is [reset](Breaker::reset).
    pub fn force_open(&self) {
        self.lock().force_open();
    }

    /// Closes it and clears all counts.
    pub fn reset(&self) {
        self.lock().reset();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call, or one health check. Dropped, it is released and counts for nothing.
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

    /// The upstream began to answer. For a probe that is a success; any other call is judged by its end.
    pub fn answer_started(&mut self) {
        if self.breaker.lock().phase == Phase::HalfOpen {
            self.record(Outcome::Success);
        }
    }

    /// Waits until it is due: health checks of an unreachable upstream have a pause between them. False where it is no longer
    /// needed by then.
    pub async fn due(&self) -> bool {
        let Some(ticket) = &self.ticket else {
            return false;
        };
        if let Some((_, due)) = ticket.check {
            self.breaker.clock.sleep_until(due).await;
        }
        self.breaker.lock().generation == ticket.generation
    }

    /// Records how the call ended. A permit that comes back is for a health check, to be made when it is [due](Self::due).
    pub fn end(mut self, outcome: Outcome) -> Option<Self> {
        self.record(outcome)
    }

    fn record(&mut self, outcome: Outcome) -> Option<Self> {
        let (ticket, breaker) = (self.ticket.take()?, Arc::clone(&self.breaker));
        let now = breaker.clock.instant();
        let ticket = Some(breaker.lock().record(ticket, outcome, now)?);
        Some(Self { breaker, ticket })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.record(Outcome::Unknown);
    }
}

#[cfg(test)]
mod tests;
