//! The rules, one test each; `state_space` visits every state that small bounds can reach.

mod state_space;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn breaker(settings: Settings) -> (Arc<Breaker>, Clock) {
    let clock = Clock::default();
    (Breaker::new("test", settings, clock.clone()), clock)
}

fn call(breaker: &Arc<Breaker>, outcome: Outcome) -> Option<Permit> {
    breaker.admit().unwrap().end(outcome)
}

/// Fails until a health check is required; how often.
fn fail_until_checked(breaker: &Arc<Breaker>) -> (usize, Permit) {
    let mut failures = 1..;
    let required = failures.find_map(|count| Some((count, call(breaker, Outcome::Failure)?)));
    required.unwrap()
}

/// One that is open after a failed health check.
fn open() -> (Arc<Breaker>, Clock) {
    let (breaker, clock) = breaker(Settings::default());
    let (_, check) = fail_until_checked(&breaker);
    assert!(check.end(Outcome::Failure).is_none());
    assert_eq!(breaker.status().state, Phase::Open);
    (breaker, clock)
}

/// One that admits a probe.
fn half_open() -> Arc<Breaker> {
    let (breaker, clock) = open();
    clock.advance(60 * SECOND);
    assert_eq!(breaker.status().state, Phase::HalfOpen);
    breaker
}

#[test]
fn five_consecutive_failures_require_a_health_check_which_decides() {
    let (breaker, _) = breaker(Settings::default());
    for _ in 0..4 {
        assert!(call(&breaker, Outcome::Failure).is_none());
    }
    call(&breaker, Outcome::Success);
    let (failures, check) = fail_until_checked(&breaker);
    assert_eq!(failures, 5);
    assert!(call(&breaker, Outcome::Failure).is_none(), "one at a time");
    assert_eq!(breaker.status().state, Phase::Closed);
    drop(check);
    let (failures, check) = fail_until_checked(&breaker);
    assert_eq!(failures, 1, "a dropped check is requested again");
    check.end(Outcome::Success);
    let (failures, check) = fail_until_checked(&breaker);
    assert_eq!(failures, 5);
    let late = breaker.admit().unwrap();
    check.end(Outcome::Failure);
    let reason = breaker.status().reason;
    assert_eq!(reason.as_deref(), Some("12 failures in a row"));
    assert!(late.end(Outcome::Success).is_none());
    assert_eq!(breaker.status().state, Phase::Open);
    assert_eq!(breaker.status().health_checks, [1, 1]);
}

#[test]
fn twenty_consecutive_failures_open_it_although_each_health_check_passes() {
    let (breaker, _) = breaker(Settings::default());
    for _ in 0..19 {
        if let Some(check) = call(&breaker, Outcome::Failure) {
            check.end(Outcome::Success);
        }
        assert_eq!(breaker.status().state, Phase::Closed);
    }
    call(&breaker, Outcome::Success);
    for failures in 1..=20 {
        assert_eq!(breaker.status().state, Phase::Closed, "after {failures}");
        if let Some(check) = call(&breaker, Outcome::Failure) {
            check.end(Outcome::Success);
        }
    }
    assert_eq!(breaker.status().state, Phase::Open);
    assert_eq!(breaker.status().health_checks[1], 6);
}

#[test]
fn half_of_the_last_twenty_calls_require_a_health_check_and_then_of_twenty_more() {
    let (breaker, _) = breaker(Settings::default());
    let outcomes = [Outcome::Success, Outcome::Failure];
    for window in 0..3 {
        let checks = (0..20).map(|at| call(&breaker, outcomes[at % 2]).map(|check| (at, check)));
        let checks: Vec<_> = checks.flatten().collect();
        let [(19, _)] = checks[..] else {
            panic!("window {window}: {checks:?}");
        };
        for (_, check) in checks {
            check.end(Outcome::Success);
        }
    }
    assert_eq!(breaker.status().state, Phase::Closed);
}

#[tokio::test]
async fn refused_connections_open_it_and_a_health_check_every_five_seconds_closes_it() {
    let (breaker, clock) = breaker(Settings::default());
    let mut check = (0..5)
        .find_map(|_| call(&breaker, Outcome::Unreachable))
        .unwrap();
    assert_eq!(breaker.status().state, Phase::Open);
    for outcome in [Outcome::Unreachable, Outcome::Failure] {
        let due = tokio::time::timeout(Duration::ZERO, check.due()).await;
        assert!(due.is_err(), "too early");
        clock.advance(5 * SECOND);
        assert!(check.due().await);
        check = check.end(outcome).unwrap();
        assert_eq!(breaker.status().state, Phase::Open);
    }
    clock.advance(5 * SECOND);
    assert!(check.due().await);
    assert!(check.end(Outcome::Success).is_none());
    assert_eq!(breaker.status().state, Phase::Closed);
    assert_eq!(fail_until_checked(&breaker).0, 5);
}

#[test]
fn each_failed_probe_doubles_the_wait_up_to_five_minutes() {
    let (breaker, clock) = open();
    for seconds in [60, 120, 240, 300, 300] {
        let wait = breaker.admit().unwrap_err();
        assert!(
            (seconds - 1..=seconds).contains(&wait.as_secs()),
            "{wait:?}"
        );
        clock.advance(wait);
        call(&breaker, Outcome::Failure)
            .unwrap()
            .end(Outcome::Failure);
    }
}

#[test]
fn after_a_failed_probe_a_health_check_decides_unless_twenty_failures_opened_it() {
    let breaker = half_open();
    let check = call(&breaker, Outcome::Failure).unwrap();
    assert!(breaker.admit().is_err(), "the check is the probe now");
    drop(check);
    let check = call(&breaker, Outcome::Failure).unwrap();
    check.end(Outcome::Success);
    assert_eq!(breaker.status().state, Phase::Closed);

    let (breaker, clock) = self::breaker(Settings::default());
    while breaker.status().state == Phase::Closed {
        call(&breaker, Outcome::Failure).map(|check| check.end(Outcome::Success));
    }
    clock.advance(60 * SECOND);
    assert!(call(&breaker, Outcome::Failure).is_none());
    assert_eq!(breaker.status().state, Phase::Open);
}

#[test]
fn a_dropped_permit_releases_the_probe_and_the_start_of_an_answer_closes_the_breaker() {
    let breaker = half_open();
    for _ in 0..1_000 {
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err());
        drop(probe);
    }
    breaker.admit().unwrap().answer_started();
    assert_eq!(breaker.status().state, Phase::Closed);
    assert_eq!(breaker.status().entered, [1; 3]);
}
