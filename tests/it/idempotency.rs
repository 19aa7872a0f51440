use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Credits;
use r3mes_edge::store::{Actor, IdempotentRequest, StoredResponse};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Answer, Caller, Scripted, Seen, TestServer, Upstream, W1, W2, W3, config,
    config_with_inference, eventually, wallet,
};

const COMPLETIONS: &str = "/v1/chat/completions";

async fn post(caller: &Caller, path: &str, key: &str, body: &Value) -> Answer {
    caller
        .send(
            Method::POST,
            path,
            &[("idempotency-key", key)],
            body.to_string(),
        )
        .await
}

#[tokio::test]
async fn a_repeated_grant_is_made_once_and_its_response_replayed() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let path = format!("/users/{W1}/credits");
    let body = json!({"amount":5,"reason":"bonus"});
    let first = post(&admin, &path, "order-7", &body).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = post(&admin, &path, "\"order-7\"", &body).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(server.balance(W1).await, Credits::parse("5").unwrap());

    post(
        &admin,
        &path,
        "order-7",
        &json!({"amount":6,"reason":"bonus"}),
    )
    .await
    .refused(422, "idempotency_key_reused");
    // Another wallet in the path is another request, another route another key.
    post(&admin, &format!("/users/{W2}/credits"), "order-7", &body)
        .await
        .refused(422, "idempotency_key_reused");
    post(&admin, "/users", "order-7", &json!({"wallet_address":W2}))
        .await
        .expect(201);
    // Another query is another request too.
    let query = format!("{path}?a=1");
    post(&admin, &query, "order-7", &body)
        .await
        .refused(422, "idempotency_key_reused");
    server.clock.advance(std::time::Duration::from_secs(86_400));
    post(&admin, &path, "order-7", &body).await.expect(200);
    assert_eq!(server.balance(W1).await, Credits::parse("10").unwrap());
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn twenty_concurrent_grants_with_one_key_are_made_once() {
    let server = TestServer::start(config()).await;
    let path = format!("/users/{W1}/credits");
    let grants: Vec<_> = (0..20)
        .map(|_| {
            let (admin, path) = (server.admin(), path.clone());
            tokio::spawn(async move {
                post(&admin, &path, "once", &json!({"amount":1,"reason":"x"})).await
            })
        })
        .collect();
    let mut replayed = 0;
    for grant in grants {
        let answer = grant.await.unwrap();
        replayed += usize::from(answer.header("idempotency-replayed") == "true");
        answer.expect(200);
    }
    assert_eq!(replayed, 19);
    assert_eq!(server.balance(W1).await, Credits::parse("1").unwrap());
}

#[tokio::test]
async fn of_concurrent_debits_with_one_key_one_is_made_and_none_is_refused() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 10).await;
    let path = format!("/users/{W1}/credits");
    for round in 0..20 {
        // All that there is, so that a second one would not fit.
        let key = format!("debit-{round}");
        let debits: Vec<_> = (0..8)
            .map(|_| {
                let (admin, path, key) = (server.admin(), path.clone(), key.clone());
                tokio::spawn(async move {
                    let body = json!({"amount":-10,"reason":"x"});
                    post(&admin, &path, &key, &body).await
                })
            })
            .collect();
        let mut replayed = 0;
        for debit in debits {
            let answer = debit.await.unwrap();
            replayed += usize::from(answer.header("idempotency-replayed") == "true");
            answer.expect(200);
        }
        assert_eq!(replayed, 7);
        assert_eq!(server.balance(W1).await, Credits::ZERO);
        let body = json!({"amount":10,"reason":"x"});
        server.admin().post(&path, &body).await.expect(200);
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_account_is_created_once_and_a_refusal_is_not_stored() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let body = json!({"wallet_address":W1});
    for _ in 0..2 {
        post(&admin, "/users", "a", &body).await.expect(201);
    }
    post(&admin, "/users", "b", &body)
        .await
        .refused(409, "conflict");
    post(&admin, "/users", "c", &json!({}))
        .await
        .refused(400, "invalid_request");
    post(&admin, "/users", "c", &json!({"wallet_address":W2}))
        .await
        .expect(201);
}

#[tokio::test]
async fn a_key_is_made_once_and_never_shown_again() {
    let server = TestServer::start(config()).await;
    let body = json!({"wallet_address":W1});
    let made = post(&server.admin(), "/api/keys", "k", &body)
        .await
        .expect(201);
    let again = post(&server.admin(), "/api/keys", "k", &body)
        .await
        .refused(409, "already_issued");
    let named = again["detail"].as_str().unwrap();
    assert!(named.contains(made["id"].as_str().unwrap()), "{named}");
    assert!(
        !again
            .to_string()
            .contains(made["api_key"].as_str().unwrap())
    );
    // An alias is the same route.
    let alias = post(&server.admin(), "/api-keys/create", "k", &body).await;
    alias.refused(409, "already_issued");
    let keys = server
        .admin()
        .get(&format!("/api/keys?wallet_address={W1}"))
        .await
        .expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    let file = std::fs::read(server.database()).unwrap();
    let wal = std::fs::read(format!("{}-wal", server.database().display())).unwrap();
    let key = &made["api_key"].as_str().unwrap().as_bytes()[20..40];
    assert!(
        ![file, wal]
            .iter()
            .any(|bytes| bytes.windows(20).any(|window| window == key))
    );
}

