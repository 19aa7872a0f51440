//! Every state that can be reached within small bounds, each held against what must be true of it: with two failures in
//! a row or half of the last calls, two sources, a few permits out and time passing by the second.
//!
//! States that behave alike are one: of an older generation only that there is one counts, of a time only how many
//! seconds are left, and which source is which does not matter.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::blame::{Blame, Source};
use super::state::Call;
use super::{Finding, Outcome, Phase, Reason, Settings, State, Suspicion, Ticket};

const SECOND: Duration = Duration::from_secs(1);
/// More than the longest rest.
const LONG: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit(Source),
    Answer(usize),
    End(usize, Outcome),
    ClearUp(usize, Finding),
    Vouch(Source),
    Pass,
    ForceOpen,
    Reset,
}

#[derive(Clone)]
struct Place {
    state: State,
    now: Instant,
    tickets: Vec<Ticket>,
    suspicions: Vec<Suspicion>,
    /// The last calls since it closed, kept by the walk itself.
    window: Vec<Call>,
    /// Whose the failures since the last success were, likewise.
    run: Vec<Option<Source>>,
}

fn sources() -> [Source; 2] {
    [Source::of(&"one"), Source::of(&"other")]
}

impl Place {
    fn lives(&self, generation: u64) -> bool {
        generation == self.state.generation
    }

    fn is_slow(&self, ticket: &Ticket) -> bool {
        let waited = ticket.answered.unwrap_or(self.now) - ticket.admitted;
        let slow = self.state.settings.slow;
        slow.is_some_and(|slow| waited > slow)
    }

    fn steps(&self, permits: usize) -> Vec<Step> {
        let mut steps = vec![Step::Pass, Step::ForceOpen, Step::Reset];
        steps.extend(sources().map(Step::Vouch));
        if self.tickets.len() < permits {
            steps.extend(sources().map(Step::Admit));
        }
        for (index, ticket) in self.tickets.iter().enumerate() {
            let outcomes = [
                Outcome::Success,
                Outcome::Failure,
                Outcome::Absent,
                Outcome::Unknown,
            ];
            steps.extend(outcomes.map(|outcome| Step::End(index, outcome)));
            if !ticket.probe && ticket.answered.is_none() && self.state.settings.slow.is_some() {
                steps.push(Step::Answer(index));
            }
        }
        for index in 0..self.suspicions.len() {
            let findings = [Finding::Well, Finding::Down, Finding::Unknown];
            steps.extend(findings.map(|finding| Step::ClearUp(index, finding)));
        }
        steps
    }

    /// What decides how it goes on, as bytes.
    fn key(&self) -> Vec<u8> {
        let [one, other] = sources();
        let named = |first: Source| {
            move |source: Option<Source>| match source {
                None => 0,
                Some(source) if source == first => 1,
                Some(_) => 2,
            }
        };
        self.key_by(named(one)).min(self.key_by(named(other)))
    }

    fn key_by(&self, name: impl Fn(Option<Source>) -> u8) -> Vec<u8> {
        let state = &self.state;
        let left = match state.open_until {
            None => u8::MAX,
            Some(until) => {
                let left = until.saturating_duration_since(self.now);
                left.as_millis().div_ceil(1_000) as u8
            }
        };
        let row = match state.row {
            Blame::Nobody => 0,
            Blame::One(source) => name(Some(source)),
            Blame::Several => 3,
        };
        let mut key = vec![
            state.phase as u8,
            state.in_a_row.min(state.settings.consecutive_failures) as u8,
            row,
            state.opened.min(2) as u8,
            left,
            state.probing.into(),
            name(state.suspect),
            state.last.len() as u8,
        ];
        for call in &state.last {
            // Of a call that went well nobody asks whose it was.
            let source = Some(call.source).filter(|_| call.failed || call.slow);
            let source = source.map_or(3, &name);
            key.push(u8::from(call.failed) * 8 + u8::from(call.slow) * 4 + source);
        }
        let ticket = |ticket: &Ticket| {
            if !self.lives(ticket.generation) {
                return 255;
            }
            let answered = ticket.answered.is_some();
            let slow = self.is_slow(ticket);
            let flags = u8::from(ticket.probe) * 16 + u8::from(answered) * 8 + u8::from(slow) * 4;
            flags + name(ticket.source)
        };
        let mut tickets: Vec<u8> = self.tickets.iter().map(ticket).collect();
        tickets.sort_unstable();
        key.push(254);
        key.extend(tickets);
        let suspicion = |suspicion: &Suspicion| match self.lives(suspicion.generation) {
            true => name(Some(suspicion.source)),
            false => 255,
        };
        let mut suspicions: Vec<u8> = self.suspicions.iter().map(suspicion).collect();
        suspicions.sort_unstable();
        key.push(254);
        key.extend(suspicions);
        key
    }

