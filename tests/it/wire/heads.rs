use super::{NEXT, Wire};
use crate::support::{TestServer, config};

#[tokio::test]
async fn a_head_that_is_not_http_is_refused_without_a_body_and_the_connection_closed() {
    let server = TestServer::start(config()).await;
    for bytes in [
        "GET /livez HTTP/1.1\r\nX-A: folded\r\n value\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX-A : b\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX A: b\r\n\r\n",
        "GET /livez HTTP/1.1\r\n: b\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX-A: b\0c\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX-A: b\rc\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX-A\r\n\r\n",
        "GET  /livez HTTP/1.1\r\n\r\n",
        "GET /livez  HTTP/1.1\r\n\r\n",
        "G@T /livez HTTP/1.1\r\n\r\n",
        "GET /livez\r\n\r\n",
        "GET /livez HTTP/1.2\r\n\r\n",
        "GET /livez HTTP/2.0\r\n\r\n",
        // A TLS client hello.
        "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03",
    ] {
        let wire = Wire::with(&server, format!("{bytes}{NEXT}")).await;
        wire.bare(bytes, 400).await;
    }
    // A client that takes us for HTTP/2 without asking is left without an answer, as it could read none.
    let wire = Wire::with(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    wire.closed().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = TestServer::start(config()).await;
    let headers = |count: usize| {
        let lines: String = (0..count).map(|at| format!("X-{at}: a\r\n")).collect();
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
    };
    // With Host, the hundredth.
    let mut wire = Wire::with(&server, headers(99)).await;
    wire.answer().await.fine();
    wire.goes_on().await;
    let wire = Wire::with(&server, headers(100)).await;
    wire.bare("101 headers", 431).await;
    let long = "a".repeat(64 << 10);
    for (what, request) in [
        (
            "a long value",
            format!("GET /livez HTTP/1.1\r\nX-A: {long}"),
        ),
        ("a long name", format!("GET /livez HTTP/1.1\r\n{long}")),
        ("a long target", format!("GET /{long}")),
        ("a long method", long.clone()),
    ] {
        let wire = Wire::with(&server, request).await;
        wire.bare(what, 431).await;
    }
}

#[tokio::test]
async fn a_target_of_more_than_65534_bytes_is_refused() {
    let server = TestServer::start(config()).await;
    let long = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "a".repeat(length - 1)
        )
    };
    let mut wire = Wire::with(&server, long(40_000)).await;
    wire.answer().await.refused(404, "not_found");
    wire.goes_on().await;
    let mut wire = Wire::with(&server, long(65_535)).await;
    let answer = wire.answer().await;
    // Whether the buffer's bound or the target's is met first is up to how the kernel cut the bytes.
    assert!([414, 431].contains(&answer.status()), "{}", answer.head);
    assert_eq!(answer.header("connection"), "close");
    wire.closed().await;
}

#[tokio::test]
async fn unusual_valid_heads_are_accepted() {
    let server = TestServer::start(config()).await;
    for request in [
        // RFC 9112, 2.2 allows both; bodies are framed by exact bytes all the same.
        "GET /livez HTTP/1.1\nHost: localhost\n\n",
        "\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhOST:localhost\r\nX-A: \t b \t\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: \u{F6}\r\n\r\n",
        // Other protocols are not offered, so asking for one changes nothing.
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    ] {
        let mut wire = Wire::with(&server, request).await;
        wire.answer().await.fine();
        wire.goes_on().await;
    }
}

#[tokio::test]
async fn a_key_that_is_not_utf_8_is_invalid() {
    let server = TestServer::start(config()).await;
    for header in ["X-API-Key: ", "Authorization: Bearer ", "Authorization: "] {
        let mut request =
            format!("GET /auth/me HTTP/1.1\r\nHost: localhost\r\n{header}").into_bytes();
        request.extend_from_slice(b"\xff\xfe\r\n\r\n");
        let mut wire = Wire::with(&server, request).await;
        wire.answer().await.refused(401, "invalid_api_key");
        wire.goes_on().await;
    }
}

#[tokio::test]
async fn a_request_byte_by_byte_is_the_same_request() {
    let server = TestServer::start(config()).await;
    let mut wire = Wire::open(&server).await;
    for byte in NEXT.bytes() {
        wire.send([byte]).await;
        // The server takes what there is before the next byte follows.
        tokio::task::yield_now().await;
    }
    wire.answer().await.next();
    wire.goes_on().await;
}

#[tokio::test]
async fn nothing_follows_the_head_of_an_answer_to_head() {
    let server = TestServer::start(config()).await;
    for (path, status) in [("/livez", 200), ("/nothing", 404), ("/users/x", 400)] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n{NEXT}");
        let mut wire = Wire::with(&server, request).await;
        let head = wire.next_answer(true).await.unwrap();
        assert_eq!(head.status(), status);
        assert_ne!(head.header("content-length"), "0", "{path}");
        assert!(head.header("x-request-id").starts_with("req_"));
        // The bytes of a body would be in the place of the next status line.
        wire.answer().await.next();
    }
}

#[tokio::test]
async fn a_request_must_name_its_host_once() {
    let server = TestServer::start(config()).await;
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        let mut wire = Wire::with(&server, format!("GET /livez HTTP/1.1\r\n{hosts}\r\n")).await;
        wire.answer().await.refused(400, "invalid_request");
    }
    let request = "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut wire = Wire::with(&server, request).await;
    wire.answer().await.refused(421, "wrong_host");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed_unless_it_asks_to_stay() {
    let server = TestServer::start(config()).await;
    let request = format!("GET /livez HTTP/1.0\r\n\r\n{NEXT}");
    let mut wire = Wire::with(&server, request).await;
    wire.answer().await.fine();
    wire.closed().await;

    let request = "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut wire = Wire::with(&server, request).await;
    let answer = wire.answer().await;
    answer.fine();
    assert_eq!(answer.header("connection"), "keep-alive");
    wire.goes_on().await;

    let request =
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n{NEXT}");
    let mut wire = Wire::with(&server, request).await;
    let answer = wire.answer().await;
    answer.fine();
    assert_eq!(answer.header("connection"), "close");
    wire.closed().await;
}
