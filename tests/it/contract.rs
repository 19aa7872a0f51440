//! The contract of every `Repository`: each rule is checked against our store and against the store of
//! `examples/custom_store.rs`, those of holds and charges also against one in memory. What only a server shows, copies and compaction have tests of their own.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use r3mes_edge::auth::{KeyLimits, KeyRequest, Scopes};
use r3mes_edge::model::{Credits, HashrateUnit, Period, Sample, Timestamp, Tokens, Wallet};
use r3mes_edge::store::*;
use tokio::task::{JoinHandle, JoinSet};

use crate::memory_store::MemoryStore;
use crate::support::{W1, W2, W3, eventually, wallet};

#[allow(dead_code, reason = "its main is the example's")]
#[path = "../../examples/custom_store.rs"]
mod custom_store;

type Store = Arc<dyn Repository>;

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);
const ONE: Credits = Credits::from_micro(1_000_000);
const FIVE: Credits = Credits::from_micro(5_000_000);

/// Tests rules against what a function opens in a folder.
macro_rules! against {
    ($module:ident $open:ident: $($rule:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $rule() {
                let folder = tempfile::tempdir().unwrap();
                super::$rule(std::sync::Arc::new(super::$open(&folder))).await;
            })*
        }
    };
}

macro_rules! contract {
    ($($money:ident)*; $($rule:ident)*) => {
        against! { ours open: $($money)* $($rule)* }
        against! { a_hosts_own open_journalled: $($money)* $($rule)* }
        against! { in_memory open_in_memory: $($money)* }
    };
}

contract! {
    credits_move_with_their_entry_and_never_below_zero
    holds_promise_no_more_than_the_balance_and_move_nothing
    of_many_holds_at_once_only_those_that_are_covered_are_made
    a_hold_ends_once_by_its_charge_its_release_or_dropped
    a_charge_takes_at_most_what_is_held_and_writes_one_entry_with_what_it_paid_for
    a_charge_of_nothing_writes_no_entry_and_stores_its_answer
    a_charge_that_fails_changes_nothing_and_returns_its_hold
    a_charge_whose_caller_left_is_written_all_the_same
    a_hold_that_arrives_during_a_charge_waits_for_it_instead_of_being_refused
    keys_of_one_limit_spend_no_more_than_it_together
    a_refund_reverses_a_charge_with_its_spending_and_its_answer
    a_debit_by_an_admin_leaves_what_is_held_and_repeated_it_needs_no_credits
    an_export_has_the_entries_of_all_wallets_oldest_first
    accounts_are_found_by_a_part_of_their_addresses_and_in_the_order_of_their_balances;

    an_account_is_created_once_and_an_unknown_wallet_is_not_a_zero_balance
    a_repeated_request_with_one_key_takes_effect_once_and_is_replayed
    pages_are_in_order_and_leave_nothing_out
    a_key_has_its_limits_wherever_it_is_read_and_so_has_the_one_that_replaces_it
    a_retired_or_revoked_key_is_inactive
    duplicate_samples_and_earnings_count_once
    each_worker_has_its_newest_sample_and_the_wallets_are_those_of_the_newest
    an_account_has_the_newest_use_of_its_keys
    observers_are_notified_of_a_change_before_its_method_returns
    an_observer_that_panics_does_not_affect_the_others
    a_closed_store_fails_instead_of_reporting_not_found
}

fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("edge.db"), true).unwrap()
}

fn open_journalled(folder: &tempfile::TempDir) -> custom_store::Journalled {
    let inner = open(folder);
    custom_store::Journalled { inner }
}

fn open_in_memory(_: &tempfile::TempDir) -> MemoryStore {
    MemoryStore::default()
}

async fn balance(store: &Store) -> Option<Credits> {
    match store.user(wallet(W1)).await {
        Err(StoreError::UserNotFound) => None,
        user => Some(user.unwrap().credits),
    }
}

async fn grant(store: &Store, to: &str, amount: Credits) -> Result<LedgerEntry, StoreError> {
    let why = "test".to_owned();
    match store
        .grant(wallet(to), amount, why, None, Actor::local(NOW), None)
        .await?
    {
        Outcome::New((entry, _)) => Ok(entry),
        Outcome::Replayed(_) => panic!("it was asked for once"),
    }
}

fn key_of(text: &str) -> KeyRequest {
    KeyRequest {
        wallet: Some(wallet(text)),
        name: "contract".to_owned(),
        scopes: Scopes::DEFAULT,
        expires_at: None,
        login: false,
        limits: None,
    }
}

fn credits(whole: i64) -> Credits {
    Credits::from_micro(whole * ONE.micro())
}

fn hold_of(amount: Credits) -> HoldRequest {
    HoldRequest {
        operation: OperationId::new(),
        wallet: wallet(W1),
        amount,
        limit: None,
    }
}

fn charge_of(amount: Credits) -> Charge {
    Charge {
        amount,
        key_id: None,
        adapter: "general".to_owned(),
        tokens: None,
        estimated: None,
        answer: None,
    }
}

fn stored(answer: &str) -> StoredResponse {
    StoredResponse {
        status: 200,
        answer: Some(answer.to_owned()),
        reference: None,
    }
}

