use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use crate::chain::{config_with_chain, documented, mortal_chain};
use crate::chat::whole;
use crate::support::{
    Answer, Scripted, TestServer, Upstream, W1, W2, W3, config, config_with_inference, eventually,
};

async fn ask(server: &TestServer) -> Answer {
    server.anybody().get("/network/stats").await
}

/// The figures of an answer, whose `X-Cache` must be `source`.
#[track_caller]
fn figures(answer: Answer, source: &str) -> [Value; 4] {
    assert_eq!(answer.header("x-cache"), source);
    let body = answer.expect(200);
    [
        "active_miners",
        "total_users",
        "total_credits",
        "block_height",
    ]
    .map(|name| body[name].clone())
}

/// Figures without a chain.
fn shown(miners: u8, users: u8, credits: Value) -> [Value; 4] {
    [json!(miners), json!(users), credits, Value::Null]
}

#[tokio::test]
async fn the_networks_figures_are_exact_cached_and_revalidated_by_their_etag() {
    let server = TestServer::start(config()).await;
    let answer = ask(&server).await;
    let now = server.clock.now().millis();
    let tag = answer.header("etag").to_owned();
    assert!(
        tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2,
        "{tag}"
    );
    assert_eq!(
        (
            answer.header("x-cache"),
            answer.header("age"),
            answer.header("cache-control")
        ),
        ("miss", "0", "public, max-age=300")
    );
    let body = answer.expect(200);
    let generated = Timestamp::parse(body["generated_at"].as_str().unwrap()).unwrap();
    assert!((0..60_000).contains(&(now - generated.millis())));
    assert_eq!(
        body,
        json!({
            "active_miners": 0, "total_users": 0, "total_credits": 0, "block_height": null,
            "wallets": [], "generated_at": generated,
        })
    );

    server.clock.advance(Duration::from_secs(100));
    let hit = ask(&server).await;
    let age: u64 = hit.header("age").parse().unwrap();
    assert!((100..160).contains(&age), "{age}");
    assert_eq!(
        hit.header("cache-control"),
        format!("public, max-age={}", 299 - age)
    );
    assert_eq!(
        (hit.header("x-cache"), hit.header("etag")),
        ("hit", tag.as_str())
    );
    assert_eq!(hit.expect(200), body);

    let caller = server.anybody();
    let wanting = async |tag: &str| {
        let headers = [("if-none-match", tag)];
        caller
            .send(Method::GET, "/network/stats", &headers, "")
            .await
    };
    for wanted in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let unchanged = wanting(&wanted).await;
        assert_eq!(
            (unchanged.status, unchanged.body.len()),
            (304, 0),
            "{wanted}"
        );
        assert_eq!(unchanged.header("etag"), tag);
        assert_eq!(unchanged.header("x-cache"), "hit");
        assert_eq!(unchanged.header("content-type"), "");
    }
    let changed = wanting("\"other\"").await;
    assert_eq!(changed.expect(200), body);
}

