//! Copies during the run, and the checks at its end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use r3mes_edge::store::verify_backup;
use r3mes_edge::{Repository, SqliteStore};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};

use super::ledger_model::{LedgerModel, Samples, Worker};
use super::watch::{Figures, Watch, files_ending};
use crate::support::{Caller, Process, eventually};

impl Caller {
    /// The JSON of an answer of 200, if that is what comes.
    pub(super) async fn try_get(&self, path: &str) -> Option<Value> {
        use http_body_util::BodyExt;
        let asked = self.try_open(hyper::Method::GET, path, &[], "");
        let (200, _, body) = asked.await? else {
            return None;
        };
        let body = body.collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }
}

/// The samples of each worker and the credits granted, as a file has them.
struct Stored {
    samples: Vec<Samples>,
    granted: i64,
}

impl Stored {
    fn read(file: &Path, workers: &[Worker]) -> Self {
        let file = rusqlite::Connection::open(file).unwrap();
        let count = "SELECT count(*), sum(s.recorded_at - ?3), max(s.recorded_at) - ?3 FROM mining_stats s
             JOIN workers w ON w.id = s.worker WHERE w.wallet = ?1 AND w.worker = ?2 HAVING count(*) > 0";
        let samples = workers.iter().map(|worker| {
            let of = (&worker.wallet, &worker.name, worker.from);
            let read = |row: &rusqlite::Row<'_>| {
                let (count, sum, newest) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Samples { count, sum, newest })
            };
            let found = file.query_row(count, of, read).optional().unwrap();
            found.unwrap_or_default()
        });
        let samples = samples.collect();
        let sum = "SELECT coalesce(sum(amount), 0) / 1000000 FROM ledger
             WHERE amount > 0 AND reason <> 'chat_refund'";
        let granted = file.query_row(sum, [], |row| row.get(0)).unwrap();
        Self { samples, granted }
    }
}

/// What was acknowledged until now: samples of each worker, and credits.
fn acknowledged(model: &LedgerModel) -> (Vec<i64>, i64) {
    let samples = model.workers.iter();
    let samples = samples.map(|worker| worker.acknowledged.lock().unwrap().count);
    let granted = model.accounts.iter();
    let granted = granted.map(|account| account.granted.load(Ordering::SeqCst));
    (samples.collect(), granted.sum())
}

/// How many copies there were, the largest, and how long the longest took.
#[derive(Default)]
pub(super) struct Copies {
    made: u64,
    refused: u64,
    bytes: u64,
    longest: Duration,
}

/// Copies by `POST /admin/backup`: each is whole and has all that was acknowledged before it was asked for.
pub(super) async fn copy_now_and_then(
    serving: Arc<Process>,
    model: Arc<LedgerModel>,
    every: Duration,
) -> Copies {
    let admin = serving.admin();
    let (mut copies, mut due) = (Copies::default(), Instant::now() + every);
    while model.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if Instant::now() < due {
            continue;
        }
        let ((samples, granted), began) = (acknowledged(&model), Instant::now());
        let path = "/admin/backup";
        let answer = admin.post(path, &json!({})).await;
        if !model.note(&hyper::Method::POST, path, began, &answer, &[201]) {
            copies.refused += 1;
            continue;
        }
        let took = began.elapsed();
        due += every;
        let made = answer.expect(201);
        let file = serving
            .database
            .with_file_name(made["file"].as_str().unwrap());
        let checked = Arc::clone(&model);
        let look = move || {
            let report = verify_backup(&file).unwrap();
            for error in report.mistakes {
                checked.violation(format!("a copy: {error}"));
            }
            let stored = Stored::read(&file, &checked.workers);
            for (stored, recorded) in stored.samples.iter().zip(samples) {
                if stored.count < recorded {
                    checked.violation(format!("a copy has {} of {recorded} samples", stored.count));
                }
            }
            if stored.granted < granted {
                checked.violation(format!(
                    "a copy has {} of {granted} credits",
                    stored.granted
                ));
            }
            let path = file.display().to_string();
            for end in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{path}{end}"));
            }
        };
        tokio::task::spawn_blocking(look).await.unwrap();
        copies.made += 1;
        copies.bytes = copies.bytes.max(made["bytes"].as_u64().unwrap());
        copies.longest = copies.longest.max(took);
    }
    copies
}

