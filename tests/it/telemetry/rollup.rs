//! Samples after rollup and retention read the same as before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use r3mes_edge::model::{HashrateUnit, Retention, Sample, Timestamp};
use r3mes_edge::store::{Actor, HashratePoint, Resolution};
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use super::{DAY, HOUR, MINUTE, points, sample};
use crate::support::{TestServer, W1, config, wallet};

/// A Monday at midnight.
const EPOCH: i64 = 1_795_392_000_000;

/// A step of a test.
#[derive(Clone, Debug)]
enum Step {
    /// A sample of a worker, so many seconds after the start.
    Sample(u8, i64, f64),
    /// Rolls up what is over so many seconds after the start.
    Compact(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Close together, a minute or so apart, and hours apart; before and after what was rolled up.
    let at = prop_oneof![0i64..300, 0i64..7300, 0i64..200_000];
    let step = prop_oneof![
        8 => (0u8..3, at.clone(), 0u32..1000).prop_map(|(worker, at, rate)| Step::Sample(worker, at, f64::from(rate))),
        1 => at.prop_map(Step::Compact),
    ];
    prop::collection::vec(step, 1..80)
}

/// The third worker counts hashes.
fn unit(worker: u8) -> HashrateUnit {
    match worker {
        2 => HashrateUnit::HashesPerSecond,
        _ => HashrateUnit::GradientsPerHour,
    }
}

/// Moment and unit; mean, least, most, samples.
type Expected = BTreeMap<(i64, &'static str), (f64, f64, f64, i64)>;

/// The history by the definition: each sample counts in its own window for as long as it stood.
fn by_definition(samples: &BTreeMap<(u8, i64), f64>, length: i64) -> Expected {
    let mut sums = Expected::new();
    for worker in 0..3 {
        let mine: Vec<_> = samples
            .range((worker, i64::MIN)..(worker + 1, i64::MIN))
            .collect();
        let mut windows: BTreeMap<i64, Vec<(f64, i64)>> = BTreeMap::new();
        for (index, ((_, at), rate)) in mine.iter().enumerate() {
            let next = mine.get(index + 1).map_or(i64::MAX, |((_, next), _)| *next);
            let stood = (next.saturating_sub(*at)).min(60_000);
            windows
                .entry(at - at % length)
                .or_default()
                .push((**rate, stood));
        }
        for (at, held) in windows {
            let weight: i64 = held.iter().map(|(_, stood)| stood).sum();
            let area: f64 = held.iter().map(|(rate, stood)| rate * *stood as f64).sum();
            let rates = || held.iter().map(|(rate, _)| *rate);
            let sum = sums.entry((at, unit(worker).as_str())).or_default();
            sum.0 += area / weight as f64;
            sum.1 += rates().fold(f64::INFINITY, f64::min);
            sum.2 += rates().fold(0.0, f64::max);
            sum.3 += held.len() as i64;
        }
    }
    sums
}

fn assert_same(points: &[HashratePoint], expected: &Expected) {
    let found: BTreeSet<_> = points
        .iter()
        .map(|point| (point.recorded_at.millis(), point.hashrate_unit.as_str()))
        .collect();
    assert_eq!(found, expected.keys().copied().collect());
    for point in points {
        let (mean, min, max, samples) =
            expected[&(point.recorded_at.millis(), point.hashrate_unit.as_str())];
        assert!(
            (point.hashrate - mean).abs() < 1e-6,
            "{point:?}, not {mean}"
        );
        assert_eq!((point.min, point.max, point.samples), (min, max, samples));
    }
}

/// Does the steps, and compares the history with what it is by definition, before and after all is rolled up.
fn compare(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
        let since = Timestamp::from_millis(EPOCH);
        store
            .create_user(wallet(W1), Actor::local(since), None)
            .await
            .unwrap();
        let mut samples = BTreeMap::new();
        for step in steps {
            match step {
                Step::Sample(worker, at, rate) => {
                    let at = EPOCH + at * 1000;
                    let time = Timestamp::from_millis(at);
                    let sample = Sample {
                        worker: format!("rig-{worker}"),
                        ..Sample::new(wallet(W1), time, rate, unit(worker))
                    };
                    store
                        .record_samples(vec![sample], 1000, time)
                        .await
                        .unwrap();
                    samples.entry((worker, at)).or_insert(rate);
                }
                Step::Compact(at) => {
                    let now = Timestamp::from_millis(EPOCH + at * 1000);
                    store.compact(Retention::default(), now).await.unwrap();
                }
            }
        }
        let resolutions = [
            (Resolution::Minute, 60_000),
            (Resolution::Hour, 3_600_000),
            (Resolution::Day, 86_400_000),
        ];
        for everything in [false, true] {
            if everything {
                let later = since.plus(3 * DAY);
                store.compact(Retention::default(), later).await.unwrap();
            }
            for (resolution, length) in resolutions {
                let points = store
                    .hashrate(
                        wallet(W1),
                        since..Timestamp::from_millis(i64::MAX),
                        resolution,
                        10_000,
                    )
                    .await;
                assert_same(&points.unwrap(), &by_definition(&samples, length));
            }
        }
    });
}

