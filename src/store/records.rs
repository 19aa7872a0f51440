//! What the storage is given and gives back.

use crate::model::{Credits, HashrateUnit, Timestamp, Wallet};

/// An account.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct User {
    /// Whose it is.
    pub wallet_address: Wallet,
    /// The balance.
    pub credits: Credits,
    /// Whether a miner of this wallet ever told a sample.
    pub is_miner: bool,
    /// When one last did.
    pub last_mining_at: Option<Timestamp>,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// One movement of credits.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LedgerEntry {
    /// `led_…`, rising with time.
    #[serde(serialize_with = "entry_id")]
    pub id: i64,
    /// What was added; negative where it was taken.
    pub amount: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// Why.
    pub reason: String,
    /// What it belongs to: for a refund, the entry it gives back.
    pub reference: Option<String>,
    /// What became known of it: for a chat, its tokens.
    pub note: Option<String>,
    /// When.
    pub created_at: Timestamp,
}

impl LedgerEntry {
    /// Checks a reason that somebody gives.
    ///
    /// # Errors
    /// A sentence that says what is wrong, fit for the client.
    pub fn reason(text: &str) -> Result<String, &'static str> {
        if !(1..=200).contains(&text.chars().count()) || text.chars().any(char::is_control) {
            return Err("must be 1 to 200 characters, none of them a control character");
        }
        Ok(text.to_owned())
    }
}

/// A ledger entry with whose it is.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ExportedEntry {
    /// Whose credits moved.
    pub wallet_address: Wallet,
    /// How.
    #[serde(flatten)]
    pub entry: LedgerEntry,
}

/// What became of credits that were given or taken, as it is answered.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Granted {
    /// The balance after it.
    pub credits: Credits,
    /// What the ledger says of it.
    pub entry: LedgerEntry,
}

impl From<&LedgerEntry> for Granted {
    fn from(entry: &LedgerEntry) -> Self {
        Self {
            credits: entry.balance,
            entry: entry.clone(),
        }
    }
}

/// The identifier of a ledger entry as clients read it.
#[must_use]
pub fn ledger_id(id: i64) -> String {
    format!("led_{id:016}")
}

/// Reads what [`ledger_id`] wrote.
#[must_use]
pub fn parse_ledger_id(text: &str) -> Option<i64> {
    let digits = text.strip_prefix("led_")?;
    let shape = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| shape)
}

fn entry_id<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&ledger_id(*id))
}

/// An earning that a miner was paid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Earning {
    /// Who earned.
    pub wallet: Wallet,
    /// How much; positive.
    pub earnings: Credits,
    /// What the payer calls it: the same again counts once.
    pub source_id: String,
    /// When it was earned.
    pub recorded_at: Timestamp,
}

/// What came of an earning.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Counted {
    /// Who earned.
    pub wallet_address: Wallet,
    /// How much.
    pub earnings: Credits,
    /// Whether it was granted now; `false` where its `source_id` was counted before.
    pub counted: bool,
}

/// The earnings of one UTC day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarningsDay {
    /// Their sum.
    pub earnings: Credits,
    /// When the last of them was earned.
    pub recorded_at: Timestamp,
}

/// What is known of a wallet's miners. A figure that no sample ever told is `None`.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct MinerStats {
    /// Whose miners.
    pub wallet_address: Wallet,
    /// Everything they ever earned.
    pub total_earnings: Credits,
    /// The sum over the workers that are active; of the newest where none is.
    pub hashrate: Option<f64>,
    /// What `hashrate` counts, as the newest worker says.
    pub hashrate_unit: Option<HashrateUnit>,
    /// The hottest, in degrees Celsius.
    pub gpu_temperature: Option<f64>,
    /// The sum over the workers.
    pub blocks_found: Option<i64>,
    /// The mean over the workers, 0 to 100.
    pub uptime_percentage: Option<f64>,
    /// As the newest worker sees it.
    pub network_difficulty: Option<f64>,
    /// Whether a worker told a sample lately.
    pub is_active: bool,
    /// When the last sample was recorded.
    pub recorded_at: Option<Timestamp>,
}

