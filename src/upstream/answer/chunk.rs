use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::upstream::UpstreamError;

/// The tokens of an answer, as its server counted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

/// What matters of a chunk of a stream, or of a whole completion.
#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    /// In a chunk of a stream.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// In a whole completion.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

impl<'a> Chunk<'a> {
    pub(super) fn parse(event: &'a [u8]) -> Result<Self, UpstreamError> {
        // As text first: serde_json does not look at the bytes of members that it skips.
        let unreadable = |what: String| UpstreamError::Unreadable(what);
        let event = std::str::from_utf8(event).map_err(|error| unreadable(error.to_string()))?;
        let chunk: Self =
            serde_json::from_str(event).map_err(|error| unreadable(error.to_string()))?;
        match chunk.error {
            None => Ok(chunk),
            Some(error) => {
                let error = error.get();
                Err(UpstreamError::Cut(format!(
                    "an error inside the answer: {error}"
                )))
            }
        }
    }

    pub(super) fn choices(&self) -> &[Choice<'a>] {
        self.choices.as_deref().unwrap_or_default()
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        serde_json::from_str(self.usage?.get()).ok()
    }

    /// The text of the first choice, where it has some.
    pub(super) fn text(&self) -> Option<&str> {
        let content = self.choices().first()?.delta.as_ref()?.content.as_deref()?;
        Some(content).filter(|content| !content.is_empty())
    }

    pub(super) fn has_content(&self) -> bool {
        let said = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
        let content = |delta: &Delta<'_>| {
            [
                &delta.content,
                &delta.reasoning_content,
                &delta.reasoning,
                &delta.refusal,
            ]
            .into_iter()
            .any(said)
                || delta.tool_calls.is_some_and(|calls| calls.get() != "[]")
                || delta.function_call.is_some()
        };
        self.choices().iter().any(|choice| {
            choice.finish_reason.is_some()
                || choice.delta.iter().chain(&choice.message).any(content)
        })
    }
}
