//! The answers of `POST /v1/embeddings` and `/v1/rerank`: one JSON object with a list of results, or that list alone, as
//! SGLang writes it. They have no stream and no output tokens.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::chat_completions::read;
use super::wire::{Reading, Usage, WireFormat, also_null, count, is_error, range_in};
use crate::upstream::{UpstreamError, unreadable};

/// The format of both.
#[derive(Debug)]
pub(in crate::upstream) struct Lists;

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    /// Of embeddings. However many there are, their count takes no memory.
    data: Option<Vec<IgnoredAny>>,
    /// Of documents with their rank.
    results: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default, deserialize_with = "count")]
    prompt_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    total_tokens: Option<u32>,
}

impl WireFormat for Lists {
    fn event<'a>(&self, _: &'a str, _: &'a str) -> Result<Reading<'a>, UpstreamError> {
        Err(unreadable("a stream where none was asked for"))
    }

    fn whole<'a>(&self, text: &'a str) -> Result<Reading<'a>, UpstreamError> {
        let (results, usage): (Vec<IgnoredAny>, Option<&RawValue>) = match text.starts_with('[') {
            true => (serde_json::from_str(text).map_err(unreadable)?, None),
            false => {
                let list: List<'_> = serde_json::from_str(text).map_err(unreadable)?;
                if is_error(list.error, list.object) {
                    return Err(UpstreamError::Reported(text.to_owned()));
                }
                let results = list.data.or(list.results);
                (
                    results.ok_or_else(|| unreadable("an answer without results"))?,
                    list.usage,
                )
            }
        };
        let input = usage.and_then(read::<Tokens>);
        let known = |tokens: Option<u32>| tokens.filter(|tokens| *tokens > 0);
        let input =
            input.and_then(|tokens| known(tokens.prompt_tokens).or(known(tokens.total_tokens)));
        let tokens = Usage::including_cached(input, None, Some(0));
        Ok(Reading {
            content: results.first().map(|_| (0, 0)).into_iter().collect(),
            finished: vec![0],
            usage: usage.map(|usage| range_in(text, usage.get())),
            tokens: Some((None, tokens)),
            ..Reading::default()
        })
    }
}

#[cfg(test)]
pub(in crate::upstream) mod tests;
