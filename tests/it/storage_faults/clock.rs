//! A clock that is set back.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::chat::whole;
use crate::support::{Scripted, TestServer, Upstream, W1, config_with_inference};

const DAY: Duration = Duration::from_secs(86_400);

fn ids(listed: &Value, of: &str) -> Vec<String> {
    let listed = listed[of].as_array().unwrap().iter();
    listed
        .map(|entry| entry["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_clock_that_is_set_back_breaks_nothing_and_preserves_the_order() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let admin = server.admin();
    server.clock.advance(40 * DAY);
    let caller = server.payer(W1, 10).await;
    let grants = format!("/users/{W1}/credits");
    let headers = [("idempotency-key", "one")];
    let grant = json!({ "amount": 1, "reason": "once" }).to_string();
    let send = async |body: &str| {
        admin
            .send(Method::POST, &grants, &headers, body.to_owned())
            .await
    };
    send(&grant).await.expect(200);
    let sample = json!({ "wallet_address": W1, "hashrate": 5 });
    admin.post("/miner/stats", &sample).await.expect(201);
    server
        .store
        .compact(Default::default(), server.clock.now())
        .await
        .unwrap();

    for back in [Duration::from_secs(90), DAY, 30 * DAY] {
        server.clock.set_back(back);
        let key = json!({ "wallet_address": W1, "scopes": ["chat"] });
        let made = admin.post("/api/keys", &key).await.expect(201);
        let listed = admin
            .get(&format!("/api/keys?wallet_address={W1}"))
            .await
            .expect(200);
        assert_eq!(ids(&listed, "keys")[0], made["id"].as_str().unwrap());
        // The same key is replayed, and its grant is not made twice.
        let again = send(&grant).await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!((status, whole(body).await.unwrap().as_str()), (200, "x\n"));
        admin.post("/miner/stats", &sample).await.expect(201);
        server
            .store
            .compact(Default::default(), server.clock.now())
            .await
            .unwrap();
        server.store.purge(server.clock.now()).await.unwrap();
        for path in [
            format!("/miner/stats/{W1}"),
            format!("/miner/hashrate/{W1}"),
            "/network/stats".to_owned(),
            "/leaderboard".to_owned(),
            "/health".to_owned(),
            "/alerts".to_owned(),
        ] {
            admin.get(&path).await.expect(200);
        }
        let ledger = admin.get(&format!("/users/{W1}/ledger")).await.expect(200);
        assert_eq!(
            ledger["entries"][0]["reason"], "chat",
            "newest first: {ledger}"
        );
        server.assert_ledger_adds_up().await;
    }
    assert_eq!(server.balance(W1).await.micro(), 8_000_000);
    server.shutdown().await;
}
