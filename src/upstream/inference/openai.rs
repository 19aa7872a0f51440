//! The wire format of OpenAI's API: a chat completion, answered by one JSON object or by a stream of chunks, of which the
//! text, the end and the usage are read. Everything else in a chunk is relayed unchanged.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{InferenceRequest, Prompt};
use crate::upstream::{UpstreamError, unreadable};

pub(super) fn request_body(request: &InferenceRequest, model: &str) -> String {
    match &request.prompt {
        Prompt::Completion(completion, _) => completion.body(model),
        Prompt::Message(text) => json!({
            "model": model,
            "messages": [{ "role": "user", "content": text }],
            "stream": true,
            "stream_options": { "include_usage": true },
        })
        .to_string(),
    }
}

/// The first model in an answer to `GET /v1/models`.
pub(super) fn first_model(body: &[u8]) -> Result<String, UpstreamError> {
    let models: Value = serde_json::from_slice(body).map_err(unreadable)?;
    let first = models.pointer("/data/0/id").and_then(Value::as_str);
    let first = first.ok_or_else(|| unreadable("/v1/models names no model"))?;
    Ok(first.to_owned())
}

/// The tokens of an answer, as its server counted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

/// The members that are read of a chunk, or of a whole completion.
#[derive(Deserialize)]
pub(in crate::upstream) struct Chunk {
    error: Option<Value>,
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
}

#[derive(Deserialize)]
pub(in crate::upstream) struct Choice {
    /// In a chunk of a stream.
    delta: Option<Delta>,
    /// In a whole completion.
    message: Option<Delta>,
    finish_reason: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    refusal: Option<String>,
    /// Not parsed: half an emoji in the arguments of a call is for the client to read.
    tool_calls: Option<Box<RawValue>>,
    function_call: Option<IgnoredAny>,
}

impl Delta {
    fn has_content(&self) -> bool {
        let texts = [
            &self.content,
            &self.reasoning_content,
            &self.reasoning,
            &self.refusal,
        ];
        texts.into_iter().flatten().any(|text| !text.is_empty())
            || (self.tool_calls.iter())
                .any(|calls| !calls.get().trim_matches(['[', ']', ' ']).is_empty())
            || self.function_call.is_some()
    }
}

impl Choice {
    /// Why it ended. Some servers have `""` or `"null"` in every chunk instead of null.
    pub(in crate::upstream) fn finish_reason(&self) -> Option<&str> {
        let reason = self.finish_reason.as_ref()?.as_str()?;
        Some(reason).filter(|reason| !matches!(reason.trim(), "" | "null"))
    }
}

impl Chunk {
    pub(in crate::upstream) fn parse(event: &[u8]) -> Result<Self, UpstreamError> {
        // As text first: serde_json does not check the bytes of members that it skips.
        let text = std::str::from_utf8(event).map_err(unreadable)?;
        let chunk: Self = serde_json::from_str(text).map_err(unreadable)?;
        match chunk.error {
            None => Ok(chunk),
            Some(error) => Err(UpstreamError::Cut(format!(
                "an error inside the answer: {error}"
            ))),
        }
    }

    pub(in crate::upstream) fn choices(&self) -> &[Choice] {
        self.choices.as_deref().unwrap_or_default()
    }

    pub(in crate::upstream) fn usage(&self) -> Option<Usage> {
        Usage::deserialize(self.usage.as_ref()?).ok()
    }

    /// The text of the first choice.
    pub(in crate::upstream) fn text(&self) -> Option<&str> {
        self.choices().first()?.delta.as_ref()?.content.as_deref()
    }

    /// Whether it ends the choice; every request is for one. vLLM and SGLang report "abort" or "error" for what their engine
    /// gave up.
    pub(in crate::upstream) fn is_finished(&self) -> bool {
        let mut reasons = self.choices().iter().filter_map(Choice::finish_reason);
        reasons.any(|reason| !matches!(reason, "abort" | "error"))
    }

    /// Whether a client of `/v1` reads something in it; a role alone is nothing.
    pub(in crate::upstream) fn has_content(&self) -> bool {
        self.choices().iter().any(|choice| {
            let mut deltas = choice.delta.iter().chain(&choice.message);
            choice.finish_reason().is_some() || deltas.any(Delta::has_content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = first_model(&page);
        }

        #[test]
        fn the_first_model_is_the_first_and_a_changed_page_names_one_or_none(ids in prop::collection::vec(any::<String>(), 0..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let data: Vec<_> = ids.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
            let mut page = json!({ "object": "list", "data": data }).to_string().into_bytes();
            prop_assert_eq!(first_model(&page).ok(), ids.first().cloned());
            let at = at.index(page.len());
            page[at] = byte;
            let _ = first_model(&page);
        }
    }
}
