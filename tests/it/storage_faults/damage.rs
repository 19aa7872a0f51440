//! Damaged pages, and a missing WAL.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;
use serde_json::json;

use super::{credits, granted, refused_start};
use crate::support::{Process, W1, W2, edge};

/// Where the first page of a table stands, and how long a page is.
fn page_of(database: &Path, table: &str) -> (u64, usize) {
    let connection = Connection::open(database).unwrap();
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0).map(u64::from));
    let root = number(&format!(
        "SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"
    ));
    let size = number("PRAGMA page_size").unwrap();
    ((root.unwrap() - 1) * size, size as usize)
}

fn overwrite(database: &Path, at: u64, bytes: usize) {
    let file = OpenOptions::new().write(true).open(database).unwrap();
    file.write_all_at(&vec![0xA5; bytes], at).unwrap();
}

#[tokio::test]
async fn a_server_on_a_damaged_file_names_the_restore_command() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    assert!(granted(&server.admin()).await);
    assert_eq!(server.terminate(), Some(0));
    let copy = folder.path().join("copy.db");
    let name = copy.to_str().unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", name]).0, 0);
    let good = std::fs::read(&database).unwrap();
    let header = (0, 100);
    let schema = (100, 3996);
    let keys = page_of(&database, "api_keys");
    for (at, bytes) in [header, schema, keys] {
        std::fs::write(&database, &good).unwrap();
        overwrite(&database, at, bytes);
        let (code, stderr) = refused_start(&database);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains("damaged")
                && stderr.contains("restore")
                && !stderr.contains("panicked"),
            "{stderr}"
        );
        // The named remedy works.
        assert_eq!(edge(&database, &["restore", name]).0, 0);
        let server = Process::serve(&database, "");
        assert_eq!(credits(&server.admin()).await, 1);
        assert_eq!(server.terminate(), Some(0));
    }
}

#[tokio::test]
async fn a_damaged_page_is_a_503_for_requests_that_read_it_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    assert!(granted(&server.admin()).await);
    assert_eq!(server.terminate(), Some(0));
    let good = std::fs::read(&database).unwrap();

    let server = Process::serve(&database, "");
    let admin = server.admin();
    let (at, bytes) = page_of(&database, "ledger");
    overwrite(&database, at, bytes);
    // A commit makes the readers read the file again.
    admin
        .post("/users", &json!({ "wallet_address": W2 }))
        .await
        .expect(201);
    let ledger = format!("/users/{W1}/ledger");
    admin.get(&ledger).await.refused(503, "storage_unavailable");
    admin
        .get("/admin/ledger/verify")
        .await
        .refused(503, "storage_unavailable");
    assert!(!granted(&admin).await);
    assert_eq!(credits(&admin).await, 1);
    admin
        .delete("/api/keys/key_nothing")
        .await
        .refused(404, "not_found");
    admin.get("/readyz").await.expect(200);
    // Once the page is restored the running server recovers.
    let page = &good[at as usize..at as usize + bytes];
    let file = OpenOptions::new().write(true).open(&database).unwrap();
    file.write_all_at(page, at).unwrap();
    assert!(granted(&admin).await);
    assert_eq!(credits(&admin).await, 2);
    let report = admin.get("/admin/ledger/verify").await.expect(200);
    assert_eq!(report["mistakes"], json!([]));
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn without_its_wal_a_database_has_its_last_checkpoint_and_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    for index in [true, false] {
        let server = Process::serve(&database, "");
        assert!(granted(&server.admin()).await);
        let before = credits(&server.admin()).await;
        assert_eq!(server.terminate(), Some(0));
        let server = Process::serve(&database, "");
        assert!(granted(&server.admin()).await);
        server.kill();
        std::fs::remove_file(folder.path().join("edge.db-wal")).unwrap();
        if index {
            std::fs::remove_file(folder.path().join("edge.db-shm")).unwrap();
        }
        let server = Process::serve(&database, "");
        let admin = server.admin();
        assert_eq!(credits(&admin).await, before);
        let report = admin.get("/admin/ledger/verify").await.expect(200);
        assert_eq!(report["mistakes"], json!([]));
        assert_eq!(server.terminate(), Some(0));
        assert_eq!(edge(&database, &["db", "check"]).0, 0);
    }
}
