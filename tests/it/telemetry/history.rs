use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use super::{DAY, HOUR, MINUTE, points, sample};
use crate::support::{Caller, TestServer, W1, W2, config};

/// A server at noon with six samples of one worker: three today between 11:10 and 11:20, two yesterday after 15:00, one
/// three days ago at 9:00.
async fn with_history() -> (TestServer, Timestamp) {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let midnight = noon.day();
    let today = midnight.plus(11 * HOUR + 10 * MINUTE);
    let yesterday = midnight.minus(DAY).plus(15 * HOUR);
    let history = json!([
        sample(today, 10.0),
        sample(today.plus(MINUTE / 2), 25.0),
        sample(today.plus(10 * MINUTE), 60.0),
        sample(yesterday, 40.0),
        sample(yesterday.plus(30 * MINUTE), 80.0),
        sample(midnight.minus(3 * DAY).plus(9 * HOUR), 100.0),
    ]);
    miner.post("/miner/stats", &history).await.expect(201);
    (server, noon)
}

/// A point as the contract has it.
fn point(at: Timestamp, [hashrate, min, max]: [f64; 3], samples: i64) -> Value {
    json!({
        "date": at.date(), "hashrate": hashrate, "hashrate_unit": "gradients/h", "recorded_at": at,
        "min": min, "max": max, "samples": samples,
    })
}

