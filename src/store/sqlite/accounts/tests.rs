//! Money over a whole store, with COMMITs that fail, and with those that return an error although they happened.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use rusqlite::Transaction;

use super::super::tests::{charge, request, wallet};
use super::super::writer::Written;
use super::*;
use crate::store::{
    Change, Hold, HoldTable, NotWritten, Origin, Outcome, Repository, Spending, SqliteStore,
    StoreObserver,
};

mod overflow;
mod races;
mod simulation;
mod size;

/// How often a random test goes on; PROPTEST_CASES sets more.
fn cases(default: u32) -> u32 {
    match proptest::test_runner::Config::default().cases {
        // proptest's own default.
        256 => default,
        more => more,
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);

/// A store of its own.
struct Bank {
    store: Option<Arc<SqliteStore>>,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Bank {
    type Target = Arc<SqliteStore>;

    fn deref(&self) -> &Arc<SqliteStore> {
        self.store.as_ref().unwrap()
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.store.take().unwrap().close();
    }
}

fn micro(amount: i64) -> Credits {
    Credits::from_micro(amount)
}

fn io_error() -> rusqlite::Error {
    let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(error, None)
}

impl Bank {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
        Self {
            store: Some(Arc::new(store)),
            folder,
        }
    }

    /// One with so many micro-credits in wallet 1.
    async fn with(amount: i64) -> Self {
        let bank = Self::new();
        bank.give(1, amount).await.unwrap();
        bank
    }

    /// Closes the store, as a shutdown does, and opens its file again.
    fn reopen(&mut self) {
        self.close();
        let path = self.folder.path().join("edge.db");
        self.store = Some(Arc::new(SqliteStore::open(&path, false).unwrap()));
    }

    /// Grants, or takes if negative.
    async fn give(&self, to: u32, amount: i64) -> Result<Outcome<(LedgerEntry, bool)>> {
        let reason = "as the test wants".to_owned();
        (self.store())
            .grant(
                wallet(to),
                micro(amount),
                reason,
                None,
                Actor::local(NOW),
                None,
            )
            .await
    }

    fn store(&self) -> &Arc<SqliteStore> {
        self.store.as_ref().unwrap()
    }

    async fn promise(&self, of: u32, amount: i64) -> Result<Hold> {
        self.store().hold(request(wallet(of), amount)).await
    }

    async fn credits(&self, of: u32) -> i64 {
        self.store().user(wallet(of)).await.unwrap().credits.micro()
    }

    /// The amounts in the ledger of a wallet, oldest first.
    async fn amounts(&self, of: u32) -> Vec<i64> {
        let (_, mut entries) = self.store().ledger(wallet(of), None, 1_000).await.unwrap();
        entries.reverse();
        entries.iter().map(|entry| entry.amount.micro()).collect()
    }

    /// What the next COMMIT does instead.
    fn next_commit(
        &self,
        commit: impl FnOnce(Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) {
        let faults = self.store().writer.faults();
        faults.commits.lock().unwrap().push_back(Box::new(commit));
    }

    /// The next COMMIT returns an error and did not happen.
    fn next_commit_fails(&self) {
        self.next_commit(|transaction| {
            transaction.rollback()?;
            Err(io_error())
        });
    }

    /// The next COMMIT returns an error although it happened.
    fn next_commit_lies(&self) {
        self.next_commit(|transaction| {
            transaction.commit()?;
            Err(io_error())
        });
    }

    /// From the next failure on nothing can be written, until this is called with `false`.
    fn lasting_fault(&self, lasts: bool) {
        let faults = self.store().writer.faults();
        faults.lasting.store(lasts, Ordering::SeqCst);
    }

    /// Keeps the writer busy until the sender is dropped, so that what is queued meanwhile forms one group.
    async fn busy(&self) -> std::sync::mpsc::Sender<()> {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let mut job = Box::pin(self.store().writer.write(1, move |_| {
            let _ = began.send(());
            let _ = gate.recv();
            Ok(((), Written::default()))
        }));
        assert!(poll(&mut job).await.is_pending());
        begun.await.unwrap();
        open
    }

    /// Returns when everything that is queued now is done, and a fault is over.
    async fn settle(&self) {
        while self
            .store()
            .write(|_| Ok::<_, StoreError>(()))
            .await
            .is_err()
        {}
    }

    async fn assert_sound(&self) {
        let report = self.store().verify_ledger(true).await.unwrap();
        assert_eq!(report.mistakes, [""; 0]);
    }
}

async fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

fn refused(held: Result<Hold>) -> StoreError {
    held.unwrap_err()
}

fn insufficient(needed: i64, balance: i64) -> StoreError {
    StoreError::Insufficient {
        needed: micro(needed),
        balance: micro(balance),
    }
}

#[tokio::test]
async fn a_charge_whose_commit_returned_an_error_but_happened_is_charged_once() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    bank.next_commit_lies();
    let charged = bank.store().charge(hold, charge(4), NOW).await.unwrap();
    assert_eq!((charged.entry, charged.amount), (Some(2), micro(4)));
    assert_eq!(bank.amounts(1).await, [10, -4]);
    assert_eq!(bank.credits(1).await, 6);
    // The whole rest is available, and no more.
    assert_eq!(refused(bank.promise(1, 7).await), insufficient(7, 6));
    drop(bank.promise(1, 6).await.unwrap());
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_charge_whose_commit_did_not_happen_gives_its_hold_back_and_the_amount_stays_held() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    bank.next_commit_fails();
    let failed = bank.store().charge(hold, charge(4), NOW).await.unwrap_err();
    assert!(matches!(failed.error, StoreError::Unavailable(_)));
    assert_eq!(bank.store().holds.held(), (1, micro(6)));
    assert_eq!(bank.amounts(1).await, [10]);
    assert_eq!(refused(bank.promise(1, 5).await), insufficient(5, 4));
    // It is tried again with the same operation.
    let hold = failed.hold.unwrap();
    let operation = hold.request().operation;
    let charged = bank.store().charge(hold, charge(4), NOW).await.unwrap();
    assert_eq!(charged.request.operation, operation);
    assert_eq!(bank.amounts(1).await, [10, -4]);
    drop(bank.promise(1, 6).await.unwrap());
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_charge_that_is_not_written_and_not_tried_again_frees_its_amount() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 10).await.unwrap();
    bank.next_commit_fails();
    let failed = bank.store().charge(hold, charge(4), NOW).await.unwrap_err();
    failed.hold.unwrap().release();
    drop(bank.promise(1, 10).await.unwrap());
    assert_eq!(bank.amounts(1).await, [10]);
}

