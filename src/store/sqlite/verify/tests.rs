use super::super::accounts::{self, Movement};
use super::super::telemetry;
use super::super::tests::{charge, fresh, request, wallet};
use super::*;
use crate::model::Timestamp;
use crate::store::{Actor, Charged, Earning, OperationId};

mod tampering;

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);

fn grant(c: &Connection, of: u32, amount: i64) {
    let movement = Movement::new(Credits::from_micro(amount), "as the test wants");
    accounts::grant(c, &wallet(of), movement, NOW).unwrap();
}

/// With a key of its wallet's own.
fn chat(c: &Connection, of: u32, amount: i64) -> Charged {
    let request = request(wallet(of), amount);
    let mut charge = charge(amount);
    charge.key_id = Some(format!("key_{of}"));
    accounts::charge(c, &request, charge, NOW).unwrap().0
}

fn earn(c: &Connection, of: u32, amount: i64) {
    let earning = Earning {
        wallet: wallet(of),
        earnings: Credits::from_micro(amount),
        source_id: OperationId::new().to_string(),
        recorded_at: NOW,
    };
    telemetry::record_earning(c, &earning, OperationId::new(), &Actor::local(NOW)).unwrap();
}

/// A ledger of four wallets; the accounts are numbered as their wallets.
fn ledger() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let c = fresh(&folder.path().join("edge.db"));
    grant(&c, 1, 100);
    grant(&c, 2, 50);
    chat(&c, 1, 3);
    chat(&c, 2, 2);
    grant(&c, 3, 20);
    chat(&c, 1, 5);
    earn(&c, 1, 7);
    grant(&c, 4, 11);
    // The entries from here on are new to the incremental verification.
    chat(&c, 2, 1);
    let charged = chat(&c, 1, 4);
    accounts::refund(&c, &charged, None, NOW).unwrap();
    grant(&c, 1, -9);
    chat(&c, 3, 6);
    chat(&c, 2, 8);
    earn(&c, 3, 13);
    grant(&c, 1, 2);
    chat(&c, 1, 1);
    chat(&c, 1, 1);
    let entries = "SELECT group_concat(id || ' ' || user || ' ' || amount || ' ' || balance, ', ') FROM ledger ORDER BY id";
    let entries: String = c.query_row(entries, [], value).unwrap();
    let expected = "1 1 100 100, 2 2 50 50, 3 1 -3 97, 4 2 -2 48, 5 3 20 20, 6 1 -5 92, 7 1 7 99, 8 4 11 11, \
                    9 2 -1 47, 10 1 -4 95, 11 1 4 99, 12 1 -9 90, 13 3 -6 14, 14 2 -8 39, 15 3 13 27, 16 1 2 92, \
                    17 1 -1 91, 18 1 -1 90";
    assert_eq!(entries, expected);
    (folder, c)
}

const VERIFIED: i64 = 8;

fn verify(c: &Connection, scope: Scope) -> LedgerReport {
    verify_in(c, scope, LedgerVerifier::BLOCK, |_| {})
}

/// In blocks of so many accounts; `between` is called between the steps.
fn verify_in(
    c: &Connection,
    scope: Scope,
    block_size: i64,
    between: impl Fn(&Connection),
) -> LedgerReport {
    let mut verifier = LedgerVerifier {
        block_size,
        ..LedgerVerifier::new(scope)
    };
    let mut steps = 0;
    while !verifier.step(c).unwrap() {
        between(c);
        steps += 1;
        assert!(steps < 1_000, "it does not end");
    }
    verifier.report
}

/// Changes a ledger in a way that the program never does, then verifies it.
fn tampered(change: &str, scope: Scope, block_size: i64) -> Vec<String> {
    let (_folder, c) = ledger();
    remember(&c, VERIFIED).unwrap();
    c.execute_batch(
        "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;
         DROP TRIGGER ledger_is_never_changed; DROP TRIGGER ledger_is_never_deleted;",
    )
    .unwrap();
    c.execute_batch(change).unwrap();
    verify_in(&c, scope, block_size, |_| {}).mistakes
}

