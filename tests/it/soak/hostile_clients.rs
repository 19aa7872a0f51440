//! Clients that send invalid requests, disconnect, or are slow.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::Method;
use r3mes_edge::auth::PlainKey;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::chats::Form;
use super::clients::Client;
use super::ledger_model::Kind;
use super::surroundings::TALE;
use crate::support::{Caller, next_text};

/// Their address: their failures count against it.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

impl Client {
    /// Sends every kind of invalid request; each must be refused.
    pub(super) async fn err(mut self) {
        let stranger = Caller::at(ADDRESS.into(), self.caller.base(), None);
        let wallet = self.account().wallet.clone();
        let own = self.caller.clone();
        while self.go_on().await {
            let unknown = PlainKey::generate().unwrap();
            let guess = stranger.with_key(unknown.reveal());
            let typo = stranger.with_key(&unknown.reveal()[..54]);
            let credits = format!("/users/{wallet}/credits");
            let json = |path| (Method::POST, path);
            let get = |path| (Method::GET, path);
            let none: &[(&str, &str)] = &[];
            let (caller, asked, headers, body, expected): (_, _, _, _, &[u16]) =
                match self.random.below(15) {
                    0 => (&guess, get("/auth/me"), none, "", &[401, 429]),
                    1 => (&typo, get("/auth/me"), none, "", &[401]),
                    2 => (&stranger, get("/auth/me"), none, "", &[401]),
                    3 => (
                        &own,
                        json(&*credits),
                        none,
                        r#"{"amount":1,"reason":"me"}"#,
                        &[403],
                    ),
                    4 => (&own, json("/miner/stats"), none, "{\"hashrate\":", &[400]),
                    5 => (
                        &own,
                        json("/miner/stats"),
                        none,
                        r#"{"hashrate":-1}"#,
                        &[400],
                    ),
                    6 => (
                        &own,
                        json("/chat"),
                        none,
                        r#"{"message":"hi","more":1}"#,
                        &[400],
                    ),
                    7 => (&own, json("/v1/chat/completions"), none, "[]", &[400]),
                    8 => (&stranger, get("/no/such/path"), none, "", &[404]),
                    9 => (&stranger, (Method::PUT, "/livez"), none, "", &[405]),
                    10 => (&own, get("/auth/me?key=r3mes_nonsense"), none, "", &[400]),
                    11 => {
                        let plain: &[(&str, &str)] = &[("content-type", "text/plain")];
                        (&stranger, json("/login/challenge"), plain, "{}", &[415])
                    }
                    12 => {
                        let host: &[(&str, &str)] = &[("host", "elsewhere.example")];
                        (&stranger, get("/livez"), host, "", &[421])
                    }
                    13 => (
                        &stranger,
                        json("/chat"),
                        none,
                        r#"{"message":"hi"}"#,
                        &[400],
                    ),
                    _ => (&own, get("/leaderboard?limit=0"), none, "", &[400]),
                };
            self.ask(
                caller,
                Kind::Wrong,
                asked,
                headers,
                body.to_owned(),
                expected,
            )
            .await;
            if self.turn.is_multiple_of(20) {
                let large = "x".repeat(65 << 10);
                let asked = json("/api/keys");
                // Refused by its head, so its end may not be read any more.
                let began = Instant::now();
                self.model.count(Kind::Wrong);
                let opened = own.try_open(asked.0, asked.1, &[], large).await;
                match opened.map(|(status, ..)| status) {
                    Some(413) | None => self.model.refused(413, "body_too_large"),
                    Some(status) => self.model.violation(format!(
                        "too much was answered {status} after {:?}",
                        began.elapsed()
                    )),
                }
            }
        }
    }

    /// Disconnects in the middle: of a head, of a body, before an answer, in an answer.
    pub(super) async fn leave(mut self) {
        let address: SocketAddr = self.caller.base()["http://".len()..].parse().unwrap();
        while self.go_on().await {
            let form = match self.random.below(2) {
                0 => Form::Text,
                _ => Form::Events,
            };
            self.model.count(Kind::Left);
            match self.random.below(6) {
                0 => {
                    let head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nX-API-";
                    self.leave_after(address, head).await;
                }
                1 => {
                    let (key, body) = (self.caller.key(), form.body("half of it"));
                    let (path, length) = (form.path(), body.len());
                    let request = format!(
                        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n\r\n{}",
                        &body[..length / 2]
                    );
                    self.leave_after(address, request.as_bytes()).await;
                }
                2 => {
                    let worker = "a worker of whom nothing is heard".repeat(40);
                    let sample = json!({ "worker": worker, "hashrate": 1 }).to_string();
                    let request = format!(
                        "POST /miner/stats HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{}",
                        self.caller.key(),
                        sample.len(),
                        &sample[..sample.len() / 2]
                    );
                    self.leave_after(address, request.as_bytes()).await;
                }
                _ => self.leave_a_chat(form).await,
            }
        }
    }

