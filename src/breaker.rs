//! A circuit breaker: it stops asking an upstream that keeps failing, and finds out with one request at a time whether
//! it is back.
//!
//! `State` is a pure state machine, time passed in, so that every transition can be tested without waiting; [`Breaker`]
//! puts it behind a lock and hands out [`Permit`]s. CLOSED lets everything pass and counts; OPEN refuses at once;
//! HALF_OPEN lets exactly one probe pass. Every transition starts a new generation, and the result of a call that began
//! in an older one counts for nothing (Nygard, "Release It!"; the generation counter is sony/gobreaker's idea).
//!
//! Where all that would open it came from one [`Source`], a [`Case`] comes back instead: the upstream is looked at first,
//! so that nobody's requests shut the door for the others.

mod blame;
mod settings;
mod state;
#[cfg(test)]
mod walk;

pub use blame::Source;
pub use settings::Settings;
pub use state::{Finding, Outcome, Phase};

use blame::Reason;
use state::{State, Suspicion, Ticket};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// A breaker shared by the requests to one upstream.
///
/// ```
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Outcome, Phase, Settings};
///
/// let clock = Clock::default();
/// let settings = Settings { consecutive_failures: 2, ..Settings::default() };
/// let pause = settings.max_open;
/// let breaker = Breaker::new("pool", settings, clock.clone());
/// for _ in 0..2 {
///     let permit = breaker.admit(None).expect("it is closed");
///     permit.end(Outcome::Failure);
/// }
/// // Nobody is asked now.
/// assert!(breaker.admit(None).is_err());
/// // Until one probe may find out.
/// clock.advance(pause);
/// breaker.admit(None).expect("a probe passes").end(Outcome::Success);
/// assert_eq!(breaker.phase(), Phase::Closed);
/// ```
#[derive(Debug)]
pub struct Breaker {
    name: String,
    clock: Clock,
    state: Mutex<State>,
    entered: [AtomicU64; 3],
    found: [AtomicU64; 3],
}

