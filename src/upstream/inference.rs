use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sse::Parser;
use super::{Endpoint, UpstreamError, get, join, post_json};
use crate::config::{InferenceConfig, InferenceKind};

/// One inference server: a breaker, a number of places, a short queue before them.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Endpoint,
    config: InferenceConfig,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    /// The model to ask for, once known.
    model: Mutex<Option<String>>,
}

/// A page of a node is small; an answer to `/v1/models` of a hub with thousands of models is not.
const PAGE: usize = 1 << 20;

impl Node {
    pub(crate) fn new(
        at: Endpoint,
        config: InferenceConfig,
        in_flight: usize,
        queue: usize,
    ) -> Self {
        let model = (!config.model.is_empty()).then(|| config.model.clone());
        Self {
            at,
            config,
            places: Arc::new(Semaphore::new(in_flight)),
            waiting: AtomicUsize::new(0),
            queue,
            model: Mutex::new(model),
        }
    }

    pub(crate) fn serves(&self, adapter: &str) -> bool {
        self.at.is_present() && self.config.adapters.iter().any(|served| served == adapter)
    }

    /// Looks whether an inference server answers at this address, and remembers it if so.
    pub(crate) async fn look(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(2);
        let page = match self.config.kind {
            InferenceKind::R3mes => "/health",
            InferenceKind::OpenAi => "/v1/models",
        };
        let asked = async {
            let body = self
                .at
                .client
                .fetch(get(&join(&self.at.url, page)?, None)?, PATIENCE, PAGE)
                .await?;
            Ok::<_, UpstreamError>(
                self.config.kind == InferenceKind::R3mes || first_model(&body).is_some(),
            )
        };
        self.at.remember(asked.await.unwrap_or(false))
    }

    /// A place at the node, waited for if the queue has room. Dropped while waiting, it leaves the queue.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let _in_queue = InQueue::enter(&self.waiting, self.queue).ok_or(UpstreamError::Busy)?;
        Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| UpstreamError::Busy)
    }

    /// Sends a message and waits for the head of the answer.
    pub(crate) async fn ask(
        &self,
        message: &str,
        lora: Option<&str>,
    ) -> Result<Answer, UpstreamError> {
        let (path, body) = match self.config.kind {
            InferenceKind::R3mes => (
                "/chat",
                match lora {
                    Some(lora) => json!({ "message": message, "lora_name": lora }),
                    None => json!({ "message": message }),
                },
            ),
            InferenceKind::OpenAi => {
                let messages = json!([{ "role": "user", "content": message }]);
                (
                    "/v1/chat/completions",
                    json!({ "model": self.model().await?, "messages": messages, "stream": true }),
                )
            }
        };
        let response = self
            .at
            .client
            .send(post_json(&join(&self.at.url, path)?, &body)?)
            .await?;
        let decoder = match self.config.kind {
            InferenceKind::R3mes => Decoder::Plain,
            InferenceKind::OpenAi => Decoder::Events(Parser::default()),
        };
        Ok(Answer {
            body: response.into_body(),
            decoder,
        })
    }

    async fn model(&self) -> Result<String, UpstreamError> {
        let known = || self.model.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = known().clone() {
            return Ok(model);
        }
        let request = get(&join(&self.at.url, "/v1/models")?, None)?;
        let body = self
            .at
            .client
            .fetch(request, Duration::from_secs(5), PAGE)
            .await?;
        let model = first_model(&body)
            .ok_or_else(|| UpstreamError::Unreadable("/v1/models names no model".to_owned()))?;
        *known() = Some(model.clone());
        Ok(model)
    }
}

/// A place in the queue before a node's places.
struct InQueue<'a>(&'a AtomicUsize);

impl<'a> InQueue<'a> {
    fn enter(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let entered = waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n < most).then_some(n + 1)
        });
        entered.is_ok().then_some(Self(waiting))
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The text of an answer as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Incoming,
    decoder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Plain,
    Events(Parser),
}

