//! A request of OpenAI's chat completions API, checked and rewritten for a server that implements it too.
//!
//! Members that this server does not know are passed on unchanged: which ones exist is up to the inference server. Three are
//! set here: the model, whether to stream, and that a stream ends with its usage. `guard` lists the refused members.

mod guard;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::model::{InputError, items, members, read_object};

#[derive(Debug)]
pub(crate) struct Completion {
    /// The requested model, which is an adapter.
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// Whether the client itself requested the usage at the end of the stream.
    pub(crate) wants_usage: bool,
    stream_options: Map<String, Value>,
    rest: Vec<(String, Box<RawValue>)>,
}

/// The members that are read here.
#[derive(Deserialize)]
struct Known<'a> {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<Map<String, Value>>,
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    n: Option<Value>,
}

impl Completion {
    /// # Errors
    /// Not a JSON object, no messages, a known member of the wrong type, or a refused member.
    pub(crate) fn parse(body: &str) -> Result<Self, InputError> {
        let members = members(body, "")?;
        guard::check(&members)?;
        let known: Known<'_> = read_object(body, "")?;
        let is_object = |message: &&RawValue| message.get().starts_with('{');
        if known.messages.is_empty() || !known.messages.iter().all(is_object) {
            let detail = "must be an array of at least one message, each an object";
            return Err(InputError::member("messages", detail));
        }
        if known.n.is_some_and(|n| n != 1) {
            let detail = "must be 1: one request has one price and one answer";
            return Err(InputError::member("n", detail));
        }
        let stream_options = known.stream_options.unwrap_or_default();
        let is_ours = |name: &str| matches!(name, "model" | "stream" | "stream_options");
        let rest = members.into_iter().filter(|(name, _)| !is_ours(name));
        Ok(Self {
            model: known.model,
            stream: known.stream.unwrap_or(false),
            wants_usage: stream_options.get("include_usage") == Some(&Value::Bool(true)),
            stream_options,
            rest: rest.map(|(name, value)| (name, value.to_owned())).collect(),
        })
    }

    /// Whether the client's request has a member of this name.
    pub(super) fn has_member(&self, name: &str) -> bool {
        self.rest.iter().any(|(member, _)| member == name)
    }

    /// The body for the inference server; `stream_options` are left out for one that refuses them.
    pub(super) fn body(&self, model: &str, stream_options: bool) -> String {
        let mut body = format!("{{\"model\":{},\"stream\":{}", json!(model), self.stream);
        if self.stream && stream_options {
            let mut options = self.stream_options.clone();
            options.insert("include_usage".to_owned(), true.into());
            body += &format!(",\"stream_options\":{}", Value::Object(options));
        }
        for (name, value) in &self.rest {
            body += &format!(",{}:{}", json!(name), value.get());
        }
        body + "}"
    }

    /// The conversation as one text, for an R3MES node, which accepts nothing else. Sampling settings are the node's own.
    ///
    /// # Errors
    /// Content that text cannot express: tools, formats, pictures.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(body: &str) -> Value {
        serde_json::from_str(&Completion::parse(body).unwrap().body("tiny", true)).unwrap()
    }

    #[test]
    fn unknown_members_are_passed_on_unchanged() {
        let body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"temperature":1e-1,"x":{"y":[1.0,null]},"stream":true,"stream_options":{"z":1}}"#;
        let text = Completion::parse(body).unwrap().body("tiny", true);
        assert!(
            text.contains(r#""temperature":1e-1,"x":{"y":[1.0,null]}"#),
            "{text}"
        );
        let body = sent(body);
        assert_eq!(body["model"], "tiny");
        assert_eq!(
            body["stream_options"],
            json!({ "z": 1, "include_usage": true })
        );
        let body = sent(r#"{"messages":[{}],"stream":null}"#);
        assert_eq!(
            body,
            json!({ "model": "tiny", "stream": false, "messages": [{}] })
        );
    }

    #[test]
    fn each_error_names_its_member() {
        for (body, pointer) in [
            (r#"{}"#, "/messages"),
            (r#"{"messages":[]}"#, "/messages"),
            (r#"{"messages":"hi"}"#, "/messages"),
            (r#"{"messages":["hi"]}"#, "/messages"),
            (r#"{"messages":[{}],"model":7}"#, "/model"),
            (r#"{"messages":[{}],"stream":"yes"}"#, "/stream"),
            (r#"{"messages":[{}],"stream_options":7}"#, "/stream_options"),
            (r#"{"messages":[{}],"n":2}"#, "/n"),
            (r#"{"messages":[{}],"messages":[{}]}"#, "/messages"),
        ] {
            assert_eq!(
                Completion::parse(body).unwrap_err().pointer,
                pointer,
                "{body}"
            );
        }
    }

    #[test]
    fn a_conversation_becomes_one_text_or_is_refused_by_name() {
        let text = |body: &str| Completion::parse(body).unwrap().as_text();
        let one = r#"{"messages":[{"role":"user","content":"hi\n"}],"tools":null}"#;
        assert_eq!(text(one).unwrap(), "hi\n");
        let more = r#"{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
        assert_eq!(text(more).unwrap(), "system: be kind\n\nuser: ab");
        for (body, pointer) in [
            (
                r#"{"messages":[{"role":"user","content":"hi"}],"tools":[]}"#,
                "/tools",
            ),
            (
                r#"{"messages":[{"role":"user","content":"hi"},{"role":"user","content":null}]}"#,
                "/messages/1",
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
                "/messages/0",
            ),
        ] {
            assert_eq!(text(body).unwrap_err().pointer, pointer, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = Completion::parse(&body).map(|read| (read.body("m", true), read.as_text()));
        }

        #[test]
        fn a_changed_request_is_refused_or_sent_as_json(at in any::<prop::sample::Index>(), with in "[ -~]{0,2}") {
            let mut body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"stream":true,"seed":7}"#.to_owned();
            let at = at.index(body.len());
            body.replace_range(at..=at, &with);
            if let Ok(read) = Completion::parse(&body) {
                prop_assert!(serde_json::from_str::<Value>(&read.body("m", true)).is_ok(), "{}", read.body("m", true));
            }
        }
    }
}
