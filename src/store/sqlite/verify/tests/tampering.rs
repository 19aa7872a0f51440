//! Every way to change one or two entries, at each of their places: alone, with the running balances computed anew, and with
//! the balances of the accounts and their total too. Whether it can be found is asked of SQL that knows nothing of the verifier.

use super::*;

/// How much of what follows from the entries is changed with them.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Adapted {
    Nothing,
    RunningBalances,
    /// The triggers are dropped meanwhile, so that they count nothing.
    AllBalances,
}

impl Adapted {
    fn statements(self) -> &'static str {
        const RUNNING: &str = "
            UPDATE ledger SET balance = (SELECT sum(b.amount) FROM ledger b WHERE b.user = ledger.user AND b.id <= ledger.id);";
        match self {
            Self::Nothing => "",
            Self::RunningBalances => RUNNING,
            Self::AllBalances => {
                "UPDATE ledger SET balance = (SELECT sum(b.amount) FROM ledger b WHERE b.user = ledger.user AND b.id <= ledger.id);
                 UPDATE users SET credits = coalesce((SELECT sum(amount) FROM ledger WHERE user = users.id), 0);
                 UPDATE totals SET credits = (SELECT sum(credits) FROM users);"
            }
        }
    }
}

/// What is wrong with a ledger, one number for each rule.
const WRONG: &str = "
    WITH charges AS (
        SELECT l.user AS user, coalesce(r.created_at, l.created_at) / 86400000 AS day, coalesce(iif(r.id IS NULL, l.key, r.key), 0) AS key,
               coalesce(iif(r.id IS NULL, l.adapter, r.adapter), '') AS adapter, -l.amount AS charged
        FROM ledger l LEFT JOIN ledger r ON l.reason = 'chat_refund' AND r.id = CAST(substr(l.reference, 5) AS INTEGER)
             AND r.reason = 'chat' AND r.user = l.user AND r.amount = -l.amount AND r.id < l.id
        WHERE l.reason IN ('chat', 'chat_refund')),
    used AS (
        SELECT user, day, key, adapter, sum(charged) AS charged FROM (
            SELECT user, day, key, adapter, charged FROM charges UNION ALL SELECT user, day, key, adapter, -charged FROM usage)
        GROUP BY user, day, key, adapter HAVING sum(charged) <> 0),
    earned AS (
        SELECT wallet, source, sum(amount) FROM (
            SELECT u.wallet AS wallet, l.reference AS source, l.amount AS amount FROM ledger l JOIN users u ON u.id = l.user WHERE l.reason = 'mining'
            UNION ALL SELECT wallet, source_id, -earnings FROM earnings_history)
        GROUP BY wallet, source HAVING sum(amount) <> 0),
    chain AS (SELECT balance, amount + coalesce(lag(balance) OVER (PARTITION BY user ORDER BY id), 0) AS expected FROM ledger)
    SELECT (SELECT count(*) FROM ledger) <> (SELECT max(id) FROM ledger),
           (SELECT max(id) FROM ledger) <> (SELECT entries FROM totals),
           (SELECT count(*) FROM chain WHERE balance <> expected OR balance < 0),
           (SELECT count(*) FROM users u WHERE credits <> coalesce((SELECT balance FROM ledger WHERE user = u.id ORDER BY id DESC LIMIT 1), 0)),
           (SELECT count(*) FROM users u WHERE total_earnings <> (SELECT coalesce(sum(amount), 0) FROM ledger WHERE user = u.id AND reason = 'mining')),
           (SELECT count(*) FROM used),
           (SELECT count(*) FROM earned),
           (SELECT credits FROM totals) <> (SELECT sum(credits) FROM users),
           (SELECT count(*) FROM ledger WHERE user NOT IN (SELECT id FROM users))";

/// The rules that are broken.
fn wrong(c: &Connection) -> Vec<usize> {
    let numbers: Vec<i64> = c
        .query_row(WRONG, [], |row| (0..9).map(|at| row.get(at)).collect())
        .unwrap();
    let broken = numbers.iter().enumerate().filter(|(_, found)| **found != 0);
    broken.map(|(rule, _)| rule).collect()
}

/// The entries; two files with the same ones are the same to every reader of a ledger.
fn entries(c: &Connection) -> String {
    let all = "SELECT group_concat(concat_ws(' ', id, user, amount, balance, reason, reference, hex(operation), created_at, key, adapter), ',') FROM
               (SELECT * FROM ledger ORDER BY id)";
    c.query_row(all, [], value).unwrap()
}