impl Answer {
    /// The next piece of text, never empty; `None` at the clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if let Decoder::Events(parser) = &mut self.decoder {
                while let Some(event) = parser
                    .next_event()
                    .map_err(|_| UpstreamError::Unreadable("an endless event".to_owned()))?
                {
                    match read_event(&event)? {
                        Event::Text(text) if !text.is_empty() => {
                            return Ok(Some(Bytes::from(text)));
                        }
                        Event::Text(_) => {}
                        Event::Done => return Ok(None),
                    }
                }
            }
            match (self.body.frame().await, &mut self.decoder) {
                (Some(Err(error)), _) => return Err(UpstreamError::Cut(error.to_string())),
                (Some(Ok(frame)), decoder) => match (frame.into_data(), decoder) {
                    (Ok(data), Decoder::Plain) if !data.is_empty() => return Ok(Some(data)),
                    (Ok(data), Decoder::Events(parser)) => parser.push(&data),
                    (Ok(_), Decoder::Plain) | (Err(_), _) => {}
                },
                (None, Decoder::Plain) => return Ok(None),
                (None, Decoder::Events(_)) => {
                    return Err(UpstreamError::Cut(
                        "the stream ended without [DONE]".to_owned(),
                    ));
                }
            }
        }
    }

    /// Reads what little stands after the end, so that the connection can be used again.
    pub(crate) async fn drain(mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        let _ = tokio::time::timeout(Duration::from_millis(100), rest).await;
    }
}

enum Event {
    Text(String),
    Done,
}

fn read_event(event: &[u8]) -> Result<Event, UpstreamError> {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow, default)]
        choices: Vec<Choice<'a>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        delta: Option<Delta<'a>>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        content: Option<Cow<'a, str>>,
    }
    if event == b"[DONE]" {
        return Ok(Event::Done);
    }
    let chunk: Chunk<'_> = serde_json::from_slice(event)
        .map_err(|error| UpstreamError::Unreadable(error.to_string()))?;
    if let Some(error) = chunk.error {
        return Err(UpstreamError::Cut(format!(
            "an error inside the stream: {}",
            error.get()
        )));
    }
    let content = chunk
        .choices
        .into_iter()
        .next()
        .and_then(|choice| choice.delta)
        .and_then(|delta| delta.content);
    Ok(Event::Text(content.unwrap_or_default().into_owned()))
}

fn first_model(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let models: Models = serde_json::from_slice(body).ok()?;
    models.data.into_iter().next().map(|model| model.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(event: &[u8]) -> Option<String> {
        match read_event(event) {
            Ok(Event::Text(text)) => Some(text),
            Ok(Event::Done) | Err(_) => None,
        }
    }

    fn event(content: &str) -> Vec<u8> {
        let delta = json!({ "role": "assistant", "content": content });
        json!({ "id": "x", "error": null, "choices": [{ "index": 0, "delta": delta }] })
            .to_string()
            .into_bytes()
    }

    proptest! {
        #[test]
        fn no_event_makes_the_reader_panic(event in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_event(&event);
            let _ = first_model(&event);
        }

        #[test]
        fn every_text_comes_out_as_it_went_in(content in any::<String>()) {
            prop_assert_eq!(text(&event(&content)), Some(content));
        }

        #[test]
        fn a_changed_event_is_read_or_refused(content in ".{0,8}", at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut event = event(&content);
            let at = at.index(event.len());
            event[at] = byte;
            let _ = read_event(&event);
            let _ = read_event(&event[..at]);
        }

        #[test]
        fn the_first_model_is_the_first_and_a_changed_page_names_one_or_none(ids in prop::collection::vec(any::<String>(), 0..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let data: Vec<_> = ids.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
            let mut page = json!({ "object": "list", "data": data }).to_string().into_bytes();
            prop_assert_eq!(first_model(&page), ids.first().cloned());
            let at = at.index(page.len());
            page[at] = byte;
            let _ = first_model(&page);
        }
    }
}
