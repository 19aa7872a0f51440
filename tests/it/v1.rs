//! The OpenAI-compatible routes: streamed and not, over both kinds of servers, and their errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::chat::{held_inference, whole};
use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, W2, config_with_inference, config_with_nodes,
    fixture, next_text,
};

const PATH: &str = "/v1/chat/completions";

fn credits(whole: i64) -> Credits {
    Credits::from_micro(whole * 1_000_000)
}

fn asked(stream: bool) -> Value {
    json!({ "model": "general", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

/// The head of a streamed answer.
async fn open(caller: &Caller, body: &Value) -> (u16, hyper::HeaderMap, hyper::body::Incoming) {
    caller.open(Method::POST, PATH, &[], body.to_string()).await
}

/// The newest entries of the ledger first.
async fn entries(caller: &Caller) -> Vec<Value> {
    let ledger = caller.get(&format!("/users/{W1}/ledger")).await.expect(200);
    ledger["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_stream_is_relayed_event_by_event_and_its_tokens_are_in_the_ledger() {
    let upstream =
        Upstream::inference(|_| Scripted::whole(200, fixture("openai-stream.sse"))).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let mut body = asked(true);
    body["stream_options"] = json!({ "include_usage": true });
    body["temperature"] = json!(0.5);
    body["logit_bias"] = json!({ "7": 1.5 });
    let (status, headers, answer) = open(&caller, &body).await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    // As it came, but for what it cost.
    let text = whole(answer).await.unwrap();
    let relayed = text.replacen("\"cost\":1,", "", 1);
    assert_ne!(relayed, text);
    assert_eq!(relayed.as_bytes(), fixture("openai-stream.sse"));
    let sent: Value = serde_json::from_str(&upstream.seen(PATH)[0].body).unwrap();
    body["model"] = json!("tiny");
    assert_eq!(sent, body);

    // The usage that the server requested is not relayed to a client that did not request it.
    let (_, _, answer) = open(&caller, &asked(true)).await;
    let text = whole(answer).await.unwrap();
    assert!(
        text.ends_with("data: [DONE]\n\n") && !text.contains("usage"),
        "{text}"
    );
    assert_eq!(server.balance(W1).await, credits(1));
    let entries = entries(&caller).await;
    assert_eq!(entries.len(), 3);
    for entry in &entries[..2] {
        assert_eq!(
            (&entry["amount"], &entry["reason"]),
            (&json!(-1), &json!("chat"))
        );
        let detail = &entry["detail"];
        assert_eq!(detail["adapter"], "general");
        assert_eq!(
            (&detail["prompt_tokens"], &detail["completion_tokens"]),
            (&json!(9), &json!(5))
        );
        let key = caller.get("/auth/me").await.expect(200);
        assert_eq!(detail["key_id"], key["key"]["id"]);
    }
    assert_eq!(entries[2]["detail"], Value::Null);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_completion_that_is_not_streamed_is_relayed_whole() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let answer = caller.post(PATH, &asked(false)).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let answer = answer.expect(200);
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    assert_eq!(answer["usage"]["total_tokens"], 3);
    assert_eq!(server.balance(W1).await, credits(0));
    caller
        .post(PATH, &asked(false))
        .await
        .refused(402, "insufficient_credits");
    let models = caller.get("/v1/models").await.expect(200);
    assert_eq!(models["data"][0]["id"], "general");
    assert_eq!(models["data"][1]["id"], "tiny");
    assert_eq!(models["data"].as_array().unwrap().len(), 2);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_idempotency_key_of_an_admin_is_for_the_wallet_that_pays() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    for wallet in [W1, W2] {
        server.payer(wallet, 5).await;
    }
    let admin = server.admin();
    let ask = async |wallet: &str| {
        let headers = [("idempotency-key", "once"), ("x-wallet-address", wallet)];
        let body = asked(false).to_string();
        admin.send(Method::POST, PATH, &headers, body).await
    };
    for wallet in [W1, W2] {
        let first = ask(wallet).await;
        assert_eq!(first.header("idempotency-replayed"), "");
        first.expect(200);
        assert_eq!(ask(wallet).await.header("idempotency-replayed"), "true");
        assert_eq!(server.balance(wallet).await, credits(4));
    }
    assert_eq!(upstream.seen(PATH).len(), 2);
}

#[tokio::test]
async fn an_answer_with_an_idempotency_key_is_paid_once_and_replayed() {
    let answers = Arc::new(AtomicUsize::new(0));
    let (upstream, mut held) = {
        let (sender, held) = tokio::sync::mpsc::unbounded_channel();
        let answers = Arc::clone(&answers);
        let script = move |_: &Seen| match answers.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let (scripted, frames) = Scripted::held();
                sender.send(frames).unwrap();
                scripted
            }
            n => Scripted::completion(&format!("answer {n}")),
        };
        (Upstream::inference(script).await, held)
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    let key = [("idempotency-key", "\"once\"")];
    let ask = async |body: Value| {
        caller
            .send(Method::POST, PATH, &key, body.to_string())
            .await
    };

    // The second request arrives while the first is in flight; the first disconnects, pays nothing and frees the key.
    let first = tokio::spawn({
        let caller = caller.clone();
        async move {
            caller
                .open(
                    Method::POST,
                    PATH,
                    &[("idempotency-key", "\"once\"")],
                    asked(false).to_string(),
                )
                .await
                .0
        }
    });
    let frames = held.recv().await.unwrap();
    ask(asked(false))
        .await
        .refused(409, "idempotency_in_progress");
    first.abort();
    frames.reader_left().await;
    let answer = crate::support::eventually("the key is free", async || {
        Some(ask(asked(false)).await).filter(|answer| answer.status != 409)
    })
    .await;
    assert!(!answer.headers.contains_key("idempotency-replayed"));
    let (bytes, answer) = (answer.body.clone(), answer.expect(200));
    assert_eq!(answer["choices"][0]["message"]["content"], "answer 1");
    let again = ask(asked(false)).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body, bytes);
    again.expect(200);
    let mut other = asked(false);
    other["seed"] = json!(7);
    ask(other).await.refused(422, "idempotency_key_reused");
    assert_eq!(server.balance(W1).await, credits(4));
    assert_eq!(answers.load(Ordering::SeqCst), 2);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_by_name_before_any_money_moves() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    for (name, value, pointer) in [
        ("messages", json!([]), "/messages"),
        ("messages", json!(null), "/messages"),
        ("stream", json!("yes"), "/stream"),
        ("n", json!(2), "/n"),
        ("model", json!(7), "/model"),
    ] {
        let mut body = asked(true);
        body[name] = value;
        let refused = caller
            .post(PATH, &body)
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
        assert_eq!(refused["error"]["type"], "invalid_request_error");
    }
    let mut body = asked(true);
    body["model"] = json!("gpt-9");
    let refused = caller
        .post(PATH, &body)
        .await
        .refused(404, "model_not_found");
    assert_eq!(refused["error"]["param"], "model");
    server
        .anybody()
        .post(PATH, &asked(true))
        .await
        .refused(401, "missing_credentials");
    server
        .caller(W1, &["read"])
        .await
        .post(PATH, &asked(true))
        .await
        .refused(403, "forbidden");
    let other = [("x-wallet-address", W2)];
    caller
        .send(Method::POST, PATH, &other, asked(true).to_string())
        .await
        .refused(403, "forbidden");
    // An admin names the wallet whose credits are spent.
    let named = [("x-wallet-address", W1)];
    server
        .admin()
        .post(PATH, &asked(true))
        .await
        .refused(400, "invalid_request");
    let (status, ..) = server
        .admin()
        .open(Method::POST, PATH, &named, asked(true).to_string())
        .await;
    assert_eq!(status, 200);
    assert_eq!(upstream.seen(PATH).len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_event_and_a_cut() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 9).await;
    type Break = fn(crate::support::Frames);
    let breaks: [Break; 4] = [
        |frames| frames.cut(),
        |frames| drop(frames),
        |frames| frames.send("data: {\"error\":{\"message\":\"CUDA out of memory\"}}\n\n"),
        |frames| frames.send("data: {not json\n\n"),
    ];
    for broken in breaks {
        let asking = tokio::spawn({
            let caller = caller.clone();
            async move { open(&caller, &asked(true)).await }
        });
        let frames = held.recv().await.unwrap();
        frames.send_word("part");
        let (status, _, mut body) = asking.await.unwrap();
        assert_eq!(status, 200);
        let first = next_text(&mut body).await.unwrap().unwrap();
        assert!(first.contains("part"), "{first}");
        broken(frames);
        let event = next_text(&mut body).await.unwrap().unwrap();
        let event: Value =
            serde_json::from_str(event.trim().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["error"]["code"], "upstream_bad_response");
        assert!(
            !event.to_string().contains("CUDA"),
            "an upstream's text reached the client"
        );
        assert!(
            next_text(&mut body).await.unwrap().is_err(),
            "a broken stream ended as if it were whole"
        );
    }
    assert_eq!(server.balance(W1).await, credits(5));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_answer_without_content_is_free_and_a_refused_request_is_a_client_error() {
    let scripts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let upstream = {
        let scripts = Arc::clone(&scripts);
        Upstream::inference(move |_| scripts.lock().unwrap().pop().unwrap()).await
    };
    let mut config = config_with_inference("openai", &upstream);
    config.breaker.consecutive_failures = 100;
    config.breaker.last_calls = 100;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: [DONE]\n\n";
    for (stream, script, status, code) in [
        (
            true,
            Scripted::whole(200, role),
            502,
            "upstream_bad_response",
        ),
        (
            true,
            Scripted::whole(200, "data: {\"error\":{}}\n\n"),
            502,
            "upstream_bad_response",
        ),
        (
            true,
            Scripted::whole(200, "<html>"),
            502,
            "upstream_bad_response",
        ),
        (
            false,
            Scripted::whole(200, "{\"error\":{\"message\":\"secret\"}}"),
            502,
            "upstream_bad_response",
        ),
        (
            false,
            Scripted::whole(200, "{\"choices\":[]}"),
            502,
            "upstream_bad_response",
        ),
        (
            false,
            Scripted::whole(500, "secret"),
            502,
            "upstream_bad_response",
        ),
        (
            false,
            Scripted::whole(302, ""),
            502,
            "upstream_bad_response",
        ),
        (true, Scripted::whole(429, ""), 503, "overloaded"),
        (
            true,
            Scripted::whole(400, fixture("llamacpp-error.json")),
            400,
            "invalid_request",
        ),
        (
            false,
            Scripted::whole(422, "secret"),
            400,
            "invalid_request",
        ),
        (
            false,
            Scripted::whole(401, "secret"),
            502,
            "upstream_bad_response",
        ),
    ] {
        scripts.lock().unwrap().push(script);
        // After a 429 the server is left alone for a second.
        server.clock.advance(std::time::Duration::from_secs(2));
        let refused = caller
            .post(PATH, &asked(stream))
            .await
            .refused(status, code);
        assert!(!refused.to_string().contains("secret"));
    }
    assert_eq!(server.balance(W1).await, credits(1));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_answer_that_ends_well_without_content_is_given_and_free() {
    let scripts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let upstream = {
        let scripts = Arc::clone(&scripts);
        Upstream::inference(move |_| scripts.lock().unwrap().pop().unwrap()).await
    };
    let mut config = config_with_inference("openai", &upstream);
    config.breaker.consecutive_failures = 2;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    let whole_answer = json!({ "choices": [{ "message": { "role": "assistant", "content": "" }, "finish_reason": "stop" }] });
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let done = "data: [DONE]\n\n";
    for _ in 0..3 {
        let stream = Scripted::whole(200, format!("{role}{finish}{done}"));
        scripts.lock().unwrap().push(stream);
        let (status, headers, body) = open(&caller, &asked(true)).await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
        let text = whole(body).await.unwrap();
        assert_eq!(text, format!("{role}{finish}{done}"));
        let answer = Scripted::whole(200, whole_answer.to_string());
        scripts.lock().unwrap().push(answer);
        let mut answer = caller.post(PATH, &asked(false)).await.expect(200);
        let usage = answer.as_object_mut().unwrap().remove("usage").unwrap();
        assert_eq!((&usage["cost"], &answer), (&json!(0), &whole_answer));
    }
    assert_eq!(server.balance(W1).await, credits(1));
    assert_eq!(entries(&caller).await.len(), 1);
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["breakers"][0]["state"], "CLOSED");
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn reasoning_and_tool_calls_are_content_and_paid() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 2).await;
    for delta in [
        json!({ "reasoning_content": "hm" }),
        json!({ "tool_calls": [{ "index": 0 }] }),
    ] {
        let asking = tokio::spawn({
            let caller = caller.clone();
            async move { open(&caller, &asked(true)).await }
        });
        let frames = held.recv().await.unwrap();
        let chunk = json!({ "choices": [{ "delta": delta }] });
        frames.send(format!("data: {chunk}\n\n"));
        let (status, _, mut body) = asking.await.unwrap();
        assert_eq!(status, 200);
        next_text(&mut body).await.unwrap().unwrap();
        drop(body);
        frames.reader_left().await;
    }
    let charged = async || (server.balance(W1).await == credits(0)).then_some(());
    crate::support::eventually("both are charged", charged).await;
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn two_requests_with_one_request_id_are_charged_apart() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let same = [("x-request-id", "the-same-id")];
    let ask = async || {
        let sent = caller.send(Method::POST, PATH, &same, asked(false).to_string());
        sent.await.expect(200)
    };
    ask().await;
    tokio::join!(ask(), ask());
    let entries = entries(&caller).await;
    let operations: std::collections::HashSet<_> = entries[..3]
        .iter()
        .map(|entry| entry["detail"]["request_id"].as_str().unwrap())
        .collect();
    assert_eq!((entries.len(), operations.len()), (4, 3));
    assert!(!operations.contains("the-same-id"));
    assert_eq!(server.balance(W1).await, credits(0));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_pays_nothing() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let asking = tokio::spawn(async move {
        let body = asked(false).to_string();
        caller.open(Method::POST, PATH, &[], body).await.0
    });
    let frames = held.recv().await.unwrap();
    frames.send("{\"choices\":[{\"message\":{\"content\":\"he");
    asking.abort();
    frames.reader_left().await;
    let released = async || (server.store.gauges().holds == 0).then_some(());
    crate::support::eventually("the hold is released", released).await;
    assert_eq!(server.balance(W1).await, credits(1));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_r3mes_nodes_text_is_written_in_openais_formats() {
    let upstream = Upstream::start(|_| Scripted::whole(200, "plain w\u{f6}rds")).await;
    let server = TestServer::start(config_with_inference("r3mes", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let (_, _, body) = open(&caller, &asked(true)).await;
    let text = whole(body).await.unwrap();
    assert!(
        text.contains("chat.completion.chunk") && text.contains("plain w\u{f6}rds"),
        "{text}"
    );
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let answer = caller.post(PATH, &asked(false)).await.expect(200);
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "plain w\u{f6}rds"
    );
    assert_eq!(answer["model"], "general");
    let mut tools = asked(false);
    tools["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
    let refused = caller
        .post(PATH, &tools)
        .await
        .refused(400, "invalid_request");
    assert_eq!(refused["errors"][0]["pointer"], "/tools");
    assert_eq!(server.balance(W1).await, credits(1));
    let bodies = upstream.seen("/chat");
    assert_eq!(bodies[0].body, r#"{"message":"hi"}"#);
}

#[tokio::test]
async fn a_node_that_fails_before_its_first_content_is_followed_by_the_next() {
    let broken = Upstream::inference(|_| Scripted::whole(500, "")).await;
    let full = Upstream::inference(|_| Scripted::whole(429, "")).await;
    let works = Upstream::inference(|_| Scripted::words(&["hello"])).await;
    let urls = [
        broken.url(),
        Upstream::dead().await,
        full.url(),
        works.url(),
    ];
    let server = TestServer::start(config_with_nodes("openai", &urls)).await;
    let caller = server.payer(W1, 25).await;
    for asked in 1..=25 {
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!(
            (status, whole(body).await.unwrap().as_str()),
            (200, "hello\n")
        );
        assert_eq!(works.seen(PATH).len(), asked);
    }
    // One that failed comes after the others for a while, so it is not asked each time.
    assert!((1..10).contains(&broken.seen(PATH).len()));
    assert_eq!(server.balance(W1).await, credits(0));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_least_busy_node_is_tried_first() {
    let (one, mut held_by_one) = held_inference().await;
    let (two, mut held_by_two) = held_inference().await;
    let server = TestServer::start(config_with_nodes("openai", &[one.url(), two.url()])).await;
    let caller = server.payer(W1, 4).await;
    let mut held = Vec::new();
    let mut asking = Vec::new();
    for round in 0..4 {
        asking.push(tokio::spawn({
            let caller = caller.clone();
            async move { caller.chat("hi").await.2 }
        }));
        let frames = match round % 2 {
            0 => held_by_one.recv().await,
            _ => held_by_two.recv().await,
        };
        held.push(frames.unwrap());
    }
    for frames in held {
        frames.send_word("x");
        frames.send_done();
    }
    for body in asking {
        assert_eq!(whole(body.await.unwrap()).await.unwrap(), "x\n");
    }
    assert_eq!((one.seen(PATH).len(), two.seen(PATH).len()), (2, 2));
}
