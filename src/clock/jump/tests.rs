use proptest::prelude::*;

use super::*;
use crate::model::Timestamp;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * HOLD;
const YEAR: i64 = 365 * DAY;
/// 2026-11-30, and the machine's boot ten days before.
const NOW: i64 = 1_796_000_000_000;
const BOOT: i64 = 10 * DAY;
/// The program's file is a month old.
const INSTALLED: i64 = NOW - 30 * DAY;

/// One machine: what its wall clock shows is right, but for `wrong`.
struct Machine {
    detector: JumpDetector,
    boot: i64,
    wrong: i64,
}

impl Machine {
    /// With a new database, and a clock that is wrong by so much.
    fn new(wrong: i64) -> Self {
        let wall = NOW + wrong;
        let detector = JumpDetector::new(wall, BOOT, INSTALLED);
        Self {
            detector,
            boot: BOOT,
            wrong,
        }
    }

    /// One whose clock is confirmed.
    fn confirmed() -> Self {
        let mut machine = Self::new(0);
        machine.pass(2 * HOLD);
        assert_eq!(machine.confirmed_error(), Some(0));
        machine
    }

    fn right(&self) -> i64 {
        NOW + self.boot - BOOT
    }

    fn wall(&self) -> i64 {
        self.right() + self.wrong
    }

    /// Time passes, and the clock is read every minute.
    fn pass(&mut self, time: i64) {
        let end = self.boot + time;
        while self.boot < end {
            self.boot = end.min(self.boot + MINUTE);
            self.error();
        }
    }

    /// How far the time is from the right one.
    fn error(&mut self) -> i64 {
        self.detector.now(self.wall(), self.boot) - self.right()
    }

    /// The same of the time by which rows expire.
    fn confirmed_error(&mut self) -> Option<i64> {
        let confirmed = self.detector.confirmed(self.wall(), self.boot);
        confirmed.map(|at| at - self.right())
    }

    fn jump(&mut self) -> Option<i64> {
        self.detector.jump(self.wall(), self.boot)
    }

    fn reading(&mut self) -> ClockReading {
        let at = self.detector.now(self.wall(), self.boot);
        ClockReading {
            at: Timestamp::from_millis(at),
            boot: String::new(),
            uptime: self.boot,
            held: self.detector.held(self.boot),
        }
    }

    /// The program starts again, after `off`; `rebooted`: the machine too.
    fn restart(&mut self, off: i64, rebooted: bool, wrong: i64) {
        let last = self.reading();
        // What the boot's clock shows is of no account after a reboot.
        (self.boot, self.wrong) = (self.boot + off, wrong);
        let (wall, boot) = (self.wall(), self.boot);
        self.detector = JumpDetector::new(wall, boot, INSTALLED);
        self.detector.resume(&last, !rebooted, wall, boot);
    }
}

#[test]
fn small_corrections_and_drift_are_followed_at_once() {
    let mut machine = Machine::confirmed();
    for wrong in [1, -1, 299_000, 0, -299_000, -598_000, -300_000, 0] {
        machine.wrong = wrong;
        assert_eq!((machine.error(), machine.jump()), (wrong, None));
    }
}

#[test]
fn a_confirmed_time_goes_on_through_a_jump_that_ends_and_nothing_expires_by_it() {
    for wrong in [
        3 * YEAR,
        9 * YEAR,
        HOLD,
        -2 * YEAR,
        -DAY,
        300_001,
        -300_001,
        -NOW,
    ] {
        let mut machine = Machine::confirmed();
        machine.wrong = wrong;
        assert_eq!(machine.error(), 0);
        assert_eq!(machine.jump(), Some(wrong));
        machine.pass(HOLD - MINUTE);
        assert_eq!((machine.error(), machine.confirmed_error()), (0, Some(0)));
        machine.wrong = 0;
        assert_eq!((machine.error(), machine.jump()), (0, None));
        assert_eq!(machine.confirmed_error(), Some(0));
    }
}

