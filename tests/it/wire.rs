//! What the server answers to hostile or odd HTTP, byte by byte over a bare socket: no client library corrects what is
//! sent, and none hides what comes back.

mod bodies;
mod framing;
mod heads;
mod mutation;
mod targets;
mod unread;
mod waits;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::TestServer;

/// The timeout of a test, so that a server that hangs is a failed test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that only asks whether the connection still works.
const NEXT: &str = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: next\r\n\r\n";

/// A bare connection.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn open(server: &TestServer) -> Self {
        let address = server.base.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let read = Vec::new();
        Self { stream, read }
    }

    /// Opens a connection and sends these bytes in one piece.
    async fn with(server: &TestServer, bytes: impl AsRef<[u8]>) -> Self {
        let mut wire = Self::open(server).await;
        wire.send(bytes).await;
        wire
    }

    /// Sends; a closed connection is noticed when reading.
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = timeout(PATIENCE, self.write(bytes.as_ref())).await;
        let _ = sent.expect("the server does not take the request");
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| Pin::new(&mut self.stream).poll_write(context, bytes));
            bytes = &bytes[count.await?..];
        }
        Ok(())
    }

    /// Shuts down the sending half.
    async fn end(&mut self) {
        let end = poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context));
        end.await.unwrap();
    }

    /// Reads more bytes; false at the end, by a FIN or, if the server left bytes unread, by a reset.
    async fn more(&mut self) -> bool {
        let mut piece = vec![0; 64 << 10];
        let read = timeout(PATIENCE, self.read(&mut piece)).await;
        let count = read.expect("the server neither answers nor closes");
        let count = count.unwrap_or(0);
        self.read.extend_from_slice(&piece[..count]);
        count > 0
    }

    async fn read(&self, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// The next answer, to anything but HEAD.
    async fn answer(&mut self) -> Raw {
        let next = self.next_answer(false).await;
        next.expect("the connection was closed without an answer")
    }

    /// The next answer, or `None` where the connection is closed instead. An answer that is cut fails.
    async fn next_answer(&mut self, head_only: bool) -> Option<Raw> {
        let end = loop {
            match self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.more().await => {}
                None => {
                    assert_eq!(self.read, b"", "an answer was cut");
                    return None;
                }
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut answer = Raw {
            head,
            body: Vec::new(),
        };
        // An interim answer (1xx), 204 and 304 have no body and name no length.
        if head_only || answer.status() < 200 || [204, 304].contains(&answer.status()) {
            return Some(answer);
        }
        if answer.header("transfer-encoding") == "chunked" {
            loop {
                let end = loop {
                    match self.read.windows(2).position(|two| two == b"\r\n") {
                        Some(end) => break end,
                        None => assert!(self.more().await, "a stream was cut: {}", answer.head),
                    }
                };
                let size = std::str::from_utf8(&self.read[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let whole = end + 2 + size + 2;
                while self.read.len() < whole {
                    assert!(self.more().await, "a stream was cut: {}", answer.head);
                }
                answer.body.extend(&self.read[end + 2..end + 2 + size]);
                self.read.drain(..whole);
                if size == 0 {
                    break;
                }
            }
        } else {
            let length: usize = answer.header("content-length").parse().unwrap();
            while self.read.len() < length {
                assert!(self.more().await, "a body was cut: {}", answer.head);
            }
            answer.body = self.read.drain(..length).collect();
        }
        Some(answer)
    }

    /// The server closes without sending anything more.
    async fn closed(mut self) {
        while self.more().await {}
        assert_eq!(String::from_utf8_lossy(&self.read), "");
    }

    /// hyper's own answer to what it cannot read, and then the end of the connection.
    #[track_caller]
    fn bare(self, what: &str, status: u16) -> impl Future<Output = ()> {
        let what = what.to_owned();
        async move {
            let mut wire = self;
            let answer = wire.answer().await;
            assert_eq!(answer.status(), status, "{what}: {}", answer.head);
            assert_eq!(answer.header("content-length"), "0", "{what}");
            assert_eq!(answer.header("connection"), "close", "{what}");
            assert_eq!(answer.header("x-request-id"), "", "{what}");
            wire.closed().await;
        }
    }

    /// The connection still works, and its next answer is that of its next request.
    async fn goes_on(&mut self) {
        self.send(NEXT).await;
        self.answer().await.next();
    }
}

/// An answer as it came.
struct Raw {
    head: String,
    body: Vec<u8>,
}

impl Raw {
    fn status(&self) -> u16 {
        let line = self.head.strip_prefix("HTTP/1.").unwrap();
        line[2..5].parse().unwrap()
    }

    /// The value of a header, or an empty text.
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
            .unwrap_or_default()
    }

    /// An answer of our own that is no error.
    #[track_caller]
    fn fine(&self) {
        assert_eq!(self.status(), 200, "{}", self.head);
        assert!(!self.header("x-request-id").is_empty(), "{}", self.head);
    }

    /// The answer to [`NEXT`] and to nothing else.
    #[track_caller]
    fn next(&self) {
        self.fine();
        assert_eq!(self.header("x-request-id"), "next");
    }

    /// An error of our own: the problem body, with the request id of the header.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status(), status, "{}{text}", self.head);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert!(!self.header("x-request-id").is_empty(), "{}", self.head);
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert_eq!(body["type"], format!("urn:r3mes-edge:{code}"));
        assert_eq!(body["detail"], body["message"]);
    }
}

/// The head of a write by the admin, but for the headers that frame its body.
fn write(server: &TestServer) -> String {
    let key = server.admin().key().to_owned();
    format!("POST /users HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n")
}

/// A body that is read whole before it is refused: 22 bytes, 16 in the hexadecimal of a chunk.
const BODY: &str = "{\"wallet_address\":\"x\"}";
const REFUSED: &str = "invalid_wallet_address";
