//! The format of the response to the client.

use serde_json::{Value, json};

/// The format of the response to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ResponseFormat {
    /// The text alone.
    Text,
    /// Events of OpenAI's streams, with the usage at their end if the client requested it.
    Events {
        include_usage: bool,
        meta: CompletionMeta,
    },
    /// One JSON object.
    Whole { meta: CompletionMeta },
}

/// The metadata of a completion from an upstream that sends only text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CompletionMeta {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) model: String,
}

impl ResponseFormat {
    /// What follows a complete answer.
    pub(crate) const fn last_bytes(&self) -> &'static [u8] {
        match self {
            Self::Events { .. } => b"data: [DONE]\n\n",
            Self::Text | Self::Whole { .. } => b"\n",
        }
    }
}

impl CompletionMeta {
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