/// What a breaker is doing, as health and operators read it.
///
/// ```
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Phase, Settings};
///
/// let breaker = Breaker::new("chain", Settings::default(), Clock::default());
/// breaker.force_open();
/// let status = breaker.status();
/// assert_eq!((status.state, status.forced), (Phase::Open, true));
/// // Nobody knows when.
/// assert_eq!(status.retry_after_seconds, None);
/// breaker.reset();
/// assert_eq!(breaker.status().state, Phase::Closed);
/// ```
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
    /// When the next call may pass; `None` where one may now, or nobody knows.
    pub retry_after_seconds: Option<u64>,
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
            entered: Default::default(),
            found: Default::default(),
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
        let forced = state.reason() == Some(Reason::Forced);
        Status {
            name: self.name.clone(),
            state: state.phase(now),
            forced,
            reason: state.reason().map(|reason| reason.to_string()),
            retry_after_seconds: state
                .refusal(now)
                .filter(|_| !forced)
                .map(|wait| wait.as_secs()),
        }
    }

    /// How often it went over to `phase` so far. Half-open is entered by the probe.
    #[must_use]
    pub fn times_entered(&self, phase: Phase) -> u64 {
        self.entered[phase as usize].load(Ordering::Relaxed)
    }

    /// How often a look at the upstream, before the door was shut because of one source, ended so.
    #[must_use]
    pub fn times_found(&self, finding: Finding) -> u64 {
        self.found[finding as usize].load(Ordering::Relaxed)
    }

    /// Whether a call would be refused now, and for how long, without asking for a permit.
    #[must_use]
    pub fn refusal(&self) -> Option<Duration> {
        self.lock().refusal(self.clock.instant())
    }

    /// Asks to make a call. `source` is who asks for it, where that may be what makes it fail.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub fn admit(self: &Arc<Self>, source: Option<Source>) -> Result<Permit, Duration> {
        let now = self.clock.instant();
        let ticket = self.change(|state| state.admit(source, now))?;
        Ok(Permit {
            breaker: Arc::clone(self),
            ticket: Some(ticket),
        })
    }

    /// Another upstream did what `source` asked of this one in vain: its latest failure here is not the source's fault.
    ///
    /// ```
    /// use r3mes_edge::Clock;
    /// use r3mes_edge::breaker::{Breaker, Outcome, Phase, Settings, Source};
    ///
    /// let settings = Settings { consecutive_failures: 2, ..Settings::default() };
    /// let breaker = Breaker::new("node-1", settings, Clock::default());
    /// let wallet = Source::of(&"wallet 1");
    /// breaker.admit(Some(wallet))?.end(Outcome::Failure);
    /// // What this one could not do, "node-2" did.
    /// breaker.vouch(wallet);
    /// let case = breaker.admit(Some(wallet))?.end(Outcome::Failure);
    /// assert!(case.is_none() && breaker.phase() == Phase::Open);
    /// # Ok::<_, std::time::Duration>(())
    /// ```
    pub fn vouch(&self, source: Source) {
        let now = self.clock.instant();
        self.change(|state| state.vouch(source, now));
    }

    /// Opens it until it is [reset](Breaker::reset).
    pub fn force_open(&self) {
        self.change(State::force_open);
    }

    /// Closes it and forgets all it counted.
    pub fn reset(&self) {
        log::info!("breaker {}: reset by the operator", self.name);
        self.change(State::reset);
    }

    fn record(self: &Arc<Self>, ticket: Ticket, outcome: Outcome) -> Option<Case> {
        let now = self.clock.instant();
        let suspicion = self.change(|state| state.record(ticket, outcome, now))?;
        Some(Case {
            breaker: Arc::clone(self),
            suspicion: Some(suspicion),
        })
    }

    /// Changes the state; a transition is counted and logged.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let now = self.clock.instant();
        let mut state = self.lock();
        let before = (state.phase, state.reason());
        let told = change(&mut state);
        let (after, reason) = (state.phase, state.reason());
        let wait = state.refusal(now);
        drop(state);
        if before != (after, reason) {
            self.entered[after as usize].fetch_add(u64::from(before.0 != after), Ordering::Relaxed);
            let name = &self.name;
            match (after, reason, wait) {
                (Phase::Closed, ..) => log::info!("breaker {name}: CLOSED"),
                (Phase::HalfOpen, ..) => log::info!("breaker {name}: HALF_OPEN, one probe goes"),
                (Phase::Open, Some(Reason::Forced), _) => {
                    log::warn!("breaker {name}: OPEN until it is reset, forced by the operator");
                }
                (Phase::Open, reason, wait) => {
                    let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
                    let wait = wait.unwrap_or_default().as_secs();
                    log::warn!("breaker {name}: OPEN for {wait} s: {reason}");
                }
            }
        }
        told
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call. Dropped without a word it is given back and counts for nothing.
///
/// ```
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Outcome, Phase, Settings};
///
/// let clock = Clock::default();
/// let settings = Settings { consecutive_failures: 1, ..Settings::default() };
/// let pause = settings.max_open;
/// let breaker = Breaker::new("node", settings, clock.clone());
/// breaker.admit(None)?.end(Outcome::Failure);
/// clock.advance(pause);
/// let probe = breaker.admit(None)?;
/// assert!(breaker.admit(None).is_err());
/// // Its client left: nobody knows how it would have ended, and the next may find out.
/// drop(probe);
/// breaker.admit(None)?.working();
/// assert_eq!(breaker.phase(), Phase::Closed);
/// # Ok::<_, std::time::Duration>(())
/// ```
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

    /// The upstream began to do its work. That is enough for a probe; any other call is judged by its end, and by how
    /// long this took.
    pub fn working(&mut self) {
        let now = self.breaker.clock.instant();
        if let Some(ticket) = self.ticket.take_if(|ticket| ticket.probe) {
            self.breaker.record(ticket, Outcome::Success);
        } else if let Some(ticket) = &mut self.ticket {
            ticket.answered.get_or_insert(now);
        }
    }

    /// Tells how the call ended. A case that comes back waits for a look at the upstream.
    pub fn end(mut self, outcome: Outcome) -> Option<Case> {
        self.breaker.record(self.ticket.take()?, outcome)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.record(ticket, Outcome::Unknown);
        }
    }
}

