//! The section `[rates]`: a rate for each class of requests, written as `"10/min"` or `"off"`.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::limits::{Rate, RateClass};
use crate::model::section::section;
use crate::model::units::text_form;

section! {
    /// Rates by class; `None` is "off".
    RatesConfig {
        /// Making keys and logging in.
        auth: Option<Rate> as "rate" = per_minute(5);
        /// Paid chat.
        chat: Option<Rate> as "rate" = per_minute(10);
        /// Changes.
        write: Option<Rate> as "rate" = per_minute(60);
        /// Samples from miners.
        telemetry: Option<Rate> as "rate" = per_minute(600);
        /// Reads.
        read: Option<Rate> as "rate" = per_minute(300);
        /// Health, metrics and alerts.
        health: Option<Rate> as "rate" = per_minute(600);
        /// Wrong credentials, by address only.
        failures: Option<Rate> as "rate" = per_minute(20);
        /// The operator's page and its files.
        page: Option<Rate> as "rate" = per_minute(600);
        /// Requests without a route: unknown paths, methods and hosts, pages of other origins; by address only.
        refused: Option<Rate> as "rate" = per_minute(120);
    }
}

impl RatesConfig {
    /// The rate of a class.
    #[must_use]
    pub fn get(&self, class: RateClass) -> Option<Rate> {
        *self.clone().entry(class)
    }

    /// Sets the rate of a class; `None` turns it off.
    pub fn set(&mut self, class: RateClass, rate: Option<Rate>) {
        *self.entry(class) = rate;
    }

    fn entry(&mut self, class: RateClass) -> &mut Option<Rate> {
        match class {
            RateClass::Auth => &mut self.auth,
            RateClass::Chat => &mut self.chat,
            RateClass::Write => &mut self.write,
            RateClass::Telemetry => &mut self.telemetry,
            RateClass::Read => &mut self.read,
            RateClass::Health => &mut self.health,
            RateClass::Failures => &mut self.failures,
            RateClass::Page => &mut self.page,
            RateClass::Refused => &mut self.refused,
        }
    }

    /// No limits at all.
    #[must_use]
    pub fn off() -> Self {
        let mut rates = Self::default();
        for class in RateClass::ALL {
            rates.set(class, None);
        }
        rates
    }
}

fn per_minute(count: u32) -> Option<Rate> {
    let per = Duration::from_secs(60);
    NonZeroU32::new(count).map(|count| Rate { count, per })
}

text_form!(rate, Option<Rate>, parse, text);

const UNITS: [(&str, u64); 3] = [("s", 1), ("min", 60), ("h", 3600)];

fn parse(text: &str) -> Result<Option<Rate>, String> {
    if text == "off" {
        return Ok(None);
    }
    let rate = text.split_once('/').and_then(|(count, unit)| {
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let (count, per) = (count.parse().ok()?, Duration::from_secs(seconds));
        Some(Some(Rate { count, per }))
    });
    rate.ok_or_else(|| format!("invalid rate {text:?}; use 5/s, 60/min, 100/h or off"))
}

/// A rate over another time can only be made in code; its text does not read back.
fn text(rate: Option<Rate>) -> String {
    let Some(Rate { count, per }) = rate else {
        return "off".to_owned();
    };
    let unit = UNITS.into_iter().find(|unit| unit.1 == per.as_secs());
    format!("{count}/{}", unit.map_or("?", |(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rate_reads_back_as_written(count in 1..=u32::MAX, per in prop::sample::select(vec![1u64, 60, 3600])) {
            let rate = NonZeroU32::new(count).map(|count| Rate { count, per: Duration::from_secs(per) });
            prop_assert_eq!(parse(&text(rate)), Ok(rate));
        }
    }

    #[test]
    fn invalid_rates_are_refused() {
        assert_eq!(parse("off"), Ok(None));
        assert_eq!(parse("5/min").unwrap().unwrap().count.get(), 5);
        for text in ["0/min", "5", "5/week", "-1/s", ""] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
