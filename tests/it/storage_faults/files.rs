//! One database, one server, whatever its file is called and whatever happens to it meanwhile.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use r3mes_edge::model::Credits;
use r3mes_edge::store::{
    Actor, InstanceLock, LockError, OpenError, back_up, check_database, verify_backup,
};
use r3mes_edge::{Clock, Repository, SqliteStore};
use rusqlite::Connection;
use serde_json::json;

use super::{credits, granted, refused_start};
use crate::support::{Caller, Process, W1, edge, edge_output, eventually, wallet};

fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", database.display()))
}

/// The summary of the server's critical alert about its file.
async fn file_alert(admin: &Caller) -> Option<String> {
    let alerts = admin.get("/alerts").await.expect(200);
    let firing = alerts["firing"].as_array().unwrap();
    let alert = firing
        .iter()
        .find(|alert| alert["name"] == "database_file")?;
    assert_eq!(alert["severity"], "CRITICAL");
    Some(alert["summary"].as_str().unwrap().to_owned())
}

/// Something happened to the file: no write is acknowledged, no copy is made, and an alert is raised.
async fn assert_file_fault(admin: &Caller, balance: u64, expected: &str) {
    assert!(!granted(admin).await);
    let not_ready = admin.get("/readyz").await;
    not_ready.refused(503, "storage_unavailable");
    admin.get("/livez").await.expect(200);
    assert_eq!(credits(admin).await, balance);
    let refused = admin.post("/admin/backup", &json!(null)).await;
    refused.refused(503, "storage_unavailable");
    let summary = file_alert(admin).await.expect("no alert");
    assert!(summary.contains(expected), "{summary}");
}

async fn assert_writes_again(admin: &Caller) {
    let written = async || granted(admin).await.then_some(());
    eventually("writes are taken again", written).await;
    admin.get("/readyz").await.expect(200);
    let ended = async || file_alert(admin).await.is_none().then_some(());
    eventually("the alert has ended", ended).await;
}

#[tokio::test]
async fn a_file_that_is_moved_replaced_linked_or_deleted_rejects_writes_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let aside = folder.path().join("aside.db");
    let server = Process::serve(&database, "[alerts]\nconfirm = \"1ms\"");
    let admin = server.admin();
    assert!(granted(&admin).await);

    std::fs::rename(&database, &aside).unwrap();
    assert_file_fault(&admin, 1, "moved").await;
    std::fs::rename(&aside, &database).unwrap();
    assert_writes_again(&admin).await;

    std::fs::rename(&database, &aside).unwrap();
    std::fs::copy(&aside, &database).unwrap();
    assert_file_fault(&admin, 2, "another file").await;
    std::fs::rename(&aside, &database).unwrap();
    assert_writes_again(&admin).await;

    // The same file, but where it is found by its name is not where its log is.
    std::fs::rename(&database, &aside).unwrap();
    symlink(&aside, &database).unwrap();
    assert_file_fault(&admin, 3, "another file").await;
    std::fs::rename(&aside, &database).unwrap();
    assert_writes_again(&admin).await;

    std::fs::hard_link(&database, &aside).unwrap();
    assert_file_fault(&admin, 4, "hard link").await;
    std::fs::remove_file(&aside).unwrap();
    assert_writes_again(&admin).await;

    let log = with_suffix(&database, "-wal");
    std::fs::remove_file(&log).unwrap();
    assert_file_fault(&admin, 5, "SIGTERM").await;
    // As the alert states, nothing is lost then.
    assert_eq!(server.terminate(), Some(0));
    let server = Process::serve(&database, "");
    let admin = server.admin();
    assert_eq!(credits(&admin).await, 5);

    std::fs::remove_file(&database).unwrap();
    assert_file_fault(&admin, 5, "deleted").await;
}

