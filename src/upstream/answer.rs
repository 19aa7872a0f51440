//! Relays a model's response: reads each event of the upstream, and writes it in the client's format.
//!
//! Nothing is sent before there is content: text, or for a client of `/v1` also a tool call or reasoning. Everything that is
//! ready is sent in one piece. What a client reads as the end, and all after it, is withheld until the answer is charged.

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use super::connection::ResponseBody;
use super::inference::openai::Chunk;
use super::inference::r3mes::TextReader;
use super::sse::Parser;
use super::{UpstreamError, unreadable};
use crate::store::Tokens;

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

/// The format of the upstream, with the state of its parser.
#[derive(Debug)]
pub(super) enum UpstreamFormat {
    Text(TextReader),
    Events(Parser),
    Json,
}

/// A response being relayed.
#[derive(Debug)]
pub(crate) struct Answer<B = ResponseBody> {
    body: B,
    upstream: UpstreamFormat,
    format: ResponseFormat,
    /// Ready for the client, as soon as there is content.
    out: BytesMut,
    /// The end, from the finish reason on; of an answer that is one piece, all of it.
    tail: BytesMut,
    has_content: bool,
    /// The end of the response; ready pieces are sent first.
    end: Option<Result<(), UpstreamError>>,
    received: usize,
    /// Nothing follows in the body, or nothing that matters.
    is_read: bool,
    /// The usage that the server reported, if it did.
    pub(crate) usage: Option<Tokens>,
    /// Whether a finish reason was read: the answer is complete even without a `[DONE]`, as `transformers serve` sends none.
    is_finished: bool,
}

