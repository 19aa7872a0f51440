//! A model's answer on its way down: what a server sends, turned into what the client reads, piece by piece.
//!
//! Nothing comes out before there is content: a text, or for a client of `/v1` a tool call, reasoning or a finish as
//! well. A role or a comment is not content. Whatever is ready is given in one piece.

mod choices;
mod chunk;
mod node_text;
mod utf8;

pub(crate) use chunk::Usage;
pub(super) use node_text::NodeText;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use serde_json::json;

use super::UpstreamError;
use super::sse::Parser;
use choices::Choices;
use chunk::{Chunk, Shape};

/// What the client reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ResponseFormat {
    /// The text alone.
    Text,
    /// Events of OpenAI's streams, with the usage at their end where the client asked for it.
    Events { usage: bool, named: CompletionMeta },
    /// One JSON object.
    Whole { named: CompletionMeta },
}

/// How an answer calls itself where the server gives only text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CompletionMeta {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) model: String,
}

/// What the server sends.
#[derive(Debug)]
pub(super) enum UpstreamFormat {
    Text(NodeText),
    Events(Parser),
    Json(BytesMut),
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Incoming,
    /// What came after the frames that were taken together.
    held: Option<Next>,
    decoder: Decoder,
}

/// A frame of the body, or its end.
type Next = Option<hyper::Result<Frame<Bytes>>>;

#[derive(Debug)]
struct Decoder {
    wire: UpstreamFormat,
    form: ResponseFormat,
    /// What is ready for the client.
    out: BytesMut,
    /// There was content: what is ready may go out.
    begun: bool,
    /// There was the end.
    done: bool,
    /// The body of events ended.
    body_ended: bool,
    /// What is wrong with the answer from here on.
    fault: Option<UpstreamError>,
    /// Bytes that the server sent.
    taken: usize,
    usage: Option<Usage>,
    choices: Choices,
    shape: Shape,
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
    /// Bytes of a stream: more than any model says in a day.
    const MOST_STREAMED: usize = 256 << 20;
    /// Frames that are taken together.
    const BATCH: usize = 32;

    pub(super) fn new(body: Incoming, wire: UpstreamFormat, form: ResponseFormat) -> Self {
        Self {
            body,
            held: None,
            decoder: Decoder::new(wire, form),
        }
    }

