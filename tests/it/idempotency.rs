use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, TestServer, W1, W2, config};

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
async fn a_grant_that_is_sent_again_is_given_once_and_answered_alike() {
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
    server.clock.advance(std::time::Duration::from_secs(86_400));
    post(&admin, &path, "order-7", &body).await.expect(200);
    assert_eq!(server.balance(W1).await, Credits::parse("10").unwrap());
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn of_twenty_grants_at_once_with_one_key_one_is_given() {
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
async fn an_account_is_made_once_and_a_refusal_is_not_kept() {
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
    assert!(
        !again
            .to_string()
            .contains(made["api_key"].as_str().unwrap())
    );
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
async fn an_earning_is_told_once_and_a_header_that_is_none_is_refused() {
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
    server.assert_ledger_adds_up().await;
}
