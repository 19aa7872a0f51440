//! A store without SQLite, for the rules of money: what a program outside the crate does with a `HoldTable`. A transaction
//! changes a copy of the state, which replaces the state when it succeeds.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};

use r3mes_edge::Repository;
use r3mes_edge::auth::{KeyHash, KeyRecord};
use r3mes_edge::model::{ClockReading, Credits, Retention, Sample, Timestamp, Tokens, Wallet};
use r3mes_edge::store::*;

#[derive(Default)]
pub(crate) struct MemoryStore(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    holds: Arc<HoldTable>,
    observers: Observers,
}

#[derive(Clone, Default)]
struct State {
    balances: HashMap<Wallet, Credits>,
    spent: HashMap<Spending, Credits>,
    entries: Vec<ExportedEntry>,
    /// By idempotency key: the request and its response.
    responses: HashMap<[u8; 32], ([u8; 32], StoredResponse)>,
    /// Balances and spending that this transaction changed.
    changed: Vec<(Account, Credits)>,
}

fn sum(left: Credits, right: Credits) -> Credits {
    Credits::from_micro(left.micro() + right.micro())
}

impl State {
    /// Moves credits with their entry.
    fn post(&mut self, wallet_address: Wallet, mut entry: LedgerEntry) -> LedgerEntry {
        let balance = self.balances.entry(wallet_address).or_default();
        *balance = sum(*balance, entry.amount);
        (entry.balance, entry.id) = (*balance, self.entries.len() as i64 + 1);
        let account = Account::Wallet(wallet_address);
        self.changed.push((account, entry.balance));
        self.entries.push(ExportedEntry {
            wallet_address,
            entry: entry.clone(),
        });
        entry
    }

    fn spend(&mut self, request: &HoldRequest, amount: Credits) {
        if let Some((spending, _)) = request.limit {
            let spent = self.spent.entry(spending).or_default();
            *spent = sum(*spent, amount);
            self.changed.push((Account::Spending(spending), *spent));
        }
    }

    fn response(&self, key: [u8; 32], request: [u8; 32]) -> Result<Option<StoredResponse>> {
        match self.responses.get(&key) {
            Some((of, _)) if *of != request => Err(StoreError::KeyReused),
            stored => Ok(stored.map(|(_, response)| response.clone())),
        }
    }
}

impl Inner {
    fn value_of(&self, account: Account) -> Result<Credits> {
        let state = self.state.lock().unwrap();
        match account {
            Account::Wallet(wallet) => {
                let balance = state.balances.get(&wallet).copied();
                balance.ok_or(StoreError::UserNotFound)
            }
            Account::Spending(of) => Ok(state.spent.get(&of).copied().unwrap_or_default()),
        }
    }

    async fn hold(&self, request: HoldRequest) -> Result<Hold> {
        let read = async |account| self.value_of(account);
        self.holds.hold(request, read).await
    }

