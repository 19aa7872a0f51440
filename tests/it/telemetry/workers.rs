//! The newest sample of each worker, and the wallets of this node's miners.

use std::collections::BTreeSet;
use std::time::Duration;

use r3mes_edge::model::{HashrateUnit, Sample, Timestamp};
use serde_json::{Value, json};

use super::{DAY, HOUR};
use crate::support::{Caller, TestServer, W1, W2, W3, config, wallet};

async fn workers(caller: &Caller, of: &str) -> Vec<Value> {
    let path = format!("/miner/workers/{of}");
    let mut answer = caller.get(&path).await.expect(200);
    assert_eq!(answer["wallet_address"], of);
    match answer["workers"].take() {
        Value::Array(workers) => workers,
        other => panic!("{other}"),
    }
}

async fn names(caller: &Caller, of: &str) -> Vec<String> {
    let workers = workers(caller, of).await.into_iter();
    let names = workers.map(|worker| worker["worker"].as_str().unwrap().to_owned());
    names.collect()
}

fn sample(of: &str, worker: &str, at: Timestamp) -> Sample {
    Sample {
        worker: worker.to_owned(),
        ..Sample::new(wallet(of), at, 1.0, HashrateUnit::HashesPerSecond)
    }
}

/// Stores samples as of a time.
async fn store(server: &TestServer, samples: Vec<Sample>, now: Timestamp) {
    let stored = server.store.record_samples(samples, 1000, now);
    stored.await.unwrap();
}

#[tokio::test]
async fn each_worker_has_its_newest_sample_and_those_of_a_day_are_listed_newest_first() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let ago = |seconds| noon.minus(Duration::from_secs(seconds));
    let full = json!({
        "worker": "rig-1", "recorded_at": ago(10), "hashrate": 42.5, "hashrate_unit": "H/s", "gpu_temperature": 67,
        "power_watts": 250.5, "accepted": 30, "rejected": 2,
    });
    let posted = json!([
        full,
        // Older, and it arrives later.
        { "worker": "rig-1", "recorded_at": ago(70), "hashrate": 9, "power_watts": 9, "accepted": 9 },
        { "worker": "Rig_2.b-c", "recorded_at": ago(301), "hashrate": 0 },
        { "worker": "yesterday", "recorded_at": ago(86_390), "hashrate": 3 },
        { "worker": "gone", "recorded_at": ago(86_401), "hashrate": 4 },
        { "recorded_at": ago(300), "hashrate": 1 },
    ]);
    miner.post("/miner/stats", &posted).await.expect(201);
    let none = Value::Null;
    let row = |worker: &str, hashrate: Value, unit: &str, active: bool, seconds| {
        json!({
            "worker": worker, "hashrate": hashrate, "hashrate_unit": unit, "gpu_temperature": none, "power_watts": none,
            "accepted": none, "rejected": none, "is_active": active, "recorded_at": ago(seconds),
        })
    };
    let mut first = full;
    first["gpu_temperature"] = json!(67.0);
    first["is_active"] = json!(true);
    let unit = "gradients/h";
    let found = workers(&server.anybody(), W1).await;
    assert_eq!(found[0], first);
    assert_eq!(found[2], row("Rig_2.b-c", json!(0.0), unit, false, 301));
    assert_eq!(found[3], row("yesterday", json!(3.0), unit, false, 86_390));
    assert_eq!(found.len(), 4);
    let of_default = json!([found[1]["worker"], found[1]["hashrate"]]);
    assert_eq!(of_default, json!(["default", 1.0]));

    // What the newest sample leaves out is not known of it, but for the temperature.
    let newer =
        json!({ "worker": "rig-1", "recorded_at": noon, "hashrate": 43, "hashrate_unit": "H/s" });
    miner.post("/miner/stats", &newer).await.expect(201);
    let found = workers(&server.anybody(), W1).await;
    let mut expected = row("rig-1", json!(43.0), "H/s", true, 0);
    expected["gpu_temperature"] = json!(67.0);
    assert_eq!(found[0], expected);
    server.clock.advance(DAY - HOUR);
    let recent = ["rig-1", "default", "Rig_2.b-c"];
    assert_eq!(names(&server.anybody(), W1).await, recent);
    server.clock.advance(2 * HOUR);
    assert_eq!(names(&server.anybody(), W1).await, Vec::<String>::new());
}

