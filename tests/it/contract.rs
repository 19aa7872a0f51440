//! The contract of every `Repository`: each rule is checked against our store and against the store of
//! `examples/custom_store.rs`. What only a server shows, copies and compaction have tests of their own.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::model::{Credits, HashrateUnit, Sample, Timestamp, Wallet};
use r3mes_edge::store::*;
use tokio::task::JoinSet;

use crate::support::{W1, W2, W3, wallet};

#[allow(dead_code, reason = "its main is the example's")]
#[path = "../../examples/custom_store.rs"]
mod custom_store;

type Store = Arc<dyn Repository>;

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);
const ONE: Credits = Credits::from_micro(1_000_000);
const FIVE: Credits = Credits::from_micro(5_000_000);

macro_rules! contract {
    ($($rule:ident)*) => {
        mod ours {
            $(#[tokio::test]
            async fn $rule() {
                let folder = tempfile::tempdir().unwrap();
                super::$rule(std::sync::Arc::new(super::open(&folder))).await;
            })*
        }

        mod a_hosts_own {
            $(#[tokio::test]
            async fn $rule() {
                let folder = tempfile::tempdir().unwrap();
                let inner = super::open(&folder);
                let store = super::custom_store::Journalled { inner };
                super::$rule(std::sync::Arc::new(store)).await;
            })*
        }
    };
}

contract! {
    an_account_is_created_once_and_an_unknown_wallet_is_not_a_zero_balance
    credits_move_with_their_entry_and_never_below_zero
    of_many_debits_at_once_only_those_that_are_covered_are_made
    a_reservation_ends_once_settled_or_refunded
    a_repeated_request_with_one_key_takes_effect_once_and_is_replayed
    pages_are_in_order_and_leave_nothing_out
    a_retired_or_revoked_key_is_inactive
    duplicate_samples_and_earnings_count_once
    observers_are_notified_of_a_change_before_its_method_returns
    an_observer_that_panics_does_not_affect_the_others
    a_closed_store_fails_instead_of_reporting_not_found
}

fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("edge.db"), true).unwrap()
}

async fn balance(store: &Store) -> Option<Credits> {
    match store.user(wallet(W1)).await {
        Err(StoreError::UserNotFound) => None,
        user => Some(user.unwrap().credits),
    }
}

async fn grant(store: &Store, to: &str, amount: Credits) -> Result<LedgerEntry, StoreError> {
    let why = "test".to_owned();
    match store.grant(wallet(to), amount, why, NOW, None).await? {
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
    }
}

async fn adds_up(store: &Store) {
    let report = store.verify_ledger().await.unwrap();
    assert_eq!((report.open_reservations, report.mistakes), (0, vec![]));
}

async fn an_account_is_created_once_and_an_unknown_wallet_is_not_a_zero_balance(store: Store) {
    assert_eq!(balance(&store).await, None);
    let unknown = StoreError::UserNotFound;
    let ledger = store.ledger(wallet(W1), None, 9).await;
    assert_eq!(ledger, Err(unknown.clone()));
    assert_eq!(store.miner(wallet(W1), NOW).await, Err(unknown.clone()));
    assert_eq!(store.earnings(wallet(W1), NOW).await, Err(unknown));
    let create = async || store.create_user(wallet(W1), NOW, None).await;
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
    assert_eq!(store.reserve(wallet(W1), ONE, NOW).await, Err(not_found));
    assert_eq!(balance(&store).await, None, "a debit makes no account");
    let given = grant(&store, W1, FIVE).await.unwrap();
    let needed = Credits::from_micro(FIVE.micro() + 1);
    let balance = FIVE;
    let short = StoreError::Insufficient { needed, balance };
    let taken = grant(&store, W1, needed.negated()).await;
    assert_eq!(taken, Err(short.clone()));
    assert_eq!(store.reserve(wallet(W1), needed, NOW).await, Err(short));
    let taken = grant(&store, W1, FIVE.negated()).await.unwrap();
    let ledger = store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(ledger, (Credits::ZERO, vec![taken, given]));
    adds_up(&store).await;
}

async fn of_many_debits_at_once_only_those_that_are_covered_are_made(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let mut debits = JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        debits.spawn(async move { store.reserve(wallet(W1), ONE, NOW).await.ok() });
    }
    let reserved: Vec<_> = debits.join_all().await.into_iter().flatten().collect();
    assert_eq!(reserved.len(), 5);
    assert_eq!(balance(&store).await, Some(Credits::ZERO));
    assert_eq!(store.refund_open(NOW).await, Ok(5));
    assert_eq!(balance(&store).await, Some(FIVE));
    adds_up(&store).await;
}

