//! The section `[breaker]` of the configuration.

use std::time::Duration;

use crate::model::section::section;
use crate::model::units;

section! {
    /// When a breaker opens and for how long.
    #[derive(PartialEq)]
    Settings {
        /// Failures in a row after which the health check is made. Twenty in a row, or this many if that is more, open the
        /// breaker even though the health check passes.
        consecutive_failures: u32 = 5, in 1..;
        /// Share of failures among the last calls at which the health check is made, 0 to 1.
        failure_rate: f64 = 0.5, in 0.0..=1.0;
        /// How many calls are "the last calls"; the shares count only once there were that many.
        last_calls: usize = 20, in 1..=1_000_000;
        /// How long it stays open the first time; doubled each time it opens again without a success in between.
        open: Duration as "units::duration" = Duration::from_secs(60);
        /// How long it stays open at most.
        max_open: Duration as "units::duration" = Duration::from_secs(300);
    }
}
