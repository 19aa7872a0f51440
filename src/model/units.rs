//! Values with a unit as configuration files write them: `"500ms"`, `"64KiB"`, or a word such as `"off"` in place of one.
//! Every form reads back what it writes.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use jiff::{Span, SpanRelativeTo, SpanRound, Unit};

use super::ParseError;

/// Declares a module for `#[serde(with)]` from a function that parses a text and one that writes it.
macro_rules! text_form {
    ($name:ident, $type:ty, $parse:expr, $write:expr) => {
        pub(crate) mod $name {
            use super::*;

            pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(
                from: D,
            ) -> Result<$type, D::Error> {
                // A number without a unit is refused by what reads texts, which names the units.
                let text = match serde::Deserialize::deserialize(from)? {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                $parse(&text).map_err(serde::de::Error::custom)
            }

            pub(crate) fn serialize<S: serde::Serializer>(
                value: &$type,
                to: S,
            ) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$write(*value))
            }
        }
    };
}
pub(crate) use text_form;

text_form!(duration, Duration, parse_duration, duration_text);
text_form!(
    duration_or_off,
    Option<Duration>,
    |text| parse_optional(text, "off"),
    |value: Option<Duration>| value.map_or_else(|| "off".to_owned(), duration_text)
);
text_form!(
    duration_or_forever,
    Option<Duration>,
    |text| parse_optional(text, "forever"),
    |value: Option<Duration>| value.map_or_else(|| "forever".to_owned(), duration_text)
);
text_form!(size, usize, parse_size, size_text);

/// Reads `500ms`, `10s`, `5min`, `1h`, `90d`.
///
/// # Errors
/// A sentence with the accepted forms.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let span = text.parse::<Span>();
    let exact = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    exact
        .and_then(Duration::try_from)
        .map_err(|_| format!("invalid duration {text:?}; use 500ms, 10s, 5min, 1h or 90d").into())
}

fn parse_optional(text: &str, none: &str) -> Result<Option<Duration>, String> {
    if text == none {
        return Ok(None);
    }
    let duration = parse_duration(text).map_err(|error| format!("{error}, or {none}"));
    duration.map(Some)
}

/// A text that [`parse_duration`] reads back as the same: `1h 30m`.
fn duration_text(duration: Duration) -> String {
    let largest = SpanRound::new().largest(Unit::Day).days_are_24_hours();
    let span = Span::try_from(duration).and_then(|span| span.round(largest));
    span.map_or_else(
        |_| format!("{}s", duration.as_secs()),
        |span| format!("{span:#}"),
    )
}

const SIZES: [(usize, &str); 4] = [
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
    (1, "B"),
];

fn parse_size(text: &str) -> Result<usize, String> {
    let parsed = || {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (scale, _) = SIZES.iter().find(|(_, name)| *name == unit.trim_start())?;
        number.parse::<usize>().ok()?.checked_mul(*scale)
    };
    let bytes = parsed().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("invalid size {text:?}; use 512B, 64KiB or 1MiB"))
}

fn size_text(bytes: usize) -> String {
    let is_unit = |(scale, _): &&(usize, &str)| bytes.is_multiple_of(*scale);
    let (scale, name) = SIZES.iter().find(is_unit).unwrap_or(&(1, "B"));
    format!("{}{name}", bytes / scale)
}

/// What a value must be to lie in this range.
pub(crate) fn range_text<T: Debug>(range: &impl RangeBounds<T>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(low), Bound::Included(high)) => {
            format!("must be between {low:?} and {high:?}")
        }
        (Bound::Included(low), _) => format!("must be at least {low:?}"),
        _ => "is out of range".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn durations_and_sizes_read_back_as_written(nanos in prop_oneof![0..=u64::MAX / 2, (0..=10_000u64).prop_map(|s| s * 1_000_000_000)], bytes in prop_oneof![1..=usize::MAX, (1..=4096usize).prop_map(|k| k << 10)]) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn invalid_durations_are_refused_with_an_example() {
        assert_eq!(parse_duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "10", "-5s", "soon", "1 fortnight"] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("10s"), "{text:?}: {error}");
        }
    }
}
