//! Amounts of credits as whole micro-credits, parsed from and printed as decimal text without a float in between.

use std::fmt;

use serde_json::value::RawValue;

use super::ParseError;

/// An amount of credits or a balance, in whole micro-credits (a millionth of a credit). In JSON it is a plain decimal
/// number of at most six decimals.
///
/// ```
/// use r3mes_edge::model::Credits;
///
/// let price = Credits::parse("0.1")?;
/// assert_eq!(price.micro(), 100_000);
/// assert_eq!(Credits::from_micro(3 * price.micro()).to_string(), "0.3");
/// assert!(Credits::parse("1e3").is_err());
/// # Ok::<_, r3mes_edge::model::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credits(i64);

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);
    /// The largest single amount a client may name: 1,000,000,000 credits.
    pub const MAX_AMOUNT: Self = Self(1_000_000_000 * Self::MICRO);
    const MICRO: i64 = 1_000_000;
    const TOO_LARGE: &str = "is more than 1,000,000,000 credits";

    /// From micro-credits.
    #[must_use]
    pub const fn from_micro(micro: i64) -> Self {
        Self(micro)
    }

    /// The amount in micro-credits.
    #[must_use]
    pub const fn micro(self) -> i64 {
        self.0
    }

    /// The amount with the other sign.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// Reads a plain decimal number: an optional minus, digits, and at most six decimals.
    ///
    /// # Errors
    /// What is wrong, in words for the client.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        const FORM: &str = "must be a plain decimal number of credits";
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, places) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(places) {
            return Err(FORM.into());
        }
        if places.len() > 6 {
            let detail =
                "has more than 6 decimal places; a millionth of a credit is the smallest amount";
            return Err(detail.into());
        }
        let whole: i64 = whole.parse().map_err(|_| Self::TOO_LARGE)?;
        let scale = 10_i64.pow(6 - places.len() as u32);
        let micro = places.parse::<i64>().map_err(|_| FORM)? * scale;
        let amount = whole
            .checked_mul(Self::MICRO)
            .and_then(|m| m.checked_add(micro))
            .filter(|m| *m <= Self::MAX_AMOUNT.0)
            .ok_or(Self::TOO_LARGE)?;
        Ok(Self(if negative { -amount } else { amount }))
    }

    /// Converts a float, rounded to six decimals; also returns whether the amount is the same.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_float(number: f64) -> Result<(Self, bool), ParseError> {
        const MICRO: f64 = 1e6;
        let micro = (number * MICRO).round_ties_even();
        if !number.is_finite() {
            return Err("must be a finite number of credits".into());
        }
        if micro.abs() > Self::MAX_AMOUNT.0 as f64 {
            return Err(Self::TOO_LARGE.into());
        }
        // Exact, as an amount has less digits than a float.
        Ok((Self(micro as i64), micro / MICRO == number))
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
    /// For the configuration file, where a price is a number or a text. JSON bodies use [`Credits::parse`].
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "must be a number of credits")]
        enum Written {
            Text(String),
            Number(f64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            // The shortest text of this float is what the file has, up to 15 digits.
            Written::Number(number) => number.to_string(),
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_parsed_exactly() {
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
            assert!(Credits::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn floats_are_converted_by_their_shortest_text_and_rounded_half_to_even() {
        for (number, micro, same) in [
            (0.0, 0, true),
            (-0.0, 0, true),
            (0.1, 100_000, true),
            (-2.5, -2_500_000, true),
            (0.1 + 0.2, 300_000, false),
            (1e-6, 1, true),
            (0.0000005, 0, false),
            (0.0000015, 2, false),
            (0.0000025, 2, false),
            (0.00000251, 3, false),
            (-0.0000015, -2, false),
            (5e-324, 0, false),
            (123_456.789_012_5, 123_456_789_012, false),
            (1e9, 1_000_000_000_000_000, true),
        ] {
            assert_eq!(
                Credits::from_float(number),
                Ok((Credits(micro), same)),
                "{number}"
            );
        }
        for number in [f64::NAN, f64::INFINITY, f64::MIN, 1e9 + 0.000_001, 1e300] {
            assert!(
                Credits::from_float(number).is_err(),
                "{number} was accepted"
            );
        }
    }

    proptest! {
        #[test]
        fn a_float_is_rounded_to_the_nearest_amount(number in -1e7f64..1e7, small in -1e-3f64..1e-3) {
            for number in [number, small] {
                let (amount, same) = Credits::from_float(number).unwrap();
                // The text's digits as one whole number, and how much a micro-credit is of that.
                let text = number.to_string();
                let places = text.split_once('.').map_or(0, |(_, places)| places.len());
                let digits: i128 = text.replace('.', "").parse().unwrap();
                let (value, micro) = match places {
                    0..=6 => (digits * 10i128.pow(6 - places as u32), 1),
                    _ => (digits, 10i128.pow(places as u32 - 6)),
                };
                let error = i128::from(amount.micro()) * micro - value;
                prop_assert!(2 * error.abs() <= micro, "{} became {}", text, amount);
                prop_assert_eq!(same, error == 0);
            }
        }

        #[test]
        fn a_printed_amount_parses_back(micro in -1_000_000_000_000_000i64..=1_000_000_000_000_000) {
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
