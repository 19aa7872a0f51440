//! A request of an API that model servers have, checked and rewritten for one of them.
//!
//! `model::guard` lists the members that are passed on unchanged. Set here are the model, whether to stream, that a stream ends
//! with its usage, how many answers there are, how many tokens they have at most, and that no server stores any.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::inference::api::Api;
use crate::config::Terms;
use crate::model::guard::{
    Checked, MOST_ANSWERS, not_passed, thinking_within, tools_added, tools_sent,
};
use crate::model::{InputError, Wallet, items, members, read_object};

#[derive(Debug)]
pub(crate) struct ApiRequest {
    pub(crate) api: Api,
    /// The requested model, which is an adapter.
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// Whether the client itself requested the usage at the end of the stream.
    pub(crate) wants_usage: bool,
    /// Tokens of an answer at most, as the client asked.
    pub(crate) max_tokens: Option<u32>,
    /// How many answers it asked for, to all of its prompts, and how many to each if it said so.
    pub(crate) choices: u32,
    n: Option<u32>,
    /// Bytes of what is passed on, and pictures or other media in it.
    pub(crate) bytes: usize,
    pub(crate) media: usize,
    /// Bytes that a template may add to them where it writes JSON anew.
    spaced: usize,
    work: Work,
    /// Who pays, as the client says.
    pub(crate) wallet_address: Option<Wallet>,
    rest: Vec<(String, Box<RawValue>)>,
    /// For servers alone whose `pass` names them.
    dropped: Vec<(String, Box<RawValue>)>,
    /// Those of the rest that only servers get whose `pass` has them.
    extra: Vec<String>,
}

/// What a model reads for a request.
#[derive(Debug)]
enum Work {
    /// So many sequences, each of which fits into its context.
    Sequences(u32),
    /// One for each document, of so many bytes with the query.
    Documents(Vec<usize>),
}

/// The members that are read here.
#[derive(Deserialize)]
struct Known {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<Value>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
    max_output_tokens: Option<Value>,
    wallet_address: Option<Wallet>,
}