    /// Takes a step, and holds what came of it against what had to.
    fn step(&self, step: Step) -> Self {
        let mut next = self.clone();
        let (state, now) = (&mut next.state, self.now);
        let before = &self.state;
        match step {
            Step::Pass => next.now += SECOND,
            Step::Admit(source) => match state.admit(Some(source), now) {
                Ok(ticket) => {
                    assert_eq!(before.refusal(now), None);
                    assert_eq!(ticket.probe, state.phase == Phase::HalfOpen);
                    next.tickets.push(ticket);
                }
                Err(wait) => {
                    assert_eq!(before.refusal(now), Some(wait));
                    assert!(!wait.is_zero());
                    assert_eq!(state, before);
                }
            },
            Step::Answer(index) => next.tickets[index].answered = Some(now),
            Step::End(index, outcome) => {
                let ticket = next.tickets.swap_remove(index);
                let suspicion = state.record(ticket, outcome, now);
                if !self.lives(ticket.generation) {
                    assert_eq!((&*state, suspicion), (before, None), "a late end counted");
                } else if before.phase == Phase::HalfOpen {
                    let wanted = match outcome {
                        Outcome::Success => (Phase::Closed, false),
                        Outcome::Failure => (Phase::HalfOpen, true),
                        Outcome::Absent => (Phase::Open, false),
                        Outcome::Unknown => (Phase::HalfOpen, false),
                    };
                    assert_eq!((state.phase, suspicion.is_some()), wanted);
                } else if outcome == Outcome::Unknown {
                    assert_eq!((&*state, suspicion), (before, None));
                } else {
                    let failed = outcome != Outcome::Success;
                    let source = ticket.source.filter(|_| outcome != Outcome::Absent);
                    let slow = self.is_slow(&ticket) && (failed || ticket.answered.is_some());
                    next.note(Call {
                        failed,
                        slow,
                        source,
                    });
                    let (phase, suspected) = next.wanted();
                    let wanted = (phase, suspected && before.suspect.is_none());
                    assert_eq!((next.state.phase, suspicion.is_some()), wanted, "{step:?}");
                }
                next.suspicions.extend(suspicion);
            }
            Step::ClearUp(index, finding) => {
                let suspicion = next.suspicions.swap_remove(index);
                state.clear_up(suspicion, finding, now);
                if !self.lives(suspicion.generation) {
                    assert_eq!(state, before, "a late finding counted");
                } else {
                    let wanted = match finding {
                        Finding::Well => Phase::Closed,
                        Finding::Down => Phase::Open,
                        Finding::Unknown => before.phase,
                    };
                    assert_eq!(state.phase, wanted);
                    if finding == Finding::Well {
                        let theirs = |call: &Call| call.source == Some(suspicion.source);
                        next.window
                            .retain(|call| !theirs(call) || !(call.failed || call.slow));
                        next.run.clear();
                    }
                }
            }
            Step::Vouch(source) => {
                state.vouch(source, now);
                if before.phase == Phase::Closed {
                    let theirs = |call: &&mut Call| call.failed && call.source == Some(source);
                    if let Some(call) = next.window.iter_mut().rev().find(theirs) {
                        call.source = None;
                    }
                    if next.run.iter().all(|whose| *whose == Some(source))
                        && let Some(last) = next.run.last_mut()
                    {
                        *last = None;
                    }
                    assert_eq!(next.state.phase, next.wanted().0);
                } else {
                    let own = before.phase == Phase::HalfOpen && before.suspect == Some(source);
                    let wanted = if own { Phase::Open } else { before.phase };
                    assert_eq!(next.state.phase, wanted);
                }
            }
            Step::ForceOpen => {
                state.force_open();
                assert_eq!(
                    (state.phase, state.reason()),
                    (Phase::Open, Some(Reason::Forced))
                );
            }
            Step::Reset => {
                state.reset();
                assert_eq!(state.phase, Phase::Closed);
            }
        }
        // Whatever changes the state starts a generation, and nothing else does.
        if next.state.phase != before.phase {
            assert!(next.state.generation > before.generation);
        }
        if next.state.generation != before.generation {
            next.window.clear();
            next.run.clear();
        }
        next
    }

