use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::Method;
use r3mes_edge::model::Credits;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{
    Frames, Scripted, Seen, TestServer, Upstream, W1, W2, config, config_with_inference, fixture,
    next_text, wallet,
};

const ONE: Credits = Credits::from_micro(1_000_000);

fn credits(whole: i64) -> Credits {
    Credits::from_micro(whole * ONE.micro())
}

/// An inference server whose every answer is handed to the test, frame by frame.
pub(crate) async fn held_inference() -> (Upstream, mpsc::UnboundedReceiver<Frames>) {
    let (sender, held) = mpsc::unbounded_channel();
    let upstream = Upstream::inference(move |_| {
        let (scripted, frames) = Scripted::held();
        sender.send(frames).unwrap();
        scripted
    })
    .await;
    (upstream, held)
}

/// The text of a whole chat.
pub(crate) async fn whole(mut body: hyper::body::Incoming) -> Result<String, hyper::Error> {
    let mut text = String::new();
    while let Some(piece) = next_text(&mut body).await {
        text += &piece?;
    }
    Ok(text)
}

#[tokio::test]
async fn a_word_is_at_the_client_before_the_next_has_left_the_upstream_and_the_chat_costs_one_credit()
 {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one ");
    let (status, headers, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    for word in ["one ", "two ", "thr\u{e9}e \u{2600}"] {
        assert_eq!(next_text(&mut body).await.unwrap().unwrap(), word);
        match word {
            "one " => frames.send_word("two "),
            "two " => frames.send_word("thr\u{e9}e \u{2600}"),
            _ => {}
        }
    }
    frames.send_done();
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "\n");
    assert!(next_text(&mut body).await.is_none());
    assert_eq!(server.balance(W1).await, credits(2));
    server.assert_ledger_adds_up().await;

    let asked: Value =
        serde_json::from_str(&upstream.seen("/v1/chat/completions")[0].body).unwrap();
    assert_eq!(
        asked,
        json!({"model":"tiny","messages":[{"role":"user","content":"hello"}],"stream":true,"stream_options":{"include_usage":true}})
    );
}

#[tokio::test]
async fn real_streams_are_read_and_those_that_break_off_are_cut_for_the_client_too() {
    let scripts = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let scripts = Arc::clone(&scripts);
        Upstream::inference(move |_| scripts.lock().unwrap().pop().unwrap()).await
    };
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 10).await;
    for (name, text) in [
        ("openai-stream.sse", "Hello, w\u{f6}rld \u{2600}\n"),
        ("openai-stream-crlf-comments.sse", "two\nlines\n"),
    ] {
        scripts
            .lock()
            .unwrap()
            .push(Scripted::whole(200, fixture(name)));
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!(
            (status, whole(body).await.unwrap().as_str()),
            (200, text),
            "{name}"
        );
    }
    let cut = [
        Scripted::whole(200, fixture("openai-stream-cut.sse")),
        Scripted::whole(200, fixture("openai-stream-error-inside.sse")),
    ];
    for script in cut {
        scripts.lock().unwrap().push(script);
        let (status, _, body) = caller.chat("hi").await;
        assert_eq!(status, 200);
        assert!(
            whole(body).await.is_err(),
            "a broken answer ended as if it were whole"
        );
    }
    // Each gave text, so each is paid.
    assert_eq!(server.balance(W1).await, credits(6));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_upstream_whose_connection_breaks_cuts_the_answer_and_the_chat_is_paid() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("only the beg");
    let (_, _, mut body) = asking.await.unwrap();
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "only the beg");
    frames.cut();
    assert!(next_text(&mut body).await.unwrap().is_err());
    assert_eq!(server.balance(W1).await, credits(2));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_r3mes_node_receives_requests_in_its_own_format() {
    let upstream = Upstream::start(|_| Scripted::whole(200, "plain words")).await;
    let mut config = config_with_inference("r3mes", &upstream);
    config.inference[0].adapters = vec!["general".to_owned(), "coding".to_owned()];
    config
        .adapters
        .entry("coding".to_owned())
        .or_default()
        .keywords = vec!["function".to_owned()];
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    for message in ["hello", "write a Function"] {
        let (status, _, body) = caller.chat(message).await;
        assert_eq!(
            (status, whole(body).await.unwrap().as_str()),
            (200, "plain words\n")
        );
    }
    let bodies: Vec<Value> = upstream
        .seen("/chat")
        .iter()
        .map(|seen| serde_json::from_str(&seen.body).unwrap())
        .collect();
    assert_eq!(bodies[0], json!({"message":"hello"}));
    assert_eq!(
        bodies[1],
        json!({"message":"write a Function","lora_name":"coding"})
    );
    // Only the message of the client's request is sent upstream.
    let headers = &upstream.seen("/chat")[0].headers;
    assert!(!headers.contains_key("x-api-key") && !headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_dead_upstream_costs_nothing_and_five_failures_open_the_breaker() {
    let mut config = config();
    let text = format!(
        "[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"{}\"",
        Upstream::dead().await
    );
    config.inference = r3mes_edge::Config::read(&text, []).unwrap().inference;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    for _ in 0..5 {
        caller
            .post("/chat", &json!({"message":"hi"}))
            .await
            .refused(502, "upstream_bad_response");
    }
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        let answer = caller.post("/chat", &json!({"message":"hi"})).await;
        quickest = quickest.min(started.elapsed());
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((50..=67).contains(&wait), "{wait}");
        answer.refused(503, "circuit_open");
    }
    println!("an open breaker answered in {quickest:?} at best, the client's own work included");
    let entries = caller.get(&format!("/users/{W1}/ledger")).await.expect(200);
    assert_eq!(
        entries["entries"].as_array().unwrap().len(),
        1,
        "a chat that gave nothing moved money"
    );
    assert_eq!(server.balance(W1).await, credits(3));
    server.assert_ledger_adds_up().await;
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["breakers"][0]["state"], "OPEN");

    server.clock.advance(Duration::from_secs(67));
    caller
        .post("/chat", &json!({"message":"hi"}))
        .await
        .refused(502, "upstream_bad_response");
    let answer = caller.post("/chat", &json!({"message":"hi"})).await;
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!(
        (110..=133).contains(&wait),
        "a failed probe did not double the wait: {wait}"
    );
}