#[tokio::test]
async fn a_second_server_is_refused_by_any_path_and_without_the_lock_file() {
    let folder = tempfile::tempdir().unwrap();
    let (real, links) = (folder.path().join("real"), folder.path().join("links"));
    std::fs::create_dir(&real).unwrap();
    std::fs::create_dir(&links).unwrap();
    let database = real.join("edge.db");
    // It leads nowhere yet: the database is made where it leads to, and all that belongs to it.
    let link = links.join("edge.db");
    symlink("../real/edge.db", &link).unwrap();
    symlink(&link, links.join("again.db")).unwrap();
    symlink(&real, links.join("folder")).unwrap();
    let server = Process::serve(&link, "");
    let mut beside: Vec<_> = std::fs::read_dir(&links)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    beside.sort();
    assert_eq!(beside, ["again.db", "edge.db", "edge.toml", "folder"]);
    let key = std::fs::read_to_string(real.join("edge.db.admin-key")).unwrap();
    let admin = Caller::new(&server.address, Some(key.trim()));
    assert!(granted(&admin).await);

    // Commands reach the server by every path.
    let names = [
        &*link,
        &links.join("again.db"),
        &links.join("folder/edge.db"),
        &*database,
    ];
    for name in names {
        let arguments = ["keys", "create", "--wallet", W1, "--scopes", "read"];
        let (code, made, stderr) = edge_output(name, &arguments);
        assert_eq!(code, 0, "{stderr}");
        let caller = Caller::new(&server.address, Some(made.trim()));
        let me = caller.get("/auth/me").await.expect(200);
        let id = me["key"]["id"].as_str().unwrap();
        assert_eq!(edge(name, &["keys", "revoke", id]).0, 0);
        caller.get("/auth/me").await.refused(401, "invalid_api_key");
        let (code, rows) = edge(name, &["ledger", "export"]);
        assert_eq!((code, rows.lines().count()), (0, 2), "{rows}");
        assert_eq!(edge(name, &["restore", name.to_str().unwrap()]).0, 4);
    }

    let refused = |names: Vec<PathBuf>| {
        let starts: Vec<_> = names
            .into_iter()
            .map(|name| std::thread::spawn(move || refused_start(&name)))
            .collect();
        for start in starts {
            let (code, stderr) = start.join().unwrap();
            assert!(
                code == Some(4) && stderr.contains("another r3mes-edge"),
                "{stderr}"
            );
        }
    };
    refused(names.map(Path::to_owned).to_vec());
    std::fs::remove_file(real.join("edge.db.lock")).unwrap();
    refused(vec![database.clone(), link.clone()]);
    let (code, _) = edge(&link, &["restore", database.to_str().unwrap()]);
    assert_eq!(code, 4);
    // A fresh connection: the other was idle all the while.
    let admin = Caller::new(&server.address, Some(key.trim()));
    assert!(granted(&admin).await);
    assert_eq!(server.terminate(), Some(0));

    let other = real.join("other.db");
    std::fs::hard_link(&database, &other).unwrap();
    for name in [&database, &other] {
        let (code, stderr) = refused_start(name);
        assert!(
            code == Some(1) && stderr.contains("2 hard links"),
            "{stderr}"
        );
    }
    std::fs::remove_file(other).unwrap();
    let server = Process::serve(&link, "");
    let admin = Caller::new(&server.address, Some(key.trim()));
    assert_eq!(credits(&admin).await, 2);
}

