mod collector;
mod earnings;
mod history;
mod rollup;
mod workers;
mod year;

use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, TestServer, W1, W2, W3, config};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

async fn stats(server: &TestServer, wallet: &str) -> Value {
    server
        .anybody()
        .get(&format!("/miner/stats/{wallet}"))
        .await
        .expect(200)
}

/// The points of a hashrate history.
async fn points(server: &TestServer, query: &str) -> Vec<Value> {
    let path = format!("/miner/hashrate/{W1}{query}");
    let mut answer = server.anybody().get(&path).await.expect(200);
    match answer["hashrate"].take() {
        Value::Array(points) => points,
        other => panic!("{other}"),
    }
}

/// How many samples of the last week are stored.
async fn samples(server: &TestServer) -> i64 {
    points(server, "?resolution=1d")
        .await
        .iter()
        .map(|point| point["samples"].as_i64().unwrap())
        .sum()
}

fn sample(at: Timestamp, hashrate: f64) -> Value {
    json!({ "recorded_at": at, "hashrate": hashrate })
}

async fn post_text(caller: &Caller, path: &str, text: &str) -> Answer {
    caller.send(Method::POST, path, &[], text.to_owned()).await
}

#[tokio::test]
async fn one_sample_an_array_and_lines_are_taken_and_the_read_after_shows_them() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let ago = |seconds| noon.minus(Duration::from_secs(seconds));

    let one = miner.post("/miner/stats", &sample(ago(50), 10.5)).await;
    assert_eq!(one.expect(201), json!({"accepted": 1}));
    let shown = stats(&server, W1).await;
    assert_eq!(
        (&shown["hashrate"], &shown["recorded_at"]),
        (&json!(10.5), &json!(ago(50)))
    );

    let array = json!([sample(ago(40), 20.0), sample(ago(30), 30.0)]);
    let two = miner.post("/miner/stats", &array).await;
    assert_eq!(two.expect(201), json!({"accepted": 2}));
    assert_eq!(stats(&server, W1).await["hashrate"], json!(30.0));

    let lines = format!(
        "{}\r\n\n{}\n{}\n",
        sample(ago(20), 40.0),
        sample(ago(10), 50.0),
        sample(ago(5), 60.25)
    );
    let three = post_text(&miner, "/miner/stats", &lines).await;
    assert_eq!(three.expect(201), json!({"accepted": 3}));
    let shown = stats(&server, W1).await;
    assert_eq!(shown["hashrate"], json!(60.25));
    assert_eq!(shown["hashrate_unit"], "gradients/h");
    assert_eq!(shown["is_active"], true);
    assert_eq!(samples(&server).await, 6);
}

#[tokio::test]
async fn the_same_sample_again_is_accepted_and_changes_nothing() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let post = async |body: Value, accepted: usize| {
        let answer = miner.post("/miner/stats", &body).await.expect(201);
        assert_eq!(answer["accepted"], accepted);
    };
    post(sample(noon, 10.0), 1).await;
    post(sample(noon, 10.0), 1).await;
    // Its identity is wallet, worker and moment: another figure for the same moment is not a new sample either.
    post(sample(noon, 99.0), 1).await;
    assert_eq!(samples(&server).await, 1);
    assert_eq!(stats(&server, W1).await["hashrate"], json!(10.0));
    let earlier = noon.minus(MINUTE);
    post(
        json!([
            sample(noon, 10.0),
            sample(earlier, 5.0),
            sample(earlier, 5.0)
        ]),
        3,
    )
    .await;
    let day = points(&server, "?resolution=1d").await;
    assert_eq!(
        (&day[0]["samples"], &day[0]["hashrate"]),
        (&json!(2), &json!(7.5))
    );
    // Another worker at the same moment is another sample.
    post(
        json!({"recorded_at": noon, "hashrate": 1.0, "worker": "rig-2"}),
        1,
    )
    .await;
    assert_eq!(samples(&server).await, 3);
}

