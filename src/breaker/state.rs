use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Settings;
use super::blame::{Blame, Reason, Source};

/// What a breaker is doing, for health, metrics and log; [`Permit`](super::Permit) goes through all three.
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

/// The right to make one call, as the state machine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(super) generation: u64,
    pub(super) probe: bool,
    pub(super) source: Option<Source>,
    pub(super) admitted: Instant,
    /// When the upstream began to answer.
    pub(super) answered: Option<Instant>,
}

/// How a call ended: what a [`Permit`](super::Permit) is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It did not; the request may have made it fail.
    Failure,
    /// It is not there, whatever it is asked.
    Absent,
    /// It says nothing about the upstream: the client left, or the request was at fault.
    Unknown,
}

/// A question that has to be answered before the door shuts for everybody: all that went wrong came from one source. Is
/// it the upstream, or what that source asks for?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspicion {
    pub(super) generation: u64,
    pub(super) source: Source,
    pub(super) reason: Reason,
}

/// What a look at an upstream found, before it is shut because of one source: what closes a [`Case`](super::Case).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Finding {
    /// It answers: the source pays with its own failures.
    Well,
    /// It does not.
    Down,
    /// Nobody looked.
    Unknown,
}

impl Finding {
    /// As it stands in the log and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// The state machine.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) generation: u64,
    pub(super) in_a_row: u32,
    /// Whose the failures in a row are.
    pub(super) row: Blame,
    pub(super) last: VecDeque<Call>,
    /// How often it opened since the last success.
    pub(super) opened: u32,
    /// `None` while it is forced open.
    pub(super) open_until: Option<Instant>,
    reason: Option<Reason>,
    pub(super) probing: bool,
    /// Whose calls raised the suspicion that is not cleared up yet.
    pub(super) suspect: Option<Source>,
    jitter: u64,
}

/// One of the last calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Call {
    pub(super) failed: bool,
    pub(super) slow: bool,
    pub(super) source: Option<Source>,
}