    /// Notes a call that ended while it is closed.
    fn note(&mut self, call: Call) {
        self.window.push(call);
        if self.window.len() > self.state.settings.last_calls {
            self.window.remove(0);
        }
        if call.failed {
            self.run.push(call.source);
        } else {
            self.run.clear();
        }
    }

    /// What the calls since it closed have to bring about: the phase, and whether one source is suspected.
    fn wanted(&self) -> (Phase, bool) {
        let Settings {
            consecutive_failures,
            last_calls,
            ..
        } = self.state.settings;
        let half = |wrong: fn(&Call) -> bool| -> Vec<Option<Source>> {
            let wrong = self.window.iter().filter(|call| wrong(call));
            let sources: Vec<_> = wrong.map(|call| call.source).collect();
            let enough = self.window.len() == last_calls && sources.len() * 2 >= last_calls;
            if enough { sources } else { Vec::new() }
        };
        let enough = self.run.len() >= consecutive_failures as usize;
        let row = if enough { self.run.clone() } else { Vec::new() };
        let met = [row, half(|call| call.failed), half(|call| call.slow)];
        let met: Vec<_> = met.iter().filter(|sources| !sources.is_empty()).collect();
        let certain = |sources: &&Vec<Option<Source>>| {
            sources[0].is_none() || sources.iter().any(|source| *source != sources[0])
        };
        if met.iter().any(certain) {
            (Phase::Open, false)
        } else {
            (Phase::Closed, !met.is_empty())
        }
    }

    /// What holds in every state.
    fn check(&self) {
        let live = self.tickets.iter().filter(|t| self.lives(t.generation));
        let probes = live.filter(|ticket| ticket.probe).count();
        let looks = self.suspicions.iter();
        let looks = looks.filter(|s| self.lives(s.generation)).count();
        assert!(probes <= 1 && looks <= 1);
        assert_eq!(self.state.suspect.is_some(), looks == 1);
        if self.state.phase == Phase::HalfOpen {
            assert_eq!(self.state.probing, probes + looks == 1);
            assert!(probes + looks <= 1);
        } else {
            assert_eq!((self.state.probing, probes), (false, 0));
        }
        self.check_way_out();
    }

    /// Dropped permits, dropped looks and time alone lead to a state that admits, and a success from there closes it.
    fn check_way_out(&self) {
        let mut state = self.state.clone();
        for ticket in &self.tickets {
            assert_eq!(state.record(*ticket, Outcome::Unknown, self.now), None);
        }
        for suspicion in &self.suspicions {
            state.clear_up(*suspicion, Finding::Unknown, self.now);
        }
        let later = self.now + LONG;
        if state.reason() == Some(Reason::Forced) {
            assert!(state.refusal(later).is_some(), "it has to be reset");
            state.reset();
        }
        let ticket = state.admit(None, later).unwrap();
        if ticket.probe {
            state.record(ticket, Outcome::Success, later);
            assert_eq!(state.phase, Phase::Closed);
        }
    }
}

/// Walks from a new breaker to every state, breadth first; how many there were.
fn walk(slow: Option<Duration>, last_calls: usize, permits: usize) -> usize {
    let settings = Settings {
        consecutive_failures: 2,
        failure_rate: 0.5,
        slow,
        slow_rate: 0.5,
        last_calls,
        open: 2 * SECOND,
        max_open: 4 * SECOND,
    };
    let start = Place {
        state: State::new(settings, 7),
        now: Instant::now(),
        tickets: Vec::new(),
        suspicions: Vec::new(),
        window: Vec::new(),
        run: Vec::new(),
    };
    let mut seen = HashSet::from([start.key()]);
    let mut ahead = VecDeque::from([start]);
    while let Some(place) = ahead.pop_front() {
        place.check();
        for step in place.steps(permits) {
            let mut next = place.step(step);
            // One late finding is like many.
            let generation = next.state.generation;
            let late = |s: &Suspicion| s.generation != generation;
            while next.suspicions.iter().filter(|s| late(s)).count() > 1 {
                let first = next.suspicions.iter().position(late);
                next.suspicions.remove(first.unwrap());
            }
            if seen.insert(next.key()) {
                ahead.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn in_every_state_within_reach_one_probe_is_out_at_most_and_there_is_a_way_out() {
    let states = walk(None, 4, 3);
    assert!(states > 4_000, "{states} states are not all");
}

#[test]
fn the_same_holds_where_slow_calls_count() {
    let states = walk(Some(SECOND / 2), 3, 2);
    assert!(states > 40_000, "{states} states are not all");
}
