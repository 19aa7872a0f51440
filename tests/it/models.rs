//! Which models clients may name, which server is asked for each, and which endpoints a server has.

use std::sync::{Arc, Mutex};

use r3mes_edge::Config;
use r3mes_edge::config::RatesConfig;
use serde_json::{Value, json};

use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, config_with_inference, config_with_nodes,
    eventually,
};

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

fn list(names: &[&str]) -> Scripted {
    let data: Vec<_> = names.iter().map(|id| json!({ "id": id })).collect();
    Scripted::whole(200, json!({ "object": "list", "data": data }).to_string())
}

fn asked(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] })
}

fn embed(model: &str, inputs: usize) -> Value {
    json!({ "model": model, "input": vec!["text"; inputs] })
}

/// Embeddings, or an answer in which the server names the model it was asked for.
fn answer(seen: &Seen) -> Scripted {
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3 });
    if seen.path == EMBEDDINGS {
        let vector = json!({ "object": "embedding", "index": 0, "embedding": [0.5] });
        let answer = json!({ "object": "list", "data": [vector], "usage": usage });
        return Scripted::whole(200, answer.to_string());
    }
    match body["stream"] == true {
        true => Scripted::words(&[body["model"].as_str().unwrap()]),
        false => Scripted::completion(body["model"].as_str().unwrap()),
    }
}