#[test]
fn a_server_that_starts_waits_for_another_that_is_about_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    SqliteStore::open(&database, true).unwrap().close();
    let held = InstanceLock::acquire(&database).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command
        .env_clear()
        .arg("--config")
        .arg(folder.path().join("edge.toml"));
    std::fs::write(
        folder.path().join("edge.toml"),
        format!(
            "listen = \"127.0.0.1:0\"\ndiscover = false\ndatabase = '{}'",
            database.display()
        ),
    )
    .unwrap();
    let mut server = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    // This is logged before the lock is requested.
    assert!(log.next().unwrap().unwrap().contains("configuration from"));
    drop(held);
    assert!(log.next().unwrap().unwrap().contains(" serves "));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_while_other_processes_open_and_close_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (admin, acknowledged, stop) =
                (server.admin(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    if granted(&admin).await {
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let path = database.clone();
    let others = move || {
        let log = std::fs::metadata(with_suffix(&path, "-wal")).unwrap().ino();
        for _ in 0..20 {
            drop(std::fs::File::open(&path).unwrap());
            // As a shell does, whose connection deletes the log if it takes itself for the last one.
            let shell = Connection::open(&path).unwrap();
            shell
                .query_row("SELECT count(*) FROM ledger", [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap();
            let _ = shell.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            drop(shell);
            for arguments in [["db", "check"], ["ledger", "verify"]] {
                let (code, out, stderr) = edge_output(&path, &arguments);
                assert_eq!(code, 0, "{out}{stderr}");
            }
            drop(InstanceLock::acquire(&path).unwrap_err());
        }
        let now = std::fs::metadata(with_suffix(&path, "-wal")).unwrap().ino();
        assert_eq!(now, log, "the log was deleted");
        assert!(is_locked_by_sqlite(&path));
    };
    tokio::task::spawn_blocking(others).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    server.kill();
    let server = Process::serve(&database, "");
    let balance = credits(&server.admin()).await.as_u64().unwrap();
    assert_eq!(balance, acknowledged.load(Ordering::SeqCst));
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
}

/// Whether some process has SQLite's lock of a connection that is open: without it another program, of an older SQLite at
/// least, takes itself for the last one when it closes the file, and deletes the log.
fn is_locked_by_sqlite(database: &Path) -> bool {
    let inode = std::fs::metadata(database).unwrap().ino();
    let is_listed = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let mut locks = locks.lines();
        locks.any(|lock| lock.contains(" POSIX ") && lock.contains(&format!(":{inode} ")))
    };
    // The list is read in pieces, and what other tests lock or unlock meanwhile may hide a line of it.
    (0..100).any(|_| is_listed())
}

/// What names the database for [`another_process`].
const DATABASE: &str = "R3MES_TEST_DATABASE";

/// No test: what [`nothing_acknowledged_is_lost_while_this_process_opens_its_file_again`] runs in a process of its own.
#[test]
fn another_process() {
    let Some(database) = std::env::var_os(DATABASE) else {
        return;
    };
    let shell = Connection::open(database).unwrap();
    shell
        .query_row("SELECT count(*) FROM ledger", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap();
    let _ = shell.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_while_this_process_opens_its_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let database = folder.join("edge.db");
    let link = folder.join("link.db");
    symlink(&database, &link).unwrap();
    let store = SqliteStore::open(&database, true).unwrap();
    let log = std::fs::metadata(with_suffix(&database, "-wal"))
        .unwrap()
        .ino();
    let one = Credits::parse("1").unwrap();
    let mut reader = None;
    for round in 0..6 {
        let reason = format!("round {round}");
        let now = Clock::default().now();
        store
            .grant(wallet(W1), one, reason, None, Actor::local(now), None)
            .await
            .unwrap();
        // Each of them met the file in this process, and any that opened and closed it would have dropped SQLite's locks.
        match round {
            0 => {
                assert!(matches!(
                    SqliteStore::open(&link, true),
                    Err(OpenError::Locked(LockError::Held(_)))
                ));
            }
            1 => {
                std::fs::remove_file(with_suffix(&database, ".lock")).unwrap();
                let held = InstanceLock::acquire(&link);
                assert!(matches!(held, Err(LockError::Held(None))), "{held:?}");
            }
            2 => drop(InstanceLock::server_of(&link).unwrap()),
            3 => {
                reader = Some(SqliteStore::open_read_only(&link).unwrap());
            }
            4 => {
                assert_eq!(check_database(&link).unwrap().errors().count(), 0);
                assert_eq!(verify_backup(&link).unwrap().entries, 5);
                back_up(&link, &folder.join("copy.db")).unwrap();
            }
            _ => drop(reader.take()),
        }
        assert!(is_locked_by_sqlite(&database), "round {round}");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "storage_faults::files::another_process"]);
        let done = command.env(DATABASE, &database).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(
            std::fs::metadata(with_suffix(&database, "-wal"))
                .unwrap()
                .ino(),
            log,
            "round {round}: another process took itself for the last one and deleted the log"
        );
    }
    // As it is found after a crash.
    let crashed = folder.join("crashed.db");
    for suffix in ["", "-wal"] {
        std::fs::copy(
            with_suffix(&database, suffix),
            with_suffix(&crashed, suffix),
        )
        .unwrap();
    }
    let crashed = SqliteStore::open(&crashed, false).unwrap();
    let user = crashed.user(wallet(W1)).await.unwrap();
    assert_eq!(user.credits.to_string(), "6");
    store.close();
}
