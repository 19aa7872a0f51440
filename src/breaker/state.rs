//! The state machine of a breaker. It reads no clock and takes no lock, so every transition can be tested without waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Settings;

/// Consecutive failures that open a breaker even if the health check passes.
const MAX_CONSECUTIVE: u32 = 20;
/// The interval of health checks of an unreachable upstream.
const RECHECK: Duration = Duration::from_secs(5);

/// What a breaker does with calls, for health, metrics and log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// Every call passes.
    #[default]
    Closed,
    /// No call passes.
    Open,
    /// One probe passes.
    HalfOpen,
}

/// How a call or a health check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It failed; the request may be the cause.
    Failure,
    /// No connection could be made, which no request can cause.
    Unreachable,
    /// Unknown: the client disconnected, or the request was invalid.
    Unknown,
}

/// Permission for one call or health check. Its result counts only in the generation of the ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    pub(super) generation: u64,
    /// Of a health check: why the breaker opens unless it passes, and when it is due. `None` for a call, which is the probe
    /// while the breaker is half-open.
    pub(super) check: Option<(String, Instant)>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct State {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    pub(super) max_consecutive: u32,
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// Failures since the last success.
    pub(super) consecutive: u32,
    /// Whether each of the last calls failed, the newest first; those since a health check passed.
    pub(super) last_calls: VecDeque<bool>,
    /// How often it opened since the last success.
    pub(super) times_opened: u32,
    /// `None` while it is forced open.
    pub(super) open_until: Option<Instant>,
    /// Why it opened, until a probe is admitted.
    pub(super) reason: Option<String>,
    /// Whether a probe or a health check is under way; there is one of them at a time.
    pub(super) busy: bool,
    pub(super) entered: [u64; 3],
    /// Failed and passed.
    pub(super) health_checks: [u64; 2],
}

impl State {
    pub(super) fn new(name: Arc<str>, settings: Settings) -> Self {
        Self {
            name,
            max_consecutive: MAX_CONSECUTIVE.max(settings.consecutive_failures),
            settings,
            ..Self::default()
        }
    }

    /// The phase at `now`: an open time that has run out shows as half-open.
    pub(super) fn phase(&self, now: Instant) -> Phase {
        match self.open_until {
            Some(until) if now >= until => Phase::HalfOpen,
            _ => self.phase,
        }
    }

    pub(super) fn is_forced(&self) -> bool {
        self.phase == Phase::Open && self.open_until.is_none()
    }

    /// Whether a call would be refused at `now`, and how long to wait before the next try, at least a millisecond.
    pub(super) fn refusal(&self, now: Instant) -> Option<Duration> {
        match self.phase(now) {
            Phase::Open => {
                let wait = (self.open_until).map_or(self.settings.open, |until| until - now);
                Some(wait.max(Duration::from_millis(1)))
            }
            // A health check that began while it was open does not delay the probe.
            _ => (self.phase == Phase::HalfOpen && self.busy).then_some(Duration::from_secs(1)),
        }
    }

