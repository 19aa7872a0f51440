//! Copies that the running server makes, and the bound on its WAL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r3mes_edge::model::{Credits, HashrateUnit, Sample};
use r3mes_edge::store::{Actor, Resolution, verify_backup};
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use super::copies;
use crate::ops::metrics::metric;
use crate::support::{Process, TestServer, W1, config, edge, eventually, wallet};

fn parts(database: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "part"))
        .collect()
}

/// Grants one credit at a time until it is stopped; returns how many grants were acknowledged.
fn write_on(
    server: &TestServer,
) -> (
    Arc<AtomicBool>,
    Arc<AtomicU64>,
    Vec<tokio::task::JoinHandle<()>>,
) {
    let (stop, acknowledged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let tasks = (0..8).map(|_| {
        let (admin, stop, acknowledged) =
            (server.admin(), Arc::clone(&stop), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let grant = json!({ "amount": 1, "reason": "test" });
                let path = format!("/users/{W1}/credits");
                admin.post(&path, &grant).await.expect(200);
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let tasks = tasks.collect();
    (stop, acknowledged, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_by_the_server_holds_all_that_was_acknowledged_before_and_no_write_is_refused() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 0).await;
    let (stop, acknowledged, tasks) = write_on(&server);
    for _ in 0..5 {
        let before = acknowledged.load(Ordering::SeqCst);
        let made = server
            .admin()
            .post("/admin/backup", &json!(null))
            .await
            .expect(201);
        assert_eq!(made["ledger"]["mistakes"], json!([]));
        let name = made["file"].as_str().unwrap();
        assert!(!name.contains('/'), "{name}");
        let copy = server.database().with_file_name(name);
        use std::os::unix::fs::PermissionsExt;
        let about = std::fs::metadata(&copy).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        assert_eq!(about.len(), made["bytes"].as_u64().unwrap());
        assert_eq!(verify_backup(&copy).unwrap().mistakes, Vec::<String>::new());
        let store = SqliteStore::open(&copy, false).unwrap();
        let user = store.user(wallet(W1)).await.unwrap();
        assert!(user.credits.micro() >= before as i64 * 1_000_000);
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(parts(&server.database()), Vec::<PathBuf>::new());
    assert!(metric(&server, "r3mes_backup_timestamp_seconds", &[]).await > 0.0);
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_in_the_middle_of_a_copy_leaves_none_that_is_not_whole() {
    let server = TestServer::start(config()).await;
    let now = server.clock.now();
    for batch in 0..20u32 {
        let at = |n: u32| now.minus(Duration::from_secs(u64::from(batch * 1000 + n)));
        let sample = |n| Sample::new(wallet(W1), at(n), 1.0, HashrateUnit::HashesPerSecond);
        let samples = (0..1000).map(sample).collect();
        server
            .store
            .record_samples(samples, 1000, now)
            .await
            .unwrap();
    }
    let admin = server.admin();
    let copying =
        tokio::spawn(async move { admin.try_post("/admin/backup", "null".to_owned()).await });
    eventually("the copy begins or ends", async || {
        let begun = !parts(&server.database()).is_empty() || !copies(&server.database()).is_empty();
        begun.then_some(())
    })
    .await;
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let _ = copying.await.unwrap();
    assert_eq!(parts(&database), Vec::<PathBuf>::new());
    for copy in copies(&database) {
        assert_eq!(verify_backup(&copy).unwrap().mistakes, Vec::<String>::new());
    }
}

#[tokio::test]
async fn of_many_copies_asked_for_at_once_each_is_whole_or_refused() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 3).await;
    let ask = || async { server.admin().post("/admin/backup", &json!(null)).await };
    let answers = tokio::join!(ask(), ask(), ask(), ask());
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert!(made > 0);
    for answer in answers.into_iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "conflict");
    }
    assert_eq!(copies(&server.database()).len(), made);
}

#[tokio::test]
async fn copies_are_made_by_schedule_and_the_oldest_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.backup.every = Some(Duration::from_secs(3600));
    config.backup.folder = folder.path().to_owned();
    config.backup.keep = 2;
    let server = TestServer::start(config).await;
    let beside = folder.path().join("edge.db");
    let mut seen = Vec::new();
    for round in 0..4 {
        let newest = eventually("a copy is made", async || {
            server.anybody().get("/livez").await.expect(200);
            let copies = copies(&beside);
            copies
                .last()
                .filter(|newest| !seen.contains(*newest))
                .cloned()
        })
        .await;
        seen.push(newest);
        let remaining = eventually("the oldest are deleted", async || {
            server.anybody().get("/livez").await.expect(200);
            let remaining = copies(&beside);
            (remaining.len() == seen.len().min(2)).then_some(remaining)
        })
        .await;
        assert_eq!(
            remaining,
            seen[seen.len() - remaining.len()..],
            "round {round}"
        );
        server.clock.advance(Duration::from_secs(3601));
    }
}

#[tokio::test]
async fn the_command_line_asks_the_server_and_a_restart_repeats_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let every = "[backup]\nevery = \"1h\"\n";
    let serving = Process::serve(&database, every);
    // From the server's own report: the file exists a moment before the copy is complete.
    let known = async |serving: &Process| {
        eventually("the newest copy is known", async || {
            let page = serving.admin().get("/metrics").await;
            let page = String::from_utf8(page.body.to_vec()).unwrap();
            assert!(page.contains("\nr3mes_backup_failures_total "), "{page}");
            (page.contains("\nr3mes_backup_timestamp_seconds ")).then_some(())
        })
        .await;
    };
    known(&serving).await;
    assert_eq!(copies(&database).len(), 1);
    let (code, output) = edge(&database, &["--json", "backup", "create"]);
    assert_eq!(code, 0, "{output}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    let file = PathBuf::from(report["file"].as_str().unwrap());
    assert!(copies(&database).contains(&file));
    assert_eq!(copies(&database).len(), 2);
    serving.kill();
    let serving = Process::serve(&database, every);
    known(&serving).await;
    for _ in 0..200 {
        serving.admin().get("/livez").await.expect(200);
    }
    assert_eq!(copies(&database).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_stays_short_beside_endless_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let store = Arc::new(SqliteStore::open(&path, true).unwrap());
    let now = r3mes_edge::Clock::default().now();
    let sample = |n: u64| {
        let at = now.minus(Duration::from_millis(n));
        Sample::new(wallet(W1), at, 1.0, HashrateUnit::HashesPerSecond)
    };
    for batch in 0..30 {
        let samples = (0..1000).map(|n| sample(batch * 10_000 + n * 10)).collect();
        store.record_samples(samples, 1000, now).await.unwrap();
    }
    // At least one reader is always active: each begins before another ends.
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let since = now.minus(Duration::from_secs(30));
                while !stop.load(Ordering::SeqCst) {
                    let read = store.hashrate(
                        wallet(W1),
                        since..since.plus(Duration::from_secs(86_400)),
                        Resolution::Minute,
                        10_000,
                    );
                    read.await.unwrap();
                }
            })
        })
        .collect();
    let (mut written, mut longest) = (0, 0);
    let log = || {
        std::fs::metadata(folder.path().join("edge.db-wal"))
            .unwrap()
            .len()
    };
    let mut last = log();
    for n in 0..600u64 {
        // All over the file, so that a few samples write many pages.
        let samples = (0..60)
            .map(|m| sample((n + m * 5000) * 10 + 1 + n % 9))
            .collect();
        store.record_samples(samples, 1000, now).await.unwrap();
        let length = log();
        written += length.saturating_sub(last);
        last = length;
        longest = longest.max(length);
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    println!("{written} bytes went through the log, which had {longest} at most");
    // Where the present reads are not waited for it is as long as what went through it.
    assert!(longest < 64 << 20, "{longest} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_is_emptied_beside_endless_verifications_of_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let store = Arc::new(SqliteStore::open(&path, true).unwrap());
    let now = r3mes_edge::Clock::default().now();
    let grant = async |reason: String| {
        let actor = Actor::local(now);
        let granted = store.grant(
            wallet(W1),
            Credits::from_micro(1),
            reason,
            None,
            actor,
            None,
        );
        granted.await.unwrap();
    };
    // More entries than a step reads.
    let many = "BEGIN; WITH RECURSIVE n (i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
                INSERT INTO ledger (id, user, amount, balance, reason, operation, created_at) SELECT i, 1, 1, i, 'test', zeroblob(16), 0 FROM n;
                UPDATE users SET credits = 30000; UPDATE totals SET entries = 30000; COMMIT";
    grant("test".to_owned()).await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.busy_timeout(Duration::from_secs(5)).unwrap();
    file.execute_batch(many).unwrap();
    drop(file);
    let stop = Arc::new(AtomicBool::new(false));
    let walkers: Vec<_> = (0..3)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut verified = 0;
                while !stop.load(Ordering::SeqCst) {
                    let report = store.verify_ledger(true).await.unwrap();
                    assert_eq!(report.mistakes, [""; 0]);
                    verified += 1;
                }
                verified
            })
        })
        .collect();
    let mut longest = 0;
    for _ in 0..100 {
        grant("x".repeat(1 << 20)).await;
        longest = longest.max(store.gauges().wal_bytes.unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    for walker in walkers {
        assert!(walker.await.unwrap() > 0);
    }
    println!("the log had {longest} bytes at most, while 100 MiB went through it");
    assert!(longest < 64 << 20, "{longest} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_that_reads_holds_the_wal_but_no_write() {
    let mut longest = Duration::MAX;
    // A machine may be busy for a second, but not each time.
    for _ in 0..3 {
        longest = longest.min(longest_write_beside_a_reader().await);
    }
    // The busy timeout for another program's lock.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

async fn longest_write_beside_a_reader() -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let store = SqliteStore::open(&path, true).unwrap();
    let now = r3mes_edge::Clock::default().now();
    let grant = async |bytes: usize| {
        let (amount, reason) = (Credits::from_micro(1), "x".repeat(bytes));
        let granted = store
            .grant(wallet(W1), amount, reason, None, Actor::local(now), None)
            .await;
        granted.unwrap();
    };
    grant(1).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM users").unwrap();
    let mut longest = Duration::ZERO;
    // More than the WAL may hold, and one write after it.
    for _ in 0..41 {
        let began = Instant::now();
        grant(1 << 20).await;
        longest = longest.max(began.elapsed());
    }
    assert!(store.gauges().wal_bytes > Some(32 << 20));
    longest
}
