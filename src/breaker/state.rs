//! The state machine of a breaker. It reads no clock and takes no lock, so every transition can be tested without waiting.

use std::collections::VecDeque;
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
    pub(super) kind: Kind,
    /// When it was admitted, or is due.
    pub(super) start: Instant,
    /// When the upstream began to answer.
    pub(super) answered: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Call,
    Probe,
    /// The breaker opens for this reason unless the check passes.
    HealthCheck(String),
}

/// One of the last calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) failed: bool,
    pub(super) slow: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) max_consecutive: u32,
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// Failures since the last success.
    pub(super) consecutive: u32,
    /// How many of them were before a health check that passed.
    pub(super) exonerated: u32,
    pub(super) last_calls: VecDeque<Call>,
    /// How often it opened since the last success.
    pub(super) times_opened: u32,
    /// `None` while it is forced open.
    pub(super) open_until: Option<Instant>,
    /// Why it opened, until a probe is admitted.
    pub(super) reason: Option<String>,
    /// Whether the probe, or the health check after it failed, is under way.
    pub(super) probing: bool,
    pub(super) checking: bool,
    pub(super) entered: [u64; 3],
    /// Failed and passed.
    pub(super) health_checks: [u64; 2],
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            max_consecutive: MAX_CONSECUTIVE.max(settings.consecutive_failures),
            settings,
            ..Self::default()
        }
    }

    /// The phase at `now`: an open time that has run out shows as half-open.
    pub(super) fn phase(&self, now: Instant) -> Phase {
        match self.open_until {
            Some(until) if self.phase == Phase::Open && now >= until => Phase::HalfOpen,
            _ => self.phase,
        }
    }

    pub(super) fn is_forced(&self) -> bool {
        self.phase == Phase::Open && self.open_until.is_none()
    }

    /// Whether a call would be refused at `now`, and how long to wait before the next try, at least a millisecond.
    pub(super) fn refusal(&self, now: Instant) -> Option<Duration> {
        match self.phase(now) {
            Phase::Closed => None,
            Phase::HalfOpen => self.probing.then_some(Duration::from_secs(1)),
            Phase::Open => {
                let left = |until: Instant| until.saturating_duration_since(now);
                let wait = self.open_until.map_or(self.settings.open, left);
                Some(wait.max(Duration::from_millis(1)))
            }
        }
    }

    /// # Errors
    /// How long to wait before the next try.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if self.phase == Phase::Open {
            self.enter(Phase::HalfOpen);
        }
        self.probing = self.phase == Phase::HalfOpen;
        let kind = if self.probing {
            Kind::Probe
        } else {
            Kind::Call
        };
        Ok(self.ticket(kind, now))
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
        let failed = outcome != Outcome::Success;
        match ticket.kind {
            Kind::HealthCheck(reason) => return self.record_check(reason, outcome, now),
            _ if outcome == Outcome::Unknown => self.probing = false,
            Kind::Call => {
                // The time to the first text of a success may be unknown; then it was not slow.
                let first = ticket.answered.or(failed.then_some(now));
                let waited = first.map(|first| first - ticket.start);
                let slow = self.settings.slow.is_some_and(|slow| waited > Some(slow));
                return self.count(Call { failed, slow }, outcome, now);
            }
            // However slow: a server that loads its model for the first call after a pause would never recover otherwise.
            Kind::Probe if !failed => self.reset(),
            Kind::Probe => return self.trip("the probe failed".to_owned(), outcome, now),
        }
        None
    }

    fn record_check(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Ticket> {
        self.checking = false;
        let passed = outcome == Outcome::Success;
        if outcome == Outcome::Unknown {
            self.probing = false;
            return None;
        }
        self.health_checks[usize::from(passed)] += 1;
        match self.phase {
            Phase::Closed if passed => {
                self.exonerated = self.consecutive;
                self.last_calls.clear();
            }
            // Not a reset: no call succeeded, so the next time it opens it still waits longer.
            _ if passed => self.close(),
            Phase::Open => return Some(self.health_check(reason, now + RECHECK)),
            _ => return self.open(reason, outcome, now),
        }
        None
    }

    /// Opens it until it is [reset](State::reset).
    pub(super) fn force_open(&mut self) {
        self.enter(Phase::Open);
        self.reason = Some("forced by the operator".to_owned());
    }

    /// Closes it and clears all counts.
    pub(super) fn reset(&mut self) {
        self.times_opened = 0;
        self.close();
    }

    fn count(&mut self, call: Call, outcome: Outcome, now: Instant) -> Option<Ticket> {
        if call.failed {
            self.consecutive += 1;
        } else {
            (self.times_opened, self.consecutive, self.exonerated) = (0, 0, 0);
        }
        let window = self.settings.last_calls;
        if self.last_calls.len() >= window {
            self.last_calls.pop_front();
        }
        self.last_calls.push_back(call);
        let of = self.last_calls.len();
        let share = |counts: fn(&&Call) -> bool, rate: f64| {
            let count = self.last_calls.iter().filter(counts).count();
            (of >= window && count > 0 && count as f64 / of as f64 >= rate).then_some(count)
        };
        if let Some(count) = share(|call| call.slow, self.settings.slow_rate) {
            let reason = format!("{count} of the last {of} calls were slow");
            return self.open(reason, outcome, now);
        }
        let suspicious = self.consecutive - self.exonerated >= self.settings.consecutive_failures;
        if suspicious || self.consecutive >= self.max_consecutive {
            let reason = format!("{} failures in a row", self.consecutive);
            return self.trip(reason, outcome, now);
        }
        let count = share(|call| call.failed, self.settings.failure_rate)?;
        let reason = format!("{count} of the last {of} calls failed");
        self.trip(reason, outcome, now)
    }

    /// Opens it, or requires the health check that decides.
    fn trip(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Ticket> {
        if outcome == Outcome::Unreachable || self.consecutive >= self.max_consecutive {
            return self.open(reason, outcome, now);
        }
        (!self.checking).then(|| self.health_check(reason, now))
    }

    fn health_check(&mut self, reason: String, due: Instant) -> Ticket {
        self.checking = true;
        self.ticket(Kind::HealthCheck(reason), due)
    }

    fn ticket(&self, kind: Kind, start: Instant) -> Ticket {
        Ticket {
            generation: self.generation,
            kind,
            start,
            answered: None,
        }
    }

    /// Opens it for a while; an upstream that cannot be reached is checked meanwhile.
    fn open(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Ticket> {
        let doubled = (self.settings.open).saturating_mul(1 << self.times_opened.min(16));
        let wait = doubled.min(self.settings.max_open);
        self.times_opened = self.times_opened.saturating_add(1);
        self.enter(Phase::Open);
        // Where a health check cannot keep it closed, none can close it after a failed probe either.
        if self.consecutive < self.max_consecutive {
            self.consecutive = 0;
        }
        self.reason = Some(reason.clone());
        self.open_until = Some(now + wait);
        (outcome == Outcome::Unreachable).then(|| self.health_check(reason, now + RECHECK))
    }

    fn close(&mut self) {
        self.consecutive = 0;
        self.enter(Phase::Closed);
    }

    fn enter(&mut self, phase: Phase) {
        self.entered[phase as usize] += u64::from(phase != self.phase);
        self.phase = phase;
        self.generation += 1;
        self.exonerated = 0;
        self.last_calls.clear();
        self.open_until = None;
        self.reason = None;
        self.probing = false;
        self.checking = false;
    }
}
