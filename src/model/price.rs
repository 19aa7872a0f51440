//! What a request costs: an amount for itself, and for each million of its tokens.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Credits;

/// The tokens of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tokens {
    /// Of the prompt.
    pub prompt: i64,
    /// Those of them that came from the server's cache.
    pub cached: i64,
    /// Of the answer.
    pub completion: i64,
}

/// The price of a request. In a configuration it is a number of credits for each request, or a table.
///
/// ```
/// use r3mes_edge::model::{Credits, Price, Tokens};
///
/// let mut price = Price::per_request(Credits::parse("0.01")?);
/// price.prompt = Credits::parse("0.4")?;
/// price.cached_prompt = Credits::parse("0.1")?;
/// price.completion = Credits::parse("1.6")?;
/// let used = Tokens { prompt: 1200, cached: 1000, completion: 310 };
/// // 0.01 + (200 * 0.4 + 1000 * 0.1 + 310 * 1.6) / 1,000,000, rounded up to a micro-credit
/// assert_eq!(price.cost(used).to_string(), "0.010676");
/// # Ok::<_, r3mes_edge::model::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Price {
    /// For the request itself.
    pub request: Credits,
    /// For a million tokens of the prompt that the server's cache did not have.
    pub prompt: Credits,
    /// For a million tokens of the prompt that it had.
    pub cached_prompt: Credits,
    /// For a million tokens of the answer.
    pub completion: Credits,
}

impl Price {
    const MILLION: i128 = 1_000_000;

    /// An amount for each request, whatever its length.
    #[must_use]
    pub const fn per_request(request: Credits) -> Self {
        Self {
            request,
            prompt: Credits::ZERO,
            cached_prompt: Credits::ZERO,
            completion: Credits::ZERO,
        }
    }

    /// Whether tokens cost something.
    #[must_use]
    pub fn is_by_tokens(&self) -> bool {
        [self.prompt, self.cached_prompt, self.completion] != [Credits::ZERO; 3]
    }

    /// The cost of a request that used these tokens, rounded up to a micro-credit. Numbers that no server can mean are
    /// corrected: none is below 0, and no more of the prompt is cached than there is.
    #[must_use]
    pub fn cost(&self, used: Tokens) -> Credits {
        let prompt = used.prompt.max(0);
        let cached = used.cached.clamp(0, prompt);
        self.sum(&[
            (prompt - cached, self.prompt),
            (cached, self.cached_prompt),
            (used.completion.max(0), self.completion),
        ])
    }

    /// What a request of at most so many tokens can cost.
    #[must_use]
    pub fn bound(&self, prompt: i64, completion: i64) -> Credits {
        let prompt_price = self.prompt.max(self.cached_prompt);
        self.sum(&[(prompt, prompt_price), (completion, self.completion)])
    }

    /// The most tokens of an answer whose [`bound`](Self::bound) is within `available`; `None` where not even an answer without
    /// one is.
    #[must_use]
    pub fn completion_within(&self, available: Credits, prompt: i64) -> Option<i64> {
        let prompt_price = self.prompt.max(self.cached_prompt);
        let rest = micro(available) - micro(self.request);
        let rest = rest * Self::MILLION - i128::from(prompt) * micro(prompt_price);
        let tokens = match micro(self.completion) {
            _ if rest < 0 => return None,
            0 => i128::from(i64::MAX),
            price => rest / price,
        };
        Some(i64::try_from(tokens).unwrap_or(i64::MAX))
    }

    fn sum(&self, parts: &[(i64, Credits)]) -> Credits {
        let parts = parts
            .iter()
            .map(|(tokens, price)| i128::from(*tokens) * micro(*price));
        let total = micro(self.request) * Self::MILLION + parts.sum::<i128>();
        let rounded_up = (total + Self::MILLION - 1) / Self::MILLION;
        Credits::from_micro(i64::try_from(rounded_up).unwrap_or(i64::MAX))
    }
}

impl From<Credits> for Price {
    /// An amount for each request.
    fn from(request: Credits) -> Self {
        Self::per_request(request)
    }
}

const fn micro(amount: Credits) -> i128 {
    amount.micro() as i128
}

