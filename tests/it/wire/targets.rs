use super::{NEXT, Wire};
use crate::support::{TestServer, config};

/// Asks for a target and, on the same connection, for the next one.
async fn ask(server: &TestServer, line: impl AsRef<[u8]>) -> (super::Raw, Wire) {
    let mut request = line.as_ref().to_vec();
    request.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\n\r\n");
    request.extend_from_slice(NEXT.as_bytes());
    let mut wire = Wire::with(server, request).await;
    (wire.answer().await, wire)
}

#[tokio::test]
async fn a_path_is_compared_as_it_was_written() {
    let server = TestServer::start(config()).await;
    // Nothing is decoded, collapsed or resolved: two spellings of one route would bypass a proxy's rules. A slash at the end of a
    // client's base address is the one exception, and not for the operator's routes.
    for path in [
        "/%6civez",
        "/livez/",
        "//metrics",
        "//alerts",
        "//admin/audit",
        "//",
        "/./livez",
        "/users/../livez",
        "/users/%2e%2e/livez",
        "/users/%2e%2e/%2e%2e/livez",
        "/LIVEZ",
        "/livez;a",
        "/livez%00",
        "/\u{2603}",
    ] {
        let (answer, mut wire) = ask(&server, format!("GET {path}")).await;
        answer.refused(404, "not_found");
        wire.answer().await.next();
    }
    // A bare word is read as the name of a host, as in CONNECT, and it is not ours.
    let (answer, mut wire) = ask(&server, "GET livez").await;
    answer.refused(421, "wrong_host");
    wire.answer().await.next();
    // hyper drops a fragment, which no client sends.
    for path in ["/livez", "/livez?", "/livez#part", "//livez"] {
        let (answer, mut wire) = ask(&server, format!("GET {path}")).await;
        answer.fine();
        wire.answer().await.next();
    }
}

#[tokio::test]
async fn an_invalid_wallet_in_a_path_is_refused() {
    let server = TestServer::start(config()).await;
    for part in [
        "%2e%2e",
        "..",
        "%00",
        "\u{F6}",
        "%ff%fe",
        "{wallet}",
        "a%2fledger",
    ] {
        let (answer, mut wire) = ask(&server, format!("GET /users/{part}")).await;
        answer.refused(400, "invalid_wallet_address");
        wire.answer().await.next();
    }
}

#[tokio::test]
async fn a_target_with_invalid_characters_is_refused() {
    let server = TestServer::start(config()).await;
    for target in [
        &b"/users/\xff"[..],
        b"/\xc3\x28",
        b"/livez\x7f",
        b"/<a>\"",
        b"?a",
        b"/a\0",
        b"http://",
    ] {
        let line = [b"GET ", target].concat();
        let request = [&line[..], b" HTTP/1.1\r\n\r\n", NEXT.as_bytes()].concat();
        let wire = Wire::with(&server, request).await;
        wire.bare(&String::from_utf8_lossy(target), 400).await;
    }
}

#[tokio::test]
async fn an_absolute_form_target_is_routed_by_its_path() {
    let server = TestServer::start(config()).await;
    let base = server.base.clone();
    // RFC 9112, 3.2.2: a server must take it, though only a proxy is sent it.
    // An address without a path is that of the page.
    for address in [
        format!("{base}/livez"),
        format!("{base}//livez"),
        base.clone(),
    ] {
        let (answer, mut wire) = ask(&server, format!("GET {address}")).await;
        answer.fine();
        wire.answer().await.next();
    }
    let (answer, mut wire) = ask(&server, format!("GET {base}/livez//")).await;
    answer.refused(404, "not_found");
    wire.answer().await.next();
}

#[tokio::test]
async fn proxy_targets_and_methods_are_refused_and_the_connection_stays_usable() {
    let server = TestServer::start(config()).await;
    for line in [
        "OPTIONS *",
        "GET *",
        "GET 127.0.0.1:80",
        "CONNECT 127.0.0.1:80",
        "TRACE /nothing",
    ] {
        let (answer, mut wire) = ask(&server, line).await;
        answer.refused(404, "not_found");
        wire.answer().await.next();
    }
    // Methods are case-sensitive.
    for line in [
        "CONNECT /livez",
        "get /livez",
        "TRACE /livez",
        "X-ODD /livez",
    ] {
        let (answer, mut wire) = ask(&server, line).await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "GET, HEAD", "{line}");
        wire.answer().await.next();
    }
}
