//! A database of another version is refused, and one of this version is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use r3mes_edge::store::SCHEMA_VERSION;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{Process, W1, edge, edge_output};

/// The files of a folder with their content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = folder.read_dir().unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .collect()
}

fn parsed(answer: (i32, String)) -> Value {
    assert_eq!(answer.0, 0, "{}", answer.1);
    serde_json::from_str(&answer.1).unwrap()
}

#[test]
fn a_file_of_another_version_is_refused_by_server_and_commands_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made.db");
    assert_eq!(Process::serve(&made, "").terminate(), Some(0));
    let next = SCHEMA_VERSION + 1;
    let newer = format!("schema version {next}, which is newer than this program");
    for (version, code, why) in [
        (
            1,
            4,
            "development version 1; nothing was changed; start with an empty database",
        ),
        (
            5,
            4,
            "development version 5; nothing was changed; start with an empty database",
        ),
        (next, 1, &*newer),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        std::fs::copy(&made, &database).unwrap();
        Connection::open(&database)
            .unwrap()
            .pragma_update(None, "user_version", version)
            .unwrap();
        let before = content(folder.path());
        assert_eq!(before.len(), 1);
        for arguments in [
            &["serve", "--listen", "127.0.0.1:0"][..],
            &["db", "check"],
            &["users", "list"],
            &["users", "create", W1],
            &["ledger", "export"],
            &["backup", "create"],
        ] {
            let (found, _, text) = edge_output(&database, arguments);
            assert_eq!(found, code, "{arguments:?}: {text}");
            assert!(text.contains(why), "{arguments:?}: {text}");
            assert_eq!(content(folder.path()), before, "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn a_database_is_checked_beside_its_server_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    server.grant(W1, 3).await;
    let check = parsed(edge(&database, &["--json", "db", "check"]));
    assert_eq!(
        (&check["version"], &check["mistakes"]),
        (&json!(SCHEMA_VERSION), &json!([]))
    );
    assert_eq!(check["ledger"]["entries"], 1);
    assert_eq!(server.terminate(), Some(0));

    let connection = Connection::open(&database).unwrap();
    let harm = "DROP INDEX idx_ledger_user; CREATE TABLE theirs (n); PRAGMA foreign_keys = OFF;
        INSERT INTO hashrate_history VALUES (77, 1, 0, 0, 1, 1, 1, 1, 1); UPDATE users SET credits = credits + 1";
    connection.execute_batch(harm).unwrap();
    drop(connection);
    let (code, text) = edge(&database, &["db", "check"]);
    assert_eq!(code, 1);
    for found in [
        "missing in the schema: CREATE INDEX idx_ledger_user",
        "unexpected in the schema: CREATE TABLE theirs",
        "a row of hashrate_history refers",
        "the balance is 3.000001",
    ] {
        assert!(text.contains(found), "{found}: {text}");
    }
}
