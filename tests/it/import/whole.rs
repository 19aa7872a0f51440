//! Imports of whole databases of the R3MES backend by the real binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use super::generated::{self, Counts, Expected, REFUSED, SCHEMA, address};
use super::{database, import};
use crate::support::{W1, W2, W3, edge};

/// The number and the hash of every table's rows; the times of an import since `imported_since` all count as the same, and
/// so do its operations. How far the ledger was verified is left out.
pub(super) fn contents(database: &Path, imported_since: i64) -> BTreeMap<String, (u64, String)> {
    let connection = Connection::open(database).unwrap();
    let mut tables = connection
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('verified', 'identity', 'clock') ORDER BY name",
        )
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
            "audit" => " WHERE action <> 'keys.create'",
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
                    ValueRef::Integer(at) if moment && at >= imported_since => {
                        hash.update(b"imported;");
                    }
                    _ if column == "operation" => {}
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

fn counts(report: &Value) -> BTreeMap<String, Counts> {
    let count = |(table, counts): (&String, &Value)| {
        let names = ["imported", "changed", "refused", "existing"];
        (
            table.clone(),
            names.map(|name| counts[name].as_u64().unwrap()),
        )
    };
    report["tables"]
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
fn every_row_is_imported_changed_or_refused_and_the_ledger_adds_up() {
    for seed in 1..=3 {
        let (folder, database) = database();
        let (file, expected) = generate(folder.path(), seed);
        let before = (std::fs::read(&file).unwrap(), beside(&file));
        let report = import(&database, &file, 1);

        let named = expected
            .counts
            .iter()
            .map(|(table, counts)| ((*table).to_owned(), *counts));
        assert_eq!(counts(&report), named.collect(), "seed {seed}");
        assert_eq!(report["accounts_made"], expected.accounts_made);
        let notes = |outcome: &str| {
            let rows = report["rows"].as_array().unwrap().iter();
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
        let made_at = pairs(&database, "SELECT wallet, created_at FROM users");
        for (wallet, at) in &expected.made_at {
            assert_eq!(made_at.get(wallet), Some(at));
        }
        let connection = Connection::open(&database).unwrap();
        let entries: u64 = connection
            .query_row("SELECT count(*) FROM ledger", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap()
            .unsigned_abs();
        assert_eq!(entries, expected.entries);
        drop(connection);
        assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
        assert_eq!(edge(&database, &["db", "check"]).0, 0);

        let first = contents(&database, i64::MAX);
        let again = import(&database, &file, 1);
        assert_eq!(contents(&database, i64::MAX), first, "seed {seed}");
        for (table, counts) in counts(&again) {
            let [imported, changed, refused, _] = expected.counts[table.as_str()];
            assert_eq!(counts, [0, 0, refused, imported + changed], "{table}");
        }
        assert_eq!(again["accounts_made"], 0);
        assert_eq!((std::fs::read(&file).unwrap(), beside(&file)), before);
    }
}

/// The source and the files beside it.
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
fn a_killed_import_stores_everything_or_nothing_and_the_next_one_completes_it() {
    let since = now();
    let (folder, whole) = database();
    let (file, _) = generate(folder.path(), 4);
    let empty = contents(&whole, since);
    import(&whole, &file, 1);
    let all = contents(&whole, since);
    let (_other, killed) = database();
    let wal = killed.with_file_name("edge.db-wal");
    let wal_size = || std::fs::metadata(&wal).map_or(0, |about| about.len());
    for pages in [0, 1, 10, 100] {
        let mut child = command(&killed, &file).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && wal_size() <= pages * 4096 {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let stored = contents(&killed, since);
        assert!(stored == empty || stored == all, "{stored:?}");
        assert_eq!(edge(&killed, &["ledger", "verify"]).0, 0);
    }
    import(&killed, &file, 1);
    assert_eq!(contents(&killed, since), all);
}

#[test]
fn an_import_without_disk_space_fails_and_stores_nothing() {
    let since = now();
    let (folder, database) = database();
    let (file, _) = generate(folder.path(), 5);
    let empty = contents(&database, since);
    // In units of 512 bytes; an ignored signal makes the write fail instead of the process.
    let limited = "trap '' XFSZ; ulimit -f 300; exec \"$@\"";
    let import = command(&database, &file);
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, "sh"]);
    shell.arg(import.get_program()).args(import.get_args());
    let output = shell.env_clear().output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 5)), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(contents(&database, since), empty);
}

