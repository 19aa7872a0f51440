//! What one client's requests to the endpoints must not do to another, to the log, or to what is charged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::api_answers::{priced, request};
use crate::support::{
    Caller, Process, Scripted, Seen, TestServer, Upstream, W1, config_with_inference,
    config_with_nodes, eventually, fixture,
};

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

fn list(names: &[&str]) -> Scripted {
    let data: Vec<_> = names.iter().map(|id| json!({ "id": id })).collect();
    Scripted::whole(200, json!({ "object": "list", "data": data }).to_string())
}

fn embed(model: &str) -> Value {
    json!({ "model": model, "input": "text" })
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] })
}

fn embedding() -> Scripted {
    let vector = json!({ "object": "embedding", "index": 0, "embedding": [0.5] });
    let usage = json!({ "prompt_tokens": 2, "total_tokens": 2 });
    let answer = json!({ "object": "list", "data": [vector], "usage": usage });
    Scripted::whole(200, answer.to_string())
}

fn model_of(seen: &Seen) -> String {
    let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
    body["model"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_server_serves_is_not_in_the_usual_log() {
    let upstream = Upstream::inference(|seen| match seen.path.as_str() {
        CHAT => Scripted::completion("hi"),
        _ => Scripted::whole(501, "{}"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[[inference]]\nname = \"node\"\nurl = \"{}\"",
        upstream.url()
    );
    let server = Process::serve(&folder.path().join("edge.db"), &config);
    let admin = server.admin();
    server.grant(W1, 1).await;
    let payer = [("x-wallet-address", W1)];
    for api in ["embeddings", "rerank", "messages", "responses"] {
        for _ in 0..5 {
            let (body, _) = request(api, "hi", false);
            let path = format!("/v1/{api}");
            let answer = admin.send(Method::POST, &path, &payer, body.to_string());
            assert_eq!(answer.await.status, 501, "{api}");
        }
    }
    let chat = chat("general").to_string();
    let answer = admin.send(Method::POST, CHAT, &payer, chat);
    answer.await.expect(200);
    let log = eventually("a request that is served is", async || {
        let log = server.log();
        let line = format!(" POST {CHAT} 200 ");
        log.iter().any(|of| of.contains(&line)).then_some(log)
    })
    .await;
    let is_refusal = |line: &String| line.contains(" 501 ") || line.contains("not_supported");
    let lines: Vec<_> = log.into_iter().filter(is_refusal).collect();
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn an_endpoint_that_is_refused_for_one_model_of_a_server_is_served_for_its_others() {
    // As llama-swap passes on the answer of a llama.cpp without `--embedding`.
    let upstream = Upstream::start(|seen| match (&*seen.path, &*model_of(seen)) {
        ("/v1/models", _) => list(&["llama3", "vectors"]),
        (EMBEDDINGS, "vectors") => embedding(),
        (EMBEDDINGS, _) | (CHAT, "vectors") => Scripted::whole(501, "{}"),
        _ => Scripted::completion("hi"),
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 50).await;
    for _ in 0..3 {
        let refused = caller.post(EMBEDDINGS, &embed("llama3")).await;
        refused.refused(501, "not_supported");
        caller.post(EMBEDDINGS, &embed("vectors")).await.expect(200);
        let refused = caller.post(CHAT, &chat("vectors")).await;
        refused.refused(501, "not_supported");
        caller.post(CHAT, &chat("llama3")).await.expect(200);
    }
    let asked = |path: &str, model: &str| {
        let seen = upstream.seen(path).into_iter();
        seen.filter(|seen| model_of(seen) == model).count()
    };
    let refused = || [asked(EMBEDDINGS, "llama3"), asked(CHAT, "vectors")];
    assert_eq!(refused(), [1, 1], "it was asked one time");
    assert_eq!(asked(EMBEDDINGS, "vectors"), 3);
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(
        health["nodes"][0]["endpoints"],
        json!(["chat/completions", "embeddings"])
    );
    assert_eq!(health["nodes"][0]["failures"], 0);
    server.clock.advance(Duration::from_secs(600));
    let again = caller.post(EMBEDDINGS, &embed("llama3")).await;
    again.refused(501, "not_supported");
    assert_eq!(refused(), [2, 1]);
    assert_eq!(server.balance(W1).await.micro(), 44_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_repeated_answer_that_is_a_list_has_the_cost_and_the_bytes_of_the_first() {
    let upstream =
        Upstream::inference(|_| Scripted::whole(200, fixture("rerank/answer.sglang.json"))).await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    let (body, _) = request("rerank", "which", false);
    let post = async || {
        let once = [("idempotency-key", "once")];
        let answer = caller.send(Method::POST, "/v1/rerank", &once, body.to_string());
        answer.await
    };
    let (first, again) = (post().await, post().await);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.body, again.body);
    assert!(first.body.starts_with(b"[{"), "{:?}", first.body);
    let charged = Credits::from_micro(5_000_000 - server.balance(W1).await.micro()).to_string();
    for answer in [first, again] {
        assert_eq!(answer.header("x-credits-charged"), charged);
    }
    assert_eq!(upstream.seen("/v1/rerank").len(), 1);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_server_that_could_not_count_is_asked_again_after_a_while() {
    const COUNT: &str = "/v1/messages/count_tokens";
    let counts = Arc::new(Mutex::new(false));
    let upstream = {
        let counts = Arc::clone(&counts);
        Upstream::inference(move |_| match *counts.lock().unwrap() {
            true => Scripted::whole(200, r#"{"input_tokens":7}"#),
            false => Scripted::whole(404, "no"),
        })
        .await
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.caller(W1, &["chat"]).await;
    let counted = async || {
        let answer = caller.post(COUNT, &chat("general")).await.expect(200);
        answer["input_tokens"].as_i64().unwrap()
    };
    let estimate = counted().await;
    assert_ne!(estimate, 7);
    *counts.lock().unwrap() = true;
    assert_eq!(counted().await, estimate);
    assert_eq!(upstream.seen(COUNT).len(), 1, "it is asked one time");
    server.clock.advance(Duration::from_secs(600));
    assert_eq!(counted().await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_a_key_bound_each_endpoint() {
    let (upstream, held) = Upstream::inference_held().await;
    let server = TestServer::start(priced(&upstream)).await;
    server.payer(W1, 5).await;
    let key = async |limits: Value| {
        let mut body = json!({ "wallet_address": W1, "scopes": ["chat"] });
        for (name, value) in limits.as_object().unwrap() {
            body[name] = value.clone();
        }
        let made = server.admin().post("/api/keys", &body).await.expect(201);
        server.with_key(made["api_key"].as_str().unwrap())
    };
    let status = async |caller: &Caller, api: &str| {
        let (body, _) = request(api, "hi", false);
        let path = format!("/v1/{api}");
        let (status, ..) = caller
            .open(Method::POST, &path, &[], body.to_string())
            .await;
        status
    };
    let small = key(json!({ "credit_limit": 0.001, "credit_period": "day" })).await;
    let other = key(json!({ "models": ["tiny"] })).await;
    let one = key(json!({ "max_concurrency": 1 })).await;
    for api in [
        "completions",
        "embeddings",
        "messages",
        "rerank",
        "responses",
    ] {
        assert_eq!(status(&small, api).await, 402, "{api}");
        assert_eq!(status(&other, api).await, 403, "{api}");
        let asking = {
            let (one, (body, _)) = (one.clone(), request(api, "hi", false));
            tokio::spawn(async move { one.post(&format!("/v1/{api}"), &body).await })
        };
        eventually("it is asked", async || {
            (!held.lock().unwrap().is_empty()).then_some(())
        })
        .await;
        assert_eq!(status(&one, api).await, 429, "{api}");
        held.lock().unwrap().clear();
        // An empty answer is none.
        assert_eq!(asking.await.unwrap().status, 502, "{api}");
    }
    assert_eq!(server.balance(W1).await.micro(), 5_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_long_list_of_a_server_is_read_in_part_and_a_too_long_one_not_at_all() {
    let entries = Arc::new(Mutex::new(10_000));
    let upstream = {
        let entries = Arc::clone(&entries);
        Upstream::start(move |seen| {
            if seen.path != "/v1/models" {
                return Scripted::completion("hi");
            }
            let name = |at| json!({ "id": format!("model-{:03}", at / 2) });
            let mut data: Vec<_> = (0..*entries.lock().unwrap()).map(name).collect();
            data.extend([json!({ "id": "" }), json!({ "id": 7 }), json!(null)]);
            Scripted::whole(200, json!({ "data": data }).to_string())
        })
        .await
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    let models = caller.get("/v1/models").await.expect(200);
    // And the default adapter.
    assert_eq!(models["data"].as_array().unwrap().len(), 257);
    caller.post(CHAT, &chat("model-255")).await.expect(200);
    let unknown = caller.post(CHAT, &chat("model-256")).await;
    let unknown = unknown.refused(404, "model_not_found");
    let detail = unknown["detail"].as_str().unwrap();
    assert_eq!(detail.matches("model-").count(), 19, "{detail}");
    *entries.lock().unwrap() = 400_000;
    server.clock.advance(Duration::from_secs(20));
    // What was known before is.
    let models = caller.get("/v1/models").await.expect(200);
    assert_eq!(models["data"].as_array().unwrap().len(), 257);
    caller.post(CHAT, &chat("model-000")).await.expect(200);
}

#[tokio::test]
async fn a_model_is_found_by_each_spelling_of_its_path() {
    let upstream = Upstream::start(|seen| match &*seen.path {
        "/v1/models" => list(&["Qwen/Qwen3 8B", "llama3:latest"]),
        _ => Scripted::completion("hi"),
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    for path in [
        "Qwen%2FQwen3%208B",
        "Qwen%2fQwen3%208B",
        "Qwen/Qwen3%208B",
        "llama3",
        "llama3:latest",
        "llama3%3Alatest",
    ] {
        caller.get(&format!("/v1/models/{path}")).await.expect(200);
    }
    for path in [
        "qwen%2FQwen3%208B",
        "Qwen%2",
        "Qwen%zz",
        "%FF",
        "LLAMA3",
        "llama3:",
        "Qwen%252FQwen3%208B",
        "Qwen/Qwen3%208B/",
        "Qwen//Qwen3%208B",
    ] {
        let refused = caller.get(&format!("/v1/models/{path}")).await;
        let refused = refused.refused(404, "model_not_found");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("Qwen/Qwen3 8B, general"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_take_memory_until_their_client_has_read_them() {
    // A vector of the size that 64 inputs may have.
    let vector = "A".repeat((16 << 20) - 200);
    let upstream = Upstream::inference(move |seen| {
        let vector = match seen.body.contains("\"text\",\"text\"") {
            true => vector.as_str(),
            false => "AAAA",
        };
        let usage = r#""usage":{"prompt_tokens":1,"total_tokens":1}"#;
        let data = format!(r#"{{"data":[{{"index":0,"embedding":"{vector}"}}],{usage}}}"#);
        Scripted::whole(200, data)
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].in_flight = Some(100);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 50).await;
    let large = json!({ "input": vec!["text"; 64] }).to_string();
    let mut unread = Vec::new();
    for _ in 0..4 {
        let (status, _, body) = caller
            .open(Method::POST, EMBEDDINGS, &[], large.clone())
            .await;
        assert_eq!(status, 200);
        unread.push(body);
    }
    // All are answered and paid, but not read.
    assert_eq!(server.balance(W1).await.micro(), 46_000_000);
    for _ in 0..50 {
        let refused = caller.post(EMBEDDINGS, &embed("general")).await;
        refused.refused(503, "overloaded");
    }
    let body = unread.pop().unwrap().collect().await.unwrap();
    assert!(body.to_bytes().ends_with(b"}\n"));
    eventually("the memory of the one that was read is free", async || {
        let answer = caller.post(EMBEDDINGS, &embed("general")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_refused_with_status_200_is_not_supported_free_and_no_failure() {
    // As LM Studio does.
    let upstream = Upstream::inference(|seen| match &*seen.path {
        CHAT => Scripted::completion("hi"),
        path => {
            let error =
                format!("Unexpected endpoint or method. (POST {path}). Returning 200 anyway");
            Scripted::whole(200, json!({ "error": error }).to_string())
        }
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for (api, is_stream) in [
        ("rerank", false),
        ("embeddings", false),
        ("completions", true),
        ("messages", true),
        ("responses", true),
    ] {
        let path = format!("/v1/{api}");
        let (body, _) = request(api, "hi", is_stream);
        for _ in 0..7 {
            assert_eq!(caller.post(&path, &body).await.status, 501, "{api}");
        }
        assert_eq!(upstream.seen(&path).len(), 1, "{api}");
    }
    caller.post(CHAT, &chat("general")).await.expect(200);
    let health = server.anybody().get("/health").await.expect(200);
    let node = &health["nodes"][0];
    assert_eq!(node["endpoints"], json!(["chat/completions"]));
    assert_eq!(
        (&node["failures"], &health["status"]),
        (&json!(0), &json!("ok"))
    );
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_last_event_of_a_response_may_be_as_long_as_a_whole_answer() {
    let text = "word ".repeat(600_000);
    let upstream = Upstream::inference(move |_| {
        let delta = json!({ "type": "response.output_text.delta", "delta": "word " });
        let content = json!([{ "type": "output_text", "text": text }]);
        let output = json!([{ "type": "message", "content": content }]);
        let usage = json!({ "input_tokens": 10, "output_tokens": 5 });
        let response = json!({ "object": "response", "status": "completed", "output": output, "usage": usage });
        let last = json!({ "type": "response.completed", "response": response });
        Scripted::whole(200, format!("data: {delta}\n\ndata: {last}\n\n"))
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    let (body, _) = request("responses", "hi", true);
    let body = body.to_string();
    let (status, _, answer) = caller.open(Method::POST, "/v1/responses", &[], body).await;
    assert_eq!(status, 200);
    let read = answer.collect().await.unwrap().to_bytes();
    assert!(read.len() > 3_000_000, "{}", read.len());
    let read = String::from_utf8_lossy(&read);
    assert!(read.contains("\"cost\":") && !read.contains("event: error"));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn what_a_server_that_is_paused_may_serve_is_unavailable_and_not_unsupported() {
    let paused = Upstream::inference(|_| Scripted::whole(429, "{}")).await;
    let without = Upstream::inference(|seen| match &*seen.path {
        CHAT => Scripted::completion("hi"),
        _ => Scripted::whole(404, "404 page not found"),
    })
    .await;
    let config = config_with_nodes("openai", &[paused.url(), without.url()]);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 5).await;
    while paused.seen(CHAT).is_empty() {
        caller.post(CHAT, &chat("general")).await.expect(200);
    }
    let before = server.balance(W1).await;
    for _ in 0..2 {
        let refused = caller.post(EMBEDDINGS, &embed("general")).await;
        refused.refused(503, "overloaded");
    }
    assert_eq!(without.seen(EMBEDDINGS).len(), 1);
    assert_eq!(paused.seen(EMBEDDINGS).len(), 0);
    assert_eq!(server.balance(W1).await, before);
}