#[tokio::test]
async fn changes_invalidate_the_figures_and_a_second_sample_does_not() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 0, json!(0)));
    assert_eq!(figures(ask(&server).await, "hit"), shown(0, 0, json!(0)));

    // A new user, by hand, by a key, by a grant.
    let body = json!({"wallet_address": W1});
    admin.post("/users", &body).await.expect(201);
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 1, json!(0)));
    server.caller(W2, &["miner"]).await;
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 2, json!(0)));
    let body = json!({"amount": 2.5, "reason": "test"});
    let path = format!("/users/{W3}/credits");
    admin.post(&path, &body).await.expect(200);
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 3, json!(2.5)));
    // A grant and a debit.
    let path = format!("/users/{W1}/credits");
    admin.post(&path, &body).await.expect(200);
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 3, json!(5)));
    let body = json!({"amount": -0.000125, "reason": "test"});
    admin.post(&path, &body).await.expect(200);
    assert_eq!(
        figures(ask(&server).await, "miss"),
        shown(0, 3, json!(4.999875))
    );
    // An earning; reported again it changes nothing.
    let body = json!({"wallet_address": W2, "earnings": 1, "source_id": "block-1"});
    admin.post("/miner/earnings", &body).await.expect(201);
    assert_eq!(
        figures(ask(&server).await, "miss"),
        shown(0, 3, json!(5.999875))
    );
    admin.post("/miner/earnings", &body).await.expect(200);
    assert_eq!(
        figures(ask(&server).await, "hit"),
        shown(0, 3, json!(5.999875))
    );
    // A wallet's first sample invalidates; its second does not.
    let sample = |hashrate| json!({"wallet_address": W2, "hashrate": hashrate, "recorded_at": server.clock.now()});
    admin.post("/miner/stats", &sample(1)).await.expect(201);
    assert_eq!(
        figures(ask(&server).await, "miss"),
        shown(1, 3, json!(5.999875))
    );
    server.clock.advance(Duration::from_secs(1));
    admin.post("/miner/stats", &sample(2)).await.expect(201);
    assert_eq!(
        figures(ask(&server).await, "hit"),
        shown(1, 3, json!(5.999875))
    );
    // A refused request changes nothing.
    let body = json!({"amount": -100, "reason": "test"});
    admin.post(&path, &body).await.refused(409, "conflict");
    let body = json!({"wallet_address": W1});
    admin.post("/users", &body).await.refused(409, "conflict");
    assert_eq!(
        figures(ask(&server).await, "hit"),
        shown(1, 3, json!(5.999875))
    );
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn after_five_minutes_the_figures_are_computed_anew_and_silent_miners_are_gone() {
    let server = TestServer::start(config()).await;
    let sample = json!({"wallet_address": W1, "hashrate": 1});
    server
        .admin()
        .post("/miner/stats", &sample)
        .await
        .expect(201);
    assert_eq!(figures(ask(&server).await, "miss"), shown(1, 1, json!(0)));
    server.clock.advance(Duration::from_secs(290));
    assert_eq!(figures(ask(&server).await, "hit"), shown(1, 1, json!(0)));
    server.clock.advance(Duration::from_secs(10));
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 1, json!(0)));
}

#[tokio::test]
async fn a_chats_charge_does_not_drop_the_figures() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 1, json!(3)));
    let (status, _, body) = caller.chat("hi").await;
    assert_eq!((status, whole(body).await.unwrap().as_str()), (200, "x\n"));
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    assert_eq!(figures(ask(&server).await, "hit"), shown(0, 1, json!(3)));
    server.clock.advance(Duration::from_secs(300));
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 1, json!(2)));
}

#[tokio::test]
async fn an_answer_to_a_key_is_not_stored_by_shared_caches() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read"]).await;
    for path in ["/network/stats", "/leaderboard"] {
        for source in ["miss", "hit"] {
            let answer = caller.get(path).await;
            assert_eq!(answer.header("cache-control"), "no-store", "{path}");
            assert_eq!(answer.header("x-cache"), source);
            answer.expect(200);
        }
        // The same figures without a key.
        let answer = server.anybody().get(path).await;
        assert!(answer.header("cache-control").starts_with("public"));
        assert_eq!(answer.header("x-cache"), "hit");
    }
}

#[tokio::test]
async fn the_height_is_the_chains_while_there_is_one() {
    let chain = Upstream::start(documented).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let [.., height] = figures(ask(&server).await, "miss");
    assert_eq!(height, json!(1_262_196));

    // Down from the start: null, and everything else is there.
    let (chain, up) = mortal_chain().await;
    up.store(false, Ordering::SeqCst);
    let server = TestServer::start(config_with_chain(&chain)).await;
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 0, json!(0)));
    assert_eq!(chain.seen("/status").len(), 1);
    // And back: seen soon after the next reader asked.
    up.store(true, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(300));
    assert_eq!(figures(ask(&server).await, "miss"), shown(0, 0, json!(0)));
    eventually("the height is known", async || {
        let [.., height] = figures(ask(&server).await, "hit");
        (height == json!(1_262_196)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_height_is_as_fresh_as_the_chains_status_while_the_figures_are_cached() {
    let (chain, up) = mortal_chain().await;
    up.store(false, Ordering::SeqCst);
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let down = caller.get("/network/stats").await;
    assert_eq!(down.header("x-cache"), "miss");
    assert_eq!(down.expect(200)["block_height"], Value::Null);
    up.store(true, Ordering::SeqCst);
    // A failure of the chain is not repeated for so long.
    server.clock.advance(Duration::from_secs(2));
    eventually("the height is known", async || {
        let back = caller.get("/network/stats").await;
        assert_eq!(back.header("x-cache"), "hit");
        (back.expect(200)["block_height"] == 1_262_196).then_some(())
    })
    .await;
}
