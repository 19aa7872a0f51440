use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::units;

/// When a breaker opens and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Failures in a row after which the health check is made. Twenty in a row, or this many if that is more, open the
    /// breaker even though the health check passes.
    pub consecutive_failures: u32,
    /// Share of failures among the last calls at which the health check is made, 0 to 1.
    pub failure_rate: f64,
    /// A call whose first text takes longer than this is slow; where `None`, no call is.
    #[serde(with = "units::duration_or_off")]
    pub slow: Option<Duration>,
    /// Share of slow calls among the last calls that opens it, 0 to 1, without a health check: that says nothing about how
    /// fast the upstream is.
    pub slow_rate: f64,
    /// How many calls are "the last calls"; the shares count only once there were that many.
    pub last_calls: usize,
    /// How long it stays open the first time; doubled each time it opens again without a success in between.
    #[serde(with = "units::duration")]
    pub open: Duration,
    /// How long it stays open at most.
    #[serde(with = "units::duration")]
    pub max_open: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: 0.5,
            slow: None,
            slow_rate: 0.5,
            last_calls: 20,
            open: Duration::from_secs(60),
            max_open: Duration::from_secs(300),
        }
    }
}