fn answer_of(answer: fn(&ChargedAnswer) -> StoredResponse) -> IdempotentRequest<ChargedAnswer> {
    IdempotentRequest {
        key: [1; 32],
        scope: "scope".to_owned(),
        request: [1; 32],
        answer,
    }
}

async fn hold(store: &Store, amount: Credits) -> Result<Hold, StoreError> {
    store.hold(hold_of(amount)).await
}

async fn charge(store: &Store, hold: Hold, amount: Credits) -> Charged {
    store.charge(hold, charge_of(amount), NOW).await.unwrap()
}

/// A charge that was begun; it may be under way still.
async fn begun(store: &Store, hold: Hold, amount: Credits) -> JoinHandle<Charged> {
    let store = Arc::clone(store);
    let charging = tokio::spawn(async move { charge(&store, hold, amount).await });
    // This runtime has one thread: the task runs until it waits.
    tokio::task::yield_now().await;
    charging
}

async fn adds_up(store: &Store) {
    let report = store.verify_ledger(true).await.unwrap();
    assert_eq!(report.mistakes, Vec::<String>::new());
    assert_eq!(store.gauges().holds, 0, "a hold has no end");
}

async fn an_account_is_created_once_and_an_unknown_wallet_is_not_a_zero_balance(store: Store) {
    assert_eq!(balance(&store).await, None);
    let unknown = StoreError::UserNotFound;
    let ledger = store.ledger(wallet(W1), None, 9).await;
    assert_eq!(ledger, Err(unknown.clone()));
    assert_eq!(store.miner(wallet(W1), NOW).await, Err(unknown.clone()));
    assert_eq!(store.earnings(wallet(W1), NOW..NOW).await, Err(unknown));
    let create = async || store.create_user(wallet(W1), Actor::local(NOW), None).await;
    assert!(matches!(create().await, Ok(Outcome::New(user)) if user.created_at == NOW));
    assert_eq!(balance(&store).await, Some(Credits::ZERO));
    grant(&store, W1, FIVE).await.unwrap();
    assert!(matches!(create().await, Err(StoreError::Conflict(_))));
    assert_eq!(balance(&store).await, Some(FIVE));
}

async fn credits_move_with_their_entry_and_never_below_zero(store: Store) {
    let not_found = StoreError::UserNotFound;
    let taken = grant(&store, W1, ONE.negated()).await;
    assert_eq!(taken, Err(not_found.clone()));
    assert_eq!(hold(&store, ONE).await.unwrap_err(), not_found);
    assert_eq!(balance(&store).await, None, "a debit makes no account");
    let given = grant(&store, W1, FIVE).await.unwrap();
    let needed = Credits::from_micro(FIVE.micro() + 1);
    let balance = FIVE;
    let short = StoreError::Insufficient { needed, balance };
    let taken = grant(&store, W1, needed.negated()).await;
    assert_eq!(taken, Err(short.clone()));
    assert_eq!(hold(&store, needed).await.unwrap_err(), short);
    let taken = grant(&store, W1, FIVE.negated()).await.unwrap();
    let ledger = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(ledger, (Credits::ZERO, vec![taken, given]));
    let (why, reference) = ("test".to_owned(), Some("invoice 7".to_owned()));
    let granted = store.grant(
        wallet(W1),
        ONE,
        why,
        reference.clone(),
        Actor::local(NOW),
        None,
    );
    assert!(matches!(granted.await, Ok(Outcome::New((entry, _))) if entry.reference == reference));
    let (_, entries) = store.ledger(wallet(W1), None, 1).await.unwrap();
    assert_eq!(entries[0].reference, reference);
    adds_up(&store).await;
}