#[tokio::test]
async fn a_batch_with_one_invalid_sample_stores_nothing_and_names_its_index() {
    let server = TestServer::start(config()).await;
    let miner = server.caller(W1, &["miner"]).await;
    for (body, pointer) in [
        (r#"[{"hashrate":1},{"hashrate":-1}]"#, "/1/hashrate"),
        ("{\"hashrate\":1}\n{\"hashrate\":-1}\n", "/1/hashrate"),
        (
            r#"[{"hashrate":1},{"hashrate":2},{"hashrate":3,"gpu_temperature":-2}]"#,
            "/2/gpu_temperature",
        ),
        (
            r#"[{"hashrate":1},{"hashrate":2,"temperature":3}]"#,
            "/1/temperature",
        ),
        (
            r#"[{"hashrate":1},{"hashrate":2,"recorded_at":1594489200}]"#,
            "/1/recorded_at",
        ),
        (r#"{"hashrate":"fast"}"#, "/hashrate"),
        ("[]", ""),
    ] {
        let refused = post_text(&miner, "/miner/stats", body)
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
    let ahead = json!([{ "hashrate": 1, "recorded_at": server.clock.now().plus(6 * MINUTE) }]);
    let refused = miner.post("/miner/stats", &ahead).await;
    assert_eq!(
        refused.refused(400, "invalid_request")["errors"][0]["pointer"],
        "/0/recorded_at"
    );
    assert_eq!(stats(&server, W1).await["hashrate"], Value::Null);
    assert_eq!(samples(&server).await, 0);
}

#[tokio::test]
async fn a_key_records_for_its_own_wallet_and_an_admin_for_the_one_it_names() {
    let server = TestServer::start(config()).await;
    let miner = server.caller(W1, &["miner"]).await;
    server.caller(W2, &["miner"]).await;
    let other = json!({"wallet_address": W2, "hashrate": 5});
    let mixed = json!([{"hashrate": 5}, {"wallet_address": W2, "hashrate": 5}]);
    for body in [other, mixed] {
        miner
            .post("/miner/stats", &body)
            .await
            .refused(403, "forbidden");
    }
    server
        .caller(W1, &["read", "chat"])
        .await
        .post("/miner/stats", &json!({"hashrate": 5}))
        .await
        .refused(403, "forbidden");
    server
        .anybody()
        .post("/miner/stats", &json!({"hashrate": 5}))
        .await
        .refused(401, "missing_credentials");
    for wallet in [W1, W2] {
        assert_eq!(stats(&server, wallet).await["hashrate"], Value::Null);
    }

    let admin = server.admin();
    let without_wallet = admin.post("/miner/stats", &json!({"hashrate": 5})).await;
    assert_eq!(
        without_wallet.refused(400, "invalid_request")["errors"][0]["pointer"],
        "/wallet_address"
    );
    let read = server.anybody();
    let path = format!("/miner/stats/{W3}");
    read.get(&path).await.refused(404, "user_not_found");
    let both = json!([
        {"wallet_address": W2, "hashrate": 6},
        {"wallet_address": W3, "hashrate": 7, "hashrate_unit": "H/s"},
    ]);
    let taken = admin.post("/miner/stats", &both).await.expect(201);
    assert_eq!(taken["accepted"], 2);
    assert_eq!(stats(&server, W2).await["hashrate"], json!(6.0));
    let third = stats(&server, W3).await;
    assert_eq!(
        (&third["hashrate"], &third["hashrate_unit"]),
        (&json!(7.0), &json!("H/s"))
    );
}

#[tokio::test]
async fn a_thousand_samples_are_taken_and_one_more_is_too_many() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let batch = |count: u64| {
        let at = |n| noon.minus(Duration::from_secs(n));
        Value::from_iter((0..count).map(|n| sample(at(n), 1.0)))
    };
    let refused = miner.post("/miner/stats", &batch(1001)).await;
    let refused = refused.refused(400, "invalid_request");
    assert!(refused["detail"].as_str().unwrap().contains("1,000"));
    assert_eq!(samples(&server).await, 0);
    let taken = miner.post("/miner/stats", &batch(1000)).await.expect(201);
    assert_eq!(taken["accepted"], 1000);
    assert_eq!(samples(&server).await, 1000);
}

#[tokio::test]
async fn a_figure_that_no_sample_reported_is_null_and_a_reported_one_stays() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    let nothing = json!({
        "wallet_address": W1, "total_earnings": 0, "hashrate": null, "hashrate_unit": null,
        "gpu_temperature": null, "blocks_found": null, "uptime_percentage": null,
        "network_difficulty": null, "is_active": false, "recorded_at": null,
    });
    assert_eq!(stats(&server, W1).await, nothing);

    let ago = |seconds| noon.minus(Duration::from_secs(seconds));
    let full = json!({
        "recorded_at": ago(60), "hashrate": 42.5, "gpu_temperature": 67.5, "blocks_found": 3,
        "uptime_percentage": 99.5, "network_difficulty": 37638, "uptime_seconds": 86412,
        "power_watts": 310.5, "accepted": 12, "rejected": 1, "loss": 0.83,
    });
    miner.post("/miner/stats", &full).await.expect(201);
    let sample = json!({
        "wallet_address": W1, "total_earnings": 0, "hashrate": 42.5, "hashrate_unit": "gradients/h",
        "gpu_temperature": 67.5, "blocks_found": 3, "uptime_percentage": 99.5,
        "network_difficulty": 37638.0, "is_active": true, "recorded_at": ago(60),
    });
    assert_eq!(stats(&server, W1).await, sample);

    let bare =
        json!({"recorded_at": ago(30), "hashrate": 50, "gpu_temperature": null, "blocks_found": 0});
    miner.post("/miner/stats", &bare).await.expect(201);
    let mut stored = sample.clone();
    stored["hashrate"] = json!(50.0);
    stored["recorded_at"] = json!(ago(30));
    // A reported zero is not null.
    stored["blocks_found"] = json!(0);
    assert_eq!(stats(&server, W1).await, stored);

    // A late older sample is history and not current.
    let late = json!({"recorded_at": ago(45), "hashrate": 1, "gpu_temperature": 20});
    miner.post("/miner/stats", &late).await.expect(201);
    assert_eq!(stats(&server, W1).await, stored);
    assert_eq!(samples(&server).await, 3);
}

#[tokio::test]
async fn a_figure_of_an_older_sample_is_shown_however_late_it_arrives() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    let miner = server.caller(W1, &["miner"]).await;
    // Newest first, as a miner sends what it buffered while it was offline.
    let buffered = json!([
        sample(noon, 50.0),
        {"recorded_at": noon.minus(MINUTE), "hashrate": 40, "gpu_temperature": 67.5, "blocks_found": 3},
    ]);
    miner.post("/miner/stats", &buffered).await.expect(201);
    let shown = stats(&server, W1).await;
    assert_eq!(
        (&shown["hashrate"], &shown["recorded_at"]),
        (&json!(50.0), &json!(noon))
    );
    assert_eq!(
        (&shown["gpu_temperature"], &shown["blocks_found"]),
        (&json!(67.5), &json!(3))
    );
}

