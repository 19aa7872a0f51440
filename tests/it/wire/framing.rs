use super::{BODY, NEXT, REFUSED, Wire, write};
use crate::support::{TestServer, W1, config};

/// The body as one chunk, and its end.
fn chunked() -> String {
    format!("16\r\n{BODY}\r\n0\r\n\r\n")
}

#[tokio::test]
async fn a_body_with_an_ambiguous_length_is_refused_and_the_connection_closed() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    for (framing, status) in [
        ("Content-Length: 22\r\nContent-Length: 5", 400),
        ("Content-Length: 22, 22", 400),
        ("Content-Length: +22", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x16", 400),
        ("Content-Length: ", 400),
        ("Content-Length: 99999999999999999999", 400),
        // hyper keeps the two largest numbers for itself and calls them too large a header; closed is closed.
        ("Content-Length: 18446744073709551615", 431),
        ("Transfer-Encoding: gzip", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding:\r\n chunked", 400),
    ] {
        let request = format!("{write}{framing}\r\n\r\n{BODY}{NEXT}");
        let wire = Wire::with(&server, request).await;
        wire.bare(framing, status).await;
    }
    let old = write.replace("HTTP/1.1", "HTTP/1.0");
    let request = format!("{old}Transfer-Encoding: chunked\r\n\r\n{}", chunked());
    let wire = Wire::with(&server, request).await;
    wire.bare("chunks in HTTP/1.0", 400).await;
}

#[tokio::test]
async fn a_body_in_another_coding_than_chunked_is_refused_and_the_connection_closed() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    for framing in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, GZIP, chunked",
    ] {
        let request = format!("{write}{framing}\r\n\r\n{}", chunked());
        let mut wire = Wire::with(&server, request).await;
        let answer = wire.answer().await;
        answer.refused(400, "invalid_request");
        wire.closed().await;
    }
    let request = format!("{write}Transfer-Encoding: Chunked\r\n\r\n{}", chunked());
    let answer = Wire::with(&server, request).await.answer().await;
    answer.refused(400, REFUSED);
}

#[tokio::test]
async fn a_content_length_beside_chunks_is_ignored_and_the_connection_closed() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    // RFC 9112, 6.1: the chunks win, and the connection must close after it, as a proxy before us may have read it by
    // the length.
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let request = format!("{write}{framing}\r\n\r\n{}{NEXT}", chunked());
        let mut wire = Wire::with(&server, request).await;
        let answer = wire.answer().await;
        answer.refused(400, REFUSED);
        assert_eq!(answer.header("connection"), "close");
        wire.closed().await;
    }
}

#[tokio::test]
async fn repeated_framing_headers_that_agree_are_accepted() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    // Chunked said twice is chunked once, to hyper. The frame is the same however it is read, so the next request is never
    // part of it.
    for (framing, body) in [
        ("Content-Length: 22\r\nContent-Length: 22", BODY),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            &chunked(),
        ),
        ("Transfer-Encoding: chunked, chunked", &chunked()),
        ("Transfer-Encoding: CHUNKED", &chunked()),
    ] {
        let request = format!("{write}{framing}\r\n\r\n{body}{NEXT}");
        let mut wire = Wire::with(&server, request).await;
        wire.answer().await.refused(400, REFUSED);
        wire.answer().await.next();
    }
}

/// Request smuggling: no unread byte of a body is ever read as a request.
#[tokio::test]
async fn bytes_of_an_unread_body_are_never_a_request() {
    let server = TestServer::start(config()).await;
    let account = format!("{{\"wallet_address\":\"{W1}\"}}");
    let length = account.len();
    let write = write(&server);
    let inner =
        format!("{write}X-Request-Id: smuggled\r\nContent-Length: {length}\r\n\r\n{account}");
    let large = inner.repeat(4000);
    let chunks = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let declared = |body: &str| (format!("Content-Length: {}", body.len()), body.to_owned());
    let in_chunks = |body: &str| ("Transfer-Encoding: chunked".to_owned(), chunks(body));
    let heads = [
        "POST /nothing HTTP/1.1\r\nHost: localhost",
        "PUT /users HTTP/1.1\r\nHost: localhost",
        "POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json",
        "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain",
        "GET /livez HTTP/1.1\r\nHost: localhost",
        "HEAD /livez HTTP/1.1\r\nHost: localhost",
        "POST /users?api_key=x HTTP/1.1\r\nHost: localhost",
        write.trim_end(),
    ];
    for head in heads {
        let two = format!("2\r\nab\r\n{}", chunks(&inner));
        for (framing, body) in [
            declared(&inner),
            declared(&large),
            in_chunks(&inner),
            in_chunks(&large),
            ("Transfer-Encoding: chunked".to_owned(), two),
        ] {
            let mut wire = Wire::open(&server).await;
            wire.send(format!("{head}\r\n{framing}\r\n\r\n{body}{NEXT}"))
                .await;
            let head_only = head.starts_with("HEAD");
            let first = wire.next_answer(head_only).await.unwrap();
            assert_ne!(first.header("x-request-id"), "smuggled", "{head}");
            // Either the body was skipped to its end, or nothing after it is read.
            if let Some(second) = wire.next_answer(false).await {
                second.next();
            }
        }
    }
    server
        .anybody()
        .get(&format!("/users/{W1}"))
        .await
        .refused(404, "user_not_found");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_errors_too() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    let mut requests = String::new();
    for turn in 0..20 {
        let id = format!("X-Request-Id: turn-{turn}\r\n");
        requests += &match turn % 4 {
            0 => format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{id}\r\n"),
            1 => format!("{write}{id}Content-Length: 22\r\n\r\n{BODY}"),
            2 => format!("GET /nothing HTTP/1.1\r\nHost: localhost\r\n{id}\r\n"),
            // Chunks that are read, with a trailer that is dropped.
            _ => format!(
                "{write}{id}Transfer-Encoding: chunked\r\n\r\n16\r\n{BODY}\r\n0\r\nX-T: 1\r\n\r\n"
            ),
        };
    }
    let mut wire = Wire::with(&server, requests).await;
    for turn in 0..20 {
        let answer = wire.answer().await;
        assert_eq!(answer.header("x-request-id"), format!("turn-{turn}"));
        match turn % 4 {
            0 => answer.fine(),
            2 => answer.refused(404, "not_found"),
            _ => answer.refused(400, REFUSED),
        }
    }
}

#[tokio::test]
async fn a_small_unread_body_is_skipped_and_the_connection_stays_open() {
    let server = TestServer::start(config()).await;
    for head in [
        "POST /nothing HTTP/1.1\r\nHost: localhost\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        let request = format!("{head}Content-Length: 22\r\n\r\n{BODY}{NEXT}");
        let mut wire = Wire::with(&server, request).await;
        let first = wire.answer().await;
        assert!(first.header("x-request-id").starts_with("req_"));
        wire.answer().await.next();
    }
}
