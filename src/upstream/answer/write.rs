//! Writes what was read in the format of the client.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::Bytes;
use hyper::body::Body;
use serde_json::json;

use super::{Answer, Paid, ResponseFormat, text_of};
use crate::upstream::inference::api::Api;
use crate::upstream::inference::wire::Reading;

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Answer<B> {
    pub(super) fn write_cost(&mut self, paid: Paid) {
        match (&self.format, self.usage_at.take()) {
            (ResponseFormat::Text, _) => {}
            (format, Some(at)) => {
                paid.write_into(format.api(), self.is_start_made, &mut self.tail, &at);
            }
            (ResponseFormat::Whole { api, .. }, None) => paid.append_to(*api, &mut self.tail),
            (
                ResponseFormat::Events {
                    include_usage: false,
                    ..
                },
                None,
            ) => {}
            // The usage is a part of the event that ends the answer.
            (
                ResponseFormat::Events {
                    api: Api::Messages | Api::Responses,
                    ..
                },
                None,
            ) => {}
            (ResponseFormat::Events { api, meta, .. }, None) => {
                let event = meta.usage(*api, &paid.usage(*api));
                self.write_event("", &event);
            }
        }
    }

    pub(super) fn write_read(&mut self, name: &str, data: &str, reading: Reading<'_>) {
        let ResponseFormat::Events {
            api,
            include_usage,
            meta,
        } = &self.format
        else {
            // A client that reads text alone has no content of another kind.
            let text = reading.text.map(text_of).unwrap_or_default();
            self.write_text(&text);
            self.meter.add(&Reading {
                content: Vec::new(),
                ..reading
            });
            return;
        };
        let (api, include_usage) = (*api, *include_usage);
        // Clients of Anthropic's API read no other event before it; llama.cpp leaves it out before some emojis.
        if api == Api::Messages && !self.is_started && !reading.is_start && !reading.is_ping() {
            let start = meta.message_start();
            self.is_start_made = true;
            self.write_event("message_start", &start);
        }
        let is_again = reading.is_start && self.is_started;
        self.is_started |= !reading.is_ping();
        let name = reading.kind.unwrap_or(name);
        self.meter.add(&reading);
        // This server ends the stream itself, after the charge.
        if is_again || (reading.is_end && reading.finished.is_empty()) {
            return;
        }
        // On one line: a line end in JSON is white space.
        let mut data = match data.contains('\n') {
            true => Cow::Owned(data.replace('\n', " ")),
            false => Cow::Borrowed(data),
        };
        // Requested by this server, not by the client.
        if let Some(usage) = &reading.usage
            && !include_usage
        {
            if reading.no_choice {
                return;
            }
            data.to_mut().replace_range(usage.clone(), "null");
        }
        let kind = reading.kind.unwrap_or(name);
        let changes = self.missing.of(api, kind, &data);
        if changes.is_repeated {
            return;
        }
        if let Some(before) = changes.before {
            let name = before.split('"').nth(3).unwrap_or_default();
            self.write_event(name, &before);
        }
        let mut usage = reading.usage;
        for (at, text) in changes.edits.into_iter().rev() {
            if let Some(usage) = &mut usage
                && at.start <= usage.start
            {
                let (added, removed) = (text.len(), at.len());
                *usage = usage.start + added - removed..usage.end + added - removed;
            }
            data.to_mut().replace_range(at, &text);
        }
        let at = self.write_event(name, &data);
        if let Some(usage) = usage
            && let Some(at) = at
            && include_usage
        {
            self.usage_at = Some(at + usage.start..at + usage.end);
        }
    }

    /// Writes an event, whose data are one line. Returns where they begin, if it is withheld.
    pub(super) fn write_event(&mut self, name: &str, data: &str) -> Option<usize> {
        let is_withheld = self.meter.is_finished();
        let out = match is_withheld {
            true => &mut self.tail,
            false => &mut self.out,
        };
        if !name.is_empty() {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\n");
        }
        out.extend_from_slice(b"data: ");
        let at = out.len();
        out.extend_from_slice(data.as_bytes());
        out.extend_from_slice(b"\n\n");
        is_withheld.then_some(at)
    }

    pub(super) fn write_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let ResponseFormat::Events { meta, .. } = &self.format else {
            self.out.extend_from_slice(text.as_bytes());
            // A whole completion is written at the end.
            if self.format == ResponseFormat::Text {
                self.meter.add_content(text.len());
            }
            return;
        };
        let delta = match self.has_content() {
            true => json!({ "content": text }),
            false => json!({ "role": "assistant", "content": text }),
        };
        let chunk = meta.completion("chat.completion.chunk", "delta", delta, None);
        self.write_event("", &chunk);
        self.meter.add_content(text.len());
    }

    pub(super) fn write_text_end(&mut self) {
        if self.has_content() || !self.out.is_empty() {
            self.meter.add_finish();
        }
        match &self.format {
            ResponseFormat::Events { meta, .. } => {
                let chunk =
                    meta.completion("chat.completion.chunk", "delta", json!({}), Some("stop"));
                self.write_event("", &chunk);
            }
            ResponseFormat::Whole { meta, .. } if !self.out.is_empty() => {
                let text = String::from_utf8_lossy(&self.out);
                let message = json!({ "role": "assistant", "content": text });
                let whole = meta.completion("chat.completion", "message", message, Some("stop"));
                self.meter.add_content(self.out.len());
                self.out.clear();
                self.tail = whole.as_bytes().into();
            }
            ResponseFormat::Text | ResponseFormat::Whole { .. } => {}
        }
    }
}
