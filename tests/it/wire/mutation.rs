//! Valid requests with wrong bytes in them, thousands for each parser, and upstreams whose answers are broken the same way.
//! `MUTATIONS=10000` sets how many, `MUTATION_SEED` which.

mod targets;
mod upstreams;

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::task::JoinSet;

use self::targets::targets;
use super::{Raw, Wire};
use crate::support::{Answer, Scripted, TestServer, Upstream, W1, config, config_with_inference};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn rounds() -> u64 {
    number("MUTATIONS", 400)
}

/// SplitMix64: the same seed makes the same requests everywhere.
struct Dice(u64);

impl Dice {
    fn new(stream: u64) -> Self {
        Self(number("MUTATION_SEED", 1) << 32 | stream)
    }

    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) % most.max(1) as u64) as usize
    }

    /// One to four changes: bytes turned, put in, taken out, doubled, cut off, or replaced by what parsers stumble over.
    fn mutated(&mut self, valid: &[u8]) -> Vec<u8> {
        const STUMBLES: [&[u8]; 24] = [
            b"",
            b"\0",
            b"\xff\xfe",
            b"\xc3\x28",
            b"\\ud800",
            b"\\u0000",
            b"\"",
            b"{",
            b"[[[[[[[[",
            b"}",
            b",",
            b":",
            b"null",
            b"-1",
            b"-0",
            b"0.0000001",
            b"1e999",
            b"99999999999999999999999999",
            b"0x10",
            b"%00",
            b"%",
            b"\xe2\x80\xae",
            b" ",
            b"\t",
        ];
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let (one, two) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (one.min(two), one.max(two).min(one.min(two) + 12));
            match self.below(7) {
                0 if from < bytes.len() => bytes[from] ^= 1 << self.below(8),
                1 if from < bytes.len() => bytes[from] = self.below(256) as u8,
                2 => bytes.insert(from, self.below(256) as u8),
                3 => drop(bytes.drain(from..to)),
                4 => {
                    let again = bytes[from..to].to_vec();
                    bytes.splice(to..to, again);
                }
                5 if self.below(4) == 0 => bytes.truncate(from),
                _ => {
                    let stumble = STUMBLES[self.below(STUMBLES.len())];
                    bytes.splice(from..to, stumble.iter().copied());
                }
            }
        }
        bytes
    }
}

/// A request with one place, written `@`, for the part that is changed.
struct Target {
    method: &'static str,
    path: String,
    headers: String,
    body: String,
    valid: Vec<u8>,
    /// Whether nothing but the valid part may be let through.
    exact: bool,
}

impl Target {
    fn new(method: &'static str, path: &str, headers: String, body: &str, valid: &[u8]) -> Self {
        let (path, body, valid) = (path.to_owned(), body.to_owned(), valid.to_vec());
        Self {
            method,
            path,
            headers,
            body,
            valid,
            exact: false,
        }
    }

    fn filled(text: &str, part: &[u8]) -> Vec<u8> {
        match text.split_once('@') {
            Some((before, after)) => [before.as_bytes(), part, after.as_bytes()].concat(),
            None => text.as_bytes().to_vec(),
        }
    }

