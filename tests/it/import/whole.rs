//! Whole databases of the R3MES backend, taken over by the real binary.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use super::generated::{self, Counts, Expected, REFUSED, SCHEMA, address};
use super::{database, import};
use crate::support::{W1, W2, W3, edge};

/// Every table's rows as a number and a hash, in the order in which they stand there. The moments at which a database was taken over are all one.
pub(super) fn contents(database: &Path, taken_over_since: i64) -> BTreeMap<String, (u64, String)> {
    let connection = Connection::open(database).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap();
    let tables = tables.query_map([], |row| row.get(0)).unwrap();
    let tables: Vec<String> = tables.map(Result::unwrap).collect();
    assert!(tables.len() > 8, "{tables:?}");
    let mut contents = BTreeMap::new();
    for table in tables {
        let mut hash = blake3::Hasher::new();
        let mut count = 0;
        // Each database has an admin's key of its own.
        let only = match table.as_str() {
            "api_keys" => " WHERE wallet IS NOT NULL",
            _ => "",
        };
        let mut select = connection
            .prepare(&format!("SELECT * FROM {table}{only}"))
            .unwrap();
        let columns: Vec<String> = select
            .column_names()
            .iter()
            .map(|n| (*n).to_owned())
            .collect();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            count += 1;
            for (at, column) in columns.iter().enumerate() {
                let moment = matches!(column.as_str(), "created_at" | "revoked_at");
                match row.get_ref(at).unwrap() {
                    ValueRef::Integer(at) if moment && at >= taken_over_since => {
                        hash.update(b"taken over;");
                    }
                    other => {
                        hash.update(format!("{other:?};").as_bytes());
                    }
                }
            }
            hash.update(b"\n");
        }
        contents.insert(table, (count, hash.finalize().to_hex().to_string()));
    }
    contents
}

fn now() -> i64 {
    r3mes_edge::Clock::default().now().millis()
}

fn counts(told: &Value) -> BTreeMap<String, Counts> {
    let count = |(table, counts): (&String, &Value)| {
        let names = ["taken", "changed", "refused", "there_already", "skipped"];
        (
            table.clone(),
            names.map(|name| counts[name].as_u64().unwrap()),
        )
    };
    told["tables"]
        .as_object()
        .unwrap()
        .iter()
        .map(count)
        .collect()
}

/// A generated database in the folder.
fn generate(folder: &Path, seed: u64) -> (PathBuf, Expected) {
    let file = folder.join("r3mes.db");
    let expected = generated::make(&file, seed, 1200);
    (file, expected)
}