    /// The next piece for the client, never empty; `None` at the clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            match self.decoder.step()? {
                Step::Ready(piece) => return Ok(Some(piece)),
                Step::Done => return Ok(None),
                Step::More => {}
            }
            let next = match self.held.take() {
                Some(held) => held,
                None => self.body.frame().await,
            };
            match next {
                Some(Err(error)) => return Err(UpstreamError::Cut(error.to_string())),
                Some(Ok(frame)) => {
                    self.take(frame)?;
                    // The first content waits for nothing.
                    if self.decoder.begun {
                        self.take_more().await?;
                    }
                }
                None => self.decoder.end()?,
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), UpstreamError> {
        frame
            .into_data()
            .map_or(Ok(()), |data| self.decoder.take(&data))
    }

    /// Takes what else is there by now. hyper hands over one frame at a time and reads the next in its own task, which is
    /// given its turn: on a busy machine a whole batch has come meanwhile, and leaves in one write instead of one each.
    async fn take_more(&mut self) -> Result<(), UpstreamError> {
        for _ in 1..Self::BATCH {
            tokio::task::yield_now().await;
            let next = {
                let mut frame = pin!(self.body.frame());
                poll_fn(|context| Poll::Ready(frame.as_mut().poll(context))).await
            };
            match next {
                Poll::Ready(Some(Ok(frame))) => self.take(frame)?,
                Poll::Ready(last) => {
                    self.held = Some(last);
                    break;
                }
                Poll::Pending => break,
            }
        }
        Ok(())
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
    fn new(wire: UpstreamFormat, form: ResponseFormat) -> Self {
        Self {
            wire,
            form,
            out: BytesMut::new(),
            begun: false,
            done: false,
            body_ended: false,
            fault: None,
            taken: 0,
            usage: None,
            choices: Choices::default(),
            shape: Shape::default(),
        }
    }

    /// What there is to do next. What was ready before a fault goes out before it.
    fn step(&mut self) -> Result<Step, UpstreamError> {
        if self.fault.is_none() {
            self.fault = self.read().err();
        }
        if self.begun && !self.out.is_empty() {
            return Ok(Step::Ready(self.out.split().freeze()));
        }
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None if self.done => Ok(Step::Done),
            None => Ok(Step::More),
        }
    }

    /// Takes bytes of the server.
    fn take(&mut self, data: &[u8]) -> Result<(), UpstreamError> {
        if self.fault.is_some() {
            return Ok(());
        }
        match &mut self.wire {
            UpstreamFormat::Events(parser) => parser.push(data),
            UpstreamFormat::Json(whole) => whole.extend_from_slice(data),
            UpstreamFormat::Text(text) => match text.push(data) {
                Ok(text) => self.tell(&text),
                Err(error) => self.fault = Some(error),
            },
        }
        let held = match &self.wire {
            UpstreamFormat::Json(whole) => whole.len(),
            UpstreamFormat::Text(_) | UpstreamFormat::Events(_) => self.out.len(),
        };
        self.taken += data.len();
        if held > Answer::MOST || self.taken > Answer::MOST_STREAMED {
            return Err(UpstreamError::Unreadable("an endless answer".to_owned()));
        }
        Ok(())
    }

    /// Reads the events that are whole.
    fn read(&mut self) -> Result<(), UpstreamError> {
        while !self.done {
            let UpstreamFormat::Events(parser) = &mut self.wire else {
                break;
            };
            let next = parser.next_event();
            let next =
                next.map_err(|_| UpstreamError::Unreadable("an endless event".to_owned()))?;
            match next {
                None if !self.body_ended => break,
                None if !self.choices.all_finished() => {
                    let what = "the stream ended without [DONE] or a finish reason";
                    return Err(UpstreamError::Cut(what.to_owned()));
                }
                None => {
                    self.done = true;
                    self.some_content()?;
                }
                Some(event) if event.trim_ascii() == b"[DONE]" => {
                    self.done = true;
                    self.some_content()?;
                }
                Some(event) => self.read_event(&event)?,
            }
        }
        Ok(())
    }

    fn read_event(&mut self, event: &[u8]) -> Result<(), UpstreamError> {
        if let Some(text) = self.shape.text_in(event) {
            self.begun = true;
            match &self.form {
                ResponseFormat::Text | ResponseFormat::Whole { .. } => {
                    self.out.extend_from_slice(text.as_bytes())
                }
                ResponseFormat::Events { .. } => self.event(event),
            }
            return Ok(());
        }
        let chunk = Chunk::parse(event)?;
        self.choices.update(&chunk)?;
        self.shape.learn(event, &chunk);
        let usage = chunk.usage();
        self.usage = usage.or(self.usage);
        match &self.form {
            ResponseFormat::Text | ResponseFormat::Whole { .. } => {
                if let Some(text) = chunk.text() {
                    self.out.extend_from_slice(text.as_bytes());
                    self.begun = true;
                }
            }
            // The usage was our own question; its answer is not for a client that did not ask.
            ResponseFormat::Events { usage: false, .. }
                if chunk.choices().is_empty() && usage.is_some() => {}
            ResponseFormat::Events { .. } => {
                self.begun |= chunk.has_content();
                self.event(event);
            }
        }
        Ok(())
    }

    /// Adds an event, line by line as it came.
    fn event(&mut self, data: &[u8]) {
        // Nearly all have one line.
        self.out.reserve(data.len() + b"data: \n\n".len());
        let mut rest = data;
        loop {
            let end = memchr::memchr(b'\n', rest);
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.out.extend_from_slice(b"data: ");
            self.out.extend_from_slice(line);
            self.out.extend_from_slice(b"\n");
            match after.split_first() {
                Some((_, after)) => rest = after,
                None => break,
            }
        }
        self.out.extend_from_slice(b"\n");
    }

    /// Adds text of a server that sends nothing else.
    fn tell(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match &self.form {
            ResponseFormat::Text => {
                self.begun = true;
                self.out.extend_from_slice(text.as_bytes());
            }
            // Told at the end, as one.
            ResponseFormat::Whole { .. } => self.out.extend_from_slice(text.as_bytes()),
            ResponseFormat::Events { named, .. } => {
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

    /// The body ended cleanly.
    fn end(&mut self) -> Result<(), UpstreamError> {
        let rest = match &mut self.wire {
            UpstreamFormat::Events(parser) => {
                // Servers end their last event with one line end, or with none.
                parser.push(b"\n\n");
                self.body_ended = true;
                return Ok(());
            }
            UpstreamFormat::Json(whole) => {
                let whole = whole.split();
                let chunk = Chunk::parse(&whole)?;
                self.begun = chunk.has_content();
                self.usage = chunk.usage();
                self.out.extend_from_slice(whole.trim_ascii());
                self.done = true;
                return self.some_content();
            }
            UpstreamFormat::Text(text) => text.end(),
        };
        self.done = true;
        self.tell(&rest);
        match &self.form {
            ResponseFormat::Text => {}
            ResponseFormat::Events { named, .. } => {
                let chunk = named.chunk(&json!({}), Some("stop"));
                self.event(chunk.as_bytes());
            }
            ResponseFormat::Whole { named } if !self.out.is_empty() => {
                let text = self.out.split();
                let whole = named.whole(&String::from_utf8_lossy(&text));
                self.begun = true;
                self.out.extend_from_slice(whole.as_bytes());
            }
            ResponseFormat::Whole { .. } => {}
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

impl CompletionMeta {
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

#[cfg(test)]
mod tests;
