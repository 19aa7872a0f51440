use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use r3mes_edge::model::{Credits, Sample};
use r3mes_edge::store::verify_backup;
use r3mes_edge::{Repository, SqliteStore};
use tokio::sync::Barrier;

use crate::support::{TestServer, W1, config, wallet};

/// Microseconds, sorted.
fn at(times: &[u64], share: f64) -> f64 {
    let rank = (times.len() as f64 * share) as usize;
    times[rank.min(times.len() - 1)] as f64 / 1000.0
}

/// ```text
/// R3MES_MINUTES=10 cargo test --release --locked --test it writes_at_full_speed -- --ignored --nocapture
/// ```
///
/// Eight writers through the storage, each sending its next write when the last is on the disk: grants and samples. First
/// without a copy, then with one begun in every minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn writes_at_full_speed_while_a_copy_is_made_every_minute() {
    let minutes: u32 = std::env::var("R3MES_MINUTES").map_or(2, |minutes| minutes.parse().unwrap());
    let minute = Duration::from_secs(60);
    let server = TestServer::start(config()).await;
    server.payer(W1, 0).await;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let mut limit = f64::MAX;
    println!(
        "minute   writes   p50 ms   p99 ms   p99.9   max ms   slower than 3 x p99   the copy: s, MB"
    );
    for round in 0..=minutes {
        let (stop, begin) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(9)));
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let (store, clock) = (Arc::clone(&server.store), server.clock.clone());
                let (stop, begin) = (Arc::clone(&stop), Arc::clone(&begin));
                let acknowledged = Arc::clone(&acknowledged);
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    begin.wait().await;
                    for turn in 0u64.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let (now, asked) = (clock.now(), Instant::now());
                        if turn % 4 == 0 {
                            let credit = Credits::from_micro(1_000_000);
                            let grant =
                                store.grant(wallet(W1), credit, "test".to_owned(), now, None);
                            grant.await.unwrap();
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                        } else {
                            let unit = r3mes_edge::model::HashrateUnit::HashesPerSecond;
                            let mut sample = Sample::new(wallet(W1), now, 1.0, unit);
                            sample.worker = format!("rig-{writer}");
                            store.record_samples(vec![sample], now).await.unwrap();
                        }
                        times.push(asked.elapsed().as_micros() as u64);
                    }
                    times
                })
            })
            .collect();
        begin.wait().await;
        let ends = Instant::now() + minute;
        let mut copied = None;
        if round > 0 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (before, began) = (acknowledged.load(Ordering::SeqCst), Instant::now());
            let made = server
                .store
                .back_up(None, server.clock.now())
                .await
                .unwrap();
            copied = Some((made, before, began.elapsed()));
        }
        tokio::time::sleep_until(ends.into()).await;
        stop.store(true, Ordering::SeqCst);
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.await.unwrap());
        }
        times.sort_unstable();
        if round == 0 {
            limit = 3.0 * at(&times, 0.99);
        }
        let slower = times
            .iter()
            .filter(|time| **time as f64 / 1000.0 > limit)
            .count();
        let mut copy = "-".to_owned();
        if let Some((made, before, took)) = copied {
            let file = server.database().with_file_name(&made.file);
            assert_eq!(verify_backup(&file).unwrap().mistakes, Vec::<String>::new());
            let store = SqliteStore::open(&file, false).unwrap();
            let user = store.user(wallet(W1)).await.unwrap().unwrap();
            assert!(user.credits.micro() >= before * 1_000_000);
            store.close();
            std::fs::remove_file(file).unwrap();
            copy = format!("{:.1}, {:.0}", took.as_secs_f64(), made.bytes as f64 / 1e6);
        }
        println!(
            "{round:>6}   {:>6}   {:>6.2}   {:>6.2}   {:>5.1}   {:>6.1}   {slower:>19}   {copy}",
            times.len(),
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 0.999),
            at(&times, 1.0)
        );
    }
}
