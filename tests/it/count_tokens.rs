//! `POST /v1/messages/count_tokens`: by the server of the model where that counts, else by an estimate; free.

use std::time::{Duration, Instant};

use hyper::{HeaderMap, Method};
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{
    Caller, Scripted, TestServer, Upstream, W1, config_with_inference, config_with_rate,
};

const PATH: &str = "/v1/messages/count_tokens";

/// What Claude Code sends beside the body.
const HEADERS: [(&str, &str); 2] = [
    ("anthropic-version", "2023-06-01"),
    (
        "anthropic-beta",
        "claude-code-20250219,token-counting-2024-11-01",
    ),
];

fn message() -> Value {
    json!({
        "model": "general", "system": [{ "type": "text", "text": "Be short." }],
        "messages": [{ "role": "user", "content": "Say hi." }],
        "tools": [{ "name": "get_power", "input_schema": { "type": "object", "properties": {} } }],
        "tool_choice": { "type": "auto" }, "thinking": { "type": "enabled", "budget_tokens": 1024 },
        "metadata": { "user_id": "7" },
    })
}

async fn ask(caller: &Caller, body: &Value) -> (u16, HeaderMap, Value) {
    let path = format!("{PATH}?beta=true");
    let answer = caller
        .send(Method::POST, &path, &HEADERS, body.to_string())
        .await;
    let json = serde_json::from_slice(&answer.body).unwrap();
    (answer.status, answer.headers, json)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_the_model_counts_and_nothing_is_charged() {
    for (counted, tokens) in [
        (r#"{"input_tokens":42}"#, 42),
        (
            r#"{"input_tokens":7,"context_management":{"original_input_tokens":42}}"#,
            7,
        ),
    ] {
        let upstream = Upstream::start(move |seen| match &*seen.path {
            PATH => Scripted::whole(200, counted),
            _ => Scripted::whole(404, "no"),
        })
        .await;
        let mut config = config_with_inference("openai", &upstream);
        config.inference[0].model = "tiny".to_owned();
        let server = TestServer::start(config).await;
        // Without a credit.
        let caller = server.caller(W1, &["chat"]).await;
        let (status, headers, answer) = ask(&caller, &message()).await;
        assert_eq!(
            (status, answer),
            (200, json!({ "input_tokens": tokens })),
            "{counted}"
        );
        assert_eq!(headers["request-id"], headers["x-request-id"]);
        let seen = upstream.seen(PATH);
        assert_eq!(seen.len(), 1);
        let body: Value = serde_json::from_str(&seen[0].body).unwrap();
        let mut expected = message();
        expected["model"] = "tiny".into();
        expected["stream"] = false.into();
        expected.as_object_mut().unwrap().remove("metadata");
        assert_eq!(body, expected, "all that its template may read");
        let is_anthropics =
            |(name, _): (&hyper::header::HeaderName, _)| name.as_str().starts_with("anthropic");
        assert!(!seen[0].headers.iter().any(is_anthropics));
        assert_eq!(server.balance(W1).await, Credits::ZERO);
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_answers_where_no_server_counts_or_none_in_time() {
    // `messages` and its JSON have 46 bytes, of which four are a token.
    let body =
        json!({ "model": "general", "messages": [{ "role": "user", "content": "Say hi." }] });
    for (status, answer) in [
        (404, "404 page not found"),
        (405, "{}"),
        (501, "{}"),
        (500, "{}"),
        (503, r#"{"error":"Loading model"}"#),
        (400, r#"{"error":{"message":"roles must alternate"}}"#),
        (200, r#"{"error":"Unexpected endpoint or method"}"#),
        (200, r#"{"input_tokens":0}"#),
        (0, ""),
    ] {
        let upstream = Upstream::start(move |seen| match &*seen.path {
            PATH if status == 0 => Scripted::silent(),
            PATH => Scripted::whole(status, answer),
            _ => Scripted::whole(200, r#"{"data":[{"id":"tiny"}]}"#),
        })
        .await;
        let server = TestServer::start(config_with_inference("openai", &upstream)).await;
        let caller = server.caller(W1, &["chat"]).await;
        let began = Instant::now();
        let (got, _, counted) = ask(&caller, &body).await;
        assert_eq!(
            (got, counted),
            (200, json!({ "input_tokens": 12 })),
            "{status} {answer}"
        );
        assert!(
            (began.elapsed() >= Duration::from_secs(2)) == (status == 0),
            "{status} {answer}"
        );
        // Whatever it answers, it may answer messages.
        let health = server.anybody().get("/health").await.expect(200);
        assert_eq!(health["breakers"][0]["state"], "CLOSED", "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_an_answer_is_refused_by_its_name() {
    let upstream = Upstream::inference(|_| Scripted::whole(404, "no")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.caller(W1, &["chat"]).await;
    for (name, value) in [
        ("max_tokens", json!(5)),
        ("stream", json!(false)),
        ("temperature", json!(0.5)),
        ("top_p", json!(0.5)),
        ("top_k", json!(5)),
        ("stop_sequences", json!(["x"])),
        ("n_predict", json!(5)),
        ("mcp_servers", json!([])),
    ] {
        let mut body = message();
        body[name] = value;
        let (status, _, answer) = ask(&caller, &body).await;
        let detail = answer["error"]["message"].as_str().unwrap_or_default();
        let expected = format!("{name} is not supported: ");
        assert!(status == 400 && detail.starts_with(&expected), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        // Clients that write every member they know.
        body[name] = Value::Null;
        assert_eq!(ask(&caller, &body).await.0, 200, "{name}");
    }
    for (body, status, kind) in [
        (json!({ "model": "general" }), 400, "invalid_request_error"),
        (json!([]), 400, "invalid_request_error"),
        (
            json!({ "model": "general", "messages": [] }),
            400,
            "invalid_request_error",
        ),
        (
            json!({ "model": "gpt-9", "messages": message()["messages"] }),
            404,
            "not_found_error",
        ),
    ] {
        let (got, headers, answer) = ask(&caller, &body).await;
        assert_eq!((got, &answer["error"]["type"]), (status, &kind.into()));
        assert_eq!(answer["type"], "error");
        assert_eq!(
            answer["request_id"],
            headers["request-id"].to_str().unwrap()
        );
    }
    let other = server.caller(W1, &["read"]).await;
    let (status, _, answer) = ask(&other, &message()).await;
    assert_eq!(
        (status, &answer["error"]["type"]),
        (403, &"permission_error".into())
    );
    let (status, _, answer) = ask(&server.anybody(), &message()).await;
    assert_eq!(
        (status, &answer["error"]["type"]),
        (401, &"authentication_error".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_have_the_rate_of_reads() {
    let upstream = Upstream::inference(|_| Scripted::whole(404, "no")).await;
    let mut config = config_with_rate(r3mes_edge::limits::RateClass::Read);
    config.inference = config_with_inference("openai", &upstream).inference;
    let server = TestServer::start(config).await;
    let caller = server.caller(W1, &["chat"]).await;
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 5_000 {
        let (status, _, answer) = ask(&caller, &message()).await;
        if status == 429 {
            assert_eq!(answer["error"]["type"], "rate_limit_error");
        }
        statuses.push(status);
    }
    assert_eq!(statuses.pop(), Some(429));
    assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 200));
}