/// The command that imports a file.
fn command(database: &Path, file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.args(["db", "import"]).arg(file);
    command.arg("--database").arg(database);
    command
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
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
            INSERT INTO api_keys (wallet_address, api_key_hash) VALUES ('{W2}', 'abc'), ('{W2}', '{:064x}');
            INSERT INTO mining_stats (wallet_address, hashrate) VALUES ('{W3}', 5), ('{W3}', NULL);",
            1
        ),
    );
    let path = file.to_str().unwrap();
    let (code, report) = edge(&database, &["db", "import", path]);
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(code, 1, "{report}");
    assert_eq!(
        lines,
        [
            &*format!(
                "users 1 {W1}: changed: credits: has more than 6 decimal places: 1.00000049 becomes 1"
            ),
            "users 2: refused: wallet_address: a wallet address has 44 characters and starts with remes1",
            &*format!(
                "api_keys 1 {W2}: refused: api_key_hash: is not a SHA-256 in hexadecimal digits"
            ),
            "api_keys: 1 imported, 0 changed, 1 refused, 0 existing",
            "users: 0 imported, 1 changed, 1 refused, 0 existing",
            "1 accounts created for wallets without a row in users",
        ]
    );
}

#[test]
fn an_imported_balance_is_not_changed_by_another_import() {
    let (folder, database) = database();
    let rows = |credits: &str| {
        format!("{SCHEMA} INSERT INTO users (wallet_address, credits) VALUES ('{W1}', {credits});")
    };
    import(&database, &make(folder.path(), &rows("10")), 0);
    let first = contents(&database, i64::MAX);
    let report = import(&database, &make(folder.path(), &rows("11")), 1);
    let refused: Vec<_> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["field"])
        .collect();
    assert_eq!(refused, ["credits"]);
    assert_eq!(contents(&database, i64::MAX), first);
    let entries = pairs(
        &database,
        "SELECT reason || ' ' || reference, amount FROM ledger",
    );
    assert_eq!(entries, [("opening r3mes:".to_owned(), 10_000_000)].into());
}

#[test]
fn reservations_of_any_state_change_no_balance() {
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
    let (code, report) = edge(&database, &["db", "import", path]);
    assert_eq!(code, 0, "{report}");
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
        import(&database, &file, 0);
    }
}

#[test]
fn an_import_refuses_the_balance_that_overflows_the_sum_of_all() {
    let (folder, database) = database();
    let mut rows = format!("{SCHEMA} BEGIN;");
    // 9,224 times a thousand million credits are more micro-credits than 63 bits.
    for n in 0..9224 {
        rows += &format!(
            "INSERT INTO users (wallet_address, credits) VALUES ('{}', 1e9);",
            address(n)
        );
    }
    let file = make(folder.path(), &(rows + "COMMIT;"));
    let report = import(&database, &file, 1);
    let users = &report["tables"]["users"];
    assert_eq!(
        (&users["imported"], &users["refused"]),
        (&json!(9223), &json!(1))
    );
    let (_, verified) = edge(&database, &["ledger", "verify", "--full"]);
    assert!(verified.contains("9223"), "{verified}");
}

#[test]
fn an_older_database_with_fewer_tables_is_imported_and_other_databases_are_refused() {
    let (folder, database) = database();
    let users = "CREATE TABLE users (wallet_address TEXT PRIMARY KEY, credits REAL)";
    let file = make(
        folder.path(),
        &format!("{users}; INSERT INTO users VALUES ('{W1}', 2.5)"),
    );
    let report = import(&database, &file, 0);
    assert_eq!(
        report["tables"]["users"]["changed"], 1,
        "its age is not known: {report}"
    );
    assert_eq!(report["tables"]["api_keys"], Value::Null);
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
fn the_wal_of_a_dead_backend_is_read_and_no_file_beside_it_changes() {
    let (folder, database) = database();
    let running = generated::create(&folder.path().join("running.db"));
    running.pragma_update(None, "journal_mode", "wal").unwrap();
    let rows = format!("INSERT INTO users (wallet_address, credits) VALUES ('{W1}', 4)");
    running.execute_batch(&format!("{SCHEMA}{rows}")).unwrap();
    // As copied from a machine that crashed: the file and its -wal.
    let file = folder.path().join("r3mes.db");
    let log = folder.path().join("r3mes.db-wal");
    std::fs::copy(folder.path().join("running.db"), &file).unwrap();
    std::fs::copy(folder.path().join("running.db-wal"), &log).unwrap();
    let bytes = || (std::fs::read(&file).unwrap(), std::fs::read(&log).unwrap());
    let before = (bytes(), beside(&file));
    assert_eq!(counts(&import(&database, &file, 0))["users"], [1, 0, 0, 0]);
    assert_eq!((bytes(), beside(&file)), before);
}