fn pairs(database: &Path, statement: &str) -> BTreeMap<String, i64> {
    let connection = Connection::open(database).unwrap();
    let mut select = connection.prepare(statement).unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn everything_that_sqlite_lets_stand_there_is_taken_changed_or_refused_and_adds_up() {
    for seed in 1..=3 {
        let (folder, database) = database();
        let (file, expected) = generate(folder.path(), seed);
        let before = (std::fs::read(&file).unwrap(), beside(&file));
        let told = import(&database, &file, 1);

        let named = expected
            .counts
            .iter()
            .map(|(table, counts)| ((*table).to_owned(), *counts));
        assert_eq!(counts(&told), named.collect(), "seed {seed}");
        assert_eq!(told["accounts_made"], expected.accounts_made);
        assert_eq!(told["pending_reservations"], expected.pending);
        assert!(expected.pending > 0);
        let notes = |outcome: &str| {
            let rows = told["rows"].as_array().unwrap().iter();
            let mut rows: Vec<_> = rows
                .filter(|row| row["outcome"] == outcome)
                .map(|row| (row["table"].to_string(), row["row"].as_i64()))
                .collect();
            rows.dedup();
            rows.len() as u64
        };
        let sum = |at: usize| {
            expected
                .counts
                .values()
                .map(|counts| counts[at])
                .sum::<u64>()
        };
        assert_eq!((notes("changed"), notes("refused")), (sum(1), sum(REFUSED)));

        assert_eq!(
            pairs(&database, "SELECT wallet, credits FROM users"),
            expected.balances
        );
        let earned = "SELECT wallet, total_earnings FROM users WHERE total_earnings > 0";
        assert_eq!(pairs(&database, earned), expected.earned);
        let made_at = pairs(&database, "SELECT wallet, created_at FROM users");
        for (wallet, at) in &expected.made_at {
            assert_eq!(made_at.get(wallet), Some(at));
        }
        let connection = Connection::open(&database).unwrap();
        let mut select = connection
            .prepare("SELECT w.wallet, s.recorded_at, s.hashrate FROM mining_stats s JOIN workers w ON w.id = s.worker WHERE w.worker = 'default' AND s.unit = 0")
            .unwrap();
        let samples = select
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))
            .unwrap();
        let samples: BTreeMap<(String, i64), f64> = samples.map(Result::unwrap).collect();
        assert!(
            samples == expected.samples && samples.len() > 1000,
            "seed {seed}"
        );
        let entries: u64 = connection
            .query_row("SELECT count(*) FROM ledger", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap()
            .unsigned_abs();
        assert_eq!(entries, expected.entries);
        drop(select);
        drop(connection);
        assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
        assert_eq!(edge(&database, &["db", "check"]).0, 0);

        let first = contents(&database, i64::MAX);
        let again = import(&database, &file, 1);
        assert_eq!(contents(&database, i64::MAX), first, "seed {seed}");
        for (table, counts) in counts(&again) {
            let [taken, changed, refused, there, skipped] = expected.counts[table.as_str()];
            assert_eq!(
                counts,
                [0, 0, refused, there + taken + changed, skipped],
                "{table}"
            );
        }
        assert_eq!(again["accounts_made"], 0);
        assert_eq!((std::fs::read(&file).unwrap(), beside(&file)), before);
    }
}

