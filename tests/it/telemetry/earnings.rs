use std::time::Duration;

use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use super::{DAY, HOUR, MINUTE, stats};
use crate::support::{TestServer, W1, W2, W3, config};

async fn earn(server: &TestServer, wallet: &str, earnings: f64, source: &str, at: Timestamp) {
    let body = json!({
        "wallet_address": wallet, "earnings": earnings, "source_id": source, "recorded_at": at,
    });
    let answer = server.admin().post("/miner/earnings", &body).await;
    assert_eq!(answer.expect(201)["counted"], true);
}

#[tokio::test]
async fn an_earning_grants_its_credits_once_however_often_it_is_sent() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let post = async |body: Value| admin.post("/miner/earnings", &body).await;
    let earning = json!({"wallet_address": W1, "earnings": 1.5, "source_id": "block-1"});
    assert_eq!(
        post(earning.clone()).await.expect(201),
        json!({"wallet_address": W1, "earnings": 1.5, "counted": true})
    );
    for _ in 0..2 {
        assert_eq!(
            post(earning.clone()).await.expect(200),
            json!({"wallet_address": W1, "earnings": 1.5, "counted": false})
        );
    }
    for (field, other) in [("earnings", json!(1.6)), ("wallet_address", json!(W2))] {
        let mut body = earning.clone();
        body[field] = other;
        post(body).await.refused(409, "conflict");
    }
    server
        .anybody()
        .get(&format!("/users/{W2}"))
        .await
        .refused(404, "user_not_found");
    assert_eq!(stats(&server, W1).await["total_earnings"], json!(1.5));
    let ledger = admin.get(&format!("/users/{W1}/ledger")).await.expect(200);
    assert_eq!(ledger["credits"], json!(1.5));
    let entries = ledger["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    for (name, value) in [
        ("amount", json!(1.5)),
        ("balance", json!(1.5)),
        ("reason", json!("mining")),
        ("reference", json!("block-1")),
    ] {
        assert_eq!(entries[0][name], value, "{name}");
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_earning_sent_concurrently_counts_once() {
    let server = TestServer::start(config()).await;
    let earning = json!({"wallet_address": W1, "earnings": 2, "source_id": "block-1"});
    let tellers: Vec<_> = (0..50)
        .map(|_| {
            let (admin, earning) = (server.admin(), earning.clone());
            tokio::spawn(async move { admin.post("/miner/earnings", &earning).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for teller in tellers {
        statuses.push(teller.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses.pop(), Some(201));
    assert_eq!(statuses, [200; 49]);
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_invalid_earning_is_refused_and_its_field_named() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let far = server.clock.now().plus(6 * MINUTE);
    for (field, value, pointer) in [
        ("earnings", json!(0), "/earnings"),
        ("earnings", json!(-1), "/earnings"),
        ("earnings", json!(0.0000001), "/earnings"),
        ("earnings", json!("1"), "/earnings"),
        ("earnings", Value::Null, "/earnings"),
        ("source_id", json!(""), "/source_id"),
        ("source_id", json!("two words"), "/source_id"),
        ("source_id", json!("x".repeat(129)), "/source_id"),
        ("recorded_at", json!("yesterday"), "/recorded_at"),
        ("recorded_at", json!(far), "/recorded_at"),
        ("block", json!(1), "/block"),
    ] {
        let mut body = json!({"wallet_address": W1, "earnings": 1, "source_id": "block-1"});
        body[field] = value.clone();
        let refused = admin.post("/miner/earnings", &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{field}: {value}");
    }
    let mine = json!({"wallet_address": W1, "earnings": 1, "source_id": "block-1"});
    server
        .caller(W2, &["miner", "read", "chat", "keys"])
        .await
        .post("/miner/earnings", &mine)
        .await
        .refused(403, "forbidden");
    server
        .anybody()
        .get(&format!("/users/{W1}"))
        .await
        .refused(404, "user_not_found");
}

#[tokio::test]
async fn earnings_are_one_row_a_day_oldest_first() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    for (source, earnings, ago) in [
        ("a", 1.25, Duration::ZERO),
        ("b", 0.75, HOUR),
        ("c", 3.0, DAY),
        ("d", 0.000_125, 3 * DAY),
        ("e", 5.0, 10 * DAY),
    ] {
        earn(&server, W1, earnings, source, noon.minus(ago)).await;
    }
    earn(&server, W2, 100.0, "f", noon).await;
    let row = |earnings: Value, at: Timestamp| json!({"date": at.date(), "earnings": earnings, "amount": earnings, "recorded_at": at});
    let today = row(json!(2), noon);
    let yesterday = row(json!(3), noon.minus(DAY));
    let before = row(json!(0.000_125), noon.minus(3 * DAY));
    let first = row(json!(5), noon.minus(10 * DAY));
    for (query, expected) in [
        ("", vec![&before, &yesterday, &today]),
        ("?days=7", vec![&before, &yesterday, &today]),
        ("?days=1", vec![&today]),
        ("?days=2", vec![&yesterday, &today]),
        ("?days=3", vec![&yesterday, &today]),
        ("?days=4", vec![&before, &yesterday, &today]),
        ("?days=365", vec![&first, &before, &yesterday, &today]),
        ("?days=365&limit=2", vec![&first, &before]),
        ("?days=365&limit=2&offset=1", vec![&before, &yesterday]),
        ("?days=365&offset=4", vec![]),
    ] {
        let path = format!("/miner/earnings/{W1}{query}");
        let shown = server.anybody().get(&path).await.expect(200);
        assert_eq!(shown, json!({ "earnings": expected }), "{query}");
    }
    for query in ["days=0", "days=366", "limit=0", "limit=501", "offset=-1"] {
        let path = format!("/miner/earnings/{W1}?{query}");
        server
            .anybody()
            .get(&path)
            .await
            .refused(400, "invalid_request");
    }
    assert_eq!(server.balance(W1).await.micro(), 10_000_125);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_leaderboard_ranks_who_earned_most_in_the_period() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    earn(&server, W1, 5.0, "a", noon.minus(10 * DAY)).await;
    earn(&server, W2, 2.0, "b", noon.minus(2 * DAY)).await;
    earn(&server, W2, 1.0, "c", noon.minus(3 * DAY)).await;
    earn(&server, W3, 1.0, "d", noon).await;
    let rigs = json!([
        {"wallet_address": W1, "worker": "rig-1", "hashrate": 10, "blocks_found": 4},
        {"wallet_address": W1, "worker": "rig-2", "hashrate": 32.5, "blocks_found": 1},
    ]);
    server.admin().post("/miner/stats", &rigs).await.expect(201);
    let caller = server.anybody();
    let board = async |query: &str| caller.get(&format!("/leaderboard{query}")).await;
    let row = |rank: u8, wallet: &str, earnings: u8| {
        let (hashrate, blocks) = match wallet {
            W1 => (json!(42.5), json!(5)),
            _ => (Value::Null, Value::Null),
        };
        json!({
            "rank": rank, "wallet_address": wallet, "total_earnings": earnings,
            "hashrate": hashrate, "blocks_found": blocks,
        })
    };
    for (query, expected) in [
        ("", vec![row(1, W1, 5), row(2, W2, 3), row(3, W3, 1)]),
        (
            "?period=all",
            vec![row(1, W1, 5), row(2, W2, 3), row(3, W3, 1)],
        ),
        (
            "?period=month",
            vec![row(1, W1, 5), row(2, W2, 3), row(3, W3, 1)],
        ),
        ("?period=week", vec![row(1, W2, 3), row(2, W3, 1)]),
        ("?period=day", vec![row(1, W3, 1)]),
        ("?limit=2", vec![row(1, W1, 5), row(2, W2, 3)]),
        ("?limit=1&period=week", vec![row(1, W2, 3)]),
    ] {
        let shown = board(query).await.expect(200);
        assert_eq!(shown, json!({ "miners": expected }), "{query}");
    }
    board("?period=year").await.refused(400, "invalid_request");

    earn(&server, W3, 10.0, "e", noon).await;
    let cached = board("").await;
    assert_eq!(cached.header("x-cache"), "hit");
    assert_eq!(cached.expect(200)["miners"][0], row(1, W1, 5));
    server.clock.advance(MINUTE);
    let anew = board("").await;
    assert_eq!(anew.header("x-cache"), "miss");
    let anew = anew.expect(200);
    assert_eq!(
        anew["miners"],
        json!([row(1, W3, 11), row(2, W1, 5), row(3, W2, 3)])
    );
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_leaderboard_adds_no_unlike_units_either() {
    let server = TestServer::start(config()).await;
    let now = server.clock.now();
    earn(&server, W1, 5.0, "a", now).await;
    let rigs = json!([
        {"wallet_address": W1, "worker": "cpu", "hashrate": 1207.19, "hashrate_unit": "H/s", "recorded_at": now.minus(MINUTE)},
        {"wallet_address": W1, "worker": "gpu", "hashrate": 42.5, "recorded_at": now},
    ]);
    server.admin().post("/miner/stats", &rigs).await.expect(201);
    assert_eq!(stats(&server, W1).await["hashrate"], json!(42.5));
    for query in ["", "?period=day"] {
        let path = format!("/leaderboard{query}");
        let board = server.anybody().get(&path).await.expect(200);
        assert_eq!(board["miners"][0]["hashrate"], json!(42.5), "{query}");
    }
}
