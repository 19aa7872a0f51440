//! Sums near the largest integer: what would exceed them is refused, and no charge fails because of them.

use super::super::super::telemetry;
use super::super::super::tests::fresh;
use super::*;
use crate::model::Tokens;
use crate::store::{Actor, Earning, LostRequest};

const MAX: i64 = i64::MAX;

fn database() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let c = fresh(&folder.path().join("edge.db"));
    (folder, c)
}

/// In a transaction of its own, as the writer does it.
fn job<T>(c: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let transaction = c.unchecked_transaction().unwrap();
    let done = work(&transaction)?;
    transaction.commit().unwrap();
    Ok(done)
}

fn give(c: &Connection, to: u32, amount: i64) -> Result<()> {
    let movement = Movement::new(micro(amount), "as the test wants");
    job(c, |c| grant(c, &wallet(to), movement, NOW)).map(drop)
}

fn pay(c: &Connection, of: u32, amount: i64) -> Charged {
    let request = request(wallet(of), amount);
    let done = job(c, |c| {
        super::super::charge(c, &request, charge(amount), NOW)
    });
    done.unwrap().0
}

/// What a statement selects, as text.
fn read(c: &Connection, select: &str) -> String {
    c.query_row(select, [], value).unwrap()
}

const ALL: &str = "SELECT concat_ws(' ', (SELECT group_concat(concat_ws(',', id, credits, total_earnings), ' ') FROM users),
    (SELECT concat_ws(',', users, credits, entries) FROM totals), (SELECT count(*) FROM ledger), (SELECT count(*) FROM earnings_history))";

fn conflict(result: Result<()>, what: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, StoreError::Conflict(detail) if detail.contains(what)),
        "{error:?}"
    );
}

#[test]
fn a_grant_beyond_the_total_of_all_balances_is_a_conflict_and_changes_nothing() {
    let (_folder, c) = database();
    give(&c, 1, 10).unwrap();
    c.execute("UPDATE totals SET credits = ?1", [MAX - 5])
        .unwrap();
    let before = read(&c, ALL);
    for (to, amount) in [(1, 6), (2, 6), (2, 1_000_000_000_000_000)] {
        conflict(give(&c, to, amount), "the total of all balances");
        assert_eq!(read(&c, ALL), before);
    }
    give(&c, 2, 5).unwrap();
    let total = "SELECT credits || '' FROM totals";
    assert_eq!(read(&c, total), MAX.to_string());
    // Charges and debits go on, and what comes back is counted.
    let charged = pay(&c, 1, 4);
    give(&c, 2, -1).unwrap();
    assert_eq!(read(&c, total), (MAX - 5).to_string());
    job(&c, |c| refund(c, &charged, None, NOW)).unwrap();
    assert_eq!(read(&c, total), (MAX - 1).to_string());
    // A file whose total was changed charges and reverses all the same.
    c.execute("UPDATE totals SET credits = ?1", [MAX]).unwrap();
    let charged = pay(&c, 1, 4);
    c.execute("UPDATE totals SET credits = ?1", [MAX]).unwrap();
    job(&c, |c| refund(c, &charged, None, NOW)).unwrap();
    assert_eq!(read(&c, total), MAX.to_string());
}

#[test]
fn an_earning_beyond_the_total_of_its_wallet_is_a_conflict_and_changes_nothing() {
    let (_folder, c) = database();
    give(&c, 1, 10).unwrap();
    let total = "UPDATE users SET total_earnings = ?1 WHERE id = 1";
    c.execute(total, [MAX - 5]).unwrap();
    let before = read(&c, ALL);
    let earn = |amount: i64| {
        let earning = Earning {
            wallet: wallet(1),
            earnings: micro(amount),
            source_id: format!("block-{amount}"),
            recorded_at: NOW,
        };
        job(&c, |c| {
            telemetry::record_earning(c, &earning, OperationId::new(), &Actor::local(NOW))
        })
        .map(drop)
    };
    conflict(earn(6), "the total of the wallet's earnings");
    assert_eq!(read(&c, ALL), before);
    earn(5).unwrap();
    conflict(earn(1), "the total of the wallet's earnings");
    c.execute(total, [0]).unwrap();
    c.execute("UPDATE totals SET credits = ?1", [MAX]).unwrap();
    let before = read(&c, ALL);
    conflict(earn(1), "the total of all balances");
    assert_eq!(read(&c, ALL), before);
}

#[test]
fn sums_of_usage_and_spending_end_at_the_largest_integer_and_the_charge_is_written() {
    let (_folder, c) = database();
    give(&c, 1, 100).unwrap();
    pay(&c, 1, 1);
    let sums = "requests = ?1, charged = ?1, prompt_tokens = ?1, cached_tokens = ?1, completion_tokens = ?1, lost = ?1";
    c.execute(&format!("UPDATE usage SET {sums}"), [MAX - 1])
        .unwrap();
    let spending = Spending { row: 1, period: 0 };
    let spent = "INSERT INTO spending (id, period, spent) VALUES (1, 0, ?1)";
    c.execute(spent, [MAX - 1]).unwrap();
    let limited = HoldRequest {
        limit: Some((spending, micro(MAX))),
        ..request(wallet(1), 7)
    };
    let lost = || LostRequest {
        wallet: wallet(1),
        key_id: charge(7).key_id,
        adapter: charge(7).adapter,
    };
    for _ in 0..2 {
        let (charged, values) =
            job(&c, |c| super::super::charge(c, &limited, charge(7), NOW)).unwrap();
        assert_eq!(charged.amount, micro(7));
        assert!(values.contains(&(Account::Spending(spending), micro(MAX))));
        job(&c, |c| count_lost(c, &lost(), NOW)).unwrap();
    }
    let most = "SELECT count(*) FROM usage WHERE min(requests, charged, prompt_tokens, cached_tokens, completion_tokens, lost) = 9223372036854775807";
    let rows: i64 = c.query_row(most, [], value).unwrap();
    assert_eq!(rows, 1);
    assert_eq!(balance(&c, &wallet(1)), Ok(micro(100 - 1 - 14)));
    // So many tokens that two answers of them are more than can be counted.
    let mut many = charge(1);
    many.adapter = "other".to_owned();
    many.tokens = Some(Tokens {
        prompt: MAX,
        cached: MAX,
        completion: MAX,
    });
    for _ in 0..2 {
        let many = many.clone();
        job(&c, |c| {
            super::super::charge(c, &request(wallet(1), 1), many, NOW)
        })
        .unwrap();
    }
    // It cannot agree with the entries any more, which is found, not an error of the verification.
    let report = super::super::super::verify::verify(&c).unwrap();
    assert_eq!(report.mistakes.len(), 1, "{:?}", report.mistakes);
}