    /// # Errors
    /// How long to wait before the next try.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if self.phase == Phase::Open {
            self.enter(Phase::HalfOpen, None);
        }
        self.busy |= self.phase == Phase::HalfOpen;
        Ok(Ticket {
            generation: self.generation,
            check: None,
        })
    }

    /// Records the outcome of a call or a health check. A returned ticket is for a health check to run.
    pub(super) fn record(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Ticket> {
        if ticket.generation != self.generation {
            return None;
        }
        if ticket.check.is_some() || self.phase == Phase::HalfOpen {
            self.busy = false;
        }
        if outcome == Outcome::Unknown {
            return None;
        }
        let passed = outcome == Outcome::Success;
        self.health_checks[usize::from(passed)] += u64::from(ticket.check.is_some());
        match (ticket.check, self.phase, passed) {
            (None, Phase::HalfOpen, true) => self.reset(),
            (None, Phase::HalfOpen, false) => {
                return self.trip("the probe failed".to_owned(), outcome, now);
            }
            (None, _, _) => return self.record_call(outcome, now),
            (Some((reason, _)), Phase::Closed, true) => {
                let name = &self.name;
                log::warn!(
                    "breaker {name}: {reason}, but the health check passed: it stays closed"
                );
                self.last_calls.clear();
            }
            // Not a reset: no call succeeded, so the next time it opens it still waits longer.
            (Some(_), _, true) => self.close(),
            (Some((reason, _)), Phase::Open, false) => {
                return Some(self.health_check(reason, now + RECHECK));
            }
            (Some((reason, _)), _, false) => return self.open(reason, outcome, now),
        }
        None
    }

    fn record_call(&mut self, outcome: Outcome, now: Instant) -> Option<Ticket> {
        let failed = outcome != Outcome::Success;
        if failed {
            self.consecutive += 1;
        } else {
            (self.times_opened, self.consecutive) = (0, 0);
        }
        let window = self.settings.last_calls;
        self.last_calls.push_front(failed);
        self.last_calls.truncate(window);
        let calls = self.last_calls.iter();
        let unverified = calls.clone().take_while(|failed| **failed).count() as u32;
        let failures = calls.filter(|failed| **failed).count();
        let is_full = self.last_calls.len() == window && failures > 0;
        let reason = if unverified >= self.settings.consecutive_failures
            || self.consecutive >= self.max_consecutive
        {
            format!("{} failures in a row", self.consecutive)
        } else if is_full && failures as f64 / window as f64 >= self.settings.failure_rate {
            format!("{failures} of the last {window} calls failed")
        } else {
            return None;
        };
        self.trip(reason, outcome, now)
    }

    /// Opens it until it is [reset](State::reset).
    pub(super) fn force_open(&mut self) {
        self.enter(Phase::Open, Some("forced by the operator".to_owned()));
    }

    /// Closes it and clears all counts.
    pub(super) fn reset(&mut self) {
        self.times_opened = 0;
        self.close();
    }

    /// Opens it, or requires the health check that decides.
    fn trip(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Ticket> {
        if outcome == Outcome::Unreachable || self.consecutive >= self.max_consecutive {
            return self.open(reason, outcome, now);
        }
        (!self.busy).then(|| self.health_check(reason, now))
    }

    fn health_check(&mut self, reason: String, due: Instant) -> Ticket {
        self.busy = true;
        Ticket {
            generation: self.generation,
            check: Some((reason, due)),
        }
    }

    /// Opens it for a while; an upstream that cannot be reached is checked meanwhile.
    fn open(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Ticket> {
        let doubled = (self.settings.open).saturating_mul(1 << self.times_opened.min(16));
        self.times_opened = self.times_opened.saturating_add(1);
        self.enter(Phase::Open, Some(reason.clone()));
        // Where a health check cannot keep it closed, none can close it after a failed probe either.
        if self.consecutive < self.max_consecutive {
            self.consecutive = 0;
        }
        self.open_until = Some(now + doubled.min(self.settings.max_open));
        (outcome == Outcome::Unreachable).then(|| self.health_check(reason, now + RECHECK))
    }

    fn close(&mut self) {
        self.consecutive = 0;
        self.enter(Phase::Closed, None);
    }

    fn enter(&mut self, phase: Phase, reason: Option<String>) {
        let name = &self.name;
        match &reason {
            Some(reason) => log::warn!("breaker {name}: OPEN: {reason}"),
            None if phase == Phase::Closed => log::info!("breaker {name}: CLOSED"),
            None => log::info!("breaker {name}: HALF_OPEN, one probe is sent"),
        }
        self.entered[phase as usize] += u64::from(phase != self.phase);
        self.phase = phase;
        self.generation += 1;
        self.last_calls.clear();
        self.open_until = None;
        self.reason = reason;
        self.busy = false;
    }
}