#[tokio::test]
async fn an_earning_is_recorded_once_and_an_invalid_header_is_refused() {
    let server = TestServer::start(config()).await;
    let body = json!({"wallet_address":W1,"earnings":2,"source_id":"block-1"});
    let first = post(&server.admin(), "/miner/earnings", "e", &body).await;
    let again = post(&server.admin(), "/miner/earnings", "e", &body).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    for wrong in ["", "\"\"", &"x".repeat(256)] {
        post(&server.admin(), "/miner/earnings", wrong, &body)
            .await
            .refused(400, "invalid_request");
    }
    let twice = [("idempotency-key", "e"), ("idempotency-key", "f")];
    let admin = server.admin();
    let twice = admin.send(Method::POST, "/miner/earnings", &twice, body.to_string());
    twice.await.refused(400, "invalid_request");
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn of_twelve_hundred_grants_the_first_is_replayed_and_made_once() {
    let server = TestServer::start(config()).await;
    let (admin, path) = (server.admin(), format!("/users/{W1}/credits"));
    let body = json!({"amount":1,"reason":"bonus"});
    let first = post(&admin, &path, "n0", &body).await;
    let mut senders = JoinSet::new();
    for sender in 0..109 {
        let (admin, path, body) = (admin.clone(), path.clone(), body.clone());
        senders.spawn(async move {
            for n in 0..11 {
                let key = format!("{sender}-{n}");
                post(&admin, &path, &key, &body).await.expect(200);
            }
        });
    }
    senders.join_all().await;
    let again = post(&admin, &path, "n0", &body).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body, first.body);
    assert_eq!(server.balance(W1).await, Credits::parse("1200").unwrap());
    server.assert_ledger_adds_up().await;
}

fn question() -> Value {
    json!({ "messages": [{ "role": "user", "content": "hi" }] })
}

async fn complete(caller: &Caller, key: &str) -> Answer {
    post(caller, COMPLETIONS, key, &question()).await
}

