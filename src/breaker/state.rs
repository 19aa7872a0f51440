use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a breaker opens and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// Share of failures among the last calls that opens it, 0 to 1.
    pub failure_rate: f64,
    /// How many calls are "the last calls"; the share counts only once there were that many.
    pub last_calls: usize,
    /// How long it stays open the first time; doubled each time a probe fails.
    pub open: Duration,
    /// How long it stays open at most.
    pub max_open: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: 0.5,
            last_calls: 20,
            open: Duration::from_secs(60),
            max_open: Duration::from_secs(300),
        }
    }
}

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

/// The right to make one call, as the state machine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    generation: u64,
    pub(super) probe: bool,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// The upstream is to blame.
    Failure,
    /// It says nothing about the upstream: the client left, or the request was at fault.
    Unknown,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    phase: Phase,
    generation: u64,
    in_a_row: u32,
    last: VecDeque<bool>,
    opened: u32,
    open_until: Option<Instant>,
    probing: bool,
    jitter: u64,
}

impl State {
    /// A closed breaker; `seed` spreads the open times of many breakers apart.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        let last = VecDeque::with_capacity(settings.last_calls);
        let jitter = seed | 1;
        Self {
            settings,
            phase: Phase::Closed,
            generation: 0,
            in_a_row: 0,
            last,
            opened: 0,
            open_until: None,
            probing: false,
            jitter,
        }
    }

    /// What it is doing at `now`: an open time that has run out shows as half-open.
    #[must_use]
    pub fn phase(&self, now: Instant) -> Phase {
        match self.open_until {
            Some(until) if self.phase == Phase::Open && now >= until => Phase::HalfOpen,
            _ => self.phase,
        }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long to wait before the next try, at least a millisecond.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if self.phase == Phase::Open && self.phase(now) == Phase::HalfOpen {
            self.enter(Phase::HalfOpen);
        }
        match self.phase {
            Phase::Closed => Ok(Ticket {
                generation: self.generation,
                probe: false,
            }),
            Phase::HalfOpen if !self.probing => {
                self.probing = true;
                Ok(Ticket {
                    generation: self.generation,
                    probe: true,
                })
            }
            Phase::HalfOpen => Err(Duration::from_secs(1)),
            Phase::Open => {
                let left = self
                    .open_until
                    .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
                Err(left.max(Duration::from_millis(1)))
            }
        }
    }

    /// Tells how the call behind `ticket` ended.
    pub fn record(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        if ticket.generation != self.generation {
            return;
        }
        match (self.phase, outcome) {
            (Phase::HalfOpen, Outcome::Success) => {
                self.opened = 0;
                self.enter(Phase::Closed);
            }
            (Phase::HalfOpen, Outcome::Failure) => self.open(now),
            (Phase::HalfOpen, Outcome::Unknown) => self.probing = false,
            (Phase::Closed, Outcome::Success) => self.count(true, now),
            (Phase::Closed, Outcome::Failure) => self.count(false, now),
            (Phase::Closed, Outcome::Unknown) | (Phase::Open, _) => {}
        }
    }

    fn count(&mut self, success: bool, now: Instant) {
        self.in_a_row = if success {
            0
        } else {
            self.in_a_row.saturating_add(1)
        };
        if self.last.len() >= self.settings.last_calls {
            self.last.pop_front();
        }
        self.last.push_back(success);
        let failures = self.last.iter().filter(|success| !**success).count();
        let full = self.last.len() >= self.settings.last_calls;
        let share = failures as f64 / self.last.len() as f64;
        if self.in_a_row >= self.settings.consecutive_failures
            || (full && share >= self.settings.failure_rate)
        {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        let doubled = self.settings.open.saturating_mul(1 << self.opened.min(16));
        let wait = doubled.min(self.settings.max_open);
        self.opened = self.opened.saturating_add(1);
        self.enter(Phase::Open);
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
        self.last.clear();
        self.open_until = None;
        self.probing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn closed() -> State {
        State::new(Settings::default(), 7)
    }

    fn fail(state: &mut State, now: Instant, times: u32) {
        for _ in 0..times {
            let ticket = state.admit(now).unwrap();
            state.record(ticket, Outcome::Failure, now);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_starts_the_count_anew() {
        let (mut state, now) = (closed(), Instant::now());
        fail(&mut state, now, 4);
        let ticket = state.admit(now).unwrap();
        state.record(ticket, Outcome::Success, now);
        fail(&mut state, now, 4);
        assert_eq!(state.phase(now), Phase::Closed);
        fail(&mut state, now, 1);
        assert_eq!(state.phase(now), Phase::Open);
        let wait = state.admit(now).unwrap_err();
        assert!(
            wait >= Duration::from_secs(60) && wait <= Duration::from_secs(66),
            "{wait:?}"
        );
    }

    #[test]
    fn half_of_the_last_twenty_open_it() {
        let (mut state, now) = (closed(), Instant::now());
        for call in 0..20 {
            assert_eq!(state.phase(now), Phase::Closed, "after {call} calls");
            let ticket = state.admit(now).unwrap();
            state.record(
                ticket,
                if call % 2 == 0 {
                    Outcome::Success
                } else {
                    Outcome::Failure
                },
                now,
            );
        }
        assert_eq!(state.phase(now), Phase::Open);
    }

    #[test]
    fn one_probe_passes_and_its_place_comes_back_when_it_says_nothing() {
        let (mut state, now) = (closed(), Instant::now());
        fail(&mut state, now, 5);
        let later = now + Duration::from_secs(67);
        let probe = state.admit(later).unwrap();
        assert!(state.admit(later).is_err());
        state.record(probe, Outcome::Unknown, later);
        let probe = state.admit(later).unwrap();
        state.record(probe, Outcome::Success, later);
        assert_eq!(state.phase(later), Phase::Closed);
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_five_minutes() {
        let (mut state, mut now) = (closed(), Instant::now());
        fail(&mut state, now, 5);
        for seconds in [60, 120, 240, 300, 300] {
            let wait = state.admit(now).unwrap_err();
            assert!(
                wait >= Duration::from_secs(seconds)
                    && wait <= Duration::from_secs(seconds * 11 / 10),
                "{wait:?}"
            );
            now += wait;
            fail(&mut state, now, 1);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Admit,
        End(usize, Outcome),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            Just(Outcome::Success),
            Just(Outcome::Failure),
            Just(Outcome::Unknown)
        ];
        prop_oneof![
            Just(Step::Admit),
            (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
            (0u64..200).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn in_any_order_of_events_at_most_one_probe_is_out_and_the_door_never_stays_shut(steps in prop::collection::vec(step(), 0..200)) {
            let (mut state, mut now) = (closed(), Instant::now());
            let mut out: Vec<Ticket> = Vec::new();
            for step in steps {
                match step {
                    Step::Admit => match state.admit(now) {
                        Ok(ticket) => out.push(ticket),
                        Err(wait) => prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(330)),
                    },
                    Step::End(which, outcome) if !out.is_empty() => {
                        let ticket = out.swap_remove(which % out.len());
                        let stale = ticket.generation != state.generation;
                        let before = (state.phase, state.generation);
                        state.record(ticket, outcome, now);
                        prop_assert!(!stale || before == (state.phase, state.generation));
                    }
                    Step::End(..) => {}
                    Step::Pass(seconds) => now += Duration::from_secs(seconds),
                }
                let probes = out.iter().filter(|ticket| ticket.probe && ticket.generation == state.generation).count();
                prop_assert!(probes <= 1);
                prop_assert_eq!(probes == 1, state.probing);
            }
            for ticket in out {
                state.record(ticket, Outcome::Unknown, now);
            }
            prop_assert!(state.admit(now + Duration::from_secs(331)).is_ok());
        }
    }
}
