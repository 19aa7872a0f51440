//! A model's answer on its way down: what a server sends, turned into what the client reads, piece by piece.
//!
//! Nothing comes out before there is content: a text, or for a client of `/v1` a tool call, reasoning or a finish as
//! well. A role or a comment is not content. Whatever is ready is given in one piece.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::UpstreamError;
use super::sse::Parser;

/// What the client reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// The text alone.
    Text,
    /// Events of OpenAI's streams, with the usage at their end where the client asked for it.
    Events { usage: bool, named: Named },
    /// One JSON object.
    Whole { named: Named },
}

/// How an answer calls itself where the server gives only text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) model: String,
}

/// The tokens of an answer, as its server counted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

/// What the server sends.
#[derive(Debug)]
pub(super) enum Wire {
    Text(Utf8),
    Events(Parser),
    Json(BytesMut),
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Incoming,
    decoder: Decoder,
}

#[derive(Debug)]
struct Decoder {
    wire: Wire,
    form: Form,
    /// What is ready for the client.
    out: BytesMut,
    /// There was content: what is ready may go out.
    begun: bool,
    /// There was the end.
    done: bool,
    usage: Option<Usage>,
}

enum Step {
    /// This is for the client.
    Ready(Bytes),
    /// That was all.
    Done,
    /// The server has to send more.
    More,
}

impl Answer {
    /// Bytes of an answer that is taken whole, and of what may come before the first content.
    const MOST: usize = 4 << 20;

    pub(super) fn new(body: Incoming, wire: Wire, form: Form) -> Self {
        let decoder = Decoder::new(wire, form);
        Self { body, decoder }
    }

    /// The next piece for the client, never empty; `None` at the clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            match self.decoder.step()? {
                Step::Ready(piece) => return Ok(Some(piece)),
                Step::Done => return Ok(None),
                Step::More => {}
            }
            match self.body.frame().await {
                Some(Err(error)) => return Err(UpstreamError::Cut(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.take(&data)?;
                    }
                }
                None => self.decoder.end()?,
            }
        }
    }

    /// What the server counted, where it did.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.decoder.usage
    }

    /// Reads what little stands after the end, so that the connection can be used again.
    pub(crate) async fn drain(mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), rest).await;
    }
}

impl Decoder {
    fn new(wire: Wire, form: Form) -> Self {
        Self {
            wire,
            form,
            out: BytesMut::new(),
            begun: false,
            done: false,
            usage: None,
        }
    }

    /// What there is to do next. What was ready before a fault goes out before it.
    fn step(&mut self) -> Result<Step, UpstreamError> {
        let read = self.read();
        if self.begun && !self.out.is_empty() {
            return Ok(Step::Ready(self.out.split().freeze()));
        }
        read?;
        Ok(if self.done { Step::Done } else { Step::More })
    }

    /// Takes bytes of the server.
    fn take(&mut self, data: &[u8]) -> Result<(), UpstreamError> {
        match &mut self.wire {
            Wire::Events(parser) => parser.push(data),
            Wire::Json(whole) => whole.extend_from_slice(data),
            Wire::Text(utf8) => {
                let text = utf8.push(data);
                self.tell(&text);
            }
        }
        let held = match &self.wire {
            Wire::Json(whole) => whole.len(),
            Wire::Text(_) | Wire::Events(_) => self.out.len(),
        };
        if held > Answer::MOST {
            return Err(UpstreamError::Unreadable("an endless answer".to_owned()));
        }
        Ok(())
    }

    /// Reads the events that are whole.
    fn read(&mut self) -> Result<(), UpstreamError> {
        while !self.done {
            let Wire::Events(parser) = &mut self.wire else {
                break;
            };
            let next = parser.next_event();
            let next =
                next.map_err(|_| UpstreamError::Unreadable("an endless event".to_owned()))?;
            match next {
                None => break,
                Some(event) if event == b"[DONE]" => {
                    self.done = true;
                    self.some_content()?;
                }
                Some(event) => self.read_event(&event)?,
            }
        }
        Ok(())
    }

