//! Server-sent events, read from chunks of bytes that may be cut anywhere, inside a CRLF or a UTF-8 sequence too.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};

use super::{UpstreamError, unreadable};

/// An event.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Event {
    /// Its `event` field, which most servers leave out.
    pub(super) name: String,
    /// Its `data` lines, joined by LF, as valid UTF-8.
    data: BytesMut,
}

impl Event {
    /// Invalid UTF-8 in `data` becomes U+FFFD.
    pub(super) fn new(name: String, mut data: BytesMut) -> Self {
        if let Cow::Owned(text) = String::from_utf8_lossy(&data) {
            data = text.as_bytes().into();
        }
        Self { name, data }
    }

    /// Its data.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.data).unwrap_or_default()
    }
}

/// An incremental parser (WHATWG HTML, "Server-sent events"). It is stricter than a browser's, which ignores every line that it
/// does not know: here one that is no field is an error page, and a field `error` is what llama.cpp wrote instead of an event.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    name: String,
    /// The `data` lines of the event, with an LF between them.
    data: Option<BytesMut>,
    /// The last line ended with a CR: an LF right after it belongs to it.
    after_cr: bool,
    started: bool,
    /// Bytes of the buffer that have no line end, so that a long line is searched one time.
    searched: usize,
}

impl Parser {
    /// Bytes of one event at most: the last one of a response repeats all of it.
    const MAX_BYTES: usize = 4 << 20;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event, if there is one.
    ///
    /// # Errors
    /// A line is no field of an event, or an event is longer than any server would send.
    pub(super) fn next_event(&mut self) -> Result<Option<Event>, UpstreamError> {
        while let Some(end) = self.line_end() {
            self.after_cr = self.buffer[end] == b'\r';
            let mut line = self.buffer.split_to(end + 1);
            line.truncate(end);
            if line.is_empty() {
                let name = std::mem::take(&mut self.name);
                if let Some(data) = self.data.take() {
                    return Ok(Some(Event::new(name, data)));
                }
                continue;
            }
            let colon = memchr::memchr(b':', &line).unwrap_or(end);
            let space = usize::from(line.get(colon + 1) == Some(&b' '));
            let value = (colon + 1 + space).min(end);
            match &line[..colon] {
                b"data" => {
                    // Not copied, unless the event has several.
                    line.advance(value);
                    match &mut self.data {
                        None => self.data = Some(line),
                        Some(data) => {
                            data.extend_from_slice(b"\n");
                            data.extend_from_slice(&line);
                        }
                    }
                }
                b"event" => self.name = String::from_utf8_lossy(&line[value..]).into_owned(),
                // Comments, and fields of other names.
                field if is_name(field) && field != b"error" => {}
                _ => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    return Err(UpstreamError::Reported(line));
                }
            }
        }
        let data = self.data.as_ref().map_or(0, BytesMut::len);
        let held = data + self.name.len() + self.buffer.len();
        if held > Self::MAX_BYTES {
            return Err(unreadable("an endless event"));
        }
        Ok(None)
    }

    /// Where the next whole line ends, which the buffer begins with.
    fn line_end(&mut self) -> Option<usize> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let found = memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]);
        let Some(end) = found.map(|end| self.searched + end) else {
            self.searched = self.buffer.len();
            return None;
        };
        self.searched = 0;
        let is_first = !std::mem::replace(&mut self.started, true);
        if is_first && self.buffer.starts_with(b"\xEF\xBB\xBF") {
            self.buffer.advance(3);
            return Some(end - 3);
        }
        Some(end)
    }
}

fn is_name(field: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    field.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk);
            while let Some(event) = parser.next_event().unwrap() {
                events.push(event.text().to_owned());
            }
        }
        events
    }

    #[test]
    fn every_line_end_comment_field_and_joined_line_is_read() {
        let text = "\u{FEFF}: hello\r\ndata: one\r\n\r\ndata:two\rdata: lines\r\revent: x\nid: 7\ndata: w\u{F6}rld\n\n\ndata\n\nretry: 1\nDATA: x\ndatax: no\n\ndata: cut";
        assert_eq!(
            events([text.as_bytes()]),
            ["one", "two\nlines", "w\u{F6}rld", ""]
        );
    }

    #[test]
    fn a_line_that_is_no_field_of_an_event_is_an_error() {
        for line in ["error: {}", "<html>", "{\"detail\": 1}", " data: no"] {
            let mut parser = Parser::default();
            parser.push(format!("data: text\n\n{line}\n\n").as_bytes());
            assert_eq!(parser.next_event().unwrap().unwrap().text(), "text");
            let error = parser.next_event().unwrap_err();
            assert_eq!(error, UpstreamError::Reported(line.to_owned()));
        }
    }

    #[test]
    fn an_endless_event_is_refused_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; Parser::MAX_BYTES + 1]);
        assert!(parser.next_event().is_err());
        let mut parser = Parser::default();
        let error = (0..).find_map(|_| {
            parser.push(format!("data: {}\n", "y".repeat(60_000)).as_bytes());
            parser.next_event().err()
        });
        assert!(matches!(error, Some(UpstreamError::Unreadable(_))));
    }

    proptest! {
        #[test]
        fn the_boundaries_of_chunks_change_nothing(text in "\u{FEFF}?((data: ?[a-z\u{F6}]{0,3}|:|id: 1|event: x)?(\r|\n|\r\n)){0,20}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(events(chunks), events([bytes]));
        }
    }
}
