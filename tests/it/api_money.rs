//! What every API asks, holds and charges, beside chats: limits, several prompts, clients that leave, repeated requests.

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::api_answers::{cost, priced, request};
use crate::support::{
    Caller, Frames, RawAnswer, RawUpstream, Scripted, Seen, TestServer, Then, Upstream, W1,
    config_with_nodes, eventually, next_text,
};

const APIS: [&str; 5] = [
    "completions",
    "embeddings",
    "messages",
    "rerank",
    "responses",
];

/// Tokens of an answer at most.
const MOST: u32 = 10;

fn config(upstream: &Upstream) -> Config {
    let mut config = priced(upstream);
    config.chat.max_output_tokens = Some(MOST);
    config
}

/// A whole answer of an API to a prompt of so many tokens, with so many of its own.
fn whole_of(api: &str, prompt: i64, completion: i64) -> Value {
    let openai = json!({ "prompt_tokens": prompt, "completion_tokens": completion });
    let usage = json!({ "input_tokens": prompt, "output_tokens": completion });
    match api {
        "completions" => {
            let choice = json!({ "index": 0, "text": "part", "finish_reason": "stop" });
            json!({ "object": "text_completion", "choices": [choice], "usage": openai })
        }
        "embeddings" => {
            json!({ "object": "list", "data": [{ "index": 0, "embedding": [0.5] }], "usage": openai })
        }
        "messages" => {
            let content = json!([{ "type": "text", "text": "part" }]);
            json!({ "type": "message", "content": content, "stop_reason": "end_turn", "usage": usage })
        }
        "rerank" => {
            json!({ "results": [{ "index": 0, "relevance_score": 0.5 }], "usage": openai })
        }
        _ => {
            let content = json!([{ "type": "output_text", "text": "part" }]);
            let output = json!([{ "type": "message", "content": content }]);
            json!({ "object": "response", "status": "completed", "output": output, "usage": usage })
        }
    }
}

/// The events of a stream of an API: its beginning, each word, and its end.
fn start_of(api: &str) -> &'static str {
    match api {
        "messages" => {
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n"
        }
        "responses" => {
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n"
        }
        _ => "",
    }
}

fn word_of(api: &str) -> &'static str {
    match api {
        "messages" => {
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"w\"}}\n\n"
        }
        "responses" => {
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"w\"}\n\n"
        }
        _ => "data: {\"choices\":[{\"index\":0,\"text\":\"w\",\"finish_reason\":null}]}\n\n",
    }
}

fn end_of(api: &str, prompt: i64, completion: i64) -> String {
    match api {
        "messages" => {
            let usage = json!({ "input_tokens": prompt, "output_tokens": completion });
            let delta = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": usage });
            format!(
                "event: message_delta\ndata: {delta}\n\nevent: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
            )
        }
        "responses" => {
            let response = whole_of(api, prompt, completion);
            let event = json!({ "type": "response.completed", "response": response });
            format!("event: response.completed\ndata: {event}\n\n")
        }
        _ => format!(
            "data: {}\n\ndata: [DONE]\n\n",
            whole_of(api, prompt, completion)
        ),
    }
}

/// Answers to a prompt of 10 tokens with 5 tokens.
fn answered(seen: &Seen) -> Scripted {
    let api = seen.path.trim_start_matches("/v1/");
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    match body["stream"] == true {
        false => Scripted::whole(200, whole_of(api, 10, 5).to_string()),
        true => Scripted::whole(
            200,
            [start_of(api), word_of(api), &end_of(api, 10, 5)].concat(),
        ),
    }
}

/// What an answer of this API with 10 and 5 tokens costs.
fn usual_cost(api: &str) -> i64 {
    match api {
        "embeddings" | "rerank" => cost([10, 0, 0]),
        _ => cost([10, 0, 5]),
    }
}

/// The status, the header with this name and the body of the answer to a request.
async fn post(
    caller: &Caller,
    api: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, hyper::HeaderMap, String) {
    let path = format!("/v1/{api}");
    let (status, headers, mut body) = {
        let body = body.to_string();
        caller.open(Method::POST, &path, headers, body).await
    };
    let mut text = String::new();
    while let Some(Ok(piece)) = next_text(&mut body).await {
        text += &piece;
    }
    (status, headers, text)
}

