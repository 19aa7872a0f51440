//! A database of another version: taken along, taken back, or refused.

use std::path::{Path, PathBuf};

use r3mes_edge::model::Timestamp;
use r3mes_edge::store::Resolution;
use r3mes_edge::{Repository, SqliteStore};
use rusqlite::Connection;
use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::support::{Process, W1, W2, edge, eventually, wallet};

const HOUR: i64 = 3_600_000;
/// 2026-11-20, noon.
const NOON: i64 = 1_795_176_000_000;

/// What the samples here, of days that have long passed, are kept by.
pub(crate) const KEEP: &str =
    "[retention]\nraw = \"36500d\"\nminutes = \"36500d\"\nhours = \"36500d\"\n";

/// A database as version 1 of the schema left it: two wallets with credits, three miners with three days of samples.
pub(crate) fn version_1(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(include_str!("fixtures/schema_1.sql"))
        .unwrap();
    connection
        .execute_batch("PRAGMA application_id = 0x52334D45; PRAGMA user_version = 1")
        .unwrap();
    for (id, wallet, credits) in [(1, W1, 5_000_000), (2, W2, 7_000_000)] {
        let new = "INSERT INTO users (wallet, credits, created_at) VALUES (?1, ?2, ?3)";
        connection.execute(new, (wallet, credits, NOON)).unwrap();
        let entry = "INSERT INTO ledger VALUES (?1, ?2, ?3, ?3, 'test', NULL, ?4)";
        connection
            .execute(entry, (id, wallet, credits, NOON))
            .unwrap();
    }
    let miners = [
        (W1, "rig-1", "gradients/h"),
        (W1, "cpu", "H/s"),
        (W2, "rig-1", "gradients/h"),
    ];
    for (wallet, worker, unit) in miners {
        for hour in 0..72 {
            let at = |n: i64| NOON - 72 * HOUR + hour * HOUR + n * 60_000;
            for n in 0..3i64 {
                let sample = "INSERT INTO mining_stats (wallet, recorded_at, worker, hashrate, unit, accepted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                connection
                    .execute(sample, (wallet, at(n), worker, (hour + n) as f64, unit, n))
                    .unwrap();
            }
            let sum = "INSERT INTO hashrate_history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 3)";
            let (least, most) = (hour as f64, (hour + 2) as f64);
            let values = (wallet, at(0), worker, unit, 3.0 * least + 3.0, least, most);
            connection.execute(sum, values).unwrap();
        }
        let last = "INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit) VALUES (?1, ?2, ?3, 73, ?4)";
        let at = NOON - HOUR + 2 * 60_000;
        connection
            .execute(last, (wallet, worker, at, unit))
            .unwrap();
    }
    connection
}

/// Every row of every table.
pub(crate) fn rows(path: &Path) -> Vec<(String, Vec<Vec<Sql>>)> {
    let connection = Connection::open(path).unwrap();
    let tables = [
        "users",
        "totals",
        "ledger",
        "reservations",
        "workers",
        "mining_stats",
        "hashrate_history",
    ];
    let read = |table: &str| {
        let mut select = connection
            .prepare(&format!("SELECT * FROM {table}"))
            .unwrap();
        let columns = select.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
        select
            .query_map([], row)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    tables.map(|table| (table.to_owned(), read(table))).into()
}

fn version(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

fn told_of(database: &Path, arguments: &[&str]) -> Value {
    told(edge(database, arguments))
}

fn told(answer: (i32, String)) -> Value {
    assert_eq!(answer.0, 0, "{}", answer.1);
    serde_json::from_str(&answer.1).unwrap()
}

#[tokio::test]
async fn a_database_of_version_1_comes_along_and_goes_back_with_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    drop(version_1(&database));
    let before = rows(&database);

    let up = told(edge(&database, &["--json", "db", "migrate"]));
    assert_eq!((&up["from"], &up["to"]), (&json!(1), &json!(2)));
    let copy = PathBuf::from(up["backup"].as_str().unwrap());
    assert_eq!(rows(&copy), before);
    assert_eq!(
        told(edge(&database, &["--json", "db", "check"]))["mistakes"],
        json!([])
    );
    let again = told(edge(&database, &["--json", "db", "migrate"]));
    assert_eq!(
        (&again["from"], &again["backup"]),
        (&json!(2), &Value::Null)
    );

    let store = SqliteStore::open(&database, false).unwrap();
    let read = async |resolution| {
        let since = Timestamp::from_millis(NOON - 72 * HOUR);
        let read = store.hashrate(wallet(W1), since, resolution, 10_000).await;
        read.unwrap().unwrap()
    };
    let hours = read(Resolution::Hour).await;
    let retention = r3mes_edge::model::Retention::default();
    store
        .compact(retention, Timestamp::from_millis(NOON))
        .await
        .unwrap();
    // Once rolled up from the samples it is the same: three a minute apart stand for the same time each.
    assert_eq!(read(Resolution::Hour).await, hours);
    assert_eq!(hours.len(), 2 * 72);
    assert_eq!(read(Resolution::Minute).await.len(), 2 * 72 * 3);
    let samples = |points: Vec<r3mes_edge::store::HashratePoint>| {
        points.iter().map(|point| point.samples).sum::<i64>()
    };
    assert_eq!(samples(read(Resolution::Day).await), 2 * 72 * 3);
    assert_eq!(read(Resolution::Raw).await.len(), 2 * 72 * 3);
    store.close();

    told(edge(&database, &["--json", "db", "migrate", "--to", "1"]));
    assert_eq!(version(&database), 1);
    assert_eq!(rows(&database), before);
    // A server takes an older file along by itself.
    let server = Process::serve(&database, "");
    let user = server
        .admin()
        .get(&format!("/users/{W2}"))
        .await
        .expect(200);
    assert_eq!(user["credits"], 7);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(version(&database), 2);
}

/// Makes a file so large that what takes long is left for after the stop.
pub(crate) fn pad(connection: &Connection) {
    let padding = "INSERT INTO idempotency (key, principal, request, status, answer, expires_at)
        VALUES (zeroblob(32), 'test', zeroblob(32), 200, hex(zeroblob(9000000)), 9000000000000)";
    connection.execute(padding, []).unwrap();
}

/// The copies beside a database whose names end so.
pub(crate) fn copies(database: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.to_str().is_some_and(|name| name.ends_with(end)))
        .collect()
}

