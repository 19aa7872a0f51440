//! Relays a model's response: reads each event of the upstream, and writes it in the client's format.
//!
//! Nothing is sent before there is content: text, or for a client of `/v1` also a tool call or reasoning. Everything that is
//! ready is sent in one piece. What a client reads as the end, and all after it, is withheld until the answer is charged.
//!
//! An answer is whole if it was finished as its format says and then ended, or came to nothing more for two seconds. One that
//! reports an error is not, whatever follows.

mod format;
mod missing;
mod usage;
mod write;

use std::fmt::Display;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};

pub(crate) use self::format::{CompletionMeta, ResponseFormat};
use self::missing::Missing;
pub(crate) use self::usage::{Paid, from_stored, to_store};
use super::connection::ResponseBody;
use super::inference::chat_completions::text_of;
use super::inference::r3mes::TextReader;
use super::inference::wire::Meter;
use super::sse::Parser;
use super::{UpstreamError, unreadable};
use crate::model::Tokens;

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
    /// Where in that the last usage is.
    usage_at: Option<Range<usize>>,
    meter: Meter,
    /// Whether its stream began for the client.
    is_started: bool,
    /// Whether this server wrote that, so that nothing was said of the prompt.
    is_start_made: bool,
    missing: Missing,
    /// Pieces of content at most.
    max_pieces: Option<u64>,
    /// Bytes at most of what is withheld.
    max_bytes: usize,
    /// Whether the usage of a whole answer is known to be of all choices.
    counts_all: bool,
    /// The end of the response; ready pieces are sent first.
    end: Option<Result<(), UpstreamError>>,
    received: usize,
    /// Nothing follows in the body, or nothing that matters.
    is_read: bool,
}

/// The maximum size of a stream: more than any model writes in a day.
const MAX_STREAMED: usize = 256 << 20;
/// The maximum of frames read in one batch.
const BATCH: usize = 32;

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Answer<B> {
    /// To a request for one choice.
    pub(super) fn new(body: B, upstream: UpstreamFormat, format: ResponseFormat) -> Self {
        Self {
            body,
            upstream,
            max_bytes: format.api().max_bytes(),
            format,
            out: BytesMut::new(),
            tail: BytesMut::new(),
            usage_at: None,
            meter: Meter::new(1),
            is_started: false,
            is_start_made: false,
            missing: Missing::default(),
            max_pieces: None,
            counts_all: false,
            end: None,
            received: 0,
            is_read: false,
        }
    }

    /// To a request for so many choices, whose content may come in so many pieces at most, of a server whose usage is that
    /// of all choices or may be that of the first.
    pub(super) fn to(self, choices: u32, max_pieces: Option<u64>, counts_all: bool) -> Self {
        Self {
            meter: Meter::new(choices as usize),
            max_pieces,
            counts_all,
            ..self
        }
    }

    /// Of at most so many bytes in memory.
    pub(super) fn within(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
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

    /// What was withheld, with what it cost in its usage.
    pub(crate) fn take_end(&mut self, paid: Option<Paid>) -> BytesMut {
        if let Some(paid) = paid {
            self.write_cost(paid);
        }
        let mut end = self.out.split();
        end.unsplit(self.tail.split());
        end
    }

    /// Whether there was content, which is paid for.
    pub(crate) fn has_content(&self) -> bool {
        self.meter.has_content()
    }

    /// The usage that the server reported, if it did.
    pub(crate) fn usage(&self) -> Option<Tokens> {
        self.meter.usage()
    }

    /// Tokens of its content, as far as the server reported them.
    pub(crate) fn reported_completion(&self) -> i64 {
        self.meter.reported_completion()
    }

    /// Tokens of its content by this server's own count, where that is what counts.
    pub(crate) fn estimated_completion(&self) -> Option<i64> {
        self.meter.estimate()
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
        let is_endless = unsent + self.tail.len() > self.max_bytes;
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
                if self.end.is_none() && !self.meter.may_end() {
                    let what = "the stream ended without a finish reason";
                    return Err(UpstreamError::Cut(what.to_owned()));
                }
            }
            UpstreamFormat::Json => {
                // Not copied: it may be large.
                let mut whole = self.out.split();
                whole.advance(whole.len() - whole.trim_ascii_start().len());
                whole.truncate(whole.trim_ascii_end().len());
                let text = std::str::from_utf8(&whole).map_err(unreadable)?;
                let mut reading = self.format.api().wire().whole(text)?;
                if self.counts_all {
                    reading.tokens = reading.tokens.map(|(_, used)| (None, used));
                }
                self.meter.add(&reading);
                self.usage_at = reading.usage;
                self.tail = whole;
            }
        }
        self.finish()
    }

    /// The answer ended. A client of `/v1` may read one without content; it is free.
    fn finish(&mut self) -> Result<(), UpstreamError> {
        if !self.meter.may_end() {
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
        let mut reading = self.format.api().wire().event(name, data)?;
        let given_up = reading.given_up.take();
        let is_end = reading.is_end;
        self.write_read(name, data, reading);
        if let Some(reason) = given_up {
            return Err(UpstreamError::Reported(reason));
        }
        if is_end {
            return self.finish();
        }
        match self.max_pieces {
            Some(most) if self.meter.pieces() > most => {
                Err(unreadable("more content than the limit of tokens allows"))
            }
            _ => Ok(()),
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
