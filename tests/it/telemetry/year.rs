//! A year of ten miners, in minutes.

use std::time::{Duration, Instant};

use r3mes_edge::model::{HashrateUnit, Retention, Sample, Timestamp, Wallet};
use r3mes_edge::store::Resolution;
use r3mes_edge::{Repository, SqliteStore};

use super::{DAY, HOUR};

/// Ten wallets with right checksums, all of the same shape.
fn wallets() -> Vec<Wallet> {
    let address = |n: u8| {
        let hrp = bech32::Hrp::parse("remes").unwrap();
        bech32::encode::<bech32::Bech32>(hrp, &[n; 20]).unwrap()
    };
    (0..10)
        .map(|n| Wallet::parse(&address(n)).unwrap())
        .collect()
}

/// A sample with every figure that the R3MES miner reports, none of them round.
fn sample(wallet: Wallet, at: Timestamp, n: u64) -> Sample {
    let noise = |scale: f64| (n.wrapping_mul(2_654_435_761) % 1000) as f64 / 1000.0 * scale;
    Sample {
        worker: "local".to_owned(),
        gpu_temperature: Some(60.0 + noise(9.7)),
        blocks_found: Some((n / 50_000) as i64),
        uptime_percentage: Some(99.0 + noise(0.99)),
        uptime_seconds: Some(n as i64 * 10),
        network_difficulty: Some(1234.5 + noise(3.0)),
        power_watts: Some(280.0 + noise(31.0)),
        accepted: Some(n as i64 / 3),
        rejected: Some(n as i64 / 3000),
        loss: Some(2.0 + noise(0.1)),
        ..Sample::new(
            wallet,
            at,
            40.0 + noise(5.3),
            HashrateUnit::GradientsPerHour,
        )
    }
}

/// ```text
/// cargo test --release --locked --test it a_year -- --ignored --nocapture
/// ```
///
/// Every sample goes through the storage as the server would have it, a compaction an hour (of its time) in between.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour; R3MES_DAYS=60 makes it shorter"]
async fn a_year_of_ten_miners_reaches_a_plateau_and_is_read_quickly() {
    let days: u32 = std::env::var("R3MES_DAYS").map_or(365, |days| days.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
    let wallets = wallets();
    let retention = Retention::default();
    let begin = Timestamp::from_millis(1_763_942_400_000);
    let mut largest = 0;
    println!("day   file MB   log MB   ms: a day   a week   a year");
    for day in 0..days {
        for hour in 0..24 {
            let from = begin.plus(day * DAY + hour * HOUR);
            for wallet in &wallets {
                let samples = (0..360u32).map(|n| {
                    let at = from.plus(n * Duration::from_secs(10));
                    sample(*wallet, at, u64::from((day * 24 + hour) * 360 + n))
                });
                store
                    .record_samples(samples.collect(), 1000, from.plus(HOUR))
                    .await
                    .unwrap();
            }
            store.compact(retention, from.plus(HOUR)).await.unwrap();
        }
        let gauges = store.gauges();
        largest = largest.max(gauges.file_bytes.unwrap());
        if (day + 1) % 30 == 0 || day + 1 == days {
            let now = begin.plus((day + 1) * DAY);
            let spans = [
                (1, Resolution::Minute),
                (7, Resolution::Hour),
                (365, Resolution::Day),
            ];
            let mut took = Vec::new();
            for (span, resolution) in spans {
                let mut times: Vec<Duration> = Vec::new();
                for wallet in &wallets {
                    let asked = Instant::now();
                    let points =
                        store.hashrate(*wallet, now.minus(span * DAY)..now, resolution, 10_000);
                    let points = points.await.unwrap();
                    times.push(asked.elapsed());
                    assert!(!points.is_empty());
                }
                took.push(times.iter().max().unwrap().as_secs_f64() * 1000.0);
            }
            let megabytes = |bytes: Option<u64>| bytes.unwrap() as f64 / 1e6;
            println!(
                "{:>3}   {:>7.1}   {:>6.1}   {:>9.2}   {:>6.2}   {:>6.2}",
                day + 1,
                megabytes(gauges.file_bytes),
                megabytes(gauges.wal_bytes),
                took[0],
                took[1],
                took[2]
            );
        }
    }
    let report = store.verify_ledger(true).await.unwrap();
    assert_eq!(report.mistakes, Vec::<String>::new());
    store.close();
    assert!(largest < 200_000_000, "{largest} bytes");
}