    fn read_event(&mut self, event: &[u8]) -> Result<(), UpstreamError> {
        let chunk = Chunk::parse(event)?;
        self.usage = chunk.usage().or(self.usage);
        match &self.form {
            Form::Text | Form::Whole { .. } => {
                if let Some(text) = chunk.text() {
                    self.out.extend_from_slice(text.as_bytes());
                    self.begun = true;
                }
            }
            // The usage was our own question; its answer is not for a client that did not ask.
            Form::Events { usage: false, .. }
                if chunk.choices().is_empty() && self.usage.is_some() => {}
            Form::Events { .. } => {
                self.begun |= chunk.has_content();
                self.event(event);
            }
        }
        Ok(())
    }

    /// Adds an event, line by line as it came.
    fn event(&mut self, data: &[u8]) {
        for line in data.split(|byte| *byte == b'\n') {
            self.out.extend_from_slice(b"data: ");
            self.out.extend_from_slice(line);
            self.out.extend_from_slice(b"\n");
        }
        self.out.extend_from_slice(b"\n");
    }

    /// Adds text of a server that sends nothing else.
    fn tell(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match &self.form {
            Form::Text => {
                self.begun = true;
                self.out.extend_from_slice(text.as_bytes());
            }
            // Told at the end, as one.
            Form::Whole { .. } => self.out.extend_from_slice(text.as_bytes()),
            Form::Events { named, .. } => {
                let delta = if self.begun {
                    json!({ "content": text })
                } else {
                    json!({ "role": "assistant", "content": text })
                };
                let chunk = named.chunk(&delta, None);
                self.begun = true;
                self.event(chunk.as_bytes());
            }
        }
    }

    /// The server closed the answer cleanly: was that its end?
    fn end(&mut self) -> Result<(), UpstreamError> {
        self.done = true;
        let rest = match &mut self.wire {
            Wire::Events(_) => {
                return Err(UpstreamError::Cut(
                    "the stream ended without [DONE]".to_owned(),
                ));
            }
            Wire::Json(whole) => {
                let whole = whole.split();
                let chunk = Chunk::parse(&whole)?;
                self.begun = chunk.has_content();
                self.usage = chunk.usage();
                self.out.extend_from_slice(whole.trim_ascii());
                return self.some_content();
            }
            Wire::Text(utf8) => utf8.end(),
        };
        self.tell(rest);
        match &self.form {
            Form::Text => {}
            Form::Events { named, .. } => {
                let chunk = named.chunk(&json!({}), Some("stop"));
                self.event(chunk.as_bytes());
            }
            Form::Whole { named } if !self.out.is_empty() => {
                let text = self.out.split();
                let whole = named.whole(&String::from_utf8_lossy(&text));
                self.begun = true;
                self.out.extend_from_slice(whole.as_bytes());
            }
            Form::Whole { .. } => {}
        }
        self.some_content()
    }

    fn some_content(&self) -> Result<(), UpstreamError> {
        if self.begun {
            return Ok(());
        }
        Err(UpstreamError::Unreadable(
            "an answer without any content".to_owned(),
        ))
    }
}

impl Named {
    fn chunk(&self, delta: &serde_json::Value, finish: Option<&str>) -> String {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        self.object("chat.completion.chunk", choice)
    }

    fn whole(&self, text: &str) -> String {
        let message = json!({ "role": "assistant", "content": text });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        self.object("chat.completion", choice)
    }

    fn object(&self, object: &str, choice: serde_json::Value) -> String {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [choice] })
            .to_string()
    }
}

