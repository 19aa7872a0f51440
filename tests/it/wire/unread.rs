//! Bodies that come late, too late, or after a refusal; and clients that close their side after the request.

use super::{BODY, NEXT, REFUSED, Raw, Wire, write};
use crate::endpoint_guard::{essential, script};
use crate::support::{TestServer, Upstream, W1, config, config_with_inference};

/// Requests that are refused before their bodies are read, but for the headers that frame these.
fn refused_early(server: &TestServer) -> Vec<(String, u16)> {
    let of = |line: &str, more: &str| format!("POST {line} HTTP/1.1\r\nHost: localhost\r\n{more}");
    let key = format!("X-API-Key: {}\r\n", server.admin().key());
    // What looks like a key in the query.
    let keyed = format!("/users?a={}", server.admin().key());
    vec![
        (of("/users", ""), 401),
        (of("/nothing", ""), 404),
        (of("/v1/nothing", &key), 404),
        (of("/v1/messages", ""), 401),
        (of("/livez", ""), 405),
        (of(&keyed, &key), 400),
        (
            of("/users", &format!("{key}Content-Encoding: gzip\r\n")),
            415,
        ),
        (
            of("/users", &format!("{key}Origin: https://a.example\r\n")),
            403,
        ),
    ]
}

/// The two framings of [`BODY`].
fn framed() -> [(String, String); 2] {
    [
        ("Content-Length: 22\r\n\r\n".to_owned(), BODY.to_owned()),
        (
            "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            format!("16\r\n{BODY}\r\n0\r\n\r\n"),
        ),
    ]
}

#[tokio::test]
async fn the_next_request_is_answered_though_a_small_body_comes_after_its_refusal() {
    let server = TestServer::start(config()).await;
    for (head, status) in refused_early(&server) {
        for (framing, body) in framed() {
            let mut wire = Wire::with(&server, format!("{head}{framing}")).await;
            // It comes in pieces, when the head was read long ago.
            let (first, rest) = body.split_at(5);
            for piece in [first, rest] {
                tokio::task::yield_now().await;
                wire.send(piece).await;
            }
            let answer = wire.answer().await;
            assert_eq!(answer.status(), status, "{head}{}", answer.head);
            assert_eq!(answer.header("connection"), "", "{head}");
            wire.goes_on().await;
        }
    }
}

#[tokio::test]
async fn a_body_that_no_handler_reads_is_drained_after_a_success_too() {
    let server = TestServer::start(config()).await;
    for (framing, body) in framed() {
        let head = format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\n{framing}");
        let mut wire = Wire::with(&server, head).await;
        wire.send(body).await;
        wire.answer().await.fine();
        wire.goes_on().await;
    }
}

#[tokio::test]
async fn a_refusal_says_that_it_closes_where_the_body_does_not_end() {
    let server = TestServer::start(config()).await;
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    for (head, status) in refused_early(&server) {
        for (framing, body) in [
            ("Content-Length: 22\r\n\r\n", ""),
            ("Content-Length: 22\r\n\r\n", "{"),
            ("Content-Length: 65537\r\n\r\n", ""),
            ("Content-Length: 22\r\nExpect: 100-continue\r\n\r\n", ""),
            ("Transfer-Encoding: chunked\r\n\r\n", "16\r\n{"),
            ("Transfer-Encoding: chunked\r\n\r\n", &chunk.repeat(3)),
        ] {
            let mut wire = Wire::with(&server, format!("{head}{framing}{body}")).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status(), status, "{head}{}", answer.head);
            assert_eq!(answer.header("connection"), "close", "{head}{framing}");
            wire.closed().await;
        }
    }
}

/// The answers to what is sent in one piece before the client closes its side.
async fn half_closed(server: &TestServer, sent: &str, count: usize) -> Vec<Raw> {
    let mut wire = Wire::with(server, sent).await;
    wire.end().await;
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(wire.answer().await);
    }
    wire.closed().await;
    answers
}

#[tokio::test]
async fn a_half_closed_request_is_answered_where_it_costs_nothing() {
    let server = TestServer::start(config()).await;
    let key = server.admin().key().to_owned();
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n");
    for path in [
        "/readyz",
        "/v1/models",
        "/metrics",
        "/users",
        "/admin/audit",
    ] {
        let answers = half_closed(&server, &get(path), 1).await;
        answers[0].fine();
    }
    let answers = half_closed(&server, &get("/nothing"), 1).await;
    answers[0].refused(404, "not_found");
    // A write is read whole first.
    for (framing, body) in framed() {
        let sent = format!("{}{framing}{body}", write(&server));
        half_closed(&server, &sent, 1).await[0].refused(400, REFUSED);
    }
    let made = format!("{{\"wallet_address\":\"{W1}\"}}");
    let sent = format!(
        "{}Content-Length: {}\r\n\r\n{made}",
        write(&server),
        made.len()
    );
    assert_eq!(half_closed(&server, &sent, 1).await[0].status(), 201);
    // Several on one connection, too.
    let several = format!("{}{NEXT}{}", get("/users"), get("/readyz"));
    for answer in half_closed(&server, &several, 3).await {
        answer.fine();
    }
}

#[tokio::test]
async fn a_half_closed_request_that_pays_is_answered_whole_and_as_a_stream() {
    let upstream = Upstream::inference(script).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 99).await;
    let mut left = server.balance(W1).await;
    for (path, streams) in [
        ("/v1/completions", false),
        ("/v1/embeddings", false),
        ("/v1/rerank", false),
        ("/v1/responses", true),
        ("/v1/messages", true),
    ] {
        for stream in ["", ",\"stream\":true"]
            .iter()
            .take(1 + usize::from(streams))
        {
            let body = format!("{{{}{stream}}}", essential(path));
            let sent = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
                caller.key(),
                body.len()
            );
            let answers = half_closed(&server, &sent, 1).await;
            assert_eq!(
                answers[0].status(),
                200,
                "{path}{stream}: {}",
                answers[0].head
            );
            let now = server.balance(W1).await;
            assert!(now < left, "{path}{stream}");
            left = now;
        }
    }
}
