//! Visits every state that can be reached within small bounds: a health check after two consecutive failures or half of the
//! last calls, open in any case after four in a row, a few permits out, and time passing by the second.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::breaker::Settings;
use crate::breaker::state::{Outcome, Phase, State, Ticket};

const SECOND: Duration = Duration::from_secs(1);
const MAX_CONSECUTIVE: u32 = 4;
const OUTCOMES: [Outcome; 4] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::Unreachable,
    Outcome::Unknown,
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    End(usize, Outcome),
    EndCheck(usize, Outcome),
    Pass,
    ForceOpen,
    Reset,
}

#[derive(Clone)]
struct World {
    state: State,
    now: Instant,
    tickets: Vec<Ticket>,
    checks: Vec<Ticket>,
    /// Counted apart from `State`, while it is closed: failures since the last success, and since a health check passed.
    consecutive: u32,
    unexonerated: u32,
}

impl World {
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Pass, Step::ForceOpen, Step::Reset];
        if self.tickets.len() < 3 {
            steps.push(Step::Admit);
        }
        for outcome in OUTCOMES {
            steps.extend((0..self.tickets.len()).map(|at| Step::End(at, outcome)));
            steps.extend((0..self.checks.len()).map(|at| Step::EndCheck(at, outcome)));
        }
        steps
    }

    /// What determines every later state: of older generations only that there are some, of times only the seconds left.
    fn key(&self) -> String {
        let state = &self.state;
        let left = |until: Instant| (until - self.now.min(until)).as_millis().div_ceil(1_000);
        let live = |tickets: &[Ticket]| {
            let mut live: Vec<_> = tickets
                .iter()
                .map(|t| t.generation == state.generation)
                .collect();
            live.sort_unstable();
            live
        };
        let key = (
            (
                state.phase,
                state.open_until.map(left),
                state.times_opened.min(2),
            ),
            (state.busy, &state.last_calls),
            state.consecutive.min(MAX_CONSECUTIVE),
            (self.consecutive.min(MAX_CONSECUTIVE), self.unexonerated),
            (live(&self.tickets), live(&self.checks)),
        );
        format!("{key:?}")
    }

    fn step(&self, step: Step) -> Self {
        let mut next = self.clone();
        let (state, now, before) = (&mut next.state, self.now, &self.state);
        let closed = before.phase == Phase::Closed;
        match step {
            Step::Pass => next.now += SECOND,
            Step::ForceOpen => state.force_open(),
            Step::Reset => state.reset(),
            Step::Admit => match state.admit(now) {
                Ok(ticket) => {
                    assert_eq!(before.refusal(now), None);
                    next.tickets.push(ticket);
                }
                Err(wait) => assert!(before.refusal(now) == Some(wait) && state == before),
            },
            Step::End(at, outcome) => {
                let ticket = next.tickets.swap_remove(at);
                let is_stale = ticket.generation != before.generation;
                let check = state.record(ticket, outcome, now);
                if is_stale {
                    assert!(state == before && check.is_none(), "a stale result counted");
                } else if closed && outcome != Outcome::Unknown {
                    let failed = outcome != Outcome::Success;
                    next.consecutive = if failed { self.consecutive + 1 } else { 0 };
                    next.unexonerated = if failed { self.unexonerated + 1 } else { 0 };
                    let (opened, certain) = (
                        state.phase == Phase::Open,
                        next.consecutive >= MAX_CONSECUTIVE,
                    );
                    assert!(!certain || opened, "the maximum in a row did not open it");
                    assert!(!opened || certain || outcome == Outcome::Unreachable);
                    let enough = next.unexonerated >= state.settings.consecutive_failures;
                    assert!(!enough || opened || state.busy, "no health check");
                } else if before.phase == Phase::HalfOpen {
                    let closed = state.phase == Phase::Closed;
                    assert_eq!(closed, outcome == Outcome::Success);
                }
                next.checks.extend(check);
            }
            Step::EndCheck(at, outcome) => {
                let check = next.checks.swap_remove(at);
                let is_stale = check.generation != before.generation;
                let again = state.record(check, outcome, now);
                if is_stale {
                    assert!(state == before && again.is_none(), "a stale check counted");
                } else {
                    let phase = match outcome {
                        Outcome::Success => Phase::Closed,
                        Outcome::Failure | Outcome::Unreachable => Phase::Open,
                        Outcome::Unknown => before.phase,
                    };
                    assert_eq!(state.phase, phase);
                    assert!(!before.is_forced());
                    if outcome == Outcome::Success {
                        next.unexonerated = 0;
                    }
                }
                next.checks.extend(again);
            }
        }
        if next.state.generation == before.generation {
            assert_eq!(next.state.phase, before.phase);
        } else {
            (next.consecutive, next.unexonerated) = (0, 0);
            // One stale check is like many.
            next.checks.drain(..next.checks.len().saturating_sub(2));
        }
        next
    }

    fn assert_invariants(&self) {
        let state = &self.state;
        let is_live = |generation| generation == state.generation;
        let calls = self.tickets.iter().filter(|call| is_live(call.generation));
        let checks = self.checks.iter().filter(|check| is_live(check.generation));
        let (calls, checks) = (calls.count(), checks.count());
        let probes = if state.phase == Phase::Closed {
            0
        } else {
            calls
        };
        assert_eq!(usize::from(state.busy), probes + checks);
        assert!(state.phase != Phase::Open || calls == 0);
        // Dropped permits, dropped checks and time lead to a state that admits, and a success from there closes it.
        let mut state = state.clone();
        for ticket in &self.tickets {
            assert_eq!(
                state.record(ticket.clone(), Outcome::Unknown, self.now),
                None
            );
        }
        for check in &self.checks {
            state.record(check.clone(), Outcome::Unknown, self.now);
        }
        let later = self.now + 2 * state.settings.max_open;
        if state.is_forced() {
            assert!(state.refusal(later).is_some());
            state.reset();
        }
        let ticket = state.admit(later).unwrap();
        state.record(ticket, Outcome::Success, later);
        assert_eq!(state.phase, Phase::Closed);
    }
}

#[test]
fn every_reachable_state_has_at_most_one_probe_and_one_check_and_can_close_again() {
    let settings = Settings {
        consecutive_failures: 2,
        last_calls: 4,
        open: 2 * SECOND,
        max_open: 4 * SECOND,
        ..Settings::default()
    };
    let mut state = State::new("test".into(), settings);
    state.max_consecutive = MAX_CONSECUTIVE;
    let start = World {
        state,
        now: Instant::now(),
        tickets: Vec::new(),
        checks: Vec::new(),
        consecutive: 0,
        unexonerated: 0,
    };
    let mut seen = HashSet::from([start.key()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        world.assert_invariants();
        for step in world.steps() {
            let next = world.step(step);
            if seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    assert!(seen.len() > 2_500, "only {} states", seen.len());
}
