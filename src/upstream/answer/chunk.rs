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
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    index: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Why it ended. Some servers have `""` or `"null"` in every chunk instead of null.
    pub(super) fn finish_reason(&self) -> Option<Cow<'_, str>> {
        let Text(reason) = serde_json::from_str(self.finish_reason?.get()).ok()?;
        Some(reason).filter(|reason| !matches!(reason.trim(), "" | "null"))
    }

    /// Which one it is; most servers give only one, and some of those do not number it.
    pub(super) fn index(&self) -> u64 {
        let index = self.index.map(|index| serde_json::from_str(index.get()));
        index.and_then(Result::ok).unwrap_or_default()
    }
}

/// A text, borrowed where nothing in it is escaped: serde borrows no `Cow` inside an `Option`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

/// How a server writes an event with a text in it. Of a stream most events are the last one with another text: those need
/// not be read as JSON again.
#[derive(Default, Debug)]
pub(super) struct Shape {
    /// Up to the text, with the quote before it.
    before: Vec<u8>,
    /// From the quote after it on.
    after: Vec<u8>,
}

impl Shape {
    /// The text in an event that is otherwise the one learnt. A text without quotes, escapes and control characters ends
    /// where it seems to (RFC 8259, 7), so all around it means what it meant there.
    pub(super) fn text_in<'a>(&self, event: &'a [u8]) -> Option<&'a str> {
        if self.before.is_empty() {
            return None;
        }
        let text = event.strip_prefix(&*self.before)?;
        let text = text.strip_suffix(&*self.after)?;
        let is_plain = |byte: &u8| *byte >= b' ' && !matches!(byte, b'"' | b'\\');
        if text.is_empty() || !text.iter().all(is_plain) {
            return None;
        }
        std::str::from_utf8(text).ok()
    }

    /// Learns from an event that was read: one with a text and nothing to count.
    pub(super) fn learn(&mut self, event: &[u8], chunk: &Chunk<'_>) {
        self.before.clear();
        self.after.clear();
        let choice = chunk.choices().first();
        let delta = choice.and_then(|choice| choice.delta.as_ref());
        let content = delta.and_then(|delta| delta.content.as_ref());
        // One that was unescaped stands elsewhere.
        if let (Some(Text(Cow::Borrowed(text))), None) = (content, chunk.usage) {
            let start = text.as_ptr().addr() - event.as_ptr().addr();
            self.before.extend_from_slice(&event[..start]);
            self.after.extend_from_slice(&event[start + text.len()..]);
        }
    }
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
        let delta = self.choices().first()?.delta.as_ref()?;
        let Text(content) = delta.content.as_ref()?;
        Some(&**content).filter(|content| !content.is_empty())
    }

    pub(super) fn has_content(&self) -> bool {
        let said =
            |text: &Option<Text<'_>>| text.as_ref().is_some_and(|Text(text)| !text.is_empty());
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
            choice.finish_reason().is_some()
                || choice.delta.iter().chain(&choice.message).any(content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn learnt(event: &str) -> Shape {
        let mut shape = Shape::default();
        shape.learn(event.as_bytes(), &Chunk::parse(event.as_bytes()).unwrap());
        shape
    }

    fn event(text: &str, more: &str) -> String {
        let text = serde_json::Value::from(text);
        format!(r#"{{"id":"1","choices":[{{"index":0,"delta":{{"content":{text}}}{more}}}]}}"#)
    }

    #[test]
    fn what_differs_by_its_text_alone_is_known_again() {
        let shape = learnt(&event("one", ""));
        assert_eq!(
            shape.text_in(event("two words", "").as_bytes()),
            Some("two words")
        );
        for other in [
            event("", ""),
            event("a \"quote\"", ""),
            event("two", r#","finish_reason":"stop""#),
            r#"{"error":{"message":"no"}}"#.to_owned(),
        ] {
            assert_eq!(shape.text_in(other.as_bytes()), None, "{other}");
        }
        let counted = r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1}}"#;
        assert_eq!(learnt(counted).text_in(counted.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn what_is_known_again_reads_the_same_as_json(first in any::<String>(), text in any::<String>(), at in any::<prop::sample::Index>(), with in any::<u8>(), more in "(,\"finish_reason\":(null|\"stop\"))?") {
            let shape = learnt(&event(&first, &more));
            let next = event(&text, &more);
            let mut broken = next.clone().into_bytes();
            let at = at.index(broken.len());
            broken[at] = with;
            for event in [next.as_bytes(), &broken] {
                if let Some(known) = shape.text_in(event) {
                    let chunk = Chunk::parse(event).unwrap();
                    prop_assert_eq!(chunk.text(), Some(known));
                    prop_assert!(chunk.has_content() && chunk.usage().is_none());
                }
            }
        }
    }
}
