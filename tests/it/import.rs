//! `db import` of the real binary. This file uses imported keys against a server, `whole` compares whole databases with
//! what `generated` expects of them.

mod generated;
mod whole;

pub(crate) use generated::address;

use std::path::{Path, PathBuf};

use r3mes_edge::auth::PlainKey;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::support::{Caller, Process, W1, W2, edge};

pub(crate) const NEWER: &str = "CREATE TABLE api_keys (id INTEGER PRIMARY KEY AUTOINCREMENT, api_key_hash TEXT UNIQUE NOT NULL, wallet_address TEXT NOT NULL, name TEXT, is_active BOOLEAN DEFAULT 1, last_used TIMESTAMP, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP)";
pub(crate) const OLDER: &str = "CREATE TABLE api_keys (id INTEGER PRIMARY KEY AUTOINCREMENT, api_key TEXT UNIQUE NOT NULL, wallet_address TEXT NOT NULL, name TEXT, is_active BOOLEAN DEFAULT 1, last_used TIMESTAMP, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP)";

/// A key as the R3MES backend made them.
pub(crate) fn old_key(number: u8) -> String {
    format!("r3mes_-_{number:041}")
}

/// Its hash, as that backend stored it.
pub(crate) fn sha256(key: &str) -> String {
    let hash = PlainKey::parse_imported(key).unwrap().sha256();
    hash.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// Key, wallet, name, active, made, expires.
type Row<'a> = (
    &'a str,
    &'a str,
    Option<&'a str>,
    bool,
    &'a str,
    Option<&'a str>,
);

/// A database of the R3MES backend in its older or newer generation.
pub(crate) fn backend(folder: &Path, schema: &str, rows: &[Row<'_>]) -> PathBuf {
    let path = folder.join("r3mes 100%#?.db");
    let _ = std::fs::remove_file(&path);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(schema).unwrap();
    let column = if schema == NEWER {
        "api_key_hash"
    } else {
        "api_key"
    };
    let insert = format!(
        "INSERT INTO api_keys ({column}, wallet_address, name, is_active, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
    );
    for (key, wallet, name, active, made, expires) in rows {
        connection
            .execute(&insert, params![key, wallet, name, active, made, expires])
            .unwrap();
    }
    path
}

/// A new database of ours without a server.
fn database() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    assert_eq!(Process::serve(&path, "").terminate(), Some(0));
    (folder, path)
}

/// Imports a file, which must end with this exit code; returns the report.
fn import(database: &Path, file: &Path, code: i32) -> Value {
    let arguments = ["db", "import", file.to_str().unwrap(), "--json"];
    let (ended, report) = edge(database, &arguments);
    assert_eq!(ended, code, "{report}");
    serde_json::from_str(&report).unwrap()
}

/// How many keys were imported, refused, imported before.
fn keys_of(report: &Value) -> [u64; 3] {
    let counts = &report["tables"]["api_keys"];
    ["imported", "refused", "existing"].map(|name| counts[name].as_u64().unwrap())
}

