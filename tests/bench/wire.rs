//! HTTP/1.1 spoken by hand, as the load shares the cores with what it measures.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// A request.
pub(crate) fn request(method: &str, path: &str, key: Option<&str>, body: &str) -> Bytes {
    let key = key.map_or_else(String::new, |key| format!("X-API-Key: {key}\r\n"));
    let sent = if body.is_empty() {
        String::new()
    } else {
        format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        )
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}{sent}\r\n{body}").into()
}

/// Where `needle` begins in `text`.
pub(crate) fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|part| part == needle)
}

/// The value of `Content-Length` in a head.
pub(crate) fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    std::str::from_utf8(&line[NAME.len()..])
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and not yet parsed.
    raw: Vec<u8>,
    /// The body of the last answer.
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            raw: Vec::with_capacity(64 << 10),
            body: Vec::new(),
        })
    }

    /// Asks and reads the whole answer; its status, and when the first byte of its body was there.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> std::io::Result<(u16, Instant)> {
        self.raw.clear();
        self.body.clear();
        self.stream.write_all(request).await?;
        let head = loop {
            self.read().await?;
            if let Some(end) = find(&self.raw, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let status = self
            .raw
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let status = status.and_then(|digits| digits.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        if let Some(length) = length(&self.raw[..head]) {
            while self.raw.len() < head + length {
                self.read().await?;
            }
            self.body.extend_from_slice(&self.raw[head..head + length]);
            return Ok((status, Instant::now()));
        }
        self.raw.drain(..head);
        let mut first = None;
        loop {
            let over = self.take_chunks()?;
            if first.is_none() && !self.body.is_empty() {
                first = Some(Instant::now());
            }
            if over {
                return Ok((status, first.unwrap_or_else(Instant::now)));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.raw).await? {
            0 => Err(broken("the connection was closed")),
            _ => Ok(()),
        }
    }

    /// Moves whole chunks into the body; whether the last was among them.
    fn take_chunks(&mut self) -> std::io::Result<bool> {
        let mut at = 0;
        let over = loop {
            let rest = &self.raw[at..];
            let Some(line) = find(rest, b"\r\n") else {
                break false;
            };
            let size = std::str::from_utf8(&rest[..line]).ok();
            let size = size.and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let size = size.ok_or_else(|| broken("no chunk"))?;
            let (from, to) = (line + 2, line + 2 + size);
            if rest.len() < to + 2 {
                break false;
            }
            self.body.extend_from_slice(&rest[from..to]);
            at += to + 2;
            if size == 0 {
                break true;
            }
        };
        self.raw.drain(..at);
        Ok(over)
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// A runtime of one thread.
pub(crate) fn alone() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Asks once, apart from any measurement; the body of an answer that must be a good one.
pub(crate) fn call(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    alone()?.block_on(async {
        let mut connection = Connection::open(address).await?;
        let (status, _) = connection.ask(request).await?;
        let body = String::from_utf8_lossy(&connection.body);
        match status {
            200..300 => Ok(connection.body),
            _ => Err(format!("answered with {status}: {body}").into()),
        }
    })
}
