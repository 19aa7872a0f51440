//! A request of OpenAI's chat completions API, on its way to a server that speaks it too.
//!
//! Members we do not know pass on untouched, as their own text: what a server understands is between it and the client.
//! Ours are three: which model, whether it streams, and that a stream ends with its usage. `guard` has what is refused.

mod guard;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::model::{Fields, InputError, items, text};

/// A request, read once.
#[derive(Debug)]
pub(crate) struct Completion {
    /// The model that was asked for: an adapter of ours.
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// Whether the client itself asked for the usage at the end of the stream.
    pub(crate) wants_usage: bool,
    stream_options: Map<String, Value>,
    rest: Vec<(String, Box<RawValue>)>,
}

impl Completion {
    /// Reads a body.
    ///
    /// # Errors
    /// No JSON object, no messages, a member of ours that is not what it should be, one that is refused.
    pub(crate) fn parse(body: &str) -> Result<Self, InputError> {
        let fields = Fields::parse_open(body, "")?;
        guard::check(&fields)?;
        let model = fields.optional("model", |value| text(value).map(Cow::into_owned))?;
        let boolean = |value: &RawValue| {
            serde_json::from_str(value.get()).map_err(|_| "must be true or false")
        };
        let stream = fields.optional("stream", boolean)?.unwrap_or(false);
        let options =
            |value: &RawValue| serde_json::from_str(value.get()).map_err(|_| "must be an object");
        let stream_options: Map<String, Value> = fields
            .optional("stream_options", options)?
            .unwrap_or_default();
        fields.required("messages", |value| match items(value.get()) {
            Ok(Some(items))
                if !items.is_empty() && items.iter().all(|item| item.get().starts_with('{')) =>
            {
                Ok(())
            }
            _ => Err("must be an array of at least one message, each an object"),
        })?;
        // One request, one price, one answer.
        fields.optional("n", |value| match value.get() {
            "1" => Ok(()),
            _ => Err("must be 1: one request has one price and one answer"),
        })?;
        const OURS: [&str; 3] = ["model", "stream", "stream_options"];
        let rest = fields.members().filter(|(name, _)| !OURS.contains(name));
        Ok(Self {
            model,
            stream,
            wants_usage: stream_options.get("include_usage") == Some(&Value::Bool(true)),
            stream_options,
            rest: rest
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    /// The body that goes up.
    pub(super) fn body(&self, model: &str) -> String {
        let mut body = format!("{{\"model\":{},\"stream\":{}", json!(model), self.stream);
        if self.stream {
            let mut options = self.stream_options.clone();
            options.insert("include_usage".to_owned(), true.into());
            body += &format!(",\"stream_options\":{}", Value::Object(options));
        }
        for (name, value) in &self.rest {
            body += &format!(",{}:{}", json!(name), value.get());
        }
        body.push('}');
        body
    }

    /// The conversation as one text, for an R3MES node, which takes nothing else. Sampling settings are the node's own.
    ///
    /// # Errors
    /// What no text can say: tools, formats, pictures.
    pub(crate) fn as_text(&self) -> Result<String, InputError> {
        #[derive(Deserialize)]
        struct Message<'a> {
            role: Cow<'a, str>,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow)]
            text: Cow<'a, str>,
        }
        const NO_TEXT: [&str; 5] = [
            "tools",
            "tool_choice",
            "functions",
            "function_call",
            "response_format",
        ];
        let member = |name: &str| self.rest.iter().find(|(member, _)| member == name);
        for name in NO_TEXT {
            if member(name).is_some_and(|(_, value)| value.get() != "null") {
                let detail =
                    format!("{name} cannot be passed on: the inference server takes text only");
                return Err(InputError::field(format!("/{name}"), detail));
            }
        }
        let refused = |at: usize| {
            let detail =
                "a message must have a role and a text: the inference server takes nothing else";
            InputError::field(format!("/messages/{at}"), detail)
        };
        let messages = member("messages").and_then(|(_, value)| items(value.get()).ok().flatten());
        let messages = messages.unwrap_or_default();
        let mut turns = Vec::with_capacity(messages.len());
        for (at, message) in messages.into_iter().enumerate() {
            let message: Message<'_> =
                serde_json::from_str(message.get()).map_err(|_| refused(at))?;
            let content = match serde_json::from_str::<Vec<Part<'_>>>(message.content.get()) {
                Ok(parts) => parts.iter().map(|part| part.text.as_ref()).collect(),
                Err(_) => text(message.content).map_err(|_| refused(at))?.into_owned(),
            };
            turns.push((message.role, content));
        }
        Ok(match turns.as_slice() {
            [(_, content)] => content.clone(),
            turns => {
                let turn = |(role, content): &(Cow<'_, str>, String)| format!("{role}: {content}");
                turns.iter().map(turn).collect::<Vec<_>>().join("\n\n")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn up(body: &str) -> Value {
        serde_json::from_str(&Completion::parse(body).unwrap().body("tiny")).unwrap()
    }

    #[test]
    fn what_is_not_ours_goes_up_as_it_came() {
        let body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"temperature":1e-1,"x":{"y":[1.0,null]},"stream":true,"stream_options":{"z":1}}"#;
        let sent = Completion::parse(body).unwrap().body("tiny");
        assert!(
            sent.contains(r#""temperature":1e-1,"x":{"y":[1.0,null]}"#),
            "{sent}"
        );
        let sent = up(body);
        assert_eq!(sent["model"], "tiny");
        assert_eq!(
            sent["stream_options"],
            json!({ "z": 1, "include_usage": true })
        );
        let sent = up(r#"{"messages":[{}],"stream":null}"#);
        assert_eq!(
            sent,
            json!({ "model": "tiny", "stream": false, "messages": [{}] })
        );
    }

    #[test]
    fn each_mistake_names_its_member() {
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
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = Completion::parse(&body).map(|read| (read.body("m"), read.as_text()));
        }

        #[test]
        fn a_changed_request_is_refused_or_goes_up_as_json(at in any::<prop::sample::Index>(), with in "[ -~]{0,2}") {
            let mut body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"stream":true,"seed":7}"#.to_owned();
            let at = at.index(body.len());
            body.replace_range(at..=at, &with);
            if let Ok(read) = Completion::parse(&body) {
                prop_assert!(serde_json::from_str::<Value>(&read.body("m")).is_ok(), "{}", read.body("m"));
            }
        }
    }
}
