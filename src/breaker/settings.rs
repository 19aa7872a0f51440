use std::time::Duration;

/// When a breaker opens and for how long.
///
/// ```
/// use std::time::Duration;
/// use r3mes_edge::Clock;
/// use r3mes_edge::breaker::{Breaker, Outcome, Settings};
///
/// // Slow is as bad as broken: clients wait no longer than this.
/// let slow = Some(Duration::from_secs(5));
/// let settings = Settings { slow, last_calls: 2, ..Settings::default() };
/// let clock = Clock::default();
/// let breaker = Breaker::new("node", settings, clock.clone());
/// for _ in 0..2 {
///     let mut call = breaker.admit(None)?;
///     clock.advance(Duration::from_secs(6));
///     call.working();
///     call.end(Outcome::Success);
/// }
/// let reason = breaker.status().reason;
/// assert_eq!(reason.as_deref(), Some("2 of the last 2 calls were slow"));
/// # Ok::<_, Duration>(())
/// ```
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