/// What is changed among the old entries, and what the error says.
const OLD: &[(&str, &str, &str)] = &[
    (
        "a wrong running balance",
        "UPDATE ledger SET balance = 98 WHERE id = 3",
        "led_0000000000000003: the balance is 0.000098",
    ),
    (
        "a wrong amount",
        "UPDATE ledger SET amount = -4 WHERE id = 3",
        "led_0000000000000003: the balance",
    ),
    (
        "swapped amounts",
        "UPDATE ledger SET amount = CASE id WHEN 3 THEN -5 ELSE -3 END WHERE id IN (3, 6)",
        "led_0000000000000003: the balance",
    ),
    (
        "the first entry of all deleted",
        "DELETE FROM ledger WHERE id = 1",
        "led_0000000000000002: entries before it are missing",
    ),
    (
        "the first entry of a wallet deleted",
        "DELETE FROM ledger WHERE id = 2",
        "led_0000000000000003: entries before it are missing",
    ),
    (
        "an entry in the middle deleted",
        "DELETE FROM ledger WHERE id = 6",
        "led_0000000000000007: entries before it are missing",
    ),
    (
        "merged entries",
        "DELETE FROM ledger WHERE id = 3; UPDATE ledger SET amount = -8 WHERE id = 6",
        "led_0000000000000004: entries before it are missing",
    ),
    (
        "an entry moved to another wallet",
        "UPDATE ledger SET user = 2 WHERE id = 6",
        "led_0000000000000006: the balance",
    ),
    (
        "a first entry moved to another wallet",
        "UPDATE ledger SET user = 4 WHERE id = 5",
        "led_0000000000000008: the balance",
    ),
    (
        "an entry moved in time",
        "UPDATE ledger SET id = -1 WHERE id = 3; UPDATE ledger SET id = 3 WHERE id = 6; UPDATE ledger SET id = 6 WHERE id = -1",
        "led_0000000000000003: the balance",
    ),
    (
        "a history through -20",
        "UPDATE ledger SET amount = -120, balance = -20 WHERE id = 3; UPDATE ledger SET amount = 112 WHERE id = 6",
        "led_0000000000000003: the balance is -0.00002",
    ),
    (
        "an earning deleted",
        "DELETE FROM earnings_history WHERE earnings = 7",
        "its earnings is 0, its entries add up to 0.000007",
    ),
    (
        "an earning changed",
        "UPDATE earnings_history SET earnings = 8 WHERE earnings = 7",
        "its earnings is 0.000008",
    ),
    (
        "a wrong total of earnings",
        "UPDATE users SET total_earnings = 8 WHERE id = 1",
        "the total of its earnings is 0.000008",
    ),
    (
        "a grant called an earning",
        "UPDATE ledger SET reason = 'mining' WHERE id = 2",
        "its entries add up to 0.00005",
    ),
    (
        "the usage changed",
        "UPDATE usage SET charged = charged + 1 WHERE user = 1",
        "its usage is 0.000011, its entries add up to 0.00001",
    ),
    (
        "the usage deleted",
        "DELETE FROM usage WHERE user = 2",
        "its usage is 0",
    ),
    (
        "charges of two wallets swapped, both of the same amount",
        "UPDATE ledger SET user = CASE id WHEN 4 THEN 1 ELSE 2 END, amount = -3, balance = CASE id WHEN 4 THEN 97 ELSE 47 END WHERE id IN (3, 4);
         UPDATE ledger SET balance = balance - 1 WHERE user = 2 AND id > 4; UPDATE users SET credits = credits - 1 WHERE id = 2;
         UPDATE usage SET charged = charged + 1 WHERE user = 2; UPDATE totals SET credits = credits - 1, entries = 18",
        "its usage of a day, key and adapter differs from its entries",
    ),
    (
        "the usage of another key",
        "UPDATE usage SET key = 77 WHERE user = 1",
        "its usage of a day, key and adapter differs",
    ),
    (
        "the usage of another day",
        "UPDATE usage SET day = day - 1 WHERE user = 2",
        "its usage of a day, key and adapter differs",
    ),
    (
        "an earning under another source",
        "UPDATE earnings_history SET source_id = 'other' WHERE earnings = 7",
        "one of its earnings differs",
    ),
    (
        "the charge that was reversed moved",
        "UPDATE ledger SET reason = 'bonus' WHERE id = 10",
        "led_0000000000000011: there is no charge",
    ),
    (
        "an entry of an account that never was",
        "UPDATE ledger SET user = 9000000000 WHERE id = 8",
        "there are entries of account 9000000000, which is missing",
    ),
    (
        "a wrong number of accounts",
        "UPDATE totals SET users = 5",
        "there are 4 accounts, the totals row has 5",
    ),
];

