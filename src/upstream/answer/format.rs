//! The format of the response to the client.

use serde_json::{Value, json};

use crate::upstream::inference::api::Api;

/// The format of the response to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ResponseFormat {
    /// The text alone.
    Text,
    /// Events, with the usage at their end if the client requested it, or the API always has it.
    Events {
        api: Api,
        include_usage: bool,
        meta: CompletionMeta,
    },
    /// One JSON object.
    Whole { api: Api, meta: CompletionMeta },
}

/// The metadata of an answer, for what its upstream leaves out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct CompletionMeta {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) model: String,
}

impl ResponseFormat {
    /// The endpoint that the client asked, and that is asked for it.
    pub(crate) const fn api(&self) -> Api {
        match self {
            Self::Text => Api::ChatCompletions,
            Self::Events { api, .. } | Self::Whole { api, .. } => *api,
        }
    }

    /// What follows a complete answer.
    pub(crate) const fn last_bytes(&self) -> &'static [u8] {
        match self {
            Self::Events { api, .. } => match api {
                Api::Messages => b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                Api::Responses => b"",
                _ => b"data: [DONE]\n\n",
            },
            Self::Text | Self::Whole { .. } => b"\n",
        }
    }
}

impl CompletionMeta {
    /// The chunk after the last one of a stream.
    pub(super) fn usage(&self, api: Api, usage: &str) -> String {
        let (id, created, model) = (json!(self.id), self.created, json!(self.model));
        let object = match api {
            Api::Completions => "text_completion",
            _ => "chat.completion.chunk",
        };
        format!(
            r#"{{"id":{id},"object":"{object}","created":{created},"model":{model},"choices":[],"usage":{usage}}}"#
        )
    }

    /// The event with which a message begins.
    pub(super) fn message_start(&self) -> String {
        let usage = json!({ "input_tokens": 0, "output_tokens": 0 });
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        });
        json!({ "type": "message_start", "message": message }).to_string()
    }

    pub(super) fn completion(
        &self,
        object: &str,
        part: &str,
        value: Value,
        finish: Option<&str>,
    ) -> String {
        let choice = json!({ "index": 0, part: value, "finish_reason": finish });
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [choice] })
            .to_string()
    }
}
