//! Texts with a unit: `"500ms"`, `"64KiB"`, `"5/min"`.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

use crate::limits::Rate;

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn duration_or_off<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let duration = parse_duration(&text).map_err(|what| format!("{what}, or off"));
    duration.map(Some).map_err(D::Error::custom)
}

/// Reads `500ms`, `10s`, `5min`, `1h`, `90d`.
///
/// # Errors
/// A sentence with the shapes that are taken.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is no duration; write it as 500ms, 10s, 5min, 1h or 90d");
    let span: jiff::Span = text.parse().map_err(|_| refused())?;
    let exact = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refused())?;
    Duration::try_from(exact).map_err(|_| refused())
}

pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: usize = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let bytes = number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is no size; write it as 512B, 64KiB or 1MiB"
        ))
    })
}

/// Reads `5/min`; `off` is `None`.
pub(super) fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    let refused = || format!("{text:?} is no rate; write it as 5/s, 60/min, 100/h or off");
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

#[cfg(test)]
mod tests {
    use super::*;

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
