//! The answers of `POST /v1/chat/completions` and `/v1/completions`, as OpenAI documents them and as llama.cpp, vLLM, SGLang,
//! Ollama, LocalAI, LM Studio and `transformers serve` write them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use super::wire::{Reading, Usage as Reported, WireFormat, also_null, range_in};
use crate::upstream::{UpstreamError, unreadable};

/// The format.
#[derive(Debug)]
pub(in crate::upstream) struct ChatCompletions;

impl WireFormat for ChatCompletions {
    fn event<'a>(&self, name: &'a str, data: &'a str) -> Result<Reading<'a>, UpstreamError> {
        if name == "error" {
            return Err(UpstreamError::Reported(data.to_owned()));
        }
        let members = Members::parse(data)?;
        let choices = members.choices.as_deref().unwrap_or_default();
        let mut reading = Reading {
            usage: members
                .usage_in(data)
                .filter(|usage| &data[usage.clone()] != "null"),
            no_choice: choices.is_empty() && !members.has_unread_choices,
            ..Reading::default()
        };
        for choice in choices {
            choice.read_into(&mut reading);
        }
        let index = match choices {
            [choice] => Some(choice.index()),
            _ => None,
        };
        reading.tokens = members.tokens().map(|tokens| (index, tokens));
        Ok(reading)
    }

    fn whole<'a>(&self, text: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let members = Members::parse(text)?;
        let choices = members.choices.as_deref().unwrap_or_default();
        if choices.is_empty() {
            return Err(unreadable("an answer without choices"));
        }
        let mut reading = Reading {
            usage: members.usage_in(text),
            ..Reading::default()
        };
        for choice in choices {
            choice.read_into(&mut reading);
        }
        if let Some(reason) = reading.given_up {
            return Err(UpstreamError::Reported(reason));
        }
        // Nothing of it is missing, even where a server gives no reason.
        reading.finished = choices.iter().map(Choice::index).collect();
        // Of several, llama.cpp counts the first one only.
        let index = choices
            .first()
            .map(Choice::index)
            .filter(|_| choices.len() > 1);
        reading.tokens = members.tokens().map(|tokens| (index, tokens));
        Ok(reading)
    }
}

/// The members of an event or of a whole answer. Of all but the choices only the extent is read at first, so that one which is
/// formed in another way than expected makes no event unreadable.
#[derive(Deserialize)]
struct Members<'a, C> {
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
    choices: Option<C>,
    /// Whether there are choices, but formed in another way.
    #[serde(skip)]
    has_unread_choices: bool,
    /// Also null, to be replaced there.
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a, D> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    /// In an event of a chat.
    delta: Option<D>,
    /// In a whole chat.
    message: Option<D>,
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
struct Usage<'a> {
    prompt_tokens: u32,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl<'a> Members<'a, Vec<Choice<'a, Delta<'a>>>> {
    /// Reads an event that is formed as usual in one pass, and any other part by part.
    fn parse(text: &'a str) -> Result<Self, UpstreamError> {
        let members = match serde_json::from_str(text) {
            Ok(members) => members,
            Err(_) => Self::by_parts(text)?,
        };
        let is_error = |value: Option<&RawValue>| value.and_then(read::<&str>) == Some("error");
        let reports = [members.error, members.error_code].into_iter().flatten();
        if reports.map(RawValue::get).any(|value| !matches!(value, "false" | "0" | "\"\""))
            || is_error(members.object)
            || is_error(members.kind)
            // As FastAPI writes every error.
            || (members.detail.is_some() && members.choices.is_none() && !members.has_unread_choices)
        {
            return Err(UpstreamError::Reported(text.to_owned()));
        }
        Ok(members)
    }

    /// Of a member that comes twice the last one counts, as for most parsers.
    fn by_parts(text: &'a str) -> Result<Self, UpstreamError> {
        let parts: HashMap<Cow<'a, str>, &'a RawValue> =
            serde_json::from_str(text).map_err(unreadable)?;
        let any = |name: &str| parts.get(name).copied();
        let part = |name: &str| any(name).filter(|value| value.get() != "null");
        let choices: Option<Vec<Choice<'a, &RawValue>>> = part("choices").and_then(read);
        let choices = choices.map(|choices| choices.into_iter().map(Choice::read_parts).collect());
        Ok(Self {
            error: part("error"),
            error_code: part("error_code"),
            detail: part("detail"),
            object: part("object"),
            kind: part("type"),
            has_unread_choices: choices.is_none()
                && part("choices").is_some_and(|choices| !is_empty(choices)),
            choices,
            usage: any("usage"),
        })
    }

    /// Where the usage is in the text of these members.
    fn usage_in(&self, text: &str) -> Option<Range<usize>> {
        Some(range_in(text, self.usage?.get()))
    }

    /// The usage, if it is one: some servers send zeros until they know it.
    fn tokens(&self) -> Option<Reported> {
        let usage: Usage<'_> = self.usage.and_then(read)?;
        let details = usage.prompt_tokens_details.and_then(read);
        let cached = details.map(|details: PromptDetails| details.cached_tokens);
        let completion: Option<u32> = usage.completion_tokens.and_then(read);
        let prompt = Some(usage.prompt_tokens).filter(|tokens| *tokens > 0)?;
        Some(Reported::including_cached(Some(prompt), cached, completion))
    }
}

impl<'a> Choice<'a, &'a RawValue> {
    fn read_parts(self) -> Choice<'a, Delta<'a>> {
        Choice {
            index: self.index,
            delta: self.delta.and_then(read),
            message: self.message.and_then(read),
            text: self.text,
            finish_reason: self.finish_reason,
        }
    }
}

impl<'a> Choice<'a, Delta<'a>> {
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
        let delta = self.delta.as_ref().or(self.message.as_ref());
        let text = self.text.or(delta.and_then(|delta| delta.content));
        if self.index() == 0 && reading.text.is_none() {
            reading.text = text.map(RawValue::get);
        }
        let none = [None; 6];
        let others = delta.map_or(none, |delta| {
            [
                delta.reasoning_content,
                delta.reasoning,
                delta.refusal,
                delta.tool_calls,
                delta.function_call,
                delta.audio,
            ]
        });
        let given = others.into_iter().chain([text]).flatten();
        let given = given.filter(|value| !is_empty(value));
        let bytes: usize = given.map(|value| value.get().len()).sum();
        if bytes > 0 {
            reading.content.push((self.index(), bytes));
        }
    }
}

pub(super) fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// Whether nothing is in a value: no text, no member, no part with a text.
pub(super) fn is_empty(value: &RawValue) -> bool {
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
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text += chunk.valid();
                    // The three bytes of a surrogate are three invalid chunks, of which this is the first.
                    if chunk.invalid() == [0xED] {
                        text.push(char::REPLACEMENT_CHARACTER);
                    }
                }
                Ok(Lossy(text))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
pub(in crate::upstream) mod tests;
