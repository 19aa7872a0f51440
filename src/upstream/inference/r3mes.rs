//! The wire format of R3MES nodes: `POST /chat` with one message, answered by the plain text of the model.

use serde_json::json;

use super::{InferenceRequest, Prompt};
use crate::upstream::{UpstreamError, unreadable};

pub(super) fn request_body(request: &InferenceRequest) -> Result<String, UpstreamError> {
    let (Prompt::Message(text) | Prompt::Request(_, Some(text))) = &request.prompt else {
        return Err(unreadable("a text-only server cannot serve this request"));
    };
    let mut body = json!({ "message": text });
    if let Some(lora) = &request.lora {
        body["lora_name"] = lora.as_str().into();
    }
    Ok(body.to_string())
}

/// Reads the text of a node, piece by piece as the node sent it.
///
/// A node whose inference fails has sent its 200 already. It sends the exception as one more piece of text and ends the
/// response cleanly, so only the beginning of the piece shows it. A model that quotes such a line sends it as several
/// pieces, or within one, and is not aborted; the first piece is reassembled, as no model output begins like this.
#[derive(Debug, Default)]
pub(in crate::upstream) struct TextReader {
    /// Held back: a text that may become an error, or a character split between two pieces.
    held: Vec<u8>,
    /// The text does not begin with an error.
    is_text: bool,
}

impl TextReader {
    const ERROR: &[u8] = b"\n[Error: ";

    /// The characters that a piece completes; invalid bytes become U+FFFD.
    ///
    /// # Errors
    /// The piece is not text but an error message.
    pub(in crate::upstream) fn push(&mut self, piece: &[u8]) -> Result<String, UpstreamError> {
        let start = if self.is_text { self.held.len() } else { 0 };
        self.held.extend_from_slice(piece);
        let piece = &self.held[start..];
        if piece.starts_with(Self::ERROR) {
            let error = String::from_utf8_lossy(piece);
            let what = format!("an error inside the answer: {}", error.trim());
            return Err(UpstreamError::Reported(what));
        }
        self.is_text |= !Self::ERROR.starts_with(piece);
        if !self.is_text {
            return Ok(String::new());
        }
        let last = self.held.utf8_chunks().last();
        let tail = last.map_or(&b""[..], |chunk| chunk.invalid());
        let is_cut = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
        let cut = if is_cut { tail.len() } else { 0 };
        let rest = self.held.split_off(self.held.len() - cut);
        let text = std::mem::replace(&mut self.held, rest);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The rest of the text.
    pub(in crate::upstream) fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