#[tokio::test]
async fn a_history_is_exact_in_every_resolution_and_weighted_by_how_long_each_sample_stood() {
    let (server, noon) = with_history().await;
    let midnight = noon.day();
    let today = midnight.plus(11 * HOUR);
    let yesterday = midnight.minus(DAY);
    let first = midnight.minus(3 * DAY);
    let exactly = |hashrate| [hashrate; 3];

    let raw = [
        point(today.plus(10 * MINUTE), exactly(10.0), 1),
        point(today.plus(10 * MINUTE + MINUTE / 2), exactly(25.0), 1),
        point(today.plus(20 * MINUTE), exactly(60.0), 1),
    ];
    let minutes = [
        point(today.plus(10 * MINUTE), [20.0, 10.0, 25.0], 2),
        point(today.plus(20 * MINUTE), exactly(60.0), 1),
    ];
    let hours = [
        point(first.plus(9 * HOUR), exactly(100.0), 1),
        point(yesterday.plus(15 * HOUR), [60.0, 40.0, 80.0], 2),
        point(today, [36.0, 10.0, 60.0], 3),
    ];
    let days = [
        point(first, exactly(100.0), 1),
        point(yesterday, [60.0, 40.0, 80.0], 2),
        point(midnight, [36.0, 10.0, 60.0], 3),
    ];
    let yesterdays_minutes = [
        point(yesterday.plus(15 * HOUR), exactly(40.0), 1),
        point(yesterday.plus(15 * HOUR + 30 * MINUTE), exactly(80.0), 1),
    ];
    let two_days_of_minutes = [&yesterdays_minutes[..], &minutes[..]].concat();
    for (query, expected) in [
        ("?resolution=raw&hours=1", &raw[..]),
        ("?resolution=1m&hours=1", &minutes),
        ("?resolution=1h", &hours),
        ("?resolution=1h&days=1", &hours[1..]),
        ("?resolution=1h&hours=21", &hours[1..]),
        ("?resolution=1h&hours=20", &hours[2..]),
        ("?resolution=1d&days=7", &days),
        // Without a resolution: one that fits the time.
        ("", &hours),
        ("?days=7", &hours),
        ("?hours=2", &raw),
        ("?hours=3", &minutes),
        ("?hours=48", &two_days_of_minutes),
        ("?days=2", &two_days_of_minutes),
        ("?hours=49", &hours[1..]),
        ("?days=60", &hours),
        ("?days=61", &days),
        ("?days=365", &days),
        ("?hours=8760", &days),
    ] {
        assert_eq!(points(&server, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn the_history_of_several_workers_is_their_sum_and_different_units_are_separate() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let hour = noon.minus(HOUR);
    let body = json!([
        {"recorded_at": hour, "worker": "rig-1", "hashrate": 10},
        {"recorded_at": hour.plus(MINUTE), "worker": "rig-1", "hashrate": 20},
        {"recorded_at": hour, "worker": "rig-2", "hashrate": 100},
        {"recorded_at": hour, "worker": "cpu", "hashrate": 1207.19, "hashrate_unit": "H/s"},
    ]);
    miner.post("/miner/stats", &body).await.expect(201);
    for (resolution, at) in [("1h", hour), ("1d", noon.day())] {
        let mut shown = points(&server, &format!("?resolution={resolution}&hours=1")).await;
        shown.sort_by_key(|point| point["hashrate_unit"].to_string());
        let mut cpu = point(at, [1207.19; 3], 1);
        cpu["hashrate_unit"] = json!("H/s");
        assert_eq!(
            shown,
            [cpu, point(at, [115.0, 110.0, 120.0], 3)],
            "{resolution}"
        );
    }
}

#[tokio::test]
async fn a_day_is_the_mean_of_its_samples_and_not_of_its_hours() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let body = json!([
        sample(noon.minus(3 * HOUR), 10.0),
        sample(noon.minus(HOUR), 20.0),
        sample(noon.minus(HOUR).plus(MINUTE), 30.0),
        sample(noon.minus(HOUR).plus(2 * MINUTE), 40.0),
    ]);
    miner.post("/miner/stats", &body).await.expect(201);
    assert_eq!(
        points(&server, "?resolution=1d").await,
        [point(noon.day(), [25.0, 10.0, 40.0], 4)]
    );
}

#[tokio::test]
async fn an_invalid_history_query_is_refused_and_unknown_wallets_have_no_history() {
    let (server, _) = with_history().await;
    let caller = server.anybody();
    for (query, pointer) in [
        ("days=1&hours=24", "hours"),
        ("days=0", "days"),
        ("days=366", "days"),
        ("days=1.5", "days"),
        ("hours=0", "hours"),
        ("hours=8761", "hours"),
        ("resolution=5m", "resolution"),
        ("resolution=", "resolution"),
        ("limit=5", "limit"),
    ] {
        let path = format!("/miner/hashrate/{W1}?{query}");
        let refused = caller.get(&path).await.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{query}");
    }
    for path in ["hashrate", "stats", "earnings"] {
        caller
            .get(&format!("/miner/{path}/{W2}"))
            .await
            .refused(404, "user_not_found");
    }
}

/// Posts samples in batches of a thousand.
async fn post_all(miner: &Caller, samples: &[Value]) {
    for batch in samples.chunks(1000) {
        let taken = miner.post("/miner/stats", &json!(batch)).await.expect(201);
        assert_eq!(taken["accepted"], batch.len());
    }
}

/// The resolution that an error names; it must be accepted.
fn named_resolution(refused: &Value) -> String {
    assert_eq!(refused["errors"][0]["pointer"], "resolution");
    let detail = refused["detail"].as_str().unwrap();
    let (_, rest) = detail.split_once("resolution=").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn ten_thousand_points_are_given_and_one_more_is_refused_with_the_resolution_that_fits() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let history: Vec<_> = (0..10_000)
        .map(|n| sample(noon.minus(Duration::from_millis(500 * n)), 2.0))
        .collect();
    post_all(&miner, &history).await;
    assert_eq!(
        points(&server, "?resolution=raw&hours=2").await.len(),
        10_000
    );
    post_all(&miner, &[sample(noon.plus(MINUTE), 2.0)]).await;
    // Without a resolution the finest that fits is used.
    let minutes = points(&server, "?hours=2").await;
    let counted = minutes
        .iter()
        .map(|point| point["samples"].as_i64().unwrap());
    assert_eq!((minutes.len() < 100, counted.sum()), (true, 10_001));
    for query in [
        "hours=2&resolution=raw",
        "days=7&resolution=raw",
        "days=365&resolution=raw",
    ] {
        let path = format!("/miner/hashrate/{W1}?{query}");
        let refused = server.anybody().get(&path).await;
        let fits = named_resolution(&refused.refused(400, "invalid_request"));
        let span = query.split('&').next().unwrap();
        let fitting = points(&server, &format!("?{span}&resolution={fits}")).await;
        let sum: i64 = fitting
            .iter()
            .map(|point| point["samples"].as_i64().unwrap())
            .sum();
        assert_eq!(sum, 10_001, "{query}");
    }
}

#[tokio::test]
async fn a_wallet_with_two_units_gets_a_resolution_that_fits_both() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    // An R3MES miner and an XMRig side by side, a sample a minute each: two points for every minute of 84 hours.
    let history: Vec<_> = (0..5001)
        .flat_map(|n| {
            let at = noon.minus(n * MINUTE);
            let cpu = json!({"recorded_at": at, "hashrate": 1207, "hashrate_unit": "H/s", "worker": "cpu"});
            [sample(at, 42.5), cpu]
        })
        .collect();
    post_all(&miner, &history).await;
    let path = format!("/miner/hashrate/{W1}?hours=100&resolution=raw");
    let refused = server.anybody().get(&path).await;
    let fits = named_resolution(&refused.refused(400, "invalid_request"));
    let fitting = points(&server, &format!("?hours=100&resolution={fits}")).await;
    let sum: i64 = fitting
        .iter()
        .map(|point| point["samples"].as_i64().unwrap())
        .sum();
    assert_eq!(sum, 10_002);
}

#[tokio::test]
async fn a_history_is_csv_for_those_who_accept_it() {
    let (server, noon) = with_history().await;
    let path = format!("/miner/hashrate/{W1}?hours=1&resolution=1m");
    let accept = [("accept", "text/html, text/csv;q=0.9")];
    let answer = server.anybody().send(Method::GET, &path, &accept, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let at = |minutes: u32| noon.minus(HOUR).plus(minutes * MINUTE);
    let expected = format!(
        "recorded_at,hashrate,hashrate_unit,min,max,samples\r\n\
         {},20,gradients/h,10,25,2\r\n{},60,gradients/h,60,60,1\r\n",
        at(10),
        at(20)
    );
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    let json = [("accept", "application/json")];
    let answer = server.anybody().send(Method::GET, &path, &json, "").await;
    assert_eq!(answer.header("content-type"), "application/json");
}
