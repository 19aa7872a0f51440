//! How long samples are stored: a section of the configuration, and what the storage deletes by.

use std::time::Duration;

use super::section::section;
use super::units;

const DAY: u64 = 86_400;

section! {
    /// How long samples and their rollups are stored; `None` is for ever. The ledger is never deleted.
    #[derive(Copy, PartialEq, Eq)]
    Retention {
        /// Every sample. Older ones are refused, as duplicates of them could not be recognised.
        raw: Option<Duration> as "units::duration_or_forever" = Some(Duration::from_secs(7 * DAY)),
            where |raw| raw.is_none_or(|raw| raw.as_secs() >= 3600) => "must be at least 1h";
        /// The hashrate by the minute.
        minutes: Option<Duration> as "units::duration_or_forever" = Some(Duration::from_secs(30 * DAY));
        /// By the hour.
        hours: Option<Duration> as "units::duration_or_forever" = Some(Duration::from_secs(730 * DAY));
        /// By the day.
        days: Option<Duration> as "units::duration_or_forever" = None;
    }
}