    /// Runs a transaction, which ends a hold if it commits; else it is returned.
    fn write<T>(
        &self,
        mut hold: Option<Hold>,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T, Box<NotWritten>> {
        let mut state = self.state.lock().unwrap();
        let mut new = state.clone();
        let panicked = |_| Err(StoreError::Internal("a write panicked".to_owned()));
        match catch_unwind(AssertUnwindSafe(|| work(&mut new))).unwrap_or_else(panicked) {
            Ok(done) => {
                let changed = std::mem::take(&mut new.changed);
                *state = new;
                // Under the same lock, so that it is done in the order of the commits.
                self.holds.publish(changed, hold);
                Ok(done)
            }
            Err(error) => {
                if let Some(hold) = &mut hold {
                    self.holds.charge_failed(hold);
                }
                Err(Box::new(NotWritten { hold, error }))
            }
        }
    }
}

fn entry(amount: Credits, reason: &str, now: Timestamp) -> LedgerEntry {
    LedgerEntry {
        id: 0,
        amount,
        balance: Credits::ZERO,
        reason: reason.to_owned(),
        reference: None,
        detail: None,
        created_at: now,
    }
}

fn charge_in(
    state: &mut State,
    request: HoldRequest,
    charge: Charge,
    now: Timestamp,
) -> Result<Charged> {
    let amount = charge.amount.min(request.amount);
    let tokens = |of: fn(&Tokens) -> i64| charge.tokens.as_ref().map(of);
    let detail = ChargeDetail {
        adapter: charge.adapter.clone(),
        prompt_tokens: tokens(|tokens| tokens.prompt),
        cached_tokens: tokens(|tokens| tokens.cached),
        completion_tokens: tokens(|tokens| tokens.completion),
        estimated: charge.estimated,
        request_id: request.operation.to_string(),
        key_id: charge.key_id,
    };
    let paid = LedgerEntry {
        detail: Some(detail),
        ..entry(amount.negated(), "chat", now)
    };
    let entry = (amount > Credits::ZERO).then(|| state.post(request.wallet, paid).id);
    state.spend(&request, amount);
    if let Some((idempotent, answer)) = charge.answer {
        let response = (idempotent.answer)(&ChargedAnswer { entry, answer });
        let stored = (idempotent.request, response);
        state.responses.insert(idempotent.key, stored);
    }
    Ok(Charged {
        entry,
        amount,
        request,
    })
}

/// The methods that this store lacks.
macro_rules! memory_store {
    ($($verb:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Repository for MemoryStore {
            $(async fn $verb(&self, $($argument: $type),*) -> Result<$answer> {
                let _ = ($($argument,)*);
                Err(StoreError::Internal(concat!(stringify!($verb), " is not in this store").to_owned()))
            })*

            async fn user(&self, wallet_address: Wallet) -> Result<User> {
                let credits = self.0.value_of(Account::Wallet(wallet_address))?;
                let created_at = Timestamp::from_millis(0);
                Ok(User { wallet_address, credits, is_miner: false, last_mining_at: None, created_at, blocked: false })
            }

            async fn available(&self, wallet: Wallet) -> Result<Credits> {
                let balance = self.0.value_of(Account::Wallet(wallet))?;
                Ok(self.0.holds.available(&wallet).unwrap_or(balance))
            }

            async fn users(&self, query: UserQuery) -> Result<Vec<ListedUser>> {
                let balances = self.0.state.lock().unwrap().balances.clone();
                let listed = |(wallet_address, credits)| ListedUser {
                    user: User {
                        wallet_address,
                        credits,
                        is_miner: false,
                        last_mining_at: None,
                        created_at: Timestamp::from_millis(0),
                        blocked: false,
                    },
                    last_used_at: None,
                };
                let place = |(value, wallet): (i64, Wallet)| (Reverse(value), wallet.to_string());
                let of = |listed: &ListedUser| place((query.sort.value(listed), listed.user.wallet_address));
                let mut users: Vec<_> = balances.into_iter().map(listed).collect();
                users.retain(|listed| listed.user.wallet_address.as_str().contains(&query.search));
                users.retain(|listed| query.after.is_none_or(|after| of(listed) > place(after)));
                users.sort_by_key(of);
                users.truncate(query.limit);
                Ok(users)
            }

            async fn grant(
                &self,
                wallet: Wallet,
                amount: Credits,
                reason: String,
                reference: Option<String>,
                actor: Actor,
                request: Option<IdempotentRequest<(LedgerEntry, bool)>>,
            ) -> Result<Outcome<(LedgerEntry, bool)>> {
                let replayed = |state: &State| match &request {
                    None => Ok(None),
                    Some(request) => state.response(request.key, request.request),
                };
                let stored = replayed(&self.0.state.lock().unwrap())?;
                if let Some(stored) = stored {
                    return Ok(Outcome::Replayed(stored));
                }
                // A debit holds first, as every request that pays does.
                let mut hold = None;
                if amount < Credits::ZERO {
                    let (operation, amount) = (OperationId::new(), amount.negated());
                    let request = HoldRequest { operation, wallet, amount, limit: None };
                    let mut held = self.0.hold(request).await?;
                    self.0.holds.begin_charge(&mut held);
                    hold = Some(held);
                }
                let granted = self.0.write(hold, |state| {
                    // Another call may have been faster.
                    if let Some(stored) = replayed(state)? {
                        return Err(StoreError::Conflict(stored.answer.unwrap_or_default()));
                    }
                    let is_new = !state.balances.contains_key(&wallet);
                    let entry = LedgerEntry { reference, ..entry(amount, &reason, actor.at) };
                    let granted = (state.post(wallet, entry), is_new);
                    if let Some(request) = &request {
                        let stored = (request.request, (request.answer)(&granted));
                        state.responses.insert(request.key, stored);
                    }
                    Ok(granted)
                });
                let granted = granted.map_err(|failed| failed.error)?;
                let change = Change::Granted(amount);
                self.0.observers.each(|observer| observer.changed(&change, Origin::Here));
                Ok(Outcome::New(granted))
            }

            async fn ledger(
                &self,
                wallet: Wallet,
                before: Option<i64>,
                limit: usize,
            ) -> Result<(Credits, Vec<LedgerEntry>)> {
                let balance = self.0.value_of(Account::Wallet(wallet))?;
                let state = self.0.state.lock().unwrap();
                let before = before.unwrap_or(i64::MAX);
                let own = state.entries.iter().rev().filter(|of| of.wallet_address == wallet);
                let page = own.map(|of| &of.entry).filter(|entry| entry.id < before);
                Ok((balance, page.take(limit).cloned().collect()))
            }

            async fn export_ledger(
                &self,
                wallet: Option<Wallet>,
                after: Option<i64>,
                limit: usize,
            ) -> Result<Vec<ExportedEntry>> {
                if let Some(wallet) = wallet {
                    self.0.value_of(Account::Wallet(wallet))?;
                }
                let state = self.0.state.lock().unwrap();
                let after = state.entries.iter().filter(|of| Some(of.entry.id) > after);
                let all = after.filter(|of| wallet.is_none_or(|wallet| of.wallet_address == wallet));
                Ok(all.take(limit).cloned().collect())
            }

            async fn hold(&self, request: HoldRequest) -> Result<Hold> {
                self.0.hold(request).await
            }

            async fn spent(&self, of: Vec<Spending>) -> Result<Vec<Credits>> {
                of.into_iter().map(|of| self.0.value_of(Account::Spending(of))).collect()
            }

            async fn charge(
                &self,
                mut hold: Hold,
                charge: Charge,
                now: Timestamp,
            ) -> Result<Charged, NotWritten> {
                // Before the first await: a hold that does not fit waits for this charge from now on.
                self.0.holds.begin_charge(&mut hold);
                let (inner, request) = (Arc::clone(&self.0), *hold.request());
                // A task of its own: it goes on if the caller is dropped.
                let charging = tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    inner.write(Some(hold), |state| charge_in(state, request, charge, now))
                });
                let charged = charging.await.unwrap();
                charged.map_err(|failed| *failed)
            }

            async fn refund(
                &self,
                charged: Charged,
                answer: Option<[u8; 32]>,
                now: Timestamp,
            ) -> Result<()> {
                let Some(of) = charged.entry else { return Ok(()) };
                let refunded = self.0.write(None, |state| {
                    let reversal = LedgerEntry {
                        reference: Some(ledger_id(of)),
                        ..entry(charged.amount, "chat_refund", now)
                    };
                    state.post(charged.request.wallet, reversal);
                    state.spend(&charged.request, charged.amount.negated());
                    answer.map(|key| state.responses.remove(&key));
                    Ok(())
                });
                refunded.map_err(|failed| failed.error)
            }

            async fn stored_response(
                &self,
                key: [u8; 32],
                request: [u8; 32],
                _: Timestamp,
            ) -> Result<Option<StoredResponse>> {
                self.0.state.lock().unwrap().response(key, request)
            }

            async fn verify_ledger(&self, _: bool) -> Result<LedgerReport> {
                let state = self.0.state.lock().unwrap();
                let (mut balances, mut report) = (HashMap::new(), LedgerReport::default());
                for ExportedEntry { wallet_address, entry } in &state.entries {
                    let balance: &mut Credits = balances.entry(*wallet_address).or_default();
                    *balance = sum(*balance, entry.amount);
                    if *balance != entry.balance || *balance < Credits::ZERO {
                        report.mistakes.push(ledger_id(entry.id));
                    }
                }
                if balances != state.balances {
                    report.mistakes.push("balances".to_owned());
                }
                Ok(report)
            }

            fn backups(&self) -> Option<&dyn Backups> {
                None
            }

            fn observe(&self, observer: Weak<dyn StoreObserver>) {
                self.0.observers.add(observer);
            }

            fn gauges(&self) -> StoreGauges {
                let (holds, held) = self.0.holds.held();
                StoreGauges { holds, held, ..StoreGauges::default() }
            }

            fn is_ready(&self) -> bool {
                true
            }

            fn close(&self) {
                let closed = StoreError::Unavailable("the storage is closed".to_owned());
                self.0.holds.set_fault(Some(closed));
            }
        }
    };
}

