use super::utf8::Utf8;
use crate::upstream::UpstreamError;

/// The text of an R3MES node, piece by piece as the node sent it.
///
/// A node whose inference fails has sent its 200 already. It sends the exception as one more piece of the text and ends the
/// answer well, so only the piece's beginning tells. A model that quotes such a line sends it as several pieces, or within
/// one, and is not cut off; the first piece is put together, as no answer of a model begins so.
#[derive(Debug)]
pub(crate) struct NodeText {
    utf8: Utf8,
    /// The text so far, while it may become an error.
    undecided: Option<Vec<u8>>,
}

impl Default for NodeText {
    fn default() -> Self {
        Self {
            utf8: Utf8::default(),
            undecided: Some(Vec::new()),
        }
    }
}

impl NodeText {
    const ERROR: &[u8] = b"\n[Error: ";

    /// The characters that a piece completes.
    ///
    /// # Errors
    /// The piece is no text but says what went wrong.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<String, UpstreamError> {
        let Some(mut text) = self.undecided.take() else {
            Self::check(piece)?;
            return Ok(self.utf8.push(piece));
        };
        text.extend_from_slice(piece);
        Self::check(&text)?;
        if Self::ERROR.starts_with(&text) {
            self.undecided = Some(text);
            return Ok(String::new());
        }
        Ok(self.utf8.push(&text))
    }

    /// The rest of the text.
    pub(super) fn end(&mut self) -> String {
        let undecided = self.undecided.take().unwrap_or_default();
        self.utf8.push(&undecided) + self.utf8.end()
    }

    fn check(piece: &[u8]) -> Result<(), UpstreamError> {
        if !piece.starts_with(Self::ERROR) {
            return Ok(());
        }
        let error = String::from_utf8_lossy(piece);
        let what = format!("an error inside the answer: {}", error.trim());
        Err(UpstreamError::Cut(what))
    }
}
