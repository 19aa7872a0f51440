//! How an inference server has done lately: what its calls failed of, whether it asked to be left alone, when it answered.
//! Which server is asked first, and what health and metrics show, depends on it. Its breaker is separate: it counts only what
//! is the server's own failure, and no call passes while it is open.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::refusal::Meaning;
use crate::upstream::UpstreamError;

/// Why a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Cause {
    Unreachable,
    Timeout,
    Unreadable,
    BrokenOff,
    Credentials,
    Redirect,
    NotServed,
    Model,
    Status,
    Request,
    Unavailable,
    Loading,
    StreamOptions,
}

/// The label of each [`Cause`].
pub(crate) const CAUSES: [&str; 13] = [
    "unreachable",
    "timeout",
    "unreadable",
    "broken_off",
    "credentials",
    "redirect",
    "not_served",
    "model",
    "status",
    "request",
    "unavailable",
    "loading",
    "stream_options",
];

/// The standing of one server.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since the last answer that ended well.
    failures: u32,
    last_failure: Option<(Failure, Instant)>,
    paused_until: Option<Instant>,
    /// Its last answer had no usage, although its tokens have a price.
    has_no_usage: bool,
    /// When it last began an answer.
    answered_at: Option<Instant>,
    counts: [u64; CAUSES.len()],
}

/// What a call failed of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Failure {
    cause: Cause,
    status: Option<u16>,
    /// Whether it is for the operator to mend: the key, the address or the model.
    #[serde(skip)]
    is_of_operator: bool,
}

/// The standing as health shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct StandingStatus {
    /// Failed calls since the last answer that ended well.
    failures: u32,
    /// The last of them, with the seconds since then; `None` where there was none since.
    last_failure: Option<Failure>,
    seconds_since_failure: Option<u64>,
    /// The server asked to be left alone for so long.
    paused_seconds: Option<u64>,
}

impl Failure {
    /// `None` of an error that says nothing about the server.
    fn of(error: &UpstreamError) -> Option<Self> {
        let (cause, status, is_of_operator) = match error {
            UpstreamError::Connect(_) => (Cause::Unreachable, None, false),
            UpstreamError::Timeout(_) => (Cause::Timeout, None, false),
            UpstreamError::Unreadable(_) => (Cause::Unreadable, None, false),
            UpstreamError::Cut(_) | UpstreamError::Reported(_) => (Cause::BrokenOff, None, false),
            UpstreamError::Status(status)
            | UpstreamError::Limited(status, _)
            | UpstreamError::NoChat(_, status) => (Cause::Status, Some(*status), false),
            UpstreamError::Refused(refusal) => {
                let cause = match refusal.meaning {
                    Meaning::Credentials => Cause::Credentials,
                    Meaning::Redirect => Cause::Redirect,
                    Meaning::NotServed => Cause::NotServed,
                    Meaning::Model => Cause::Model,
                    Meaning::Server => Cause::Status,
                    Meaning::ContextLength(_)
                    | Meaning::Schema
                    | Meaning::Media
                    | Meaning::Request(_) => Cause::Request,
                    Meaning::Unavailable(_) => Cause::Unavailable,
                    Meaning::Loading(_) => Cause::Loading,
                    Meaning::StreamOptions => Cause::StreamOptions,
                };
                (cause, Some(refusal.status), refusal.is_of_operator())
            }
            UpstreamError::Open(_)
            | UpstreamError::Paused(_)
            | UpstreamError::Busy(_)
            | UpstreamError::NotServed
            | UpstreamError::NoText => return None,
        };
        Some(Self {
            cause,
            status,
            is_of_operator,
        })
    }
}

impl Standing {
    /// A failed server comes after the others for a second, which doubles with each failure so often at most: 32 seconds.
    const DEMOTION_DOUBLINGS: u32 = 5;
    /// Servers unload a model that was not used for a while: Ollama after 5 minutes.
    const WARM: Duration = Duration::from_secs(240);