#[tokio::test]
async fn a_rotated_and_a_second_key_of_the_wallet_get_the_stored_answer() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let (caller, other) = (server.payer(W1, 5).await, server.payer(W2, 5).await);
    let first = complete(&caller, "once").await;
    let second = server.payer(W1, 0).await;
    let me = caller.get("/auth/me").await.expect(200);
    let rotate = format!("/api/keys/{}/rotate", me["key"]["id"].as_str().unwrap());
    let rotated = server.admin().post(&rotate, &json!({})).await.expect(201);
    let rotated = caller.with_key(rotated["api_key"].as_str().unwrap());
    for caller in [&second, &rotated] {
        let again = complete(caller, "once").await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.body, first.body);
    }
    // Another wallet with the same key has its own response, and pays for it.
    let others = complete(&other, "once").await;
    assert_eq!(others.header("idempotency-replayed"), "");
    for wallet in [W1, W2] {
        assert_eq!(server.balance(wallet).await, Credits::parse("4").unwrap());
    }
    assert_eq!(upstream.seen(COMPLETIONS).len(), 2);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_answer_of_a_free_request_is_stored_and_while_it_runs_a_repeat_waits() {
    let (sender, mut held) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::inference(move |_: &Seen| {
        let (scripted, frames) = Scripted::held();
        sender.send(frames).unwrap();
        scripted
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.price = Credits::ZERO.into();
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 0).await;
    let asking = {
        let caller = caller.clone();
        tokio::spawn(async move { complete(&caller, "once").await })
    };
    let frames = held.recv().await.unwrap();
    let running = complete(&caller, "once").await;
    assert_eq!(running.header("retry-after"), "1");
    running.refused(409, "idempotency_in_progress");
    frames.send("{\"choices\":[{\"message\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}");
    drop(frames);
    let first = asking.await.unwrap();
    assert_eq!(
        (first.status, first.header("idempotency-replayed")),
        (200, "")
    );
    let again = complete(&caller, "once").await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body, first.body);
    // Free for one key, and another request is another one.
    let mut other = question();
    other["temperature"] = json!(0.5);
    post(&caller, COMPLETIONS, "once", &other)
        .await
        .refused(422, "idempotency_key_reused");
    assert_eq!(upstream.seen(COMPLETIONS).len(), 1);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn on_a_stream_an_idempotency_key_is_refused_by_name_and_nothing_is_paid() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let mut streamed = question();
    streamed["stream"] = json!(true);
    for (path, body, instead) in [
        (COMPLETIONS, streamed, "leave stream out"),
        (
            "/chat",
            json!({ "message": "hi" }),
            "use /v1/chat/completions without stream",
        ),
    ] {
        let refused = post(&caller, path, "once", &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert!(refused["detail"].as_str().unwrap().ends_with(instead));
        assert_eq!(refused["errors"][0]["pointer"], "Idempotency-Key");
        assert_eq!(refused["error"]["param"], "Idempotency-Key");
    }
    assert_eq!(upstream.seen(COMPLETIONS).len(), 0);
    assert_eq!(server.balance(W1).await, Credits::parse("1").unwrap());
}

/// Stores this many responses of this size in the scope of a wallet's completions.
async fn fill(server: &TestServer, owner: &str, answers: u32, bytes: usize) {
    const AT_ONCE: u32 = 2000;
    let scope = format!("{owner} POST {COMPLETIONS}");
    for chunk in 0..answers.div_ceil(AT_ONCE) {
        let mut stores = JoinSet::new();
        for n in chunk * AT_ONCE..answers.min((chunk + 1) * AT_ONCE) {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            key[4..].copy_from_slice(&owner.as_bytes()[16..]);
            let idempotent = IdempotentRequest {
                key,
                scope: scope.clone(),
                request: [0; 32],
                answer: if bytes == 0 {
                    |_| stored(0)
                } else {
                    |_| stored(4 << 20)
                },
            };
            let (store, now) = (server.store.clone(), server.clock.now());
            let amount = Credits::from_micro(1);
            stores.spawn(async move {
                let why = "test".to_owned();
                store
                    .grant(
                        wallet(W3),
                        amount,
                        why,
                        None,
                        Actor::local(now),
                        Some(idempotent),
                    )
                    .await
            });
        }
        assert!(stores.join_all().await.iter().all(Result::is_ok));
    }
}

fn stored(bytes: usize) -> StoredResponse {
    StoredResponse {
        status: 200,
        answer: Some("1".repeat(bytes)),
        reference: None,
    }
}

#[tokio::test]
async fn a_full_scope_refuses_a_new_key_before_any_work_and_replays_known_ones() {
    let (sender, mut held) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::inference(move |seen: &Seen| {
        if !seen.body.contains("wait") {
            return Scripted::completion("hello");
        }
        let (scripted, frames) = Scripted::held();
        sender.send(frames).unwrap();
        scripted
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let (caller, other) = (server.payer(W1, 5).await, server.payer(W2, 5).await);
    fill(&server, W1, 19_998, 0).await;
    complete(&caller, "known").await.expect(200);

    // A request in flight counts as the last free row.
    let waiting = {
        let (caller, mut body) = (caller.clone(), question());
        body["messages"][0]["content"] = json!("wait");
        tokio::spawn(async move {
            let key = [("idempotency-key", "waiting")];
            let opened = caller.try_open(Method::POST, COMPLETIONS, &key, body.to_string());
            opened.await.map(|(status, ..)| status)
        })
    };
    let frames = held.recv().await.unwrap();
    let full = complete(&caller, "new").await;
    let retry_after: u64 = full.header("retry-after").parse().unwrap();
    assert!((86_000..=86_400).contains(&retry_after), "{retry_after}");
    full.refused(429, "idempotency_full");
    waiting.abort();
    frames.reader_left().await;
    eventually("the row is free", async || {
        Some(complete(&caller, "new").await).filter(|answer| answer.status == 200)
    })
    .await;

    complete(&caller, "newer")
        .await
        .refused(429, "idempotency_full");
    let known = complete(&caller, "known").await;
    assert_eq!(known.header("idempotency-replayed"), "true");
    caller.post(COMPLETIONS, &question()).await.expect(200);
    complete(&other, "new").await.expect(200);
    assert_eq!(server.balance(W1).await, Credits::parse("2").unwrap());
    assert_eq!(upstream.seen(COMPLETIONS).len(), 5);
    server.clock.advance(Duration::from_secs(86_400));
    complete(&caller, "newer").await.expect(200);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_long_response_is_replayed_and_one_too_large_to_store_is_named_and_charged_once() {
    let long = "x".repeat(200_000);
    let upstream = Upstream::inference(move |_| Scripted::completion(&long)).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    let first = complete(&caller, "long").await;
    let again = complete(&caller, "long").await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body, first.body);

    fill(&server, W1, 15, 4 << 20).await;
    fill(&server, W2, 16, 4 << 20).await;
    let other = server.payer(W2, 5).await;
    complete(&caller, "fits").await.expect(200);
    complete(&caller, "fits").await.expect(200);
    complete(&other, "does not fit").await.expect(200);
    let refused = complete(&other, "does not fit").await;
    let refused = refused.refused(409, "already_issued");
    let ledger = other.get(&format!("/users/{W2}/ledger")).await.expect(200);
    let entry = ledger["entries"][0]["id"].as_str().unwrap();
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains(entry), "{detail}");
    assert_eq!(server.balance(W1).await, Credits::parse("3").unwrap());
    assert_eq!(server.balance(W2).await, Credits::parse("4").unwrap());
    server.assert_ledger_adds_up().await;
}
