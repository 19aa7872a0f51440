//! Whether an upstream that is polled, the chain or the miner, answers: for health and alerts, and for the log, which has each
//! reason once. Its breaker is separate: a wrong address or token is no failure of the upstream, and would never open it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UpstreamError;
use crate::breaker::Outcome;

#[derive(Debug, Default)]
pub(crate) struct Availability(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the first usable answer came since the start.
    answered_at: Option<Instant>,
    /// Why the last call had none, without words of the upstream, where its breaker does not count that.
    failure: Option<String>,
    /// What was logged since the last usable answer.
    logged: BTreeSet<String>,
    /// The status by which it asked to be left alone, and until when.
    limited: Option<(u16, Instant)>,
}

impl Availability {
    /// An error while it asked to be left alone.
    pub(super) fn check(&self, now: Instant) -> Result<(), UpstreamError> {
        let (status, until) = match self.lock().limited {
            Some((status, until)) if until > now => (status, until),
            _ => return Ok(()),
        };
        Err(UpstreamError::Limited(status, until - now))
    }

    /// Records how a call ended.
    pub(super) fn record(&self, name: &str, failed: Option<&UpstreamError>, now: Instant) {
        let mut state = self.lock();
        let Some(error) = failed else {
            if !state.logged.is_empty() {
                log::info!("upstream {name} answers again");
            }
            *state = State {
                answered_at: state.answered_at.or(Some(now)),
                ..State::default()
            };
            return;
        };
        let reason = error.reason();
        if state.logged.insert(reason.clone()) {
            log::warn!("upstream {name} was not read: {error}; logged once until it answers");
        }
        if let UpstreamError::Limited(status, wait) = error {
            state.limited = Some((*status, now + *wait));
            // It works, and its last answer is served meanwhile.
            if state.answered_at.is_some() {
                return;
            }
        }
        // What counts for the breaker is the breaker's: one cause, one alert.
        let is_of_breaker = error.outcome() != Outcome::Unknown;
        state.failure = (!is_of_breaker).then_some(reason);
    }

    /// When the first usable answer came since the start.
    pub(crate) fn answered_at(&self) -> Option<Instant> {
        self.lock().answered_at
    }

    /// Why it gives no usable answer, where its breaker does not count that: a wrong address or token.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bounds of the time that a server is left alone because it asks for it.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];

/// How long a status asks to leave the server alone; without `Retry-After` as long as the limits of public servers last.
pub(super) fn pause(status: u16, retry_after: Option<Duration>) -> Option<Duration> {
    let default = match status {
        429 => Some(Duration::from_secs(10)),
        403 => Some(Duration::from_secs(60)),
        _ => None,
    };
    let wait = match status {
        403 | 429 | 503 => retry_after.or(default)?,
        _ => return None,
    };
    Some(wait.clamp(PAUSE[0], PAUSE[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_limits_requests_is_remembered_for_its_retry_after() {
        let seconds = |status, after: Option<u64>| {
            let wait = pause(status, after.map(Duration::from_secs));
            wait.map(|wait| wait.as_secs())
        };
        assert_eq!(
            (seconds(429, Some(30)), seconds(429, None)),
            (Some(30), Some(10))
        );
        assert_eq!(
            (seconds(403, Some(30)), seconds(403, None)),
            (Some(30), Some(60))
        );
        assert_eq!(
            (seconds(503, Some(30)), seconds(503, None)),
            (Some(30), None)
        );
        assert_eq!(
            (seconds(429, Some(0)), seconds(429, Some(90_000))),
            (Some(1), Some(3600))
        );
        assert_eq!(
            (seconds(401, Some(30)), seconds(500, Some(30))),
            (None, None)
        );
        let (availability, now) = (Availability::default(), Instant::now());
        let limited = UpstreamError::Limited(429, Duration::from_secs(30));
        availability.record("chain", Some(&limited), now);
        let at = |seconds| availability.check(now + Duration::from_secs(seconds));
        assert_eq!(
            at(29),
            Err(UpstreamError::Limited(429, Duration::from_secs(1)))
        );
        assert_eq!(at(30), Ok(()));
    }

    #[test]
    fn an_upstream_that_never_answered_is_not_one_that_failed_since() {
        let (availability, now) = (Availability::default(), Instant::now());
        let fail = |error| availability.record("miner", Some(&error), now);
        let state = || (availability.failure(), availability.answered_at().is_some());
        let failed = |status, answered| (Some(format!("status {status}")), answered);
        assert_eq!(state(), (None, false));
        fail(UpstreamError::Status(401));
        assert_eq!(state(), failed(401, false));
        fail(UpstreamError::Limited(429, Duration::ZERO));
        assert_eq!(state(), failed(429, false));
        availability.record("miner", None, now);
        assert_eq!(state(), (None, true));
        fail(UpstreamError::Limited(429, Duration::ZERO));
        assert_eq!(state(), (None, true));
        fail(UpstreamError::Status(404));
        assert_eq!(state(), failed(404, true));
        // These open the breaker, which has an alert of its own.
        fail(UpstreamError::Connect(String::new()));
        assert_eq!(state(), (None, true));
    }
}
