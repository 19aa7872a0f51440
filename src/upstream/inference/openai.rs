//! The wire format of OpenAI's API: a chat completion, answered by one JSON object or by a stream of chunks, of which the
//! text, the end and the usage are read. Everything else in a chunk is relayed unchanged.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{InferenceRequest, Prompt};
use crate::store::Tokens;
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
#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        let cached = usage
            .prompt_tokens_details
            .and_then(|details| details.cached_tokens);
        Self {
            prompt: usage.prompt_tokens.into(),
            cached: cached.unwrap_or_default().into(),
            completion: usage.completion_tokens.into(),
        }
    }
}

/// What is read of a chunk of a stream, or of a whole completion.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Chunk<'a> {
    /// The text of the first choice as JSON; every request is for one.
    content: Option<&'a RawValue>,
    pub(in crate::upstream) usage: Option<Tokens>,
    pub(in crate::upstream) has_choices: bool,
    /// Whether a client of `/v1` reads something in it; a role alone is nothing.
    pub(in crate::upstream) has_content: bool,
    /// Whether it ends the choice.
    pub(in crate::upstream) is_finished: bool,
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// In a chunk of a stream.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// In a whole completion.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// A text, copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text(value: &RawValue) -> serde_json::Result<Cow<'_, str>> {
    serde_json::from_str(value.get()).map(|Text(text)| text)
}

/// The members that are content for a client of `/v1`. They are not parsed: half an emoji in the arguments of a tool call is
/// for the client to read.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

impl Delta<'_> {
    fn has_content(&self) -> bool {
        let texts = [self.content, self.reasoning_content, self.reasoning];
        let others = [self.refusal, self.tool_calls, self.function_call];
        let mut given = texts.into_iter().chain(others).flatten();
        given.any(|value| !matches!(value.get(), "\"\"" | "[]"))
    }
}

impl<'a> Chunk<'a> {
    pub(in crate::upstream) fn parse(event: &'a [u8]) -> Result<Self, UpstreamError> {
        // As text first: serde_json does not check the bytes of members that it skips.
        let event = std::str::from_utf8(event).map_err(unreadable)?;
        let members: Members<'a> = serde_json::from_str(event).map_err(unreadable)?;
        if let Some(error) = members.error {
            let what = format!("an error inside the answer: {error}");
            return Err(UpstreamError::Cut(what));
        }
        let choices = members.choices.unwrap_or_default();
        let usage = members
            .usage
            .map(|usage| serde_json::from_str::<Usage>(usage.get()));
        let mut chunk = Self {
            usage: usage.and_then(Result::ok).map(Tokens::from),
            has_choices: !choices.is_empty(),
            ..Self::default()
        };
        let first = choices.first().and_then(|choice| choice.delta.as_ref());
        if let Some(content) = first.and_then(|delta| delta.content) {
            if !content.get().starts_with('"') {
                return Err(unreadable("a content that is not a text"));
            }
            chunk.content = Some(content);
        }
        for choice in choices {
            let reason = choice.finish_reason.and_then(|reason| text(reason).ok());
            match reason.unwrap_or_default().trim() {
                // In every chunk of some servers instead of null.
                "" | "null" => {}
                // What the engine of vLLM or SGLang gave up.
                "abort" | "error" => chunk.has_content = true,
                _ => chunk.is_finished = true,
            }
            let mut deltas = choice.delta.iter().chain(&choice.message);
            chunk.has_content |= deltas.any(Delta::has_content);
        }
        Ok(chunk)
    }

    /// The text of the first choice. It is not read for a client to which the event is relayed.
    pub(in crate::upstream) fn text(&self) -> Result<Cow<'a, str>, UpstreamError> {
        let text = self.content.map(text).transpose().map_err(unreadable)?;
        Ok(text.unwrap_or_default())
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
