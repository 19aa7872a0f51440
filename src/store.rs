//! What the rest of the program may ask of the storage: domain verbs, one verb one transaction.
//!
//! The trait knows no SQL and no HTTP, so that an embedder can bring a store of their own and a test can wrap one that
//! fails. [`SqliteStore`] is the one that ships.

mod error;
mod issue;
mod lock;
mod observer;
mod records;
mod sqlite;

pub use error::StoreError;
pub use issue::{issue_key, rotate_key};
pub use lock::{FileFault, InstanceLock, LockError, real_path};
pub use observer::{Change, Observers, StoreObserver};
pub use records::{
    Backup, Counted, Done, Earning, EarningsDay, ExportedEntry, Granted, HashratePoint, Kept,
    LeaderboardRow, LedgerEntry, LedgerReport, MinerStats, Once, Recorded, Resolution, StoreGauges,
    Totals, User, ledger_id, parse_ledger_id,
};
pub use sqlite::{
    Check, LedgerExport, Migrated, OpenError, SCHEMA_VERSION, SqliteReader, SqliteStore, back_up,
    backup_file, backups, check_database, glance, migrate_database, restore, sqlite_version,
    thin_out, verify_backup,
};
pub(crate) use sqlite::{ImportSource, ImportTransaction};

use std::path::PathBuf;
use std::sync::Weak;

/// What an `impl Repository` is written with, as `examples/custom_store.rs` does.
pub use async_trait::async_trait;

use crate::auth::{KeyHash, KeyRecord};
use crate::model::{Credits, Retention, Sample, Timestamp, Wallet};