#[tokio::test]
async fn a_node_that_comes_back_is_found_by_one_probe() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let upstream = {
        let broken = Arc::clone(&broken);
        Upstream::start(
            move |_| match broken.load(std::sync::atomic::Ordering::SeqCst) {
                true => Scripted::whole(500, "secret trace"),
                false => Scripted::whole(200, "back"),
            },
        )
        .await
    };
    let server = TestServer::start(config_with_inference("r3mes", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    for _ in 0..5 {
        let body = caller
            .post("/chat", &json!({"message":"hi"}))
            .await
            .refused(502, "upstream_bad_response");
        assert!(
            !body.to_string().contains("secret"),
            "an upstream's text reached the client"
        );
    }
    caller
        .post("/chat", &json!({"message":"hi"}))
        .await
        .refused(503, "circuit_open");
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(67));
    let (status, _, body) = caller.chat("hi").await;
    assert_eq!(
        (status, whole(body).await.unwrap().as_str()),
        (200, "back\n")
    );
    assert_eq!(upstream.seen("/chat").len(), 6);
}

#[tokio::test]
async fn a_thousand_chats_at_once_on_a_hundred_credits_are_paid_a_hundred_times() {
    let upstream = Upstream::inference(|_| Scripted::words(&["some ", "words"])).await;
    let mut config = config_with_inference("openai", &upstream);
    config.limits.connections = 2000;
    config.limits.in_flight = 2000;
    config.chat.in_flight = 1000;
    // A configured model is not looked up: the lookup has the shortest timeout, which a busy machine can exceed.
    config.inference[0].model = "tiny".to_owned();
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 100).await;
    let chats: Vec<_> = (0..1000)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let (status, _, body) = caller.chat("hi").await;
                (status, whole(body).await.unwrap())
            })
        })
        .collect();
    let (mut paid, mut refused) = (0, 0);
    for chat in chats {
        match chat.await.unwrap() {
            (200, text) => {
                assert_eq!(text, "some words\n");
                paid += 1;
            }
            (402, body) => {
                assert!(body.contains("insufficient_credits"), "{body}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((paid, refused), (100, 900));
    assert_eq!(server.balance(W1).await, Credits::ZERO);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_swapped_model_is_found_whatever_status_the_old_one_gets() {
    for status in [400, 404, 422] {
        let models = Arc::new(Mutex::new("tiny"));
        let upstream = {
            let models = Arc::clone(&models);
            Upstream::start(move |seen: &Seen| {
                let has = *models.lock().unwrap();
                if seen.path == "/v1/models" {
                    return Scripted::whole(200, json!({ "data": [{ "id": has }] }).to_string());
                }
                let asked: Value = serde_json::from_str(&seen.body).unwrap();
                match asked["model"] == has {
                    true => Scripted::words(&[has]),
                    false => Scripted::whole(status, "Invalid model name"),
                }
            })
            .await
        };
        let server = TestServer::start(config_with_inference("openai", &upstream)).await;
        let caller = server.payer(W1, 4).await;
        for model in ["tiny", "large", "large"] {
            *models.lock().unwrap() = model;
            let (status, _, body) = caller.chat("hi").await;
            assert_eq!(status, 200);
            assert_eq!(whole(body).await.unwrap(), format!("{model}\n"));
        }
        assert_eq!(upstream.seen("/v1/models").len(), 2);
        assert_eq!(upstream.seen("/v1/chat/completions").len(), 4);
        *models.lock().unwrap() = "larger";
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let body = json!({ "stream": true, "messages": messages }).to_string();
        let path = "/v1/chat/completions";
        let (status, _, body) = caller.open(Method::POST, path, &[], body).await;
        assert_eq!(status, 200);
        assert!(whole(body).await.unwrap().contains("larger"));
        assert_eq!(server.balance(W1).await, Credits::ZERO);
    }
}

#[tokio::test]
async fn a_refusal_for_another_reason_reads_the_models_once_and_is_not_retried() {
    let upstream = Upstream::inference(|_| Scripted::whole(400, "secret")).await;
    for model in ["", "tiny"] {
        let mut config = config_with_inference("openai", &upstream);
        config.inference[0].model = model.to_owned();
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 1).await;
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let body = json!({ "messages": messages });
        // The first request asks for the name of the model anyway.
        for reads in [1, 2, 3] {
            let refused = caller.post("/v1/chat/completions", &body).await;
            refused.refused(400, "invalid_request");
            let expected = if model.is_empty() { reads } else { 0 };
            assert_eq!(upstream.seen("/v1/models").len(), expected);
            assert_eq!(upstream.seen("/v1/chat/completions").len(), reads);
        }
        upstream.forget();
        assert_eq!(server.balance(W1).await, credits(1));
    }
}

#[tokio::test]
async fn reasoning_alone_is_no_text_free_and_no_failure_of_the_upstream() {
    let upstream = Upstream::inference(|_| {
        let (scripted, frames) = Scripted::held();
        for chunk in [
            json!({ "choices": [{ "delta": { "role": "assistant", "reasoning_content": "hm" } }] }),
            json!({ "choices": [{ "delta": {}, "finish_reason": "length" }] }),
        ] {
            frames.send(format!("data: {chunk}\n\n"));
        }
        frames.send_done();
        scripted
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    config.breaker.consecutive_failures = 2;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    for _ in 0..5 {
        let answer = caller.post("/chat", &json!({"message":"hi"})).await;
        answer.refused(502, "upstream_bad_response");
    }
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["breakers"][0]["state"], "CLOSED");
    assert_eq!(server.balance(W1).await, credits(1));
    let (_, entries) = server.store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(entries.len(), 1);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_price_is_held_while_the_model_answers_and_charged_at_the_end() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let asking = tokio::spawn({
        let caller = caller.clone();
        async move { caller.chat("hello").await }
    });
    let frames = held.recv().await.unwrap();
    frames.send_word("one");
    let (_, _, body) = asking.await.unwrap();
    // The balance has not moved, and a second chat is refused.
    assert_eq!(server.balance(W1).await, credits(1));
    let gauges = server.store.gauges();
    assert_eq!((gauges.holds, gauges.held), (1, ONE));
    let refused = caller.post("/chat", &json!({"message":"hi"})).await;
    let refused = refused.refused(402, "insufficient_credits");
    assert_eq!(
        refused["detail"],
        "this request may cost up to 1 credits, 0 are available"
    );
    frames.send_done();
    assert_eq!(whole(body).await.unwrap(), "one\n");
    let (balance, entries) = server.store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!(balance, Credits::ZERO);
    let reasons: Vec<_> = entries.iter().map(|entry| entry.reason.as_str()).collect();
    assert_eq!(reasons, ["chat", "test"]);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_first_text_pays_nothing_and_the_upstream_is_cancelled()
 {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await.0 });
    let frames = held.recv().await.unwrap();
    asking.abort();
    frames.reader_left().await;
    assert_eq!(balance_after_shutdown(server).await, credits(3));
}

#[tokio::test]
async fn a_client_that_disconnects_after_the_first_text_pays_and_the_upstream_is_cancelled() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one ");
    let (_, _, mut body) = asking.await.unwrap();
    next_text(&mut body).await.unwrap().unwrap();
    drop(body);
    frames.reader_left().await;
    assert_eq!(balance_after_shutdown(server).await, credits(2));
}

/// The shutdown waits for every charge, so afterwards the file has the outcome of every chat.
async fn balance_after_shutdown(server: TestServer) -> Credits {
    let folder = server.shutdown().await;
    let store = SqliteStore::open(&folder.path().join("edge.db"), false).unwrap();
    let report = store.verify_ledger(true).await.unwrap();
    assert_eq!(report.mistakes, Vec::<String>::new());
    store.user(wallet(W1)).await.unwrap().credits
}

#[tokio::test]
async fn a_stream_that_outlives_the_grace_is_cut_paid_and_the_server_stops() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    config.limits.shutdown_grace = Duration::from_millis(50);
    let mut server = TestServer::start(config).await;
    let (streaming, waiting) = (server.payer(W1, 3).await, server.payer(W2, 3).await);
    let asking = tokio::spawn(async move { streaming.chat("hello").await });
    let streams = held.recv().await.unwrap();
    streams.send_word("one ");
    let (_, _, mut body) = asking.await.unwrap();
    next_text(&mut body).await.unwrap().unwrap();
    let asking = tokio::spawn(async move { waiting.chat("hello").await });
    let silent = held.recv().await.unwrap();
    let stopped = server.begin_shutdown();
    // The chat without text is refused and free, the one with text is aborted and charged.
    assert_eq!(asking.await.unwrap().0, 503);
    assert!(next_text(&mut body).await.unwrap().is_err());
    stopped.await.unwrap();
    drop(silent);
    let store = SqliteStore::open(&server.database(), false).unwrap();
    let balance = async |text| store.user(wallet(text)).await.unwrap().credits;
    assert_eq!(
        (balance(W1).await, balance(W2).await),
        (credits(2), credits(3))
    );
}

#[tokio::test]
async fn a_stream_within_the_grace_ends_whole() {
    let (upstream, mut held) = held_inference().await;
    let mut server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one ");
    let (_, _, body) = asking.await.unwrap();
    let stopped = server.begin_shutdown();
    frames.send_word("two");
    frames.send_done();
    assert_eq!(whole(body).await.unwrap(), "one two\n");
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_queue_slot_and_a_full_queue_refuses() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    (config.chat.in_flight, config.chat.queue) = (1, 0);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    let first = tokio::spawn({
        let caller = caller.clone();
        async move { caller.chat("first").await }
    });
    let frames = held.recv().await.unwrap();
    caller
        .post("/chat", &json!({"message":"second"}))
        .await
        .refused(503, "overloaded");
    frames.send_word("one");
    frames.send_done();
    assert_eq!(whole(first.await.unwrap().2).await.unwrap(), "one\n");
    assert_eq!(server.balance(W1).await, credits(2));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn unauthorized_and_invalid_chats_are_refused_before_any_money_moves() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.max_message = 20;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 3).await;
    let stranger = server.anybody();

    let refused = stranger
        .post("/chat", &json!({"message":"test"}))
        .await
        .refused(400, "missing_credentials");
    assert_eq!(
        refused["detail"],
        "Either API key or wallet_address is required"
    );
    stranger
        .post("/chat", &json!({"message":"test","wallet_address":W1}))
        .await
        .refused(401, "missing_credentials");
    let wrong = stranger
        .post(
            "/chat",
            &json!({"message":"test","wallet_address":W1.replace("jrt", "jrz")}),
        )
        .await;
    wrong.refused(400, "invalid_wallet_address");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    stranger
        .send(Method::POST, "/chat", &form, "{}")
        .await
        .refused(415, "unsupported_media_type");

    caller
        .post("/chat", &json!({"message":"test","wallet_address":W2}))
        .await
        .refused(403, "forbidden");
    server
        .caller(W1, &["read"])
        .await
        .post("/chat", &json!({"message":"test"}))
        .await
        .refused(403, "forbidden");
    server
        .payer(W2, 0)
        .await
        .post("/chat", &json!({"message":"test"}))
        .await
        .refused(402, "insufficient_credits");
    for (body, pointer) in [
        (json!({}), "/message"),
        (json!({"message":""}), "/message"),
        (
            json!({"message":"longer than twenty characters"}),
            "/message",
        ),
        (json!({"message":7}), "/message"),
        (json!({"message":"hi","adapter":"none"}), "/adapter"),
        (json!({"message":"hi","model":"x"}), "/model"),
    ] {
        let refused = caller
            .post("/chat", &body)
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    let differ = [("x-adapter", "other")];
    let body = json!({"message":"hi","adapter":"general"}).to_string();
    caller
        .send(Method::POST, "/chat", &differ, body)
        .await
        .refused(400, "invalid_request");
    assert_eq!(server.balance(W1).await, credits(3));
    assert!(upstream.seen("/v1/chat").is_empty());
    server.assert_ledger_adds_up().await;
}
