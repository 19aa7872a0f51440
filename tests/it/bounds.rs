//! What nobody clears away by hand has a bound: workers of a wallet, keys that ended, files that a restore replaced.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestServer, W1, W2, config};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_worker_beyond_the_bound_of_its_wallet_is_409_and_its_batch_leaves_nothing() {
    let mut config = config();
    config.limits.workers_per_wallet = 3;
    let server = TestServer::start(config).await;
    let miner = server.caller(W1, &["miner", "read"]).await;
    let sample = |worker: &str, hashrate: u32| json!({ "worker": worker, "hashrate": hashrate });
    let names = ["a", "b", "c"].map(|worker| sample(worker, 1));
    let first = miner.post("/miner/stats", &json!(names)).await;
    first.expect(201);
    let batch = json!([sample("a", 2), sample("d", 2)]);
    let refused = miner.post("/miner/stats", &batch).await;
    let refused = refused.refused(409, "conflict");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("3 workers") && detail.contains("\"d\""),
        "{detail}"
    );
    let stats = format!("/miner/stats/{W1}");
    assert_eq!(miner.get(&stats).await.expect(200)["hashrate"], 3.0);
    // Those that are known go on, and other wallets have a bound of their own.
    let known = miner.post("/miner/stats", &sample("c", 5)).await;
    known.expect(201);
    let other = server.caller(W2, &["miner"]).await;
    let others = other.post("/miner/stats", &sample("d", 1)).await;
    others.expect(201);
}

#[tokio::test]
async fn keys_that_ended_are_listed_for_a_month_and_then_purged_but_no_admins() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let create = async |request: Value| {
        let made = admin.post("/api/keys", &request).await.expect(201);
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("id"), text("api_key"))
    };
    let (revoked, secret) = create(json!({ "wallet_address": W1 })).await;
    let (expired, _) = create(json!({ "wallet_address": W1, "expires_days": 1 })).await;
    let (active, _) = create(json!({ "wallet_address": W1, "expires_days": 365 })).await;
    let (of_admin, _) = create(json!({ "scopes": ["admin"] })).await;
    for id in [&revoked, &of_admin] {
        admin.delete(&format!("/api/keys/{id}")).await.expect(200);
    }
    let purged = async |days: u32| {
        let now = server.clock.now().plus(days * DAY);
        server.store.purge(now).await.unwrap()
    };
    let is_listed = async |id: &str| admin.get(&format!("/api/keys/{id}")).await.status == 200;
    assert_eq!(purged(29).await, 0);
    assert!(is_listed(&revoked).await && is_listed(&expired).await);
    assert_eq!(purged(32).await, 2);
    assert!(!is_listed(&revoked).await && !is_listed(&expired).await);
    assert!(is_listed(&active).await && is_listed(&of_admin).await);
    let caller = server.with_key(&secret);
    caller.get("/auth/me").await.refused(401, "invalid_api_key");
}

#[tokio::test]
async fn only_active_keys_count_however_many_ended() {
    let mut config = config();
    config.auth.max_keys_per_wallet = 3;
    let server = TestServer::start(config).await;
    let admin = server.admin();
    let request = json!({ "wallet_address": W1 });
    let mut newest = json!(null);
    for _ in 0..3 {
        newest = admin.post("/api/keys", &request).await.expect(201);
    }
    let another = admin.post("/api/keys", &request).await;
    another.refused(409, "conflict");
    // 20,000 that were revoked, by a program that knows the schema.
    let file = rusqlite::Connection::open(server.database()).unwrap();
    let many = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                INSERT INTO api_keys (id, hash, start, wallet, name, scopes, created_at, revoked_at)
                SELECT 'key_' || i, randomblob(32), '', (SELECT wallet FROM users), '', 'read', 1, 1 FROM n";
    file.execute(many, []).unwrap();
    let another = admin.post("/api/keys", &request).await;
    another.refused(409, "conflict");
    // A grace counts until it is over.
    let path = format!("/api/keys/{}/rotate", newest["id"].as_str().unwrap());
    let rotated = admin.post(&path, &json!({ "grace_seconds": 60 })).await;
    rotated.expect(201);
    let another = admin.post("/api/keys", &request).await;
    assert!(
        another.refused(409, "conflict")["detail"]
            .as_str()
            .unwrap()
            .contains("4 active")
    );
    server.clock.advance(Duration::from_secs(61));
    let another = admin.post("/api/keys", &request).await;
    assert!(
        another.refused(409, "conflict")["detail"]
            .as_str()
            .unwrap()
            .contains("3 active")
    );
    assert_eq!(server.store.purge(server.clock.now()).await, Ok(20_000));
}

#[tokio::test]
async fn files_that_were_replaced_are_deleted_after_a_month_but_the_newest() {
    let server = TestServer::start(config()).await;
    let names = [
        "20250101T000000.000Z.replaced",
        "20250101T000000.000Z.replaced-wal",
        "20250101T000000.000Z.replaced-shm",
        "20250301T000000.000Z.version-5",
        // Not ours, or not old.
        "20250101T000000.000Z.replaced-by-me",
        "20250101.replaced",
        "20991231T000000.000Z.replaced",
    ];
    let path = |name: &str| server.database().with_added_extension(name);
    for name in names {
        std::fs::write(path(name), "of another time").unwrap();
    }
    server.store.purge(server.clock.now()).await.unwrap();
    let left = names.map(|name| path(name).exists());
    assert_eq!(left, [false, false, false, false, true, true, true]);
    for name in names {
        let _ = std::fs::remove_file(path(name));
    }
    // The last one stays, however old it is, with its log.
    for name in &names[..2] {
        std::fs::write(path(name), "of another time").unwrap();
    }
    server.store.purge(server.clock.now()).await.unwrap();
    assert!(names[..2].iter().all(|name| path(name).exists()));
}