/// Waits until the server is idle: no hold, no pending write, and few more open files than before.
pub(super) async fn settle_down(serving: &Process, model: &LedgerModel, before: Figures) {
    // Pooled connections to upstreams, and those of this test.
    const KEPT: u64 = 40;
    let admin = serving.admin();
    let quiet = eventually("nothing is under way", async || {
        let report = admin
            .get("/admin/ledger/verify?full=true")
            .await
            .expect(200);
        let health = admin.get("/health").await.expect(200);
        let figures = Figures::of(serving);
        let quiet = health["storage"]["holds"] == 0 && figures.files <= before.files + KEPT;
        tokio::time::sleep(Duration::from_millis(20)).await;
        quiet.then_some((report, figures))
    });
    let (report, after) = quiet.await;
    println!(
        "files before {}, when all had left {}; threads {} and {}; resident {} and {} KiB",
        before.files,
        after.files,
        before.threads,
        after.threads,
        before.resident_kib,
        after.resident_kib
    );
    if report["mistakes"] != json!([]) {
        model.violation(report);
    }
}

/// Ends the server and compares what is in its file with what was acknowledged.
pub(super) async fn add_up(mut serving: Process, model: &LedgerModel, watch: &mut Watch) {
    let admin = serving.admin();
    let (mut paid, mut perhaps, mut left) = (0, 0, 0);
    for account in &model.accounts {
        let path = format!("/users/{}", account.wallet);
        let user = admin.get(&path).await.expect(200);
        let (least, most) = account.between();
        let credits = user["credits"].as_i64();
        if !credits.is_some_and(|credits| (least..=most).contains(&credits)) {
            let credits = &user["credits"];
            model.violation(format!("{path} has {credits}, not {least} to {most}"));
        }
        paid += account.paid.load(Ordering::SeqCst);
        perhaps += account.perhaps_paid.load(Ordering::SeqCst);
        left += most - credits.unwrap_or_default();
    }
    println!("{paid} chats paid for sure, {left} of {perhaps} whose client left before he knew");
    let database = serving.database.clone();
    serving.tell_to_end();
    let code = serving.wait_for_end();
    if code != Some(0) {
        model.violation(format!("the server ended with {code:?}"));
    }
    watch.read_log(&serving, model);

    let store = SqliteStore::open(&database, false).unwrap();
    let report = store.verify_ledger(true).await.unwrap();
    store.close();
    drop(store);
    if !report.mistakes.is_empty() {
        model.violation(format!("at the end: {report:?}"));
    }
    let check: String = rusqlite::Connection::open(&database)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    if check != "ok" {
        model.violation(check);
    }
    let stored = Stored::read(&database, &model.workers);
    for (worker, stored) in model.workers.iter().zip(&stored.samples) {
        let recorded = *worker.acknowledged.lock().unwrap();
        if *stored != recorded {
            model.violation(format!("{} has {stored:?}, not {recorded:?}", worker.name));
        }
    }
    let (samples, granted) = acknowledged(model);
    if stored.granted != granted {
        model.violation(format!(
            "{} credits, not {granted}, are in the ledger",
            stored.granted
        ));
    }
    println!(
        "{} samples and {granted} credits acknowledged, each there once; the ledger has {} entries of {} wallets; {} bytes",
        samples.iter().sum::<i64>(),
        report.entries,
        report.wallets,
        std::fs::metadata(&database).unwrap().len()
    );
    let parts = files_ending(database.parent().unwrap(), "part");
    if !parts.is_empty() {
        model.violation(format!("left behind: {parts:?}"));
    }
}

/// The summary of the run.
pub(super) fn report(model: &LedgerModel, copies: Copies) {
    println!(
        "{} requests, {} streams cut by the model; {} copies of up to {} bytes in at most {:?}, {} refused",
        model.asked.load(Ordering::SeqCst),
        model.cut.load(Ordering::SeqCst),
        copies.made,
        copies.bytes,
        copies.longest,
        copies.refused
    );
    for (code, count) in &*model.refused.lock().unwrap() {
        println!("  {count:>8}  {code}");
    }
    println!("durable writes, p50 / p99 in ms:");
    for (faults, times) in &mut *model.writes.lock().unwrap() {
        println!("  {:>15}  {faults}", times.text());
    }
}
