//! A wall clock that jumps, on the injected clock: nothing is deleted, live miners stay live, and an alert fires.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::{HashrateUnit, Sample, Timestamp};
use r3mes_edge::store::backups;
use r3mes_edge::{Clock, Config, EdgeServer, SqliteStore};
use serde_json::{Value, json};

use crate::chat::whole;
use crate::support::{
    Caller, Process, Scripted, TestServer, Upstream, W1, W2, config, config_with_inference, edge,
    eventually, wallet,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A server whose clock is believed, as it has run for a while.
async fn settled(config: Config) -> TestServer {
    let server = TestServer::start(config).await;
    server.clock.advance(2 * HOUR);
    assert_eq!(server.clock.jump(), None);
    assert!(server.clock.confirmed().is_some());
    server
}

/// The alerts that fire.
async fn firing(server: &TestServer) -> Vec<String> {
    let alerts = server.admin().get("/alerts").await.expect(200);
    let names = alerts["firing"].as_array().unwrap().iter();
    names
        .map(|alert| alert["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn jump_alert(server: &TestServer) -> Option<String> {
    let alerts = server.admin().get("/alerts").await.expect(200);
    let mut alerts = alerts["firing"].as_array().unwrap().iter();
    let alert = alerts.find(|alert| alert["name"] == "clock_jump")?;
    Some(alert["summary"].as_str().unwrap().to_owned())
}

/// What a client sees of a wallet's miner and of the network, without what names a time.
async fn figures(caller: &Caller) -> [Value; 3] {
    let stats = caller.get(&format!("/miner/stats/{W1}")).await.expect(200);
    let leaders = caller.get("/leaderboard?limit=1").await.expect(200);
    let network = caller.get("/network/stats").await.expect(200);
    [
        json!([
            stats["hashrate"],
            stats["gpu_temperature"],
            stats["is_active"]
        ]),
        json!([leaders["miners"][0]["hashrate"]]),
        json!([network["active_miners"], network["total_credits"]]),
    ]
}

fn rows(path: &Path, table: &str) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let count = format!("SELECT count(*) FROM {table}");
    connection.query_row(&count, [], |row| row.get(0)).unwrap()
}

/// The tables with rows that expire.
const EXPIRING: [&str; 5] = [
    "mining_stats",
    "hashrate_history",
    "idempotency",
    "api_keys",
    "audit",
];

/// What the background tasks do every minute.
async fn tidy(server: &TestServer, config: &Config) {
    let now = server.clock.confirmed().unwrap();
    server.store.compact(config.retention, now).await.unwrap();
    server.store.purge(now).await.unwrap();
}

#[tokio::test]
async fn a_jump_of_the_clock_deletes_nothing_and_leaves_every_answer_as_it_was() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let config = config_with_inference("openai", &upstream);
    let server = settled(config.clone()).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    let caller = server.payer(W1, 10).await;
    let earning = json!({ "wallet_address": W1, "earnings": 2, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    let grants = format!("/users/{W1}/credits");
    let grant = json!({ "amount": 1, "reason": "once" }).to_string();
    let once = [("idempotency-key", "one")];
    let send = || admin.send(Method::POST, &grants, &once, grant.clone());
    send().await.expect(200);
    let report = json!({ "wallet_address": W1, "hashrate": 42.5, "gpu_temperature": 60 });
    for _ in 0..10 {
        admin.post("/miner/stats", &report).await.expect(201);
        clock.advance(MINUTE);
    }
    admin.post("/miner/stats", &report).await.expect(201);
    tidy(&server, &config).await;
    let database = server.database();
    let stored = || EXPIRING.map(|table| rows(&database, table));
    let (before, rows_before) = (figures(&admin).await, stored());
    assert_eq!(before[0], json!([42.5, 60.0, true]));

    for (ahead, by) in [
        (true, 3 * YEAR),
        (false, 2 * YEAR),
        (false, 56 * YEAR),
        (true, 6 * MINUTE),
    ] {
        let time = clock.now();
        match ahead {
            true => clock.set_ahead(by),
            false => clock.set_back(by),
        }
        let way = if ahead { "ahead by" } else { "back by" };
        let alert = jump_alert(&server).await.unwrap();
        assert!(
            alert.contains(way) && alert.contains("db accept-clock"),
            "{alert}"
        );
        // A minute of it, in which everything goes on.
        for _ in 0..6 {
            clock.advance(MINUTE / 6);
            admin.post("/miner/stats", &report).await.expect(201);
            tidy(&server, &config).await;
        }
        assert_eq!(send().await.header("idempotency-replayed"), "true");
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!((status, whole(body).await.unwrap().as_str()), (200, "x\n"));
        assert_eq!(figures(&admin).await[..2], before[..2]);
        assert_eq!(firing(&server).await, ["clock_jump"]);
        assert!(clock.now() < time.plus(2 * MINUTE), "the time went on");
        for (now, then) in stored().iter().zip(rows_before) {
            assert!(*now >= then, "{:?}, not {rows_before:?}", stored());
        }
        match ahead {
            true => clock.set_back(by),
            false => clock.set_ahead(by),
        }
        // As every alert it ends after a while.
        firing(&server).await;
        clock.advance(2 * MINUTE);
        assert_eq!(firing(&server).await, Vec::<String>::new());
        admin.post("/miner/stats", &report).await.expect(201);
        assert_eq!(figures(&admin).await[..2], before[..2]);
        let history = admin
            .get(&format!("/miner/hashrate/{W1}?days=365"))
            .await
            .expect(200);
        let points = history["hashrate"].as_array().unwrap();
        assert!(
            points.iter().all(|point| point["hashrate"] == 42.5),
            "{history}"
        );
        assert!(
            points.len() <= 2,
            "one day, or midnight was between: {history}"
        );
    }
    let ledger = admin.get(&format!("/users/{W1}/ledger")).await.expect(200);
    let times: Vec<_> = ledger["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["created_at"].to_string())
        .collect();
    assert!(
        times.is_sorted_by(|newer, older| newer >= older),
        "{times:?}"
    );
    server.assert_ledger_adds_up().await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_that_is_seconds_old_keeps_its_answers_through_a_jump_too() {
    let server = TestServer::start(config()).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    let earning = json!({ "wallet_address": W1, "earnings": 2, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    let report = json!({ "wallet_address": W1, "hashrate": 42.5 });
    admin.post("/miner/stats", &report).await.expect(201);
    let before = figures(&admin).await;
    for (ahead, back) in [
        (3 * YEAR, 3 * YEAR),
        (Duration::ZERO, 2 * YEAR),
        (Duration::ZERO, 50 * YEAR),
    ] {
        match ahead.is_zero() {
            true => clock.set_back(back),
            false => clock.set_ahead(ahead),
        }
        assert_eq!(firing(&server).await, ["clock_jump"]);
        admin.post("/miner/stats", &report).await.expect(201);
        assert_eq!(figures(&admin).await, before);
        let leaders = admin.get("/leaderboard?period=day").await.expect(200);
        assert_eq!(leaders["miners"].as_array().unwrap().len(), 1);
        match ahead.is_zero() {
            true => clock.set_ahead(back),
            false => clock.set_back(ahead),
        }
        firing(&server).await;
        clock.advance(2 * MINUTE);
        assert_eq!(firing(&server).await, Vec::<String>::new());
        admin.post("/miner/stats", &report).await.expect(201);
        assert_eq!(figures(&admin).await, before);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_from_the_first_start_is_set_right_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let (server, clock) = serve(&path, |clock| {
        clock.set_ahead(9 * YEAR);
        assert!(clock.accept());
    })
    .await;
    server.shutdown().await;
    // As if it had run for a moment only: nothing confirmed that time.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE clock SET held = 0", []).unwrap();
    drop((connection, clock));
    let right = Clock::default().now();
    let (server, clock) = serve(&path, |_| {}).await;
    assert!(clock.now().millis().abs_diff(right.millis()) < 60_000);
    assert!(clock.jump().is_some_and(|by| by < 0) && clock.confirmed().is_none());
    server.shutdown().await;
}

#[tokio::test]
async fn a_jump_that_held_for_an_hour_or_that_the_operator_accepts_is_the_time() {
    let server = settled(config()).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    let begin = clock.now();
    clock.set_ahead(DAY);
    assert_eq!(firing(&server).await, ["clock_jump"]);
    clock.advance(HOUR / 2);
    assert_eq!(firing(&server).await, ["clock_jump"]);
    assert!(clock.now() < begin.plus(HOUR));
    clock.advance(HOUR / 2 + MINUTE);
    firing(&server).await;
    clock.advance(2 * MINUTE);
    assert_eq!(firing(&server).await, Vec::<String>::new());
    assert!(clock.now() > begin.plus(DAY) && clock.confirmed().is_some());

    clock.set_back(3 * DAY);
    assert_eq!(firing(&server).await, ["clock_jump"]);
    let accept = "/admin/clock/accept";
    server
        .anybody()
        .post(accept, &json!(null))
        .await
        .refused(401, "missing_credentials");
    let accepted = admin.post(accept, &json!(null)).await.expect(200);
    assert!(clock.now() < begin && clock.confirmed().is_some());
    let time = Timestamp::parse(accepted["server_time_iso"].as_str().unwrap()).unwrap();
    assert!(time < begin);
    firing(&server).await;
    clock.advance(2 * MINUTE);
    assert_eq!(firing(&server).await, Vec::<String>::new());
    let audit = admin.get("/admin/audit?limit=1").await.expect(200);
    assert_eq!(audit["entries"][0]["action"], "clock.accept");

    // One that was never set is none to believe.
    clock.set_back(56 * YEAR);
    let refused = admin.post(accept, &json!(null)).await;
    assert!(
        refused.refused(409, "conflict")["detail"]
            .as_str()
            .unwrap()
            .contains("before 2020")
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_sample_from_the_future_is_never_the_latest() {
    let server = settled(config()).await;
    let (admin, now) = (server.admin(), server.clock.now());
    let sample = |worker: &str, at: Timestamp, hashrate: f64| Sample {
        worker: worker.to_owned(),
        gpu_temperature: Some(hashrate),
        ..Sample::new(wallet(W1), at, hashrate, HashrateUnit::GradientsPerHour)
    };
    let ahead = now.plus(9 * YEAR);
    let store = &server.store;
    let earning = json!({ "wallet_address": W1, "earnings": 2, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    // As a clock that was ahead stored them, in the order of their arrival.
    store
        .record_samples(vec![sample("a", now.minus(10 * MINUTE), 1.0)], 1_000, now)
        .await
        .unwrap();
    store
        .record_samples(
            vec![sample("a", ahead, 70.0), sample("b", ahead, 80.0)],
            1_000,
            ahead,
        )
        .await
        .unwrap();

    let stats = async || admin.get(&format!("/miner/stats/{W1}")).await.expect(200);
    let seen = stats().await;
    assert_eq!(
        (&seen["hashrate"], &seen["gpu_temperature"]),
        (&json!(1.0), &json!(1.0))
    );
    assert_eq!(seen["is_active"], false);
    assert_eq!(seen["recorded_at"], now.minus(10 * MINUTE).to_string());
    let user = admin.get(&format!("/users/{W1}")).await.expect(200);
    assert_eq!(
        (&user["is_miner"], &user["last_mining_at"]),
        (&json!(true), &Value::Null)
    );
    for user in admin.get("/users").await.expect(200)["users"]
        .as_array()
        .unwrap()
    {
        assert_eq!(user["last_mining_at"], Value::Null);
    }
    let active = async || {
        server.clock.advance(6 * MINUTE);
        let figures = figures(&admin).await;
        (figures[1][0].clone(), figures[2][0].clone())
    };
    assert_eq!(active().await, (Value::Null, json!(0)));

    // The next sample of the right time takes its place at once, and a late one does not.
    server.clock.advance(6 * MINUTE);
    let later = server.clock.now();
    store
        .record_samples(vec![sample("a", later.minus(MINUTE), 2.0)], 1_000, later)
        .await
        .unwrap();
    store
        .record_samples(
            vec![sample("a", later.minus(30 * MINUTE), 9.0)],
            1_000,
            later,
        )
        .await
        .unwrap();
    // Nor does one of a wall clock that is not believed.
    store
        .record_samples(vec![sample("a", ahead.plus(MINUTE), 90.0)], 1_000, later)
        .await
        .unwrap();
    let seen = stats().await;
    assert_eq!(
        (&seen["hashrate"], &seen["gpu_temperature"]),
        (&json!(2.0), &json!(2.0))
    );
    assert_eq!(seen["is_active"], true);
    let [_, leaders, network] = figures(&admin).await;
    assert_eq!((leaders, &network[0]), (json!([2.0]), &json!(1)));
    for query in [
        "hours=1&resolution=raw",
        "days=1&resolution=1m",
        "days=7",
        "days=365",
    ] {
        let history = admin
            .get(&format!("/miner/hashrate/{W1}?{query}"))
            .await
            .expect(200);
        for point in history["hashrate"].as_array().unwrap() {
            assert!(
                point["hashrate"].as_f64().unwrap() < 10.0,
                "{query}: {point}"
            );
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn an_earning_from_the_future_is_in_no_period_until_then() {
    let server = settled(config()).await;
    let (admin, clock) = (server.admin(), &server.clock);
    for (wallet_address, source_id) in [(W1, "one"), (W2, "two")] {
        let earning =
            json!({ "wallet_address": wallet_address, "earnings": 2, "source_id": source_id });
        if wallet_address == W2 {
            clock.set_ahead(YEAR);
            assert!(clock.accept());
        }
        admin.post("/miner/earnings", &earning).await.expect(201);
    }
    clock.set_back(YEAR);
    assert!(clock.accept());
    let leaders = admin.get("/leaderboard?period=week").await.expect(200);
    let leaders = leaders["miners"].as_array().unwrap();
    assert_eq!(
        (leaders.len(), &leaders[0]["wallet_address"]),
        (1, &json!(W1))
    );
    let earned = admin
        .get(&format!("/miner/earnings/{W2}?days=365"))
        .await
        .expect(200);
    assert_eq!(earned["earnings"], json!([]));
    server.shutdown().await;
}

#[tokio::test]
async fn leaderboard_statistics_and_alerts_count_live_miners_alike() {
    let mut config = config();
    config.miner.wallet = Some(wallet(W1));
    let server = settled(config).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    for (wallet_address, source_id) in [(W1, "one"), (W2, "two")] {
        let earning =
            json!({ "wallet_address": wallet_address, "earnings": 2, "source_id": source_id });
        admin.post("/miner/earnings", &earning).await.expect(201);
    }
    let report = async |worker: &str, hashrate: f64| {
        let report = json!({ "wallet_address": W1, "worker": worker, "hashrate": hashrate });
        admin.post("/miner/stats", &report).await.expect(201);
    };
    report("dead", 100.0).await;
    // The hashrate of the wallet and on the leaderboard, whether it is active, and how many are; all that is cached is old.
    let seen = async || {
        let stats = admin.get(&format!("/miner/stats/{W1}")).await.expect(200);
        let leaders = admin.get("/leaderboard").await.expect(200);
        let mut leaders = leaders["miners"].as_array().unwrap().iter();
        let own = leaders.find(|miner| miner["wallet_address"] == W1).unwrap();
        let network = admin.get("/network/stats").await.expect(200);
        json!([
            stats["hashrate"],
            own["hashrate"],
            stats["is_active"],
            network["active_miners"]
        ])
    };
    clock.advance(6 * MINUTE);
    report("live", 7.0).await;
    assert_eq!(seen().await, json!([7.0, 7.0, true, 1]));
    assert_eq!(firing(&server).await, Vec::<String>::new());
    clock.advance(6 * MINUTE);
    firing(&server).await;
    assert_eq!(seen().await, json!([7.0, null, false, 0]));
    clock.advance(2 * MINUTE);
    assert_eq!(firing(&server).await, ["miner_silent"]);
    server.shutdown().await;
}

#[tokio::test]
async fn keys_and_tokens_expire_by_the_wall_clock_and_none_lives_again() {
    let server = settled(config()).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    let make = async |days: Option<u32>| {
        let key = json!({ "wallet_address": W1, "scopes": ["read"], "expires_days": days });
        let made = admin.post("/api/keys", &key).await.expect(201);
        let id = made["id"].as_str().unwrap().to_owned();
        (id, server.with_key(made["api_key"].as_str().unwrap()))
    };
    let (_, month) = make(Some(30)).await;
    let (_, lasting) = make(None).await;
    let (revoked_id, revoked) = make(None).await;
    let me = "/auth/me";
    for key in [&month, &lasting, &revoked] {
        key.get(me).await.expect(200);
    }
    clock.set_ahead(YEAR);
    month.get(me).await.refused(401, "expired_api_key");
    lasting.get(me).await.expect(200);
    admin
        .delete(&format!("/api/keys/{revoked_id}"))
        .await
        .expect(200);
    revoked.get(me).await.refused(401, "invalid_api_key");
    make(None).await;
    // Set right, and further back than when it was revoked.
    clock.set_back(YEAR);
    month.get(me).await.expect(200);
    revoked.get(me).await.refused(401, "invalid_api_key");
    // The newest key is the newest of the list, also after one that was made in a jump.
    let (newest, _) = make(None).await;
    let listed = admin.get("/api/keys?limit=1").await.expect(200);
    assert_eq!(listed["keys"][0]["id"], newest);
    for _ in 0..2 {
        clock.set_back(YEAR);
        month.get(me).await.expect(200);
        revoked.get(me).await.refused(401, "invalid_api_key");
        assert!(clock.accept());
        revoked.get(me).await.refused(401, "invalid_api_key");
    }
    let listed = admin
        .get(&format!("/api/keys/{revoked_id}"))
        .await
        .expect(200);
    assert_eq!(listed["is_active"], false);
    server.shutdown().await;
}

#[tokio::test]
async fn a_wallet_can_log_in_during_a_jump_and_its_token_does_not_outlast_it() {
    let server = settled(config()).await;
    let clock = server.clock.clone();
    let log_in = async || {
        let message = crate::login::challenge(&server).await;
        let login = server
            .anybody()
            .post("/login", &crate::login::signed(&message))
            .await
            .expect(200);
        server.with_key(login["access_token"].as_str().unwrap())
    };
    let before = log_in().await;
    clock.set_ahead(3 * YEAR);
    before.get("/auth/me").await.refused(401, "expired_api_key");
    let during = log_in().await;
    during.get("/auth/me").await.expect(200);
    clock.set_back(3 * YEAR);
    during.get("/auth/me").await.refused(401, "expired_api_key");
    before.get("/auth/me").await.expect(200);
    server.shutdown().await;
}

#[tokio::test]
async fn a_miner_with_the_right_time_is_not_refused_while_the_clock_is_in_question() {
    let server = settled(config()).await;
    let (admin, clock) = (server.admin(), server.clock.clone());
    let push = async |at: Timestamp, status| {
        let report = json!({ "wallet_address": W1, "hashrate": 5, "recorded_at": at.to_string() });
        let answer = admin.post("/miner/stats", &report).await;
        assert_eq!(answer.status, status, "{at}");
    };
    let old = clock.now();
    push(old, 201).await;
    clock.set_ahead(DAY);
    push(old.plus(MINUTE), 201).await;
    push(old.plus(DAY), 201).await;
    push(old.plus(DAY + HOUR), 400).await;
    assert!(clock.accept());
    let stats = admin.get(&format!("/miner/stats/{W1}")).await.expect(200);
    assert_eq!(stats["recorded_at"], old.plus(MINUTE).to_string());
    push(old.plus(DAY + MINUTE), 201).await;
    let stats = admin.get(&format!("/miner/stats/{W1}")).await.expect(200);
    assert_eq!(stats["recorded_at"], old.plus(DAY + MINUTE).to_string());
    server.shutdown().await;
}

/// A server on a file, with a clock of its own.
async fn serve(path: &Path, set: impl FnOnce(&Clock)) -> (EdgeServer, Clock) {
    let store = SqliteStore::open(path, true).unwrap();
    let clock = Clock::default();
    set(&clock);
    let server = EdgeServer::builder(config(), std::sync::Arc::new(store));
    let server = server.clock(clock.clone()).start().await.unwrap();
    (server, clock)
}

#[tokio::test]
async fn a_start_compares_the_clock_with_the_stored_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let (server, clock) = serve(&path, |_| {}).await;
    assert!(clock.accept());
    assert_eq!(clock.jump(), None);
    server.shutdown().await;
    // The same boot: what the wall clock should show is known exactly.
    for (days, back) in [(3 * 365, false), (2 * 365, true), (1, false), (0, false)] {
        let by = days * DAY;
        let right = Clock::default().now();
        let (server, clock) = serve(&path, |clock| match back {
            true => clock.set_back(by),
            false => clock.set_ahead(by),
        })
        .await;
        let off = clock.now().millis().abs_diff(right.millis());
        assert!(off < 60_000, "{off} ms off after {days} days");
        assert_eq!(clock.jump().is_some(), days > 0, "{days}");
        assert_eq!(clock.jump().is_some_and(|by| by < 0), back, "{days}");
        assert!(clock.confirmed().is_some(), "as it was confirmed before");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_scheduled_backup_deletes_no_copy_while_the_clock_is_in_question() {
    let mut config = config();
    (config.backup.every, config.backup.keep) = (Some(20 * MINUTE), 1);
    let server = settled(config).await;
    let database = server.database();
    let copies = || backups(&database, None).unwrap();
    // The newest of so many copies, which is not the one before.
    let made = async |count: usize, before: Option<Timestamp>| {
        let newest = || copies().into_iter().map(|(at, _)| at).max();
        let ready = async || {
            (newest() != before && copies().len() == count)
                .then(newest)
                .flatten()
        };
        eventually("a copy is made", ready).await
    };
    let first = made(1, None).await;
    server.clock.set_ahead(YEAR);
    server.clock.advance(21 * MINUTE);
    let second = made(2, Some(first)).await;
    assert!(second < first.plus(HOUR), "{second} by the wrong clock");
    server.clock.set_back(YEAR);
    server.clock.advance(21 * MINUTE);
    made(1, Some(second)).await;
    server.shutdown().await;
}

fn parsed((code, text): (i32, String)) -> Value {
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn accept_clock_works_beside_a_server_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let accept = ["db", "accept-clock", "--json"];
    let running = Process::serve(&path, "");
    assert!(parsed(edge(&path, &accept))["server_time_iso"].is_string());
    assert_eq!(running.terminate(), Some(0));
    assert!(parsed(edge(&path, &accept))["server_time_iso"].is_string());
    let (code, text) = edge(&path, &accept[..2]);
    let said = text.starts_with("the clock is accepted: it is 20");
    assert_eq!((code, said), (0, true), "{text}");
    // The next server believes it from the start.
    let (server, clock) = serve(&path, |_| {}).await;
    assert!(clock.confirmed().is_some());
    let audit = server.repository().audit(None, 10).await.unwrap();
    let accepted = audit.iter().filter(|entry| entry.action == "clock.accept");
    assert_eq!(accepted.count(), 3);
    server.shutdown().await;
}
