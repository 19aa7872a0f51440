//! HTTP/1.0, as older nginx speaks to an upstream by default: an answer without a length ends with its connection, so one that
//! broke off must end in a reset, and everything before that must arrive.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, Response};
use r3mes_edge::{EdgeServer, SqliteStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::chat::held_inference;
use crate::support::{
    Caller, Process, Scripted, TestServer, Upstream, W1, config, config_with_inference,
};

pub(crate) const CHAT: &str = "/chat";
const V1: &str = "/v1/chat/completions";

async fn send(address: &str, request: String) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Asks for a streamed chat.
pub(crate) async fn ask(caller: &Caller, path: &str) -> TcpStream {
    let body = match path {
        CHAT => json!({ "message": "hi" }),
        _ => json!({ "stream": true, "messages": [{ "role": "user", "content": "hi" }] }),
    };
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.0\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n",
        caller.key(),
        body.len()
    );
    let address = caller.base().strip_prefix("http://").unwrap();
    send(address, head + &body).await
}

/// Reads until this text has arrived.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{read:?}");
    }
    String::from_utf8(read).unwrap()
}

/// Reads the rest; returns it and how the connection ended.
pub(crate) async fn read_to_end(mut stream: TcpStream) -> (String, Result<(), ErrorKind>) {
    let mut read = Vec::new();
    let end = loop {
        match stream.read_buf(&mut read).await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind()),
        }
    };
    (String::from_utf8(read).unwrap(), end)
}

const RESET: Result<(), ErrorKind> = Err(ErrorKind::ConnectionReset);

#[tokio::test]
async fn an_answer_that_breaks_off_ends_in_a_reset_after_its_text() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 2).await;
    for path in [CHAT, V1] {
        let mut stream = ask(&caller, path).await;
        let frames = held.recv().await.unwrap();
        frames.send_word("first");
        let head = read_until(&mut stream, "first").await;
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
        frames.send_word("second");
        // Without a finish or its end marker.
        drop(frames);
        let (rest, end) = read_to_end(stream).await;
        assert!(rest.contains("second"), "{path}: {rest}");
        assert_eq!(rest.contains("upstream_bad_response"), path == V1, "{rest}");
        assert_eq!(end, RESET, "{path}");
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_whole_answer_ends_in_a_plain_close() {
    let upstream = Upstream::inference(|_| Scripted::words(&["all ", "of it"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 2).await;
    for (path, last) in [(CHAT, "all of it\n"), (V1, "data: [DONE]\n\n")] {
        let (answer, end) = read_to_end(ask(&caller, path).await).await;
        assert!(answer.ends_with(last), "{answer}");
        assert_eq!(end, Ok(()), "{path}");
    }
}

#[tokio::test]
async fn bytes_written_for_a_slow_reader_arrive_before_the_reset() {
    const WORDS: usize = 64;
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let stream = ask(&caller, CHAT).await;
    let frames = held.recv().await.unwrap();
    for _ in 0..WORDS {
        frames.send_word(&"x".repeat(60_000));
    }
    drop(frames);
    let (answer, end) = read_to_end(stream).await;
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!((text.len(), end), (WORDS * 60_000, RESET));
}

#[tokio::test]
async fn an_answer_that_the_end_of_the_server_cuts_ends_in_a_reset() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    config.limits.shutdown_grace = Duration::from_millis(50);
    let mut server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    let mut stream = ask(&caller, CHAT).await;
    let frames = held.recv().await.unwrap();
    frames.send_word("first");
    read_until(&mut stream, "first").await;
    let stopped = server.begin_shutdown();
    assert_eq!(read_to_end(stream).await.1, RESET);
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_kill_cuts_ends_in_a_reset() {
    let (upstream, mut held) = held_inference().await;
    let folder = tempfile::tempdir().unwrap();
    let node = format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"",
        upstream.url()
    );
    let server = Process::serve(&folder.path().join("edge.db"), &node);
    let admin = server.admin();
    let grant = json!({ "amount": 1, "reason": "test" });
    admin
        .post(&format!("/users/{W1}/credits"), &grant)
        .await
        .expect(200);
    let asked = json!({ "wallet_address": W1, "scopes": ["chat"] });
    let made = admin.post("/api/keys", &asked).await.expect(201);
    let caller = admin.with_key(made["api_key"].as_str().unwrap());
    let mut stream = ask(&caller, CHAT).await;
    let frames = held.recv().await.unwrap();
    frames.send_word("first");
    read_until(&mut stream, "first").await;
    server.kill();
    assert_eq!(read_to_end(stream).await.1, RESET);
}

type Piece = Result<Bytes, &'static str>;

/// A body whose chunks the test sends.
struct Pieces(mpsc::UnboundedReceiver<Piece>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let next = self.0.poll_recv(context);
        assert!(!matches!(next, Poll::Ready(Some(Err("panics")))));
        next.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

#[tokio::test]
async fn a_hosts_own_answer_ends_as_its_body_does() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
    let answer = {
        let bodies = Arc::clone(&bodies);
        move |_: Request<Incoming>| {
            let body = bodies.lock().unwrap().pop().unwrap();
            async { Response::new(Pieces(body)) }
        }
    };
    let server = EdgeServer::builder(config(), Arc::new(store))
        .own_routes("/own", answer)
        .start()
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    for (method, version, part, last, end) in [
        ("GET", "1.0", "part", None, Ok(())),
        ("GET", "1.0", "", None, Ok(())),
        ("GET", "1.0", "part", Some("broken"), RESET),
        ("GET", "1.0", "part", Some("panics"), RESET),
        ("HEAD", "1.0", "part", None, Ok(())),
        ("GET", "1.1", "part", Some("broken"), Ok(())),
    ] {
        let (piece, body) = mpsc::unbounded_channel();
        if !part.is_empty() {
            piece.send(Ok(part.into())).unwrap();
        }
        if let Some(error) = last {
            piece.send(Err(error)).unwrap();
        }
        drop(piece);
        bodies.lock().unwrap().push(body);
        let request =
            format!("{method} /own HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (answer, ended) = read_to_end(send(&address, request).await).await;
        let (_, received) = answer.split_once("\r\n\r\n").unwrap();
        let received_part = received.contains("part");
        assert_eq!(received_part, method == "GET" && part == "part", "{answer}");
        assert_eq!(ended, end, "{method} {version} {last:?}");
        // Over HTTP/1.1 it is the last chunk that is missing.
        assert!(!answer.contains("\r\n0\r\n"), "{answer}");
    }
    server.shutdown().await;
}