async fn holds_promise_no_more_than_the_balance_and_move_nothing(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let promised = [
        hold(&store, credits(3)).await,
        hold(&store, credits(2)).await,
    ];
    assert!(promised.iter().all(Result::is_ok));
    let gauges = store.gauges();
    assert_eq!((gauges.holds, gauges.held), (2, FIVE));
    assert_eq!(store.available(wallet(W1)).await, Ok(Credits::ZERO));
    let unknown = store.available(wallet(W2)).await;
    assert_eq!(unknown, Err(StoreError::UserNotFound));
    let (needed, balance) = (Credits::from_micro(1), Credits::ZERO);
    let short = StoreError::Insufficient { needed, balance };
    assert_eq!(hold(&store, needed).await.unwrap_err(), short);
    // A free request holds nothing, and needs an account all the same.
    assert!(hold(&store, Credits::ZERO).await.is_ok());
    let (left, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!((left, entries.len()), (FIVE, 1));
    grant(&store, W1, ONE).await.unwrap();
    assert!(hold(&store, ONE).await.is_ok());
    let two = hold(&store, credits(2)).await.unwrap_err();
    let (needed, balance) = (credits(2), ONE);
    assert_eq!(two, StoreError::Insufficient { needed, balance });
    assert_eq!(store.available(wallet(W1)).await, Ok(ONE));
    drop(promised);
    assert_eq!(store.available(wallet(W1)).await, Ok(credits(6)));
    adds_up(&store).await;
}

async fn of_many_holds_at_once_only_those_that_are_covered_are_made(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        asked.spawn(async move { hold(&store, ONE).await.ok() });
    }
    let holds: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
    assert_eq!(holds.len(), 5);
    for hold in holds {
        charge(&store, hold, ONE).await;
    }
    assert!(hold(&store, ONE).await.is_err());
    assert_eq!(balance(&store).await, Some(Credits::ZERO));
    let (_, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(entries.len(), 1 + 5);
    adds_up(&store).await;
}

async fn a_hold_ends_once_by_its_charge_its_release_or_dropped(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let ask = async || hold(&store, ONE).await.unwrap();
    let (spent, released, dropped) = (ask().await, ask().await, ask().await);
    let held = || store.gauges().held;
    assert_eq!(held(), credits(3));
    charge(&store, spent, ONE).await;
    assert_eq!(held(), credits(2));
    store.release(released).await;
    drop(dropped);
    assert_eq!(held(), Credits::ZERO);
    // The four that are left are available, and no more.
    let rest = hold(&store, credits(4)).await.unwrap();
    assert!(hold(&store, Credits::from_micro(1)).await.is_err());
    // A task that panics or is cancelled drops its hold.
    let task = tokio::spawn(async move {
        let _rest = rest;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.is_err());
    assert_eq!(held(), Credits::ZERO);
    assert_eq!(balance(&store).await, Some(credits(4)));
    adds_up(&store).await;
}

async fn a_charge_takes_at_most_what_is_held_and_writes_one_entry_with_what_it_paid_for(
    store: Store,
) {
    grant(&store, W1, FIVE).await.unwrap();
    let part = Credits::from_micro(250_000);
    let request = hold_of(ONE);
    let hold = store.hold(request).await.unwrap();
    let tokens = Tokens {
        prompt: 9,
        cached: 4,
        completion: 5,
    };
    let paid = Charge {
        key_id: Some("key_1".to_owned()),
        tokens: Some(tokens),
        estimated: None,
        ..charge_of(part)
    };
    let charged = store.charge(hold, paid, NOW).await.unwrap();
    let (left, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    let entry = &entries[0];
    assert_eq!(charged.entry, Some(entry.id));
    assert_eq!((charged.amount, charged.request), (part, request));
    assert_eq!((entry.amount, entry.balance), (part.negated(), left));
    assert_eq!((entry.reason.as_str(), entry.created_at), ("chat", NOW));
    let detail = ChargeDetail {
        estimated: None,
        adapter: "general".to_owned(),
        prompt_tokens: Some(9),
        cached_tokens: Some(4),
        completion_tokens: Some(5),
        request_id: request.operation.to_string(),
        key_id: Some("key_1".to_owned()),
    };
    assert_eq!(entry.detail.as_ref(), Some(&detail));
    // The rest of the hold is available again.
    let rest = self::hold(&store, Credits::from_micro(4_750_000)).await;
    drop(rest.unwrap());
    // More than was held is never taken.
    let hold = self::hold(&store, ONE).await.unwrap();
    assert_eq!(charge(&store, hold, FIVE).await.amount, ONE);
    assert_eq!(balance(&store).await, Some(Credits::from_micro(3_750_000)));
    adds_up(&store).await;
}

async fn a_charge_of_nothing_writes_no_entry_and_stores_its_answer(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let hold = hold(&store, FIVE).await.unwrap();
    let free = Charge {
        answer: Some((answer_of(|_| stored("free")), "free".to_owned())),
        ..charge_of(Credits::ZERO)
    };
    let charged = store.charge(hold, free, NOW).await.unwrap();
    assert_eq!((charged.entry, charged.amount), (None, Credits::ZERO));
    let (left, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!((left, entries.len()), (FIVE, 1));
    let found = store.stored_response([1; 32], [1; 32], NOW).await;
    assert_eq!(found, Ok(Some(stored("free"))));
    // There is nothing to reverse.
    store.refund(charged, None, NOW).await.unwrap();
    assert_eq!(balance(&store).await, Some(FIVE));
    adds_up(&store).await;
}

async fn a_charge_that_fails_changes_nothing_and_returns_its_hold(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let hold = hold(&store, FIVE).await.unwrap();
    let request = *hold.request();
    // It fails where its entry is written already.
    let broken: fn(&ChargedAnswer) -> StoredResponse = |_| panic!("of an answer");
    let fails = Charge {
        answer: Some((answer_of(broken), String::new())),
        ..charge_of(ONE)
    };
    let failed = store.charge(hold, fails, NOW).await.unwrap_err();
    let returned = failed.hold.unwrap();
    assert_eq!(*returned.request(), request);
    let (left, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!((left, entries.len()), (FIVE, 1));
    assert_eq!(store.stored_response([1; 32], [1; 32], NOW).await, Ok(None));
    assert!(
        self::hold(&store, Credits::from_micro(1)).await.is_err(),
        "it is held until it is charged or released"
    );
    // The same hold can be charged again.
    charge(&store, returned, ONE).await;
    assert_eq!(balance(&store).await, Some(credits(4)));
    adds_up(&store).await;
}

async fn a_charge_whose_caller_left_is_written_all_the_same(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let hold = hold(&store, ONE).await.unwrap();
    let charging = begun(&store, hold, ONE).await;
    charging.abort();
    let charged = async || (balance(&store).await == Some(credits(4))).then_some(());
    eventually("it is written", charged).await;
    adds_up(&store).await;
}

async fn a_hold_that_arrives_during_a_charge_waits_for_it_instead_of_being_refused(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    for _ in 0..100 {
        let first = hold(&store, FIVE).await.unwrap();
        let charging = begun(&store, first, Credits::ZERO).await;
        let second = hold(&store, FIVE).await;
        assert!(second.is_ok(), "what the first leaves is enough");
        charging.await.unwrap();
    }
    // What it takes is not available.
    let first = hold(&store, FIVE).await.unwrap();
    let charging = begun(&store, first, ONE).await;
    let (needed, balance) = (FIVE, credits(4));
    let short = StoreError::Insufficient { needed, balance };
    assert_eq!(hold(&store, FIVE).await.unwrap_err(), short);
    charging.await.unwrap();
    adds_up(&store).await;
}

async fn keys_of_one_limit_spend_no_more_than_it_together(store: Store) {
    for text in [W1, W2] {
        grant(&store, text, FIVE).await.unwrap();
    }
    let ask = async |text: &str, period, amount| {
        let limit = Some((Spending { row: 7, period }, credits(3)));
        let wallet = wallet(text);
        let request = HoldRequest {
            wallet,
            limit,
            ..hold_of(amount)
        };
        store.hold(request).await
    };
    let (needed, available) = (credits(2), ONE);
    let short = StoreError::LimitReached { needed, available };
    let running = ask(W1, 0, credits(2)).await.unwrap();
    assert_eq!(ask(W2, 0, needed).await.unwrap_err(), short);
    let charged = charge(&store, running, credits(2)).await;
    assert_eq!(ask(W2, 0, needed).await.unwrap_err(), short);
    let rows = [(7, 1), (7, 0), (8, 0)].map(|(row, period)| Spending { row, period });
    let spent = async || store.spent(rows.to_vec()).await.unwrap();
    let none = Credits::ZERO;
    assert_eq!(spent().await, [none, credits(2), none]);
    drop(ask(W2, 0, ONE).await.unwrap());
    // The next period begins at nothing; what was held before still counts where it began.
    drop(ask(W2, 1, credits(3)).await.unwrap());
    store.refund(charged, None, NOW).await.unwrap();
    assert_eq!(spent().await, [none; 3], "what is held is not spent");
    drop(ask(W2, 0, credits(3)).await.unwrap());
    assert_eq!(balance(&store).await, Some(FIVE));
    // While a charge is under way a request that may fit after it is not refused.
    for _ in 0..20 {
        let first = ask(W1, 0, credits(3)).await.unwrap();
        let charging = begun(&store, first, none).await;
        drop(ask(W2, 0, credits(3)).await.unwrap());
        charging.await.unwrap();
    }
    adds_up(&store).await;
}

async fn a_refund_reverses_a_charge_with_its_spending_and_its_answer(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let hold = hold(&store, FIVE).await.unwrap();
    let paid = Charge {
        answer: Some((answer_of(|_| stored("paid")), "paid".to_owned())),
        ..charge_of(credits(2))
    };
    let charged = store.charge(hold, paid, NOW).await.unwrap();
    let found = async || store.stored_response([1; 32], [1; 32], NOW).await;
    assert_eq!(found().await, Ok(Some(stored("paid"))));
    store.refund(charged, Some([1; 32]), NOW).await.unwrap();
    assert_eq!(found().await, Ok(None), "it may be asked for again");
    let (left, entries) = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(left, FIVE);
    let reversal = &entries[0];
    assert_eq!((reversal.amount, reversal.balance), (credits(2), FIVE));
    assert_eq!(reversal.reason, "chat_refund");
    assert_eq!(reversal.reference, charged.entry.map(ledger_id));
    assert_eq!(entries.len(), 3);
    drop(self::hold(&store, FIVE).await.unwrap());
    adds_up(&store).await;
}

async fn an_export_has_the_entries_of_all_wallets_oldest_first(store: Store) {
    assert_eq!(store.export_ledger(None, None, 9).await, Ok(vec![]));
    let unknown = store.export_ledger(Some(wallet(W1)), None, 9).await;
    assert_eq!(unknown, Err(StoreError::UserNotFound));
    let mut granted = Vec::new();
    for text in [W1, W2, W1, W3, W2] {
        granted.push((wallet(text), grant(&store, text, ONE).await.unwrap()));
    }
    let export = async |of, limit| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = store.export_ledger(of, after, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else {
                return all;
            };
            after = Some(last.entry.id);
            all.extend(page.into_iter().map(|of| (of.wallet_address, of.entry)));
        }
    };
    for limit in [1, 2, 9] {
        assert_eq!(export(None, limit).await, granted);
        let own = granted.iter().filter(|(of, _)| *of == wallet(W2));
        let own: Vec<_> = own.cloned().collect();
        assert_eq!(export(Some(wallet(W2)), limit).await, own);
    }
    adds_up(&store).await;
}

async fn accounts_are_found_by_a_part_of_their_addresses_and_in_the_order_of_their_balances(
    store: Store,
) {
    for (text, amount) in [(W1, ONE), (W2, FIVE), (W3, ONE)] {
        grant(&store, text, amount).await.unwrap();
    }
    let mut alike = [W1, W3].map(wallet);
    alike.sort_by_key(Wallet::to_string);
    let list = async |search: &str, limit: usize| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (search, sort) = (search.to_owned(), UserSort::Balance);
            let query = UserQuery {
                search,
                sort,
                after,
                limit,
            };
            let page = store.users(query).await.unwrap();
            found.extend(page.iter().map(|listed| listed.user.wallet_address));
            let Some(last) = page.last() else {
                return found;
            };
            assert!(page.len() <= limit);
            after = Some((sort.value(last), last.user.wallet_address));
        }
    };
    for limit in 1..5 {
        assert_eq!(list("", limit).await, [wallet(W2), alike[0], alike[1]]);
        assert_eq!(list(&W3[10..20], limit).await, [wallet(W3)]);
        assert_eq!(list("REMES", limit).await, []);
    }
}

async fn each_worker_has_its_newest_sample_and_the_wallets_are_those_of_the_newest(store: Store) {
    let day = Duration::from_secs(86_400);
    let named = |worker: &str, second| Sample {
        worker: worker.to_owned(),
        ..sample(second, second as f64)
    };
    let other = Sample {
        wallet: wallet(W2),
        ..sample(5, 5.0)
    };
    let samples = vec![
        named("b", 2),
        named("a", 4),
        named("b", 3),
        named("a", 1),
        other,
    ];
    store.record_samples(samples, 9, NOW).await.unwrap();
    let found = async |now, limit| {
        let workers = store.workers(wallet(W1), now, limit).await.unwrap();
        let found = workers
            .into_iter()
            .map(|worker| (worker.worker, worker.hashrate));
        found.collect::<Vec<_>>()
    };
    let expected = [("a".to_owned(), 4.0), ("b".to_owned(), 3.0)];
    assert_eq!(found(NOW, 9).await, expected);
    assert_eq!(found(NOW, 1).await, expected[..1]);
    assert_eq!(found(NOW.plus(day * 2), 9).await, []);
    let unknown = store.workers(wallet(W3), NOW, 9).await;
    assert_eq!(unknown, Err(StoreError::UserNotFound));
    let wallets = [W2, W1].map(wallet);
    assert_eq!(store.recent_miners(NOW, 9).await.unwrap(), wallets);
    assert_eq!(store.recent_miners(NOW, 1).await.unwrap(), wallets[..1]);
}

async fn an_account_has_the_newest_use_of_its_keys(store: Store) {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let issued = issue_key(&*store, key_of(W1), 9, Actor::local(NOW), None).await;
        ids.push(issued.unwrap().record.id);
    }
    let used = async || {
        let query = UserQuery {
            limit: 1,
            ..UserQuery::default()
        };
        store.users(query).await.unwrap()[0].last_used_at
    };
    assert_eq!(used().await, None);
    let at = |minutes: u64| NOW.plus(Duration::from_secs(60 * minutes));
    let both = vec![(ids[0].clone(), at(2)), (ids[1].clone(), at(1))];
    store.touch_keys(both).await.unwrap();
    assert_eq!(used().await, Some(at(2)));
    store
        .touch_keys(vec![(ids[1].clone(), at(3))])
        .await
        .unwrap();
    assert_eq!(used().await, Some(at(3)));
}

async fn a_debit_by_an_admin_leaves_what_is_held_and_repeated_it_needs_no_credits(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let running = hold(&store, credits(4)).await.unwrap();
    let (needed, balance) = (credits(2), ONE);
    let short = StoreError::Insufficient { needed, balance };
    let taken = grant(&store, W1, credits(2).negated()).await;
    assert_eq!(taken, Err(short));
    let take = async || {
        let idempotent = IdempotentRequest {
            key: [1; 32],
            scope: "scope".to_owned(),
            request: [1; 32],
            answer: |(entry, _): &(LedgerEntry, bool)| stored(&entry.balance.to_string()),
        };
        let (amount, why) = (ONE.negated(), "test".to_owned());
        store
            .grant(
                wallet(W1),
                amount,
                why,
                None,
                Actor::local(NOW),
                Some(idempotent),
            )
            .await
    };
    assert!(matches!(take().await, Ok(Outcome::New(_))));
    assert!(hold(&store, Credits::from_micro(1)).await.is_err());
    assert_eq!(take().await, Ok(Outcome::Replayed(stored("4"))));
    // What was held is covered to the end.
    assert_eq!(charge(&store, running, credits(4)).await.amount, credits(4));
    assert_eq!(take().await, Ok(Outcome::Replayed(stored("4"))));
    assert_eq!(self::balance(&store).await, Some(Credits::ZERO));
    adds_up(&store).await;
}

async fn a_repeated_request_with_one_key_takes_effect_once_and_is_replayed(store: Store) {
    let asked = async |request, amount, now| {
        let idempotent = IdempotentRequest {
            key: [1; 32],
            scope: "scope".to_owned(),
            request: [request; 32],
            answer: |(entry, _): &(LedgerEntry, bool)| StoredResponse {
                status: 200,
                answer: Some(entry.balance.to_string()),
                reference: None,
            },
        };
        let why = "test".to_owned();
        store
            .grant(
                wallet(W1),
                amount,
                why,
                None,
                Actor::local(now),
                Some(idempotent),
            )
            .await
    };
    let stored_for = async |request| store.stored_response([1; 32], [request; 32], NOW).await;
    // A refusal is not stored.
    assert!(asked(1, ONE.negated(), NOW).await.is_err());
    assert_eq!(stored_for(1).await, Ok(None));
    let first = asked(1, FIVE, NOW).await;
    assert!(matches!(first, Ok(Outcome::New((_, true)))));
    let stored = StoredResponse {
        status: 200,
        answer: Some("5".to_owned()),
        reference: None,
    };
    assert_eq!(
        asked(1, FIVE, NOW).await,
        Ok(Outcome::Replayed(stored.clone()))
    );
    assert_eq!(stored_for(1).await, Ok(Some(stored)));
    let other = asked(2, FIVE, NOW).await;
    assert_eq!(other, Err(StoreError::KeyReused));
    assert_eq!(stored_for(2).await, Err(StoreError::KeyReused));
    assert_eq!(balance(&store).await, Some(FIVE));
    // One of the scope's 20,000 rows is taken.
    let day = Duration::from_secs(86_400);
    let check = async |running| {
        let scope = "scope".to_owned();
        store.check_idempotency_rows(scope, running, NOW).await
    };
    assert_eq!(check(19_999).await, Ok(()));
    let full = StoreError::IdempotencyFull { retry_after: day };
    assert_eq!(check(20_000).await, Err(full));
    // A day later it is another request.
    let later = NOW.plus(day);
    assert_eq!(store.purge(NOW).await, Ok(0));
    assert_eq!(store.purge(later).await, Ok(1));
    let anew = asked(2, FIVE, later).await;
    assert!(matches!(anew, Ok(Outcome::New((_, false)))));
}

async fn pages_are_in_order_and_leave_nothing_out(store: Store) {
    for text in [W1, W2, W3] {
        grant(&store, text, ONE).await.unwrap();
        grant(&store, W1, ONE).await.unwrap();
        let issued = issue_key(&*store, key_of(W1), 9, Actor::local(NOW), None).await;
        assert!(issued.is_ok());
    }
    let (mut users, mut entries, mut keys) = (vec![], vec![], vec![]);
    let after = async |wallet: Option<&Wallet>| {
        let after = wallet.map(|wallet| (0, *wallet));
        let query = UserQuery {
            after,
            limit: 1,
            ..UserQuery::default()
        };
        store.users(query).await.unwrap().pop()
    };
    while let Some(listed) = after(users.last()).await {
        users.push(listed.user.wallet_address);
    }
    let names: Vec<_> = users.iter().map(Wallet::as_str).collect();
    assert!(names.len() == 3 && names.is_sorted(), "{names:?}");
    let older = async |id: Option<&i64>| {
        let mut page = store.ledger(wallet(W1), id.copied(), 1).await.unwrap();
        page.1.pop()
    };
    while let Some(entry) = older(entries.last()).await {
        entries.push(entry.id);
    }
    assert!(entries.len() == 4 && entries.is_sorted_by(|newer, older| newer > older));
    let older = async |id: Option<&String>| {
        let page = store.keys(Some(wallet(W1)), id.cloned(), 1).await;
        page.unwrap().pop()
    };
    while let Some(key) = older(keys.last()).await {
        keys.push(key.id);
    }
    assert!(keys.len() == 3 && keys.is_sorted_by(|newer, older| newer > older));
    assert_eq!(store.keys(Some(wallet(W2)), None, 9).await, Ok(vec![]));
}

async fn a_key_has_its_limits_wherever_it_is_read_and_so_has_the_one_that_replaces_it(
    store: Store,
) {
    for limits in [
        KeyLimits {
            models: Some(vec!["a,b".to_owned(), "\"c\"".to_owned()]),
            ..KeyLimits::new().unwrap()
        },
        KeyLimits {
            credit_limit: Some(Credits::from_micro(1)),
            credit_period: Some(Period::Week),
            ..KeyLimits::new().unwrap()
        },
        KeyLimits {
            models: Some(vec!["one".to_owned()]),
            credit_limit: Some(Credits::MAX_AMOUNT),
            credit_period: Some(Period::Total),
            max_concurrency: Some(u32::MAX),
            ..KeyLimits::new().unwrap()
        },
    ] {
        let limits = Some(Arc::new(limits));
        let request = KeyRequest {
            limits: limits.clone(),
            ..key_of(W1)
        };
        let actor = Actor::local(NOW);
        let issued = issue_key(&*store, request, 10, actor.clone(), None);
        let issued = issued.await.unwrap();
        let hash = issued.record.hash;
        let found = store.key_by_hash(hash).await.unwrap().unwrap();
        assert_eq!(found, issued.record);
        let (new, _) = rotate_key(&*store, &found, NOW, None, 10, actor)
            .await
            .unwrap();
        let by_id = store.key(new.record.id.clone()).await.unwrap().unwrap();
        assert_eq!(by_id.limits, limits);
        let listed = store.keys(Some(wallet(W1)), None, 9).await.unwrap();
        let both = [&issued.record.id, &new.record.id];
        let mut both = listed.iter().filter(|key| both.contains(&&key.id));
        assert!(both.clone().count() == 2 && both.all(|key| key.limits == limits));
    }
}

async fn a_retired_or_revoked_key_is_inactive(store: Store) {
    let make = async || issue_key(&*store, key_of(W1), 1, Actor::local(NOW), None).await;
    let issued = make().await.unwrap();
    assert!(
        store.user(wallet(W1)).await.is_ok(),
        "the account is created with its first key"
    );
    assert!(matches!(make().await, Err(StoreError::Conflict(_))));
    // A rotation: for a minute both keys are active.
    let minute = NOW.plus(Duration::from_secs(60));
    let rotate =
        async |old, now| rotate_key(&*store, old, minute, None, 10, Actor::local(now)).await;
    let (new, old) = rotate(&issued.record, NOW).await.unwrap();
    assert!(old.is_active(NOW) && !old.is_active(minute));
    let found = store.key_by_hash(issued.key.hash()).await;
    assert_eq!(found.as_ref(), Ok(&Some(old.clone())));
    let late = rotate(&old, minute).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    let id = &new.record.id;
    let revoke = async |owner, now| store.revoke_key(id.clone(), owner, Actor::local(now)).await;
    let strangers = revoke(Some(wallet(W2)), NOW).await;
    assert_eq!(strangers, Err(StoreError::KeyNotFound));
    let revoked = revoke(Some(wallet(W1)), NOW).await.unwrap();
    assert!(!revoked.is_active(NOW));
    let again = revoke(None, minute).await;
    assert_eq!(again.as_ref(), Ok(&revoked));
    assert_eq!(store.key(id.clone()).await, Ok(Some(revoked)));
}

fn sample(second: u64, hashrate: f64) -> Sample {
    let at = NOW.plus(Duration::from_secs(second));
    Sample::new(wallet(W1), at, hashrate, HashrateUnit::GradientsPerHour)
}

async fn duplicate_samples_and_earnings_count_once(store: Store) {
    let samples = vec![sample(10, 2.0), sample(0, 1.0)];
    for (new, first) in [(2, true), (0, false)] {
        let recorded = store.record_samples(samples.clone(), 1000, NOW).await;
        assert_eq!(recorded, Ok(Recorded { new, first }));
    }
    let read = async |limit| {
        store
            .hashrate(
                wallet(W1),
                NOW..NOW.plus(Duration::from_secs(86_400)),
                Resolution::Raw,
                limit,
            )
            .await
    };
    let points = read(2).await.unwrap();
    assert!(points.iter().map(|point| point.hashrate).eq([1.0, 2.0]));
    assert_eq!(read(1).await, Err(StoreError::TooMuch));
    let earn = async |text, earnings| {
        let (wallet, source_id) = (wallet(text), "block-1".to_owned());
        let recorded_at = NOW;
        let earning = Earning {
            wallet,
            earnings,
            source_id,
            recorded_at,
        };
        store.record_earning(earning, Actor::local(NOW), None).await
    };
    for counted in [true, false] {
        let done = earn(W1, FIVE).await;
        assert!(matches!(done, Ok(Outcome::New(earning)) if earning.counted == counted));
    }
    for other in [earn(W1, ONE).await, earn(W2, FIVE).await] {
        assert!(matches!(other, Err(StoreError::Conflict(_))));
    }
    assert_eq!(balance(&store).await, Some(FIVE));
    let user = store.user(wallet(W2)).await;
    assert_eq!(user, Err(StoreError::UserNotFound), "it left nothing");
    adds_up(&store).await;
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Change>>);

impl StoreObserver for Recorder {
    fn committed(&self, _: usize, _: Duration, _: bool) {}
    fn read(&self, _: Duration) {}
    fn changed(&self, change: &Change, origin: Origin) {
        assert_eq!(origin, Origin::Here);
        self.0.lock().unwrap().push(*change);
    }
}

async fn observers_are_notified_of_a_change_before_its_method_returns(store: Store) {
    let recorder = Arc::new(Recorder::default());
    let weak: Weak<Recorder> = Arc::downgrade(&recorder);
    store.observe(weak);
    let last = || recorder.0.lock().unwrap().pop();
    store
        .create_user(wallet(W1), Actor::local(NOW), None)
        .await
        .unwrap();
    assert_eq!(last(), Some(Change::Account));
    grant(&store, W1, FIVE).await.unwrap();
    assert_eq!(last(), Some(Change::Granted(FIVE)));
    for blocked in [true, false] {
        let set = store.set_blocked(wallet(W1), blocked, Actor::local(NOW));
        assert_eq!(set.await.unwrap().blocked, blocked);
        assert_eq!(store.user(wallet(W1)).await.unwrap().blocked, blocked);
        assert_eq!(last(), Some(Change::Blocked(wallet(W1))));
    }
    let unknown = store.set_blocked(wallet(W2), true, Actor::local(NOW));
    assert_eq!(unknown.await, Err(StoreError::UserNotFound));
    let samples = vec![sample(0, 1.0)];
    store.record_samples(samples, 1000, NOW).await.unwrap();
    let (new, first) = (1, true);
    assert_eq!(last(), Some(Change::Samples { new, first }));
    let issued = issue_key(&*store, key_of(W1), 9, Actor::local(NOW), None).await;
    let issued = issued.unwrap();
    let revoked = store
        .revoke_key(issued.record.id, None, Actor::local(NOW))
        .await;
    assert!(revoked.is_ok());
    assert_eq!(last(), Some(Change::Key(issued.key.hash())));
    // A write that changes nothing is not reported.
    assert!(
        grant(&store, W1, Credits::MAX_AMOUNT.negated())
            .await
            .is_err()
    );
    assert_eq!(last(), None);
}

struct Broken;

impl StoreObserver for Broken {
    fn committed(&self, _: usize, _: Duration, _: bool) {
        panic!("of a commit");
    }
    fn read(&self, _: Duration) {
        panic!("of a read");
    }
    fn changed(&self, _: &Change, _: Origin) {
        panic!("of a change");
    }
}

async fn an_observer_that_panics_does_not_affect_the_others(store: Store) {
    let (broken, recorder) = (Arc::new(Broken), Arc::new(Recorder::default()));
    let weak: Weak<Broken> = Arc::downgrade(&broken);
    store.observe(weak);
    let weak: Weak<Recorder> = Arc::downgrade(&recorder);
    store.observe(weak);
    for _ in 0..2 {
        grant(&store, W1, FIVE).await.unwrap();
        assert_eq!(
            recorder.0.lock().unwrap().pop(),
            Some(Change::Granted(FIVE))
        );
    }
    assert_eq!(balance(&store).await.unwrap().to_string(), "10");
}

async fn a_closed_store_fails_instead_of_reporting_not_found(store: Store) {
    assert!(store.is_ready());
    grant(&store, W1, FIVE).await.unwrap();
    let running = hold(&store, ONE).await.unwrap();
    store.close();
    assert!(!store.is_ready());
    // A failed read is not reported as a missing account.
    let read = store.user(wallet(W1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))));
    let given = grant(&store, W1, ONE).await;
    assert!(matches!(given, Err(StoreError::Unavailable(_))));
    let held = hold(&store, ONE).await;
    assert!(matches!(held, Err(StoreError::Unavailable(_))));
    let charged = store.charge(running, charge_of(ONE), NOW).await;
    let failed = charged.unwrap_err();
    assert!(matches!(failed.error, StoreError::Unavailable(_)));
}

