use bytes::{Buf, BytesMut};

/// An incremental parser of server-sent events (WHATWG HTML, "Server-sent events"), of which only `data` matters here.
///
/// Lines end with LF, CR or CRLF; a leading byte order mark and comments are skipped; several `data` lines of one event
/// are joined by LF. Chunks may be cut anywhere, inside a CRLF or a UTF-8 sequence too.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    data: Option<Vec<u8>>,
    /// The last byte taken was a CR: an LF right after it belongs to it.
    after_cr: bool,
    started: bool,
}

/// A line or an event is longer than anybody would send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    /// Bytes of one event at most.
    const MOST: usize = 1 << 20;

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next whole event, if there is one.
    pub(super) fn next_event(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                match self.data.take() {
                    Some(data) => return Ok(Some(data)),
                    None => continue,
                }
            }
            let value = match line.strip_prefix(b"data") {
                Some(b"") => Some(&b""[..]),
                Some(rest) => rest
                    .strip_prefix(b":")
                    .map(|value| value.strip_prefix(b" ").unwrap_or(value)),
                None => None,
            };
            if let Some(value) = value {
                match &mut self.data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => self.data = Some(value.to_vec()),
                }
                if self
                    .data
                    .as_ref()
                    .is_some_and(|data| data.len() > Self::MOST)
                {
                    return Err(TooLong);
                }
            }
        }
        if self.buffer.len() > Self::MOST {
            Err(TooLong)
        } else {
            Ok(None)
        }
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
    fn every_line_end_comments_names_and_joined_lines_are_read() {
        let text = "\u{FEFF}: hello\r\ndata: one\r\n\r\ndata:two\rdata: lines\r\revent: x\nid: 7\ndata: w\u{F6}rld\n\n\ndata\n\ndatax: no\n\ndata: cut";
        assert_eq!(
            events([text.as_bytes()]),
            ["one", "two\nlines", "w\u{F6}rld", ""]
        );
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; Parser::MOST + 1]);
        assert_eq!(parser.next_event(), Err(TooLong));
        let mut parser = Parser::default();
        let error = (0..).find_map(|_| {
            parser.push(format!("data: {}\n", "y".repeat(60_000)).as_bytes());
            parser.next_event().err()
        });
        assert_eq!(error, Some(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_chunks_are_cut_changes_nothing(text in "(data: ?[a-z\u{F6}]{0,3}|:|id: 1|\r|\n|\r\n|\u{FEFF}){0,20}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            places.sort_unstable();
            let chunks = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(events(chunks), events([bytes]));
        }
    }
}