/// A server with these models, which answers for them alone.
async fn serving(names: &'static [&'static str]) -> Upstream {
    Upstream::start(move |seen| {
        if seen.path == "/v1/models" {
            return list(names);
        }
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        match names.iter().any(|name| body["model"] == *name) {
            true => answer(seen),
            false => Scripted::whole(404, r#"{"error":{"message":"model not found"}}"#),
        }
    })
    .await
}

/// The text of an answer, which names the model.
async fn model_of(caller: &Caller, request: &Value) -> String {
    let answer = caller.post(CHAT, request).await.expect(200);
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn names(caller: &Caller) -> Vec<String> {
    let models = caller.get("/v1/models").await.expect(200);
    let ids = models["data"].as_array().unwrap().iter();
    ids.map(|model| model["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_model_of_a_server_without_adapters_is_reached_by_its_own_name() {
    const NAMES: &[&str] = &[
        "nomic-embed-text",
        "qwen/qwen3:8b",
        "llama3:latest",
        "big:cloud",
    ];
    let upstream = Upstream::start(|seen| {
        if seen.path != "/v1/models" {
            return answer(seen);
        }
        let named = NAMES.iter().map(|id| json!({ "id": id }));
        let data: Vec<_> = [json!({ "object": "model" }), json!(null)]
            .into_iter()
            .chain(named)
            .collect();
        Scripted::whole(200, json!({ "data": data }).to_string())
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    let text = format!(
        "[adapters.\"qwen/qwen3:8b\"]\nprice = 0.25\nkeywords = [\"program\"]\n[[inference]]\nname = \"node\"\nurl = \"{}\"",
        upstream.url()
    );
    config.adapters = Config::read(&text, []).unwrap().adapters;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 20).await;
    assert_eq!(
        names(&caller).await,
        [
            "general",
            "llama3:latest",
            "nomic-embed-text",
            "qwen/qwen3:8b"
        ]
    );
    for path in ["qwen%2Fqwen3:8b", "qwen%2fqwen3%3A8b"] {
        let model = caller.get(&format!("/v1/models/{path}")).await.expect(200);
        assert_eq!(
            (&model["id"], model["price"]["request"].to_string()),
            (&json!("qwen/qwen3:8b"), "0.25".to_owned())
        );
    }
    // The default adapter's chats go to the first model that can chat.
    for (name, expected, adapter) in [
        ("qwen/qwen3:8b", "qwen/qwen3:8b", "qwen/qwen3:8b"),
        ("llama3:latest", "llama3:latest", "llama3:latest"),
        ("llama3", "llama3:latest", "llama3:latest"),
        ("general", "qwen/qwen3:8b", "general"),
    ] {
        assert_eq!(model_of(&caller, &asked(name)).await, expected, "{name}");
        let ledger = caller.get(&format!("/users/{W1}/ledger")).await.expect(200);
        assert_eq!(ledger["entries"][0]["detail"]["adapter"], adapter);
    }
    for (body, expected) in [
        (
            json!({ "message": "hi", "adapter": "llama3" }),
            "llama3:latest\n",
        ),
        (json!({ "message": "a program" }), "qwen/qwen3:8b\n"),
    ] {
        let answer = caller.post("/chat", &body).await;
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    }
    caller
        .post(EMBEDDINGS, &embed("general", 1))
        .await
        .expect(200);
    let seen = upstream.seen(EMBEDDINGS);
    assert!(
        seen[0].body.contains("nomic-embed-text"),
        "{}",
        seen[0].body
    );
    // Two for 0.25, five for 1.
    assert_eq!(server.balance(W1).await.micro(), 14_500_000);

    upstream.forget();
    caller
        .post(CHAT, &asked("nomic-embed-text"))
        .await
        .refused(501, "not_supported");
    for unknown in ["gpt-5", "big:cloud", "qwen"] {
        let refused = caller.post(CHAT, &asked(unknown)).await;
        let refused = refused.refused(404, "model_not_found");
        let known = "known are general, llama3:latest, nomic-embed-text, qwen/qwen3:8b;";
        assert!(
            refused["detail"].as_str().unwrap().contains(known),
            "{refused}"
        );
        let path = format!("/v1/models/{unknown}");
        caller.get(&path).await.refused(404, "model_not_found");
    }
    assert_eq!(upstream.seen("/v1/chat").len(), 0);
    // Whatever is asked for, the list is read at most once a second.
    assert!(upstream.seen("/v1/models").len() <= 1);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_request_goes_to_the_server_that_has_its_model() {
    let one = serving(&["qwen3", "shared"]).await;
    let two = serving(&["nomic-embed-text", "llama3", "shared"]).await;
    let config = config_with_nodes("openai", &[one.url(), two.url()]);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 50).await;
    for _ in 0..4 {
        assert_eq!(model_of(&caller, &asked("llama3")).await, "llama3");
        assert_eq!(model_of(&caller, &asked("qwen3")).await, "qwen3");
        caller
            .post(EMBEDDINGS, &embed("general", 1))
            .await
            .expect(200);
    }
    let models = |upstream: &Upstream| {
        let seen = upstream.seen("/v1/");
        let bodies = seen.iter().filter(|seen| !seen.body.is_empty());
        let model = |seen: &Seen| {
            let body: Value = serde_json::from_str(&seen.body).unwrap();
            body["model"].as_str().unwrap().to_owned()
        };
        let mut models: Vec<_> = bodies.map(model).collect();
        models.sort();
        models.dedup();
        models
    };
    assert_eq!(models(&one), ["qwen3"]);
    assert_eq!(models(&two), ["llama3", "nomic-embed-text"]);
    assert_eq!(model_of(&caller, &asked("shared")).await, "shared");
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["status"], "ok", "{health}");
}

#[tokio::test]
async fn a_model_that_was_added_is_found_and_one_that_is_gone_is_unknown_and_free() {
    let has = Arc::new(Mutex::new("old"));
    let upstream = {
        let has = Arc::clone(&has);
        Upstream::start(move |seen| {
            let has = *has.lock().unwrap();
            match (seen.path.as_str(), seen.body.contains(&format!("{has:?}"))) {
                ("/v1/models", _) => list(&[has]),
                (_, true) => answer(seen),
                (_, false) => Scripted::whole(404, r#"{"error":{"message":"model not found"}}"#),
            }
        })
        .await
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    assert_eq!(model_of(&caller, &asked("old")).await, "old");
    *has.lock().unwrap() = "new";
    let refused = caller.post(CHAT, &asked("old")).await;
    let refused = refused.refused(404, "model_not_found");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("general, new;"),
        "{refused}"
    );
    assert_eq!(model_of(&caller, &asked("new")).await, "new");
    *has.lock().unwrap() = "newer";
    server.clock.advance(std::time::Duration::from_secs(2));
    assert_eq!(model_of(&caller, &asked("newer")).await, "newer");
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(
        (&health["status"], &health["nodes"][0]["failures"]),
        (&json!("ok"), &json!(0))
    );
}

#[tokio::test]
async fn the_models_of_a_key_may_be_those_of_a_server() {
    let upstream = serving(&["qwen3:8b", "llama3"]).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    server.payer(W1, 5).await;
    let key = async |models: Value| {
        let body = json!({ "wallet_address": W1, "scopes": ["chat"], "models": models });
        server.admin().post("/api/keys", &body).await
    };
    key(json!(["qwen3:8b", "gpt-5"]))
        .await
        .refused(400, "invalid_request");
    let made = key(json!(["qwen3:8b"])).await.expect(201);
    let caller = server.with_key(made["api_key"].as_str().unwrap());
    assert_eq!(names(&caller).await, ["qwen3:8b"]);
    assert_eq!(model_of(&caller, &asked("qwen3:8b")).await, "qwen3:8b");
    for other in ["llama3", "general"] {
        let refused = caller.post(CHAT, &asked(other)).await;
        refused.refused(403, "model_not_allowed");
        let path = format!("/v1/models/{other}");
        caller.get(&path).await.refused(403, "model_not_allowed");
    }
    let unknown = caller.post(CHAT, &asked("gpt-5")).await;
    let unknown = unknown.refused(404, "model_not_found");
    assert!(
        unknown["detail"]
            .as_str()
            .unwrap()
            .contains("known are qwen3:8b;"),
        "{unknown}"
    );
}

#[tokio::test]
async fn an_endpoint_that_no_server_has_is_not_supported_free_and_no_failure() {
    for status in [404, 405, 501] {
        let upstream = Upstream::inference(move |seen| match seen.path.as_str() {
            CHAT => answer(seen),
            _ => Scripted::whole(status, "{}"),
        })
        .await;
        let r3mes = Upstream::start(|_| Scripted::whole(200, "hello")).await;
        let mut config = config_with_nodes("openai", &[upstream.url(), r3mes.url()]);
        config.inference[1].kind = r3mes_edge::config::InferenceKind::R3mes;
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 5).await;
        for _ in 0..7 {
            let refused = caller.post(EMBEDDINGS, &embed("general", 1)).await;
            refused.refused(501, "not_supported");
        }
        // It was asked one time, and the node that takes text alone was not.
        assert_eq!(upstream.seen(EMBEDDINGS).len(), 1);
        assert_eq!(r3mes.seen("/").len(), 0);
        let health = server.anybody().get("/health").await.expect(200);
        assert_eq!(health["status"], "ok", "{health}");
        assert_eq!(health["breakers"][0]["state"], "CLOSED");
        assert_eq!(health["nodes"][0]["failures"], 0);
        assert_eq!(health["nodes"][1]["endpoints"], json!(["chat/completions"]));
        assert_eq!(server.balance(W1).await.micro(), 5_000_000);
        // After a while it may serve it.
        server.clock.advance(std::time::Duration::from_secs(600));
        let refused = caller.post(EMBEDDINGS, &embed("general", 1)).await;
        refused.refused(501, "not_supported");
        assert_eq!(upstream.seen(EMBEDDINGS).len(), 2);
    }
}

#[tokio::test]
async fn a_server_without_an_endpoint_is_followed_by_one_that_has_it_and_not_asked_again() {
    let without = Upstream::inference(|_| Scripted::whole(404, "404 page not found")).await;
    let with = Upstream::inference(answer).await;
    let config = config_with_nodes("openai", &[without.url(), with.url()]);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 9).await;
    for _ in 0..5 {
        caller
            .post(EMBEDDINGS, &embed("general", 1))
            .await
            .expect(200);
    }
    assert!(without.seen(EMBEDDINGS).len() <= 1);
    assert_eq!(with.seen(EMBEDDINGS).len(), 5);
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["nodes"][1]["endpoints"], json!(["embeddings"]));
}

#[tokio::test]
async fn the_endpoints_of_a_server_are_probed_at_the_start_and_after_it_was_away() {
    let upstream = Upstream::inference(|seen| {
        let status = match seen.path.as_str() {
            CHAT => 400,
            EMBEDDINGS => 501,
            // It does not find a model without a name.
            "/v1/completions" => 404,
            "/v1/messages" => 405,
            "/v1/rerank" => {
                return Scripted::whole(
                    200,
                    r#"{"error":"Unexpected endpoint or method. (POST /v1/rerank)"}"#,
                );
            }
            _ => 404,
        };
        let body = match seen.path.as_str() {
            "/v1/completions" => r#"{"error":{"message":"model '' not found"}}"#,
            _ => "{}",
        };
        Scripted::whole(status, body)
    })
    .await;
    let dead = Upstream::dead().await;
    let mut config = config_with_inference("openai", &upstream);
    config.discover = true;
    config.chain.rpc = Some(dead.clone());
    config.miner.url = Some(dead);
    let server = TestServer::start(config).await;
    let served = eventually("the endpoints are known", async || {
        let health = server.anybody().get("/health").await.expect(200);
        let endpoints = health["nodes"][0]["endpoints"].clone();
        (endpoints.as_array().unwrap().len() == 2).then_some(endpoints)
    })
    .await;
    assert_eq!(served, json!(["chat/completions", "completions"]));
    for path in [
        "/v1/embeddings",
        "/v1/messages",
        "/v1/rerank",
        "/v1/responses",
    ] {
        assert_eq!(upstream.seen(path).len(), 1, "{path}");
        assert_eq!(upstream.seen(path)[0].body, "{}");
    }
    let caller = server.payer(W1, 5).await;
    let refused = caller.post(EMBEDDINGS, &embed("general", 1)).await;
    refused.refused(501, "not_supported");
    assert_eq!(upstream.seen(EMBEDDINGS).len(), 1);
    // One that comes back at its address may be another.
    let address = upstream.address();
    drop(upstream);
    let gone = caller.post(CHAT, &asked("general")).await;
    assert!(gone.status >= 502, "{}", gone.status);
    let back = eventually("the address is free", async || {
        Upstream::start_at(address, |seen| match seen.path.as_str() {
            "/v1/models" => list(&["tiny"]),
            _ => answer(seen),
        })
        .await
        .ok()
    })
    .await;
    caller
        .post(EMBEDDINGS, &embed("general", 1))
        .await
        .expect(200);
    assert_eq!(back.seen(EMBEDDINGS).len(), 1);
}

#[tokio::test]
async fn embeddings_have_the_price_of_a_prompt_and_a_model_with_none_does_not_serve_them() {
    let upstream = Upstream::inference(answer).await;
    for (price, charged) in [
        ("{ completion = 1.6 }", None),
        ("{ prompt = 0.5, completion = 1.6 }", Some(1)),
        ("{ request = 0.001, completion = 1.6 }", Some(1_000)),
        ("0", Some(0)),
        ("0.002", Some(2_000)),
    ] {
        let text = format!("[chat]\nprice = {price}");
        let mut config = config_with_inference("openai", &upstream);
        config.chat.price = Config::read(&text, []).unwrap().chat.price;
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 1).await;
        upstream.forget();
        let answer = caller.post(EMBEDDINGS, &embed("general", 1)).await;
        match charged {
            Some(micro) => {
                answer.expect(200);
                assert_eq!(
                    server.balance(W1).await.micro(),
                    1_000_000 - micro,
                    "{price}"
                );
            }
            None => {
                let refused = answer.refused(501, "not_supported");
                let detail = refused["detail"].as_str().unwrap();
                assert!(detail.contains("adapters.\"general\".price"), "{detail}");
                assert_eq!(upstream.seen(EMBEDDINGS).len(), 0);
            }
        }
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test]
async fn answers_with_embeddings_take_64_mebibytes_together_at_most() {
    let (upstream, held) = Upstream::inference_held().await;
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].in_flight = Some(100);
    config.rates = RatesConfig::off();
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 50).await;
    // 64 inputs may have 16 MiB of vectors; one input takes a mebibyte.
    let mut asking = Vec::new();
    for inputs in [64, 256, 100, 60] {
        let caller = caller.clone();
        let body = embed("general", inputs);
        asking.push(tokio::spawn(
            async move { caller.post(EMBEDDINGS, &body).await },
        ));
    }
    eventually("all are asked", async || {
        (held.lock().unwrap().len() == 4).then_some(())
    })
    .await;
    let refused = caller.post(EMBEDDINGS, &embed("general", 8)).await;
    assert_ne!(refused.header("retry-after"), "");
    refused.refused(503, "overloaded");
    assert_eq!(upstream.seen(EMBEDDINGS).len(), 4);
    let small = caller.clone();
    asking.push(tokio::spawn(async move {
        small.post(EMBEDDINGS, &embed("general", 1)).await
    }));
    eventually("the small one is asked", async || {
        (held.lock().unwrap().len() == 5).then_some(())
    })
    .await;
    for frames in held.lock().unwrap().drain(..) {
        frames.send(r#"{"object":"list","data":[{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":1,"total_tokens":1}}"#);
    }
    for asking in asking {
        asking.await.unwrap().expect(200);
    }
    // Their memory is free again.
    let again = tokio::spawn(async move { caller.post(EMBEDDINGS, &embed("general", 256)).await });
    eventually("it is asked", async || {
        (held.lock().unwrap().len() == 1).then_some(())
    })
    .await;
    drop(held.lock().unwrap().pop());
    again.await.unwrap().refused(502, "upstream_bad_response");
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_vector_that_is_larger_than_its_share_of_memory_is_an_unreadable_answer() {
    let upstream = Upstream::inference(|_| Scripted::whole(200, vec![b' '; (1 << 20) + 1])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let answer = caller.post(EMBEDDINGS, &embed("general", 1)).await;
    answer.refused(502, "upstream_bad_response");
    assert_eq!(server.balance(W1).await.micro(), 1_000_000);
}