memory_store! {
    create_user(wallet: Wallet, actor: Actor, idempotent: Option<IdempotentRequest<User>>) -> Outcome<User>;
    set_blocked(wallet: Wallet, blocked: bool, actor: Actor) -> User;
    check_idempotency_rows(scope: String, running: usize, now: Timestamp) -> ();
    count_lost(lost: LostRequest, now: Timestamp) -> ();
    usage(query: UsageQuery) -> Vec<Usage>;
    create_key(key: KeyRecord, max_active: usize, actor: Actor, idempotent: Option<IdempotentRequest<KeyRecord>>) -> bool;
    key_by_hash(hash: KeyHash) -> Option<KeyRecord>;
    adopt_key(sha256: KeyHash, hash: KeyHash, start: String) -> Option<KeyRecord>;
    keys(wallet: Option<Wallet>, before: Option<String>, limit: usize) -> Vec<KeyRecord>;
    revoke_key(id: String, wallet: Option<Wallet>, actor: Actor) -> KeyRecord;
    key(id: String) -> Option<KeyRecord>;
    rotate_key(id: String, new: KeyRecord, until: Timestamp, max_active: usize, actor: Actor) -> KeyRecord;
    record_action(action: &'static str, target: String, actor: Actor) -> ();
    audit(before: Option<i64>, limit: usize) -> Vec<AuditEntry>;
    purge(now: Timestamp) -> usize;
    compact(retention: Retention, now: Timestamp) -> ();
    touch_keys(touched: Vec<(String, Timestamp)>) -> ();
    record_samples(samples: Vec<Sample>, max_workers: usize, now: Timestamp) -> Recorded;
    record_earning(earning: Earning, actor: Actor, idempotent: Option<IdempotentRequest<Counted>>) -> Outcome<Counted>;
    miner(wallet: Wallet, now: Timestamp) -> MinerStats;
    workers(wallet: Wallet, now: Timestamp, limit: usize) -> Vec<WorkerStats>;
    earnings(wallet: Wallet, period: Range<Timestamp>) -> Vec<EarningsDay>;
    hashrate(wallet: Wallet, period: Range<Timestamp>, resolution: Resolution, limit: usize) -> Vec<HashratePoint>;
    shares(wallet: Wallet, period: Range<Timestamp>) -> Option<Shares>;
    leaderboard(since: Option<Timestamp>, now: Timestamp, limit: usize) -> Vec<RankedMiner>;
    totals(now: Timestamp) -> Totals;
    last_clock() -> Option<ClockReading>;
    record_clock(reading: ClockReading) -> ();
}
