use std::fmt;

use serde_json::value::RawValue;

/// An amount of credits or a balance, kept as whole micro-credits (a millionth of a credit).
///
/// In JSON it is a plain decimal number of at most six places, printed from the integer and read from the text, so no
/// amount ever passes through a float.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credits(i64);

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);
    /// The largest single amount a client may name: 1,000,000,000 credits.
    pub const MAX_AMOUNT: Self = Self(1_000_000_000 * Self::MICRO);
    const MICRO: i64 = 1_000_000;

    /// Makes an amount from micro-credits, as the store keeps it.
    #[must_use]
    pub const fn from_micro(micro: i64) -> Self {
        Self(micro)
    }

    /// The amount in micro-credits.
    #[must_use]
    pub const fn micro(self) -> i64 {
        self.0
    }

    /// The same amount taken instead of given.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// Reads a plain decimal number: an optional minus, digits, and at most six places.
    ///
    /// # Errors
    /// A sentence that says what is wrong, fit for the client.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "must be a plain decimal number of credits";
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, places) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(places) {
            return Err(SHAPE);
        }
        if places.len() > 6 {
            return Err(
                "has more than 6 decimal places; a millionth of a credit is the smallest amount",
            );
        }
        const TOO_LARGE: &str = "is more than 1,000,000,000 credits";
        let whole: i64 = whole.parse().map_err(|_| TOO_LARGE)?;
        let scale = 10_i64.pow(6 - places.len() as u32);
        let micro = places.parse::<i64>().map_err(|_| SHAPE)? * scale;
        let amount = whole
            .checked_mul(Self::MICRO)
            .and_then(|m| m.checked_add(micro))
            .filter(|m| *m <= Self::MAX_AMOUNT.0)
            .ok_or(TOO_LARGE)?;
        Ok(Self(if negative { -amount } else { amount }))
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let micro = Self::MICRO.unsigned_abs();
        let (whole, rest) = (magnitude / micro, magnitude % micro);
        let sign = if self.0 < 0 { "-" } else { "" };
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let places = format!("{rest:06}");
        write!(f, "{sign}{whole}.{}", places.trim_end_matches('0'))
    }
}

impl fmt::Debug for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credits({self})")
    }
}

impl serde::Serialize for Credits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Credits {
    /// For the configuration file, where a price is written as a number or a text. JSON bodies use [`Credits::parse`].
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            // The shortest text that reads back as the same float: what stands in the file, up to 15 digits.
            toml::Value::Float(number) => number.to_string(),
            _ => return Err(serde::de::Error::custom("must be a number of credits")),
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, micro) in [
            ("0", 0),
            ("1", 1_000_000),
            ("0.000001", 1),
            ("-0.25", -250_000),
            ("1.500000", 1_500_000),
            ("1000000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(Credits::parse(text), Ok(Credits(micro)), "{text}");
        }
    }

    #[test]
    fn exponents_signs_spaces_and_too_much_are_refused() {
        for text in [
            "",
            "-",
            "+1",
            "1e3",
            "1.",
            ".5",
            "1.0000001",
            " 1",
            "1 ",
            "0x1",
            "NaN",
            "--1",
            "1000000000.000001",
            "9223372036854775808",
            "1,5",
            "\u{0661}",
        ] {
            assert!(Credits::parse(text).is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(micro in -1_000_000_000_000_000i64..=1_000_000_000_000_000) {
            let amount = Credits(micro);
            prop_assert_eq!(Credits::parse(&amount.to_string()), Ok(amount));
            prop_assert_eq!(serde_json::to_string(&amount).unwrap(), amount.to_string());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = Credits::parse(&text);
        }
    }
}
