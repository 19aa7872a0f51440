//! What an inference server means by a status that is not a success: whose fault it is, and what helps.
//!
//! The texts are those of llama.cpp, vLLM, SGLang, Ollama, LM Studio, TGI, LiteLLM and OpenAI. A text that no rule knows is
//! judged by its status alone. Nothing of it reaches a client but a number, and a name that the client's own request has.

use std::time::Duration;

use jiff::fmt::rfc2822;
use serde_json::Value;

use crate::model::Timestamp;

/// A status that is not a success, what it means, and the server's words for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What it means.
    pub meaning: Meaning,
    /// The server's message, shortened; for the log only.
    pub words: String,
}

/// What a refusal means.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Meaning {
    /// The request does not fit into the model's context, of so many tokens where that is known.
    ContextLength(Option<u64>),
    /// A JSON schema or grammar that the server cannot use.
    Schema,
    /// Pictures or sound, which this model does not take, or cannot read.
    Media,
    /// Another fault of the client's request, in this member where the server names one.
    Request(Option<String>),
    /// The server does not accept `stream_options`.
    StreamOptions,
    /// The server does not have the model that this server asked for.
    Model,
    /// 401, 403: it does not accept this server's key, or has none.
    Credentials,
    /// 3xx: it is somewhere else.
    Redirect,
    /// 404, 405, 501: it does not serve this API.
    NotServed,
    /// 429, or 503 with `Retry-After`: it is to be left alone for so long.
    Unavailable(Duration),
    /// Its model is loading; when to come back, where it says so.
    Loading(Option<Duration>),
    /// Any other status.
    Server,
}

/// Bounds of the time that a server is left alone because it asks for it.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];
/// Characters of the server's words in the log.
const MAX_WORDS: usize = 200;

impl Refusal {
    /// Reads the answer to a request; `retry_after` is its header of that name, which may be a date (RFC 9110, 10.2.3).
    pub(super) fn read(
        status: u16,
        retry_after: Option<&str>,
        now: Timestamp,
        body: &[u8],
    ) -> Self {
        let text = String::from_utf8_lossy(body);
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = message(&json);
        let words = message.unwrap_or(text.trim()).chars().take(MAX_WORDS);
        let words = words
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        // Not all of the body: FastAPI repeats the client's request in it.
        let said = message.map_or(text.clone(), |message| names(&json, message).into());
        let retry_after = retry_after.and_then(|wait| parse_wait(wait.trim(), now));
        Self {
            status,
            meaning: meaning(status, retry_after, &json, &said.to_lowercase()),
            words,
        }
    }

    /// Whether the client has to change its request.
    pub(crate) const fn is_of_client(&self) -> bool {
        matches!(
            self.meaning,
            Meaning::ContextLength(_) | Meaning::Schema | Meaning::Media | Meaning::Request(_)
        )
    }

    /// Whether the operator has to change something at this server or in the configuration.
    pub(crate) const fn is_of_operator(&self) -> bool {
        matches!(
            self.meaning,
            Meaning::Model | Meaning::Credentials | Meaning::Redirect | Meaning::NotServed
        )
    }
}

/// Seconds, or the time until a date.
pub(in crate::upstream) fn parse_wait(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let millis = date.as_millisecond().saturating_sub(now.millis());
    Some(Duration::from_millis(
        u64::try_from(millis).unwrap_or_default(),
    ))
}

/// The message of an error body, in the shapes of the servers above; FastAPI's `detail` is a text or a list.
fn message(json: &Value) -> Option<&str> {
    const PLACES: [&str; 5] = [
        "/error/message",
        "/error",
        "/message",
        "/detail",
        "/detail/0/msg",
    ];
    let texts = PLACES
        .iter()
        .filter_map(|place| json.pointer(place)?.as_str());
    // LiteLLM ends each message with the group of the model, whatever the error is.
    let mut texts = texts.map(|text| text.split("\n\nLiteLLM: ").next().unwrap_or(text));
    texts.find(|text| !text.trim().is_empty())
}

/// A message with the names that stand beside it: the type and code of the error, the member of the request.
fn names(json: &Value, message: &str) -> String {
    const PLACES: [&str; 6] = [
        "/error/type",
        "/error/code",
        "/error/param",
        "/type",
        "/param",
        "/detail/0/loc/1",
    ];
    let names = PLACES
        .iter()
        .filter_map(|place| json.pointer(place)?.as_str());
    names.fold(message.to_owned(), |said, name| said + " " + name)
}

fn meaning(status: u16, retry_after: Option<Duration>, json: &Value, text: &str) -> Meaning {
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match status {
        300..400 => return Meaning::Redirect,
        401 | 403 => return Meaning::Credentials,
        429 => return Meaning::Unavailable(bounded(retry_after.unwrap_or_default())),
        503 if is_loading(text) => return Meaning::Loading(retry_after.map(bounded)),
        503 | 529 if let Some(wait) = retry_after => return Meaning::Unavailable(bounded(wait)),
        404 if names_model(text) => return Meaning::Model,
        404 | 405 | 501 => return Meaning::NotServed,
        // LiteLLM without a database, for any key that is not its own.
        400 if is_type(json, "no_db_connection") => return Meaning::Credentials,
        400 | 413 | 422 | 500 => {}
        _ => return Meaning::Server,
    }
    let limit = json.pointer("/error/n_ctx").and_then(Value::as_u64);
    if status != 500 && has(&["stream_options"]) {
        Meaning::StreamOptions
    } else if limit.is_some() || has(CONTEXT) {
        Meaning::ContextLength(limit.or_else(|| context_length(text)))
    } else if has(MEDIA) {
        Meaning::Media
    } else if has(SCHEMA) {
        Meaning::Schema
    } else if has(REQUEST) {
        Meaning::Request(member(json))
    } else if status == 500 {
        Meaning::Server
    } else if names_model(text) {
        Meaning::Model
    } else {
        Meaning::Request(member(json))
    }
}

