use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use r3mes_edge::store::verify_backup;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use crate::support::{Caller, Process, W1, wallet};

const MINUTE: Duration = Duration::from_secs(60);
/// Each with a connection of its own, and its next write sent when the last is answered.
const WRITERS: usize = 64;

/// The latencies of a set of requests, in microseconds.
struct Times(Vec<u64>);

impl Times {
    fn new(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Milliseconds.
    fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share) as usize;
        self.0[rank.min(self.0.len() - 1)] as f64 / 1000.0
    }

    /// A row of the table, with the number of requests that took longer than these milliseconds.
    fn print(&self, what: &str, limit: f64, more: &str) {
        let slower = self.0.iter().filter(|time| **time as f64 / 1000.0 > limit);
        println!(
            "{what:>6}   {:>7}   {:>6.2}   {:>6.2}   {:>6.2}   {:>6.1}   {:>19}   {more}",
            self.0.len(),
            self.at(0.5),
            self.at(0.99),
            self.at(0.999),
            self.at(1.0),
            slower.count()
        );
    }
}

/// The lower bound of a durable write on this disk: appending a page to a file and flushing it.
fn floor(file: &std::path::Path) -> Times {
    let mut file = std::fs::File::create(file).unwrap();
    let (page, began, mut times) = ([0x5a; 4096], Instant::now(), Vec::new());
    while began.elapsed() < MINUTE {
        let asked = Instant::now();
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        times.push(asked.elapsed().as_micros() as u64);
    }
    Times::new(times)
}

/// Sends one grant and three samples in turn until `stop` is set.
async fn write(writer: usize, caller: Caller, stop: &AtomicBool, granted: &AtomicI64) -> Vec<u64> {
    let grants = format!("/users/{W1}/credits");
    let grant = json!({ "amount": 1, "reason": "test" }).to_string();
    let worker = format!("rig-{writer}");
    let sample = json!({ "wallet_address": W1, "hashrate": 1, "worker": worker }).to_string();
    let mut times = Vec::new();
    for turn in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let asked = Instant::now();
        if turn % 4 == 0 {
            assert_eq!(caller.try_post(&grants, grant.clone()).await, Some(200));
            granted.fetch_add(1, Ordering::SeqCst);
        } else {
            let sent = caller.try_post("/miner/stats", sample.clone()).await;
            assert_eq!(sent, Some(201));
        }
        times.push(asked.elapsed().as_micros() as u64);
    }
    times
}

/// ```text
/// R3MES_MINUTES=10 cargo test --release --locked --test it writes_at_full_speed -- --ignored --nocapture
/// ```
///
/// The real server with more clients than it needs to be busy all the time: a minute without a copy, then minutes with a copy
/// begun in each.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn writes_at_full_speed_while_a_copy_is_made_every_minute() {
    let minutes: u32 = std::env::var("R3MES_MINUTES").map_or(2, |minutes| minutes.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    println!(
        "minute    writes   p50 ms   p99 ms    p99.9   max ms   slower than 3 x p99   the copy: s, MB"
    );
    let disk = floor(&folder.path().join("floor"));
    disk.print("disk", 3.0 * disk.at(0.99), "-");

    let serving = Process::serve(
        &folder.path().join("edge.db"),
        "[limits]\nper_address = 1000\n",
    );
    // A line for each of millions of requests is nothing to keep here.
    serving.reload("log.level = \"warn\"\n[rates]\nwrite = \"off\"\ntelemetry = \"off\"\n");
    let admin = serving.admin();
    admin
        .post("/users", &json!({ "wallet_address": W1 }))
        .await
        .expect(201);
    let granted = Arc::new(AtomicI64::new(0));
    let mut limit = f64::MAX;
    for minute in 0..=minutes {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS).map(|writer| {
            let (caller, stop, granted) =
                (serving.admin(), Arc::clone(&stop), Arc::clone(&granted));
            tokio::spawn(async move { write(writer, caller, &stop, &granted).await })
        });
        let writers: Vec<_> = writers.collect();
        let ends = Instant::now() + MINUTE;
        let mut copied = None;
        if minute > 0 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (before, began) = (granted.load(Ordering::SeqCst), Instant::now());
            let made = admin.post("/admin/backup", &json!({})).await.expect(201);
            copied = Some((made, before, began.elapsed()));
        }
        tokio::time::sleep_until(ends.into()).await;
        stop.store(true, Ordering::SeqCst);
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.await.unwrap());
        }
        let times = Times::new(times);
        if minute == 0 {
            limit = 3.0 * times.at(0.99);
        }
        let mut copy = "-".to_owned();
        if let Some((made, before, took)) = copied {
            let file = serving
                .database
                .with_file_name(made["file"].as_str().unwrap());
            assert_eq!(verify_backup(&file).unwrap().mistakes, Vec::<String>::new());
            let store = SqliteStore::open(&file, false).unwrap();
            let user = store.user(wallet(W1)).await.unwrap();
            assert!(user.credits.micro() >= before * 1_000_000);
            store.close();
            std::fs::remove_file(file).unwrap();
            let bytes = made["bytes"].as_f64().unwrap();
            copy = format!("{:.1}, {:.0}", took.as_secs_f64(), bytes / 1e6);
        }
        times.print(&minute.to_string(), limit, &copy);
    }
}