    /// The path as it is sent, and the request.
    fn with(&self, part: &[u8]) -> (String, Vec<u8>) {
        let (path, body) = (
            Self::filled(&self.path, part),
            Self::filled(&self.body, part),
        );
        let mut request = [self.method.as_bytes(), b" ", &path, b" HTTP/1.1\r\n"].concat();
        request.extend(Self::filled(&self.headers, part));
        if !body.is_empty() {
            request.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        request.extend([b"\r\n", &body[..]].concat());
        (String::from_utf8_lossy(&path).into_owned(), request)
    }

    /// Sends so many changed requests over one connection, or a new one where the server ended it.
    async fn run(self, server: Arc<TestServer>, stream: u64) {
        let mut dice = Dice::new(stream);
        let mut wire = Wire::open(&server).await;
        for round in 0..rounds() {
            let mut part = dice.mutated(&self.valid);
            if !self.body.contains('@') {
                // Line ends would end the head: that is the other test's subject.
                part.retain(|byte| !b"\r\n".contains(byte));
            }
            let (path, request) = self.with(&part);
            let what = format!(
                "MUTATION_SEED={}, round {round}: {}",
                number("MUTATION_SEED", 1),
                request.escape_ascii()
            );
            wire.send(&request).await;
            let Some(raw) = wire.next_answer(false).await else {
                panic!("no answer to {what}");
            };
            assert!(raw.status() < 500, "{} to {what}", raw.head);
            let closes = raw.header("connection") == "close";
            let (status, method) = (
                raw.status(),
                Method::from_bytes(self.method.as_bytes()).unwrap(),
            );
            if let Some(answer) = answer(raw, &what) {
                // hyper drops a fragment.
                let path = path.split('#').next().unwrap();
                crate::openapi::check(&method, path, &answer);
            }
            // Only the path selects a route.
            let read = part.split(|byte| b"?#".contains(byte)).next();
            let untouched = read.unwrap_or_default().trim_ascii() == self.valid;
            assert!(
                !self.exact || untouched || status >= 400,
                "let through: {what}"
            );
            if closes {
                wire.closed().await;
                wire = Wire::open(&server).await;
            }
        }
    }
}

/// An answer of our own, its shape checked; `None` where it is hyper's to what it cannot read.
fn answer(raw: Raw, what: &str) -> Option<Answer> {
    if raw.header("x-request-id").is_empty() {
        assert!(
            [400, 414, 431].contains(&raw.status()),
            "{} to {what}",
            raw.head
        );
        assert_eq!(
            (raw.header("content-length"), raw.header("connection")),
            ("0", "close"),
            "{what}"
        );
        return None;
    }
    let lines = raw.head.lines().filter_map(|line| line.split_once(": "));
    let headers = lines.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let answer = Answer {
        status: raw.status(),
        headers: headers.collect(),
        body: raw.body.into(),
    };
    answer.check_shape(false);
    Some(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupted_requests_are_refused_as_documented_and_the_ledger_adds_up() {
    let upstream = Upstream::inference(|seen| match seen.body.contains("\"stream\":true") {
        true => Scripted::words(&["hello"]),
        false => Scripted::completion("hello"),
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    config.auth.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.chat.in_flight = 64;
    let server = Arc::new(TestServer::start(config).await);
    let mut running = JoinSet::new();
    for (stream, target) in targets(&server).await.into_iter().enumerate() {
        running.spawn(target.run(Arc::clone(&server), stream as u64));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    server.admin().get("/readyz").await.expect(200);
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupted_bytes_anywhere_in_a_request_leave_the_server_running() {
    let mut config = config();
    // For requests that lost their end.
    config.limits.header_timeout = Duration::from_millis(50);
    config.limits.body_timeout = Duration::from_millis(50);
    let server = Arc::new(TestServer::start(config).await);
    let headers = format!(
        "Host: localhost\r\nX-API-Key: {}\r\nConnection: close\r\nExpect: 200-ok\r\n",
        server.admin().key()
    );
    let grant = Target::new(
        "POST",
        &format!("/users/{W1}/credits"),
        headers,
        r#"{"amount":1.25,"reason":"welcome"}"#,
        b"",
    );
    let (_, grant) = grant.with(b"");
    let chunked = String::from_utf8(grant.clone())
        .unwrap()
        .replace("Content-Length: 34", "Transfer-Encoding: chunked");
    let chunked = chunked.replace("{\"amount", "22\r\n{\"amount") + "\r\n0\r\nX-Trailer: a\r\n\r\n";
    let mut running = JoinSet::new();
    for task in 0..32 {
        let (server, valid) = (
            Arc::clone(&server),
            [grant.clone(), chunked.clone().into_bytes()],
        );
        running.spawn(async move {
            let mut dice = Dice::new(1000 + task);
            for round in 0..rounds().div_ceil(32) {
                let request = dice.mutated(&valid[round as usize % 2]);
                let what = format!(
                    "MUTATION_SEED={}, task {task}, round {round}: {}",
                    number("MUTATION_SEED", 1),
                    request.escape_ascii()
                );
                let mut wire = Wire::with(&server, &request).await;
                while let Some(raw) = wire.next_answer(false).await {
                    assert!(raw.status() < 500, "{} to {what}", raw.head);
                    if raw.status() >= 200 {
                        answer(raw, &what);
                    }
                }
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    server.admin().get("/readyz").await.expect(200);
    server.assert_ledger_adds_up().await;
}
