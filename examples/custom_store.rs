//! A custom store: any `Repository` can back the server. This one delegates to SQLite, writes a journal of its own, and
//! grants at most 100 credits at a time.
//!
//! A store without SQLite implements the same methods. The trait documents what each must guarantee, and what a store of
//! several processes does beside; above all, money moves in one transaction with its ledger entry, holds never promise more
//! than there is (`tests/it/memory_store.rs` keeps them in a `HoldTable`), and observers are notified of a change before the
//! method returns. `tests/it/contract.rs` tests these rules, against this store too; run it against yours.
//!
//! `cargo run --example custom_store` serves until Ctrl-C over `custom_store.db` in this folder.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};

use r3mes_edge::auth::{KeyHash, KeyRecord, KeyRequest, Scopes};
use r3mes_edge::model::{ClockReading, Credits, Retention, Sample, Timestamp, Wallet};
use r3mes_edge::store::*;
use r3mes_edge::{Clock, Config, EdgeServer};

pub(crate) struct Journalled {
    pub(crate) inner: SqliteStore,
}

impl Journalled {
    const MOST_AT_ONCE: Credits = Credits::from_micro(100_000_000);

    /// Called after the method has returned, so that the journal has nothing that is not on the disk.
    fn note(&self, what: impl std::fmt::Display) {
        println!("journal: {what}");
    }
}

/// The methods that only delegate, and the three that do not.
macro_rules! handing_on {
    ($($verb:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Repository for Journalled {
            async fn grant(
                &self,
                wallet: Wallet,
                amount: Credits,
                reason: String,
                reference: Option<String>,
                actor: Actor,
                idempotency: Option<IdempotentRequest<(LedgerEntry, bool)>>,
            ) -> Result<Outcome<(LedgerEntry, bool)>, StoreError> {
                if amount > Self::MOST_AT_ONCE {
                    // A conflict is shown to the client in these words; `Unavailable` is for the log only.
                    return Err(StoreError::Conflict("at most 100 credits at once".to_owned()));
                }
                let done = self.inner.grant(wallet, amount, reason, reference, actor, idempotency).await?;
                // A replayed response moved no credits.
                if let Outcome::New((entry, _)) = &done {
                    self.note(format_args!("{wallet} {} -> {}", entry.amount, entry.balance));
                }
                Ok(done)
            }

            async fn revoke_key(
                &self,
                id: String,
                wallet: Option<Wallet>,
                actor: Actor,
            ) -> Result<KeyRecord, StoreError> {
                let key = self.inner.revoke_key(id, wallet, actor).await?;
                self.note(format_args!("{} revoked", key.id));
                Ok(key)
            }

            $(async fn $verb(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                self.inner.$verb($($argument),*).await
            })*

            // A charge that is not written gives its hold back.
            async fn charge(
                &self,
                hold: Hold,
                charge: Charge,
                now: Timestamp,
            ) -> Result<Charged, NotWritten> {
                let charged = self.inner.charge(hold, charge, now).await?;
                let wallet = charged.request.wallet;
                self.note(format_args!("{wallet} -{} charged", charged.amount));
                Ok(charged)
            }

            // Without them the server makes no backups.
            fn backups(&self) -> Option<&dyn Backups> {
                self.inner.backups()
            }

            // The inner store notifies observers, as it makes the changes.
            fn observe(&self, observer: Weak<dyn StoreObserver>) {
                self.inner.observe(observer);
            }

            fn gauges(&self) -> StoreGauges {
                self.inner.gauges()
            }

            fn is_ready(&self) -> bool {
                self.inner.is_ready()
            }

            fn close(&self) {
                self.inner.close();
            }
        }
    };
}

handing_on! {
    create_user(wallet: Wallet, actor: Actor, idempotency: Option<IdempotentRequest<User>>) -> Outcome<User>;
    user(wallet: Wallet) -> User;
    available(wallet: Wallet) -> Credits;
    users(query: UserQuery) -> Vec<ListedUser>;
    set_blocked(wallet: Wallet, blocked: bool, actor: Actor) -> User;
    ledger(wallet: Wallet, before: Option<i64>, limit: usize) -> (Credits, Vec<LedgerEntry>);
    export_ledger(wallet: Option<Wallet>, after: Option<i64>, limit: usize) -> Vec<ExportedEntry>;
    hold(request: HoldRequest) -> Hold;
    spent(of: Vec<Spending>) -> Vec<Credits>;
    refund(charged: Charged, answer: Option<[u8; 32]>, now: Timestamp) -> ();
    count_lost(lost: LostRequest, now: Timestamp) -> ();
    usage(query: UsageQuery) -> Vec<Usage>;
    stored_response(key: [u8; 32], request: [u8; 32], now: Timestamp) -> Option<StoredResponse>;
    check_idempotency_rows(scope: String, running: usize, now: Timestamp) -> ();
    verify_ledger(full: bool) -> LedgerReport;
    create_key(key: KeyRecord, max_active: usize, actor: Actor, idempotency: Option<IdempotentRequest<KeyRecord>>) -> bool;
    key_by_hash(hash: KeyHash) -> Option<KeyRecord>;
    adopt_key(sha256: KeyHash, hash: KeyHash, start: String) -> Option<KeyRecord>;
    keys(wallet: Option<Wallet>, before: Option<String>, limit: usize) -> Vec<KeyRecord>;
    key(id: String) -> Option<KeyRecord>;
    rotate_key(id: String, new: KeyRecord, until: Timestamp, max_active: usize, actor: Actor) -> KeyRecord;
    record_action(action: &'static str, target: String, actor: Actor) -> ();
    audit(before: Option<i64>, limit: usize) -> Vec<AuditEntry>;
    purge(now: Timestamp) -> usize;
    compact(retention: Retention, now: Timestamp) -> ();
    touch_keys(touched: Vec<(String, Timestamp)>) -> ();
    record_samples(samples: Vec<Sample>, max_workers: usize, now: Timestamp) -> Recorded;
    record_earning(earning: Earning, actor: Actor, idempotency: Option<IdempotentRequest<Counted>>) -> Outcome<Counted>;
    miner(wallet: Wallet, now: Timestamp) -> MinerStats;
    workers(wallet: Wallet, now: Timestamp, limit: usize) -> Vec<WorkerStats>;
    recent_miners(now: Timestamp, limit: usize) -> Vec<Wallet>;
    earnings(wallet: Wallet, period: Range<Timestamp>) -> Vec<EarningsDay>;
    hashrate(wallet: Wallet, period: Range<Timestamp>, resolution: Resolution, limit: usize) -> Vec<HashratePoint>;
    shares(wallet: Wallet, period: Range<Timestamp>) -> Option<Shares>;
    leaderboard(since: Option<Timestamp>, now: Timestamp, limit: usize) -> Vec<RankedMiner>;
    totals(now: Timestamp) -> Totals;
    last_clock() -> Option<ClockReading>;
    record_clock(reading: ClockReading) -> ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    config.listen = vec!["127.0.0.1:0".parse()?];
    let inner = SqliteStore::open(Path::new("custom_store.db"), true)?;
    let store = Arc::new(Journalled { inner });
    // An admin's key, so that credits can be granted. It is shown here and nowhere else.
    let request = KeyRequest {
        wallet: None,
        name: "example".to_owned(),
        scopes: Scopes::ADMIN,
        expires_at: None,
        login: false,
        limits: None,
    };
    let actor = Actor::local(Clock::default().now());
    let admin = issue_key(&*store, request, 1, actor, None).await?;
    let server = EdgeServer::builder(config, store).start().await?;
    println!("http://{} {}", server.local_addr(), admin.key.reveal());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