#[test]
fn a_jump_that_held_for_an_hour_is_followed_unless_the_clock_was_never_set() {
    let mut machine = Machine::confirmed();
    machine.wrong = -DAY;
    machine.pass(HOLD / 2);
    // Another jump begins the hour anew.
    machine.wrong = DAY;
    machine.pass(HOLD - MINUTE);
    assert_eq!((machine.error(), machine.jump()), (0, Some(DAY)));
    machine.pass(2 * MINUTE);
    assert_eq!((machine.error(), machine.jump()), (DAY, None));
    assert_eq!(machine.confirmed_error(), Some(DAY));

    let mut machine = Machine::confirmed();
    machine.wrong = -NOW;
    machine.pass(3 * HOLD);
    assert_eq!((machine.error(), machine.jump()), (0, Some(-NOW)));
}

#[test]
fn an_accepted_clock_is_followed_at_once_unless_it_was_never_set() {
    let mut machine = Machine::confirmed();
    machine.wrong = -2 * YEAR;
    assert_eq!(machine.error(), 0);
    assert!(machine.detector.accept(machine.wall(), machine.boot));
    assert_eq!(machine.error(), -2 * YEAR);
    assert_eq!(
        (machine.confirmed_error(), machine.jump()),
        (Some(-2 * YEAR), None)
    );

    machine.wrong = -NOW;
    assert!(!machine.detector.accept(machine.wall(), machine.boot));
    assert_eq!(machine.error(), -2 * YEAR);
}

#[test]
fn a_clock_that_was_ahead_from_the_first_start_is_followed_when_it_is_set_right() {
    let mut machine = Machine::new(9 * YEAR);
    machine.pass(MINUTE);
    assert_eq!(machine.error(), 9 * YEAR);
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, Some(-9 * YEAR)));
    assert_eq!(machine.confirmed_error(), None);
    machine.pass(HOLD);
    assert_eq!((machine.error(), machine.jump()), (0, None));
    assert_eq!(machine.confirmed_error(), Some(0));

    // If it was right before, and is again, nothing waits.
    let mut machine = Machine::new(0);
    machine.wrong = -10 * DAY;
    assert_eq!(
        (machine.error(), machine.jump()),
        (-10 * DAY, Some(-10 * DAY))
    );
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, None));
    // The program was not installed yet.
    machine.wrong = -2 * YEAR;
    assert_eq!((machine.error(), machine.jump()), (0, Some(-2 * YEAR)));
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, None));
    // Nor does a jump ahead of a time that is not confirmed.
    machine.wrong = 3 * YEAR;
    assert_eq!((machine.error(), machine.jump()), (0, Some(3 * YEAR)));
    assert_eq!(machine.confirmed_error(), None);
}

#[test]
fn a_clock_of_1970_is_an_alert_and_left_at_once_for_any_that_was_set() {
    let mut machine = Machine::new(-NOW);
    machine.pass(3 * HOLD);
    assert!(machine.jump().is_some_and(|by| by < 0));
    assert_eq!(machine.confirmed_error(), None);
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, None));

    // Nor is one followed for long that is older than the program.
    let mut machine = Machine::new(-2 * YEAR);
    machine.pass(MINUTE);
    assert_eq!(machine.error(), -2 * YEAR);
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, None));
}

#[test]
fn a_restart_on_the_same_boot_is_exact_and_keeps_what_was_confirmed() {
    for wrong in [0, 3 * YEAR, -2 * YEAR, 400_000, -NOW] {
        let mut machine = Machine::confirmed();
        machine.restart(40 * DAY, false, wrong);
        let jumped = (wrong != 0).then_some(wrong);
        assert_eq!((machine.error(), machine.jump()), (0, jumped));
        assert_eq!(machine.confirmed_error(), Some(0));
        // A restart in the middle of a jump does not make it the truth.
        machine.restart(MINUTE, false, wrong);
        assert_eq!((machine.error(), machine.jump()), (0, jumped));
        machine.wrong = 0;
        assert_eq!((machine.error(), machine.jump()), (0, None));
    }
}