/// The table of a price; a cached prompt costs what any other does, unless it says so.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    request: Credits,
    #[serde(default)]
    prompt: Credits,
    cached_prompt: Option<Credits>,
    #[serde(default)]
    completion: Credits,
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_by_tokens() {
            return self.request.serialize(serializer);
        }
        let table = Table {
            request: self.request,
            prompt: self.prompt,
            cached_prompt: Some(self.cached_prompt),
            completion: self.completion,
        };
        table.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{Error, MapAccess, Visitor, value};
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Price;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of credits, or a table with request, prompt, cached_prompt and completion")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Price, E> {
                let amount = Credits::deserialize(value::StrDeserializer::new(text));
                amount.map(Price::per_request)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Price, E> {
                let amount = Credits::deserialize(value::I64Deserializer::new(number));
                amount.map(Price::per_request)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Price, E> {
                let amount = Credits::deserialize(value::U64Deserializer::new(number));
                amount.map(Price::per_request)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Price, E> {
                let amount = Credits::deserialize(value::F64Deserializer::new(number));
                amount.map(Price::per_request)
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Price, A::Error> {
                let table = Table::deserialize(value::MapAccessDeserializer::new(members))?;
                Ok(Price {
                    request: table.request,
                    prompt: table.prompt,
                    cached_prompt: table.cached_prompt.unwrap_or(table.prompt),
                    completion: table.completion,
                })
            }
        }
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_price() -> impl Strategy<Value = Price> {
        let amount = prop_oneof![
            Just(0),
            0..100_i64,
            0..5_000_000_i64,
            0..=Credits::MAX_AMOUNT.micro()
        ];
        [amount.clone(), amount.clone(), amount.clone(), amount].prop_map(|amounts| {
            let [request, prompt, cached_prompt, completion] = amounts.map(Credits::from_micro);
            Price {
                request,
                prompt,
                cached_prompt,
                completion,
            }
        })
    }

    #[test]
    fn a_cost_is_rounded_up_one_time() {
        let price = Price {
            prompt: Credits::from_micro(1),
            completion: Credits::from_micro(1),
            ..Price::per_request(Credits::ZERO)
        };
        let cost = |prompt, completion| {
            price
                .cost(Tokens {
                    prompt,
                    cached: 0,
                    completion,
                })
                .micro()
        };
        assert_eq!(
            [
                cost(0, 0),
                cost(1, 0),
                cost(500_000, 500_000),
                cost(500_001, 500_000)
            ],
            [0, 1, 1, 2]
        );
    }

    #[test]
    fn a_price_is_a_number_or_a_table_and_a_wrong_one_is_named() {
        let read = serde_json::from_str::<Price>;
        for text in ["1.5", "\"1.5\"", "{\"request\":1.5}"] {
            assert_eq!(
                read(text).unwrap(),
                Price::per_request(Credits::from_micro(1_500_000)),
                "{text}"
            );
        }
        let table = read("{\"prompt\":0.4,\"completion\":\"1.6\"}").unwrap();
        assert_eq!(table.cached_prompt, table.prompt);
        for (text, words) in [
            (
                "true",
                "a number of credits, or a table with request, prompt, cached_prompt and completion",
            ),
            ("{\"promt\":1}", "unknown field `promt`"),
            (
                "{\"prompt\":\"1e3\"}",
                "must be a plain decimal number of credits",
            ),
            ("0.0000001", "more than 6 decimal places"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_used_within_the_bounds_costs_at_most_their_bound(price in any_price(), prompt in 0..1_000_000_000_i64, completion in 0..1_000_000_000_i64, used in [any::<i64>(), any::<i64>(), any::<i64>()]) {
            let used = Tokens { prompt: used[0].min(prompt), cached: used[1], completion: used[2].min(completion) };
            let cost = price.cost(used);
            prop_assert!(Credits::ZERO <= cost && cost <= price.bound(prompt, completion));
        }

        #[test]
        fn the_most_tokens_that_fit_fit_and_one_more_does_not(price in any_price(), available in 0..10_000_000_000_i64, prompt in 0..1_000_000_i64) {
            let available = Credits::from_micro(available);
            match price.completion_within(available, prompt) {
                None => prop_assert!(price.bound(prompt, 0) > available),
                Some(most) => {
                    prop_assert!(price.bound(prompt, most) <= available);
                    if price.completion > Credits::ZERO {
                        prop_assert!(price.bound(prompt, most + 1) > available);
                    }
                }
            }
        }

        #[test]
        fn a_printed_price_reads_back(price in any_price()) {
            let text = serde_json::to_string(&price).unwrap();
            // A float has no more than 15 digits.
            if [price.request, price.prompt, price.cached_prompt, price.completion].iter().all(|amount| amount.micro() < 1_000_000_000_000) {
                prop_assert_eq!(serde_json::from_str::<Price>(&text).unwrap(), price);
            }
        }
    }
}