/// The files of the source's folder that are the source's.
fn beside(file: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.to_string_lossy().contains("r3mes"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn an_import_that_is_killed_again_and_again_ends_as_one_that_was_not() {
    let since = now();
    let (folder, whole) = database();
    let (file, expected) = generate(folder.path(), 4);
    import(&whole, &file, 1);
    let (_other, cut) = database();
    let refused: u64 = expected.counts.values().map(|counts| counts[REFUSED]).sum();
    let mut sizes = Vec::new();
    for round in 0..4 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"))
            .args(["db", "import"])
            .arg(&file)
            .arg("--database")
            .arg(&cut)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // What is not read fits into the pipe only in part, so it cannot come to its end before it is killed.
        let lines = BufReader::with_capacity(64, child.stdout.take().unwrap()).lines();
        let at = refused * round / 6 + 1;
        let read = lines.map_while(Result::ok).take(at as usize).count();
        child.kill().unwrap();
        assert_eq!((read as u64, child.wait().unwrap().code()), (at, None));
        sizes.push(contents(&cut, since)["mining_stats"].0);
        assert_eq!(edge(&cut, &["ledger", "verify"]).0, 0);
    }
    let all = contents(&whole, since);
    let some = sizes
        .iter()
        .filter(|size| (1..all["mining_stats"].0).contains(size));
    assert!(some.count() > 0, "none was killed in the middle: {sizes:?}");
    import(&cut, &file, 1);
    assert_eq!(contents(&cut, since), all);
}

fn make(folder: &Path, statements: &str) -> PathBuf {
    let file = folder.join("r3mes.db");
    let connection = generated::create(&file);
    connection.execute_batch(statements).unwrap();
    file
}

#[test]
fn each_row_that_is_changed_or_refused_is_named_with_its_field_and_why() {
    let (folder, database) = database();
    let file = make(
        folder.path(),
        &format!(
            "{SCHEMA}
            INSERT INTO users (wallet_address, credits) VALUES ('{W1}', 1.00000049), ('remes1x', 5);
            INSERT INTO mining_stats (wallet_address, hashrate, uptime_percentage) VALUES ('{W2}', 5, 100.5), ('{W2}', 5, NULL);"
        ),
    );
    let path = file.to_str().unwrap();
    let (code, told) = edge(&database, &["db", "import", path]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(code, 1, "{told}");
    assert_eq!(
        lines,
        [
            &*format!(
                "users 1 {W1}: changed: credits: has more than 6 decimal places: 1.00000049 becomes 1"
            ),
            "users 2: refused: wallet_address: a wallet address has 44 characters and starts with remes1",
            &*format!("mining_stats 1 {W2}: refused: uptime_percentage: must be at most 100"),
            "users: 0 taken, 1 changed, 1 refused, 0 there already, 0 skipped",
            "credit_reservations: 0 taken, 0 changed, 0 refused, 0 there already, 0 skipped",
            "api_keys: 0 taken, 0 changed, 0 refused, 0 there already, 0 skipped",
            "mining_stats: 1 taken, 0 changed, 1 refused, 0 there already, 0 skipped",
            "hashrate_history: 0 taken, 0 changed, 0 refused, 0 there already, 0 skipped",
            "earnings_history: 0 taken, 0 changed, 0 refused, 0 there already, 0 skipped",
            "1 accounts made for wallets that users does not have",
        ]
    );
    // What is not there is not 0.
    let connection = Connection::open(&database).unwrap();
    let (zero, uptime): (f64, Option<f64>) = connection
        .query_row(
            "SELECT gpu_temperature, uptime_percentage FROM mining_stats",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!((zero, uptime), (0.0, None));
}

#[test]
fn a_balance_or_an_earning_that_was_taken_over_is_not_taken_over_as_another() {
    let (folder, database) = database();
    let rows = |credits: &str, amount: &str| {
        format!(
            "{SCHEMA}
            INSERT INTO users (wallet_address, credits) VALUES ('{W1}', {credits});
            INSERT INTO earnings_history (wallet_address, earnings) VALUES ('{W1}', {amount});"
        )
    };
    import(&database, &make(folder.path(), &rows("10", "2")), 0);
    let first = contents(&database, i64::MAX);
    let told = import(&database, &make(folder.path(), &rows("11", "3")), 1);
    let refused: Vec<_> = told["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["field"])
        .collect();
    assert_eq!(refused, ["credits", "earnings"]);
    assert_eq!(contents(&database, i64::MAX), first);
    let entries = pairs(
        &database,
        "SELECT reason || ' ' || reference, amount FROM ledger",
    );
    assert_eq!(entries, [("opening r3mes:".to_owned(), 10_000_000)].into());
}

#[test]
fn reservations_of_any_state_change_no_balance_and_pending_ones_are_counted() {
    let (folder, database) = database();
    let file = make(
        folder.path(),
        &format!(
            "{SCHEMA}
            INSERT INTO users (wallet_address, credits) VALUES ('{W1}', 99.3), ('{W2}', 0.7);
            INSERT INTO credit_reservations (reservation_id, wallet_address, amount, status) VALUES
                ('res_1', '{W1}', 1.0, 'pending'), ('res_2', '{W1}', 2.0, 'confirmed'),
                ('res_3', '{W1}', 4.0, 'cancelled'), ('res_4', '{W2}', 8.0, 'expired'),
                ('res_5', '{W3}', 16.0, 'pending');
            INSERT INTO credit_reservations (reservation_id, wallet_address, amount) VALUES ('res_6', '{W2}', 0.5);"
        ),
    );
    let path = file.to_str().unwrap();
    let (code, told) = edge(&database, &["db", "import", path]);
    assert_eq!(code, 0, "{told}");
    let counted = "credit_reservations: 0 taken, 0 changed, 0 refused, 0 there already, 6 skipped";
    let pending = "3 pending reservations skipped: their credits were never taken from a balance";
    for line in [counted, pending] {
        assert!(told.lines().any(|told| told == line), "{told}");
    }
    for _ in 0..2 {
        let balances = pairs(&database, "SELECT wallet, credits FROM users");
        let expected = [(W1.to_owned(), 99_300_000), (W2.to_owned(), 700_000)];
        assert_eq!(
            balances,
            expected.into(),
            "and no account of a third wallet"
        );
        let reasons = pairs(
            &database,
            "SELECT reason, sum(amount) FROM ledger GROUP BY reason",
        );
        assert_eq!(reasons, [("opening".to_owned(), 100_000_000)].into());
        assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
        let again = import(&database, &file, 0);
        assert_eq!(again["pending_reservations"], 3);
    }
}

#[test]
fn what_cannot_be_counted_any_more_is_refused_row_by_row() {
    let (folder, database) = database();
    let mut rows = format!("{SCHEMA} BEGIN;");
    // 9,224 times a thousand million credits are more micro-credits than 63 bits.
    for n in 0..9224 {
        rows += &format!(
            "INSERT INTO users (wallet_address, credits) VALUES ('{}', 1e9);",
            address(n)
        );
    }
    for _ in 0..11 {
        rows += &format!(
            "INSERT INTO earnings_history (wallet_address, earnings) VALUES ('{W1}', 1e9);"
        );
    }
    let told = import(&database, &make(folder.path(), &(rows + "COMMIT;")), 1);
    let counts = counts(&told);
    assert_eq!(counts["users"], [9223, 0, 1, 0, 0]);
    assert_eq!(counts["earnings_history"], [10, 0, 1, 0, 0]);
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
}

#[test]
fn an_older_database_with_fewer_tables_is_taken_over_and_what_is_none_is_refused() {
    let (folder, database) = database();
    let users = "CREATE TABLE users (wallet_address TEXT PRIMARY KEY, credits REAL)";
    let file = make(
        folder.path(),
        &format!("{users}; INSERT INTO users VALUES ('{W1}', 2.5)"),
    );
    let told = import(&database, &file, 0);
    assert_eq!(
        told["tables"]["users"]["changed"], 1,
        "its age is not known: {told}"
    );
    assert_eq!(told["tables"]["earnings_history"], Value::Null);
    assert_eq!(told["complete"], json!(true));
    assert_eq!(
        pairs(&database, "SELECT wallet, credits FROM users")[W1],
        2_500_000
    );

    let none = make(folder.path(), "CREATE TABLE recipes (title TEXT)");
    assert_eq!(
        edge(&database, &["db", "import", none.to_str().unwrap()]).0,
        1
    );
    let (_folder, ours) = super::database();
    assert_eq!(
        edge(&database, &["db", "import", ours.to_str().unwrap()]).0,
        1
    );
}

#[test]
fn what_was_rolled_up_and_deleted_since_is_there_already() {
    let (folder, database) = database();
    let rows: String = (0..40)
        .map(|n| {
            format!("INSERT INTO mining_stats (wallet_address, hashrate, recorded_at) VALUES ('{W1}', {n}, datetime('2025-01-01', '+{n} hours'));")
        })
        .collect();
    let file = make(folder.path(), &format!("{SCHEMA}{rows}"));
    import(&database, &file, 0);
    let compact = || {
        let store = r3mes_edge::SqliteStore::open(&database, false).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let now = r3mes_edge::Clock::default().now();
        let compacted = r3mes_edge::Repository::compact(&store, Default::default(), now);
        runtime.block_on(compacted).unwrap();
    };
    compact();
    let first = contents(&database, i64::MAX);
    assert_eq!(
        (first["mining_stats"].0, first["hashrate_history"].0),
        (0, 42)
    );
    let again = import(&database, &file, 0);
    assert_eq!(counts(&again)["mining_stats"], [0, 0, 0, 40, 0]);
    compact();
    assert_eq!(contents(&database, i64::MAX), first);
}

#[test]
fn what_a_backend_left_in_its_log_is_read_and_nothing_is_left_beside_it() {
    let (folder, database) = database();
    let running = generated::create(&folder.path().join("running.db"));
    running.pragma_update(None, "journal_mode", "wal").unwrap();
    let rows = format!("INSERT INTO users (wallet_address, credits) VALUES ('{W1}', 4)");
    running.execute_batch(&format!("{SCHEMA}{rows}")).unwrap();
    // As somebody copies it from a machine that has died: the file and its log.
    let file = folder.path().join("r3mes.db");
    let log = folder.path().join("r3mes.db-wal");
    std::fs::copy(folder.path().join("running.db"), &file).unwrap();
    std::fs::copy(folder.path().join("running.db-wal"), &log).unwrap();
    let bytes = || (std::fs::read(&file).unwrap(), std::fs::read(&log).unwrap());
    let before = (bytes(), beside(&file));
    assert_eq!(
        counts(&import(&database, &file, 0))["users"],
        [1, 0, 0, 0, 0]
    );
    assert_eq!((bytes(), beside(&file)), before);
}