/// The changes, each with the newest entry that it touches.
fn changes() -> Vec<(String, i64)> {
    const LAST: i64 = 24;
    let mut changes = Vec::new();
    for n in 1..=LAST {
        let mut one = |change: &str| changes.push((change.replace('#', &n.to_string()), n));
        one("DELETE FROM ledger WHERE id = #");
        one("DELETE FROM ledger WHERE id = #; UPDATE ledger SET id = id - 1 WHERE id > #");
        one("UPDATE ledger SET amount = amount + 1 WHERE id = #");
        one("UPDATE ledger SET amount = -amount WHERE id = #");
        one("UPDATE ledger SET balance = balance - 1 WHERE id = #");
        one("UPDATE ledger SET amount = amount - balance - 20, balance = -20 WHERE id = #");
        one("UPDATE ledger SET created_at = created_at - 86400000 WHERE id = #");
        one("UPDATE ledger SET key = 1 + key % 4 WHERE id = #");
        one("UPDATE ledger SET adapter = 'other' WHERE id = #");
        one("UPDATE ledger SET reason = 'bonus' WHERE id = #");
        one("UPDATE ledger SET reason = 'mining' WHERE id = #");
        one("UPDATE ledger SET reference = 'other' WHERE id = #");
        // Merged into the next of its wallet.
        one("UPDATE ledger SET amount = amount + (SELECT amount FROM ledger WHERE id = #)
             WHERE id = (SELECT min(id) FROM ledger WHERE id > # AND user = (SELECT user FROM ledger WHERE id = #));
             DELETE FROM ledger WHERE id = #");
        one("UPDATE ledger SET amount = amount + (SELECT amount FROM ledger WHERE id = #)
             WHERE id = (SELECT min(id) FROM ledger WHERE id > # AND user = (SELECT user FROM ledger WHERE id = #));
             DELETE FROM ledger WHERE id = #; UPDATE ledger SET id = id - 1 WHERE id > #");
        for user in 1..=5 {
            changes.push((format!("UPDATE ledger SET user = {user} WHERE id = {n}"), n));
        }
        for m in n + 1..=LAST {
            for column in ["amount", "user", "balance", "key"] {
                changes.push((
                    format!("UPDATE ledger SET {column} = (SELECT {column} FROM ledger WHERE id = {n} + {m} - l.id) FROM (SELECT id, {column} FROM ledger) l WHERE ledger.id = l.id AND l.id IN ({n}, {m})"),
                    m,
                ));
            }
            changes.push((
                format!(
                    "UPDATE ledger SET id = -1 WHERE id = {n}; UPDATE ledger SET id = {n} WHERE id = {m}; UPDATE ledger SET id = {m} WHERE id = -1"
                ),
                m,
            ));
        }
    }
    changes
}

/// The ledger of the other tests, then a wallet with two earnings and charges of two days, keys and adapters.
fn longer() -> (tempfile::TempDir, Connection) {
    let (folder, c) = ledger();
    let tomorrow = NOW.plus(Duration::from_secs(86_400));
    earn(&c, 1, 5);
    let other = |adapter: &str, key: &str, at| {
        let mut charge = charge(2);
        (charge.adapter, charge.key_id) = (adapter.to_owned(), Some(key.to_owned()));
        accounts::charge(&c, &request(wallet(1), 2), charge, at).unwrap();
    };
    other("coding", "key_one", NOW);
    other("general", "key_one", tomorrow);
    other("general", "key_two", tomorrow);
    grant(&c, 4, -3);
    chat(&c, 4, 2);
    assert!(wrong(&c).is_empty());
    assert_eq!(verify(&c, Scope::Full).mistakes, [""; 0]);
    (folder, c)
}

#[test]
fn whatever_is_changed_is_found_by_a_full_verification_unless_all_records_agree() {
    let (_folder, c) = longer();
    let before = entries(&c);
    for adapted in [
        Adapted::Nothing,
        Adapted::RunningBalances,
        Adapted::AllBalances,
    ] {
        let (mut found, mut agree) = (0, 0);
        for (number, (change, newest)) in changes().into_iter().enumerate() {
            // As made by the server, after a verification of the older entries, and after one of all.
            let verified = [0, VERIFIED, 24][number % 3];
            remember(&c, verified).unwrap();
            c.execute_batch(
                "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF; BEGIN;
                 DROP TRIGGER ledger_is_never_changed; DROP TRIGGER ledger_is_never_deleted; DROP TRIGGER users_credits_moved;",
            )
            .unwrap();
            let changed = c.execute_batch(&format!("{change}; {}", adapted.statements()));
            changed.unwrap_or_else(|error| panic!("{change}: {error}"));
            let broken = wrong(&c);
            let report = verify_in(&c, Scope::Full, 2, |_| {});
            assert_eq!(
                report.mistakes.is_empty(),
                broken.is_empty(),
                "{change}, {adapted:?}, verified {verified}: {broken:?} {:#?}",
                report.mistakes
            );
            if verified < newest && broken.contains(&3) {
                let new = verify(&c, Scope::New);
                assert!(!new.mistakes.is_empty(), "{change}: {broken:?}");
            }
            if !broken.is_empty() {
                found += 1;
            } else if entries(&c) != before {
                agree += 1;
            }
            c.execute_batch("ROLLBACK").unwrap();
        }
        assert!(
            found > 500,
            "{adapted:?}: {found}, and {agree} that no other record has"
        );
    }
}