    async fn leave_after(&mut self, address: SocketAddr, sent: &[u8]) {
        let Ok(mut stream) = connect(address, None).await else {
            return self.model.violation("a connection was refused");
        };
        // Its outcome is unknown: the client has left.
        let _ = stream.write_all(sent).await;
        tokio::time::sleep(Duration::from_micros(self.random.below(20_000))).await;
    }

    async fn leave_a_chat(&mut self, form: Form) {
        let patience = Duration::from_micros(self.random.below(60_000));
        let (began, path) = (Instant::now(), form.path());
        let hears = self.random.below(2) == 0;
        let message = if hears { TALE } else { "how are you" };
        let asked = self
            .caller
            .try_open(Method::POST, path, &[], form.body(message));
        let opened = match hears {
            true => asked.await,
            false => match tokio::time::timeout(patience, asked).await {
                Ok(opened) => opened,
                Err(_) => {
                    self.account().perhaps_paid.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            },
        };
        match opened {
            Some((200, _, mut body)) => match next_text(&mut body).await {
                Some(Ok(_)) => {
                    self.account().paid.fetch_add(1, Ordering::SeqCst);
                }
                _ => {
                    self.account().perhaps_paid.fetch_add(1, Ordering::SeqCst);
                }
            },
            Some((status, headers, body)) => {
                let (head, asked) = ((status, headers), (&Method::POST, path));
                self.whole(Kind::Left, asked, began, head, body, &[402])
                    .await;
                self.refill(status).await;
            }
            None => self.model.violation(format!("{path} was not answered")),
        }
    }

    async fn refill(&self, status: u16) {
        if status == 402 {
            let id = format!("more-{}-{}", self.name, self.turn);
            let whose = self.number % self.model.accounts.len();
            self.give(&self.admin.clone(), whose, &id).await;
        }
    }

    /// Reads a long answer slowly, or not to its end.
    pub(super) async fn read_slowly(mut self) {
        let address: SocketAddr = self.caller.base()["http://".len()..].parse().unwrap();
        while self.go_on().await {
            self.model.count(Kind::Left);
            let body = Form::Text.body(TALE);
            let request = format!(
                "POST /chat HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
                self.caller.key(),
                body.len()
            );
            let Ok(mut stream) = connect(address, Some(4096)).await else {
                self.model.violation("a connection was refused");
                continue;
            };
            if stream.write_all(request.as_bytes()).await.is_err() {
                self.model.violation("/chat was not read");
                continue;
            }
            // One in four pauses, for longer than the write timeout or for a moment.
            let stops = self.random.below(4) == 0;
            let longest = if stops { 200_000 } else { usize::MAX };
            let status = self.take(&mut stream, longest).await;
            if stops {
                let pause = if self.random.below(2) == 0 { 4000 } else { 100 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            drop(stream);
            self.refill(status).await;
        }
    }

    /// Reads up to so many bytes, a few at a time; the status.
    async fn take(&mut self, stream: &mut TcpStream, most: usize) -> u16 {
        let (mut status, mut received, mut head) = (0, 0, Vec::new());
        let mut piece = vec![0; 16 << 10];
        while received < most {
            let read = match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            if head.len() < 2000 {
                head.extend_from_slice(&piece[..read]);
            }
            received += read;
            let end = head.windows(4).position(|part| part == b"\r\n\r\n");
            if let Some(end) = end
                && status == 0
            {
                let line = String::from_utf8_lossy(&head[..end]).into_owned();
                status = line.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
                if status != 200 {
                    self.refused_by_hand(status, &String::from_utf8_lossy(&head[end..]));
                    return status;
                }
                // The head and the first text leave together.
                self.account().paid.fetch_add(1, Ordering::SeqCst);
                if head.len() == end + 4 {
                    self.account().paid.fetch_sub(1, Ordering::SeqCst);
                    self.account().perhaps_paid.fetch_add(1, Ordering::SeqCst);
                }
            }
            tokio::time::sleep(Duration::from_micros(self.random.below(20_000))).await;
        }
        if status == 0 {
            self.model.violation("a slow reader was not answered");
        }
        status
    }

    /// What is refused was never long enough to come in two pieces.
    fn refused_by_hand(&self, status: u16, body: &str) {
        let code = body.split("\"code\":\"").nth(1);
        let code = code.and_then(|rest| rest.split('"').next());
        let code = code.unwrap_or_default();
        self.model.refused(status, code);
        let recently = Instant::now() - Duration::from_secs(4);
        let explains = &self.model.faults;
        if status != 402 && !explains.explains(&Method::POST, "/chat", code, recently) {
            self.model
                .violation(format!("/chat was refused: {status} {body}"));
        }
    }
}

/// From the address of the hostile clients; `receive_buffer` bounds what this end holds of an answer that is not read.
async fn connect(address: SocketAddr, receive_buffer: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ADDRESS, 0).into())?;
    if let Some(receive_buffer) = receive_buffer {
        socket.set_recv_buffer_size(receive_buffer)?;
    }
    socket.connect(address).await
}
