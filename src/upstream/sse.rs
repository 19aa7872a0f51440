//! Server-sent events, read from chunks of bytes that may be cut anywhere, inside a CRLF or a UTF-8 sequence too.

use bytes::{Buf, BytesMut};

use super::{UpstreamError, unreadable};

/// An incremental parser (WHATWG HTML, "Server-sent events") of `data`; other fields do not matter here.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    /// The `data` lines of the event, each with an LF after it.
    data: Option<Vec<u8>>,
    /// The last line ended with a CR: an LF right after it belongs to it.
    after_cr: bool,
    started: bool,
}

impl Parser {
    /// Bytes of one event at most.
    const MAX_BYTES: usize = 1 << 20;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next whole event, if there is one. Several `data` lines of one event are joined by LF.
    ///
    /// # Errors
    /// A line or an event is longer than any server would send.
    pub(super) fn next_event(&mut self) -> Result<Option<Vec<u8>>, UpstreamError> {
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                let Some(mut data) = self.data.take() else {
                    continue;
                };
                data.pop();
                return Ok(Some(data));
            }
            let colon = memchr::memchr(b':', &line).unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            if name != b"data" {
                continue;
            }
            let value = value.strip_prefix(b":").unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let data = self.data.get_or_insert_default();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let held = self.data.as_ref().map_or(0, Vec::len) + self.buffer.len();
        if held > Self::MAX_BYTES {
            return Err(unreadable("an endless event"));
        }
        Ok(None)
    }

    /// The next whole line, without its end.
    fn next_line(&mut self) -> Option<BytesMut> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let end = memchr::memchr2(b'\n', b'\r', &self.buffer)?;
        let mut line = self.buffer.split_to(end + 1);
        self.after_cr = line[end] == b'\r';
        line.truncate(end);
        if !std::mem::replace(&mut self.started, true) && line.starts_with(b"\xEF\xBB\xBF") {
            line.advance(3);
        }
        Some(line)
    }
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
                events.push(String::from_utf8(event).unwrap());
            }
        }
        events
    }

    #[test]
    fn every_line_end_comment_field_and_joined_line_is_read() {
        let text = "\u{FEFF}: hello\r\ndata: one\r\n\r\ndata:two\rdata: lines\r\revent: x\nid: 7\ndata: w\u{F6}rld\n\n\ndata\n\ndatax: no\n\ndata: cut";
        assert_eq!(
            events([text.as_bytes()]),
            ["one", "two\nlines", "w\u{F6}rld", ""]
        );
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
        fn the_boundaries_of_chunks_change_nothing(text in "(data: ?[a-z\u{F6}]{0,3}|:|id: 1|\r|\n|\r\n|\u{FEFF}){0,20}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(events(chunks), events([bytes]));
        }
    }
}
