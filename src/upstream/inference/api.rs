//! The endpoints of model servers that are passed on.

use super::chat_completions::ChatCompletions;
use super::lists::Lists;
use super::messages::Messages;
use super::responses::Responses;
use super::wire::WireFormat;
use crate::model::guard::{self, Guard};

/// An endpoint of a model server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    Messages,
    Rerank,
    Responses,
}

impl Api {
    /// Every endpoint, in the order of the enum.
    pub(crate) const ALL: [Self; 6] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Messages,
        Self::Rerank,
        Self::Responses,
    ];

    /// Its name for the operator: its path without the version.
    pub(crate) fn name(self) -> &'static str {
        self.path().trim_start_matches("/v1/")
    }

    /// Here and at the server.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::Rerank => "/v1/rerank",
            Self::Responses => "/v1/responses",
        }
    }

    /// What its requests may contain.
    pub(crate) const fn guard(self) -> &'static Guard {
        match self {
            Self::ChatCompletions => &guard::CHAT_COMPLETIONS,
            Self::Completions => &guard::COMPLETIONS,
            Self::Embeddings => &guard::EMBEDDINGS,
            Self::Messages => &guard::MESSAGES,
            Self::Rerank => &guard::RERANK,
            Self::Responses => &guard::RESPONSES,
        }
    }

    /// The members without which there is nothing to answer, and what they must be.
    pub(in crate::upstream) const fn required(self) -> &'static [(&'static str, &'static str)] {
        const MESSAGES: &str = "must be an array of at least one message, each an object";
        const QUERY: &str = "must be a text";
        const DOCUMENTS: &str = "must be an array of 1 to 256 texts, or objects with a text";
        const PROMPTS: &str =
            "must be a text, the ids of its tokens, or an array of 1 to 8 of either";
        const INPUTS: &str =
            "must be a text, the ids of its tokens, or an array of 1 to 256 of either";
        match self {
            Self::ChatCompletions | Self::Messages => &[("messages", MESSAGES)],
            Self::Completions => &[("prompt", PROMPTS)],
            Self::Embeddings => &[("input", INPUTS)],
            Self::Rerank => &[("query", QUERY), ("documents", DOCUMENTS)],
            Self::Responses => &[(
                "input",
                "must be a text, or an array of at least one item, each an object",
            )],
        }
    }

    /// The member of its requests that a model reads, as a pointer.
    pub(crate) const fn prompt(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Messages => "/messages",
            Self::Completions => "/prompt",
            Self::Embeddings | Self::Responses => "/input",
            Self::Rerank => "/documents",
        }
    }

    /// The names under which servers read the limit of an answer's tokens.
    pub(crate) const fn limits(self) -> &'static [&'static str] {
        match self {
            Self::ChatCompletions => &["max_tokens", "max_completion_tokens"],
            Self::Completions | Self::Messages => &["max_tokens"],
            Self::Responses => &["max_output_tokens"],
            Self::Embeddings | Self::Rerank => &[],
        }
    }

    /// With what the ids begin that this server gives its answers.
    pub(crate) const fn id_prefix(self) -> &'static str {
        match self {
            Self::Completions => "cmpl-",
            Self::Messages => "msg_",
            _ => "chatcmpl-",
        }
    }

    /// Its name in OpenTelemetry's conventions for `gen_ai.operation.name`, which have none for documents in order.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Messages | Self::Responses => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
        }
    }

    /// Whether its answers have tokens of their own.
    pub(crate) const fn has_output(self) -> bool {
        !matches!(self, Self::Embeddings | Self::Rerank)
    }

    /// How its answers are read.
    pub(in crate::upstream) const fn wire(self) -> &'static dyn WireFormat {
        match self {
            Self::ChatCompletions | Self::Completions => &ChatCompletions,
            Self::Embeddings | Self::Rerank => &Lists,
            Self::Messages => &Messages,
            Self::Responses => &Responses,
        }
    }

    /// The bytes of a whole answer at most.
    pub(in crate::upstream) const fn max_bytes(self) -> usize {
        match self {
            Self::Embeddings => 16 << 20,
            _ => 4 << 20,
        }
    }
}