    /// A call failed.
    pub(crate) fn failed(&self, error: &UpstreamError, now: Instant) {
        let Some(failure) = Failure::of(error) else {
            return;
        };
        let mut state = self.lock();
        state.counts[failure.cause as usize] += 1;
        match error {
            // The client's fault, and no fault at all.
            UpstreamError::Refused(refusal) if refusal.is_of_client() => {}
            UpstreamError::Refused(refusal) => match refusal.meaning {
                Meaning::Loading(_) | Meaning::StreamOptions => {}
                Meaning::Unavailable(wait) => state.paused_until = Some(now + wait),
                _ => state.fail(failure, now),
            },
            _ => state.fail(failure, now),
        }
    }

    /// It began an answer.
    pub(crate) fn answered(&self, now: Instant) {
        self.lock().answered_at = Some(now);
    }

    /// An answer whose tokens have a price ended well, with its usage or without.
    pub(crate) fn reported_usage(&self, reported: bool) {
        self.lock().has_no_usage = !reported;
    }

    /// Whether the last such answer had none.
    pub(crate) fn has_no_usage(&self) -> bool {
        self.lock().has_no_usage
    }

    /// An answer ended well.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        state.failures = 0;
        state.last_failure = None;
    }

    /// How many failures count against it now: for a while after each, the longer the more there were in a row. Without
    /// this the server that fails fastest, being never busy, would get every request first.
    pub(crate) fn recent_failures(&self, now: Instant) -> u32 {
        let state = self.lock();
        let doublings = state
            .failures
            .saturating_sub(1)
            .min(Self::DEMOTION_DOUBLINGS);
        let demotion = Duration::from_secs(1 << doublings);
        let failed = state.last_failure.map(|(_, at)| at + demotion > now);
        if failed == Some(true) {
            state.failures
        } else {
            0
        }
    }

    /// How long it asked to be left alone.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let until = self.lock().paused_until?;
        Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether it may have to load its model first.
    pub(crate) fn is_cold(&self, now: Instant) -> bool {
        let answered_at = self.lock().answered_at;
        answered_at.is_none_or(|at| at + Self::WARM < now)
    }

    /// Whether its last failure is for the operator to mend.
    pub(crate) fn needs_operator(&self) -> bool {
        let last = self.lock().last_failure;
        last.is_some_and(|(failure, _)| failure.is_of_operator)
    }

    pub(crate) fn status(&self, now: Instant) -> StandingStatus {
        let pause = self.pause(now);
        let state = self.lock();
        StandingStatus {
            failures: state.failures,
            last_failure: state.last_failure.map(|(failure, _)| failure),
            seconds_since_failure: (state.last_failure)
                .map(|(_, at)| now.saturating_duration_since(at).as_secs()),
            paused_seconds: pause.map(|wait| wait.as_secs() + 1),
        }
    }

    /// How often calls failed, by cause.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CAUSES.into_iter().zip(self.lock().counts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fail(&mut self, failure: Failure, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some((failure, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::upstream::inference::refusal::Refusal;

    fn refused(status: u16) -> UpstreamError {
        let now = Timestamp::from_millis(0);
        UpstreamError::Refused(Refusal::read(status, Some("30"), now, b""))
    }

    #[test]
    fn a_failure_counts_for_a_while_that_doubles_and_is_bounded_and_a_success_ends_it() {
        let (standing, start) = (Standing::default(), Instant::now());
        let after = |seconds| standing.recent_failures(start + Duration::from_secs(seconds));
        assert_eq!(after(0), 0);
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 32)] {
            standing.failed(&refused(401), start);
            assert_eq!((after(seconds - 1), after(seconds)), (failures, 0));
        }
        assert!(standing.needs_operator());
        standing.succeeded();
        assert_eq!(after(0), 0);
        assert!(!standing.needs_operator());
    }

    #[test]
    fn only_failures_of_the_server_count_against_it() {
        let (standing, now) = (Standing::default(), Instant::now());
        let open = UpstreamError::Open(Duration::ZERO);
        for error in [refused(400), refused(429), open, UpstreamError::NoText] {
            standing.failed(&error, now);
        }
        assert_eq!(standing.recent_failures(now), 0);
        assert_eq!(standing.pause(now), Some(Duration::from_secs(30)));
        assert_eq!(standing.pause(now + Duration::from_secs(30)), None);
        let counted: Vec<_> = standing.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("request", 1), ("unavailable", 1)]);
        standing.failed(&UpstreamError::Cut(String::new()), now);
        assert_eq!(standing.recent_failures(now), 1);
    }
}