/// Other members have no meaning here, and are not passed on.
#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl ApiRequest {
    /// # Errors
    /// Not a JSON object, nothing to answer, a known member of the wrong type, or a member that no server may get.
    pub(crate) fn parse(api: Api, body: &str) -> Result<Self, InputError> {
        let Checked {
            forwarded,
            dropped,
            extra,
            media,
        } = api.guard().check(members(body, "")?)?;
        let known: Known = read_object(body, "")?;
        for (required, detail) in api.required() {
            let is_there =
                |(name, value): &(String, &RawValue)| name == required && value.get() != "null";
            if !forwarded.iter().any(is_there) {
                return Err(InputError::member(required, detail));
            }
        }
        let n = count("n", known.n, MOST_ANSWERS)?;
        // The smallest one, whichever a server reads.
        let limits = [
            ("max_tokens", known.max_tokens),
            ("max_completion_tokens", known.max_completion_tokens),
            ("max_output_tokens", known.max_output_tokens),
        ];
        let limits = limits.map(|(name, value)| count(name, value, u32::MAX));
        let mut max_tokens = None;
        for limit in limits {
            max_tokens = limit?.into_iter().chain(max_tokens).min();
        }
        let member = |name: &str| {
            let found = forwarded.iter().find(|(member, _)| member == name);
            found.map(|(_, value)| *value)
        };
        let work = match api {
            Api::Completions => Work::Sequences(member("prompt").map_or(1, sequences)),
            Api::Embeddings => Work::Sequences(member("input").map_or(1, sequences)),
            Api::Rerank => Work::Documents(documents(&forwarded, &extra)),
            Api::ChatCompletions | Api::Messages | Api::Responses => Work::Sequences(1),
        };
        let prompts = match (&work, api) {
            (Work::Sequences(prompts), Api::Completions) => *prompts,
            _ => 1,
        };
        let choices = prompts.saturating_mul(n.unwrap_or(1));
        if choices > MOST_ANSWERS {
            let detail = format!(
                "times the {prompts} prompts must be at most {MOST_ANSWERS}: send the others in requests of their own"
            );
            return Err(InputError::member("n", &detail));
        }
        let owned = |members: Vec<(String, &RawValue)>| -> Vec<_> {
            let owned = members
                .into_iter()
                .map(|(name, value)| (name, value.to_owned()));
            owned.collect()
        };
        let mut rest = owned(forwarded);
        let tools = rest.iter_mut().find(|(name, _)| name == "tools");
        if let Some((_, tools)) = tools.filter(|_| api == Api::Responses)
            && let Some(sent) = tools_sent(tools)
        {
            *tools = sent;
        }
        let include_usage = known
            .stream_options
            .and_then(|options| options.include_usage);
        Ok(Self {
            api,
            model: known.model,
            stream: known.stream.unwrap_or(false),
            wants_usage: include_usage.unwrap_or(false)
                || matches!(api, Api::Messages | Api::Responses),
            max_tokens,
            choices,
            n,
            bytes: rest
                .iter()
                .map(|(name, value)| name.len() + value.get().len())
                .sum(),
            media,
            spaced: rest
                .iter()
                .map(|(name, value)| spaced(api, name, value))
                .sum(),
            work,
            wallet_address: known.wallet_address,
            rest,
            dropped: owned(dropped),
            extra,
        })
    }

    /// Tokens of its prompts at most.
    pub(crate) fn prompt_bound(&self, terms: &Terms) -> i64 {
        match &self.work {
            Work::Sequences(count) => {
                terms.prompt_bound(*count, self.bytes + self.spaced, self.media)
            }
            Work::Documents(documents) => documents
                .iter()
                .map(|bytes| terms.prompt_bound(1, *bytes, 0))
                .fold(0, i64::saturating_add),
        }
    }

    /// Bytes of its prompts, as often as they are read.
    pub(crate) fn prompt_bytes(&self) -> usize {
        match &self.work {
            Work::Sequences(_) => self.bytes,
            Work::Documents(documents) => documents.iter().sum(),
        }
    }

    /// Bytes of its whole answer at most. The vector of an input is at most 256 KiB of JSON: 8192 numbers of 32 bytes.
    pub(crate) fn max_bytes(&self) -> usize {
        const VECTOR: usize = 256 << 10;
        let most = self.api.max_bytes();
        match &self.work {
            Work::Sequences(inputs) if self.api == Api::Embeddings => {
                VECTOR.saturating_mul(*inputs as usize).clamp(1 << 20, most)
            }
            _ => most,
        }
    }

    /// Whether the client's request has a member of this name.
    pub(super) fn has_member(&self, name: &str) -> bool {
        self.rest.iter().any(|(member, _)| member == name)
    }

    /// Whether a server that passes these members on may get the request. One that does not is not sent the request without
    /// them: the client would not know that they had no effect.
    pub(super) fn may_go_to(&self, pass: &[String]) -> bool {
        self.extra.iter().all(|name| is_passed(pass, name))
    }

    /// # Errors
    /// A member that none of the servers passes on, or not together with those before it; `servers` are the `pass` of each.
    pub(crate) fn check_passed<'a>(
        &self,
        servers: impl Iterator<Item = &'a [String]>,
    ) -> Result<(), InputError> {
        let mut servers: Vec<_> = servers.collect();
        for name in &self.extra {
            servers.retain(|pass| is_passed(pass, name));
            if servers.is_empty() {
                return Err(not_passed(name));
            }
        }
        Ok(())
    }

    /// The body for the inference server; `stream_options` are left out for one that refuses them. The limit of tokens is
    /// written under each name that a server may read: of a chat Ollama knows `max_tokens` alone, others prefer the newer one.
    /// `pass` are the members that this server gets though they are dropped elsewhere.
    pub(super) fn body(
        &self,
        model: &str,
        max_tokens: Option<u32>,
        stream_options: bool,
        pass: &[String],
    ) -> String {
        let mut body = format!("{{\"model\":{}", json!(model));
        if !matches!(self.api, Api::Embeddings | Api::Rerank) {
            body += &format!(",\"stream\":{}", self.stream);
        }
        let has_options = matches!(self.api, Api::ChatCompletions | Api::Completions);
        if self.stream && stream_options && has_options {
            body += ",\"stream_options\":{\"include_usage\":true}";
        }
        if self.api == Api::Responses {
            body += ",\"store\":false";
        }
        for name in self.api.limits().iter().filter(|_| max_tokens.is_some()) {
            body += &format!(",\"{name}\":{}", max_tokens.unwrap_or_default());
        }
        if let Some(n) = self.n {
            body += &format!(",\"n\":{n}");
        }
        let passed = self.dropped.iter().filter(|(name, _)| pass.contains(name));
        let is_lower = |most: &u32| self.max_tokens.is_none_or(|asked| *most < asked);
        let lower = max_tokens.filter(is_lower);
        for (name, value) in self.rest.iter().chain(passed) {
            let most = lower.filter(|_| name == "thinking");
            let within = most.and_then(|most| thinking_within(value, most));
            let value = within.as_ref().unwrap_or(value).get();
            body += &format!(",{}:{value}", json!(name));
        }
        body + "}"
    }

    /// The conversation as one text, for an R3MES node, which accepts nothing else. Sampling settings are the node's own.
    ///
    /// # Errors
    /// Content that text cannot express: tools, formats, pictures, or what is no chat.
    pub(crate) fn as_text(&self) -> Result<String, InputError> {
        #[derive(Deserialize)]
        struct Message {
            role: String,
            content: Content,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Content {
            Text(String),
            Parts(Vec<Part>),
        }
        #[derive(Deserialize)]
        struct Part {
            text: String,
        }
        const NO_TEXT: &str = "tools tool_choice functions function_call response_format";
        const TEXT_ONLY: &str = "the inference server takes text only";
        if self.api != Api::ChatCompletions {
            let detail = "no inference server of this model serves this request";
            return Err(InputError::field("", detail));
        }
        if self.choices > 1 {
            let detail = format!("must be 1: {TEXT_ONLY}");
            return Err(InputError::member("n", &detail));
        }
        let mut messages = Vec::new();
        for (name, value) in &self.rest {
            if name == "messages" {
                messages = items(value)?;
            } else if NO_TEXT.split(' ').any(|refused| refused == name) && value.get() != "null" {
                let detail = format!("{name} is not supported: {TEXT_ONLY}");
                return Err(InputError::field(format!("/{name}"), detail));
            }
        }
        let mut turns = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            let Ok(Message { role, content }) = serde_json::from_str(message.get()) else {
                let detail = format!("a message must have a role and a text: {TEXT_ONLY}");
                return Err(InputError::field(format!("/messages/{at}"), detail));
            };
            let text = match content {
                Content::Text(text) => text,
                Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
            };
            if messages.len() == 1 {
                return Ok(text);
            }
            turns.push(format!("{role}: {text}"));
        }
        Ok(turns.join("\n\n"))
    }
}

