use super::{BODY, NEXT, REFUSED, Wire, write};
use crate::support::{TestServer, config};

#[tokio::test]
async fn invalid_chunks_are_refused_and_the_connection_closed() {
    let server = TestServer::start(config()).await;
    let head = format!("{}Transfer-Encoding: chunked\r\n\r\n", write(&server));
    let extension = "a".repeat(20_000);
    let trailers: String = (0..300).map(|at| format!("X-{at}: a\r\n")).collect();
    for body in [
        "zz\r\nab\r\n0\r\n\r\n",
        "-1\r\n",
        "\r\n",
        "0x16\r\n",
        "10000000000000000\r\n",
        &format!("16\n{BODY}\r\n0\r\n\r\n"),
        &format!("16\r\n{BODY}XX0\r\n\r\n"),
        &format!("16;a\nb\r\n{BODY}\r\n0\r\n\r\n"),
        &format!("16;{extension}\r\n{BODY}\r\n0\r\n\r\n"),
        &format!("16\r\n{BODY}\r\n0\r\nX-T : 1\r\n\r\n"),
        &format!("16\r\n{BODY}\r\n0\r\n{trailers}\r\n"),
    ] {
        let mut wire = Wire::with(&server, format!("{head}{body}{NEXT}")).await;
        let answer = wire.answer().await;
        answer.refused(400, "invalid_request");
        wire.closed().await;
    }
}

#[tokio::test]
async fn unusual_valid_chunks_are_accepted_and_trailers_dropped() {
    let server = TestServer::start(config()).await;
    let head = format!("{}Transfer-Encoding: chunked\r\n\r\n", write(&server));
    for body in [
        format!("16;a=b\r\n{BODY}\r\n0\r\n\r\n"),
        format!("16 \r\n{BODY}\r\n0\r\n\r\n"),
        format!("0016\r\n{BODY}\r\n00000\r\n\r\n"),
        format!("16\r\n{BODY}\r\n0\r\nX-T: 1\r\n\r\n"),
        // A trailer never becomes a header, so it frames nothing and opens nothing.
        format!("16\r\n{BODY}\r\n0\r\nContent-Length: 5\r\nX-API-Key: x\r\n\r\n"),
        BODY.chars()
            .map(|one| format!("1\r\n{one}\r\n"))
            .collect::<String>()
            + "0\r\n\r\n",
    ] {
        let mut wire = Wire::with(&server, format!("{head}{body}{NEXT}")).await;
        wire.answer().await.refused(400, REFUSED);
        wire.answer().await.next();
    }
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_however_it_is_framed_and_not_read_on() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    let endless = format!("Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(3));
    let declared = "Content-Length: 65537\r\n\r\n".to_owned();
    let enormous = "Content-Length: 18446744073709551613\r\n\r\n".to_owned();
    for rest in [&endless, &declared, &enormous] {
        let mut wire = Wire::with(&server, format!("{write}{rest}{NEXT}")).await;
        wire.answer().await.refused(413, "body_too_large");
        wire.closed().await;
    }
    // Where little is left after the limit, hyper may skip to the end and go on; it never goes on anywhere else.
    let mut wire = Wire::with(&server, format!("{write}{endless}0\r\n\r\n{NEXT}")).await;
    wire.answer().await.refused(413, "body_too_large");
    if let Some(next) = wire.next_answer(false).await {
        next.next();
    }
}

#[tokio::test]
async fn the_answer_to_a_large_body_reaches_a_client_that_sends_all_of_it_first() {
    let server = TestServer::start(config()).await;
    let head = format!("{}Content-Length: 5000000\r\n\r\n", write(&server));
    let mut wire = Wire::open(&server).await;
    wire.send(head).await;
    // The server closes in the middle of it; sending fails, and the answer is there all the same.
    wire.send(vec![b' '; 5_000_000]).await;
    wire.answer().await.refused(413, "body_too_large");
    wire.closed().await;
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_refused_as_incomplete() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    for body in [
        format!("Content-Length: 500\r\n\r\n{BODY}"),
        format!("Transfer-Encoding: chunked\r\n\r\n16\r\n{BODY}\r\n"),
        "Transfer-Encoding: chunked\r\n\r\n16\r\n{".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    ] {
        let mut wire = Wire::with(&server, format!("{write}{body}")).await;
        wire.end().await;
        wire.answer().await.refused(400, "invalid_request");
        wire.closed().await;
    }
}

#[tokio::test]
async fn an_incomplete_head_is_not_a_request() {
    let server = TestServer::start(config()).await;
    for part in ["", "GET", "GET /livez HTTP/1.1\r\nHost: loc"] {
        let mut wire = Wire::with(&server, part).await;
        wire.end().await;
        wire.closed().await;
    }
}

#[tokio::test]
async fn an_expect_header_is_answered_with_100_continue() {
    let server = TestServer::start(config()).await;
    let expect = "Content-Length: 22\r\nExpect: 100-continue\r\n\r\n";
    let mut wire = Wire::with(&server, format!("{}{expect}", write(&server))).await;
    let go_on = wire.answer().await;
    assert_eq!(go_on.head, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(BODY).await;
    wire.answer().await.refused(400, REFUSED);
    wire.goes_on().await;
}

#[tokio::test]
async fn a_refused_request_with_an_expect_header_gets_no_100_continue() {
    let server = TestServer::start(config()).await;
    let json = "Content-Type: application/json\r\n";
    let with_key = write(&server);
    let without_key = format!("POST /users HTTP/1.1\r\nHost: localhost\r\n{json}");
    let nowhere = "POST /nothing HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    for (head, length, status, code) in [
        (&without_key, 22, 401, "missing_credentials"),
        (&nowhere, 22, 404, "not_found"),
        (&with_key, 65_537, 413, "body_too_large"),
    ] {
        let expect = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
        let mut wire = Wire::with(&server, format!("{head}{expect}")).await;
        wire.answer().await.refused(status, code);
        // The client may or may not send the body now, so the connection cannot be used again.
        wire.closed().await;
    }
}

#[tokio::test]
async fn other_expectations_and_those_of_http_1_0_are_ignored() {
    let server = TestServer::start(config()).await;
    let write = write(&server);
    let old = write.replace("HTTP/1.1", "HTTP/1.0");
    for (head, expect) in [(&write, "200-ok"), (&old, "100-continue")] {
        let request = format!("{head}Expect: {expect}\r\nContent-Length: 22\r\n\r\n{BODY}");
        let mut wire = Wire::with(&server, request).await;
        wire.answer().await.refused(400, REFUSED);
    }
}
