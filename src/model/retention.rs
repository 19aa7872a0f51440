use std::time::Duration;

/// How long samples, and what was made from them, are kept; `None` is for ever. The ledger is never cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Every sample. Older ones are refused, as nobody could tell whether they were there already.
    pub raw: Option<Duration>,
    /// The hashrate by the minute.
    pub minutes: Option<Duration>,
    /// By the hour.
    pub hours: Option<Duration>,
    /// By the day.
    pub days: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            raw: Some(Duration::from_secs(7 * DAY)),
            minutes: Some(Duration::from_secs(30 * DAY)),
            hours: Some(Duration::from_secs(730 * DAY)),
            days: None,
        }
    }
}