fn header<'a>(headers: &'a hyper::HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// The detail of an error, in this API's shape, which must have this status and code.
#[track_caller]
fn refused(
    api: &str,
    (status, _, text): &(u16, hyper::HeaderMap, String),
    expected: u16,
) -> String {
    assert_eq!(*status, expected, "{api}: {text}");
    let body: Value = serde_json::from_str(text).unwrap();
    if api == "messages" {
        assert_eq!(body["type"], "error", "{text}");
    }
    body["error"]["message"].as_str().unwrap().to_owned()
}

async fn detail(caller: &Caller) -> Value {
    let ledger = caller.get(&format!("/users/{W1}/ledger?limit=1")).await;
    ledger.expect(200)["entries"][0]["detail"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_each_api_is_clamped_and_sent_under_its_own_name() {
    const NAMES: [&str; 4] = [
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n_predict",
    ];
    let upstream = Upstream::inference(answered).await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for (api, own) in [
        ("completions", Some("max_tokens")),
        ("embeddings", None),
        ("messages", Some("max_tokens")),
        ("rerank", None),
        ("responses", Some("max_output_tokens")),
    ] {
        for is_stream in [false, own.is_some()] {
            for (asked, expected) in [
                (Some(99), MOST),
                (Some(MOST), MOST),
                (Some(3), 3),
                (None, MOST),
            ] {
                let (mut body, _) = request(api, "hi", is_stream);
                if let Some(own) = own {
                    body[own] = asked.into();
                }
                upstream.forget();
                let answer = post(&caller, api, &[], &body).await;
                assert_eq!(answer.0, 200, "{}", answer.2);
                let seen = upstream.seen(&format!("/v1/{api}"));
                let [seen] = &seen[..] else {
                    panic!("{seen:?}")
                };
                let sent: Value = serde_json::from_str(&seen.body).unwrap();
                for name in NAMES {
                    let expected = Some(expected).filter(|_| own == Some(name));
                    assert_eq!(sent[name], json!(expected), "{api} {name}: {sent}");
                }
                let options = json!({ "include_usage": true });
                let has_options = is_stream && api == "completions";
                assert_eq!(
                    sent["stream_options"],
                    if has_options { options } else { Value::Null }
                );
                assert_eq!(sent["store"] == false, api == "responses", "{sent}");
                assert_eq!(sent.get("stream").is_some(), own.is_some(), "{sent}");
            }
        }
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_for_each_prompt_and_choice_and_402_names_the_limit_of_its_api() {
    let upstream = Upstream::inference(answered).await;
    let mut config = config(&upstream);
    let held = |prompt: i64, completion: i64| Credits::from_micro(cost([prompt, 0, completion]));
    let caller_with = async |config: Config, micro: i64| {
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 0).await;
        server.grant_micro(W1, micro).await;
        (server, caller)
    };
    let several = json!({ "prompt": ["one", "two"], "n": 3 });
    let bytes = "prompt[\"one\",\"two\"]".len() as i64;
    let inputs = json!({ "input": ["one", "two"] });
    let input_bytes = "input[\"one\",\"two\"]".len() as i64;
    let ids = json!({ "input": [[1, 2], [3]] });
    let id_bytes = "input[[1,2],[3]]".len() as i64;
    let documents = json!({ "query": "which", "documents": ["one", "two", "three"] });
    let document_bytes = (3 * "\"which\"".len() + "\"one\"\"two\"\"three\"".len()) as i64;
    let messages = request("messages", "hi", false);
    let response = request("responses", "hi", false);
    let rows = [
        (
            "completions",
            several.clone(),
            held(bytes + 512, 60),
            "; max_tokens 9 would fit",
        ),
        ("embeddings", inputs.clone(), held(input_bytes + 512, 0), ""),
        ("embeddings", ids, held(id_bytes + 512, 0), ""),
        (
            "rerank",
            documents.clone(),
            held(document_bytes + 3 * 512, 0),
            "",
        ),
        (
            "messages",
            messages.0,
            held(messages.1 as i64 + 512, 10),
            "; max_tokens 9 would fit",
        ),
        (
            "responses",
            response.0,
            held(response.1 as i64 + 512, 10),
            "; max_output_tokens 9 would fit",
        ),
    ];
    for (api, body, held, fits) in rows {
        let (server, caller) = caller_with(config.clone(), held.micro() - 1).await;
        let answer = post(&caller, api, &[], &body).await;
        let detail = refused(api, &answer, 402);
        let available = Credits::from_micro(held.micro() - 1);
        assert_eq!(
            detail,
            format!("this request may cost up to {held} credits, {available} are available{fits}")
        );
        server.grant_micro(W1, 1).await;
        assert_eq!(post(&caller, api, &[], &body).await.0, 200);
        server.assert_ledger_adds_up().await;
    }
    // No more than fits into the context of each sequence.
    config.chat.context_length = Some(4);
    for (api, body, held) in [
        ("completions", several, held(8, 60)),
        ("embeddings", inputs, held(8, 0)),
        ("rerank", documents, held(12, 0)),
    ] {
        let (_server, caller) = caller_with(config.clone(), held.micro() - 1).await;
        let answer = post(&caller, api, &[], &body).await;
        let detail = refused(api, &answer, 402);
        let expected = format!("this request may cost up to {held} credits, ");
        assert!(detail.starts_with(&expected), "{api}: {detail}, not {held}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_api_charges_more_than_was_held_whatever_its_server_reports() {
    let upstream = Upstream::inference(|seen| {
        let api = seen.path.trim_start_matches("/v1/");
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        let (prompt, completion) = (1_000_000, 1_000_000);
        match body["stream"] == true {
            false => Scripted::whole(200, whole_of(api, prompt, completion).to_string()),
            true => Scripted::whole(
                200,
                [
                    start_of(api),
                    word_of(api),
                    &end_of(api, prompt, completion),
                ]
                .concat(),
            ),
        }
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for api in APIS {
        let has_output = !matches!(api, "embeddings" | "rerank");
        for is_stream in [false, has_output] {
            let (body, bytes) = request(api, "hi", is_stream);
            let overhead = if api == "rerank" { 2 * 512 } else { 512 };
            let output = if has_output { MOST.into() } else { 0 };
            let before = server.balance(W1).await.micro();
            let (status, _, text) = post(&caller, api, &[], &body).await;
            assert_eq!(status, 200, "{text}");
            let micro = before - server.balance(W1).await.micro();
            assert_eq!(micro, cost([bytes as i64 + overhead, 0, output]), "{api}");
            let amount = format!("\"cost\":{}", Credits::from_micro(micro));
            assert!(text.contains(&amount), "{text}");
        }
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_passes_its_limit_twice_is_cut_and_charged() {
    let upstream = Upstream::inference(|seen| {
        let api = seen.path.trim_start_matches("/v1/");
        let words = word_of(api).repeat(2 * MOST as usize + 1);
        Scripted::whole(200, [start_of(api), &words, &end_of(api, 10, 5)].concat())
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for api in ["completions", "messages", "responses"] {
        let (body, bytes) = request(api, "hi", true);
        let before = server.balance(W1).await.micro();
        let (status, _, text) = post(&caller, api, &[], &body).await;
        assert_eq!(status, 200);
        assert!(
            text.contains("upstream_bad_response") || text.contains("api_error"),
            "{text}"
        );
        let prompt = if api == "messages" {
            10
        } else {
            bytes as i64 / 4
        };
        let tokens = [prompt, 0, 2 * i64::from(MOST) + 1];
        let held = cost([bytes as i64 + 512, 0, MOST.into()]);
        let micro = before - server.balance(W1).await.micro();
        assert_eq!(micro, cost(tokens).min(held), "{api}");
        let detail = detail(&caller).await;
        assert_eq!(detail["estimated"], "cut", "{api}");
        assert_eq!(detail["completion_tokens"], tokens[2], "{api}");
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_stream_pays_for_its_prompt_and_what_was_relayed() {
    let (sender, mut held) = tokio::sync::mpsc::unbounded_channel::<Frames>();
    let upstream = Upstream::inference(move |_| {
        let (scripted, frames) = Scripted::held();
        sender.send(frames).unwrap();
        scripted
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for api in ["completions", "messages", "responses"] {
        let (body, bytes) = request(api, "hi", true);
        let before = server.balance(W1).await.micro();
        let path = format!("/v1/{api}");
        let asker = caller.clone();
        let asking =
            tokio::spawn(
                async move { asker.open(Method::POST, &path, &[], body.to_string()).await },
            );
        let frames = held.recv().await.unwrap();
        frames.send(start_of(api));
        for _ in 0..3 {
            frames.send(word_of(api));
        }
        let (status, _, mut answer) = asking.await.unwrap();
        assert_eq!(status, 200);
        let mut text = String::new();
        while text.matches("\"w\"").count() < 3 {
            text += &next_text(&mut answer).await.unwrap().unwrap();
        }
        drop(answer);
        frames.reader_left().await;
        let charged = async || {
            let now = server.balance(W1).await.micro();
            (now < before).then_some(before - now)
        };
        let micro = eventually("it is charged", charged).await;
        // What the server said of the prompt at the beginning of a message.
        let prompt = if api == "messages" {
            10
        } else {
            bytes as i64 / 4
        };
        assert_eq!(micro, cost([prompt, 0, 3]), "{api}");
        let detail = detail(&caller).await;
        assert_eq!(detail["estimated"], "client_left", "{detail}");
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_whole_answer_of_each_api_is_paid_once_and_a_stream_takes_no_key() {
    let upstream = Upstream::inference(answered).await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for api in APIS {
        // The scope of a key is its route.
        let headers = [("idempotency-key", "once")];
        let (body, _) = request(api, "hi", false);
        let before = server.balance(W1).await.micro();
        let first = post(&caller, api, &headers, &body).await;
        let again = post(&caller, api, &headers, &body).await;
        assert_eq!([first.0, again.0], [200, 200], "{api}: {}", again.2);
        assert_eq!(first.2, again.2, "{api}");
        assert_eq!(header(&first.1, "idempotency-replayed"), "");
        assert_eq!(header(&again.1, "idempotency-replayed"), "true");
        let micro = before - server.balance(W1).await.micro();
        assert_eq!(micro, usual_cost(api), "{api}");
        let amount = Credits::from_micro(micro).to_string();
        for answer in [&first, &again] {
            assert_eq!(header(&answer.1, "x-credits-charged"), amount, "{api}");
            assert!(
                answer.2.contains(&format!("\"cost\":{amount}")),
                "{}",
                answer.2
            );
        }
        assert_eq!(upstream.seen(&format!("/v1/{api}")).len(), 1, "{api}");
        let (other, _) = request(api, "other", false);
        refused(api, &post(&caller, api, &headers, &other).await, 422);
        if !matches!(api, "embeddings" | "rerank") {
            let (stream, _) = request(api, "hi", true);
            let detail = refused(api, &post(&caller, api, &headers, &stream).await, 400);
            assert!(detail.contains("Idempotency-Key"), "{api}: {detail}");
        }
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_and_rerank_cost_their_prompt_alone_and_need_a_price_for_it() {
    let upstream = Upstream::inference(answered).await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for api in ["embeddings", "rerank"] {
        let before = server.balance(W1).await.micro();
        let (body, _) = request(api, "hi", false);
        assert_eq!(post(&caller, api, &[], &body).await.0, 200);
        assert_eq!(before - server.balance(W1).await.micro(), cost([10, 0, 0]));
        let detail = detail(&caller).await;
        let tokens = ["prompt_tokens", "completion_tokens", "estimated"];
        assert_eq!(
            tokens.map(|name| detail[name].clone()),
            [json!(10), json!(0), Value::Null]
        );
    }
    let mut config = config(&upstream);
    config.chat.price.request = Credits::ZERO;
    config.chat.price.prompt = Credits::ZERO;
    config.chat.price.cached_prompt = Credits::ZERO;
    for is_free in [false, true] {
        if is_free {
            config.chat.price.completion = Credits::ZERO;
        }
        let server = TestServer::start(config.clone()).await;
        let caller = server.payer(W1, 5).await;
        for api in ["embeddings", "rerank"] {
            let (body, _) = request(api, "hi", false);
            let answer = post(&caller, api, &[], &body).await;
            if is_free {
                assert_eq!(answer.0, 200, "{}", answer.2);
            } else {
                let detail = refused(api, &answer, 501);
                assert!(detail.contains("price"), "{detail}");
            }
        }
        assert_eq!(server.balance(W1).await.micro(), 5_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedding_without_usage_raises_the_alert_and_one_that_has_no_output_does_not() {
    let upstream = Upstream::inference(|seen| {
        let mut answer = whole_of("embeddings", 10, 0);
        if seen.body.contains("unknown") {
            answer["usage"] = Value::Null;
        }
        Scripted::whole(200, answer.to_string())
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for (text, expected) in [("known", json!([])), ("unknown", json!(["no_usage"]))] {
        let (body, _) = request("embeddings", text, false);
        assert_eq!(post(&caller, "embeddings", &[], &body).await.0, 200);
        server.admin().get("/alerts").await.expect(200);
        server.clock.advance(std::time::Duration::from_secs(61));
        let alerts = server.admin().get("/alerts").await.expect(200);
        let firing = alerts["firing"].as_array().unwrap().iter();
        let names: Vec<_> = firing.map(|alert| alert["name"].clone()).collect();
        assert_eq!(json!(names), expected, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_too_long_is_named_as_its_api_names_it_and_free() {
    let upstream = Upstream::inference(|_| {
        let error = json!({ "code": 400, "type": "exceed_context_size_error", "n_ctx": 4096, "n_prompt_tokens": 5000,
            "message": "the request exceeds the available context size. try increasing the context size or enable context shift" });
        Scripted::whole(400, json!({ "error": error }).to_string())
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 5).await;
    for (api, member) in [
        ("completions", "prompt"),
        ("embeddings", "input"),
        ("rerank", "documents"),
        ("responses", "input"),
    ] {
        let (body, _) = request(api, "hi", false);
        let answer = post(&caller, api, &[], &body).await;
        refused(api, &answer, 400);
        let error: Value = serde_json::from_str(&answer.2).unwrap();
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["error"]["param"], member, "{error}");
    }
    assert_eq!(server.balance(W1).await.micro(), 5_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_text_alone_does_not_serve_these_apis() {
    let node = RawUpstream::start(|_| {
        RawAnswer::new("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Then::Keep)
    })
    .await;
    let server = TestServer::start(config_with_nodes("r3mes", &[node.url()])).await;
    let caller = server.payer(W1, 5).await;
    for api in APIS {
        for is_stream in [false, !matches!(api, "embeddings" | "rerank")] {
            let (body, _) = request(api, "hi", is_stream);
            let answer = post(&caller, api, &[], &body).await;
            let detail = refused(api, &answer, 501);
            assert!(detail.contains("serves /v1/"), "{detail}");
        }
    }
    assert!(node.seen("POST /chat").is_empty());
    assert_eq!(server.balance(W1).await.micro(), 5_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_opentelemetry_name_the_operation_of_each_api() {
    let upstream = Upstream::inference(answered).await;
    let mut config = config(&upstream);
    config.metrics.gen_ai = true;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 5).await;
    for api in APIS {
        let (body, _) = request(api, "hi", false);
        assert_eq!(post(&caller, api, &[], &body).await.0, 200);
    }
    let page = async || {
        let page = server.admin().get("/metrics").await;
        String::from_utf8(page.body.to_vec()).unwrap()
    };
    for (operation, requests, output) in [
        ("text_completion", 1, Some(5)),
        ("embeddings", 1, None),
        ("rerank", 1, None),
        // Messages and responses.
        ("chat", 2, Some(10)),
    ] {
        let labels = format!(
            "gen_ai_operation_name=\"{operation}\",gen_ai_provider_name=\"r3mes-edge\",gen_ai_request_model=\"general\""
        );
        let count = format!("gen_ai_server_request_duration_seconds_count{{{labels}}} {requests}");
        let read = eventually("it is counted", async || {
            Some(page().await).filter(|page| page.contains(&count))
        })
        .await;
        let sum = |kind: &str| {
            format!("gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type=\"{kind}\"}} ")
        };
        let input = format!("{}{}.0", sum("input"), 10 * requests);
        assert!(read.contains(&input), "{input}: {read}");
        match output {
            Some(output) => assert!(read.contains(&format!("{}{output}.0", sum("output")))),
            None => assert!(!read.contains(&sum("output"))),
        }
    }
}