/// Whether an answer with status 200 is LM Studio's to a path that it does not have.
pub(super) fn is_no_endpoint(answer: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let error = answer["error"].as_str().unwrap_or_default();
    error.starts_with("Unexpected endpoint or method")
}

fn is_type(json: &Value, name: &str) -> bool {
    json.pointer("/error/type").is_some_and(|of| of == name)
}

fn bounded(wait: Duration) -> Duration {
    wait.clamp(PAUSE[0], PAUSE[1])
}

/// llama.cpp "Loading model", TGI "Model … is currently loading", TEI "warming up"; not Ollama's "error loading model".
fn is_loading(text: &str) -> bool {
    let loads = text.contains("loading") && text.contains("model");
    let failed = text.contains("error loading") || text.contains("failed");
    (loads && !failed) || text.contains("warming up")
}

/// llama.cpp `exceed_context_size_error`, vLLM and OpenAI "maximum context length is", "maximum model length of", "max_tokens
/// must be at least 1, got -186", SGLang "longer than the model's context length", "exceeds the maximum allowed length", Ollama
/// "exceeds the context length", LM Studio "when context the overflows", TGI "`inputs` tokens + `max_new_tokens`", llama.cpp
/// "too large to process".
const CONTEXT: &[&str] = &[
    "exceed_context_size",
    "context_length_exceeded",
    "context length",
    "context size",
    "context window",
    "context the overflows",
    "maximum model length",
    "maximum allowed length",
    "must be at least 1, got -",
    "`inputs` tokens + `max_new_tokens`",
    "too large to process",
];

/// llama.cpp "image input is not supported", "failed to load image", vLLM "is not a multimodal model", "At most 0 image(s)",
/// Ollama "missing data required for image input", OpenAI "image_url is only supported by certain models".
const MEDIA: &[&str] = &[
    "image input is not supported",
    "audio input is not supported",
    "video input is not supported",
    "failed to load image",
    "mmproj",
    "not a multimodal model",
    "at most 0 image",
    "at most 0 audio",
    "data required for image input",
    "does not support image",
    "image_url is only supported",
];

/// llama.cpp "failed to parse grammar", "JSON schema conversion failed", vLLM "features not supported by xgrammar", OpenAI
/// "Invalid schema for response_format".
const SCHEMA: &[&str] = &[
    "grammar",
    "json schema",
    "json_schema",
    "invalid schema",
    "structured output",
];

/// With status 500: llama.cpp "Failed to parse tools: …", "Failed to parse messages: …", "Failed to parse tool call arguments as
/// JSON: …", "Unknown reasoning format: …" and what its JSON library says of a member; LiteLLM "Invalid user message at index".
const REQUEST: &[&str] = &[
    "failed to parse tools",
    "failed to parse messages",
    "failed to parse tool call arguments",
    "unknown reasoning format",
    "[json.exception.",
    "please ensure all",
];

/// Ollama "model 'x' not found", vLLM "The model `x` does not exist", LiteLLM "Invalid model name", LM Studio
/// `model_not_found`, llama-swap "could not find real modelID", mlx "pinned to".
fn names_model(text: &str) -> bool {
    const MISSING: [&str; 8] = [
        "not found",
        "does not exist",
        "not exist",
        "unknown",
        "invalid model",
        "not loaded",
        "could not find",
        "pinned to",
    ];
    text.contains("model_not_found")
        || (text.contains("model") && MISSING.iter().any(|part| text.contains(part)))
}

/// The first number after a text that precedes the length of a context.
fn context_length(text: &str) -> Option<u64> {
    const BEFORE: [&str; 7] = [
        "context length is ",
        "context length (",
        "context length of ",
        "context size (",
        "context window of ",
        "maximum model length of ",
        "maximum allowed length (",
    ];
    BEFORE.iter().find_map(|before| {
        let (_, after) = text.split_once(before)?;
        let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

/// The member of the request that a server names: OpenAI's `param`, where FastAPI found it, llama.cpp's "Field 'x': …", or
/// Ollama's "… Go struct field ChatCompletionRequest.x of type …".
fn member(json: &Value) -> Option<String> {
    let param = json.pointer("/error/param").or(json.pointer("/param"));
    let place = json.pointer("/detail/0/loc/1").and_then(Value::as_str);
    let in_message = || {
        let message = message(json)?;
        let after = ["Field '", "ChatCompletionRequest."].iter();
        let mut after = after.filter_map(|before| message.split_once(before));
        after.next().map(|(_, name)| name)
    };
    let name = param
        .and_then(Value::as_str)
        .or(place)
        .or_else(in_message)?;
    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let name = name.split(is_end).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
