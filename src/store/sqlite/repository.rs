//! Implements [`Repository`]: each method is one read or one write.

use std::ops::Range;
use std::path::Path;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::read_pool::ReadPool;
use super::verify::{self, LedgerVerifier, Scope};
use super::writer::{Writer, Written};
use super::{
    SqliteStore, accounts, audit, backup, clock, disk_free, idempotency, keys, rollup, telemetry,
    usage, users,
};
use crate::auth::{KeyHash, KeyRecord};
use crate::model::{ClockReading, Credits, Retention, Sample, Timestamp, Wallet};
use crate::store::lock::with_suffix;
use crate::store::*;

/// Writes the rows `verb(arguments) -> result { body }` out as the async functions of the trait.
macro_rules! repository {
    ($self:ident, $($verb:ident($($argument:ident: $type:ty),*) -> $result:ty { $($body:tt)* })*) => {
        #[async_trait]
        impl Repository for SqliteStore {
            $(async fn $verb(&$self, $($argument: $type),*) -> Result<$result> { $($body)* })*

            async fn charge(&$self, hold: Hold, charge: Charge, now: Timestamp) -> Result<Charged, NotWritten> {
                $self.charge_held(hold, charge, now).await
            }

            fn backups(&self) -> Option<&dyn Backups> {
                Some(self)
            }

            fn observe(&self, observer: Weak<dyn StoreObserver>) {
                self.observers.add(observer);
            }

            fn gauges(&self) -> StoreGauges {
                let size = |path: &Path| Some(std::fs::metadata(path).ok()?.len());
                let (holds, held) = self.holds.held();
                StoreGauges {
                    holds,
                    held,
                    queue_depth: self.writer.depth(),
                    queue_capacity: Writer::CAPACITY,
                    pool_in_use: self.read_pool.in_use(),
                    pool_size: ReadPool::SIZE,
                    file_bytes: size(&self.path),
                    wal_bytes: size(&with_suffix(&self.path, "-wal")),
                    disk_free_bytes: disk_free(&self.path),
                    file_fault: self.file_fault(),
                }
            }

            fn is_ready(&self) -> bool {
                self.writer.is_ready() && self.file_fault().is_none()
            }

            fn close(&self) {
                // The readers first: SQLite removes the -wal and -shm files when its last connection closes cleanly.
                self.read_pool.close();
                self.writer.close();
                // A running read holds the lock until its end.
                if let Some(lock) = self.lock().take() {
                    let _ = lock.announce("");
                }
            }
        }
    };
}