#[tokio::test]
async fn several_workers_are_one_miner_and_a_silent_one_no_longer_counts() {
    let server = TestServer::start(config()).await;
    let miner = server.caller(W1, &["miner"]).await;
    let two = json!([
        {"worker": "rig-1", "hashrate": 10, "gpu_temperature": 60, "blocks_found": 2, "uptime_percentage": 90},
        {"worker": "rig-2", "hashrate": 20, "gpu_temperature": 71.5, "blocks_found": 3, "uptime_percentage": 100},
    ]);
    miner.post("/miner/stats", &two).await.expect(201);
    let figures = async || {
        let shown = stats(&server, W1).await;
        [
            "hashrate",
            "gpu_temperature",
            "blocks_found",
            "uptime_percentage",
            "is_active",
        ]
        .map(|name| shown[name].clone())
    };
    let expected =
        |list: Value| -> [Value; 5] { list.as_array().unwrap().clone().try_into().unwrap() };
    assert_eq!(
        figures().await,
        expected(json!([30.0, 71.5, 5, 95.0, true]))
    );

    server.clock.advance(4 * MINUTE);
    let again = json!({"worker": "rig-1", "hashrate": 15});
    miner.post("/miner/stats", &again).await.expect(201);
    assert_eq!(
        figures().await,
        expected(json!([35.0, 71.5, 5, 95.0, true]))
    );
    // rig-2 has been silent for six minutes: its temperature and hashrate no longer count, its blocks do.
    server.clock.advance(2 * MINUTE);
    assert_eq!(
        figures().await,
        expected(json!([15.0, 60.0, 5, 90.0, true]))
    );
    server.clock.advance(4 * MINUTE);
    assert_eq!(
        figures().await,
        expected(json!([15.0, 60.0, 5, 90.0, false]))
    );
}

#[tokio::test]
async fn a_wallet_is_active_for_five_minutes_after_its_last_sample_and_a_miner_from_its_first_on() {
    let server = TestServer::start(config()).await;
    let miner = server.caller(W1, &["miner"]).await;
    let user = async || {
        server
            .anybody()
            .get(&format!("/users/{W1}"))
            .await
            .expect(200)
    };
    let before = user().await;
    assert_eq!(
        (&before["is_miner"], &before["last_mining_at"]),
        (&json!(false), &Value::Null)
    );
    let at = server.clock.now();
    miner
        .post("/miner/stats", &sample(at, 10.0))
        .await
        .expect(201);
    for (wait, active) in [(0, true), (290, true), (11, false), (86_400, false)] {
        server.clock.advance(Duration::from_secs(wait));
        assert_eq!(stats(&server, W1).await["is_active"], active, "{wait}");
        let user = user().await;
        assert_eq!(
            (&user["is_miner"], &user["last_mining_at"]),
            (&json!(true), &json!(at))
        );
    }
    // An older sample does not move the time back.
    let late = sample(at.minus(HOUR), 9.0);
    miner.post("/miner/stats", &late).await.expect(201);
    assert_eq!(user().await["last_mining_at"], json!(at));
}