/// All that went wrong came from one source: whether the breaker opens is for a look at the upstream to say. Dropped
/// without one, the breaker stays as it was.
///
/// ```
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Finding, Outcome, Phase, Settings, Source};
///
/// let settings = Settings { consecutive_failures: 1, ..Settings::default() };
/// let breaker = Breaker::new("node", settings, Clock::default());
/// let permit = breaker.admit(Some(Source::of(&"wallet 1")))?;
/// if let Some(case) = permit.end(Outcome::Failure) {
///     // Asked for its own page, the upstream answered.
///     case.close(Finding::Well);
/// }
/// assert_eq!(breaker.times_found(Finding::Well), 1);
/// assert_eq!(breaker.phase(), Phase::Closed);
/// # Ok::<_, std::time::Duration>(())
/// ```
#[derive(Debug)]
pub struct Case {
    breaker: Arc<Breaker>,
    suspicion: Option<Suspicion>,
}

impl Case {
    /// Tells whether the upstream answers.
    pub fn close(mut self, finding: Finding) {
        self.clear_up(finding);
    }

    fn clear_up(&mut self, finding: Finding) {
        let Some(suspicion) = self.suspicion.take() else {
            return;
        };
        let breaker = &self.breaker;
        log::warn!(
            "breaker {}: {}, all of one wallet; a look at the upstream says: {}",
            breaker.name,
            suspicion.reason,
            finding.as_str()
        );
        let now = breaker.clock.instant();
        breaker.change(|state| state.clear_up(suspicion, finding, now));
        breaker.found[finding as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.clear_up(Finding::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A breaker whose rest is over: one probe may go.
    fn half_open() -> Arc<Breaker> {
        let clock = Clock::default();
        let breaker = Breaker::new("test", Settings::default(), clock.clone());
        for _ in 0..5 {
            breaker.admit(None).unwrap().end(Outcome::Failure);
        }
        assert!(breaker.refusal().is_some());
        clock.advance(Duration::from_secs(67));
        assert_eq!(breaker.phase(), Phase::HalfOpen);
        breaker
    }

    #[test]
    fn a_dropped_permit_gives_the_probe_back() {
        let breaker = half_open();
        assert!(breaker.refusal().is_none());
        let probe = breaker.admit(None).unwrap();
        assert!(breaker.admit(None).is_err());
        drop(probe);
        breaker.admit(None).unwrap().working();
        assert_eq!(breaker.phase(), Phase::Closed);
        let entered = [Phase::Closed, Phase::Open, Phase::HalfOpen];
        assert_eq!(entered.map(|phase| breaker.times_entered(phase)), [1; 3]);
    }

    #[test]
    fn after_a_thousand_dropped_probes_one_success_closes_it() {
        let breaker = half_open();
        for _ in 0..1_000 {
            drop(breaker.admit(None).unwrap());
        }
        breaker.admit(None).unwrap().working();
        assert_eq!(breaker.phase(), Phase::Closed);
    }

    #[test]
    fn a_thousand_probes_dropped_by_eight_threads_at_once_are_never_two_at_a_time() {
        let breaker = half_open();
        let out = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut dropped = 0;
                    while dropped < 125 {
                        // Refused while another thread has the probe.
                        let Ok(probe) = breaker.admit(None) else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(out.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        out.fetch_sub(1, Ordering::SeqCst);
                        drop(probe);
                        dropped += 1;
                    }
                });
            }
        });
        assert_eq!(breaker.phase(), Phase::HalfOpen);
        breaker.admit(None).unwrap().end(Outcome::Success);
        assert_eq!(breaker.phase(), Phase::Closed);
    }

    #[test]
    fn a_case_that_nobody_looks_into_leaves_no_trace_and_can_be_raised_again() {
        let breaker = half_open();
        let source = Some(Source::of(&"one"));
        for _ in 0..1_000 {
            let case = breaker.admit(source).unwrap().end(Outcome::Failure);
            assert!(case.is_some() && breaker.refusal().is_some());
        }
        assert_eq!(breaker.times_found(Finding::Unknown), 1_000);
        let case = breaker.admit(source).unwrap().end(Outcome::Failure);
        case.unwrap().close(Finding::Well);
        assert_eq!(breaker.phase(), Phase::Closed);
    }
}
