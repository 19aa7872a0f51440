use std::fmt;
use std::time::{Duration, SystemTime};

/// A moment, kept as unix milliseconds and written as RFC 3339 in UTC with three places. One that lies outside the calendar,
/// years -9999 to 9999, is written as the nearest that does not; a year before 0 with six digits, as ISO 8601 has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes a moment from unix milliseconds, as the store keeps it.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Unix milliseconds.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The moment `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The moment `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The start of the UTC day this moment lies in.
    #[must_use]
    pub const fn day(self) -> Self {
        Self(self.0 - self.0.rem_euclid(86_400_000))
    }

    /// The calendar date in UTC, `2026-11-24`.
    #[must_use]
    pub fn date(self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }

    /// The moment as it stands in a file's name, so that names sort by time: `20261124T120000.000Z`.
    #[must_use]
    pub fn compact(self) -> String {
        let written = self.to_string();
        written
            .chars()
            .filter(|c| !matches!(c, '-' | ':'))
            .collect()
    }

    /// Reads what [`Timestamp::compact`] wrote, and nothing else.
    #[must_use]
    pub fn parse_compact(text: &str) -> Option<Self> {
        let read: jiff::Timestamp = text.parse().ok()?;
        let read = Self(read.as_millisecond());
        (read.compact() == text).then_some(read)
    }

    /// Reads RFC 3339, or unix seconds with an optional fraction.
    ///
    /// # Errors
    /// A sentence that says what is wrong, fit for the client.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "must be a time: RFC 3339 (2026-11-24T12:00:00Z) or unix seconds";
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let seconds: i64 = whole.parse().map_err(|_| SHAPE)?;
            let millis: i64 = format!("{:0<3.3}", fraction).parse().map_err(|_| SHAPE)?;
            // 9999-12-31 is the last day RFC 3339 can write.
            if seconds > 253_402_300_799 {
                return Err("lies after the year 9999");
            }
            return Ok(Self(seconds * 1000 + millis));
        }
        let parsed: jiff::Timestamp = text.parse().map_err(|_| SHAPE)?;
        Ok(Self(parsed.as_millisecond()))
    }

    /// Reads a moment that names no zone and means UTC, as databases keep them: `2026-11-24 12:00:00`,
    /// `2026-11-24T12:00:00.25`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse_naive(text: &str) -> Result<Self, &'static str> {
        let parsed: jiff::civil::DateTime = text
            .parse()
            .map_err(|_| "must be a time like 2026-11-24 12:00:00")?;
        let zoned = parsed
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map_err(|_| "lies outside the calendar")?;
        Ok(Self(zoned.timestamp().as_millisecond()))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// RFC 3339 in UTC with milliseconds; a time outside the calendar is written as the nearest in it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nearest = match self.0 < 0 {
            true => jiff::Timestamp::MIN,
            false => jiff::Timestamp::MAX,
        };
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(nearest);
        write!(f, "{time:.3}")
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ways_of_writing_a_time_are_read() {
        for text in [
            "2026-11-24T03:00:00.250Z",
            "1795489200.25",
            "2026-11-24T04:00:00.25+01:00",
        ] {
            assert_eq!(
                Timestamp::parse(text).unwrap().to_string(),
                "2026-11-24T03:00:00.250Z"
            );
        }
        assert_eq!(Timestamp::parse("1795489200").unwrap().date(), "2026-11-24");
    }

    #[test]
    fn a_time_without_a_zone_is_taken_as_utc() {
        for text in ["2026-11-24 03:00:00.250", "2026-11-24T03:00:00.25"] {
            assert_eq!(
                Timestamp::parse_naive(text).unwrap().to_string(),
                "2026-11-24T03:00:00.250Z"
            );
        }
        for text in ["", "soon", "2026-13-24 03:00:00", "2026-11-24T03:00:00Z"] {
            assert!(Timestamp::parse_naive(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_moment_outside_the_calendar_is_written_as_the_nearest_in_it() {
        for (millis, year) in [(i64::MIN, "-009999-"), (i64::MAX, "9999-")] {
            let written = Timestamp::from_millis(millis).to_string();
            assert!(written.starts_with(year), "{written}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            ".",
            "now",
            "-5",
            "1.2.3",
            "2026-11-24",
            "99999999999999",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0i64..253_402_300_799_999) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
            prop_assert_eq!(Timestamp::parse_compact(&time.compact()), Some(time));
            prop_assert!(time.day() <= time && time.millis() - time.day().millis() < 86_400_000);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = (Timestamp::parse(&text), Timestamp::parse_compact(&text));
        }
    }
}