/// What the incremental verification has to find.
const NEW: &[(&str, &str, &str)] = &[
    (
        "a wrong running balance",
        "UPDATE ledger SET balance = 46 WHERE id = 9",
        "led_0000000000000009: the balance",
    ),
    (
        "swapped amounts",
        "UPDATE ledger SET amount = CASE id WHEN 12 THEN 2 ELSE -9 END WHERE id IN (12, 16)",
        "led_0000000000000012: the balance",
    ),
    (
        "the first new entry deleted",
        "DELETE FROM ledger WHERE id = 9",
        "led_0000000000000010: entries before it are missing",
    ),
    (
        "an entry in the middle deleted",
        "DELETE FROM ledger WHERE id = 12",
        "led_0000000000000013: entries before it are missing",
    ),
    (
        "the last entry of a wallet deleted",
        "DELETE FROM ledger WHERE id = 15",
        "the balance is 0.000027, its newest entry has 0.000014",
    ),
    (
        "the newest entry of all deleted",
        "DELETE FROM ledger WHERE id = 18",
        "the balance is 0.00009, its newest entry has 0.000091",
    ),
    (
        "merged entries",
        "DELETE FROM ledger WHERE id = 17; UPDATE ledger SET amount = -2 WHERE id = 18",
        "led_0000000000000018: entries before it are missing",
    ),
    (
        "an entry moved to another wallet",
        "UPDATE ledger SET user = 2 WHERE id = 12",
        "led_0000000000000012: the balance",
    ),
    (
        "the last entry of a wallet moved",
        "UPDATE ledger SET user = 4 WHERE id = 18",
        "led_0000000000000018: the balance",
    ),
    (
        "an entry moved in time",
        "UPDATE ledger SET id = -1 WHERE id = 16; UPDATE ledger SET id = 16 WHERE id = 12; UPDATE ledger SET id = 12 WHERE id = -1",
        "led_0000000000000012: the balance",
    ),
    (
        "a history through -20",
        "UPDATE ledger SET amount = -110, balance = -20 WHERE id = 12; UPDATE ledger SET amount = 112 WHERE id = 16",
        "led_0000000000000012: the balance is -0.00002",
    ),
    (
        "a changed balance",
        "UPDATE users SET credits = 12 WHERE id = 4",
        "the balance is 0.000012, its newest entry has 0.000011",
    ),
    (
        "a wallet without entries that has credits",
        "INSERT INTO users (wallet, credits, created_at) VALUES ('another', 3, 0)",
        "another: the balance is 0.000003, its newest entry has 0",
    ),
    (
        "the newest entry of a wallet changed with its old balance",
        "UPDATE ledger SET amount = 12, balance = 12 WHERE id = 8",
        "the balance is 0.000011, its newest entry has 0.000012",
    ),
    (
        "a wrong total of all balances",
        "UPDATE totals SET credits = credits + 1",
        "the totals row has",
    ),
    (
        "the newest entry of all deleted with all that depends on it",
        "DELETE FROM ledger WHERE id = 18; UPDATE users SET credits = 91 WHERE id = 1;
         UPDATE totals SET credits = (SELECT sum(credits) FROM users), entries = 18; UPDATE usage SET charged = charged - 1, requests = requests - 1 WHERE user = 1",
        "the newest entry is led_0000000000000017, the totals row has 18 entries",
    ),
    (
        "the newest two entries of all merged",
        "DELETE FROM ledger WHERE id = 18; UPDATE ledger SET amount = -2, balance = 90 WHERE id = 17",
        "the newest entry is led_0000000000000017, the totals row has 18 entries",
    ),
    (
        "balances that are more than can be counted",
        "UPDATE users SET credits = 9223372036854775807",
        "the total of all balances is 9223372036854.775807, the totals row",
    ),
    (
        "a totals row deleted",
        "DELETE FROM totals",
        "the totals row is missing",
    ),
    (
        "a deleted account",
        "DELETE FROM users WHERE id = 3; UPDATE totals SET users = 3, credits = credits - 27",
        "there are entries of account 3, which is missing",
    ),
    (
        "everything after the last verification deleted",
        "DELETE FROM ledger; UPDATE users SET credits = 0; DELETE FROM usage",
        "entries that were verified before are missing",
    ),
];

#[test]
fn every_way_to_tamper_with_a_ledger_is_found_by_a_full_verification() {
    // In one block, and with each account or two in a block of its own.
    for block_size in [LedgerVerifier::BLOCK, 2, 1] {
        for (what, change, error) in OLD.iter().chain(NEW) {
            let found = tampered(change, Scope::Full, block_size);
            let is_found = found.iter().any(|found| found.contains(error));
            assert!(
                is_found,
                "{what}, {block_size} accounts a block: {found:#?}"
            );
        }
    }
}

#[test]
fn the_incremental_verification_finds_what_is_wrong_in_new_entries_and_every_wrong_balance() {
    for (what, change, error) in NEW {
        let found = tampered(change, Scope::New, LedgerVerifier::BLOCK);
        let is_found = found.iter().any(|found| found.contains(error));
        assert!(is_found, "{what}: {found:#?}");
    }
}

