//! Copies of the database: their content, their checks, and how one is restored.

mod list;
mod minutes;
mod restore;
mod server;
mod shared;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use r3mes_edge::{Repository, SqliteStore};
use serde_json::{Value, json};

use crate::support::{Process, TestServer, W1, config, edge, wallet};

/// The copies beside a database.
fn copies(database: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap();
    let mut copies: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "backup")
        })
        .collect();
    copies.sort();
    copies
}

fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap()
}

async fn credits(database: &Path) -> String {
    let store = SqliteStore::open(database, false).unwrap();
    let user = store.user(wallet(W1)).await.unwrap();
    user.credits.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_beside_writers_holds_all_that_was_acknowledged_before_it_began() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 1).await;
    let path = format!("/users/{W1}/credits");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (admin, path, stop) = (server.admin(), path.clone(), std::sync::Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let grant = json!({ "amount": 1, "reason": "test" });
                    admin.post(&path, &grant).await.expect(200);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let database = server.database();
        let acknowledged = server.balance(W1).await;
        let command = move || edge(&database, &["--json", "backup", "create"]);
        let (code, output) = tokio::task::spawn_blocking(command).await.unwrap();
        assert_eq!(code, 0);
        let report = json(&output);
        assert_eq!(report["ledger"]["mistakes"], json!([]));
        let copy = PathBuf::from(report["file"].as_str().unwrap());
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (code, _) = edge(&copy, &["backup", "verify", copy.to_str().unwrap()]);
        assert_eq!(code, 0);
        let store = SqliteStore::open(&copy, false).unwrap();
        let user = store.user(wallet(W1)).await.unwrap();
        assert!(
            user.credits >= acknowledged,
            "{} of {acknowledged}",
            user.credits
        );
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_copy_takes_the_databases_place_and_the_old_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let copy = folder.path().join("then.db");
    let serving = Process::serve(&database, "");
    let path = format!("/users/{W1}/credits");
    let grant = |amount: i64| json!({ "amount": amount, "reason": "test" });
    serving.admin().post(&path, &grant(3)).await.expect(200);
    let then = copy.to_str().unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", then]).0, 0);
    // An existing file is not overwritten.
    let before = std::fs::read(&copy).unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", then]).0, 1);
    assert_eq!(std::fs::read(&copy).unwrap(), before);

    serving.admin().post(&path, &grant(4)).await.expect(200);
    assert_eq!(edge(&database, &["restore", then]).0, 4, "beside a server");
    let user = serving
        .admin()
        .get(&format!("/users/{W1}"))
        .await
        .expect(200);
    assert_eq!(user["credits"], 7);
    serving.kill();
    // Killed, its last commits are in its log: a copy is the two files.
    let crashed = folder.path().join("crashed.db");
    for log in ["", "-wal"] {
        let of = |database: &Path| format!("{}{log}", database.display());
        std::fs::copy(of(&database), of(&crashed)).unwrap();
    }

    let (code, output) = edge(&database, &["--json", "restore", then]);
    assert_eq!(code, 0);
    let old = PathBuf::from(json(&output)["replaced"].as_str().unwrap());
    assert_eq!(credits(&database).await, "3");
    // Killed, its last commits were in the log: they are not lost.
    assert_eq!(credits(&old).await, "7");
    let mode = std::fs::metadata(&database).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    assert_eq!(
        edge(&database, &["restore", crashed.to_str().unwrap()]).0,
        0
    );
    assert_eq!(credits(&database).await, "7", "its log was left behind");
}

#[tokio::test]
async fn an_inconsistent_or_foreign_database_is_neither_copied_nor_restored() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 3).await;
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let good = std::fs::read(&database).unwrap();
    let bad = folder.path().join("bad.db");
    let name = bad.to_str().unwrap();

    std::fs::copy(&database, &bad).unwrap();
    let tampered = rusqlite::Connection::open(&bad).unwrap();
    tampered
        .execute("UPDATE users SET credits = credits + 1", [])
        .unwrap();
    drop(tampered);
    let (code, output) = edge(&database, &["backup", "verify", name]);
    assert_eq!(code, 1);
    assert!(output.contains("the balance is 3.000001"), "{output}");
    assert_eq!(edge(&bad, &["backup", "create"]).0, 1);
    assert_eq!(copies(&bad), Vec::<PathBuf>::new());
    assert_eq!(edge(&database, &["restore", name]).0, 1);

    // Corrupts a page.
    let mut torn = good.clone();
    let (page, size): (usize, usize) = rusqlite::Connection::open(&database)
        .unwrap()
        .query_row(
            "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'users'",
            [],
            |row| {
                Ok((
                    row.get::<_, i64>(0)? as usize,
                    row.get::<_, i64>(1)? as usize,
                ))
            },
        )
        .unwrap();
    torn[(page - 1) * size..page * size].fill(0xA5);
    std::fs::write(&bad, torn).unwrap();
    assert_ne!(edge(&database, &["backup", "verify", name]).0, 0);
    assert_ne!(edge(&database, &["restore", name]).0, 0);
    std::fs::write(
        &bad,
        "a letter to my mother, longer than the head of a database would be",
    )
    .unwrap();
    assert_eq!(edge(&database, &["backup", "verify", name]).0, 1);
    assert_eq!(edge(&database, &["backup", "verify", "/nowhere.db"]).0, 3);
    assert_eq!(std::fs::read(&database).unwrap(), good);
    assert_eq!(credits(&database).await, "3");
}

#[tokio::test]
async fn only_the_newest_copies_are_kept_and_other_files_are_left_alone() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 3).await;
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let mine = folder.path().join("edge.db.mine.backup");
    std::fs::write(&mine, "mine").unwrap();
    // What a crash left of two others, one of them a moment ago.
    let unfinished = ["20250101T000000.000Z", "20991231T000000.000Z"]
        .map(|stamp| folder.path().join(format!("edge.db.{stamp}.backup.part")));
    for part in &unfinished {
        std::fs::write(part, "half").unwrap();
    }
    let mut made = Vec::new();
    for _ in 0..4 {
        let (code, output) = edge(&database, &["--json", "backup", "create", "--keep", "2"]);
        assert_eq!(code, 0);
        made.push(PathBuf::from(json(&output)["file"].as_str().unwrap()));
    }
    assert_eq!(copies(&database), [made[2].clone(), made[3].clone(), mine]);
    assert_eq!(unfinished.map(|part| part.exists()), [false, true]);
}
