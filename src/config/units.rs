//! Texts with a unit: `"500ms"`, `"64KiB"`, `"5/min"`.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::limits::Rate;

/// A duration, for `#[serde(with)]`.
pub(super) mod duration {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&duration_text(*value))
    }
}

/// A duration, or `off`.
pub(super) mod duration_or_off {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration_or("off", from)
    }

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.map_or_else(|| "off".to_owned(), duration_text))
    }
}

/// A duration, or `forever`.
pub(super) mod duration_or_forever {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration_or("forever", from)
    }

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.map_or_else(|| "forever".to_owned(), duration_text))
    }
}

fn duration_or<'de, D: Deserializer<'de>>(
    none: &str,
    from: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == none {
        return Ok(None);
    }
    let duration = parse_duration(&text).map_err(|what| format!("{what}, or {none}"));
    duration.map(Some).map_err(D::Error::custom)
}

/// Reads `500ms`, `10s`, `5min`, `1h`, `90d`.
///
/// # Errors
/// A sentence with the shapes that are taken.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("invalid duration {text:?}; use 500ms, 10s, 5min, 1h or 90d");
    let span: jiff::Span = text.parse().map_err(|_| refused())?;
    let exact = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refused())?;
    Duration::try_from(exact).map_err(|_| refused())
}

/// The shortest text that [`parse_duration`] reads back as the same.
fn duration_text(duration: Duration) -> String {
    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let nanos = duration.as_nanos();
    let fits = |(unit, _): &&(u128, &str)| nanos >= *unit && nanos.is_multiple_of(*unit);
    UNITS.iter().find(fits).map_or_else(
        || "0s".to_owned(),
        |(unit, name)| format!("{}{name}", nanos / unit),
    )
}

const SIZES: [(usize, &str); 4] = [
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
    (1, "B"),
];

/// Bytes.
pub(super) mod size {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        let text = String::deserialize(from)?;
        parse_size(&text).ok_or_else(|| {
            D::Error::custom(format!("invalid size {text:?}; use 512B, 64KiB or 1MiB"))
        })
    }

    pub(crate) fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&size_text(*value))
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (scale, _) = SIZES.iter().find(|(_, name)| *name == unit)?;
    let bytes = number.parse::<usize>().ok()?.checked_mul(*scale)?;
    (bytes > 0).then_some(bytes)
}

fn size_text(bytes: usize) -> String {
    let fits = |(scale, _): &&(usize, &str)| bytes.is_multiple_of(*scale);
    SIZES.iter().find(fits).map_or_else(
        || format!("{bytes}B"),
        |(scale, name)| format!("{}{name}", bytes / scale),
    )
}

/// Reads `5/min`; `off` is `None`.
pub(super) fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    let refused = || format!("invalid rate {text:?}; use 5/s, 60/min, 100/h or off");
    if text == "off" {
        return Ok(None);
    }
    let (count, unit) = text.split_once('/').ok_or_else(refused)?;
    let count: NonZeroU32 = count.parse().map_err(|_| refused())?;
    let per = match unit {
        "s" => Duration::from_secs(1),
        "min" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(refused()),
    };
    Ok(Some(Rate { count, per }))
}

/// What [`parse_rate`] reads back as the same; `None` where there is no such text.
pub(super) fn rate_text(rate: Option<Rate>) -> Option<String> {
    let Some(Rate { count, per }) = rate else {
        return Some("off".to_owned());
    };
    let units = [(1, "s"), (60, "min"), (3600, "h")];
    let fits = |(seconds, _): &(u64, &str)| Duration::from_secs(*seconds) == per;
    let (_, unit) = units.into_iter().find(fits)?;
    Some(format!("{count}/{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_the_same(nanos in prop_oneof![0..=u64::MAX / 2, (0..=10_000u64).prop_map(|s| s * 1_000_000_000)], bytes in prop_oneof![1..=usize::MAX, (1..=4096usize).prop_map(|k| k << 10)], count in 1..=u32::MAX, per in prop::sample::select(vec![1u64, 60, 3600])) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
            let rate = NonZeroU32::new(count).map(|count| Rate { count, per: Duration::from_secs(per) });
            prop_assert_eq!(parse_rate(&rate_text(rate).unwrap()), Ok(rate));
        }
    }

    #[test]
    fn durations_and_rates_are_read_or_refused_with_an_example() {
        assert_eq!(parse_duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "10", "-5s", "soon", "1 fortnight"] {
            assert!(
                parse_duration(text).unwrap_err().contains("10s"),
                "{text:?} was taken"
            );
        }
        assert_eq!(parse_rate("off"), Ok(None));
        assert_eq!(parse_rate("5/min").unwrap().unwrap().count.get(), 5);
        for text in ["0/min", "5", "5/week", "-1/s", ""] {
            assert!(parse_rate(text).is_err(), "{text:?} was taken");
        }
    }
}
