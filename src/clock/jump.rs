//! Detects a jump of the wall clock, and decides which time holds meanwhile. It reads no clock: both times are passed in.
//!
//! The difference of the wall clock and the clock since boot is constant but for small corrections. Once it has been so for an
//! hour it is confirmed, and a wall clock that then moves away from it by more than five minutes is not followed: the time
//! goes on as before, until the wall clock is back, has held for an hour, or is accepted by the operator.
//!
//! Before it is confirmed (after a boot, or with a new database) it is unknown which of two times is right. Then a jump back
//! is followed (not to before the program was installed), as a clock that was ahead is set right more often than one that was
//! right is set back, and a jump ahead only where the machine was off before, which explains it. Nothing stored expires by a
//! time that is not confirmed.

use crate::model::ClockReading;

/// More than what a clock is corrected by while it runs, in milliseconds.
pub(super) const LARGEST_STEP: i64 = 300_000;
/// For how long a clock must keep step until it is believed.
const HOLD: i64 = 3_600_000;
/// A machine that was off for longer is worth a word.
const LONG_OFF: i64 = 24 * HOLD;
/// 2020-01-01T00:00:00Z, years before this program was written: a clock that is behind it was never set.
const EARLIEST: i64 = 1_577_836_800_000;

/// A wall clock elsewhere than it was expected.
#[derive(Clone, Copy, Debug)]
struct Jump {
    /// The difference that is not followed: that of the wall clock, or where that is followed, the one before.
    other: i64,
    /// When it began, by the clock since boot.
    since: i64,
    followed: bool,
}

/// Differences are those of the wall clock (unix milliseconds) from the clock since boot (milliseconds).
#[derive(Debug)]
pub(super) struct JumpDetector {
    /// No earlier time can be right, in unix milliseconds.
    known: i64,
    /// The difference that is followed.
    offset: i64,
    /// Since when, by the clock since boot.
    since: i64,
    /// Whether the wall clock has kept step for an hour.
    confirmed: bool,
    /// The difference by which it was at least this late when the database was last used, where that was before this boot.
    earliest: Option<i64>,
    jump: Option<Jump>,
}

fn near(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= LARGEST_STEP.unsigned_abs()
}

impl JumpDetector {
    /// Follows the wall clock as it is. It cannot be earlier than `known`, when the program itself was installed.
    pub(super) fn new(wall: i64, boot: i64, known: i64) -> Self {
        Self {
            known: known.max(EARLIEST),
            offset: wall - boot,
            since: boot,
            confirmed: false,
            earliest: None,
            jump: None,
        }
    }

    /// Goes on from what the storage last knew; `same_boot`: the machine was not restarted since.
    pub(super) fn resume(&mut self, last: &ClockReading, same_boot: bool, wall: i64, boot: i64) {
        let at = last.at.millis();
        *self = Self::new(wall, boot, self.known);
        if same_boot && last.uptime <= boot {
            self.offset = at - last.uptime;
            self.since = last.uptime - last.held;
            self.confirmed = last.held >= HOLD;
            return;
        }
        let earliest = at - boot;
        self.earliest = Some(earliest);
        if self.offset >= earliest - LARGEST_STEP {
            self.begin(earliest, self.offset, boot);
        } else if last.held >= HOLD || wall < self.known {
            // The time cannot be earlier than it was.
            self.offset = earliest;
        } else {
            self.follow(earliest, self.offset, boot);
        }
    }

    /// The time, in unix milliseconds.
    pub(super) fn now(&mut self, wall: i64, boot: i64) -> i64 {
        let offset = wall - boot;
        if near(offset, self.offset) {
            self.offset = offset;
            if self.jump.is_some_and(|jump| !jump.followed) {
                self.jump = None;
            }
            if self.held(boot) >= HOLD && wall >= EARLIEST {
                (self.confirmed, self.jump, self.earliest) = (true, None, None);
            }
            return wall;
        }
        match (self.jump, self.earliest) {
            // Back from a jump that was followed.
            (Some(jump), _) if jump.followed && near(offset, jump.other) => {
                (self.offset, self.since, self.jump) = (offset, boot, None);
            }
            (_, Some(earliest)) if offset >= earliest - LARGEST_STEP => {
                self.begin(earliest, offset, boot);
            }
            // It was never set until now.
            _ if self.offset + boot < self.known && wall > self.offset + boot => {
                *self = Self::new(wall, boot, self.known);
            }
            _ if offset < self.offset
                && wall >= self.known
                && self.earliest.is_none()
                && !self.confirmed =>
            {
                self.follow(self.offset, offset, boot);
            }
            (Some(jump), _) if !jump.followed && near(offset, jump.other) => {
                self.jump = Some(Jump {
                    other: offset,
                    ..jump
                });
                if boot - jump.since >= HOLD {
                    self.accept(wall, boot);
                }
            }
            _ => {
                let (other, since) = (offset, boot);
                self.jump = Some(Jump {
                    other,
                    since,
                    followed: false,
                });
            }
        }
        if !self.confirmed && self.jump.is_some_and(|jump| !jump.followed) {
            // The hour begins when the wall clock is back.
            self.since = boot;
        }
        boot + self.offset
    }

    /// Believes the wall clock, unless it was never set.
    pub(super) fn accept(&mut self, wall: i64, boot: i64) -> bool {
        let is_set = wall >= EARLIEST;
        if is_set {
            *self = Self {
                since: boot - HOLD,
                confirmed: true,
                ..Self::new(wall, boot, self.known)
            };
        }
        is_set
    }

    /// The time, if it is confirmed.
    pub(super) fn confirmed(&mut self, wall: i64, boot: i64) -> Option<i64> {
        let now = self.now(wall, boot);
        self.confirmed.then_some(now)
    }

    /// By how many milliseconds the wall clock jumped, while that is in question; negative is back.
    pub(super) fn jump(&mut self, wall: i64, boot: i64) -> Option<i64> {
        self.now(wall, boot);
        match self.jump {
            Some(jump) if jump.followed => Some(self.offset - jump.other),
            Some(jump) => Some(jump.other - self.offset),
            None => (wall < EARLIEST).then(|| wall - EARLIEST),
        }
    }

    /// The latest of the times in question.
    pub(super) fn latest(&mut self, wall: i64, boot: i64) -> i64 {
        let now = self.now(wall, boot);
        let other = self.jump.map_or(now, |jump| boot + jump.other);
        now.max(other)
    }

    /// For how long the time that is followed has held.
    pub(super) fn held(&self, boot: i64) -> i64 {
        boot - self.since
    }

    /// Follows the first time of a boot that can be right.
    fn begin(&mut self, earliest: i64, offset: i64, boot: i64) {
        (self.offset, self.since, self.jump) = (offset, boot, None);
        if offset - earliest > LONG_OFF {
            self.follow(earliest, offset, boot);
        }
    }

    fn follow(&mut self, other: i64, offset: i64, boot: i64) {
        (self.offset, self.since) = (offset, boot);
        self.jump = Some(Jump {
            other,
            since: boot,
            followed: true,
        });
    }
}

#[cfg(test)]
mod tests;