/// The storage.
///
/// A verb that changes something returns after its change is on the disk, and after those who observe the storage were
/// told of it: a server keeps keys and figures, and must hear of a change whoever made it. Verbs that fail leave
/// everything as it was.
///
/// # Errors
/// Any verb may fail with [`StoreError::Busy`], [`StoreError::Unavailable`], [`StoreError::Full`],
/// [`StoreError::Damaged`] or [`StoreError::Internal`]; what else one refuses is said there. Any verb that takes an optional
/// `once` may fail with [`StoreError::KeyReused`] or [`StoreError::IdempotencyFull`], before anything is done.
///
/// # Examples
/// | verbs | example |
/// |---|---|
/// | `create_user` `user` `users` | [`User`] |
/// | `grant` `ledger` `note_reservations` | [`LedgerEntry`] |
/// | `reserve` `reserve_ahead` `settle` `refund` | below |
/// | `kept`, `check_idempotency_rows`, and what takes a `once` | [`Once`] |
/// | `create_key` `key_by_hash` `rotate_key` | [`issue_key`], [`rotate_key`](fn@rotate_key) |
/// | `key` `keys` `revoke_key` | [`KeyRecord`] |
/// | `record_samples` `miner` | [`Recorded`], [`MinerStats`] |
/// | `hashrate` `leaderboard` `totals` | [`HashratePoint`], [`LeaderboardRow`], [`Totals`] |
/// | `record_earning` `earnings` | [`Earning`] |
/// | `back_up` `last_backup` `thin_out_backups` | [`Backup`] |
/// | `compact` `purge` `shares` | there |
/// | `verify_ledger` `gauges` `observe` | [`LedgerReport`], [`StoreGauges`], [`StoreObserver`] |
///
/// An implementation around ours is `examples/custom_store.rs`; the rules of `tests/it/contract.rs` are held against both.
///
/// ```
/// use r3mes_edge::model::{Credits, HashrateUnit, Sample, Wallet};
/// use r3mes_edge::store::StoreError;
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// // Telemetry.
/// let sample = Sample::new(wallet, now, 42.5, HashrateUnit::GradientsPerHour);
/// store.record_samples(vec![sample], now).await?;
/// let miner = store.miner(wallet, now).await?.ok_or("it has told something")?;
/// assert_eq!(miner.hashrate, Some(42.5));
///
/// // Money: given, taken for a chat, given back.
/// let (five, seven) = (Credits::parse("5")?, Credits::parse("7")?);
/// store.grant(wallet, five, "welcome".to_owned(), now, None).await?;
/// let reservation = store.reserve(wallet, five, now).await?;
/// store.refund(reservation, now).await?;
/// let too_much = store.reserve(wallet, seven, now).await;
/// assert_eq!(too_much, Err(StoreError::Insufficient { needed: seven, balance: five }));
/// assert!(store.verify_ledger().await?.mistakes.is_empty());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Repository: Send + Sync + 'static {
    /// Makes an account with 0 credits.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where there is one.
    async fn create_user(
        &self,
        wallet: Wallet,
        now: Timestamp,
        once: Option<Once<User>>,
    ) -> Result<Done<User>, StoreError>;
    /// The account of `wallet`, if there is one.
    async fn user(&self, wallet: Wallet) -> Result<Option<User>, StoreError>;
    /// The accounts whose wallets come after this one, in the order of their addresses; from the first where `None`.
    async fn users(&self, after: Option<Wallet>, limit: usize) -> Result<Vec<User>, StoreError>;
    /// Adds (or, negative, takes) credits; the account is made if there is none. Returns the entry, its balance in it,
    /// and whether the account is new.
    ///
    /// # Errors
    /// [`StoreError::Insufficient`] where the balance would go below zero, [`StoreError::UserNotFound`] where there is none
    /// to take from, [`StoreError::Conflict`] where a wallet cannot hold so much.
    async fn grant(
        &self,
        wallet: Wallet,
        amount: Credits,
        reason: String,
        now: Timestamp,
        once: Option<Once<(LedgerEntry, bool)>>,
    ) -> Result<Done<(LedgerEntry, bool)>, StoreError>;
    /// The entries of `wallet` older than the entry `before`, newest first; `None` where there is no account.
    async fn ledger(
        &self,
        wallet: Wallet,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Option<(Credits, Vec<LedgerEntry>)>, StoreError>;

    /// Takes `price` for a chat, to be settled or refunded; returns the reservation.
    ///
    /// # Errors
    /// [`StoreError::Insufficient`] where the balance would go below zero, [`StoreError::UserNotFound`].
    async fn reserve(
        &self,
        wallet: Wallet,
        price: Credits,
        now: Timestamp,
    ) -> Result<i64, StoreError>;
    /// Reserves as [`Repository::reserve`] does, and calls `taken` once the balance was found to suffice, while the disk
    /// still writes: what can be taken back may begin then. It may not be called at all, and the reservation may fail
    /// afterwards.
    ///
    /// # Errors
    /// As [`Repository::reserve`].
    async fn reserve_ahead(
        &self,
        wallet: Wallet,
        price: Credits,
        now: Timestamp,
        _taken: Box<dyn FnOnce() + Send>,
    ) -> Result<i64, StoreError> {
        self.reserve(wallet, price, now).await
    }
    /// Closes a reservation: the credits are spent. Closing it the same way again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it was refunded.
    async fn settle(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError>;
    /// Closes a reservation as [`Repository::settle`] does, notes what is known of it, and stores its answer: `once` makes what
    /// is stored of the two.
    ///
    /// # Errors
    /// As [`Repository::settle`]; [`StoreError::KeyReused`].
    async fn settle_kept(
        &self,
        reservation: i64,
        answer: String,
        note: Option<String>,
        now: Timestamp,
        once: Once<(i64, String)>,
    ) -> Result<(), StoreError>;
    /// Notes what became known of reservations; their ledger entries show it.
    async fn note_reservations(&self, notes: Vec<(i64, String)>) -> Result<(), StoreError>;
    /// The answer that is kept for this idempotency key, if there is one.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`] where it answers another request.
    async fn kept(
        &self,
        key: [u8; 32],
        request: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<Kept>, StoreError>;
    /// Whether another answer can be stored in a scope, where `running` requests, this one among them, are going to store
    /// theirs by [`Repository::settle_kept`], which refuses none.
    ///
    /// # Errors
    /// [`StoreError::IdempotencyFull`].
    async fn check_idempotency_rows(
        &self,
        scope: String,
        running: usize,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Closes a reservation: the credits go back. Closing it the same way again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it was settled.
    async fn refund(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError>;
    /// Refunds what a crash left open; returns how many. Only for the start, before any request.
    async fn refund_open(&self, now: Timestamp) -> Result<usize, StoreError>;
    /// Checks every wallet: balance = sum of its entries, every reservation with at most one end.
    async fn verify_ledger(&self) -> Result<LedgerReport, StoreError>;

    /// Keeps a new key; its wallet's account is made if there is none. At most `max_active` keys of a wallet may be
    /// active. Returns whether the account is new. The key itself is never kept, so asked for again with the same
    /// idempotency key it is [`StoreError::AlreadyIssued`].
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the wallet has `max_active` already; [`StoreError::AlreadyIssued`].
    async fn create_key(
        &self,
        key: KeyRecord,
        max_active: usize,
        once: Option<Once<KeyRecord>>,
    ) -> Result<bool, StoreError>;
    /// The key with this hash, active or not.
    async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>, StoreError>;
    /// The imported key of which only this SHA-256 is known; from now on `hash` is kept in its place, and `start`.
    async fn adopt_key(
        &self,
        sha256: KeyHash,
        hash: KeyHash,
        start: String,
    ) -> Result<Option<KeyRecord>, StoreError>;
    /// Whether keys were ever imported; looks at memory only.
    fn has_imported_keys(&self) -> bool;
    /// The keys of `wallet` (of everybody where `None`) older than the key `before`, newest first.
    async fn keys(
        &self,
        wallet: Option<Wallet>,
        before: Option<String>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;
    /// Revokes a key, of `wallet` only where given; returns it. Again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::KeyNotFound`].
    async fn revoke_key(
        &self,
        id: String,
        wallet: Option<Wallet>,
        now: Timestamp,
    ) -> Result<KeyRecord, StoreError>;
    /// The key with this id, active or not.
    async fn key(&self, id: String) -> Result<Option<KeyRecord>, StoreError>;
    /// Keeps `new` in the place of the active key `id`, which is refused from `until` on; returns the old key as it is then.
    /// Where both are active for a while, a wallet may have twice `max_active`.
    ///
    /// # Errors
    /// [`StoreError::KeyNotFound`]; [`StoreError::Conflict`] where it is not active any more, or there are so many.
    async fn rotate_key(
        &self,
        id: String,
        new: KeyRecord,
        until: Timestamp,
        max_active: usize,
    ) -> Result<KeyRecord, StoreError>;
    /// Deletes what has run out: keys of wallet logins, answers kept for idempotency keys; returns how many.
    async fn purge(&self, now: Timestamp) -> Result<usize, StoreError>;
    /// Copies everything into a new file in `folder`, or beside the original, while others write; verified before it gets
    /// its name. What was acknowledged before is in it. One at a time: a second is a [`StoreError::Conflict`].
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where one is being made; [`StoreError::Unavailable`] where it does not verify.
    async fn back_up(&self, folder: Option<PathBuf>, now: Timestamp) -> Result<Backup, StoreError>;
    /// When the newest copy there was made. One that claims to be made after `now` is not it.
    async fn last_backup(
        &self,
        folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError>;
    /// Deletes all copies there but the newest `keep`; those that claim to be made after `now` count as the oldest.
    async fn thin_out_backups(
        &self,
        folder: Option<PathBuf>,
        keep: usize,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Rolls up samples, deletes what was kept long enough, gives free room back. In steps between which others write.
    async fn compact(&self, retention: Retention, now: Timestamp) -> Result<(), StoreError>;
    /// Notes when keys were last used.
    async fn touch_keys(&self, touched: Vec<(String, Timestamp)>) -> Result<(), StoreError>;

    /// Stores samples, all or none; accounts are made where there are none.
    async fn record_samples(
        &self,
        samples: Vec<Sample>,
        now: Timestamp,
    ) -> Result<Recorded, StoreError>;
    /// Stores an earning and grants its credits, once for its `source_id`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where its `source_id` was counted for another wallet or amount.
    async fn record_earning(
        &self,
        earning: Earning,
        now: Timestamp,
        once: Option<Once<Counted>>,
    ) -> Result<Done<Counted>, StoreError>;
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
    /// The hashrate from `since` on, oldest first; `None` where there is no account. More than `limit` points are
    /// [`StoreError::TooMuch`].
    async fn hashrate(
        &self,
        wallet: Wallet,
        since: Timestamp,
        resolution: Resolution,
        limit: usize,
    ) -> Result<Option<Vec<HashratePoint>>, StoreError>;
    /// Shares that the pool took of the wallet's miners since a moment, as they count them, and when the first of those
    /// counts was told; `None` where fewer than two were. A counter that began anew counts from there.
    async fn shares(
        &self,
        wallet: Wallet,
        since: Timestamp,
    ) -> Result<Option<(i64, Timestamp)>, StoreError>;
    /// Who earned most since a moment, or of all time.
    async fn leaderboard(
        &self,
        since: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<LeaderboardRow>, StoreError>;
    /// Figures over all wallets.
    async fn totals(&self, active_since: Timestamp) -> Result<Totals, StoreError>;

    /// Tells `observer` too of everything from now on, until it is dropped.
    fn observe(&self, observer: Weak<dyn StoreObserver>);
    /// What the storage is doing.
    fn gauges(&self) -> StoreGauges;
    /// Whether it takes writes; looks at memory only.
    fn is_ready(&self) -> bool;
    /// Finishes what is queued and closes cleanly; later verbs fail. Blocks until it is done.
    fn close(&self);
}
