//! The exact count of a prompt: asked for where the bound of the prompt alone does not fit, and then held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::model::{Credits, Price};
use serde_json::{Value, json};

use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, W2, config_with_inference, eventually,
};

const PATH: &str = "/v1/chat/completions";
const LLAMA: &str = "/v1/chat/completions/input_tokens";
const VLLM: &str = "/tokenize";

/// For a token of a prompt 1 micro-credit, of an answer 2.
fn price() -> Price {
    let mut price = Price::per_request(Credits::ZERO);
    price.prompt = Credits::from_micro(1_000_000);
    price.cached_prompt = price.prompt;
    price.completion = Credits::from_micro(2_000_000);
    price
}

fn priced(upstream: &Upstream) -> Config {
    let mut config = config_with_inference("openai", upstream);
    config.inference[0].model = "tiny".to_owned();
    config.chat.price = price();
    config.chat.max_output_tokens = Some(10);
    config
}

fn answered(prompt: i64) -> Scripted {
    let choice = json!({ "index": 0, "message": { "content": "part" }, "finish_reason": "stop" });
    let usage = json!({ "prompt_tokens": prompt, "completion_tokens": 5 });
    Scripted::whole(
        200,
        json!({ "choices": [choice], "usage": usage }).to_string(),
    )
}

/// A prompt whose bound is 2,039 bytes and 512 more.
fn long() -> Value {
    json!({ "messages": [{ "role": "user", "content": "x".repeat(2_001) }] })
}