#[test]
fn after_a_reboot_the_time_is_not_before_what_it_was_and_nothing_expires_for_an_hour() {
    // The machine was off for a while, as usual.
    let mut machine = Machine::confirmed();
    machine.restart(8 * HOLD, true, 0);
    assert_eq!((machine.error(), machine.jump()), (0, None));
    assert_eq!(machine.confirmed_error(), None);
    machine.pass(HOLD);
    assert_eq!(machine.confirmed_error(), Some(0));

    // A clock far ahead is an alert; set right, that ends.
    machine.restart(8 * HOLD, true, 3 * YEAR);
    assert_eq!(machine.jump(), Some(3 * YEAR + 8 * HOLD));
    assert_eq!(machine.confirmed_error(), None);
    machine.wrong = 0;
    assert_eq!((machine.error(), machine.jump()), (0, None));

    // A clock of the past: the time goes on from where it was, until the clock is set.
    for wrong in [-2 * YEAR, -NOW] {
        let mut machine = Machine::confirmed();
        machine.restart(8 * HOLD, true, wrong);
        assert_eq!(machine.error(), -8 * HOLD);
        assert!(machine.jump().is_some_and(|by| by < 0));
        machine.pass(MINUTE);
        machine.wrong = 0;
        assert_eq!((machine.error(), machine.jump()), (0, None));
        machine.pass(HOLD);
        assert_eq!(machine.confirmed_error(), Some(0));
    }
}

#[test]
fn a_time_that_was_never_confirmed_gives_way_to_an_earlier_one_after_a_reboot() {
    let mut machine = Machine::new(9 * YEAR);
    machine.restart(MINUTE, true, 0);
    assert_eq!(machine.error(), 0);
    assert!(machine.jump().is_some_and(|by| by < -8 * YEAR));
    machine.pass(HOLD);
    assert_eq!((machine.jump(), machine.confirmed_error()), (None, Some(0)));
}

#[test]
fn the_latest_time_is_never_before_the_wall_clock_or_the_time() {
    let mut machine = Machine::confirmed();
    for (wrong, latest) in [(3 * YEAR, 3 * YEAR), (-YEAR, 0)] {
        machine.wrong = wrong;
        let (wall, boot) = (machine.wall(), machine.boot);
        assert_eq!(
            machine.detector.latest(wall, boot) - machine.right(),
            latest
        );
    }
}

proptest! {
    #[test]
    fn whatever_the_clock_does_nothing_expires_early_and_an_hour_of_a_right_clock_settles_it(
        steps in prop::collection::vec((0i64..90, -3000i64..3000, 0u8..4), 1..30)
    ) {
        let mut machine = Machine::confirmed();
        let mut wrong_for = 0;
        for (minutes, days, kind) in steps {
            match kind {
                0 => machine.wrong = days * DAY,
                1 => machine.wrong = 0,
                2 => {
                    machine.restart(minutes * MINUTE, false, machine.wrong);
                    wrong_for += minutes * MINUTE;
                }
                _ => machine.restart(minutes * MINUTE, true, days * DAY),
            }
            wrong_for = if machine.wrong > 300_000 { wrong_for } else { 0 };
            for _ in 0..minutes {
                machine.pass(MINUTE);
                wrong_for += MINUTE;
                if wrong_for < HOLD {
                    prop_assert!(machine.confirmed_error().is_none_or(|error| error <= 300_000));
                }
            }
            if wrong_for >= HOLD {
                // It was believed; what follows has another premise.
                return Ok(());
            }
        }
        machine.wrong = 0;
        machine.pass(HOLD + 2 * MINUTE);
        prop_assert_eq!((machine.error(), machine.jump(), machine.confirmed_error()), (0, None, Some(0)));
    }
}