/// The maximum balance is each store's own.
#[tokio::test]
async fn a_refund_beyond_the_maximum_balance_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(open(&folder));
    const MOST: Credits = Credits::from_micro(10_000_000_000_000_000);
    grant(&store, W1, MOST).await.unwrap();
    let full = grant(&store, W1, ONE).await;
    assert!(matches!(full, Err(StoreError::Conflict(_))));
    let spend = async || {
        let hold = hold(&store, ONE).await.unwrap();
        charge(&store, hold, ONE).await
    };
    let charged = spend().await;
    grant(&store, W1, ONE).await.unwrap();
    store.refund(charged, None, NOW).await.unwrap();
    let more = Credits::from_micro(MOST.micro() + ONE.micro());
    assert_eq!(balance(&store).await, Some(more));
    // The balance can be spent, and no grant is accepted.
    let full = grant(&store, W1, ONE).await;
    assert!(matches!(full, Err(StoreError::Conflict(_))));
    spend().await;
    grant(&store, W1, ONE.negated()).await.unwrap();
    assert_eq!(
        balance(&store).await,
        Some(Credits::from_micro(MOST.micro() - ONE.micro()))
    );
    adds_up(&store).await;
}

/// No method of the interface reads the usage yet.
#[tokio::test]
async fn the_usage_counts_every_charge_those_of_nothing_too_and_none_that_was_reversed() {
    let folder = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(open(&folder));
    grant(&store, W1, FIVE).await.unwrap();
    let tokens = Tokens {
        prompt: 9,
        cached: 4,
        completion: 5,
    };
    let used = async |amount, key_id: Option<&str>, day: u64| {
        let hold = hold(&store, ONE).await.unwrap();
        let charge = Charge {
            key_id: key_id.map(str::to_owned),
            tokens: Some(tokens),
            estimated: None,
            ..charge_of(amount)
        };
        let at = NOW.plus(Duration::from_secs(86_400 * day));
        store.charge(hold, charge, at).await.unwrap()
    };
    used(ONE, Some("key_1"), 0).await;
    used(Credits::ZERO, Some("key_1"), 0).await;
    used(ONE, None, 0).await;
    used(ONE, Some("key_1"), 1).await;
    let reversed = used(ONE, Some("key_1"), 1).await;
    store.refund(reversed, None, NOW).await.unwrap();
    adds_up(&store).await;
    store.close();
    let file = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
    let sums = "SELECT coalesce((SELECT key FROM key_ids WHERE id = usage.key), ''), requests, charged, prompt_tokens, cached_tokens, completion_tokens FROM usage ORDER BY day, key";
    let mut sums = file.prepare(sums).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let key: String = row.get(0)?;
        let figures: [i64; 5] = [
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
        ];
        Ok((key, figures))
    };
    let rows: Vec<_> = sums
        .query_map([], row)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let one = [1, ONE.micro(), 9, 4, 5];
    let key = "key_1".to_owned();
    let both = [2, ONE.micro(), 18, 8, 10];
    assert_eq!(
        rows,
        [(String::new(), one), (key.clone(), both), (key, one)]
    );
}