/// A wallet with so many micro-credits.
async fn payer(server: &TestServer, micro: i64) -> Caller {
    let caller = server.payer(W1, 0).await;
    let amount = Credits::from_micro(micro).to_string();
    let grant = format!("{{\"amount\":{amount},\"reason\":\"test\"}}");
    let path = format!("/users/{W1}/credits");
    let granted = server.admin().send(Method::POST, &path, &[], grant).await;
    granted.expect(200);
    caller
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_fits_by_its_count_alone_is_counted_one_time_by_its_server() {
    let fixtures = [
        (
            LLAMA,
            r#"{"input_tokens":500,"object":"response.input_tokens"}"#,
        ),
        (VLLM, r#"{"count":500,"max_model_len":8192,"tokens":[1,2]}"#),
    ];
    for (counter, count) in fixtures {
        let upstream = Upstream::start(move |seen| match &*seen.path {
            PATH => answered(500),
            path if path == counter => Scripted::whole(200, count),
            _ => Scripted::whole(404, "404 page not found"),
        })
        .await;
        let server = TestServer::start(priced(&upstream)).await;
        let caller = payer(&server, 1_030).await;
        let mut asked = long();
        asked["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
        caller.post(PATH, &asked).await.expect(200);
        assert_eq!(server.balance(W1).await.micro(), 1_030 - 510, "{counter}");
        // All that its template may read.
        let seen = upstream.seen(counter);
        let body: Value = serde_json::from_str(&seen[0].body).unwrap();
        assert_eq!(body["messages"], asked["messages"], "{counter}");
        assert_eq!(body["tools"], asked["tools"], "{counter}");
        assert_eq!(body["model"], "tiny", "{counter}");
        // The next fits exactly: 500 and 2 for each of ten tokens.
        caller.post(PATH, &asked).await.expect(200);
        assert_eq!(server.balance(W1).await.micro(), 1_030 - 2 * 510);
        assert_eq!(upstream.seen(counter).len(), 2, "{counter}");
        // A route that is not there is asked for one time.
        let missing = if counter == VLLM { 1 } else { 2 };
        assert_eq!(upstream.seen(LLAMA).len(), missing, "{counter}");
        server.assert_ledger_adds_up().await;
    }
}

/// A prompt of 2,001 characters for an API, and a whole answer of it.
fn of_api(path: &str) -> (Value, Value) {
    let text = "x".repeat(2_001);
    match path {
        "/v1/messages" => (
            json!({ "max_tokens": 10, "messages": [{ "role": "user", "content": text }] }),
            json!({ "type": "message", "content": [{ "type": "text", "text": "part" }], "stop_reason": "end_turn",
                "usage": { "input_tokens": 500, "output_tokens": 5 } }),
        ),
        _ => (
            json!({ "input": text }),
            json!({ "object": "response", "status": "completed", "usage": { "input_tokens": 500, "output_tokens": 5 },
                "output": [{ "type": "message", "content": [{ "type": "output_text", "text": "part" }] }] }),
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_responses_are_counted_where_their_servers_count_them() {
    for (path, counter) in [
        ("/v1/messages", "/v1/messages/count_tokens"),
        ("/v1/responses", "/v1/responses/input_tokens"),
    ] {
        let upstream = Upstream::start(move |seen| match &*seen.path {
            of if of == path => Scripted::whole(200, of_api(path).1.to_string()),
            of if of == counter => Scripted::whole(200, r#"{"input_tokens":500}"#),
            _ => Scripted::whole(404, "no"),
        })
        .await;
        let server = TestServer::start(priced(&upstream)).await;
        let caller = payer(&server, 520).await;
        let (asked, _) = of_api(path);
        let ask = async |body: &Value| caller.open(Method::POST, path, &[], body.to_string()).await;
        assert_eq!(ask(&asked).await.0, 200, "{path}");
        assert_eq!(server.balance(W1).await.micro(), 10, "{path}");
        assert_eq!(upstream.seen(counter).len(), 1, "{path}");
        assert_eq!(counts(&upstream), 0, "{path}");
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_may_leave_out_how_a_model_thinks_is_not_held() {
    const PATH: &str = "/v1/messages";
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => Scripted::whole(200, of_api(PATH).1.to_string()),
        _ => Scripted::whole(200, r#"{"input_tokens":500}"#),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = payer(&server, 520).await;
    let (mut asked, _) = of_api(PATH);
    let ask = async |body: &Value| caller.open(Method::POST, PATH, &[], body.to_string()).await;
    for (name, value) in [
        ("thinking", json!({ "type": "adaptive" })),
        ("output_config", json!({ "effort": "low" })),
    ] {
        asked[name] = value;
        assert_eq!(ask(&asked).await.0, 402, "{name}");
        asked[name] = Value::Null;
    }
    asked
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    assert_eq!(ask(&asked).await.0, 200);
    assert_eq!(server.balance(W1).await.micro(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_chat_are_counted_too_and_the_charge_is_within_the_count() {
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"part\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":900,\"completion_tokens\":900}}\n\ndata: [DONE]\n\n";
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => Scripted::whole(200, events),
        LLAMA => Scripted::whole(200, r#"{"input_tokens":500}"#),
        _ => Scripted::whole(404, "no"),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = payer(&server, 1_040).await;
    let mut asked = long();
    asked["stream"] = true.into();
    caller.post(PATH, &asked).await;
    // The server reports more than it counted: 500 and 20 were held.
    assert_eq!(server.balance(W1).await.micro(), 520);
    let message = json!({ "message": "x".repeat(2_001) });
    caller.post("/chat", &message).await;
    assert_eq!(server.balance(W1).await.micro(), 0);
    assert_eq!(upstream.seen(LLAMA).len(), 2);
    server.assert_ledger_adds_up().await;
}

/// Every request for a count, whatever its path.
fn counts(upstream: &Upstream) -> usize {
    upstream.seen(LLAMA).len() + upstream.seen(VLLM).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_counted_where_the_bound_fits_or_the_count_cannot_help() {
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => answered(500),
        _ => Scripted::whole(200, r#"{"input_tokens":500}"#),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    // The bound of 2,551 and ten tokens fit.
    let caller = payer(&server, 2_571 + 510).await;
    caller.post(PATH, &long()).await.expect(200);
    // The answer alone does not.
    let poor = payer(&server, -(2_571 - 19)).await;
    let refused = poor.post(PATH, &long()).await.expect(402);
    let detail = "this request may cost up to 0.002571 credits, 0.000019 are available";
    assert_eq!(refused["detail"], detail);
    // A picture has as many tokens as its server makes of it.
    let caller = payer(&server, 1_000).await;
    let picture =
        json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } });
    let asked = json!({ "messages": [{ "role": "user", "content": [picture] }] });
    caller.post(PATH, &asked).await.expect(402);
    assert_eq!(counts(&upstream), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_does_not_fit_either_is_in_the_402() {
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => answered(500),
        _ => Scripted::whole(200, r#"{"input_tokens":500}"#),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = payer(&server, 509).await;
    let refused = caller.post(PATH, &long()).await.expect(402);
    let detail = "this request may cost up to 0.00052 credits with the 500 tokens counted in its prompt, 0.000509 are available; max_tokens 4 would fit";
    assert_eq!(refused["detail"], detail);
    let mut fitting = long();
    fitting["max_tokens"] = 4.into();
    caller.post(PATH, &fitting).await.expect(200);
    // Its five tokens cost more than the four that were held.
    assert_eq!(server.balance(W1).await.micro(), 1);
    server.assert_ledger_adds_up().await;
}

const BOUND: &str = "this request may cost up to 0.002571 credits, 0.0006 are available";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_count_is_asked_one_time_and_one_that_fails_again() {
    let status = Arc::new(AtomicU16::new(404));
    let says = Arc::clone(&status);
    let upstream = Upstream::start(move |seen: &Seen| match &*seen.path {
        PATH => answered(500),
        _ => Scripted::whole(says.load(Ordering::Relaxed), "{}"),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = payer(&server, 600).await;
    let refused = async || {
        let refused = caller.post(PATH, &long()).await.expect(402);
        assert_eq!(refused["detail"], BOUND);
        counts(&upstream)
    };
    // A failure says nothing about the next time.
    for (answer, asked) in [(500, 1), (503, 2), (401, 3), (501, 5), (404, 5), (200, 5)] {
        status.store(answer, Ordering::Relaxed);
        assert_eq!(refused().await, asked, "{answer}");
    }
    assert_eq!(server.balance(W1).await.micro(), 600);
    // None of that counts for the breaker.
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["breakers"][0]["state"], "CLOSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_count_in_time_is_not_waited_for() {
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => answered(500),
        _ => Scripted::silent(),
    })
    .await;
    let server = TestServer::start(priced(&upstream)).await;
    let caller = payer(&server, 600).await;
    let began = Instant::now();
    let refused = caller.post(PATH, &long()).await.expect(402);
    assert_eq!(refused["detail"], BOUND);
    let took = began.elapsed();
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(20));
    assert!(least <= took && took < most, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_waits_in_the_queue_of_its_server_and_ends_with_its_client() {
    let (sender, mut held) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |seen| match &*seen.path {
        PATH => {
            let (scripted, frames) = Scripted::held();
            sender.send(frames).unwrap();
            scripted
        }
        _ => Scripted::whole(200, r#"{"input_tokens":500}"#),
    })
    .await;
    let mut config = priced(&upstream);
    config.chat.in_flight = 1;
    let server = TestServer::start(config).await;
    let other = server.payer(W2, 5).await;
    let running = tokio::spawn(async move { other.chat("hi").await });
    let frames = held.recv().await.unwrap();
    let caller = payer(&server, 600).await;
    let waits = async |count: u64| {
        let health = server.anybody().get("/health").await.expect(200);
        (health["nodes"][0]["waiting"] == count).then_some(())
    };
    let asking = tokio::spawn(async move { caller.post(PATH, &long()).await });
    eventually("the count waits for a slot", async || waits(1).await).await;
    assert_eq!(counts(&upstream), 0);
    asking.abort();
    eventually("its client left", async || waits(0).await).await;
    drop(frames);
    let (status, ..) = running.await.unwrap();
    assert_eq!(status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_server_that_counted_answers() {
    let poor = Upstream::start(|seen| match &*seen.path {
        PATH => answered(9_000),
        _ => Scripted::whole(404, "no"),
    })
    .await;
    let counting = Upstream::start(|seen| match &*seen.path {
        PATH => answered(500),
        _ => Scripted::whole(200, r#"{"input_tokens":500}"#),
    })
    .await;
    let urls = [poor.url(), counting.url()];
    let mut config = crate::support::config_with_nodes("openai", &urls);
    for node in &mut config.inference {
        node.model = "tiny".to_owned();
    }
    config.chat.price = price();
    config.chat.max_output_tokens = Some(10);
    let server = TestServer::start(config).await;
    let caller = payer(&server, 600).await;
    caller.post(PATH, &long()).await.expect(200);
    assert_eq!(server.balance(W1).await.micro(), 600 - 510);
    let answers = [&poor, &counting].map(|upstream| {
        let seen = upstream.seen(PATH);
        seen.iter().filter(|seen| seen.path == PATH).count()
    });
    assert_eq!(answers, [0, 1]);
}