#[test]
fn a_sample_that_comes_soon_after_what_is_rolled_up_shortens_the_one_before() {
    compare(vec![
        Step::Sample(0, 5, 1.0),
        Step::Sample(0, 59, 10.0),
        Step::Compact(120),
        Step::Sample(0, 70, 20.0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_history_reads_the_same_whatever_is_rolled_up_and_however_late_samples_come(steps in steps()) {
        compare(steps);
    }
}

#[tokio::test]
async fn samples_are_deleted_after_their_retention_and_their_rollups_after_theirs() {
    let mut config = config();
    let days_of = |days| Some(days * DAY);
    config.retention.raw = days_of(2);
    config.retention.minutes = days_of(4);
    config.retention.hours = days_of(8);
    config.retention.days = days_of(16);
    let retention = config.retention;
    let server = TestServer::start(config).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let samples = json!([sample(noon, 10.0), sample(noon.plus(MINUTE), 20.0)]);
    miner.post("/miner/stats", &samples).await.expect(201);
    let counts = async |days: u32| {
        let left = noon.plus(days * DAY).millis() - server.clock.now().millis();
        server
            .clock
            .advance(Duration::from_millis(left.unsigned_abs()));
        server
            .store
            .compact(retention, server.clock.now())
            .await
            .unwrap();
        let mut counts = Vec::new();
        for resolution in ["raw", "1m", "1h", "1d"] {
            let query = format!("?days=30&resolution={resolution}");
            counts.push(points(&server, &query).await.len());
        }
        counts
    };
    assert_eq!(counts(1).await, [2, 2, 1, 1]);
    // The last moments are there.
    assert_eq!(counts(2).await, [2, 2, 1, 1]);
    assert_eq!(counts(3).await, [0, 2, 1, 1]);
    assert_eq!(counts(5).await, [0, 0, 1, 1]);
    assert_eq!(counts(9).await, [0, 0, 0, 1]);
    let day = points(&server, "?days=30&resolution=1d").await;
    assert_eq!(day[0]["hashrate"], json!(15.0));
    assert_eq!(counts(17).await, [0, 0, 0, 0]);

    // Whether it is a duplicate is unknown by now.
    let now = server.clock.now();
    let old = sample(now.minus(2 * DAY).minus(HOUR), 1.0);
    let refused = miner
        .post("/miner/stats", &old)
        .await
        .refused(400, "invalid_request");
    assert_eq!(refused["errors"][0]["pointer"], "/recorded_at");
    let oldest = sample(now.minus(2 * DAY).plus(MINUTE), 1.0);
    miner.post("/miner/stats", &oldest).await.expect(201);
}

#[tokio::test]
async fn freed_pages_are_given_back_while_others_write() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let retention = Retention::default();
    let step = Duration::from_secs(1);
    for batch in 0..60u32 {
        let at = |n: u32| noon.plus((batch * 1000 + n) * step);
        let samples = (0..1000)
            .map(|n| Sample::new(wallet(W1), at(n), 1.0, unit(0)))
            .collect();
        server
            .store
            .record_samples(samples, 1000, noon)
            .await
            .unwrap();
    }
    server
        .store
        .compact(retention, noon.plus(DAY))
        .await
        .unwrap();
    // Some of it is still in the WAL.
    let full: i64 = rusqlite::Connection::open(server.database())
        .unwrap()
        .query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let later = noon.plus(9 * DAY);
    let compact = server.store.compact(retention, later);
    let write = async {
        for n in 0..50u32 {
            let sample = Sample::new(wallet(W1), later.plus(n * step), 1.0, unit(0));
            server
                .store
                .record_samples(vec![sample], 1000, later)
                .await
                .unwrap();
        }
    };
    let (compacted, ()) = tokio::join!(compact, write);
    compacted.unwrap();
    // Freed pages shrink the file at the next checkpoint.
    let folder = server.shutdown().await;
    let left = std::fs::metadata(folder.path().join("edge.db"))
        .unwrap()
        .len();
    assert!(left < full.cast_unsigned() / 2, "{left} of {full} bytes");
}