#[tokio::test]
async fn a_large_file_serves_before_all_of_it_has_come_along_and_its_copy_is_verified_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let connection = version_1(&database);
    pad(&connection);
    drop(connection);
    let before = rows(&database);
    let server = Process::serve(&database, KEEP);
    let user = server.admin().get(&format!("/users/{W2}")).await;
    assert_eq!(user.expect(200)["credits"], 7);
    let told = [
        "all samples from before the migration have come along",
        "the copy from before the migration is good",
    ];
    for told in told {
        let is_told = async || server.log().into_iter().find(|line| line.contains(told));
        eventually(told, is_told).await;
    }
    assert_eq!(server.terminate(), Some(0));
    let [copy] = &copies(&database, ".version-1")[..] else {
        panic!("not one copy that is verified")
    };
    assert_eq!(rows(copy), before);
    let check = told_of(&database, &["--json", "db", "check"]);
    assert_eq!(check["mistakes"], json!([]));

    let down = told_of(&database, &["--json", "db", "migrate", "--to", "1"]);
    assert_eq!(
        (&down["to"], &down["unfinished"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(copies(&database, ".version-2.unverified").len(), 1);
    // An older program serves now; the lock is all that this one knows of it.
    let lock = r3mes_edge::store::InstanceLock::acquire(&database).unwrap();
    assert_eq!(edge(&database, &["db", "migrate"]).0, 4);
    let rest = told_of(&database, &["--json", "db", "migrate", "--to", "1"]);
    assert_eq!(rest["unfinished"], false);
    assert_eq!(copies(&database, ".version-2").len(), 1);
    drop(lock);
    assert_eq!(rows(&database), before);
}

#[test]
fn a_trial_changes_nothing_and_a_version_that_there_is_not_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    drop(version_1(&database));
    let before = std::fs::read(&database).unwrap();
    let trial = told(edge(&database, &["--json", "db", "migrate", "--dry-run"]));
    assert_eq!((&trial["to"], &trial["backup"]), (&json!(2), &Value::Null));
    for to in ["0", "3", "99"] {
        assert_eq!(edge(&database, &["db", "migrate", "--to", to]).0, 4, "{to}");
    }
    assert_eq!(std::fs::read(&database).unwrap(), before);
    let nowhere = folder.path().join("nowhere.db");
    assert_eq!(edge(&nowhere, &["db", "migrate"]).0, 3);
    assert_eq!(edge(&nowhere, &["db", "check"]).0, 3);
}

#[tokio::test]
async fn beside_a_server_a_database_is_checked_but_not_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let grant = json!({ "amount": 3, "reason": "test" });
    let path = format!("/users/{W1}/credits");
    server.admin().post(&path, &grant).await.expect(200);
    let check = told(edge(&database, &["--json", "db", "check"]));
    assert_eq!(
        (&check["version"], &check["mistakes"]),
        (&json!(2), &json!([]))
    );
    assert_eq!(check["ledger"]["entries"], 1);
    assert_eq!(edge(&database, &["db", "migrate", "--to", "1"]).0, 4);
    assert_eq!(server.terminate(), Some(0));

    let connection = Connection::open(&database).unwrap();
    let harm = "DROP INDEX idx_ledger_wallet; CREATE TABLE theirs (n); PRAGMA foreign_keys = OFF;
        INSERT INTO late_minutes VALUES (77, 0); UPDATE users SET credits = credits + 1";
    connection.execute_batch(harm).unwrap();
    drop(connection);
    let (code, text) = edge(&database, &["db", "check"]);
    assert_eq!(code, 1);
    for found in [
        "lacks: CREATE INDEX idx_ledger_wallet",
        "not ours: CREATE TABLE theirs",
        "a row of late_minutes refers",
        "the balance is 3.000001",
    ] {
        assert!(text.contains(found), "{found}: {text}");
    }
}
