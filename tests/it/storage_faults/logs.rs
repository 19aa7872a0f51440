//! A write-ahead log belongs to one state of one file: what is moved, copied or laid over another without it is refused, and
//! nothing is changed.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{credits, granted, refused_start};
use crate::support::{Process, edge, on_a_small_disk};

fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", database.display()))
}

fn bytes(database: &Path) -> [Option<Vec<u8>>; 2] {
    ["", "-wal"].map(|suffix| std::fs::read(with_suffix(database, suffix)).ok())
}

/// The server that does not start names both files and the way out, and leaves them as they are.
fn assert_refused(database: &Path, expected: &[&str]) {
    let before = bytes(database);
    for _ in 0..2 {
        let (code, stderr) = refused_start(database);
        assert_eq!(code, Some(1), "{stderr}");
        for text in expected.iter().chain(&["r3mes-edge restore"]) {
            assert!(stderr.contains(text), "{text}: {stderr}");
        }
        assert!(bytes(database) == before, "the files were changed");
    }
}

/// Grants credits until it has so many.
async fn grant_to(server: &Process, balance: u64) {
    let admin = server.admin();
    loop {
        assert!(granted(&admin).await);
        if credits(&admin).await == balance {
            return;
        }
    }
}

#[tokio::test]
async fn a_file_laid_beside_the_log_of_another_state_is_refused_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let copy = folder.path().join("copy.db");
    let server = Process::serve(&database, "");
    grant_to(&server, 20).await;
    let name = copy.to_str().unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", name]).0, 0);
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let checkpointed = {
        let shell = Connection::open(&database).unwrap();
        shell.query_row(checkpoint, [], |_| Ok(())).unwrap();
        std::fs::read(&database).unwrap()
    };
    grant_to(&server, 40).await;
    // From now on the log holds only what comes after.
    let shell = Connection::open(&database).unwrap();
    shell.query_row(checkpoint, [], |_| Ok(())).unwrap();
    drop(shell);
    grant_to(&server, 45).await;
    server.kill();
    let newest = bytes(&database);

    let other = folder.path().join("other.db");
    let server = Process::serve(&other, "");
    assert!(granted(&server.admin()).await);
    assert_eq!(server.terminate(), Some(0));
    let early = folder.path().join("early.db");
    std::fs::write(&early, checkpointed).unwrap();
    for laid in [&copy, &other, &early] {
        std::fs::copy(laid, &database).unwrap();
        assert_refused(&database, &["edge.db-wal", "another state"]);
    }
    // Both ways out work: the file that the log belongs to, and the copy.
    std::fs::write(&database, newest[0].as_ref().unwrap()).unwrap();
    let server = Process::serve(&database, "");
    assert_eq!(credits(&server.admin()).await, 45);
    server.kill();
    std::fs::copy(&copy, &database).unwrap();
    assert_eq!(edge(&database, &["restore", name]).0, 0);
    let server = Process::serve(&database, "");
    assert_eq!(credits(&server.admin()).await, 20);
}

#[tokio::test]
async fn a_crashed_server_finds_its_own_log_however_often_it_was_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let mut balance = 0;
    for round in 0..6 {
        let server = Process::serve(&database, "");
        let admin = server.admin();
        assert!(granted(&admin).await);
        balance += 1;
        for _ in 0..round {
            let shell = Connection::open(&database).unwrap();
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            shell.query_row(checkpoint, [], |_| Ok(())).unwrap();
            drop(shell);
            assert!(granted(&admin).await);
            balance += 1;
        }
        assert_eq!(credits(&admin).await, balance);
        server.kill();
    }
}

#[tokio::test]
async fn a_file_moved_or_copied_without_its_log_is_refused_where_it_comes_to() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    grant_to(&server, 3).await;
    let copied = folder.path().join("copied.db");
    std::fs::copy(&database, &copied).unwrap();
    server.kill();
    let place = database.canonicalize().unwrap();
    assert_refused(&copied, &[place.to_str().unwrap(), "copied.db-wal"]);
    let moved = folder.path().join("moved.db");
    std::fs::rename(&database, &moved).unwrap();
    assert_refused(&moved, &[place.to_str().unwrap(), "moved.db-wal"]);
    // As it states: with its log nothing is missing.
    std::fs::rename(with_suffix(&database, "-wal"), with_suffix(&moved, "-wal")).unwrap();
    let server = Process::serve(&moved, "");
    let key = std::fs::read_to_string(with_suffix(&database, ".admin-key")).unwrap();
    let admin = crate::support::Caller::new(&server.address, Some(key.trim()));
    assert_eq!(credits(&admin).await, 3);
    assert_eq!(server.terminate(), Some(0));
    // And a copy that is whole can be made one.
    let itself = copied.to_str().unwrap();
    assert_eq!(edge(&copied, &["restore", itself]).0, 0);
    assert_eq!(Process::serve(&copied, "").terminate(), Some(0));
    // After a clean end a file is whole, wherever it goes.
    let ended = folder.path().join("ended.db");
    std::fs::rename(&moved, &ended).unwrap();
    let server = Process::serve(&ended, "");
    let admin = crate::support::Caller::new(&server.address, Some(key.trim()));
    assert_eq!(credits(&admin).await, 3);
}

#[tokio::test]
async fn another_program_that_wrote_the_log_into_the_file_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    grant_to(&server, 3).await;
    server.kill();
    // The last connection that is closed deletes the log.
    let shell = Connection::open(&database).unwrap();
    let count = "SELECT count(*) FROM ledger";
    let rows: i64 = shell.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3);
    drop(shell);
    assert!(!with_suffix(&database, "-wal").exists());
    let server = Process::serve(&database, "");
    assert_eq!(credits(&server.admin()).await, 3);
    let warned = |line: &String| line.contains("edge.db-wal was deleted after a crash");
    assert!(server.log().iter().any(warned), "{:?}", server.log());
}

#[tokio::test]
async fn a_file_that_is_mounted_without_its_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    // Of the same file system, and of another.
    let mounts = [
        "cp ../edge.db whole.db && : > edge.db && mount --bind whole.db edge.db",
        ": > edge.db && mount --bind ../edge.db edge.db",
    ];
    for before in mounts {
        let Some(mut command) = on_a_small_disk(&disk, 16, before, "") else {
            return;
        };
        let done = command.output().unwrap();
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{log}");
        assert!(log.contains("mount the folder"), "{log}");
    }
}
