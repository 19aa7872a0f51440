use std::time::Duration;

use super::{BODY, Wire, write};
use crate::chat::held_inference;
use crate::support::{Caller, TestServer, W1, config, config_with_inference, eventually};

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_head_that_exceeds_its_timeout_closes_the_connection() {
    let mut config = config();
    config.limits.header_timeout = SHORT;
    let server = TestServer::start(config).await;
    // No 408: without a whole head there is no request to answer.
    for part in ["", "G", "GET /livez HTTP/1.1\r\nHost: localhost\r\n"] {
        let wire = Wire::with(&server, part).await;
        wire.closed().await;
    }
}

#[tokio::test]
async fn slow_bytes_do_not_extend_the_header_timeout() {
    let mut config = config();
    config.limits.header_timeout = SHORT;
    let server = TestServer::start(config).await;
    let mut wire = Wire::with(&server, "GET /livez HTTP/1.1\r\nX-A: ").await;
    let closed = async {
        // Until writing fails; the timeout of the test bounds it.
        while wire.write(b"a").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let closed = tokio::time::timeout(super::PATIENCE, closed).await;
    assert!(closed.is_ok(), "the server waits as long as bytes come");
}

#[tokio::test]
async fn a_body_that_exceeds_its_timeout_is_a_408() {
    let mut config = config();
    config.limits.body_timeout = SHORT;
    let server = TestServer::start(config).await;
    let write = write(&server);
    for body in [
        format!("Content-Length: 500\r\n\r\n{BODY}"),
        "Content-Length: 500\r\n\r\n".to_owned(),
        format!("Transfer-Encoding: chunked\r\n\r\n16\r\n{BODY}\r\n"),
        // A chunk may announce what it never brings: it is counted as it comes.
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_owned(),
    ] {
        let mut wire = Wire::with(&server, format!("{write}{body}")).await;
        wire.answer().await.refused(408, "request_timeout");
        wire.closed().await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut config = config();
    // Long enough for the first request, on a slow machine too.
    config.limits.header_timeout = Duration::from_millis(400);
    let server = TestServer::start(config).await;
    let mut wire = Wire::open(&server).await;
    wire.goes_on().await;
    wire.closed().await;
}

fn chat(caller: &Caller, version: &str) -> String {
    let body = "{\"message\":\"hello\"}";
    format!(
        "POST /chat HTTP/{version}\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        caller.key(),
        body.len()
    )
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_ends_its_chat_and_pays_nothing() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let before = server.balance(W1).await;
    let held_now = async |holds| (server.store.gauges().holds == holds).then_some(());
    for (version, leaves) in [("1.1", true), ("1.0", true), ("1.0", false)] {
        let mut wire = Wire::with(&server, chat(&caller, version)).await;
        let _frames = held.recv().await.unwrap();
        eventually("the price is held", async || held_now(1).await).await;
        match leaves {
            true => drop(wire),
            // Of HTTP/1.0, which knows no interim response, it cannot be distinguished from that.
            false => {
                wire.end().await;
                wire.closed().await;
            }
        }
        eventually("it is held no longer", async || held_now(0).await).await;
    }
    assert_eq!(server.balance(W1).await, before);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_client_that_half_closes_is_asked_whether_it_is_there_and_gets_its_answer() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let before = server.balance(W1).await;
    // As `nc -N` does.
    let mut wire = Wire::with(&server, chat(&caller, "1.1")).await;
    wire.end().await;
    let frames = held.recv().await.unwrap();
    for _ in 0..2 {
        assert_eq!(wire.answer().await.status(), 100);
    }
    frames.send_word("hi");
    frames.send_done();
    let answer = wire.answer().await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"hi\n"[..]));
    wire.closed().await;
    assert!(server.balance(W1).await < before);
}

#[tokio::test]
async fn slow_bodies_hold_no_in_flight_permit() {
    let mut config = config();
    config.limits.in_flight = 2;
    let server = TestServer::start(config).await;
    let head = write(&server) + "Content-Length: 22\r\nExpect: 100-continue\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::with(&server, &head).await;
        // The server waits for the body from here on.
        assert_eq!(wire.answer().await.status(), 100);
        slow.push(wire);
    }
    server.admin().get("/auth/me").await.expect(200);
    for mut wire in slow {
        wire.send(BODY).await;
        wire.answer().await.refused(400, super::REFUSED);
    }
}
