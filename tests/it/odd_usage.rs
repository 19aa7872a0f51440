//! The charge of every odd usage, to the last micro-credit: of a whole answer and of a stream.

use std::time::Duration;

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::model::{Credits, Price};
use serde_json::{Value, json};

use crate::support::{
    Caller, RawAnswer, RawUpstream, Scripted, TestServer, Then, Upstream, W1,
    config_with_inference, fixture,
};

const PATH: &str = "/v1/chat/completions";

/// 1,000 micro-credits for a request, and for a token of its prompt 0.4, of a cached one 0.1, of its answer 1.6.
fn terms(config: &mut Config, max_output_tokens: u32) {
    let mut price = Price::per_request(Credits::from_micro(1_000));
    price.prompt = Credits::from_micro(400_000);
    price.cached_prompt = Credits::from_micro(100_000);
    price.completion = Credits::from_micro(1_600_000);
    config.inference[0].model = "tiny".to_owned();
    config.chat.price = price;
    config.chat.max_output_tokens = Some(max_output_tokens);
}

fn priced(upstream: &Upstream, max_output_tokens: u32) -> Config {
    let mut config = config_with_inference("openai", upstream);
    terms(&mut config, max_output_tokens);
    config
}

/// What a client was charged: micro-credits, then the tokens in its ledger as prompt/cached/completion, and why they are an
/// estimate. An answer without content is free, and has no entry.
async fn charged(server: &TestServer, caller: &Caller, asked: &Value) -> String {
    let before = server.balance(W1).await.micro();
    let answer = caller
        .open(Method::POST, PATH, &[], asked.to_string())
        .await;
    // A stream may break off.
    let _ = crate::chat::whole(answer.2).await;
    let micro = before - server.balance(W1).await.micro();
    if micro == 0 {
        return format!("{} free", answer.0);
    }
    let ledger = caller.get(&format!("/users/{W1}/ledger?limit=1")).await;
    let detail = ledger.expect(200)["entries"][0]["detail"].take();
    let tokens = ["prompt_tokens", "cached_tokens", "completion_tokens"];
    let tokens = tokens.map(|name| detail[name].to_string()).join("/");
    let estimated = detail["estimated"]
        .as_str()
        .map(|cause| format!(" {cause}"));
    format!("{micro} {tokens}{}", estimated.unwrap_or_default())
}

/// A usage with these tokens of the prompt, the answer, and the cache.
macro_rules! usage {
    ($prompt:literal, $completion:literal) => {
        concat!(
            "{\"prompt_tokens\":",
            $prompt,
            ",\"completion_tokens\":",
            $completion,
            "}"
        )
    };
    ($prompt:literal, $completion:literal, $cached:literal) => {
        concat!(
            "{\"prompt_tokens\":",
            $prompt,
            ",\"completion_tokens\":",
            $completion,
            ",\"prompt_tokens_details\":{\"cached_tokens\":",
            $cached,
            "}}"
        )
    };
}

/// How many choices; the usage of a whole answer and its charge; the events of a stream and its charge. An event is a word or
/// the finish of a choice, or `-` for none, and a usage after it. The prompt has 40 bytes, a quarter of which are 10 tokens,
/// and each choice a text whose JSON has 6, which are 2.
type Row = (
    &'static str,
    u32,
    (&'static str, &'static str),
    (&'static [(&'static str, &'static str)], &'static str),
);

/// A prompt of 10 tokens and an answer of 2: 1,000 + 4 + 3.2, rounded up.
const ESTIMATE: &str = "1008 10/0/2 no_usage";
const KNOWN: &str = "1012 10/0/5";