#[tokio::test]
async fn a_debit_whose_commit_returned_an_error_is_done_once_or_not_at_all() {
    let bank = Bank::with(10).await;
    bank.next_commit_lies();
    let taken = bank.give(1, -4).await.unwrap();
    assert_eq!(
        taken.as_new().map(|(entry, _)| entry.balance),
        Some(micro(6))
    );
    bank.next_commit_fails();
    let failed = bank.give(1, -6).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)));
    assert_eq!(bank.amounts(1).await, [10, -4]);
    // Its hold ended: what was not taken is available.
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
    assert_eq!(refused(bank.promise(1, 7).await), insufficient(7, 6));
    drop(bank.promise(1, 6).await.unwrap());
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_grant_whose_commit_returned_an_error_is_done_once_or_not_at_all() {
    let bank = Bank::with(10).await;
    // Loaded before, so that only the commit's own value can be known.
    drop(bank.promise(1, 1).await.unwrap());
    bank.next_commit_lies();
    let granted = bank.give(1, 5).await.unwrap();
    assert_eq!(
        granted.as_new().map(|(entry, _)| entry.balance),
        Some(micro(15))
    );
    drop(bank.promise(1, 15).await.unwrap());
    bank.next_commit_fails();
    let failed = bank.give(1, 5).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)));
    assert_eq!(refused(bank.promise(1, 16).await), insufficient(16, 15));
    assert_eq!(bank.amounts(1).await, [10, 5]);
    bank.assert_sound().await;
}

#[tokio::test]
async fn the_refund_of_a_charge_whose_commit_returned_an_error_is_done_once() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    let charged = bank.store().charge(hold, charge(4), NOW).await.unwrap();
    bank.next_commit_fails();
    assert!(bank.store().refund(charged, None, NOW).await.is_err());
    bank.next_commit_lies();
    bank.store().refund(charged, None, NOW).await.unwrap();
    assert_eq!(bank.amounts(1).await, [10, -4, 4]);
    drop(bank.promise(1, 10).await.unwrap());
    bank.assert_sound().await;
}

