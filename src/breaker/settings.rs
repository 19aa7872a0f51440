use std::time::Duration;

/// When a breaker opens and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// Share of failures among the last calls that opens it, 0 to 1.
    pub failure_rate: f64,
    /// A call whose first text takes longer than this is slow, so far as it tells of it; where `None`, no call is.
    pub slow: Option<Duration>,
    /// Share of slow calls among the last calls that opens it, 0 to 1.
    pub slow_rate: f64,
    /// How many calls are "the last calls"; the shares count only once there were that many.
    pub last_calls: usize,
    /// How long it stays open the first time; doubled each time it opens again without a success in between.
    pub open: Duration,
    /// How long it stays open at most.
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