const ROWS: &[Row] = &[
    (
        "none",
        1,
        ("", ESTIMATE),
        (&[("word 0", ""), ("finish 0", "")], ESTIMATE),
    ),
    (
        "null",
        1,
        ("null", ESTIMATE),
        (
            &[("word 0", "null"), ("finish 0", "null"), ("-", "null")],
            ESTIMATE,
        ),
    ),
    (
        "an empty object",
        1,
        ("{}", ESTIMATE),
        (&[("word 0", "{}"), ("finish 0", "{}")], ESTIMATE),
    ),
    (
        "a number",
        1,
        ("7", ESTIMATE),
        (&[("word 0", ""), ("finish 0", "7")], ESTIMATE),
    ),
    (
        "a list",
        1,
        ("[10,5]", ESTIMATE),
        (&[("word 0", ""), ("finish 0", "[10,5]")], ESTIMATE),
    ),
    (
        "floats",
        1,
        (usage!("10.5", "5.5"), ESTIMATE),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("10.5", "5.5")),
            ],
            ESTIMATE,
        ),
    ),
    (
        "negative",
        1,
        (usage!("-10", "-5"), ESTIMATE),
        (
            &[("word 0", ""), ("finish 0", ""), ("-", usage!("-10", "-5"))],
            ESTIMATE,
        ),
    ),
    (
        "strings",
        1,
        (usage!("\"10\"", "\"5\""), ESTIMATE),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("\"10\"", "\"5\"")),
            ],
            ESTIMATE,
        ),
    ),
    (
        "zero",
        1,
        (usage!("0", "0", "0"), ESTIMATE),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("0", "0", "0")),
            ],
            ESTIMATE,
        ),
    ),
    (
        "beyond an i64",
        1,
        (usage!("99999999999999999999", "5"), ESTIMATE),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("99999999999999999999", "5")),
            ],
            ESTIMATE,
        ),
    ),
    (
        "beyond any context",
        1,
        (usage!("4294967296", "5"), ESTIMATE),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("4294967296", "5")),
            ],
            ESTIMATE,
        ),
    ),
    (
        "no prompt",
        1,
        ("{\"completion_tokens\":5}", ESTIMATE),
        (
            &[("word 0", ""), ("finish 0", "{\"completion_tokens\":5}")],
            ESTIMATE,
        ),
    ),
    (
        "a prompt of zero",
        1,
        (usage!("0", "5"), ESTIMATE),
        (&[("word 0", ""), ("finish 0", usage!("0", "5"))], ESTIMATE),
    ),
    // The prompt is known: 4 * 0.4 + 3 * 0.1 + 2 * 1.6 = 5.1.
    (
        "no tokens of the answer",
        1,
        (usage!("7", "0", "3"), "1006 7/3/2 no_usage"),
        (
            &[("word 0", ""), ("finish 0", usage!("7", "0", "3"))],
            "1006 7/3/2 no_usage",
        ),
    ),
    (
        "odd tokens of the answer",
        1,
        (usage!("7", "-4", "3"), "1006 7/3/2 no_usage"),
        (
            &[("word 0", ""), ("finish 0", usage!("7", "2.5", "3"))],
            "1006 7/3/2 no_usage",
        ),
    ),
    (
        "as it should be",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[("word 0", ""), ("finish 0", ""), ("-", usage!("10", "5"))],
            KNOWN,
        ),
    ),
    (
        "beside choices",
        1,
        (usage!("10", "5"), KNOWN),
        (&[("word 0", ""), ("finish 0", usage!("10", "5"))], KNOWN),
    ),
    (
        "beside the only word",
        1,
        (usage!("10", "5"), KNOWN),
        (&[("word 0", usage!("10", "5")), ("finish 0", "")], KNOWN),
    ),
    // 4 * 0.4 + 32 * 0.1 + 6 * 1.6 = 14.4
    (
        "cached inside",
        1,
        (usage!("36", "6", "32"), "1015 36/32/6"),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("36", "6", "32")),
            ],
            "1015 36/32/6",
        ),
    ),
    // All of the prompt: 10 * 0.1 + 5 * 1.6 = 9.
    (
        "more cached than there is",
        1,
        (usage!("10", "5", "99"), "1009 10/10/5"),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("10", "5", "99")),
            ],
            "1009 10/10/5",
        ),
    ),
    (
        "an odd number of cached",
        1,
        (usage!("10", "5", "-1"), KNOWN),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("10", "5", "null")),
            ],
            KNOWN,
        ),
    ),
    // What is held: (40 + 512) * 0.4 + 10 * 1.6 = 236.8.
    (
        "larger than the hold",
        1,
        (usage!("1000000", "1000000"), "1237 1000000/0/1000000"),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("1000000", "1000000")),
            ],
            "1237 1000000/0/1000000",
        ),
    ),
    (
        "the largest that can be read",
        1,
        (
            usage!("4294967295", "4294967295", "4294967295"),
            "1237 4294967295/4294967295/4294967295",
        ),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("4294967295", "4294967295")),
            ],
            "1237 4294967295/0/4294967295",
        ),
    ),
    (
        "twice",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", ""),
                ("finish 0", usage!("10", "4")),
                ("-", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "twice the same",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("-", usage!("10", "5")),
                ("-", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "zeros before it is known",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", usage!("0", "0")),
                ("finish 0", usage!("0", "0")),
                ("-", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "zeros after it was known",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", ""),
                ("finish 0", usage!("10", "5")),
                ("-", usage!("0", "0")),
            ],
            KNOWN,
        ),
    ),
    (
        "running totals",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", usage!("10", "1")),
                ("word 0", usage!("10", "3")),
                ("word 0", usage!("10", "4")),
                ("finish 0", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "running totals and their last",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("word 0", usage!("10", "1")),
                ("finish 0", usage!("10", "4")),
                ("-", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "before the content",
        1,
        ("", ESTIMATE),
        (
            &[("-", usage!("10", "5")), ("word 0", ""), ("finish 0", "")],
            ESTIMATE,
        ),
    ),
    (
        "before the content and after it",
        1,
        (usage!("10", "5"), KNOWN),
        (
            &[
                ("-", usage!("900", "900")),
                ("word 0", ""),
                ("finish 0", usage!("10", "5")),
            ],
            KNOWN,
        ),
    ),
    (
        "without content",
        0,
        (usage!("10", "5"), "200 free"),
        (&[("finish 0", ""), ("-", usage!("10", "5"))], "200 free"),
    ),
    // The first of three choices, of whose texts this server counts 3 * 2 tokens: 4 + 6 * 1.6 = 13.6.
    (
        "of the first of three",
        3,
        (usage!("10", "4"), "1014 10/0/6 no_usage"),
        (
            &[
                ("word 0", ""),
                ("word 1", ""),
                ("word 2", ""),
                ("finish 0", usage!("10", "4")),
                ("finish 1", ""),
                ("finish 2", ""),
            ],
            "1014 10/0/6 no_usage",
        ),
    ),
    (
        "of all three",
        3,
        (usage!("10", "9"), "1019 10/0/9"),
        (
            &[
                ("word 0", ""),
                ("word 1", ""),
                ("word 2", ""),
                ("finish 0", ""),
                ("finish 1", ""),
                ("finish 2", ""),
                ("-", usage!("10", "9")),
            ],
            "1019 10/0/9",
        ),
    ),
    (
        "of each of three beside it",
        3,
        ("", "1014 10/0/6 no_usage"),
        (
            &[
                ("word 0", ""),
                ("word 1", ""),
                ("finish 1", usage!("10", "2")),
                ("word 2", ""),
                ("finish 2", usage!("10", "3")),
                ("finish 0", usage!("10", "4")),
            ],
            "1019 10/0/9",
        ),
    ),
    (
        "of each of three after it",
        3,
        ("", "1014 10/0/6 no_usage"),
        (
            &[
                ("word 0", ""),
                ("word 1", ""),
                ("finish 1", ""),
                ("-", usage!("10", "2")),
                ("word 2", ""),
                ("finish 2", ""),
                ("-", usage!("10", "3")),
                ("finish 0", ""),
                ("-", usage!("10", "4")),
            ],
            "1019 10/0/9",
        ),
    ),
    (
        "running totals of three",
        3,
        ("", "1014 10/0/6 no_usage"),
        (
            &[
                ("word 0", usage!("10", "1")),
                ("word 1", usage!("10", "1")),
                ("word 0", usage!("10", "2")),
                ("word 2", usage!("10", "1")),
                ("finish 0", usage!("10", "3")),
                ("finish 1", usage!("10", "3")),
                ("finish 2", usage!("10", "3")),
                ("-", usage!("10", "9")),
            ],
            "1019 10/0/9",
        ),
    ),
    (
        "running totals of three without their sum",
        3,
        ("", "1014 10/0/6 no_usage"),
        (
            &[
                ("word 0", usage!("10", "1")),
                ("word 1", usage!("10", "1")),
                ("word 0", usage!("10", "2")),
                ("word 2", usage!("10", "1")),
                ("finish 0", usage!("10", "3")),
                ("finish 1", usage!("10", "3")),
                ("finish 2", usage!("10", "3")),
            ],
            "1019 10/0/9",
        ),
    ),
    // 3 * 10 tokens were held: (40 + 512) * 0.4 + 30 * 1.6 = 268.8.
    (
        "of three, larger than the hold",
        3,
        (usage!("10", "4000"), "1269 10/0/4000"),
        (
            &[
                ("word 0", ""),
                ("finish 0", ""),
                ("finish 1", ""),
                ("finish 2", ""),
                ("-", usage!("10", "4000")),
            ],
            "1269 10/0/4000",
        ),
    ),
    // A server that makes one choice, however many it is asked for.
    (
        "of one of three",
        3,
        ("", "1014 10/0/6 no_usage"),
        (
            &[("word 0", ""), ("finish 0", ""), ("-", usage!("10", "5"))],
            KNOWN,
        ),
    ),
];

/// The body of a row's answer.
fn answer(row: &Row, is_stream: bool) -> String {
    let (_, choices, (usage, _), (events, _)) = row;
    let member = |usage: &str| match usage {
        "" => String::new(),
        usage => format!(",\"usage\":{usage}"),
    };
    if !is_stream {
        let text = if *choices == 0 { "" } else { "part" };
        let choice = |index| {
            json!({ "index": index, "message": { "content": text }, "finish_reason": "stop" })
                .to_string()
        };
        let choices: Vec<_> = (0..*choices.max(&1)).map(choice).collect();
        return format!("{{\"choices\":[{}]{}}}", choices.join(","), member(usage));
    }
    let event = |(what, usage): &(&str, &str)| {
        let choice = match what.split_once(' ') {
            None => String::new(),
            Some(("word", index)) => {
                format!("{{\"index\":{index},\"delta\":{{\"content\":\"part\"}}}}")
            }
            Some((_, index)) => {
                format!("{{\"index\":{index},\"delta\":{{}},\"finish_reason\":\"stop\"}}")
            }
        };
        format!("data: {{\"choices\":[{choice}]{}}}\n\n", member(usage))
    };
    let events: String = events.iter().map(event).collect();
    events + "data: [DONE]\n\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn each_odd_usage_has_its_charge_of_a_whole_answer_and_of_a_stream() {
    let upstream = Upstream::start(|seen| {
        let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        let at = body["messages"][0]["content"].as_str();
        let Some(row) = at.and_then(|at| ROWS.get(at.parse::<usize>().ok()?)) else {
            return Scripted::whole(404, "no");
        };
        Scripted::whole(200, answer(row, body["stream"] == true))
    })
    .await;
    let server = TestServer::start(priced(&upstream, 10)).await;
    let caller = server.payer(W1, 5).await;
    let mut wrong = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        let (name, choices, (_, whole), (_, stream)) = row;
        for (is_stream, expected) in [(false, whole), (true, stream)] {
            let messages = json!([{ "role": "user", "content": format!("{at:02}") }]);
            let asked = json!({ "n": choices.max(&1), "stream": is_stream, "messages": messages });
            let found = charged(&server, &caller, &asked).await;
            if found != *expected {
                wrong.push(format!(
                    "{name}, stream {is_stream}: {found}, not {expected}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    server.assert_ledger_adds_up().await;
}

/// Answers of real servers, and the charge of each. A prompt has 38 bytes and those of the name.
const FIXTURES: [(&str, &str); 28] = [
    ("answer.openai.json", "1012 4/0/6"),
    ("answer.llamacpp.json", "1011 4/2/6"),
    // Of four choices it counts the first, with eight tokens; the JSON of their texts has 14, 14, 15 and 15 bytes.
    ("answer-array-n2.llamacpp.json", "1028 4/0/16 no_usage"),
    ("answer-limit.vllm.json", "1040 4/0/24"),
    ("answer-cached.vllm.json", "1015 36/32/6"),
    ("answer.sglang.json", "1012 4/0/6"),
    ("answer.ollama.json", "1012 4/0/6"),
    ("answer.localai.json", "1012 4/0/6"),
    ("answer-empty.vllm.json", "200 free"),
    ("stream.openai.sse", "1012 4/0/6"),
    ("stream.llamacpp.sse", "1011 4/2/6"),
    ("stream-n2.llamacpp.sse", "1026 4/0/15"),
    ("chat-stream-n3.llamacpp.sse", "1018 26/25/9"),
    ("stream.vllm.sse", "1012 4/0/6"),
    ("stream-continuous.vllm.sse", "1012 4/0/6"),
    ("stream.sglang.sse", "1012 4/0/6"),
    ("stream.ollama.sse", "1012 4/0/6"),
    ("stream.localai.sse", "1012 4/0/6"),
    ("stream-nousage.vllm.sse", "1019 15/0/8 no_usage"),
    ("stream-ping.llamacpp.sse", "1005 4/0/2"),
    ("stream-error.openai.sse", "1008 15/0/1 cut"),
    ("stream-error.llamacpp.sse", "1008 15/0/1 cut"),
    ("stream-error.vllm.sse", "1008 14/0/1 cut"),
    ("stream-silent-error.vllm.sse", "502 free"),
    ("stream-error.sglang.sse", "1008 15/0/1 cut"),
    ("stream-error.ollama.sse", "1008 15/0/1 cut"),
    ("stream-cut.sse", "1007 13/0/1 cut"),
    // An error that is written as text looks like an answer.
    ("stream-error.localai.sse", "1027 15/0/13 no_usage"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_real_server_has_its_charge() {
    let upstream = Upstream::start(|seen| {
        let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        match body["messages"][0]["content"].as_str() {
            Some(name) => Scripted::whole(200, fixture(&format!("completions/{name}"))),
            None => Scripted::whole(404, "no"),
        }
    })
    .await;
    let mut config = priced(&upstream, 64);
    config.breaker.consecutive_failures = 1_000;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 5).await;
    let mut wrong = Vec::new();
    for (name, expected) in FIXTURES {
        let choices = match name {
            "answer-array-n2.llamacpp.json" => 4,
            "stream-n2.llamacpp.sse" => 2,
            "chat-stream-n3.llamacpp.sse" => 3,
            _ => 1,
        };
        let messages = json!([{ "role": "user", "content": name }]);
        let asked = json!({ "n": choices, "stream": name.ends_with(".sse"), "messages": messages });
        let found = charged(&server, &caller, &asked).await;
        if found != expected {
            wrong.push(format!("{name}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_known_to_count_all_choices_is_believed() {
    for (server_header, expected) in [
        ("uvicorn", "1014 10/0/6"),
        ("llama.cpp", "1068 10/0/40 no_usage"),
        ("", "1068 10/0/40 no_usage"),
    ] {
        let upstream = RawUpstream::start(move |request| {
            if !request.is("POST /v1/chat/completions") {
                return RawAnswer::new("HTTP/1.1 404 Not Found\r\n\r\n", Then::Close);
            }
            // Two times 80 bytes of JSON are 20 tokens each by this server's count.
            let text = "x".repeat(78);
            let choice = |index| json!({ "index": index, "message": { "content": text } });
            let usage = json!({ "prompt_tokens": 10, "completion_tokens": 6 });
            let body = json!({ "choices": [choice(0), choice(1)], "usage": usage }).to_string();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: {server_header}\r\nContent-Length: {length}\r\n\r\n"
            );
            RawAnswer::new(head + &body, Then::Close)
        })
        .await;
        let mut config = crate::support::config_with_nodes("openai", &[upstream.url()]);
        terms(&mut config, 64);
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 5).await;
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let asked = json!({ "n": 2, "messages": messages });
        let found = charged(&server, &caller, &asked).await;
        assert_eq!(found, expected, "{server_header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_whole_answer_without_any_usage_raises_the_alert_and_one_with_it_ends_it() {
    let upstream = Upstream::start(|seen| {
        let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"part\"}}]}\n\n";
        let at = |name| ROWS.iter().find(|row| row.0 == name).unwrap();
        match body["messages"][0]["content"].as_str() {
            None => Scripted::whole(404, "no"),
            Some("cut") => Scripted::whole(200, word),
            Some(name) => Scripted::whole(200, answer(at(name), body["stream"] == true)),
        }
    })
    .await;
    let server = TestServer::start(priced(&upstream, 10)).await;
    let caller = server.payer(W1, 5).await;
    let firing_after = async |name: &str, choices: u32, is_stream: bool| {
        let messages = json!([{ "role": "user", "content": name }]);
        let asked = json!({ "n": choices, "stream": is_stream, "messages": messages });
        charged(&server, &caller, &asked).await;
        server.admin().get("/alerts").await.expect(200);
        server.clock.advance(Duration::from_secs(61));
        let alerts = server.admin().get("/alerts").await.expect(200);
        alerts["firing"].as_array().unwrap().clone()
    };
    for (name, choices, is_stream) in [
        ("as it should be", 1, false),
        ("as it should be", 1, true),
        ("of the first of three", 3, false),
        ("without content", 1, false),
        ("cut", 1, true),
    ] {
        let firing = firing_after(name, choices, is_stream).await;
        assert_eq!(firing, Vec::<Value>::new(), "{name}");
    }
    for is_stream in [false, true] {
        let firing = firing_after("none", 1, is_stream).await;
        let alert = [&firing[0]["name"], &firing[0]["subject"]];
        assert_eq!(alert, ["no_usage", "node"], "{firing:?}");
        // What says nothing does not end it.
        let firing = firing_after("cut", 1, true).await;
        assert_eq!(firing[0]["name"], "no_usage");
        let firing = firing_after("as it should be", 1, is_stream).await;
        assert_eq!(firing, Vec::<Value>::new());
    }
}