async fn a_reservation_ends_once_settled_or_refunded(store: Store) {
    grant(&store, W1, FIVE).await.unwrap();
    let reserve = async || store.reserve(wallet(W1), ONE, NOW).await.unwrap();
    let (spent, back, left) = (reserve().await, reserve().await, reserve().await);
    for _ in 0..2 {
        store.settle(spent, NOW).await.unwrap();
        store.refund(back, NOW).await.unwrap();
    }
    let refunded = store.refund(spent, NOW).await;
    assert!(matches!(refunded, Err(StoreError::Conflict(_))));
    let settled = store.settle(back, NOW).await;
    assert!(matches!(settled, Err(StoreError::Conflict(_))));
    assert!(store.settle(i64::MAX, NOW).await.is_err(), "there is none");
    // What a crash left open, and nothing else.
    assert_eq!(store.refund_open(NOW).await, Ok(1));
    assert_eq!(store.refund_open(NOW).await, Ok(0));
    let (balance, entries) = store.ledger(wallet(W1), None, 2).await.unwrap();
    assert_eq!(balance.to_string(), "4");
    let references = entries.into_iter().filter_map(|entry| entry.reference);
    assert!(references.eq([left, back].map(ledger_id)));
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
            .grant(wallet(W1), amount, why, now, Some(idempotent))
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
        let issued = issue_key(&*store, key_of(W1), 9, NOW, None).await;
        assert!(issued.is_ok());
    }
    let (mut users, mut entries, mut keys) = (vec![], vec![], vec![]);
    let after =
        async |wallet: Option<&Wallet>| store.users(wallet.copied(), 1).await.unwrap().pop();
    while let Some(user) = after(users.last()).await {
        users.push(user.wallet_address);
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

async fn a_retired_or_revoked_key_is_inactive(store: Store) {
    let make = async || issue_key(&*store, key_of(W1), 1, NOW, None).await;
    let issued = make().await.unwrap();
    assert!(
        store.user(wallet(W1)).await.is_ok(),
        "the account is created with its first key"
    );
    assert!(matches!(make().await, Err(StoreError::Conflict(_))));
    // A rotation: for a minute both keys are active.
    let minute = NOW.plus(Duration::from_secs(60));
    let rotate = async |old, now| rotate_key(&*store, old, minute, None, 10, now).await;
    let (new, old) = rotate(&issued.record, NOW).await.unwrap();
    assert!(old.is_active(NOW) && !old.is_active(minute));
    let found = store.key_by_hash(issued.key.hash()).await;
    assert_eq!(found.as_ref(), Ok(&Some(old.clone())));
    let late = rotate(&old, minute).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    let id = &new.record.id;
    let revoke = async |owner, now| store.revoke_key(id.clone(), owner, now).await;
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
        let recorded = store.record_samples(samples.clone(), NOW).await;
        assert_eq!(recorded, Ok(Recorded { new, first }));
    }
    let read = async |limit| {
        store
            .hashrate(wallet(W1), NOW, Resolution::Raw, limit)
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
        store.record_earning(earning, NOW, None).await
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
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(*change);
    }
}

async fn observers_are_notified_of_a_change_before_its_method_returns(store: Store) {
    let recorder = Arc::new(Recorder::default());
    let weak: Weak<Recorder> = Arc::downgrade(&recorder);
    store.observe(weak);
    let last = || recorder.0.lock().unwrap().pop();
    store.create_user(wallet(W1), NOW, None).await.unwrap();
    assert_eq!(last(), Some(Change::Account));
    grant(&store, W1, FIVE).await.unwrap();
    assert_eq!(last(), Some(Change::Granted(FIVE)));
    let samples = vec![sample(0, 1.0)];
    store.record_samples(samples, NOW).await.unwrap();
    let (new, first) = (1, true);
    assert_eq!(last(), Some(Change::Samples { new, first }));
    let issued = issue_key(&*store, key_of(W1), 9, NOW, None).await;
    let issued = issued.unwrap();
    let revoked = store.revoke_key(issued.record.id, None, NOW).await;
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
    fn changed(&self, _: &Change) {
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
    store.close();
    assert!(!store.is_ready());
    // A failed read is not reported as a missing account.
    let read = store.user(wallet(W1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))));
    let given = grant(&store, W1, ONE).await;
    assert!(matches!(given, Err(StoreError::Unavailable(_))));
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
    let reserve = async || store.reserve(wallet(W1), ONE, NOW).await.unwrap();
    let (back, left) = (reserve().await, reserve().await);
    grant(&store, W1, Credits::from_micro(2_000_000))
        .await
        .unwrap();
    store.refund(back, NOW).await.unwrap();
    assert_eq!(store.refund_open(NOW).await, Ok(1), "{left} stays open");
    assert_eq!(
        balance(&store).await,
        Some(Credits::from_micro(MOST.micro() + 2_000_000))
    );
    // The balance can be spent, and no grant is accepted.
    let full = grant(&store, W1, ONE).await;
    assert!(matches!(full, Err(StoreError::Conflict(_))));
    store.settle(reserve().await, NOW).await.unwrap();
    grant(&store, W1, ONE.negated()).await.unwrap();
    assert_eq!(balance(&store).await, Some(MOST));
    adds_up(&store).await;
}