#[tokio::test]
async fn workers_with_samples_of_one_time_are_in_the_order_of_their_names_and_no_more_than_the_limit()
 {
    let mut config = crate::support::config();
    config.limits.workers_per_wallet = 3;
    let server = TestServer::start(config).await;
    let now = server.wait_for_noon();
    let samples = ["d", "a", "c", "b"].map(|name| sample(W1, name, now));
    store(&server, samples.into(), now).await;
    let newest = sample(W1, "z", now.plus(Duration::from_secs(1)));
    store(&server, vec![newest], now).await;
    assert_eq!(names(&server.anybody(), W1).await, ["z", "a", "b"]);
}

#[tokio::test]
async fn a_sample_from_the_future_is_not_the_newest_of_its_worker() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    store(&server, vec![sample(W1, "rig", noon)], noon).await;
    let ahead = noon.plus(40 * DAY);
    let of_the_future = ["rig", "new"].map(|name| sample(W1, name, ahead));
    store(&server, of_the_future.into(), ahead).await;
    let other = vec![sample(W2, "rig", noon.minus(HOUR))];
    store(&server, other, noon).await;
    let found = workers(&server.anybody(), W1).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        json!([found[0]["worker"], found[0]["recorded_at"]]),
        json!(["rig", noon])
    );
    let stats = server.anybody().get("/network/stats").await.expect(200);
    assert_eq!(
        stats["wallets"],
        json!([W2]),
        "of the one from the future nothing is known"
    );
}

#[tokio::test]
async fn workers_are_public_where_reads_are_and_else_the_wallets_own() {
    for public in [true, false] {
        let mut config = crate::support::config();
        config.auth.public_reads = Some(public);
        let server = TestServer::start(config).await;
        let now = server.clock.now();
        store(&server, vec![sample(W1, "rig", now)], now).await;
        let own = server.caller(W1, &["read"]).await;
        let other = server.caller(W2, &["read"]).await;
        let path = format!("/miner/workers/{W1}");
        let statuses = [server.anybody(), other, own, server.admin()]
            .map(async |caller| caller.get(&path).await.status);
        let mut found = Vec::new();
        for status in statuses {
            found.push(status.await);
        }
        let expected = if public {
            [200; 4]
        } else {
            [401, 403, 200, 200]
        };
        assert_eq!(found, expected);
        let admin = server.admin();
        let unknown = admin.get(&format!("/miner/workers/{W3}")).await;
        unknown.refused(404, "user_not_found");
        let wrong = admin.get("/miner/workers/remes1").await;
        wrong.refused(400, "invalid_wallet_address");
        let wrong = admin.get(&format!("{path}?limit=1")).await;
        wrong.refused(400, "invalid_request");
        assert_eq!(workers(&admin, W2).await, Vec::<Value>::new());
    }
}

fn numbered(number: u8) -> String {
    let prefix = bech32::Hrp::parse("remes").unwrap();
    bech32::encode::<bech32::Bech32>(prefix, &[number; 20]).unwrap()
}

#[tokio::test]
async fn the_networks_figures_name_the_configured_wallet_and_then_those_with_the_newest_samples() {
    let mut config = crate::support::config();
    config.miner.wallet = Some(wallet(W3));
    let server = TestServer::start(config).await;
    let now = server.wait_for_noon();
    let listed = async || {
        let stats = server.anybody().get("/network/stats").await.expect(200);
        stats["wallets"].clone()
    };
    // It needs no account.
    assert_eq!(listed().await, json!([W3]));
    let ago = |seconds| now.minus(Duration::from_secs(seconds));
    let samples = vec![
        sample(W1, "old", ago(40)),
        sample(W2, "rig", ago(20)),
        sample(W1, "new", ago(10)),
        sample(W1, "other", ago(15)),
    ];
    store(&server, samples, now).await;
    assert_eq!(listed().await, json!([W3, W1, W2]));
    // It is there once, whenever its newest sample is.
    store(&server, vec![sample(W3, "rig", ago(15))], now).await;
    assert_eq!(listed().await, json!([W3, W1, W2]));
    let many = (0..25).map(|n| sample(&numbered(n), "rig", ago(9 - u64::from(n % 8))));
    store(&server, many.collect(), now).await;
    let wallets = listed().await;
    let wallets: Vec<_> = wallets.as_array().unwrap().iter().collect();
    assert_eq!((wallets.len(), wallets[0]), (20, &json!(W3)));
    let distinct: BTreeSet<_> = wallets.iter().map(|wallet| wallet.as_str()).collect();
    assert_eq!(distinct.len(), 20);
    assert!(!wallets.contains(&&json!(W1)), "others are newer");
    // Those of 2, 3, … seconds ago come in this order.
    let seconds = |wallet: &&Value| {
        let number = (0..25).find(|n| **wallet == json!(numbered(*n))).unwrap();
        9 - u64::from(number % 8)
    };
    assert!(wallets[1..].iter().map(seconds).is_sorted(), "{wallets:?}");
}
