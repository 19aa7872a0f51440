//! How long samples are stored: a section of the configuration, and what the storage deletes by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// How long samples and their rollups are stored; `None` is for ever. The ledger is never deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Every sample. Older ones are refused, as duplicates of them could not be recognised.
    #[serde(with = "units::duration_or_forever")]
    pub raw: Option<Duration>,
    /// The hashrate by the minute.
    #[serde(with = "units::duration_or_forever")]
    pub minutes: Option<Duration>,
    /// By the hour.
    #[serde(with = "units::duration_or_forever")]
    pub hours: Option<Duration>,
    /// By the day.
    #[serde(with = "units::duration_or_forever")]
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