/// Queues a charge, a grant, a debit, a new account and a debit that is refused as one group, whose COMMIT returns an error.
async fn group_with_unknown_outcome(happens: bool) {
    let bank = Bank::with(10).await;
    bank.give(2, 3).await.unwrap();
    let hold = bank.promise(1, 6).await.unwrap();
    let open = bank.busy().await;
    // The busy job has a COMMIT of its own.
    bank.next_commit(|transaction| transaction.commit());
    match happens {
        true => bank.next_commit_lies(),
        false => bank.next_commit_fails(),
    }
    let store = Arc::clone(bank.store());
    let mut account = Box::pin(store.create_user(wallet(3), Actor::local(NOW), None));
    let mut charging = Box::pin(store.charge(hold, charge(4), NOW));
    let mut granting = Box::pin(bank.give(2, 5));
    let mut taking = Box::pin(bank.give(1, -4));
    let mut missing = Box::pin(bank.store().revoke_key(
        "key_none".to_owned(),
        None,
        Actor::local(NOW),
    ));
    assert!(poll(&mut account).await.is_pending());
    assert!(poll(&mut charging).await.is_pending());
    assert!(poll(&mut granting).await.is_pending());
    assert!(poll(&mut taking).await.is_pending());
    assert!(poll(&mut missing).await.is_pending());
    drop(open);
    let (account, charged, granted, taken) =
        (account.await, charging.await, granting.await, taking.await);
    assert_eq!(missing.await.unwrap_err(), StoreError::KeyNotFound);
    assert_eq!(account.is_ok(), happens);
    assert_eq!(granted.is_ok(), happens);
    assert_eq!(taken.is_ok(), happens);
    match charged {
        Ok(charged) => assert!(happens, "{charged:?}"),
        Err(NotWritten { hold, .. }) => {
            assert!(!happens);
            assert_eq!(bank.store().holds.held(), (1, micro(6)));
            drop(hold);
        }
    }
    let (first, second) = match happens {
        true => (vec![10, -4, -4], vec![3, 5]),
        false => (vec![10], vec![3]),
    };
    assert_eq!(bank.amounts(1).await, first);
    assert_eq!(bank.amounts(2).await, second);
    for (of, amounts) in [(1, first), (2, second)] {
        let balance = amounts.iter().sum();
        let more = refused(bank.promise(of, balance + 1).await);
        assert_eq!(more, insufficient(balance + 1, balance));
        drop(bank.promise(of, balance).await.unwrap());
    }
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_group_whose_commit_returned_an_error_but_happened_is_done_as_a_whole() {
    group_with_unknown_outcome(true).await;
}

#[tokio::test]
async fn a_group_whose_commit_did_not_happen_is_undone_as_a_whole() {
    group_with_unknown_outcome(false).await;
}

#[tokio::test]
async fn an_unknown_outcome_is_decided_before_the_next_group_whatever_the_error_was() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    bank.next_commit(|transaction| {
        transaction.commit()?;
        Err(rusqlite::Error::InvalidQuery)
    });
    let charged = bank.store().charge(hold, charge(4), NOW).await;
    assert!(charged.is_ok(), "{charged:?}");
    bank.next_commit(|transaction| {
        transaction.rollback()?;
        Err(rusqlite::Error::InvalidQuery)
    });
    assert!(bank.give(1, 5).await.is_err());
    bank.give(1, 7).await.unwrap();
    assert_eq!(bank.amounts(1).await, [10, -4, 7]);
}

#[tokio::test]
async fn a_charge_committed_to_a_file_that_is_moved_away_for_a_moment_is_charged_once() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    let path = bank.folder.path().join("edge.db");
    let away = bank.folder.path().join("away.db");
    let (from, to) = (path.clone(), away.clone());
    bank.next_commit(move |transaction| {
        transaction.commit()?;
        std::fs::rename(from, to).unwrap();
        Ok(())
    });
    let mut charging = Box::pin(bank.store().charge(hold, charge(4), NOW));
    assert!(poll(&mut charging).await.is_pending());
    while bank.store().writer.is_ready() {
        tokio::task::yield_now().await;
    }
    assert!(poll(&mut charging).await.is_pending());
    assert_eq!(bank.store().holds.held(), (1, micro(6)));
    std::fs::rename(away, path).unwrap();
    assert!(charging.await.is_ok());
    assert_eq!(bank.amounts(1).await, [10, -4]);
}

#[tokio::test]
async fn a_charge_goes_on_when_its_caller_is_dropped_after_it_was_queued() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    let open = bank.busy().await;
    let mut charging = Box::pin(bank.store().charge(hold, charge(4), NOW));
    assert!(poll(&mut charging).await.is_pending());
    drop(charging);
    // It is held until it is charged.
    assert_eq!(bank.store().holds.held(), (1, micro(6)));
    drop(open);
    bank.settle().await;
    assert_eq!(bank.amounts(1).await, [10, -4]);
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
    drop(bank.promise(1, 6).await.unwrap());
}