impl State {
    /// A closed breaker; `seed` spreads the open times of many breakers apart.
    #[must_use]
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let last = VecDeque::with_capacity(settings.last_calls);
        let jitter = seed | 1;
        Self {
            settings,
            phase: Phase::Closed,
            generation: 0,
            in_a_row: 0,
            row: Blame::Nobody,
            last,
            opened: 0,
            open_until: None,
            reason: None,
            probing: false,
            suspect: None,
            jitter,
        }
    }

    /// What it is doing at `now`: an open time that has run out shows as half-open.
    #[must_use]
    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match self.open_until {
            Some(until) if self.phase == Phase::Open && now >= until => Phase::HalfOpen,
            _ => self.phase,
        }
    }

    /// Why it opened, until a probe goes.
    #[must_use]
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Whether a call would be refused at `now`, and how long to wait before the next try, at least a millisecond.
    #[must_use]
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

    /// Asks to make a call. `source` is who asks for it, where that may be what makes it fail.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub(crate) fn admit(
        &mut self,
        source: Option<Source>,
        now: Instant,
    ) -> Result<Ticket, Duration> {
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
            source,
            admitted: now,
            answered: None,
        })
    }

    /// Tells how the call behind `ticket` ended. A suspicion that comes back must be [cleared up](State::clear_up).
    pub(crate) fn record(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Suspicion> {
        if ticket.generation != self.generation {
            return None;
        }
        let source = ticket.source.filter(|_| outcome != Outcome::Absent);
        match (self.phase, outcome) {
            (Phase::Open, _) | (Phase::Closed, Outcome::Unknown) => None,
            (Phase::HalfOpen, Outcome::Unknown) => {
                self.probing = false;
                None
            }
            // However slow: a server that loads its model for the first call after a rest would never come back.
            (Phase::HalfOpen, Outcome::Success) => {
                self.opened = 0;
                self.enter(Phase::Closed);
                None
            }
            (Phase::HalfOpen, Outcome::Failure | Outcome::Absent) => {
                self.accuse(Blame::Nobody.and(source), Reason::Probe, now)
            }
            (Phase::Closed, _) => {
                let failed = outcome != Outcome::Success;
                // A success that never told of its first text was not waited for in that way.
                let first = ticket.answered.or(failed.then_some(now));
                let waited = first.map(|first| first - ticket.admitted);
                let call = Call {
                    failed,
                    slow: self.settings.slow.is_some_and(|slow| waited > Some(slow)),
                    source,
                };
                self.count(call);
                let (blame, reason) = self.charge()?;
                self.accuse(blame, reason, now)
            }
        }
    }

    /// Tells what a look at the upstream said. Until then it stays as it is, and no other suspicion is raised.
    pub(crate) fn clear_up(&mut self, suspicion: Suspicion, finding: Finding, now: Instant) {
        if suspicion.generation != self.generation {
            return;
        }
        self.suspect = None;
        match (finding, self.phase) {
            (Finding::Down, _) => self.open(suspicion.reason, now),
            (Finding::Unknown, _) => self.probing = false,
            // The look was the probe. The next time it opens it still waits longer: no call succeeded.
            (Finding::Well, Phase::HalfOpen) => self.enter(Phase::Closed),
            (Finding::Well, Phase::Closed | Phase::Open) => {
                self.in_a_row = 0;
                self.row = Blame::Nobody;
                let theirs = |call: &Call| {
                    (call.failed || call.slow) && call.source == Some(suspicion.source)
                };
                self.last.retain(|call| !theirs(call));
            }
        }
    }

    /// Another upstream did what `source` asked of this one in vain: its latest failure here is not the source's fault.
    pub(crate) fn vouch(&mut self, source: Source, now: Instant) {
        let theirs = |call: &&mut Call| call.failed && call.source == Some(source);
        if let Some(call) = self.last.iter_mut().rev().find(theirs) {
            call.source = None;
        }
        if self.row == Blame::One(source) {
            self.row = Blame::Several;
        }
        match self.phase {
            Phase::HalfOpen if self.suspect == Some(source) => self.open(Reason::Probe, now),
            Phase::Closed => {
                if let Some((Blame::Several, reason)) = self.charge() {
                    self.open(reason, now);
                }
            }
            Phase::HalfOpen | Phase::Open => {}
        }
    }

    /// Opens it until it is [reset](State::reset).
    pub(crate) fn force_open(&mut self) {
        self.enter(Phase::Open);
        self.reason = Some(Reason::Forced);
    }

    /// Closes it and forgets all it counted.
    pub(crate) fn reset(&mut self) {
        self.opened = 0;
        self.enter(Phase::Closed);
    }

    fn count(&mut self, call: Call) {
        if call.failed {
            self.in_a_row = self.in_a_row.saturating_add(1);
            self.row = self.row.and(call.source);
        } else {
            self.opened = 0;
            self.in_a_row = 0;
            self.row = Blame::Nobody;
        }
        if self.last.len() >= self.settings.last_calls {
            self.last.pop_front();
        }
        self.last.push_back(call);
    }

    /// What would open it, and whose calls that was; of several reasons one that is beyond suspicion.
    fn charge(&self) -> Option<(Blame, Reason)> {
        let Settings {
            consecutive_failures,
            failure_rate,
            slow_rate,
            last_calls,
            ..
        } = self.settings;
        let of = self.last.len();
        let share = |wrong: fn(&Call) -> bool, rate: f64, reason: fn(usize, usize) -> Reason| {
            let wrong = || self.last.iter().filter(move |call| wrong(call));
            let count = wrong().count();
            let enough = count > 0 && of >= last_calls && count as f64 / of as f64 >= rate;
            let blame = || wrong().fold(Blame::Nobody, |blame, call| blame.and(call.source));
            enough.then(|| (blame(), reason(count, of)))
        };
        let in_a_row = (self.in_a_row >= consecutive_failures)
            .then_some((self.row, Reason::InARow(self.in_a_row)));
        let failures = share(|call| call.failed, failure_rate, Reason::Failures);
        let slow = share(|call| call.slow, slow_rate, Reason::Slow);
        [in_a_row, failures, slow]
            .into_iter()
            .flatten()
            .min_by_key(|(blame, _)| matches!(blame, Blame::One(_)))
    }

    fn accuse(&mut self, blame: Blame, reason: Reason, now: Instant) -> Option<Suspicion> {
        match blame {
            Blame::One(_) if self.suspect.is_some() => None,
            Blame::One(source) => {
                self.suspect = Some(source);
                Some(Suspicion {
                    generation: self.generation,
                    source,
                    reason,
                })
            }
            Blame::Nobody | Blame::Several => {
                self.open(reason, now);
                None
            }
        }
    }

    fn open(&mut self, reason: Reason, now: Instant) {
        let doubled = self.settings.open.saturating_mul(1 << self.opened.min(16));
        let wait = doubled.min(self.settings.max_open);
        self.opened = self.opened.saturating_add(1);
        self.enter(Phase::Open);
        self.reason = Some(reason);
        // Up to a tenth longer, so that many nodes do not ask a returning upstream at one moment.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.open_until = Some(now + wait + wait.mul_f64((self.jitter % 1000) as f64 / 10_000.0));
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.in_a_row = 0;
        self.row = Blame::Nobody;
        self.last.clear();
        self.open_until = None;
        self.reason = None;
        self.probing = false;
        self.suspect = None;
    }
}

#[cfg(test)]
mod tests;
