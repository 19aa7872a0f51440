use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Settings;

/// Failures in a row that open a breaker whatever the health check says.
const MAX_IN_A_ROW: u32 = 20;
/// Between two health checks of an upstream that refused its connections.
pub(super) const RECHECK: Duration = Duration::from_secs(5);

/// What a breaker is doing, for health, metrics and log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// One probe passes.
    HalfOpen,
}

/// How a call or a health check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It did not; the request may have made it fail.
    Failure,
    /// No connection could be made, which no request can cause.
    Unreachable,
    /// It says nothing about the upstream: the client left, or the request was at fault.
    Unknown,
}

/// The right to make one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(super) generation: u64,
    pub(super) probe: bool,
    pub(super) admitted: Instant,
    /// When the upstream began to answer.
    pub(super) answered: Option<Instant>,
}

/// A health check that is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    pub(super) generation: u64,
    pub(super) reason: String,
    pub(super) due: Instant,
}

/// The state machine.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    pub(super) settings: Settings,
    pub(super) max_in_a_row: u32,
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// Failures since the last success.
    pub(super) in_a_row: u32,
    /// How many of them the last health check passed over.
    pub(super) excused: u32,
    pub(super) last: VecDeque<Call>,
    /// How often it opened since the last success.
    pub(super) opened: u32,
    /// `None` while it is forced open.
    pub(super) open_until: Option<Instant>,
    /// Why it opened, until a probe is admitted.
    pub(super) reason: Option<String>,
    /// Whether the probe, or the health check after it failed, is under way.
    pub(super) probing: bool,
    pub(super) checking: bool,
    /// Up to a tenth of the wait, so that many breakers do not probe a returning upstream at one moment.
    jitter: f64,
}

/// One of the last calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Call {
    pub(super) failed: bool,
    pub(super) slow: bool,
}

impl State {
    pub(crate) fn new(settings: Settings, jitter: f64) -> Self {
        Self {
            max_in_a_row: MAX_IN_A_ROW.max(settings.consecutive_failures),
            phase: Phase::Closed,
            generation: 0,
            in_a_row: 0,
            excused: 0,
            last: VecDeque::with_capacity(settings.last_calls),
            opened: 0,
            open_until: None,
            reason: None,
            probing: false,
            checking: false,
            jitter,
            settings,
        }
    }

    /// What it is doing at `now`: an open time that has run out shows as half-open.
    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match self.open_until {
            Some(until) if self.phase == Phase::Open && now >= until => Phase::HalfOpen,
            _ => self.phase,
        }
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.phase == Phase::Open && self.open_until.is_none()
    }

    /// Whether a call would be refused at `now`, and how long to wait before the next try, at least a millisecond.
    pub(crate) fn refusal(&self, now: Instant) -> Option<Duration> {
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
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if self.phase == Phase::Open {
            self.enter(Phase::HalfOpen);
        }
        self.probing = self.phase == Phase::HalfOpen;
        Ok(Ticket {
            generation: self.generation,
            probe: self.probing,
            admitted: now,
            answered: None,
        })
    }

    /// Records how the call of `ticket` ended. A check that is returned must be [ended](State::end_check).
    pub(crate) fn record(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Check> {
        if ticket.generation != self.generation {
            return None;
        }
        match (self.phase, outcome) {
            (_, Outcome::Unknown) => self.probing = false,
            (Phase::Closed, _) => {
                let failed = outcome != Outcome::Success;
                // A success whose first text is unknown was not waited for in that way.
                let first = ticket.answered.or(failed.then_some(now));
                let waited = first.map(|first| first - ticket.admitted);
                let slow = self.settings.slow.is_some_and(|slow| waited > Some(slow));
                return self.count(Call { failed, slow }, outcome, now);
            }
            // However slow: a server that loads its model for the first call after a pause would never come back.
            (_, Outcome::Success) => self.reset(),
            _ => return self.trip("the probe failed".to_owned(), outcome, now),
        }
        None
    }

    /// Records how a health check ended; the next one, where there is to be one.
    pub(crate) fn end_check(
        &mut self,
        check: Check,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Check> {
        if check.generation != self.generation {
            return None;
        }
        self.checking = false;
        match (self.phase, outcome) {
            (_, Outcome::Unknown) => self.probing = false,
            (Phase::Closed, Outcome::Success) => {
                self.excused = self.in_a_row;
                self.last.clear();
            }
            // The next time it opens it still waits longer: no call succeeded.
            (_, Outcome::Success) => self.close(),
            (Phase::Open, _) => return Some(self.check(check.reason, now + RECHECK)),
            _ => return self.open(check.reason, outcome, now),
        }
        None
    }

    /// Opens it until it is [reset](State::reset).
    pub(crate) fn force_open(&mut self) {
        self.enter(Phase::Open);
        self.reason = Some("forced by the operator".to_owned());
    }

    /// Closes it and clears all counts.
    pub(crate) fn reset(&mut self) {
        self.opened = 0;
        self.close();
    }

    fn count(&mut self, call: Call, outcome: Outcome, now: Instant) -> Option<Check> {
        if call.failed {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            (self.opened, self.in_a_row, self.excused) = (0, 0, 0);
        }
        if self.last.len() >= self.settings.last_calls {
            self.last.pop_front();
        }
        self.last.push_back(call);
        let of = self.last.len();
        let share = |counts: fn(&&Call) -> bool, rate: f64| {
            let count = self.last.iter().filter(counts).count();
            let full = of >= self.settings.last_calls;
            (full && count > 0 && count as f64 / of as f64 >= rate).then_some(count)
        };
        if let Some(count) = share(|call| call.slow, self.settings.slow_rate) {
            let reason = format!("{count} of the last {of} calls were slow");
            return self.open(reason, outcome, now);
        }
        let unexcused = self.in_a_row - self.excused;
        if unexcused >= self.settings.consecutive_failures || self.in_a_row >= self.max_in_a_row {
            let reason = format!("{} failures in a row", self.in_a_row);
            return self.trip(reason, outcome, now);
        }
        let count = share(|call| call.failed, self.settings.failure_rate)?;
        self.trip(
            format!("{count} of the last {of} calls failed"),
            outcome,
            now,
        )
    }

    /// Opens it, or asks for the health check that decides.
    fn trip(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Check> {
        if outcome == Outcome::Unreachable || self.in_a_row >= self.max_in_a_row {
            return self.open(reason, outcome, now);
        }
        (!self.checking).then(|| self.check(reason, now))
    }

    fn check(&mut self, reason: String, due: Instant) -> Check {
        self.checking = true;
        Check {
            generation: self.generation,
            reason,
            due,
        }
    }

    /// Returns the first health check of an upstream that is to be checked again and again.
    fn open(&mut self, reason: String, outcome: Outcome, now: Instant) -> Option<Check> {
        let doubled = self.settings.open.saturating_mul(1 << self.opened.min(16));
        let wait = doubled.min(self.settings.max_open);
        self.opened = self.opened.saturating_add(1);
        self.enter(Phase::Open);
        // Where a health check cannot keep it closed, none can close it after a failed probe either.
        if self.in_a_row < self.max_in_a_row {
            self.in_a_row = 0;
        }
        self.reason = Some(reason.clone());
        self.open_until = Some(now + wait.mul_f64(1.0 + self.jitter));
        (outcome == Outcome::Unreachable).then(|| self.check(reason, now + RECHECK))
    }

    fn close(&mut self) {
        self.in_a_row = 0;
        self.enter(Phase::Closed);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.excused = 0;
        self.last.clear();
        self.open_until = None;
        self.reason = None;
        self.probing = false;
        self.checking = false;
    }
}
