//! The answers of `POST /v1/responses`, as OpenAI documents them and as llama.cpp, vLLM, SGLang, Ollama, LocalAI and LM Studio
//! write them. A stream ends with the event that holds the whole response; most servers send no `[DONE]` after it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat_completions::{is_empty, read};
use super::wire::{Reading, Usage, WireFormat, also_null, count, is_error, range_in};
use crate::upstream::{UpstreamError, unreadable};

/// The format.
#[derive(Debug)]
pub(in crate::upstream) struct Responses;

/// An event. What is formed in another way than expected is left unread.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

/// A response, whole or inside an event.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    summary: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tokens<'a> {
    #[serde(default, deserialize_with = "count")]
    input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    output_tokens: Option<u32>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default, deserialize_with = "count")]
    cached_tokens: Option<u32>,
}

impl WireFormat for Responses {
    fn event<'a>(&self, name: &'a str, data: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let event: Event<'a> = serde_json::from_str(data).map_err(unreadable)?;
        let event_type: Option<&'a str> = event.kind.and_then(read);
        let kind = event_type.unwrap_or(name);
        if matches!(kind, "error" | "response.failed" | "response.cancelled")
            || name == "error"
            || is_error(event.error, event.object)
        {
            return Err(UpstreamError::Reported(data.to_owned()));
        }
        let mut reading = Reading {
            kind: Some(kind).filter(|kind| !kind.is_empty()),
            ..Reading::default()
        };
        match (kind, event.response, event.item) {
            ("response.completed" | "response.incomplete", Some(response), _) => {
                let at = range_in(data, response.get()).start;
                let whole = Response::parse(response.get())?.reading(response.get(), at)?;
                // Clients read the tokens of it.
                let missing = at + response.get().len() - 1;
                return Ok(Reading {
                    kind: reading.kind,
                    usage: whole.usage.or(Some(missing..missing)),
                    is_end: true,
                    ..whole
                });
            }
            ("response.completed" | "response.incomplete", None, _) => {
                return Err(unreadable("the end of a stream without its response"));
            }
            // Its text comes in the deltas that follow; a call has a name already.
            ("response.output_item.added", _, Some(item))
                if Item::parse(item).is_some_and(|item| item.is_call()) =>
            {
                reading.content.push((0, 0));
            }
            _ if kind.ends_with(".delta") => {
                let delta = event.delta.filter(|delta| !is_empty(delta));
                reading
                    .content
                    .extend(delta.map(|delta| (0, delta.get().len())));
            }
            _ => {}
        }
        Ok(reading)
    }

    fn whole<'a>(&self, text: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let response = Response::parse(text)?;
        if response.output.is_none() && response.status.is_none() {
            return Err(unreadable("an answer that is no response"));
        }
        response.reading(text, 0)
    }
}

impl<'a> Response<'a> {
    fn parse(text: &'a str) -> Result<Self, UpstreamError> {
        let response: Self = serde_json::from_str(text).map_err(unreadable)?;
        if is_error(response.error, response.object) {
            return Err(UpstreamError::Reported(text.to_owned()));
        }
        Ok(response)
    }

    /// What a response that is complete says; `at` is where its text begins in the event.
    fn reading(&self, text: &'a str, at: usize) -> Result<Reading<'a>, UpstreamError> {
        match self.status.and_then(read::<&str>) {
            Some("completed" | "incomplete") | None => {}
            Some(status) => return Err(UpstreamError::Reported(format!("the status {status}"))),
        }
        let items: Vec<&RawValue> = self.output.and_then(read).unwrap_or_default();
        let items = items.into_iter().filter_map(Item::parse);
        let items = items.map(|item| (item.is_call() || item.bytes() > 0, item.bytes()));
        let content = items.filter(|(is_content, _)| *is_content);
        let content = content.map(|(_, bytes)| (0, bytes));
        let content = content.reduce(|all, item| (0, all.1 + item.1));
        let usage = self.usage.map(|usage| {
            let Range { start, end } = range_in(text, usage.get());
            at + start..at + end
        });
        let tokens = self.usage.and_then(read::<Tokens<'_>>).map(|tokens| {
            let details: Option<Details> = tokens.input_tokens_details.and_then(read);
            let cached = details.and_then(|details| details.cached_tokens);
            Usage::including_cached(tokens.input_tokens, cached, tokens.output_tokens)
        });
        Ok(Reading {
            content: content.into_iter().collect(),
            repeats_content: true,
            finished: vec![0],
            usage,
            tokens: tokens.map(|tokens| (None, tokens)),
            ..Reading::default()
        })
    }
}

impl<'a> Item<'a> {
    fn parse(item: &'a RawValue) -> Option<Self> {
        read(item)
    }

    fn is_call(&self) -> bool {
        let kind: Option<&str> = self.kind.and_then(read);
        kind.is_some_and(|kind| kind.ends_with("_call"))
    }

    /// Of the JSON of its content.
    fn bytes(&self) -> usize {
        let texts = |value: &'a RawValue| match read::<Vec<Part<'a>>>(value) {
            Some(parts) => parts
                .into_iter()
                .flat_map(|part| [part.text, part.refusal])
                .collect(),
            None => vec![Some(value)],
        };
        let values = [self.content, self.summary, self.arguments, self.input];
        let values = values.into_iter().flatten().flat_map(texts).flatten();
        let values = values.filter(|value| !is_empty(value));
        values.map(|value| value.get().len()).sum()
    }
}

#[cfg(test)]
pub(in crate::upstream) mod tests;