/// What matters of a chunk of a stream, or of a whole completion.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// In a chunk of a stream.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// In a whole completion.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
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
    fn parse(event: &'a [u8]) -> Result<Self, UpstreamError> {
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

    fn choices(&self) -> &[Choice<'a>] {
        self.choices.as_deref().unwrap_or_default()
    }

    fn usage(&self) -> Option<Usage> {
        serde_json::from_str(self.usage?.get()).ok()
    }

    /// The text of the first choice, where it has some.
    fn text(&self) -> Option<&str> {
        let content = self.choices().first()?.delta.as_ref()?.content.as_deref()?;
        Some(content).filter(|content| !content.is_empty())
    }

    fn has_content(&self) -> bool {
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

/// Puts characters together that were cut between two pieces.
#[derive(Debug, Default)]
pub(super) struct Utf8(Vec<u8>);

impl Utf8 {
    /// All whole characters so far; what can be none becomes U+FFFD.
    fn push(&mut self, data: &[u8]) -> String {
        self.0.extend_from_slice(data);
        let mut text = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text += valid;
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text += &String::from_utf8_lossy(valid);
                    match error.error_len() {
                        None => break after.len(),
                        Some(wrong) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[wrong..];
                        }
                    }
                }
            }
        };
        self.0.drain(..self.0.len() - kept);
        text
    }

    /// What a character that never ended becomes.
    fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.0).is_empty() {
            ""
        } else {
            "\u{FFFD}"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named() -> Named {
        Named {
            id: "chatcmpl-1".to_owned(),
            created: 1,
            model: "general".to_owned(),
        }
    }

    fn events(usage: bool) -> Form {
        Form::Events {
            usage,
            named: named(),
        }
    }

    /// Everything a client reads of an answer that comes in these pieces, and how it ended.
    fn read<'a>(
        wire: Wire,
        form: Form,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (String, Result<Option<Usage>, UpstreamError>) {
        let mut decoder = Decoder::new(wire, form);
        let mut told = Vec::new();
        let mut pieces = pieces.into_iter();
        let ended = loop {
            match decoder.step() {
                Ok(Step::Ready(piece)) => told.extend_from_slice(&piece),
                Ok(Step::Done) => break Ok(decoder.usage),
                Ok(Step::More) => {
                    let more = match pieces.next() {
                        Some(piece) => decoder.take(piece),
                        None => decoder.end(),
                    };
                    if let Err(error) = more {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        (String::from_utf8(told).unwrap(), ended)
    }

    fn stream() -> Wire {
        Wire::Events(Parser::default())
    }

    const REAL: &[u8] = include_bytes!("../../tests/it/fixtures/openai-stream.sse");

    #[test]
    fn a_real_stream_is_read_as_text_or_passed_on_and_its_usage_is_for_those_who_asked() {
        let usage = Some(Usage {
            prompt_tokens: 9,
            completion_tokens: 5,
        });
        assert_eq!(
            read(stream(), Form::Text, [REAL]),
            ("Hello, w\u{f6}rld \u{2600}".to_owned(), Ok(usage))
        );
        let (told, ended) = read(stream(), events(true), [REAL]);
        assert_eq!(ended, Ok(usage));
        assert_eq!(format!("{told}data: [DONE]\n\n").as_bytes(), REAL);
        let (told, ended) = read(stream(), events(false), [REAL]);
        assert_eq!(ended, Ok(usage));
        assert!(
            !told.contains("prompt_tokens") && told.contains("w\\u00f6rld"),
            "{told}"
        );
    }

    #[test]
    fn what_is_no_content_waits_for_some_and_alone_it_is_a_failure() {
        let role: &[u8] = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
        let call: &[u8] = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n";
        let done: &[u8] = b"data: [DONE]\n\n";
        let (told, ended) = read(stream(), events(false), [role, b": still here\n\n", done]);
        assert_eq!(told, "");
        assert!(matches!(ended, Err(UpstreamError::Unreadable(_))));
        let (told, ended) = read(stream(), events(false), [role, call, done]);
        assert_eq!(
            (told.as_bytes(), ended),
            ([role, call].concat().as_slice(), Ok(None))
        );
        assert!(
            read(stream(), Form::Text, [role, call, done]).1.is_err(),
            "a tool call is no text"
        );
    }

    #[test]
    fn what_came_before_a_fault_goes_out_before_it() {
        let text: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"part\"}}]}\n\ndata: {\"error\":{\"message\":\"CUDA\"}}\n\n";
        let (told, ended) = read(stream(), Form::Text, [text]);
        assert_eq!(told, "part");
        assert!(matches!(ended, Err(UpstreamError::Cut(_))));
    }

    #[test]
    fn a_whole_completion_comes_through_untouched_and_an_error_in_it_does_not() {
        let whole: &[u8] = b" {\"id\":\"x\",\"choices\":[{\"message\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1},\"z\":1.0}\n";
        let form = || Form::Whole { named: named() };
        let (told, ended) = read(
            Wire::Json(BytesMut::new()),
            form(),
            [&whole[..9], &whole[9..]],
        );
        assert_eq!(told.as_bytes(), whole.trim_ascii());
        assert_eq!(
            ended,
            Ok(Some(Usage {
                prompt_tokens: 2,
                completion_tokens: 1
            }))
        );
        for bad in [
            "{\"error\":{\"message\":\"secret\"}}",
            "{\"choices\":[]}",
            "{}",
            "<html>",
            "",
            "[1]",
        ] {
            let (told, ended) = read(Wire::Json(BytesMut::new()), form(), [bad.as_bytes()]);
            assert!(told.is_empty() && ended.is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_is_told_in_openai_s_words() {
        let pieces: [&[u8]; 3] = [b"w\xC3", b"\xB6rld", b" \xE2\x98"];
        let wire = || Wire::Text(Utf8::default());
        assert_eq!(read(wire(), Form::Text, pieces).0, "w\u{f6}rld \u{FFFD}");
        let (told, ended) = read(wire(), events(false), pieces);
        assert_eq!(ended, Ok(None));
        let mut again = Parser::default();
        again.push(told.as_bytes());
        let mut text = String::new();
        let mut last = None;
        while let Some(event) = again.next_event().unwrap() {
            let chunk = Chunk::parse(&event).unwrap();
            text += chunk.text().unwrap_or_default();
            last = chunk.choices()[0]
                .finish_reason
                .map(|reason| reason.get().to_owned());
        }
        assert_eq!(
            (text.as_str(), last.as_deref()),
            ("w\u{f6}rld \u{FFFD}", Some("\"stop\""))
        );
        let whole = read(wire(), Form::Whole { named: named() }, pieces).0;
        let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(
            whole["choices"][0]["message"]["content"],
            "w\u{f6}rld \u{FFFD}"
        );
        assert!(
            read(wire(), events(false), [&b""[..]]).1.is_err(),
            "nothing is no answer"
        );
    }

    proptest! {
        #[test]
        fn where_an_answer_is_cut_changes_nothing(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(REAL.len() + 1)).chain([0, REAL.len()]).collect();
            places.sort_unstable();
            for form in [Form::Text, events(true), events(false)] {
                let pieces = places.windows(2).map(|pair| &REAL[pair[0]..pair[1]]);
                prop_assert_eq!(read(stream(), form.clone(), pieces), read(stream(), form, [REAL]));
            }
        }

        #[test]
        fn a_text_comes_out_whole_wherever_it_is_cut(text in any::<String>(), at in any::<prop::sample::Index>()) {
            let (first, second) = text.as_bytes().split_at(at.index(text.len() + 1));
            let mut utf8 = Utf8::default();
            prop_assert_eq!(utf8.push(first) + &utf8.push(second) + utf8.end(), text);
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut changed = REAL.to_vec();
            let at = at.index(changed.len());
            changed[at] = byte;
            for form in [Form::Text, events(true), Form::Whole { named: named() }] {
                let _ = read(stream(), form.clone(), [bytes.as_slice()]);
                let _ = read(stream(), form.clone(), [changed.as_slice()]);
                let _ = read(Wire::Json(BytesMut::new()), form.clone(), [bytes.as_slice()]);
                let text = read(Wire::Text(Utf8::default()), form, [bytes.as_slice()]);
                prop_assert!(text.1.is_ok() != bytes.is_empty());
            }
        }
    }
}
