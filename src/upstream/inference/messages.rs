//! The answers of `POST /v1/messages`, as Anthropic documents them and as llama.cpp, vLLM, SGLang, Ollama, LocalAI and LM Studio
//! write them. The tokens of the cache stand beside those of the input, and a later event replaces what an earlier one said.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat_completions::{is_empty, read};
use super::wire::{Reading, Usage, WireFormat, also_null, count, is_error, range_in};
use crate::upstream::{UpstreamError, unreadable};

/// The format.
#[derive(Debug)]
pub(in crate::upstream) struct Messages;

/// An event. What is formed in another way than expected is left unread.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
}

/// A message: all of it, or as a stream begins.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
}

/// A content block, or what is added to one. A signature is no content.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    /// Of thinking that is withheld.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Of a call: whole, and in parts.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default, deserialize_with = "count")]
    input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    cache_read_input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    cache_creation_input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    output_tokens: Option<u32>,
}

impl WireFormat for Messages {
    fn event<'a>(&self, name: &'a str, data: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let event: Event<'a> = serde_json::from_str(data).map_err(unreadable)?;
        let event_type: Option<&'a str> = event.kind.and_then(read);
        let kind = event_type.unwrap_or(name);
        if name == "error" || is_error(event.error, event.kind) {
            return Err(UpstreamError::Reported(data.to_owned()));
        }
        let mut reading = Reading {
            kind: Some(kind).filter(|kind| !kind.is_empty()),
            ..Reading::default()
        };
        match kind {
            "message_start" => {
                // Its usage is not the last, so its place is of no use; nothing is written yet, whatever it says of the output.
                let message: Option<Message<'_>> = event.message.and_then(read);
                let usage = message.and_then(|message| message.usage);
                let prompt = usage.and_then(tokens).map(|tokens| Usage {
                    output: None,
                    ..tokens
                });
                reading.tokens = prompt.map(|prompt| (None, prompt));
                reading.is_start = true;
            }
            "content_block_start" => add(&mut reading, event.content_block),
            "content_block_delta" => add(&mut reading, event.delta),
            "message_delta" => {
                let delta: Option<Block<'_>> = event.delta.and_then(read);
                let reason = delta.and_then(|delta| delta.stop_reason);
                reading.usage = event.usage.map(|usage| range_in(data, usage.get()));
                if reason.is_some_and(|reason| !is_empty(reason)) {
                    reading.finished.push(0);
                    // Clients read the output's tokens of it.
                    let missing = data.rfind('}').map(|end| end..end);
                    reading.usage = reading.usage.or(missing);
                }
                reading.tokens = event.usage.and_then(tokens).map(|tokens| (None, tokens));
            }
            "message_stop" => reading.is_end = true,
            _ => {}
        }
        Ok(reading)
    }

    fn whole<'a>(&self, text: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let message: Message<'a> = serde_json::from_str(text).map_err(unreadable)?;
        if is_error(message.error, message.kind) {
            return Err(UpstreamError::Reported(text.to_owned()));
        }
        let Some(content) = message.content else {
            return Err(unreadable("an answer that is no message"));
        };
        let mut reading = Reading {
            finished: vec![0],
            usage: message.usage.map(|usage| range_in(text, usage.get())),
            tokens: message.usage.and_then(tokens).map(|tokens| (None, tokens)),
            ..Reading::default()
        };
        for block in content {
            add(&mut reading, Some(block));
        }
        Ok(reading)
    }
}

/// Adds the content of a block.
fn add(reading: &mut Reading<'_>, block: Option<&RawValue>) {
    let Some(block) = block.and_then(read::<Block<'_>>) else {
        return;
    };
    let is_call = block.kind.and_then(read::<&str>) == Some("tool_use");
    let parts = [
        block.text,
        block.thinking,
        block.data,
        block.input,
        block.partial_json,
    ];
    let parts = parts.into_iter().flatten().filter(|part| !is_empty(part));
    let bytes: usize = parts.map(|part| part.get().len()).sum();
    if is_call || bytes > 0 {
        reading.content.push((0, bytes));
    }
}

fn tokens(usage: &RawValue) -> Option<Usage> {
    let tokens: Tokens = read(usage)?;
    Some(Usage {
        input: tokens.input_tokens,
        cached: tokens.cache_read_input_tokens,
        to_cache: tokens.cache_creation_input_tokens,
        output: tokens.output_tokens,
    })
}

#[cfg(test)]
pub(in crate::upstream) mod tests;
