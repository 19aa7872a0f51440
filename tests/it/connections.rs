//! Connections to inference servers that close unexpectedly.

use bytes::Bytes;
use hyper::Method;
use r3mes_edge::Config;
use serde_json::{Value, json};

use crate::chat::whole;
use crate::support::{
    Caller, RawAnswer, RawRequest, RawUpstream, TestServer, Then, W1, config_with_nodes,
};

const CHAT: &str = "POST /v1/chat/completions";

/// A whole answer as a stream or as JSON, on a connection without `Connection: close`.
fn answer(request: &RawRequest) -> RawAnswer {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let (kind, text) = match body["stream"] == true {
        true => (
            "text/event-stream",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        ),
        false => (
            "application/json",
            "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}",
        ),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}");
    RawAnswer::chunked(&head, &[text], Then::Keep)
}

fn config(upstream: &RawUpstream) -> Config {
    let mut config = config_with_nodes("openai", &[upstream.url()]);
    config.inference[0].model = "tiny".to_owned();
    config
}

/// The status and body of a chat as a text, as events or whole.
async fn ask(caller: &Caller, form: &str, message: &str) -> (u16, String) {
    let (path, body) = match form {
        "text" => ("/chat", json!({ "message": message })),
        form => {
            let messages = json!([{ "role": "user", "content": message }]);
            let body = json!({ "stream": form == "events", "messages": messages });
            ("/v1/chat/completions", body)
        }
    };
    let body = Bytes::from(body.to_string());
    let (status, _, body) = caller.open(Method::POST, path, &[], body).await;
    (status, whole(body).await.unwrap())
}

#[tokio::test]
async fn a_request_on_a_pooled_connection_that_closes_before_any_byte_is_retried() {
    for (form, then) in [
        ("text", Then::Close),
        ("events", Then::Close),
        ("whole", Then::Close),
        ("text", Then::Reset),
    ] {
        let upstream = RawUpstream::start(move |request| match request.on_connection {
            0 => answer(request),
            _ => RawAnswer::new("", then),
        })
        .await;
        let server = TestServer::start(config(&upstream)).await;
        let caller = server.payer(W1, 3).await;
        for _ in 0..3 {
            let (status, text) = ask(&caller, form, "hi").await;
            assert_eq!(status, 200, "{form} {then:?}: {text}");
            assert!(text.contains("hello"), "{text}");
        }
        let seen = upstream.seen(CHAT);
        let lost = seen.iter().filter(|request| request.on_connection > 0);
        // A connection that was opened for a retry is not pooled.
        assert_eq!((seen.len(), lost.count()), (4, 1), "{form} {then:?}");
        assert_eq!(server.balance(W1).await.micro(), 0);
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test]
async fn a_request_is_retried_one_time() {
    let upstream = RawUpstream::start(|request| match request.connection {
        0 if request.on_connection == 0 => answer(request),
        _ => RawAnswer::new("", Then::Close),
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 2).await;
    assert_eq!(ask(&caller, "text", "hi").await.0, 200);
    let (status, _) = ask(&caller, "text", "hi").await;
    assert_eq!((status, upstream.seen(CHAT).len()), (502, 3));
    assert_eq!(server.balance(W1).await.micro(), 1_000_000);
}

#[tokio::test]
async fn a_new_connection_that_closes_is_not_retried() {
    let upstream = RawUpstream::start(|_| RawAnswer::new("", Then::Close)).await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 1).await;
    for (sent, length) in [(1, 2), (2, 1_000_000)] {
        let (status, _) = ask(&caller, "events", &"x".repeat(length)).await;
        assert_eq!((status, upstream.seen(CHAT).len()), (502, sent));
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_in_its_head_is_not_retried() {
    let upstream = RawUpstream::start(|request| match request.on_connection {
        0 => answer(request),
        _ => RawAnswer::new("HTTP/1.", Then::Close),
    })
    .await;
    let server = TestServer::start(config(&upstream)).await;
    let caller = server.payer(W1, 2).await;
    assert_eq!(ask(&caller, "text", "hi").await.0, 200);
    let (status, _) = ask(&caller, "text", "hi").await;
    assert_eq!((status, upstream.seen(CHAT).len()), (502, 2));
}
