//! The endpoints that are passed on: the answers of real servers, as their clients get them, against the document.

use std::path::Path;

use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{DOCUMENT, schema};
use crate::support::{Scripted, TestServer, Upstream, W1, config_with_inference};

/// An endpoint: the schema of its requests, a request, and the folder of the fixtures with its answers.
pub(super) struct Api {
    pub(super) path: &'static str,
    pub(super) request: &'static str,
    body: &'static str,
    fixtures: &'static str,
}

pub(super) const APIS: &[Api] = &[
    Api {
        path: "/v1/chat/completions",
        request: "ChatCompletionRequest",
        body: r#"{"messages":[{"role":"user","content":"hi"}]}"#,
        fixtures: "chat",
    },
    Api {
        path: "/v1/completions",
        request: "CompletionRequest",
        body: r#"{"prompt":"hi"}"#,
        fixtures: "completions",
    },
    Api {
        path: "/v1/embeddings",
        request: "EmbeddingsRequest",
        body: r#"{"input":"hi"}"#,
        fixtures: "embeddings",
    },
    Api {
        path: "/v1/messages",
        request: "MessagesRequest",
        body: r#"{"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#,
        fixtures: "messages",
    },
    Api {
        path: "/v1/rerank",
        request: "RerankRequest",
        body: r#"{"query":"hi","documents":["a","b"]}"#,
        fixtures: "rerank",
    },
    Api {
        path: "/v1/responses",
        request: "ResponsesRequest",
        body: r#"{"input":"hi"}"#,
        fixtures: "responses",
    },
];

/// The answers of servers to an endpoint: whether each is a stream, and its text.
fn answers(api: &Api) -> Vec<(String, bool, String)> {
    if api.fixtures == "chat" {
        let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "hello" }, "finish_reason": "stop" });
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        return vec![
            (
                "whole".to_owned(),
                false,
                json!({ "choices": [choice] }).to_string(),
            ),
            ("stream".to_owned(), true, stream.to_owned()),
        ];
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures")
        .join(api.fixtures);
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // One is of a chat, one of a request that is refused.
        if !name.starts_with("chat-") && name != "answer-native.llamacpp.json" {
            let is_stream = name.ends_with(".sse");
            found.push((name, is_stream, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// What came until the stream ended or broke off.
pub(super) async fn text_of(mut body: Incoming) -> String {
    use http_body_util::BodyExt;

    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(frame.data_ref().unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// Holds each event of a stream against the document.
#[track_caller]
fn check_events(api: &Api, what: &str, text: &str) {
    let content = &DOCUMENT["paths"][api.path]["post"]["responses"]["200"]["content"];
    let schema = &content["text/event-stream"]["schema"];
    for event in text.split_terminator("\n\n") {
        let mut fields = serde_json::Map::new();
        for line in event.lines().filter(|line| !line.starts_with(':')) {
            let (name, value) = line.split_once(": ").unwrap();
            let whole = match fields.get(name).and_then(Value::as_str) {
                Some(before) => format!("{before}\n{value}"),
                None => value.to_owned(),
            };
            fields.insert(name.to_owned(), whole.into());
        }
        let violations = match fields.is_empty() {
            true => Vec::new(),
            false => schema::violations(&DOCUMENT, schema, &fields.into()),
        };
        assert!(
            violations.is_empty(),
            "{} {what}: {violations:?} in {event}",
            api.path
        );
    }
}

/// Calls each endpoint for each answer that a server may give to it. The caller holds whole answers against the document
/// itself.
pub(super) async fn call_all() {
    for api in APIS {
        let mut given = (0, 0);
        for (what, is_stream, answer) in answers(api) {
            let upstream = Upstream::inference(move |_| match is_stream {
                true => {
                    let (scripted, frames) = Scripted::held();
                    frames.send(answer.clone());
                    scripted
                }
                false => Scripted::whole(200, answer.clone()),
            })
            .await;
            let server = TestServer::start(config_with_inference("openai", &upstream)).await;
            let payer = server.payer(W1, 1).await;
            let mut body: Value = serde_json::from_str(api.body).unwrap();
            if !is_stream {
                given.0 += u32::from(payer.post(api.path, &body).await.status == 200);
                continue;
            }
            body["stream"] = true.into();
            let (status, _, body) = payer
                .open(Method::POST, api.path, &[], body.to_string())
                .await;
            if status == 200 {
                given.1 += 1;
                check_events(api, &what, &text_of(body).await);
            }
        }
        let has_stream = DOCUMENT["paths"][api.path]["post"]["responses"]["200"]["content"]
            .get("text/event-stream")
            .is_some();
        assert!(
            given.0 > 0 && (given.1 > 0) == has_stream,
            "{} {given:?}",
            api.path
        );
    }
}

#[tokio::test]
async fn the_answers_of_every_server_are_documented_event_by_event() {
    call_all().await;
}
