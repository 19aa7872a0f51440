//! Relays a model's response: reads each event of the upstream, and writes it in the client's format.
//!
//! Nothing is sent before there is content: text, or for a client of `/v1` also a tool call or reasoning. Everything that is
//! ready is sent in one piece. What a client reads as the end, and all after it, is withheld until the answer is charged.
//!
//! An answer is whole if it was finished as its format says and then ended, or came to nothing more for two seconds. One that
//! reports an error is not, whatever follows.

mod format;

use std::borrow::Cow;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use serde_json::json;

pub(crate) use self::format::{CompletionMeta, ResponseFormat};
use super::connection::ResponseBody;
use super::inference::chat_completions::{ChatCompletions, text_of};
use super::inference::r3mes::TextReader;
use super::inference::wire::{Meter, Reading, WireFormat};
use super::sse::Parser;
use super::{UpstreamError, unreadable};
use crate::store::Tokens;

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
    meter: Meter,
    /// The end of the response; ready pieces are sent first.
    end: Option<Result<(), UpstreamError>>,
    received: usize,
    /// Nothing follows in the body, or nothing that matters.
    is_read: bool,
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
            // Every request is for one choice.
            meter: Meter::new(1),
            end: None,
            received: 0,
            is_read: false,
        }
    }

    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next piece of content for the client, never empty; `None` at the clean end, whose bytes are
    /// [`take_end`](Self::take_end)'s. All that has arrived is one piece; nothing is waited for while there is content.
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
        if self.has_content() && !self.out.is_empty() {
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
        self.meter.has_content()
    }

    /// The usage that the server reported, if it did.
    pub(crate) fn usage(&self) -> Option<Tokens> {
        self.meter.usage()
    }

    /// Bytes of the body so far, whatever they are.
    pub(crate) const fn received(&self) -> usize {
        self.received
    }

    /// Whether the model is done: at most its usage and the end of the stream are missing.
    pub(crate) fn is_finished(&self) -> bool {
        self.meter.is_finished()
    }

    fn push(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) {
        self.is_read = !matches!(frame, Some(Ok(_)));
        if self.end.is_some() {
            return;
        }
        let read = match frame {
            Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |data| self.read(data)),
            Some(Err(error)) => return self.break_off(UpstreamError::Cut(error.to_string())),
            None => self.read_end(),
        };
        if let Err(error) = read {
            self.end = Some(Err(error));
            self.is_read = true;
        }
    }

    /// Nothing more comes: of an answer that is finished, nothing is missing.
    fn break_off(&mut self, error: UpstreamError) {
        let end = match self.meter.is_finished() {
            true => self.finish(),
            false => Err(error),
        };
        if let Err(error) = end {
            self.end = Some(Err(error));
        }
        self.is_read = true;
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
        let unsent = if self.has_content() {
            0
        } else {
            self.out.len()
        };
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
                let is_finished = self.meter.is_finished();
                // Some servers end their last event with one line end, or none.
                parser.push(b"\n\n");
                match self.read_events() {
                    // The rest of an event that was cut is none.
                    Err(_) if is_finished => {}
                    read => read?,
                }
                if self.end.is_none() && !self.meter.is_finished() {
                    let what = "the stream ended without a finish reason";
                    return Err(UpstreamError::Cut(what.to_owned()));
                }
            }
            UpstreamFormat::Json => {
                let whole = self.out.split();
                self.meter.add(&ChatCompletions.whole(&whole)?);
                self.tail.extend_from_slice(whole.trim_ascii());
            }
        }
        self.finish()
    }

    /// The answer ended. A client of `/v1` may read one without content; it is free.
    fn finish(&mut self) -> Result<(), UpstreamError> {
        if !self.meter.is_finished() {
            return Err(match self.has_content() {
                true => UpstreamError::Cut("it ended without a finish reason".to_owned()),
                false => unreadable("an answer without any content"),
            });
        }
        if !self.has_content() && self.format == ResponseFormat::Text {
            return Err(UpstreamError::NoText);
        }
        self.end = Some(Ok(()));
        Ok(())
    }

    fn read_events(&mut self) -> Result<(), UpstreamError> {
        while self.end.is_none()
            && let UpstreamFormat::Events(parser) = &mut self.upstream
            && let Some(event) = parser.next_event()?
        {
            let data = event.text();
            match data.trim() {
                "" => {}
                "[DONE]" if event.name != "error" => self.finish()?,
                _ => self.read_event(&event.name, data)?,
            }
        }
        Ok(())
    }

    fn read_event(&mut self, name: &str, data: &str) -> Result<(), UpstreamError> {
        let mut reading = ChatCompletions.event(name, data)?;
        let given_up = reading.given_up.take();
        self.write_read(name, data, reading);
        given_up.map_or(Ok(()), |reason| Err(UpstreamError::Reported(reason)))
    }

    fn write_read(&mut self, name: &str, data: &str, reading: Reading<'_>) {
        let ResponseFormat::Events { include_usage, .. } = &self.format else {
            // A client that reads text alone has no content of another kind.
            let text = reading.text.map(text_of).unwrap_or_default();
            self.write_text(&text);
            let has_content = self.has_content();
            self.meter.add(&Reading {
                has_content,
                ..reading
            });
            return;
        };
        let include_usage = *include_usage;
        self.meter.add(&reading);
        let mut data = Cow::Borrowed(data);
        // Requested by this server, not by the client.
        if let Some(usage) = reading.usage
            && !include_usage
        {
            if reading.no_choice {
                return;
            }
            data.to_mut().replace_range(usage, "null");
        }
        self.write_event(name, &data);
    }

    /// Writes an event, line by line as received.
    fn write_event(&mut self, name: &str, data: &str) {
        let out = match self.meter.is_finished() {
            true => &mut self.tail,
            false => &mut self.out,
        };
        if !name.is_empty() {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\n");
        }
        for line in data.split('\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line.as_bytes());
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
            if self.format == ResponseFormat::Text {
                self.meter.add_content();
            }
            return;
        };
        let delta = match self.has_content() {
            true => json!({ "content": text }),
            false => json!({ "role": "assistant", "content": text }),
        };
        let chunk = meta.completion("chat.completion.chunk", "delta", delta, None);
        self.write_event("", &chunk);
        self.meter.add_content();
    }

    fn write_text_end(&mut self) {
        if self.has_content() || !self.out.is_empty() {
            self.meter.add_finish();
        }
        match &self.format {
            ResponseFormat::Events { meta, .. } => {
                let chunk =
                    meta.completion("chat.completion.chunk", "delta", json!({}), Some("stop"));
                self.write_event("", &chunk);
            }
            ResponseFormat::Whole { meta } if !self.out.is_empty() => {
                let text = String::from_utf8_lossy(&self.out);
                let message = json!({ "role": "assistant", "content": text });
                let whole = meta.completion("chat.completion", "message", message, Some("stop"));
                self.out.clear();
                self.tail = whole.as_bytes().into();
                self.meter.add_content();
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

#[cfg(test)]
impl<B: Body<Data = Bytes, Error: Display> + Unpin> Answer<B> {
    /// The text of a stream of events.
    pub(crate) fn text_of_events(body: B) -> Self {
        Self::new(
            body,
            UpstreamFormat::Events(Parser::default()),
            ResponseFormat::Text,
        )
    }

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