/// How finely a hashrate is asked for; finer is less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resolution {
    /// Every sample.
    Raw,
    /// By the minute.
    Minute,
    /// By the hour.
    Hour,
    /// By the UTC day.
    Day,
}

impl Resolution {
    /// Every resolution, the finest first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Minute, Self::Hour, Self::Day];

    /// The resolution as it stands in a query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }
}

/// A point of a hashrate history: over all workers, the sum of each one's mean, least and most in that time.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct HashratePoint {
    /// The UTC date.
    pub date: String,
    /// The mean.
    pub hashrate: f64,
    /// What it counts.
    pub hashrate_unit: HashrateUnit,
    /// The start of the time it is for.
    pub recorded_at: Timestamp,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Samples behind it.
    pub samples: i64,
}

/// A place on the leaderboard.
#[derive(Clone, PartialEq, Debug)]
pub struct LeaderboardRow {
    /// Who.
    pub wallet: Wallet,
    /// What they earned in the period.
    pub total_earnings: Credits,
    /// The sum of what their workers told last.
    pub hashrate: Option<f64>,
    /// The sum of what their workers told last.
    pub blocks_found: Option<i64>,
}

/// Figures over all wallets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Accounts.
    pub users: i64,
    /// Credits in all accounts.
    pub credits: Credits,
    /// Wallets with a sample since the moment that was asked for.
    pub active_miners: i64,
}

/// What storing samples changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Samples that were not there before.
    pub new: usize,
    /// Whether a wallet told its first sample ever or got its account by it.
    pub first: bool,
}

/// What checking the whole ledger found.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LedgerReport {
    /// Wallets looked at.
    pub wallets: i64,
    /// Entries looked at.
    pub entries: i64,
    /// Reservations that are open.
    pub open_reservations: i64,
    /// What does not add up, a sentence each, at most a hundred; empty where all is well.
    pub mistakes: Vec<String>,
}

/// A copy of everything.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Backup {
    /// Its name, without the folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// What is in it.
    pub ledger: LedgerReport,
}

/// What the storage is doing, for metrics and health.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreGauges {
    /// Writes waiting.
    pub queue_depth: usize,
    /// Writes that may wait.
    pub queue_capacity: usize,
    /// Reading connections in use.
    pub pool_in_use: usize,
    /// Reading connections.
    pub pool_size: usize,
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Bytes free on the database's file system, where that can be told.
    pub disk_free_bytes: Option<u64>,
}

/// A request that is to be done once, however often it comes.
pub struct Once<T> {
    /// Hash of principal, route and idempotency key.
    pub key: [u8; 32],
    /// Who asks: each has room for a number of answers.
    pub principal: String,
    /// Hash of what is asked for.
    pub request: [u8; 32],
    /// The status and the body of the answer; no body where it must not be kept.
    pub answer: fn(&T) -> (u16, Option<String>),
}

impl<T> Once<T> {
    /// Bytes of an answer that is kept, at most.
    pub const MOST_BYTES: usize = 64 << 10;
}

/// What came of a request that is to be done once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done<T> {
    /// It was done now.
    New(T),
    /// It was done before; this was the answer.
    Again(Kept),
}

/// An answer that was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its status.
    pub status: u16,
    /// Its body, unless that held a secret.
    pub answer: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ledger_ids_sort_as_text_and_read_back() {
        assert_eq!(parse_ledger_id(&ledger_id(42)), Some(42));
        assert!(ledger_id(9) < ledger_id(10));
        for text in [
            "led_",
            "led_42",
            "42",
            "led_+000000000000042",
            "led_000000000000004x",
        ] {
            assert_eq!(parse_ledger_id(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_ledger_id_has_one_spelling(id in 0i64..10_000_000_000_000_000, text in "(led_)?[0-9+a ]{14,18}|\\PC{0,24}") {
            prop_assert_eq!(parse_ledger_id(&ledger_id(id)), Some(id));
            if let Some(read) = parse_ledger_id(&text) {
                prop_assert_eq!(ledger_id(read), text);
            }
        }
    }
}
