//! The usage that a client reads: as its server wrote it, with what the request cost.

use std::ops::Range;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::model::{Credits, Tokens, members};
use crate::upstream::inference::api::Api;

/// What was used, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paid {
    /// As the server reported it, else estimated.
    pub(crate) tokens: Tokens,
    pub(crate) cost: Credits,
}

impl Paid {
    /// As clients of this API read it. Not a JSON value, which would not hold the digits of an amount.
    pub(super) fn usage(self, api: Api) -> String {
        let Tokens {
            prompt,
            cached,
            completion,
        } = self.tokens;
        let (cost, total) = (self.cost, prompt.saturating_add(completion));
        match api {
            Api::ChatCompletions | Api::Completions => format!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"cost":{cost}}}"#
            ),
            Api::Embeddings | Api::Rerank => {
                format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{prompt},"cost":{cost}}}"#)
            }
            Api::Messages => format!(
                r#"{{"input_tokens":{},"cache_read_input_tokens":{cached},"output_tokens":{completion},"cost":{cost}}}"#,
                prompt.saturating_sub(cached)
            ),
            Api::Responses => format!(
                r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{completion},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{total},"cost":{cost}}}"#
            ),
        }
    }

    /// Adds the cost to the usage at this place in a text, instead of what its server says of that, or writes one there where it
    /// is no object, or is missing at the end of one. The tokens of a prompt of which its server said nothing, not even here, are
    /// added too.
    pub(super) fn write_into(
        self,
        api: Api,
        adds_prompt: bool,
        text: &mut BytesMut,
        at: &Range<usize>,
    ) {
        let usage = std::str::from_utf8(&text[at.clone()]).unwrap_or_default();
        let is_first = text[..at.start].trim_ascii_end().ends_with(b"{");
        let mut own = format!("\"cost\":{}", self.cost);
        if adds_prompt && !usage.contains("\"input_tokens\"") {
            own += &format!(",\"input_tokens\":{}", self.tokens.prompt);
        }
        let has_own = usage.contains("\"cost\"") || usage.contains('\\');
        let written = match usage.strip_prefix('{') {
            None if usage.is_empty() => {
                let comma = if is_first { "" } else { "," };
                format!("{comma}\"usage\":{}", self.usage(api))
            }
            Some(inner) if !has_own => {
                let comma = if inner.trim_start().starts_with('}') {
                    ""
                } else {
                    ","
                };
                format!("{{{own}{comma}{inner}")
            }
            _ => match members(usage, "") {
                Err(_) => self.usage(api),
                Ok(others) => {
                    let others = others.iter().filter(|(name, _)| name != "cost");
                    let others = others.map(|(name, value)| format!(",{}:{value}", json!(name)));
                    format!("{{{own}{}}}", others.collect::<String>())
                }
            },
        };
        let rest = text.split_off(at.end);
        text.truncate(at.start);
        text.extend_from_slice(written.as_bytes());
        text.extend_from_slice(&rest);
    }

    /// Adds a usage to the end of a JSON object; an answer that is a list has no place for it.
    pub(super) fn append_to(self, api: Api, object: &mut BytesMut) {
        if let Some(end) = object.iter().rposition(|byte| *byte == b'}')
            && object.starts_with(b"{")
        {
            self.write_into(api, false, object, &(end..end));
        }
    }
}

/// A list, which has no place for its cost, as it is stored with that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredList<'a> {
    #[serde(borrow)]
    list: &'a RawValue,
    #[serde(borrow)]
    cost: &'a RawValue,
}

/// A whole answer as it is stored for repeated requests.
pub(crate) fn to_store(answer: &[u8], cost: Credits) -> String {
    let answer = String::from_utf8_lossy(answer);
    match answer.starts_with('[') {
        true => format!(r#"{{"list":{answer},"cost":{cost}}}"#),
        false => answer.into_owned(),
    }
}

/// A stored answer as it was given, and what it cost.
pub(crate) fn from_stored(stored: String) -> (String, Option<String>) {
    #[derive(Deserialize)]
    struct Charged<'a> {
        #[serde(borrow)]
        usage: Usage<'a>,
    }
    #[derive(Deserialize)]
    struct Usage<'a> {
        #[serde(borrow)]
        cost: &'a RawValue,
    }
    if let Ok(StoredList { list, cost }) = serde_json::from_str(&stored) {
        return (list.get().to_owned(), Some(cost.get().to_owned()));
    }
    let charged: Option<Charged<'_>> = serde_json::from_str(&stored).ok();
    let cost = charged.map(|charged| charged.usage.cost.get().to_owned());
    (stored, cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_this_servers_cost_and_no_other() {
        let paid = Paid {
            tokens: Tokens::default(),
            cost: Credits::from_micro(1_500),
        };
        let own = paid.usage(Api::ChatCompletions);
        for (usage, expected) in [
            ("{}", "{\"cost\":0.0015}"),
            ("{\"a\": [1.0] }", "{\"cost\":0.0015,\"a\": [1.0] }"),
            ("{\"cost\":9,\"a\":1}", "{\"cost\":0.0015,\"a\":1}"),
            ("{\"a\":1,\"c\\u006fst\":{}}", "{\"cost\":0.0015,\"a\":1}"),
            ("null", own.as_str()),
            ("[1]", own.as_str()),
            ("", &format!(",\"usage\":{own}")),
        ] {
            let mut text = BytesMut::from(format!("<{usage}>").as_str());
            paid.write_into(
                Api::ChatCompletions,
                false,
                &mut text,
                &(1..1 + usage.len()),
            );
            assert_eq!(text, format!("<{expected}>"), "{usage}");
        }
    }
}
