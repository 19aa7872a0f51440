//! Inference servers: their order, their queue, how long they are waited for, and what the operator sees of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::chat::{held_inference, whole};
use crate::ops::metrics::metric;
use crate::support::{
    Caller, Frames, Loading, Process, RawAnswer, RawUpstream, Scripted, TestServer, Then, Upstream,
    W1, W2, config_with_inference, config_with_nodes, eventually, next_text,
};

/// An answer whose frames the test sends, and the message that it is for.
type Held = (String, Frames);

/// A server whose chats are held, with the message of each.
async fn held_with_messages() -> (Upstream, mpsc::UnboundedReceiver<Held>) {
    let (sender, held) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |seen| {
        let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        let message = body["messages"][0]["content"].as_str().unwrap_or_default();
        let (scripted, frames) = Scripted::held();
        sender.send((message.to_owned(), frames)).unwrap();
        scripted
    })
    .await;
    (upstream, held)
}

fn address(number: u8) -> String {
    let prefix = bech32::Hrp::parse("remes").unwrap();
    bech32::encode::<bech32::Bech32>(prefix, &[number; 20]).unwrap()
}

async fn health(server: &TestServer) -> Value {
    let health = server.anybody().get("/health").await.expect(200);
    health["nodes"][0].clone()
}

/// Waits until so many requests are in a slot and in the queue.
async fn queued(server: &TestServer, in_flight: usize, waiting: usize) {
    eventually("the requests are queued", async || {
        let node = health(server).await;
        let both = (&node["in_flight"], &node["waiting"]);
        (both == (&json!(in_flight), &json!(waiting))).then_some(())
    })
    .await;
}

/// In virtual time: each end of an answer is a step, so that a wait of n steps takes n × mean service time ÷ slots.
#[tokio::test(flavor = "multi_thread")]
async fn seven_wallets_wait_at_most_one_and_a_half_rounds_beside_one_that_sends_fifty_at_once() {
    const SLOTS: usize = 4;
    const CLIENTS: usize = 64;
    const STEPS: usize = 400;
    let (upstream, mut held) = held_with_messages().await;
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].model = "tiny".to_owned();
    config.inference[0].in_flight = Some(SLOTS);
    config.chat.queue = CLIENTS;
    let server = TestServer::start(config).await;
    let mut wallets = Vec::new();
    for number in 0..8 {
        wallets.push(server.payer(&address(number), 1_000).await);
    }
    // The first wallet has fifty clients, which are there first, each of the others two.
    let of_client = |client: usize| {
        if client < 50 {
            0
        } else {
            (client - 50) % 7 + 1
        }
    };
    let ask = |client: usize| -> JoinHandle<()> {
        let caller: Caller = wallets[of_client(client)].clone();
        tokio::spawn(async move {
            let (status, _, body) = caller.chat(&client.to_string()).await;
            assert_eq!(status, 200);
            whole(body).await.unwrap();
        })
    };
    let mut asking: HashMap<usize, JoinHandle<()>> = HashMap::new();
    let mut queued_at: HashMap<usize, usize> = HashMap::new();
    for client in 0..CLIENTS {
        asking.insert(client, ask(client));
        queued_at.insert(client, 0);
        let in_flight = SLOTS.min(client + 1);
        queued(&server, in_flight, client + 1 - in_flight).await;
    }
    let mut waits: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut in_service = std::collections::VecDeque::new();
    for step in 0..STEPS {
        while in_service.len() < SLOTS {
            let (client, frames) = held.recv().await.unwrap();
            let client: usize = client.parse().unwrap();
            let wait = step - queued_at[&client];
            waits.entry(of_client(client)).or_default().push(wait);
            in_service.push_back((client, frames));
        }
        let (client, frames) = in_service.pop_front().unwrap();
        frames.send_word("text");
        frames.send_done();
        asking.remove(&client).unwrap().await.unwrap();
        asking.insert(client, ask(client));
        queued_at.insert(client, step + 1);
        queued(&server, SLOTS, CLIENTS - SLOTS).await;
    }
    for (wallet, waits) in &mut waits {
        waits.sort_unstable();
        let p95 = waits[(waits.len() * 95).div_ceil(100) - 1];
        println!("wallet {wallet}: {} answers, p95 {p95} steps", waits.len());
        if *wallet == 0 {
            // It is not shut out.
            assert!(waits.len() >= STEPS / 16 - 2, "{waits:?}");
        } else {
            assert!(waits.len() >= STEPS / 8 - 2, "{waits:?}");
            assert!(p95 * 2 <= 3 * 8, "{waits:?}");
        }
    }
    for (_, asking) in asking {
        asking.abort();
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back_from_the_rate_at_which_it_empties() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].in_flight = Some(1);
    config.chat.queue = 1;
    let server = TestServer::start(config).await;
    let (caller, other) = (server.payer(W1, 9).await, server.payer(W2, 9).await);
    let chat = |caller: &Caller| {
        let caller = caller.clone();
        tokio::spawn(async move { whole(caller.chat("hi").await.2).await.unwrap() })
    };
    let first = chat(&caller);
    let frames = held.recv().await.unwrap();
    server.clock.advance(Duration::from_secs(20));
    frames.send_word("text");
    frames.send_done();
    first.await.unwrap();
    queued(&server, 0, 0).await;
    let second = chat(&caller);
    let frames = held.recv().await.unwrap();
    let third = chat(&caller);
    queued(&server, 1, 1).await;
    for caller in [&caller, &other] {
        let refused = caller.post("/chat", &json!({ "message": "hi" })).await;
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        // One waits, and this would be the second: 2 × 20 s.
        assert!((40..=42).contains(&wait), "{wait}");
        refused.refused(503, "overloaded");
    }
    let node = [("upstream", "node")];
    assert_eq!(metric(&server, "r3mes_upstream_waiting", &node).await, 1.0);
    assert_eq!(
        metric(&server, "r3mes_upstream_in_flight", &node).await,
        1.0
    );
    assert_eq!(metric(&server, "r3mes_upstream_slots", &node).await, 1.0);
    let waited = metric(&server, "r3mes_upstream_queue_seconds_count", &node).await;
    assert!(waited >= 2.0, "{waited}");
    frames.send_word("text");
    frames.send_done();
    second.await.unwrap();
    let frames = held.recv().await.unwrap();
    frames.send_word("text");
    frames.send_done();
    third.await.unwrap();
    assert_eq!(health(&server).await["failures"], 0);
    server.assert_ledger_adds_up().await;
}

