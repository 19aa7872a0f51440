//! Server-sent events, read from chunks of bytes that may be cut anywhere, inside a CRLF or a UTF-8 sequence too.

use bytes::{Buf, BytesMut};

use super::{UpstreamError, unreadable};

/// An incremental parser (WHATWG HTML, "Server-sent events") of `data`; other fields do not matter here.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    /// The `data` lines of the event, with an LF between them.
    data: Option<BytesMut>,
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
    pub(super) fn next_event(&mut self) -> Result<Option<BytesMut>, UpstreamError> {
        while let Some(end) = self.line_end() {
            let line = &self.buffer[..end];
            let colon = memchr::memchr(b':', line).unwrap_or(end);
            let (is_data, is_blank) = (&line[..colon] == b"data", line.is_empty());
            let space = usize::from(line.get(colon + 1) == Some(&b' '));
            let value = (colon + 1 + space).min(end);
            self.after_cr = self.buffer[end] == b'\r';
            if is_data {
                // Not copied, unless the event has several.
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                line.advance(value);
                match &mut self.data {
                    None => self.data = Some(line),
                    Some(data) => {
                        data.extend_from_slice(b"\n");
                        data.extend_from_slice(&line);
                    }
                }
                continue;
            }
            self.buffer.advance(end + 1);
            if is_blank && let Some(data) = self.data.take() {
                return Ok(Some(data));
            }
        }
        let held = self.data.as_ref().map_or(0, BytesMut::len) + self.buffer.len();
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
        let end = memchr::memchr2(b'\n', b'\r', &self.buffer)?;
        let is_first = !std::mem::replace(&mut self.started, true);
        if is_first && self.buffer.starts_with(b"\xEF\xBB\xBF") {
            self.buffer.advance(3);
            return Some(end - 3);
        }
        Some(end)
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
                events.push(String::from_utf8(event.to_vec()).unwrap());
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