/// Whether a server passes a member on.
fn is_passed(pass: &[String], name: &str) -> bool {
    pass.iter().any(|passed| passed == name || passed == "*")
}

/// How many sequences a prompt is: a text, or the ids of one, is one.
fn sequences(prompt: &RawValue) -> u32 {
    let several = items(prompt).unwrap_or_default();
    let is_one = several
        .first()
        .is_none_or(|first| !first.get().starts_with(['"', '[']));
    match is_one {
        true => 1,
        false => u32::try_from(several.len()).unwrap_or(u32::MAX),
    }
}

/// Bytes that a model reads for each document: its own, and those of each text that goes with all of them.
fn documents(forwarded: &[(String, &RawValue)], extra: &[String]) -> Vec<usize> {
    const SHARED: [&str; 3] = ["query", "instruction", "instruct"];
    let is_shared = |name: &String| SHARED.contains(&name.as_str()) || extra.contains(name);
    let shared = forwarded.iter().filter(|(name, _)| is_shared(name));
    let shared: usize = shared.map(|(_, value)| value.get().len()).sum();
    let documents = forwarded.iter().filter(|(name, _)| name == "documents");
    let documents = documents.flat_map(|(_, value)| items(value).unwrap_or_default());
    documents
        .map(|document| shared + document.get().len())
        .collect()
}

/// Bytes that a model's template may add where it writes the JSON of tools, of their calls or of a format anew: with a space
/// or the start of a line at each mark, and `1e14` without an exponent. Tools of other shapes become those of a chat.
fn spaced(api: Api, name: &str, value: &RawValue) -> usize {
    let json = value.get();
    // Letters of a name may be escaped.
    let has_calls =
        |calls: &[&str]| json.contains("\\u00") || calls.iter().any(|call| json.contains(call));
    let is_plain = match name {
        "messages" => !has_calls(&["\"tool_calls\"", "\"tool_use\""]),
        "prompt" | "system" | "instructions" => true,
        // Of responses; of embeddings there is no template.
        "input" => api == Api::Embeddings || !has_calls(&["_call\""]),
        _ => false,
    };
    if is_plain {
        return 0;
    }
    let is_exponent =
        |pair: &&[u8]| pair[0].is_ascii_digit() && pair[1].eq_ignore_ascii_case(&b'e');
    let marks = json.bytes().filter(|byte| b",:[]{}".contains(byte));
    let added = match (api, name) {
        (Api::Messages | Api::Responses, "tools") => tools_added(value),
        _ => 0,
    };
    2 * marks.count() + 16 * json.as_bytes().windows(2).filter(is_exponent).count() + added
}

/// A member that counts something; null is like none.
fn count(name: &str, value: Option<Value>, most: u32) -> Result<Option<u32>, InputError> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    // JSON has one kind of number, so `36.0` is a whole one too.
    let number = value.as_f64().filter(|number| number.fract() == 0.0);
    let number = number.filter(|number| (1.0..=f64::from(most)).contains(number));
    let number = number.map(|number| number as u32);
    let wrong = || InputError::member(name, format!("must be a whole number from 1 to {most}"));
    number.ok_or_else(wrong).map(Some)
}

#[cfg(test)]
mod tests;