/// A server whose answers begin when the test lets them.
async fn loading() -> (Upstream, mpsc::UnboundedReceiver<Loading>) {
    let (sender, loads) = mpsc::unbounded_channel();
    let upstream = Upstream::inference(move |_| {
        let (scripted, loading) = Scripted::loading();
        sender.send(loading).unwrap();
        scripted
    })
    .await;
    (upstream, loads)
}

#[tokio::test]
async fn a_model_may_load_for_longer_than_its_first_text_may_take() {
    let (upstream, mut loads) = loading().await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.first_text_timeout = Duration::from_millis(20);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    let mut asking = tokio::spawn(async move { caller.chat("hi").await });
    let loaded = loads.recv().await.unwrap();
    let early = timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "it did not wait for the head");
    let frames = loaded.finish();
    frames.send_word("text");
    frames.send_done();
    let (status, _, body) = asking.await.unwrap();
    assert_eq!(
        (status, whole(body).await.unwrap().as_str()),
        (200, "text\n")
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_head_timeout() {
    let (upstream, mut loads) = loading().await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.head_timeout = Duration::from_millis(50);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    let answer = caller.post("/chat", &json!({ "message": "hi" })).await;
    answer.refused(504, "upstream_timeout");
    // The load goes on: the next request finds the model.
    assert_eq!(upstream.under_way(), 1);
    let frames = loads.recv().await.unwrap().finish();
    frames.reader_left().await;
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_model_loads_does_not_stop_the_load_and_is_not_served_after_it()
 {
    let (upstream, mut loads) = loading().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let (caller, other) = (server.payer(W1, 3).await, server.payer(W2, 3).await);
    let asking = tokio::spawn(async move { caller.chat("hi").await });
    let first = loads.recv().await.unwrap();
    asking.abort();
    eventually("its slot is free", async || {
        (health(&server).await["in_flight"] == 0).then_some(())
    })
    .await;
    eventually("its hold is released", async || {
        (server.store.gauges().holds == 0).then_some(())
    })
    .await;
    assert_eq!(upstream.under_way(), 1, "the load was cancelled");
    // Only one request is kept for that: a second that leaves is cancelled.
    let asking = {
        let other = other.clone();
        tokio::spawn(async move { other.chat("hi").await })
    };
    let second = loads.recv().await.unwrap();
    asking.abort();
    eventually("the second is cancelled", async || {
        (upstream.under_way() == 1).then_some(())
    })
    .await;
    drop(second);
    first.finish().reader_left().await;
    // The model is there now, so one that leaves is cancelled at once.
    let asking = tokio::spawn(async move { other.chat("hi").await });
    let third = loads.recv().await.unwrap();
    asking.abort();
    eventually("it is cancelled", async || {
        (upstream.under_way() == 0).then_some(())
    })
    .await;
    drop(third);
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    assert_eq!(server.balance(W2).await.micro(), 3_000_000);
}

#[tokio::test]
async fn whatever_a_server_sends_renews_the_wait_for_a_text_up_to_answer_timeout() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.first_text_timeout = Duration::from_secs(1);
    config.chat.idle_timeout = Duration::from_secs(1);
    config.chat.answer_timeout = Duration::from_secs(3);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    let mut asking = tokio::spawn(async move { caller.chat("hi").await });
    let frames = held.recv().await.unwrap();
    let pause = Duration::from_millis(100);
    // Longer than a silent server is waited for.
    for _ in 0..13 {
        frames.send(": keep-alive\n\n");
        assert!(timeout(pause, &mut asking).await.is_err());
    }
    frames.send_word("text");
    let (status, _, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "text");
    let reasoning = json!({ "choices": [{ "delta": { "reasoning": "hm" } }] });
    let started = std::time::Instant::now();
    let end = loop {
        frames.send(format!("data: {reasoning}\n\n"));
        match timeout(pause, next_text(&mut body)).await {
            Err(_) => assert!(started.elapsed() < Duration::from_secs(20)),
            Ok(end) => break end,
        }
    };
    assert!(end.unwrap().is_err(), "it ended as if it were whole");
    assert!(started.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn a_server_that_fails_at_once_does_not_get_the_traffic_of_a_busy_one_that_is_well() {
    let (good, mut held) = held_inference().await;
    let bad = Upstream::inference(|_| Scripted::whole(401, "{}")).await;
    let mut config = config_with_nodes("openai", &[good.url(), bad.url()]);
    config.chat.in_flight = 1;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 30).await;
    let chat = || {
        let caller = caller.clone();
        tokio::spawn(async move {
            let (status, _, body) = caller.chat("hi").await;
            (status, whole(body).await.unwrap())
        })
    };
    let chats: Vec<_> = (0..6).map(|_| chat()).collect();
    for _ in 0..6 {
        let frames = held.recv().await.unwrap();
        frames.send_word("text");
        frames.send_done();
    }
    for chat in chats {
        assert_eq!(chat.await.unwrap(), (200, "text\n".to_owned()));
    }
    assert!(bad.seen("/v1/chat").len() < 6);
    let health = server.anybody().get("/health").await.expect(200);
    let bad = &health["nodes"][1];
    let failure = json!({ "cause": "credentials", "status": 401 });
    assert_eq!(
        (&bad["name"], &bad["last_failure"]),
        (&json!("node-1"), &failure)
    );
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["breakers"][1]["state"], "CLOSED");
    let labels = [("upstream", "node-1"), ("cause", "credentials")];
    assert!(metric(&server, "r3mes_upstream_failures_total", &labels).await >= 1.0);
    assert_eq!(server.balance(W1).await.micro(), 24_000_000);
}

#[tokio::test]
async fn the_number_of_slots_is_what_llama_cpp_says_unless_it_is_configured() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nServer: llama.cpp";
    for configured in [None, Some(3)] {
        let upstream = RawUpstream::start(|request| {
            if request.is("GET /props") {
                let page = r#"{"total_slots":2}"#;
                return RawAnswer::chunked(HEAD, &[page], Then::Keep);
            }
            let word = "data: {\"choices\":[{\"delta\":{\"content\":\"text\"}}]}\n\n";
            let finish = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
            RawAnswer::chunked(HEAD, &[word, finish, "data: [DONE]\n\n"], Then::Keep)
        })
        .await;
        let mut config = config_with_nodes("openai", &[upstream.url()]);
        config.inference[0].model = "tiny".to_owned();
        config.inference[0].in_flight = configured;
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 3).await;
        assert_eq!(health(&server).await["slots"], configured.unwrap_or(4));
        caller.post("/chat", &json!({ "message": "hi" })).await;
        let slots = configured.unwrap_or(2);
        eventually("its slots are known", async || {
            (health(&server).await["slots"] == slots).then_some(())
        })
        .await;
        let asked = upstream.seen("GET /props").len();
        assert_eq!(asked, usize::from(configured.is_none()));
        let chats = upstream.seen("POST /v1/chat/completions");
        let head = chats[0].head.to_lowercase();
        assert!(head.contains("\r\naccept-encoding: identity\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_refusal_of_stream_options_is_remembered() {
    let upstream = Upstream::inference(|seen| match seen.body.contains("stream_options") {
        true => Scripted::whole(
            422,
            r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
        ),
        false => Scripted::words(&["text"]),
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 9).await;
    for _ in 0..3 {
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!(
            (status, whole(body).await.unwrap().as_str()),
            (200, "text\n")
        );
    }
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let options = json!({ "include_usage": true });
    let body = json!({ "stream": true, "stream_options": options, "messages": messages });
    let path = "/v1/chat/completions";
    let (status, _, _) = caller.open(Method::POST, path, &[], body.to_string()).await;
    assert_eq!(status, 200);
    assert_eq!(upstream.seen(path).len(), 5);
}

#[tokio::test]
async fn the_words_of_a_refusal_are_in_the_log_without_the_key_and_not_in_the_answer() {
    let upstream = Upstream::inference(|_| {
        let message = "Incorrect API key provided: tok-123456, and\nthe reason in words";
        Scripted::whole(400, json!({ "error": { "message": message } }).to_string())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("node.key");
    std::fs::write(&key_file, "tok-123456\n").unwrap();
    let config = format!(
        "[[inference]]\nname = \"node\"\nurl = \"{}\"\napi_key_file = \"{}\"",
        upstream.url(),
        key_file.display()
    );
    let server = Process::serve(&folder.path().join("edge.db"), &config);
    let admin = server.admin();
    server.grant(W1, 1).await;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "messages": messages }).to_string();
    let payer = [("x-wallet-address", W1)];
    let path = "/v1/chat/completions";
    let answer = admin.send(Method::POST, path, &payer, body).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    answer.refused(400, "invalid_request");
    assert!(!text.contains("reason in words"), "{text}");
    let lines = eventually("the words are logged", async || {
        let lines = server.log().into_iter();
        let lines: Vec<_> = lines
            .filter(|line| line.contains("reason in words"))
            .collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert!(lines[0].contains("status 400"), "{lines:?}");
    assert!(lines[0].contains("[redacted], and the reason"), "{lines:?}");
    assert!(!server.log().join("\n").contains("tok-123456"));
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn an_error_for_a_context_that_is_too_long_has_its_length() {
    let bodies = Arc::new(Mutex::new(
        r#"{"error":{"code":400,"message":"request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9001,"n_ctx":8192}}"#,
    ));
    let upstream = {
        let bodies = Arc::clone(&bodies);
        Upstream::inference(move |_| Scripted::whole(400, *bodies.lock().unwrap())).await
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "messages": messages, "temperature": 2 });
    let path = "/v1/chat/completions";
    let refused = caller.post(path, &body).await;
    let refused = refused.refused(400, "context_length_exceeded");
    let detail = "This model's maximum context length is 8192 tokens; shorten the messages or lower max_tokens";
    assert_eq!(refused["error"]["message"], detail);
    assert_eq!(refused["error"]["type"], "invalid_request_error");
    // The member that a server names is named where the request has it.
    for (param, expected) in [
        ("temperature", json!("temperature")),
        ("secret", json!(null)),
    ] {
        let text = json!({ "error": { "message": "Input should be a number", "param": param } });
        *bodies.lock().unwrap() = text.to_string().leak();
        let refused = caller.post(path, &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["error"]["param"], expected, "{refused}");
    }
    assert_eq!(server.balance(W1).await.micro(), 1_000_000);
}
