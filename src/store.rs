//! What the rest of the program may ask of the storage: domain verbs, one verb one transaction.
//!
//! The trait knows no SQL and no HTTP, so that an embedder can bring a store of their own and a test can wrap one that
//! fails. [`SqliteStore`] is the one that ships.

mod lock;
mod sqlite;

pub use lock::{InstanceLock, LockError};
pub use sqlite::{OpenError, SqliteStore};

use std::time::Duration;

use async_trait::async_trait;

use crate::auth::{KeyHash, KeyRecord};
use crate::model::{Credits, HashrateUnit, Sample, Timestamp, Wallet};

/// Why a verb did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// No account has this wallet.
    UserNotFound,
    /// No key has this id, or it belongs to another wallet.
    KeyNotFound,
    /// What is there already does not allow it; the sentence is fit for the client.
    Conflict(String),
    /// The balance would go below zero.
    Insufficient {
        /// What was asked for.
        needed: Credits,
        /// What there is.
        balance: Credits,
    },
    /// More is queued than the storage takes on; nothing was done.
    Busy,
    /// The storage could not be used: disk full, I/O error, locked by a stranger, closed. For the log only.
    Unavailable(String),
    /// A mistake of ours. For the log only.
    Internal(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UserNotFound => f.write_str("no account has this wallet address"),
            Self::KeyNotFound => f.write_str("no key has this id"),
            Self::Conflict(what) => f.write_str(what),
            Self::Insufficient { needed, balance } => {
                write!(f, "{needed} credits are needed, the wallet has {balance}")
            }
            Self::Busy => f.write_str("the write queue is full"),
            Self::Unavailable(what) => write!(f, "the storage cannot be used: {what}"),
            Self::Internal(what) => write!(f, "internal: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

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
    /// When.
    pub created_at: Timestamp,
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
}

/// Told of what the storage does, as it does it; must return at once.
pub trait StoreObserver: Send + Sync {
    /// A group of `jobs` was committed (or failed to) in `took`.
    fn committed(&self, jobs: usize, took: Duration, ok: bool);
    /// A read took `took`, waiting for a connection included.
    fn read(&self, took: Duration);
}

/// The storage.
///
/// A verb that changes something returns after its change is on the disk. Verbs that fail leave everything as it was.
#[async_trait]
pub trait Repository: Send + Sync + 'static {
    /// Makes an account with 0 credits.
    async fn create_user(&self, wallet: Wallet, now: Timestamp) -> Result<User, StoreError>;
    /// The account of `wallet`, if there is one.
    async fn user(&self, wallet: Wallet) -> Result<Option<User>, StoreError>;
    /// Adds (or, negative, takes) credits; the account is made if there is none. Returns the entry, its balance in it,
    /// and whether the account is new.
    async fn grant(
        &self,
        wallet: Wallet,
        amount: Credits,
        reason: String,
        now: Timestamp,
    ) -> Result<(LedgerEntry, bool), StoreError>;
    /// The entries of `wallet` older than the entry `before`, newest first; `None` where there is no account.
    async fn ledger(
        &self,
        wallet: Wallet,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Option<(Credits, Vec<LedgerEntry>)>, StoreError>;

    /// Takes `price` for a chat, to be settled or refunded; returns the reservation.
    async fn reserve(
        &self,
        wallet: Wallet,
        price: Credits,
        now: Timestamp,
    ) -> Result<i64, StoreError>;
    /// Closes a reservation: the credits are spent. Closing it the same way again changes nothing.
    async fn settle(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError>;
    /// Closes a reservation: the credits go back. Closing it the same way again changes nothing.
    async fn refund(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError>;
    /// Refunds what a crash left open; returns how many. Only for the start, before any request.
    async fn refund_open(&self, now: Timestamp) -> Result<usize, StoreError>;
    /// Checks every wallet: balance = sum of its entries, every reservation with at most one end.
    async fn verify_ledger(&self) -> Result<LedgerReport, StoreError>;

    /// Keeps a new key; its wallet's account is made if there is none. At most `max_active` keys of a wallet may be
    /// active. Returns whether the account is new.
    async fn create_key(&self, key: KeyRecord, max_active: usize) -> Result<bool, StoreError>;
    /// The key with this hash, active or not.
    async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>, StoreError>;
    /// The keys of `wallet` (of everybody where `None`) older than the key `before`, newest first.
    async fn keys(
        &self,
        wallet: Option<Wallet>,
        before: Option<String>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;
    /// Revokes a key, of `wallet` only where given; returns it. Again changes nothing.
    async fn revoke_key(
        &self,
        id: String,
        wallet: Option<Wallet>,
        now: Timestamp,
    ) -> Result<KeyRecord, StoreError>;
    /// The key with this id, active or not.
    async fn key(&self, id: String) -> Result<Option<KeyRecord>, StoreError>;
    /// Keeps `new` in the place of the active key `id`, which is refused from `until` on; returns the old key as it is then.
    async fn rotate_key(
        &self,
        id: String,
        new: KeyRecord,
        until: Timestamp,
    ) -> Result<KeyRecord, StoreError>;
    /// Deletes the keys of wallet logins that have run out; returns how many.
    async fn purge_logins(&self, now: Timestamp) -> Result<usize, StoreError>;
    /// Notes when keys were last used.
    async fn touch_keys(&self, touched: Vec<(String, Timestamp)>) -> Result<(), StoreError>;

    /// Stores samples, all or none; accounts are made where there are none.
    async fn record_samples(
        &self,
        samples: Vec<Sample>,
        now: Timestamp,
    ) -> Result<Recorded, StoreError>;
    /// Stores an earning and grants its credits; `false` where its `source_id` was counted before.
    async fn record_earning(&self, earning: Earning, now: Timestamp) -> Result<bool, StoreError>;
    /// What is known of the miners of `wallet`; `None` where there is no account.
    async fn miner(
        &self,
        wallet: Wallet,
        active_since: Timestamp,
    ) -> Result<Option<MinerStats>, StoreError>;
    /// The days from `since` on, oldest first, `offset` skipped, at most `limit`; `None` where there is no account.
    async fn earnings(
        &self,
        wallet: Wallet,
        since: Timestamp,
        offset: usize,
        limit: usize,
    ) -> Result<Option<Vec<EarningsDay>>, StoreError>;
    /// The hashrate from `since` on, oldest first, at most `limit` points; `None` where there is no account.
    async fn hashrate(
        &self,
        wallet: Wallet,
        since: Timestamp,
        resolution: Resolution,
        limit: usize,
    ) -> Result<Option<Vec<HashratePoint>>, StoreError>;
    /// Who earned most since a moment, or of all time.
    async fn leaderboard(
        &self,
        since: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<LeaderboardRow>, StoreError>;
    /// Figures over all wallets.
    async fn totals(&self, active_since: Timestamp) -> Result<Totals, StoreError>;

    /// Tells `observer` of everything from now on; the first one stays.
    fn observe(&self, observer: std::sync::Arc<dyn StoreObserver>);
    /// What the storage is doing.
    fn gauges(&self) -> StoreGauges;
    /// Whether it takes writes; looks at memory only.
    fn is_ready(&self) -> bool;
    /// Finishes what is queued and closes cleanly; later verbs fail. Blocks until it is done.
    fn close(&self);
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