repository! { self,
    create_user(wallet: Wallet, actor: Actor, request: Option<IdempotentRequest<User>>) -> Outcome<User> {
        let create = move |c: &Connection| idempotency::run(c, request, actor.at, || accounts::create(c, &wallet, &actor));
        self.change(create, |done| done.as_new().map(|_| Change::Account)).await
    }
    user(wallet: Wallet) -> User {
        self.get(|c| users::user(c, &wallet)).await
    }
    available(wallet: Wallet) -> Credits {
        let balance = self.get(|c| accounts::balance(c, &wallet)).await?;
        Ok(self.holds.available(&wallet).map_or(balance, |available| available.min(balance)))
    }
    users(query: UserQuery) -> Vec<ListedUser> {
        self.read(move |c| users::users(c, &query)).await
    }
    set_blocked(wallet: Wallet, blocked: bool, actor: Actor) -> User {
        let set = move |c: &Connection| users::set_blocked(c, &wallet, blocked, &actor);
        self.change(set, |user| Some(Change::Blocked(user.wallet_address))).await
    }
    grant(wallet: Wallet, amount: Credits, reason: String, reference: Option<String>, actor: Actor, request: Option<IdempotentRequest<(LedgerEntry, bool)>>)
        -> Outcome<(LedgerEntry, bool)> {
        let (operation, now) = (OperationId::new(), actor.at);
        let mut hold = None;
        if amount < Credits::ZERO {
            let asked = request.as_ref().map(|request| (request.key, request.request));
            // What was done before needs no credits now.
            if let Some((key, request)) = asked
                && let Some(stored) = self.stored_response(key, request, now).await?
            {
                return Ok(Outcome::Replayed(stored));
            }
            let debit = HoldRequest { operation, wallet, amount: amount.negated(), limit: None };
            let held = self.hold(debit).await;
            if let (Err(StoreError::Insufficient { .. }), Some((key, request))) = (&held, asked) {
                // The same request may be taking them: asked of the writer, behind what it has in its queue.
                let find = move |c: &Connection| idempotency::find(c, &key, &request, now);
                if let Some(stored) = self.write(find).await? {
                    return Ok(Outcome::Replayed(stored));
                }
            }
            hold = Some(held?);
        }
        let grant = move |c: &Connection| {
            let movement = || accounts::Movement { operation, reference, ..accounts::Movement::new(amount, &reason) };
            let effect = || {
                let action = if amount < Credits::ZERO { "credits.take" } else { "credits.grant" };
                let granted = accounts::grant(c, &wallet, movement(), now)?;
                audit::record(c, &actor, action, wallet.as_str(), Some(amount), Some(&reason))?;
                Ok(granted)
            };
            let done = idempotency::run(c, request, now, effect)?;
            let written = done.as_new().map(|(entry, _)| Written {
                change: Some(Change::Granted(entry.amount)),
                values: vec![(Account::Wallet(wallet), entry.balance)],
                entry: Some((entry.id, operation)),
            });
            Ok((done, written.unwrap_or_default()))
        };
        self.writer.charge(hold, 3, grant).await.map_err(|refused| refused.0)
    }
    ledger(wallet: Wallet, before: Option<i64>, limit: usize) -> (Credits, Vec<LedgerEntry>) {
        self.read(move |c| accounts::ledger(c, &wallet, before, limit)).await
    }
    export_ledger(wallet: Option<Wallet>, after: Option<i64>, limit: usize) -> Vec<ExportedEntry> {
        self.read(move |c| accounts::export(c, wallet.as_ref(), after, limit)).await
    }
    hold(request: HoldRequest) -> Hold {
        self.holds.hold(request, async |account| self.get(|c| accounts::value_of(c, &account)).await).await
    }
    spent(of: Vec<Spending>) -> Vec<Credits> {
        self.read(move |c| of.iter().map(|of| usage::spent(c, of)).collect::<rusqlite::Result<_>>()).await
    }
    refund(charged: Charged, answer: Option<[u8; 32]>, now: Timestamp) -> () {
        let refund = move |c: &Connection| {
            let (entry, values) = accounts::refund(c, &charged, answer, now)?;
            let entry = entry.map(|entry| (entry, charged.request.operation));
            Ok(((), Written { change: None, values, entry }))
        };
        self.writer.write(2, refund).await
    }
    count_lost(lost: LostRequest, now: Timestamp) -> () {
        self.write(move |c| accounts::count_lost(c, &lost, now)).await
    }
    usage(query: UsageQuery) -> Vec<Usage> {
        self.read(move |c| accounts::usage(c, &query)).await
    }
    stored_response(key: [u8; 32], request: [u8; 32], now: Timestamp) -> Option<StoredResponse> {
        self.read(move |c| idempotency::find(c, &key, &request, now)).await
    }
    check_idempotency_rows(scope: String, running: usize, now: Timestamp) -> () {
        self.write(move |c| idempotency::check_rows(c, &scope, running, now)).await
    }
    verify_ledger(full: bool) -> LedgerReport {
        // One read per step: the log cannot be truncated during a read.
        let scope = if full { Scope::Full } else { Scope::New };
        let (mut verifier, mut done) = (LedgerVerifier::new(scope), false);
        while !done {
            let step = move |c: &Connection| verifier.step(c).map(|done| (verifier, done));
            (verifier, done) = self.read(step).await?;
        }
        if let Some(entry) = verifier.verified() {
            // Where nothing can be written, the next check begins at the same entry.
            let _ = self.write(move |c| verify::remember(c, entry)).await;
        }
        Ok(verifier.report)
    }
    create_key(key: KeyRecord, max_active: usize, actor: Actor, request: Option<IdempotentRequest<KeyRecord>>) -> bool {
        let create = move |c: &Connection| {
            let mut new_account = false;
            let effect = || {
                new_account = keys::create(c, &key, max_active, &actor)?;
                Ok(key)
            };
            match idempotency::run(c, request, actor.at, effect)? {
                Outcome::New(_) => Ok(new_account),
                Outcome::Replayed(stored) => Err(StoreError::AlreadyIssued(stored.reference)),
            }
        };
        self.change(create, |new_account| new_account.then_some(Change::Account)).await
    }
    key_by_hash(hash: KeyHash) -> Option<KeyRecord> {
        self.get(|c| keys::by_hash(c, &hash)).await
    }
    adopt_key(sha256: KeyHash, hash: KeyHash, start: String) -> Option<KeyRecord> {
        if self.key_by_hash(sha256).await?.is_none() {
            // An invalid key must not cost a write; or another first use was faster.
            return self.key_by_hash(hash).await;
        }
        self.write(move |c| keys::adopt(c, &sha256, &hash, &start)).await
    }
    keys(wallet: Option<Wallet>, before: Option<String>, limit: usize) -> Vec<KeyRecord> {
        self.read(move |c| keys::list(c, wallet.as_ref(), before.as_deref(), limit)).await
    }
    revoke_key(id: String, wallet: Option<Wallet>, actor: Actor) -> KeyRecord {
        let revoke = move |c: &Connection| keys::revoke(c, &id, wallet.as_ref(), &actor);
        self.change(revoke, |key| Some(Change::Key(key.hash))).await
    }
    key(id: String) -> Option<KeyRecord> {
        self.get(|c| keys::by_id(c, &id)).await
    }
    rotate_key(id: String, new: KeyRecord, until: Timestamp, max_active: usize, actor: Actor) -> KeyRecord {
        let rotate = move |c: &Connection| keys::rotate(c, &id, &new, until, max_active, &actor);
        self.change(rotate, |key| Some(Change::Key(key.hash))).await
    }
    record_action(action: &'static str, target: String, actor: Actor) -> () {
        self.write(move |c| audit::record(c, &actor, action, &target, None, None)).await
    }
    audit(before: Option<i64>, limit: usize) -> Vec<AuditEntry> {
        self.read(move |c| audit::list(c, before, limit)).await
    }
    purge(now: Timestamp) -> usize {
        let path = self.path.clone();
        let deleted = tokio::task::spawn_blocking(move || backup::delete_replaced(&path, now)).await;
        if let Ok(Err(error)) = deleted {
            log::warn!("files that were replaced long ago were not deleted: {error}");
        }
        in_steps(|| self.write(move |c| idempotency::shorten(c, now))).await?;
        let keys = in_steps(|| self.write(move |c| keys::purge(c, now))).await?;
        Ok(keys + in_steps(|| self.write(move |c| idempotency::purge(c, now))).await?)
    }
    compact(retention: Retention, now: Timestamp) -> () {
        // A minute is complete when the sample after it would have arrived.
        let until = rollup::start(now.millis() - rollup::MINUTE, rollup::MINUTE);
        while self.write(move |c| rollup::roll_up(c, until)).await? {}
        let last = self.expired_at.load(Ordering::Relaxed);
        if (last..last.saturating_add(rollup::HOUR)).contains(&now.millis()) {
            return Ok(());
        }
        let cutoffs = rollup::cutoffs(&retention, now);
        let mut next = Some(0);
        while let Some(worker) = next {
            next = self.write(move |c| rollup::delete_expired(c, worker, cutoffs)).await?;
        }
        in_steps(|| self.write(move |c| audit::delete_expired(c, now))).await?;
        while self.write(rollup::vacuum_step).await? {}
        self.expired_at.store(now.millis(), Ordering::Relaxed);
        Ok(())
    }
    touch_keys(touched: Vec<(String, Timestamp)>) -> () {
        self.write(move |c| keys::touch(c, &touched)).await
    }
    record_samples(samples: Vec<Sample>, max_workers: usize, now: Timestamp) -> Recorded {
        let rows = samples.len();
        let record = move |c: &Connection| {
            let done = telemetry::record(c, &samples, max_workers, now)?;
            let Recorded { new, first } = done;
            Ok((done, Written { change: Some(Change::Samples { new, first }), ..Written::default() }))
        };
        self.writer.write(rows, record).await
    }
    record_earning(earning: Earning, actor: Actor, request: Option<IdempotentRequest<Counted>>) -> Outcome<Counted> {
        let operation = OperationId::new();
        let record = move |c: &Connection| {
            let mut balance = None;
            let effect = || {
                let (counted, after) = telemetry::record_earning(c, &earning, operation, &actor)?;
                balance = after;
                Ok(counted)
            };
            let done = idempotency::run(c, request, actor.at, effect)?;
            let new = done.as_new().filter(|earning| earning.counted);
            let written = Written {
                change: new.map(|earning| Change::Earned(earning.earnings)),
                values: balance.map(|balance| (Account::Wallet(earning.wallet), balance)).into_iter().collect(),
                entry: new.and_then(|earning| earning.entry).map(|entry| (entry, operation)),
            };
            Ok((done, written))
        };
        self.writer.write(5, record).await
    }
    miner(wallet: Wallet, now: Timestamp) -> MinerStats {
        self.get(|c| telemetry::miner(c, &wallet, now)).await
    }
    workers(wallet: Wallet, now: Timestamp, limit: usize) -> Vec<WorkerStats> {
        self.read(move |c| telemetry::workers(c, &wallet, now, limit)).await
    }
    recent_miners(now: Timestamp, limit: usize) -> Vec<Wallet> {
        self.read(move |c| telemetry::recent_miners(c, now, limit)).await
    }
    earnings(wallet: Wallet, period: Range<Timestamp>) -> Vec<EarningsDay> {
        self.read(move |c| telemetry::earnings(c, &wallet, period)).await
    }
    hashrate(wallet: Wallet, period: Range<Timestamp>, resolution: Resolution, limit: usize) -> Vec<HashratePoint> {
        self.read(move |c| rollup::read(c, &wallet, period, resolution, limit)).await
    }
    shares(wallet: Wallet, period: Range<Timestamp>) -> Option<Shares> {
        self.read(move |c| telemetry::shares(c, &wallet, period)).await
    }
    leaderboard(since: Option<Timestamp>, now: Timestamp, limit: usize) -> Vec<RankedMiner> {
        self.read(move |c| telemetry::leaderboard(c, since, now, limit)).await
    }
    totals(now: Timestamp) -> Totals {
        self.read(move |c| telemetry::totals(c, now)).await
    }
    last_clock() -> Option<ClockReading> {
        self.get(clock::last).await
    }
    record_clock(reading: ClockReading) -> () {
        self.write(move |c| clock::record(c, &reading)).await
    }
}

impl SqliteStore {
    async fn charge_held(
        &self,
        hold: Hold,
        charge: Charge,
        now: Timestamp,
    ) -> Result<Charged, NotWritten> {
        let request = *hold.request();
        let work = move |c: &Connection| {
            let (charged, values) = accounts::charge(c, &request, charge, now)?;
            let entry = charged.entry.map(|entry| (entry, request.operation));
            Ok((
                charged,
                Written {
                    change: None,
                    values,
                    entry,
                },
            ))
        };
        let charged = self.writer.charge(Some(hold), 4, work).await;
        charged.map_err(|refused| {
            let (error, hold) = *refused;
            NotWritten { hold, error }
        })
    }

    fn file_fault(&self) -> Option<&'static str> {
        self.lock().as_ref()?.fault()
    }
}

/// Repeats a step until it changes nothing, so that no request waits for thousands of rows; returns the total.
async fn in_steps<F: Future<Output = Result<usize>>>(step: impl Fn() -> F) -> Result<usize> {
    let mut total = 0;
    loop {
        match step().await? {
            0 => return Ok(total),
            some => total += some,
        }
    }
}