#[tokio::test]
async fn a_debit_goes_on_when_its_caller_is_dropped_after_it_was_queued() {
    let bank = Bank::with(10).await;
    let open = bank.busy().await;
    let mut taking = Box::pin(bank.give(1, -4));
    while bank.store().writer.depth() == 0 {
        assert!(poll(&mut taking).await.is_pending());
    }
    drop(taking);
    assert_eq!(bank.store().holds.held(), (1, micro(4)));
    drop(open);
    bank.settle().await;
    assert_eq!(bank.amounts(1).await, [10, -4]);
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
}

#[tokio::test]
async fn a_hold_ends_uncharged_when_its_caller_is_dropped_before_or_its_commit_fails_after() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    drop(bank.store().charge(hold, charge(4), NOW));
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
    let hold = bank.promise(1, 6).await.unwrap();
    let open = bank.busy().await;
    bank.next_commit(|transaction| transaction.commit());
    bank.next_commit_fails();
    let mut charging = Box::pin(bank.store().charge(hold, charge(4), NOW));
    assert!(poll(&mut charging).await.is_pending());
    drop(charging);
    drop(open);
    bank.settle().await;
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
    assert_eq!(bank.amounts(1).await, [10]);
}

/// A lasting fault that begins with a COMMIT that returns an error, and what follows.
async fn fault_begins_with_a_commit(happens: bool) {
    let bank = Bank::with(10).await;
    let (first, other) = (
        bank.promise(1, 6).await.unwrap(),
        bank.promise(1, 2).await.unwrap(),
    );
    let open = bank.busy().await;
    bank.next_commit(|transaction| transaction.commit());
    match happens {
        true => bank.next_commit_lies(),
        false => bank.next_commit_fails(),
    }
    bank.lasting_fault(true);
    let mut charging = Box::pin(bank.store().charge(first, charge(4), NOW));
    assert!(poll(&mut charging).await.is_pending());
    // It may fit once the charge is written, so it waits.
    let mut waiting = Box::pin(bank.promise(1, 4));
    assert!(poll(&mut waiting).await.is_pending());
    drop(open);
    let fault = refused(waiting.await);
    assert!(matches!(fault, StoreError::Unavailable(_)), "{fault}");
    // While it lasts nothing is promised or written, and nothing is answered that is not decided.
    assert_eq!(refused(bank.promise(1, 1).await), fault);
    assert_eq!(bank.give(1, 5).await.unwrap_err(), fault);
    let failed = bank
        .store()
        .charge(other, charge(2), NOW)
        .await
        .unwrap_err();
    assert_eq!(failed.error, fault);
    let other = failed.hold.unwrap();
    assert!(poll(&mut charging).await.is_pending());
    assert_eq!(bank.store().holds.held(), (2, micro(8)));
    assert!(!bank.store().writer.is_ready());
    bank.lasting_fault(false);
    // After an answer the storage works.
    match charging.await {
        Ok(charged) => {
            assert!(happens);
            assert_eq!(charged.amount, micro(4));
        }
        Err(NotWritten { hold, .. }) => {
            assert!(!happens);
            let hold = hold.unwrap();
            bank.store().charge(hold, charge(4), NOW).await.unwrap();
        }
    }
    drop(bank.promise(1, 4).await.unwrap());
    bank.store().charge(other, charge(2), NOW).await.unwrap();
    assert_eq!(bank.amounts(1).await, [10, -4, -2]);
    drop(bank.promise(1, 4).await.unwrap());
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_fault_ends_the_waiting_refuses_holds_and_keeps_a_charge_that_happened() {
    fault_begins_with_a_commit(true).await;
}

#[tokio::test]
async fn a_fault_ends_the_waiting_refuses_holds_and_keeps_what_was_not_charged_held() {
    fault_begins_with_a_commit(false).await;
}

#[tokio::test]
async fn a_charge_that_is_undecided_when_the_store_is_closed_is_decided_by_the_file() {
    for (happens, is_readable) in [(true, true), (false, true), (true, false)] {
        let mut bank = Bank::with(10).await;
        let hold = bank.promise(1, 6).await.unwrap();
        match happens {
            true => bank.next_commit_lies(),
            false => bank.next_commit_fails(),
        }
        bank.lasting_fault(true);
        let store = Arc::clone(bank.store());
        let mut charging = Box::pin(store.charge(hold, charge(4), NOW));
        assert!(poll(&mut charging).await.is_pending());
        while bank.store().writer.is_ready() {
            tokio::task::yield_now().await;
        }
        bank.lasting_fault(!is_readable);
        bank.store().writer.close();
        assert_eq!(charging.await.is_ok(), happens && is_readable);
        drop(store);
        bank.reopen();
        let expected: &[i64] = if happens { &[10, -4] } else { &[10] };
        assert_eq!(bank.amounts(1).await, expected);
        assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
        drop(bank.promise(1, expected.iter().sum()).await.unwrap());
        bank.assert_sound().await;
    }
}

#[tokio::test]
async fn a_charge_of_a_closed_store_is_not_written() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    bank.store().close();
    let failed = bank.store().charge(hold, charge(4), NOW).await.unwrap_err();
    assert_eq!(failed.error, super::super::closed());
    assert_eq!(refused(bank.promise(1, 1).await), super::super::closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_charge_is_answered_a_hold_of_the_rest_always_succeeds() {
    let bank = Bank::with(2_000).await;
    let spending = Spending { row: 1, period: 0 };
    let mut rest = 2_000;
    for _ in 0..1_000 {
        // The runtime lets a task that never pauses wait.
        tokio::task::yield_now().await;
        // Of the wallet and of the limit of the key.
        let limited = HoldRequest {
            limit: Some((spending, micro(2_000))),
            ..request(wallet(1), rest)
        };
        let hold = bank.store().hold(limited).await.unwrap();
        let mut charging = Box::pin(bank.store().charge(hold, charge(1), NOW));
        // Without a pause, so that what follows the answer is as early as it can be.
        while poll(&mut charging).await.is_pending() {
            std::hint::spin_loop();
        }
        assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
        rest -= 1;
    }
    assert_eq!(bank.credits(1).await, 1_000);
    bank.assert_sound().await;
}

/// Holds what was granted as soon as it is notified.
struct Hasty {
    holds: Arc<HoldTable>,
    held: std::sync::Mutex<Vec<bool>>,
}

impl StoreObserver for Hasty {
    fn changed(&self, change: &Change, _: Origin) {
        if !matches!(change, Change::Granted(_)) {
            return;
        }
        let read = async |_| unreachable!("it is loaded");
        let mut hold = Box::pin(self.holds.hold(request(wallet(1), 15), read));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let held = matches!(hold.as_mut().poll(&mut context), Poll::Ready(Ok(_)));
        self.held.lock().unwrap().push(held);
    }
}

#[tokio::test]
async fn a_grant_can_be_held_by_each_observer_of_it() {
    let bank = Bank::with(10).await;
    let hasty = Arc::new(Hasty {
        holds: Arc::clone(&bank.store().holds),
        held: std::sync::Mutex::default(),
    });
    let weak = Arc::downgrade(&hasty);
    bank.store().observe(weak);
    bank.give(1, 5).await.unwrap();
    assert_eq!(*hasty.held.lock().unwrap(), [true]);
}

#[tokio::test]
async fn a_charge_is_never_more_than_was_held_or_is_there() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 6).await.unwrap();
    let charged = bank.store().charge(hold, charge(9), NOW).await.unwrap();
    assert_eq!(charged.amount, micro(6));
    // Only another program can take what is held.
    let hold = bank.promise(1, 4).await.unwrap();
    let take = |c: &Connection| {
        let (user, _) = account(c, &wallet(1))?;
        post(c, user, Movement::new(micro(-3), "by another"), NOW).map(drop)
    };
    bank.store().write(take).await.unwrap();
    let charged = bank.store().charge(hold, charge(4), NOW).await.unwrap();
    assert_eq!(charged.amount, micro(1));
    assert_eq!(bank.amounts(1).await, [10, -6, -3, -1]);
    bank.assert_sound().await;
}

#[tokio::test]
async fn a_charge_of_nothing_writes_no_entry_and_ends_its_hold() {
    let bank = Bank::with(10).await;
    let hold = bank.promise(1, 10).await.unwrap();
    let charged = bank.store().charge(hold, charge(0), NOW).await.unwrap();
    assert_eq!((charged.entry, charged.amount), (None, Credits::ZERO));
    assert_eq!(bank.amounts(1).await, [10]);
    drop(bank.promise(1, 10).await.unwrap());
    let requests = "SELECT requests FROM usage";
    let requests = bank.store().read(|c| one(c, requests, [], value::<i64>));
    assert_eq!(requests.await, Ok(1));
    bank.assert_sound().await;
}
