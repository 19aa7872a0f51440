use super::*;
use proptest::prelude::*;

fn closed() -> State {
    State::new(Settings::default(), 7)
}

fn fail(state: &mut State, now: Instant, times: u32) {
    for _ in 0..times {
        let ticket = state.admit(None, now).unwrap();
        state.record(ticket, Outcome::Failure, now);
    }
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_starts_the_count_anew() {
    let (mut state, now) = (closed(), Instant::now());
    fail(&mut state, now, 4);
    let ticket = state.admit(None, now).unwrap();
    state.record(ticket, Outcome::Success, now);
    fail(&mut state, now, 4);
    assert_eq!(state.phase(now), Phase::Closed);
    fail(&mut state, now, 1);
    assert_eq!(state.phase(now), Phase::Open);
    let wait = state.admit(None, now).unwrap_err();
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
        let ticket = state.admit(None, now).unwrap();
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
    let probe = state.admit(None, later).unwrap();
    assert!(state.admit(None, later).is_err());
    state.record(probe, Outcome::Unknown, later);
    let probe = state.admit(None, later).unwrap();
    state.record(probe, Outcome::Success, later);
    assert_eq!(state.phase(later), Phase::Closed);
}

#[test]
fn each_failed_probe_doubles_the_wait_up_to_five_minutes() {
    let (mut state, mut now) = (closed(), Instant::now());
    fail(&mut state, now, 5);
    for seconds in [60, 120, 240, 300, 300] {
        let wait = state.admit(None, now).unwrap_err();
        assert!(
            wait >= Duration::from_secs(seconds) && wait <= Duration::from_secs(seconds * 11 / 10),
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
                Step::Admit => match state.admit(None, now) {
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
        prop_assert!(state.admit(None, now + Duration::from_secs(331)).is_ok());
    }
}

/// A call of `source` that waits so long for its first text and then ends.
fn call(
    state: &mut State,
    source: Option<Source>,
    waited: u64,
    outcome: Outcome,
    now: Instant,
) -> Option<Suspicion> {
    let mut ticket = state.admit(source, now).unwrap();
    let first = now + Duration::from_secs(waited);
    ticket.answered = Some(first);
    state.record(ticket, outcome, first + Duration::from_secs(100))
}

fn sources() -> (Option<Source>, Option<Source>) {
    (Some(Source::of(&"one")), Some(Source::of(&"other")))
}

#[test]
fn half_of_the_last_calls_slow_to_their_first_text_open_it_and_slow_ends_do_not() {
    let slow = Settings {
        slow: Some(Duration::from_secs(20)),
        last_calls: 4,
        ..Settings::default()
    };
    for (waits, phase) in [
        ([21, 1, 20, 21], Phase::Open),
        ([21, 1, 20, 20], Phase::Closed),
        ([20; 4], Phase::Closed),
    ] {
        let (mut state, now) = (State::new(slow.clone(), 7), Instant::now());
        for waited in waits {
            assert_eq!(state.phase(now), Phase::Closed);
            call(&mut state, None, waited, Outcome::Success, now);
        }
        assert_eq!(state.phase(now), phase, "{waits:?}");
    }
    let (mut state, now) = (closed(), Instant::now());
    for _ in 0..40 {
        call(&mut state, None, 1_000, Outcome::Success, now);
    }
    assert_eq!(state.phase(now), Phase::Closed, "slowness is off");
}

#[test]
fn a_slow_probe_closes_it() {
    let settings = Settings {
        slow: Some(Duration::from_secs(20)),
        ..Settings::default()
    };
    let (mut state, now) = (State::new(settings, 7), Instant::now());
    fail(&mut state, now, 5);
    let later = now + Duration::from_secs(67);
    call(&mut state, None, 50, Outcome::Success, later);
    assert_eq!(state.phase(later), Phase::Closed);
}

#[test]
fn failures_of_one_source_raise_one_suspicion_and_a_good_answer_forgets_them() {
    let ((one, other), mut state, now) = (sources(), closed(), Instant::now());
    let failure = |state: &mut State, source| call(state, source, 0, Outcome::Failure, now);
    for _ in 0..4 {
        assert_eq!(failure(&mut state, one), None);
    }
    let suspicion = failure(&mut state, one).unwrap();
    assert_eq!(suspicion.reason, Reason::InARow(5));
    assert_eq!(failure(&mut state, one), None, "one question at a time");
    assert_eq!(state.phase(now), Phase::Closed);
    state.clear_up(suspicion, Finding::Well, now);
    for _ in 0..4 {
        assert_eq!(failure(&mut state, one), None);
    }
    assert_eq!(failure(&mut state, other), None);
    assert_eq!(state.phase(now), Phase::Open, "two sources are enough");
}

#[test]
fn an_upstream_that_does_not_answer_shuts_the_door_and_a_late_finding_changes_nothing() {
    let ((one, other), mut state, now) = (sources(), closed(), Instant::now());
    let failure = |state: &mut State, source| call(state, source, 0, Outcome::Failure, now);
    let suspicion = (0..5).find_map(|_| failure(&mut state, one)).unwrap();
    let mut told = state.clone();
    told.clear_up(suspicion, Finding::Down, now);
    assert_eq!(
        (told.phase(now), told.reason()),
        (Phase::Open, Some(Reason::InARow(5)))
    );
    // While it was looked into, somebody else failed too.
    failure(&mut state, other);
    assert_eq!(state.phase(now), Phase::Open);
    state.clear_up(suspicion, Finding::Well, now);
    assert_eq!(state.phase(now), Phase::Open);
}

#[test]
fn an_upstream_that_is_not_there_is_nobodys_fault() {
    let ((one, _), mut state, now) = (sources(), closed(), Instant::now());
    for _ in 0..5 {
        assert_eq!(call(&mut state, one, 0, Outcome::Absent, now), None);
    }
    assert_eq!(state.phase(now), Phase::Open);
}

#[test]
fn the_failed_probe_of_one_source_is_looked_into_before_the_others_are_shut_out_longer() {
    let ((one, _), mut state, now) = (sources(), closed(), Instant::now());
    fail(&mut state, now, 5);
    let later = now + Duration::from_secs(67);
    for finding in [Finding::Unknown, Finding::Down, Finding::Well] {
        let mut state = state.clone();
        let suspicion = call(&mut state, one, 0, Outcome::Failure, later).unwrap();
        assert!(state.refusal(later).is_some(), "the look is the probe");
        state.clear_up(suspicion, finding, later);
        let phase = match finding {
            Finding::Unknown => Phase::HalfOpen,
            Finding::Down => Phase::Open,
            Finding::Well => Phase::Closed,
        };
        assert_eq!(state.phase(later), phase);
        assert_eq!(state.refusal(later).is_some(), phase == Phase::Open);
    }
}

#[test]
fn forced_open_it_stays_open_until_it_is_reset() {
    let (mut state, now) = (closed(), Instant::now());
    state.force_open();
    let later = now + Duration::from_secs(1_000_000);
    assert_eq!(state.phase(later), Phase::Open);
    assert_eq!(state.refusal(later), Some(Duration::from_secs(60)));
    state.reset();
    assert_eq!(state.refusal(now), None);
}

#[test]
fn a_request_that_another_upstream_answers_clears_its_source_of_suspicion() {
    let ((one, _), mut state, now) = (sources(), closed(), Instant::now());
    let failure = |state: &mut State| call(state, one, 0, Outcome::Failure, now);
    let mut suspected = state.clone();
    for _ in 0..4 {
        failure(&mut state);
        failure(&mut suspected);
    }
    state.vouch(one.unwrap(), now);
    assert_eq!(state.phase(now), Phase::Closed, "four are not enough");
    assert_eq!(failure(&mut state), None);
    assert_eq!(state.phase(now), Phase::Open);
    let suspicion = failure(&mut suspected).unwrap();
    suspected.vouch(one.unwrap(), now);
    assert_eq!(suspected.phase(now), Phase::Open);
    suspected.clear_up(suspicion, Finding::Well, now);
    assert_eq!(suspected.phase(now), Phase::Open, "too late");
}
