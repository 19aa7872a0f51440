use hyper::Method;
use serde_json::json;

use crate::support::{TestServer, W1, W2, W3, config};

#[tokio::test]
async fn every_kind_of_wrong_request_has_its_own_code_in_the_one_body() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    admin
        .send(Method::POST, "/users", &[], "{")
        .await
        .refused(400, "invalid_json");
    admin
        .send(Method::POST, "/users", &[], &b"\xff\xfe"[..])
        .await
        .refused(400, "invalid_json");
    admin
        .send(Method::POST, "/users", &[], "[]")
        .await
        .refused(400, "invalid_request");
    let unknown = admin
        .post("/users", &json!({"wallet_address":W1,"nick":"x"}))
        .await
        .refused(400, "invalid_request");
    assert_eq!(unknown["errors"][0]["pointer"], "/nick");
    assert_eq!(unknown["error"]["param"], "nick");
    let wrong = W1.replace("jrt", "jrz");
    admin
        .post("/users", &json!({"wallet_address":wrong}))
        .await
        .refused(400, "invalid_wallet_address");
    server
        .anybody()
        .get(&format!("/users/{wrong}"))
        .await
        .refused(400, "invalid_wallet_address");
    admin.get("/nothing").await.refused(404, "not_found");
    admin.get("/users/").await.refused(404, "not_found");
    let other = admin.send(Method::PUT, "/api/keys", &[], "").await;
    assert_eq!(other.header("allow"), "POST, GET, HEAD");
    other.refused(405, "method_not_allowed");
    for (path, most) in [
        ("/users", 64 << 10),
        ("/miner/stats", 1 << 20),
        ("/chat", 256 << 10),
    ] {
        let large = vec![b' '; most + 1];
        let refused = admin.send(Method::POST, path, &[], large).await;
        assert_eq!(refused.header("connection"), "close");
        refused.refused(413, "body_too_large");
    }
    for path in [
        "/leaderboard?limit=0",
        "/leaderboard?limit=101",
        "/leaderboard?limit=+5",
        "/leaderboard?limit=5&limit=5",
        "/leaderboard?top=5",
    ] {
        admin.get(path).await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_plain_request_id_is_adopted_and_any_other_replaced() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let adopted = caller
        .send(Method::GET, "/livez", &[("x-request-id", "abc-DEF_1")], "")
        .await;
    assert_eq!(adopted.header("x-request-id"), "abc-DEF_1");
    for odd in ["a b", &"x".repeat(65), "a\"b"] {
        let made = caller
            .send(Method::GET, "/livez", &[("x-request-id", odd)], "")
            .await;
        assert!(made.header("x-request-id").starts_with("req_"), "{odd}");
    }
}

#[tokio::test]
async fn head_is_answered_wherever_get_is() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    for path in [
        "/livez",
        "/readyz",
        "/health",
        "/network/stats",
        "/leaderboard",
        "/metrics",
    ] {
        let answer = caller.send(Method::HEAD, path, &[], "").await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert_ne!(answer.header("content-length"), "0", "{path}");
    }
}

#[tokio::test]
async fn credits_are_given_and_taken_and_never_go_below_zero() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    admin
        .post("/users", &json!({"wallet_address":W1}))
        .await
        .expect(201);
    admin
        .post("/users", &json!({"wallet_address":W1}))
        .await
        .refused(409, "conflict");
    let credits = format!("/users/{W1}/credits");
    let give = async |text: &str| {
        admin
            .send(
                Method::POST,
                &credits,
                &[],
                format!("{{\"amount\":{text},\"reason\":\"test\"}}"),
            )
            .await
    };
    assert_eq!(give("0.1").await.expect(200)["credits"].to_string(), "0.1");
    assert_eq!(give("0.2").await.expect(200)["credits"].to_string(), "0.3");
    assert_eq!(
        give("-0.300000").await.expect(200)["credits"].to_string(),
        "0"
    );
    give("-0.000001").await.refused(409, "conflict");
    for wrong in ["0", "1e3", "\"1\"", "0.0000001", "1000000001", "null"] {
        let refused = give(wrong).await.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "/amount", "{wrong}");
    }
    admin
        .post(&credits, &json!({"amount":1}))
        .await
        .refused(400, "invalid_request");
    admin
        .post(
            &format!("/users/{W2}/credits"),
            &json!({"amount":-1,"reason":"x"}),
        )
        .await
        .refused(404, "user_not_found");
    server
        .anybody()
        .get(&format!("/users/{W2}"))
        .await
        .refused(404, "user_not_found");
    let entries = admin.get(&format!("/users/{W1}/ledger")).await.expect(200);
    let amounts: Vec<String> = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["amount"].to_string())
        .collect();
    assert_eq!(amounts, ["-0.3", "0.2", "0.1"]);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_ledger_is_read_page_by_page_newest_first() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    for amount in 1..=5 {
        admin
            .post(
                &format!("/users/{W1}/credits"),
                &json!({"amount":amount,"reason":"test"}),
            )
            .await
            .expect(200);
    }
    let caller = server.caller(W1, &["read"]).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = caller
            .get(&format!("/users/{W1}/ledger?limit=2{cursor}"))
            .await
            .expect(200);
        seen.extend(
            page["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["amount"].as_i64().unwrap()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    caller
        .get(&format!("/users/{W1}/ledger?cursor=led_1"))
        .await
        .refused(400, "invalid_request");
}

#[tokio::test]
async fn a_request_that_was_passed_on_by_a_proxy_gets_no_public_reads() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    admin
        .post("/users", &json!({"wallet_address":W1}))
        .await
        .expect(201);
    let path = format!("/users/{W1}");
    server.anybody().get(&path).await.expect(200);
    let forwarded = [("x-forwarded-for", "203.0.113.7")];
    for path in [path.as_str(), "/network/stats", "/metrics"] {
        server
            .anybody()
            .send(Method::GET, path, &forwarded, "")
            .await
            .refused(401, "missing_credentials");
    }
    let caller = server.caller(W1, &["read"]).await;
    caller
        .send(Method::GET, &path, &forwarded, "")
        .await
        .expect(200);
    caller
        .send(Method::GET, "/network/stats", &forwarded, "")
        .await
        .expect(200);
    caller
        .send(Method::GET, "/metrics", &forwarded, "")
        .await
        .refused(403, "forbidden");
    let other = server.caller(W3, &["read"]).await;
    other
        .send(Method::GET, &path, &forwarded, "")
        .await
        .refused(403, "forbidden");
}

#[tokio::test]
async fn a_server_at_its_connection_limit_still_stops() {
    let mut config = config();
    config.limits.connections = 1;
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    caller.get("/livez").await.expect(200);
    // The caller keeps its connection open; the server waits for a free one when it is stopped.
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(20), server.shutdown()).await;
    assert!(stopped.is_ok(), "the server did not stop");
}
