//! The interface of the storage: domain operations, each one transaction.
//!
//! The trait knows no SQL and no HTTP, so that an embedder can bring a store of their own and a test can wrap one that
//! fails. [`SqliteStore`] is the one that ships.

mod backups;
mod error;
mod holds;
mod issue;
mod lock;
mod observer;
mod records;
mod sqlite;

pub use backups::Backups;
pub use error::StoreError;
pub use holds::{Account, Hold, HoldOwner, HoldRequest, HoldTable, OperationId, Spending};
pub use issue::{issue_key, rotate_key};
pub use lock::{InstanceLock, LockError, folder_of, real_path};
pub use observer::{Change, ChangedKey, Movement, Observers, Origin, StoreObserver};
pub use records::*;
pub use sqlite::*;

use std::ops::Range;
use std::sync::Weak;

/// For an `impl Repository`, as in `examples/custom_store.rs`.
pub use async_trait::async_trait;

use crate::auth::{KeyHash, KeyRecord};
use crate::model::{ClockReading, Credits, Retention, Sample, Timestamp, Wallet};

/// The result of a method.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The storage.
///
/// A method that takes an [`Actor`] makes an administrative change, and adds its [`AuditEntry`] in the same transaction.
/// A request that is refused, that changes nothing or whose response is replayed adds none.
///
/// A method that changes something returns after its change is on the disk, and after the observers were notified of it: a
/// server caches keys and counts credits, and must be notified of every change, including those of other callers. A method
/// that fails changes nothing.
///
/// # Errors
/// Any method may fail with [`StoreError::Busy`], [`StoreError::Unavailable`], [`StoreError::Full`],
/// [`StoreError::Damaged`] or [`StoreError::Internal`]; further errors are documented there. Any method that takes an
/// optional [`IdempotentRequest`] may fail with [`StoreError::KeyReused`] or [`StoreError::IdempotencyFull`], before it
/// changes anything.
///
/// # Other stores
/// `examples/custom_store.rs` wraps [`SqliteStore`]; `tests/it/memory_store.rs` moves money without it, with a
/// [`HoldTable`]; `tests/it/contract.rs` tests the rules for all three.
///
/// A store whose data several processes change, each with a server of its own, also
/// - keeps holds as rows, as a [`HoldTable`] knows those of one process only: [`hold`](Self::hold) locks the row of the
///   balance (or of the spending), and inserts a hold if the balance less the sum of its holds covers it;
///   [`charge`](Self::charge) deletes it in the transaction that writes the entry; its [`HoldOwner`] queues the deletion of
///   one that is dropped. Each names its process, whose holds are deleted when it is known to have ended.
/// - gives ledger entries ids that rise in the order of the commits in which they become visible, so that a reader who goes on
///   after an id misses none.
/// - notifies the observers of each process of the commits of all others, with [`Origin::Elsewhere`], as soon as reads there
///   find them, in the order of the commits: until then a revoked key is still accepted there. Where notifications may have
///   been lost (a connection that broke), it notifies of [`Change::All`].
/// - is the leader in one process ([`is_leader`](Self::is_leader)).
/// - decides in the database whether an idempotency key was used: a server knows only the requests that run in it.
///
/// ```
/// use r3mes_edge::model::{Credits, HashrateUnit, Sample, Wallet};
/// use r3mes_edge::store::{Actor, Charge, HoldRequest, OperationId, StoreError};
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
/// store.record_samples(vec![sample], 1000, now).await?;
/// let miner = store.miner(wallet, now).await?;
/// assert_eq!(miner.hashrate, Some(42.5));
///
/// // Money: granted, held for a request, charged when it ends.
/// let (five, seven) = (Credits::parse("5")?, Credits::parse("7")?);
/// store.grant(wallet, five, "welcome".to_owned(), None, Actor::local(now), None).await?;
/// let request = |amount| HoldRequest { operation: OperationId::new(), wallet, amount, limit: None };
/// let hold = store.hold(request(five)).await?;
/// let too_much = store.hold(request(seven)).await.unwrap_err();
/// assert_eq!(too_much, StoreError::Insufficient { needed: seven, balance: Credits::ZERO });
/// let charge = Charge {
///     amount: Credits::parse("0.25")?,
///     key_id: None,
///     adapter: "general".to_owned(),
///     tokens: None,
///     estimated: None,
///     answer: None,
/// };
/// assert!(store.charge(hold, charge, now).await.is_ok());
/// assert_eq!(store.user(wallet).await?.credits, Credits::parse("4.75")?);
/// assert!(store.verify_ledger(true).await?.mistakes.is_empty());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Repository: Send + Sync + 'static {
    /// Creates an account with 0 credits.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it exists.
    async fn create_user(
        &self,
        wallet: Wallet,
        actor: Actor,
        request: Option<IdempotentRequest<User>>,
    ) -> Result<Outcome<User>>;
    /// The account of `wallet`.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn user(&self, wallet: Wallet) -> Result<User>;
    /// What the wallet may spend now: its balance less what is held. A store without holds of its own has it all.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn available(&self, wallet: Wallet) -> Result<Credits> {
        Ok(self.user(wallet).await?.credits)
    }
    /// A page of the accounts. Where balances or uses change meanwhile, an account may be on two pages or on none.
    async fn users(&self, query: UserQuery) -> Result<Vec<ListedUser>>;
    /// Blocks an account, or unblocks it; returns it. Idempotent. A server refuses logins and payments of a blocked one; a
    /// charge of what is held already is written.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn set_blocked(&self, wallet: Wallet, blocked: bool, actor: Actor) -> Result<User>;
    /// Adds credits, or debits them if negative; creates the account if missing. `reference` names what it belongs to elsewhere,
    /// an invoice, say. Returns the ledger entry, with the new balance, and whether the account is new.
    ///
    /// # Errors
    /// [`StoreError::Insufficient`] if the balance would be negative, [`StoreError::UserNotFound`] for a debit without an
    /// account, [`StoreError::Conflict`] if the balance would be too large.
    async fn grant(
        &self,
        wallet: Wallet,
        amount: Credits,
        reason: String,
        reference: Option<String>,
        actor: Actor,
        request: Option<IdempotentRequest<(LedgerEntry, bool)>>,
    ) -> Result<Outcome<(LedgerEntry, bool)>>;
    /// The entries of `wallet` older than the entry `before`, newest first, and its balance.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn ledger(
        &self,
        wallet: Wallet,
        before: Option<i64>,
        limit: usize,
    ) -> Result<(Credits, Vec<LedgerEntry>)>;

    /// The entries of `wallet` (of all where `None`) after the entry `after`, oldest first; `None` starts at the first.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn export_ledger(
        &self,
        wallet: Option<Wallet>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<ExportedEntry>>;

    /// Promises an amount to a request: what is available to others is less by it until the hold ends. It may wait for
    /// charges that are being written, whose end may make the amount available.
    ///
    /// # Errors
    /// [`StoreError::Insufficient`] where less is available, [`StoreError::LimitReached`] where the limit of the key leaves
    /// less, [`StoreError::UserNotFound`].
    async fn hold(&self, request: HoldRequest) -> Result<Hold>;
    /// What the keys of these limits spent in these periods, in the same order; what is held is not in it.
    async fn spent(&self, of: Vec<Spending>) -> Result<Vec<Credits>>;
    /// Ends a hold with a charge: one ledger entry with its usage, the spending of the key and the answer, if one is to be
    /// stored, in one transaction. Returns when the outcome is final. Dropped after it was called, it goes on.
    ///
    /// # Errors
    /// [`NotWritten`] where nothing was changed; the hold goes on.
    async fn charge(
        &self,
        hold: Hold,
        charge: Charge,
        now: Timestamp,
    ) -> Result<Charged, NotWritten>;
    /// Ends a hold without a charge, as dropping it does.
    async fn release(&self, hold: Hold) {
        drop(hold);
    }
    /// Reverses a charge whose answer could not be given, and forgets the answer that is stored for this idempotency key.
    async fn refund(
        &self,
        charged: Charged,
        answer: Option<[u8; 32]>,
        now: Timestamp,
    ) -> Result<()>;
    /// Counts a request that is not paid in the usage of its key.
    async fn count_lost(&self, lost: LostRequest, now: Timestamp) -> Result<()>;
    /// What was used in a period, from the sums that each charge updates: the first groups, in the order of what they have in
    /// common.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn usage(&self, query: UsageQuery) -> Result<Vec<Usage>>;
    /// The response that is stored for this idempotency key, if any.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`] if it belongs to another request.
    async fn stored_response(
        &self,
        key: [u8; 32],
        request: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<StoredResponse>>;
    /// Whether another answer can be stored in a scope, where `running` requests, this one among them, are going to store
    /// theirs by [`Repository::charge`], which refuses none.
    ///
    /// # Errors
    /// [`StoreError::IdempotencyFull`].
    async fn check_idempotency_rows(
        &self,
        scope: String,
        running: usize,
        now: Timestamp,
    ) -> Result<()>;
    /// Checks that every balance is the one before it plus the amount, and the newest is the wallet's: the entries since the
    /// last check that found no error, or, if `full`, all of them, with what was charged and earned.
    async fn verify_ledger(&self, full: bool) -> Result<LedgerReport>;

    /// Stores a new key; creates its wallet's account if missing. At most `max_active` keys of a wallet may be active.
    /// Returns whether the account is new. The key itself is never stored, so a repeated idempotency key gives
    /// [`StoreError::AlreadyIssued`]. What becomes of a wallet login's key has no audit entry.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the wallet has `max_active` keys; [`StoreError::AlreadyIssued`].
    async fn create_key(
        &self,
        key: KeyRecord,
        max_active: usize,
        actor: Actor,
        request: Option<IdempotentRequest<KeyRecord>>,
    ) -> Result<bool>;
    /// The key with this hash, active or not.
    async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>>;
    /// The imported key of which only this SHA-256 is known; from now on `hash` is stored instead, and `start`.
    async fn adopt_key(
        &self,
        sha256: KeyHash,
        hash: KeyHash,
        start: String,
    ) -> Result<Option<KeyRecord>>;
    /// The keys of `wallet` (all where `None`) older than the key `before`, newest first.
    async fn keys(
        &self,
        wallet: Option<Wallet>,
        before: Option<String>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>>;
    /// Revokes a key, only if it belongs to `wallet` if given; returns it. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::KeyNotFound`].
    async fn revoke_key(
        &self,
        id: String,
        wallet: Option<Wallet>,
        actor: Actor,
    ) -> Result<KeyRecord>;
    /// The key with this id, active or not.
    async fn key(&self, id: String) -> Result<Option<KeyRecord>>;
    /// Replaces the active key `id`, which expires at `until`, with `new`; returns the updated old key. While both are
    /// active, a wallet may have up to twice `max_active` keys.
    ///
    /// # Errors
    /// [`StoreError::KeyNotFound`]; [`StoreError::Conflict`] if it is not active, or the wallet has too many keys.
    async fn rotate_key(
        &self,
        id: String,
        new: KeyRecord,
        until: Timestamp,
        max_active: usize,
        actor: Actor,
    ) -> Result<KeyRecord>;
    /// Adds an administrative change that the storage has no part in to the audit trail, after it happened.
    async fn record_action(&self, action: &'static str, target: String, actor: Actor)
    -> Result<()>;
    /// The audit entries older than the entry `before`, newest first.
    async fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>>;
    /// Deletes expired keys of wallet logins, other keys of wallets that ended more than 30 days ago, and expired idempotent
    /// responses; returns how many. A store of files also deletes those that it replaced more than 30 days ago. The server
    /// calls it, and [`compact`](Self::compact), only while it is sure of the time.
    async fn purge(&self, now: Timestamp) -> Result<usize>;
    /// Rolls up samples, deletes expired rows and audit entries older than two years, returns free pages. In short steps, so
    /// that other writes do not wait.
    async fn compact(&self, retention: Retention, now: Timestamp) -> Result<()>;
    /// Notes when keys were last used.
    async fn touch_keys(&self, touched: Vec<(String, Timestamp)>) -> Result<()>;

    /// Stores samples, all or none; creates missing accounts. A wallet may have `max_workers` different workers.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for one more.
    async fn record_samples(
        &self,
        samples: Vec<Sample>,
        max_workers: usize,
        now: Timestamp,
    ) -> Result<Recorded>;
    /// Stores an earning and grants its credits, once for its `source_id`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if its `source_id` was recorded for another wallet or amount.
    async fn record_earning(
        &self,
        earning: Earning,
        actor: Actor,
        request: Option<IdempotentRequest<Counted>>,
    ) -> Result<Outcome<Counted>>;
    /// The state of the miners of `wallet`. Samples of a time after [`latest_sample`]`(now)` do not count.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn miner(&self, wallet: Wallet, now: Timestamp) -> Result<MinerStats>;
    /// The newest sample of each worker of `wallet` that has one of the last 24 hours, newest first. Samples of a time after
    /// [`latest_sample`]`(now)` do not count.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn workers(
        &self,
        wallet: Wallet,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<WorkerStats>>;
    /// The wallets with the newest samples, newest first. Samples of a time after [`latest_sample`]`(now)` do not count.
    async fn recent_miners(&self, _now: Timestamp, _limit: usize) -> Result<Vec<Wallet>> {
        Ok(Vec::new())
    }
    /// The days with earnings in a period, oldest first.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`].
    async fn earnings(&self, wallet: Wallet, period: Range<Timestamp>) -> Result<Vec<EarningsDay>>;
    /// The hashrate in a period, oldest first.
    ///
    /// # Errors
    /// [`StoreError::UserNotFound`]; [`StoreError::TooMuch`] for more than `limit` points.
    async fn hashrate(
        &self,
        wallet: Wallet,
        period: Range<Timestamp>,
        resolution: Resolution,
        limit: usize,
    ) -> Result<Vec<HashratePoint>>;
    /// Shares that the pool accepted from the wallet's miners in a period, from the miners' counters; `None` where no miner
    /// reported them in two samples. A counter that restarted counts from 0.
    async fn shares(&self, wallet: Wallet, period: Range<Timestamp>) -> Result<Option<Shares>>;
    /// The top earners since a time, or of all time. Samples and earnings of a time after [`latest_sample`]`(now)` do not
    /// count.
    async fn leaderboard(
        &self,
        since: Option<Timestamp>,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<RankedMiner>>;
    /// Figures over all wallets.
    async fn totals(&self, now: Timestamp) -> Result<Totals>;

    /// What [`record_clock`](Self::record_clock) stored last.
    async fn last_clock(&self) -> Result<Option<ClockReading>>;
    /// Stores the clock, every five minutes, so that the next start can tell a clock that is wrong.
    async fn record_clock(&self, reading: ClockReading) -> Result<()>;

    /// The backups that this store makes. `None` if it makes none: `POST /admin/backup` is then 501 `not_supported`, a
    /// schedule in `[backup]` has no effect, and backups have neither metrics nor an alert.
    fn backups(&self) -> Option<&dyn Backups>;
    /// Whether this process does what only one of several should: it compacts, purges, makes the scheduled backups and
    /// verifies the ledger every hour. Asked each time such work is due; reads memory only.
    fn is_leader(&self) -> bool {
        true
    }
    /// Notifies `observer` of everything from now on, until it is dropped.
    fn observe(&self, observer: Weak<dyn StoreObserver>);
    /// The current load of the storage.
    fn gauges(&self) -> StoreGauges;
    /// Whether it accepts writes; reads memory only.
    fn is_ready(&self) -> bool;
    /// Completes queued writes and closes cleanly; later calls fail. Blocks until done.
    fn close(&self);
}