#[test]
fn entries_that_were_verified_and_then_removed_without_a_trace_are_missed() {
    let hidden = "UPDATE verified SET entry = 18;
         UPDATE ledger SET amount = -2, balance = 90 WHERE id = 17; DELETE FROM ledger WHERE id = 18";
    for scope in [Scope::Full, Scope::New] {
        let found = tampered(hidden, scope, LedgerVerifier::BLOCK);
        let counted = "the newest entry is led_0000000000000017, the totals row has 18 entries";
        assert_eq!(
            found,
            ["entries that were verified before are missing", counted]
        );
    }
}

#[test]
fn a_sound_ledger_has_no_error_and_every_entry_and_wallet_is_counted_once() {
    let (_folder, c) = ledger();
    for block_size in [LedgerVerifier::BLOCK, 5, 4, 3, 2, 1] {
        let report = verify_in(&c, Scope::Full, block_size, |_| {});
        let expected = LedgerReport {
            wallets: 4,
            entries: 18,
            mistakes: Vec::new(),
        };
        assert_eq!(report, expected, "{block_size} accounts a block");
    }
    remember(&c, VERIFIED).unwrap();
    let report = verify(&c, Scope::New);
    assert_eq!((report.wallets, report.entries), (4, 18 - VERIFIED));
    assert_eq!(report.mistakes, [""; 0]);
}

#[test]
fn an_empty_ledger_has_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let c = fresh(&folder.path().join("edge.db"));
    for scope in [Scope::Full, Scope::New] {
        assert_eq!(verify(&c, scope), LedgerReport::default());
    }
}

#[test]
fn writes_between_the_steps_are_no_errors() {
    let (_folder, c) = ledger();
    let number = std::cell::Cell::new(100);
    let write = |c: &Connection| {
        for of in [1, 2, 3, 4, number.get()] {
            number.set(number.get() + 1);
            grant(c, of, 9);
            let charged = chat(c, of, 2);
            chat(c, of, 1);
            accounts::refund(c, &charged, None, NOW).unwrap();
            earn(c, of, 3);
            grant(c, of, -1);
        }
    };
    for block_size in [LedgerVerifier::BLOCK, 3, 1] {
        for scope in [Scope::Full, Scope::New] {
            // A few times, as a block of one account has a walk for each account that is added.
            let left = std::cell::Cell::new(12);
            let report = verify_in(&c, scope, block_size, |c| {
                if left.replace(left.get() - 1) > 0 {
                    write(c);
                }
            });
            assert_eq!(report.mistakes, [""; 0], "{scope:?} {block_size}");
        }
    }
}

#[test]
fn a_ledger_longer_than_a_step_is_walked_in_several() {
    let (_folder, c) = ledger();
    let transaction = c.unchecked_transaction().unwrap();
    for _ in 0..LedgerVerifier::ROWS + 10 {
        let movement = Movement::new(Credits::from_micro(1), "many");
        accounts::post(&c, 1, movement, NOW).unwrap();
    }
    transaction.commit().unwrap();
    let walks = std::cell::Cell::new(0);
    let report = verify_in(&c, Scope::Full, LedgerVerifier::BLOCK, |_| {
        walks.set(walks.get() + 1)
    });
    assert_eq!(report.entries, 18 + LedgerVerifier::ROWS + 10);
    assert_eq!(report.mistakes, [""; 0]);
    assert!(walks.get() >= 4, "{}", walks.get());
}

#[tokio::test]
async fn the_position_is_remembered_only_if_there_is_no_error() {
    use crate::store::Repository;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let store = crate::SqliteStore::open(&path, true).unwrap();
    let grant = async || {
        let reason = "as the test wants".to_owned();
        let granted = store.grant(
            wallet(1),
            Credits::from_micro(5),
            reason,
            None,
            Actor::local(NOW),
            None,
        );
        granted.await.unwrap();
    };
    let counted = async |full| store.verify_ledger(full).await.unwrap().entries;
    grant().await;
    grant().await;
    assert_eq!(counted(false).await, 2);
    assert_eq!(counted(false).await, 0);
    grant().await;
    assert_eq!(counted(false).await, 1);
    assert_eq!(counted(true).await, 3);
    grant().await;
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(Duration::from_secs(5)).unwrap();
    let set = |credits: i64| {
        // As if no trigger had counted it.
        let set = format!("UPDATE users SET credits = {credits}; UPDATE totals SET entries = 4");
        other.execute_batch(&set).unwrap();
    };
    set(21);
    for _ in 0..2 {
        let report = store.verify_ledger(false).await.unwrap();
        assert_eq!(
            (report.entries, report.mistakes.len()),
            (1, 1),
            "{report:?}"
        );
    }
    // An entry that was checked with an error is checked again.
    set(20);
    assert_eq!(counted(false).await, 1);
    assert_eq!(counted(false).await, 0);
    drop(other);
    store.close();
}
