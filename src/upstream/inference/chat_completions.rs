//! The answers of `POST /v1/chat/completions` and `/v1/completions`, as OpenAI documents them and as llama.cpp, vLLM, SGLang,
//! Ollama, LocalAI, LM Studio and `transformers serve` write them.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use super::wire::{Reading, WireFormat};
use crate::store::Tokens;
use crate::upstream::sse::Event;
use crate::upstream::{UpstreamError, unreadable};

/// The format.
#[derive(Debug)]
pub(in crate::upstream) struct ChatCompletions;

impl WireFormat for ChatCompletions {
    fn event<'a>(&self, event: &'a Event) -> Result<Reading<'a>, UpstreamError> {
        if event.name == "error" {
            return Err(UpstreamError::Reported(event.text().to_owned()));
        }
        let members = Members::parse(event.text())?;
        let choices: Vec<Choice<'_>> = members.choices.and_then(read).unwrap_or_default();
        let mut reading = Reading {
            usage: members.usage_in(event.text()),
            no_choice: choices.is_empty() && members.choices.is_none_or(is_empty),
            ..Reading::default()
        };
        for choice in &choices {
            choice.read_into(&mut reading);
        }
        let index = choices.first().map(Choice::index);
        reading.tokens = members.tokens().map(|tokens| (index, tokens));
        Ok(reading)
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Reading<'a>, UpstreamError> {
        let text = std::str::from_utf8(body).map_err(unreadable)?;
        let members = Members::parse(text)?;
        let choices: Option<Vec<Choice<'_>>> = members.choices.and_then(read);
        let choices = choices.filter(|choices| !choices.is_empty());
        let choices = choices.ok_or_else(|| unreadable("an answer without choices"))?;
        let mut reading = Reading::default();
        for choice in &choices {
            choice.read_into(&mut reading);
        }
        if let Some(reason) = reading.given_up {
            return Err(UpstreamError::Reported(reason));
        }
        // Nothing of it is missing, even where a server gives no reason.
        reading.finished = choices.iter().map(Choice::index).collect();
        // llama.cpp counts the first choice only.
        if choices.len() == 1 {
            reading.tokens = members.tokens().map(|tokens| (None, tokens));
        }
        Ok(reading)
    }
}

/// The members of an event or of a whole answer. Only their extent is read at first, so that one which is formed in another
/// way than expected makes no event unreadable.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    error_code: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    /// In an event of a chat.
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    /// In a whole chat.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    /// In a completion.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// The members that are content.
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
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

/// A part of a content that is a list.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl<'a> Members<'a> {
    fn parse(text: &'a str) -> Result<Self, UpstreamError> {
        let members: Self = serde_json::from_str(text).map_err(unreadable)?;
        let is_error = |value: Option<&RawValue>| value.and_then(read::<&str>) == Some("error");
        let reports = [members.error, members.error_code].into_iter().flatten();
        if reports.map(RawValue::get).any(|value| !matches!(value, "false" | "0" | "\"\""))
            || is_error(members.object)
            || is_error(members.kind)
            // As FastAPI writes every error.
            || (members.detail.is_some() && members.choices.is_none())
        {
            return Err(UpstreamError::Reported(text.to_owned()));
        }
        Ok(members)
    }

    /// Where the usage is in the text of these members.
    fn usage_in(&self, text: &str) -> Option<Range<usize>> {
        let usage = self.usage?.get();
        let start = usage.as_ptr().addr() - text.as_ptr().addr();
        Some(start..start + usage.len())
    }

    /// The usage, if it is one: some servers send zeros until they know it.
    fn tokens(&self) -> Option<Tokens> {
        let usage: Usage = self.usage.and_then(read)?;
        let cached = usage
            .prompt_tokens_details
            .and_then(|details| details.cached_tokens);
        (usage.prompt_tokens > 0).then(|| Tokens {
            prompt: usage.prompt_tokens.into(),
            cached: cached.unwrap_or_default().into(),
            completion: usage.completion_tokens.unwrap_or_default().into(),
        })
    }
}

impl<'a> Choice<'a> {
    fn index(&self) -> u64 {
        self.index.and_then(read).unwrap_or(0)
    }

    fn read_into(&self, reading: &mut Reading<'a>) {
        let reason = self
            .finish_reason
            .and_then(read::<String>)
            .unwrap_or_default();
        match reason.trim() {
            // In every event of some servers instead of null.
            "" | "null" => {}
            // What the engine of vLLM or SGLang gave up.
            "abort" | "error" => reading.given_up = Some(format!("the finish reason {reason}")),
            _ => reading.finished.push(self.index()),
        }
        let delta = self.delta.or(self.message).and_then(read::<Delta<'_>>);
        let text = self.text.or(delta.as_ref().and_then(|delta| delta.content));
        if self.index() == 0 && reading.text.is_none() {
            reading.text = text.map(RawValue::get);
        }
        reading.has_content |= text.is_some_and(|text| !is_empty(text));
        if let Some(delta) = delta {
            let texts = [delta.reasoning_content, delta.reasoning, delta.refusal];
            let others = [delta.tool_calls, delta.function_call, delta.audio];
            let mut given = texts.into_iter().chain(others).flatten();
            reading.has_content |= given.any(|value| !is_empty(value));
        }
    }
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// Whether nothing is in a value: no text, no member, no part with a text.
fn is_empty(value: &RawValue) -> bool {
    let value = value.get();
    let inner = |open, close| value.strip_prefix(open)?.strip_suffix(close);
    match value {
        "false" | "\"\"" => true,
        _ if value.starts_with('[') => {
            let texts =
                |parts: Vec<Part<'_>>| parts.iter().all(|part| part.text.is_some_and(is_empty));
            inner('[', ']').is_some_and(|inner: &str| inner.trim().is_empty())
                || serde_json::from_str(value).is_ok_and(texts)
        }
        _ => inner('{', '}').is_some_and(|inner: &str| inner.trim().is_empty()),
    }
}

/// The text of a content, which is a string or a list of parts. Half a surrogate pair, as it comes where a server cuts an
/// emoji, becomes U+FFFD.
pub(in crate::upstream) fn text_of(content: &str) -> String {
    if let Ok(text) = serde_json::from_str(content) {
        return text;
    }
    if let Ok(Lossy(text)) = serde_json::from_str(content) {
        return text;
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(content).unwrap_or_default();
    let texts = parts.iter().filter_map(|part| part.text);
    texts.map(|text| text_of(text.get())).collect()
}

/// A string of JSON that need not be Unicode.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Lossy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests;