/// The maximum size of an unstreamed response, and of everything before the first content.
const MAX_BYTES: usize = 4 << 20;
/// The maximum size of a stream: more than any model writes in a day.
const MAX_STREAMED: usize = 256 << 20;
/// The maximum of frames read in one batch.
const BATCH: usize = 32;

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Answer<B> {
    pub(super) fn new(body: B, upstream: UpstreamFormat, format: ResponseFormat) -> Self {
        Self {
            body,
            upstream,
            format,
            out: BytesMut::new(),
            tail: BytesMut::new(),
            has_content: false,
            end: None,
            received: 0,
            is_read: false,
            usage: None,
            is_finished: false,
        }
    }

    /// The next piece of content for the client, never empty; `None` at the clean end, whose bytes are
    /// [`take_end`](Self::take_end)'s.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same as a poll. All that has arrived is one piece; nothing is waited for while there is content.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, UpstreamError>> {
        let mut is_pending = false;
        for _ in 0..BATCH {
            if self.is_read {
                break;
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(frame) => self.push(frame),
                Poll::Pending => {
                    is_pending = true;
                    break;
                }
            }
        }
        if self.has_content && !self.out.is_empty() {
            return Poll::Ready(Ok(Some(self.out.split().freeze())));
        }
        match &self.end {
            Some(end) => Poll::Ready(end.clone().map(|()| None)),
            None => {
                if !is_pending {
                    // Frames without content so far; the others of this thread get their turn.
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// What was withheld.
    pub(crate) fn take_end(&mut self) -> BytesMut {
        let mut end = self.out.split();
        end.unsplit(self.tail.split());
        end
    }

    /// Whether there was content, which is paid for.
    pub(crate) const fn has_content(&self) -> bool {
        self.has_content
    }

    /// Whether the model is done: at most its usage and the end of the stream are missing.
    pub(crate) const fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn push(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) {
        self.is_read = !matches!(frame, Some(Ok(_)));
        if self.end.is_some() {
            return;
        }
        let read = match frame {
            Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |data| self.read(data)),
            Some(Err(error)) => Err(UpstreamError::Cut(error.to_string())),
            None => self.read_end(),
        };
        if let Err(error) = read {
            self.end = Some(Err(error));
            self.is_read = true;
        }
    }

    fn read(&mut self, data: &[u8]) -> Result<(), UpstreamError> {
        match &mut self.upstream {
            UpstreamFormat::Text(text) => {
                let text = text.push(data)?;
                self.write_text(&text);
            }
            UpstreamFormat::Events(parser) => {
                parser.push(data);
                self.read_events()?;
            }
            UpstreamFormat::Json => self.out.extend_from_slice(data),
        }
        self.received += data.len();
        let unsent = if self.has_content { 0 } else { self.out.len() };
        let is_endless = unsent + self.tail.len() > MAX_BYTES;
        if is_endless || self.received > MAX_STREAMED {
            return Err(unreadable("an endless answer"));
        }
        Ok(())
    }

    /// The body ended cleanly.
    fn read_end(&mut self) -> Result<(), UpstreamError> {
        match &mut self.upstream {
            UpstreamFormat::Text(text) => {
                let rest = text.end();
                self.write_text(&rest);
                self.write_text_end();
            }
            UpstreamFormat::Events(parser) => {
                // Some servers end their last event with one line end, or none.
                parser.push(b"\n\n");
                self.read_events()?;
                if self.end.is_none() && !self.is_finished {
                    let what = "the stream ended without [DONE] or a finish reason";
                    return Err(UpstreamError::Cut(what.to_owned()));
                }
            }
            UpstreamFormat::Json => {
                let whole = self.out.split();
                let chunk = Chunk::parse(&whole)?;
                self.has_content = chunk.has_content;
                self.is_finished = chunk.is_finished;
                self.usage = chunk.usage;
                self.tail.extend_from_slice(whole.trim_ascii());
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<(), UpstreamError> {
        if !self.has_content {
            if !self.is_finished {
                return Err(unreadable("an answer without any content"));
            }
            // A client of `/v1` may read an answer that ended well without content; it is free.
            if self.format == ResponseFormat::Text {
                return Err(UpstreamError::NoText);
            }
        }
        self.end = Some(Ok(()));
        Ok(())
    }

    fn read_events(&mut self) -> Result<(), UpstreamError> {
        while self.end.is_none()
            && let UpstreamFormat::Events(parser) = &mut self.upstream
            && let Some(event) = parser.next_event()?
        {
            match event.trim_ascii() {
                b"[DONE]" => self.finish()?,
                _ => self.read_event(&event)?,
            }
        }
        Ok(())
    }

    fn read_event(&mut self, event: &[u8]) -> Result<(), UpstreamError> {
        let chunk = Chunk::parse(event)?;
        self.is_finished |= chunk.is_finished;
        self.usage = chunk.usage.or(self.usage);
        match &self.format {
            ResponseFormat::Text | ResponseFormat::Whole { .. } => self.write_text(&chunk.text()?),
            // Requested by this server, not by the client.
            ResponseFormat::Events { include_usage, .. }
                if !include_usage && chunk.usage.is_some() && !chunk.has_choices => {}
            ResponseFormat::Events { .. } => {
                self.has_content |= chunk.has_content;
                self.write_event(event);
            }
        }
        Ok(())
    }

    /// Writes an event, line by line as received.
    fn write_event(&mut self, data: &[u8]) {
        let out = match self.is_finished {
            true => &mut self.tail,
            false => &mut self.out,
        };
        for line in data.split(|byte| *byte == b'\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.extend_from_slice(b"\n");
        }
        out.extend_from_slice(b"\n");
    }

    fn write_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let ResponseFormat::Events { meta, .. } = &self.format else {
            self.out.extend_from_slice(text.as_bytes());
            // A whole completion is written at the end.
            self.has_content |= self.format == ResponseFormat::Text;
            return;
        };
        let delta = match self.has_content {
            true => json!({ "content": text }),
            false => json!({ "role": "assistant", "content": text }),
        };
        let chunk = meta.completion("chat.completion.chunk", "delta", delta, None);
        self.write_event(chunk.as_bytes());
        self.has_content = true;
    }

    fn write_text_end(&mut self) {
        self.is_finished = self.has_content || !self.out.is_empty();
        match &self.format {
            ResponseFormat::Events { meta, .. } => {
                let chunk =
                    meta.completion("chat.completion.chunk", "delta", json!({}), Some("stop"));
                self.write_event(chunk.as_bytes());
            }
            ResponseFormat::Whole { meta } if !self.out.is_empty() => {
                let text = String::from_utf8_lossy(&self.out);
                let message = json!({ "role": "assistant", "content": text });
                let whole = meta.completion("chat.completion", "message", message, Some("stop"));
                self.out.clear();
                self.tail = whole.as_bytes().into();
                self.has_content = true;
            }
            ResponseFormat::Text | ResponseFormat::Whole { .. } => {}
        }
    }
}

impl Answer {
    /// Reads the few bytes after the end, so that the connection can be reused. Mostly they were there with the end.
    pub(crate) fn drain(self) {
        if !self.is_read {
            tokio::spawn(self.read_rest());
        }
    }

    async fn read_rest(mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), rest).await;
    }
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
    fn completion(&self, object: &str, part: &str, value: Value, finish: Option<&str>) -> String {
        let choice = json!({ "index": 0, part: value, "finish_reason": finish });
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [choice] })
            .to_string()
    }
}

#[cfg(test)]
impl<B: Body<Data = Bytes, Error: Display> + Unpin> Answer<B> {
    /// A text, as it comes.
    pub(crate) fn text(body: B) -> Self {
        Self::new(
            body,
            UpstreamFormat::Text(TextReader::default()),
            ResponseFormat::Text,
        )
    }
}

#[cfg(test)]
mod tests;