/// Every key in our database, newest first.
fn listed(database: &Path) -> Vec<Value> {
    let (_, listed) = edge(database, &["keys", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let keys = listed["keys"].as_array().unwrap().iter();
    keys.filter(|key| key["wallet_address"].is_string())
        .cloned()
        .collect()
}

fn stored_hashes(database: &Path, hex: &str) -> i64 {
    let connection = Connection::open(database).unwrap();
    let count = "SELECT count(*) FROM api_keys WHERE lower(hex(hash)) = ?1";
    connection
        .query_row(count, [hex], |row| row.get(0))
        .unwrap()
}

const DAY: &str = "2026-01-02 03:04:05";

#[tokio::test]
async fn an_imported_key_works_and_its_first_use_replaces_the_sha_256() {
    let (folder, database) = database();
    let (key, off, late, unused) = (old_key(1), old_key(2), old_key(3), old_key(4));
    let file = backend(
        folder.path(),
        NEWER,
        &[
            (
                &sha256(&key),
                W1,
                Some("sdk"),
                true,
                DAY,
                Some("2999-01-01T00:00:00.5"),
            ),
            (&sha256(&off), W1, None, false, DAY, None),
            (
                &sha256(&late),
                W2,
                None,
                true,
                DAY,
                Some("2026-01-03 00:00:00"),
            ),
            (&sha256(&unused), W2, None, true, DAY, None),
            (&sha256(&old_key(5)), "remes1x", None, true, DAY, None),
            ("abc", W1, None, true, DAY, None),
            (&sha256(&old_key(6)), W1, None, true, DAY, Some("soon")),
        ],
    );
    let before = std::fs::read(&file).unwrap();
    let report = import(&database, &file, 1);
    assert_eq!(
        (keys_of(&report), &report["accounts_made"]),
        ([4, 3, 0], &json!(2))
    );
    let refused = [
        (5, "wallet_address"),
        (6, "api_key_hash"),
        (7, "expires_at"),
    ];
    for (note, (row, field)) in report["rows"].as_array().unwrap().iter().zip(refused) {
        assert_eq!((&note["row"], &note["field"]), (&json!(row), &json!(field)));
    }
    let keys = listed(&database);
    let mine = keys.iter().find(|key| key["name"] == "sdk").unwrap();
    assert_eq!(mine["expires_at"], "2999-01-01T00:00:00.500Z");
    assert_eq!(std::fs::read(&file).unwrap(), before);

    let server = Process::serve(&database, "");
    let caller = |key: &str| Caller::new(&server.address, Some(key));
    let me = caller(&key).get("/auth/me").await.expect(200);
    assert_eq!(me["wallet_address"], W1);
    assert_eq!(me["key"]["scopes"], json!(["chat", "read", "miner"]));
    caller(&key).get("/auth/me").await.expect(200);
    caller(&off)
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    caller(&late)
        .get("/auth/me")
        .await
        .refused(401, "expired_api_key");
    caller(&old_key(9))
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    let listed = server
        .admin()
        .get(&format!("/api/keys?wallet_address={W2}"))
        .await
        .expect(200);
    let active = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["is_active"] == true);
    let id = active.unwrap()["id"].as_str().unwrap();
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .await
        .expect(200);
    caller(&unused)
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(stored_hashes(&database, &sha256(&key)), 0);

    let again = import(&database, &file, 1);
    assert_eq!(
        keys_of(&again),
        [0, 3, 4],
        "a key that was re-hashed is known again"
    );
    let server = Process::serve(&database, "");
    let caller = Caller::new(&server.address, Some(&key));
    caller.get("/auth/me").await.expect(200);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn a_key_in_plain_text_is_hashed_on_import_and_works() {
    let (folder, database) = database();
    let key = old_key(1);
    let rows = [
        (key.as_str(), W1, Some("old"), true, DAY, None),
        ("sk-other", W1, None, true, DAY, None),
    ];
    let file = backend(folder.path(), OLDER, &rows);
    // As a running backend leaves it: in WAL mode, with a log that is not checkpointed.
    let running = Connection::open(&file).unwrap();
    running.pragma_update(None, "journal_mode", "wal").unwrap();
    running
        .execute("UPDATE api_keys SET name = 'renamed' WHERE id = 1", [])
        .unwrap();
    let report = import(&database, &file, 1);
    assert_eq!(keys_of(&report), [1, 1, 0]);
    let keys = listed(&database);
    assert_eq!(
        (&keys[0]["name"], &keys[0]["start"]),
        (&json!("renamed"), &json!(key[..10]))
    );
    assert!(!report.to_string().contains(&key[6..]) && !report.to_string().contains("sk-other"));
    drop(running);
    assert_eq!(keys_of(&import(&database, &file, 1)), [0, 1, 1]);
    assert!(
        !folder.path().join("r3mes 100%#?.db-shm").exists(),
        "nothing is left beside the file"
    );
    assert_eq!(stored_hashes(&database, &sha256(&key)), 0);
    let server = Process::serve(&database, "");
    let caller = Caller::new(&server.address, Some(&key));
    caller.get("/auth/me").await.expect(200);
}

#[tokio::test]
async fn concurrent_first_uses_of_an_imported_key_all_succeed() {
    let (folder, database) = database();
    let key = old_key(1);
    let file = backend(
        folder.path(),
        NEWER,
        &[(&sha256(&key), W1, None, true, DAY, None)],
    );
    import(&database, &file, 0);
    let server = Process::serve(&database, "");
    let uses: Vec<_> = (0..8)
        .map(|_| Caller::new(&server.address, Some(&key)))
        .map(|caller| tokio::spawn(async move { caller.get("/auth/me").await }))
        .collect();
    for used in uses {
        used.await.unwrap().expect(200);
    }
}

#[tokio::test]
async fn import_is_refused_beside_a_server_and_from_a_file_that_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let file = backend(
        folder.path(),
        NEWER,
        &[(&sha256(&old_key(1)), W1, None, true, DAY, None)],
    );
    let file = file.to_str().unwrap();
    assert_eq!(edge(&database, &["db", "import", file]).0, 4);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(edge(&database, &["db", "import", file]).0, 0);
    assert_eq!(edge(&database, &["db", "import", "/nowhere.db"]).0, 3);
    let letter = folder.path().join("letter");
    std::fs::write(
        &letter,
        "this is a letter, and it is longer than a header of a database is",
    )
    .unwrap();
    assert_ne!(
        edge(&database, &["db", "import", letter.to_str().unwrap()]).0,
        0
    );
}
