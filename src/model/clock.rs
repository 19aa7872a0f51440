//! What the storage keeps of the clock, so that the next start can tell a clock that is wrong.

use super::Timestamp;

/// The server's time at one moment, and the clock since boot that it was compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClockReading {
    /// The server's time.
    pub at: Timestamp,
    /// The boot of the machine, as Linux names it in `/proc/sys/kernel/random/boot_id`; empty where that is unknown.
    pub boot: String,
    /// Milliseconds since that boot, with those in which the machine was suspended.
    pub uptime: i64,
    /// For how many milliseconds since that boot the wall clock had kept step.
    pub held: i64,
}
