//! Points in time: unix milliseconds, written as RFC 3339.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;

use super::ParseError;

/// A point in time, stored as unix milliseconds and written as RFC 3339 in UTC with three decimals. One outside the
/// calendar, years -9999 to 9999, is written as the nearest in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From unix milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Unix milliseconds.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// The start of its UTC day.
    #[must_use]
    pub const fn day(self) -> Self {
        Self(self.0 - self.0.rem_euclid(86_400_000))
    }

    /// The UTC date, `2026-11-24`.
    #[must_use]
    pub fn date(self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }

    /// The time in a file name, so that names sort by it: `20261124T120000.000Z`.
    #[must_use]
    pub fn compact(self) -> String {
        self.to_string().replace(['-', ':'], "")
    }

    /// Reads what [`Timestamp::compact`] writes, and nothing else.
    #[must_use]
    pub fn parse_compact(text: &str) -> Option<Self> {
        let parsed = Self::parse(text).ok()?;
        (parsed.compact() == text).then_some(parsed)
    }

    /// Reads RFC 3339, or unix seconds with an optional fraction.
    ///
    /// # Errors
    /// What is wrong, in words for the client.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        const FORM: &str = "must be a time: RFC 3339 (2026-11-24T12:00:00Z) or unix seconds";
        if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            let parsed: jiff::Timestamp = text.parse().map_err(|_| FORM)?;
            return Ok(Self(parsed.as_millisecond()));
        }
        /// That of 9999-12-31, the last day that RFC 3339 can write. A float holds all milliseconds until then.
        const LAST_SECOND: f64 = 253_402_300_799.0;
        let seconds: f64 = text.parse().map_err(|_| FORM)?;
        match seconds > LAST_SECOND {
            true => Err("lies after the year 9999".into()),
            false => Ok(Self((seconds * 1000.0).round() as i64)),
        }
    }

    /// Reads a time without a zone as UTC, as databases write it: `2026-11-24 12:00:00`, `2026-11-24T12:00:00.25`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse_naive(text: &str) -> Result<Self, ParseError> {
        let parsed = text.parse::<jiff::civil::DateTime>();
        let zoned = parsed.and_then(|time| time.to_zoned(TimeZone::UTC));
        let zoned = zoned.map_err(|_| "must be a time like 2026-11-24 12:00:00")?;
        Ok(Self(zoned.timestamp().as_millisecond()))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        Self(millis(since.unwrap_or_default()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
        let millis = self.0.clamp(first.as_millisecond(), last.as_millisecond());
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(last);
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
    fn rfc_3339_and_unix_seconds_are_parsed() {
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
    fn a_time_without_a_zone_is_utc() {
        for text in ["2026-11-24 03:00:00.250", "2026-11-24T03:00:00.25"] {
            assert_eq!(
                Timestamp::parse_naive(text).unwrap().to_string(),
                "2026-11-24T03:00:00.250Z"
            );
        }
        for text in ["", "soon", "2026-13-24 03:00:00", "2026-11-24T03:00:00Z"] {
            assert!(
                Timestamp::parse_naive(text).is_err(),
                "{text:?} was accepted"
            );
        }
    }

    #[test]
    fn a_time_outside_the_calendar_is_written_as_the_nearest_in_it() {
        for (millis, year) in [(i64::MIN, "-009999-"), (i64::MAX, "9999-")] {
            let written = Timestamp::from_millis(millis).to_string();
            assert!(written.starts_with(year), "{written}");
        }
    }

    #[test]
    fn an_invalid_time_is_refused() {
        for text in [
            "",
            ".",
            "now",
            "-5",
            "1.2.3",
            "2026-11-24",
            "99999999999999",
            "253402300799.001",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_printed_time_parses_back(millis in 0i64..253_402_300_799_999) {
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
