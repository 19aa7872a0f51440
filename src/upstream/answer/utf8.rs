/// Puts characters together that were cut between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Utf8(Vec<u8>);

impl Utf8 {
    /// All whole characters so far; what can be none becomes U+FFFD.
    pub(super) fn push(&mut self, data: &[u8]) -> String {
        self.0.extend_from_slice(data);
        let mut text = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text += valid;
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text += &String::from_utf8_lossy(valid);
                    match error.error_len() {
                        None => break after.len(),
                        Some(wrong) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[wrong..];
                        }
                    }
                }
            }
        };
        self.0.drain(..self.0.len() - kept);
        text
    }

    /// What a character that never ended becomes.
    pub(super) fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.0).is_empty() {
            ""
        } else {
            "\u{FFFD}"
        }
    }
}
