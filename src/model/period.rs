//! The periods in which the spending of a key is limited, by the calendar in UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{ParseError, Timestamp};

/// A period of the calendar in UTC. A new one begins at its first millisecond, by arithmetic alone: nothing is reset.
///
/// ```
/// use r3mes_edge::model::{Period, Timestamp};
///
/// // A Tuesday.
/// let now = Timestamp::parse("2026-12-01T09:30:00Z")?;
/// assert_eq!(Period::Week.start(now).to_string(), "2026-11-30T00:00:00.000Z");
/// let next = Period::Month.end(now).map(|end| end.to_string());
/// assert_eq!(next.as_deref(), Some("2027-01-01T00:00:00.000Z"));
/// # Ok::<_, r3mes_edge::model::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday (ISO 8601).
    Week,
    /// From its first day to its last.
    Month,
    /// All time: it begins at 0 and has no end.
    Total,
}

impl Period {
    /// Every period with its name.
    const ALL: [(Self, &str); 4] = [
        (Self::Day, "day"),
        (Self::Week, "week"),
        (Self::Month, "month"),
        (Self::Total, "total"),
    ];
    const DAY: i64 = 86_400_000;

    /// The period's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Which names there are.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(period, _)| *period)
            .ok_or_else(|| "must be day, week, month or total".into())
    }

    /// The first moment of the period that `at` is in.
    #[must_use]
    pub fn start(self, at: Timestamp) -> Timestamp {
        let day = at.millis().div_euclid(Self::DAY);
        match self {
            Self::Day => at.day(),
            // The first day of 1970 was a Thursday.
            Self::Week => midnight(day - (day + 3).rem_euclid(7)),
            Self::Month => first_of_month(date(at)),
            Self::Total => Timestamp::default(),
        }
    }

    /// The first moment of the period after that of `at`; `None` where there is none.
    #[must_use]
    pub fn end(self, at: Timestamp) -> Option<Timestamp> {
        let days = |days| midnight(self.start(at).millis().div_euclid(Self::DAY) + days);
        match self {
            Self::Day => Some(days(1)),
            Self::Week => Some(days(7)),
            Self::Month => {
                let last = date(at).last_of_month();
                Some(
                    last.tomorrow()
                        .map_or(Timestamp::from_millis(i64::MAX), first_of_month),
                )
            }
            Self::Total => None,
        }
    }
}

fn midnight(day: i64) -> Timestamp {
    Timestamp::from_millis(day.saturating_mul(Period::DAY))
}

/// The UTC date of a time; of one outside the calendar the nearest.
fn date(at: Timestamp) -> Date {
    let (first, last) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    let millis = (at.millis()).clamp(first.as_millisecond(), last.as_millisecond());
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(last);
    TimeZone::UTC.to_datetime(time).date()
}

fn first_of_month(date: Date) -> Timestamp {
    let start = date.first_of_month().to_zoned(TimeZone::UTC);
    start.map_or(Timestamp::from_millis(i64::MIN), |start| {
        Timestamp::from_millis(start.timestamp().as_millisecond())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The start and the end of the period of a time, in texts.
    fn bounds(period: Period, at: &str) -> [String; 2] {
        let at = Timestamp::parse(at).unwrap();
        [period.start(at), period.end(at).unwrap()].map(Timestamp::date)
    }

    #[test]
    fn periods_begin_at_midnight_on_mondays_and_on_the_first_of_a_month() {
        for (period, at, start, end) in [
            (
                Period::Day,
                "2026-11-30T00:00:00Z",
                "2026-11-30",
                "2026-12-01",
            ),
            (
                Period::Day,
                "2026-11-30T23:59:59.999Z",
                "2026-11-30",
                "2026-12-01",
            ),
            (
                Period::Day,
                "2024-02-29T12:00:00Z",
                "2024-02-29",
                "2024-03-01",
            ),
            (
                Period::Week,
                "2026-11-29T23:59:59.999Z",
                "2026-11-23",
                "2026-11-30",
            ),
            (
                Period::Week,
                "2026-11-30T00:00:00Z",
                "2026-11-30",
                "2026-12-07",
            ),
            (
                Period::Week,
                "2027-01-01T00:00:00Z",
                "2026-12-28",
                "2027-01-04",
            ),
            (
                Period::Week,
                "1970-01-01T00:00:00Z",
                "1969-12-29",
                "1970-01-05",
            ),
            (
                Period::Month,
                "2024-02-29T23:59:59.999Z",
                "2024-02-01",
                "2024-03-01",
            ),
            (
                Period::Month,
                "2100-02-28T23:59:59.999Z",
                "2100-02-01",
                "2100-03-01",
            ),
            (
                Period::Month,
                "2026-12-31T00:00:00Z",
                "2026-12-01",
                "2027-01-01",
            ),
        ] {
            assert_eq!(bounds(period, at), [start, end], "{period:?} of {at}");
        }
        let now = Timestamp::parse("2026-11-30T00:00:00Z").unwrap();
        assert_eq!(
            Period::Total.start(now),
            Period::Total.start(now.plus(std::time::Duration::from_secs(1 << 33)))
        );
        assert_eq!(Period::Total.end(now), None);
    }

    #[test]
    fn a_period_is_read_by_its_name_alone() {
        for (period, name) in Period::ALL {
            assert_eq!((period.as_str(), Period::parse(name)), (name, Ok(period)));
            assert_eq!(serde_json::to_value(period).unwrap(), name);
        }
        for name in ["", "Day", "days", "hour", "year"] {
            assert!(Period::parse(name).is_err(), "{name}");
        }
    }

    proptest! {
        // Years 0 to 9998.
        #[test]
        fn a_time_is_in_the_one_period_that_begins_at_its_start_and_ends_at_its_end(millis in -62_167_219_200_000_i64..253_370_764_800_000) {
            let at = Timestamp::from_millis(millis);
            for period in [Period::Day, Period::Week, Period::Month] {
                let (start, end) = (period.start(at), period.end(at).unwrap());
                prop_assert!(start <= at && at < end);
                let last = Timestamp::from_millis(end.millis() - 1);
                for inside in [start, last] {
                    prop_assert_eq!((period.start(inside), period.end(inside)), (start, Some(end)));
                }
                prop_assert_eq!(period.start(end), end);
                prop_assert_eq!(start.day(), start);
                let days = (end.millis() - start.millis()) / Period::DAY;
                let (first, next) = (date(start), date(end));
                match period {
                    Period::Week => prop_assert!(days == 7 && first.weekday() == jiff::civil::Weekday::Monday),
                    Period::Month => prop_assert!((first.day(), next.day()) == (1, 1) && days == i64::from(first.days_in_month())),
                    _ => prop_assert_eq!(days, 1),
                }
            }
        }

        #[test]
        fn no_time_makes_the_arithmetic_panic(millis in any::<i64>()) {
            for (period, _) in Period::ALL {
                let at = Timestamp::from_millis(millis);
                let _ = (period.start(at), period.end(at));
            }
        }
    }
}
