//! What a key may use of what its wallet has.

use std::fmt;

use crate::model::{Credits, Period, Timestamp};

/// The limits of a key. A key that has any passes exactly these on to the keys that it makes, and to the one that replaces
/// it, so that all of them together spend and run no more than one would.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct KeyLimits {
    /// What is counted for these limits is counted under this number, which outlives the keys.
    #[serde(skip)]
    pub id: i64,
    /// The adapters that it may ask, in order; `None` is all.
    pub models: Option<Vec<String>>,
    /// What may be spent in a period; `None` is all that the wallet has.
    pub credit_limit: Option<Credits>,
    /// The period; set where `credit_limit` is.
    pub credit_period: Option<Period>,
    /// Paid requests that may run at a time in a server process; `None` is any number.
    pub max_concurrency: Option<u32>,
}

impl KeyLimits {
    /// The most models of a key.
    pub const MAX_MODELS: usize = 64;

    /// No limits yet, under a new number.
    ///
    /// # Errors
    /// If the operating system provides no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            // Of 63 bits, so that none is met twice.
            id: (getrandom::u64()? >> 1).cast_signed(),
            models: None,
            credit_limit: None,
            credit_period: None,
            max_concurrency: None,
        })
    }

    /// What may be spent, and in which period.
    #[must_use]
    pub fn credit(&self) -> Option<(Credits, Period)> {
        self.credit_limit.zip(self.credit_period)
    }
}

/// What the keys of a limit spent, as clients read it; empty where they have no limit of credits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Spent {
    /// In the current period.
    pub spent: Option<Credits>,
    /// When the next begins; `None` for a limit of all time too.
    pub period_ends_at: Option<Timestamp>,
}

/// As the audit trail has them.
impl fmt::Display for KeyLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models = self
            .models
            .as_ref()
            .map(|models| format!("models {}", models.join(",")));
        let credit = (self.credit()).map(|(most, period)| match period {
            Period::Total => format!("{most} credits in total"),
            period => format!("{most} credits a {}", period.as_str()),
        });
        let running = self
            .max_concurrency
            .map(|most| format!("{most} requests at a time"));
        let parts: Vec<_> = [models, credit, running].into_iter().flatten().collect();
        f.write_str(&parts.join("; "))
    }
}
