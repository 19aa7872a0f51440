use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::Request;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, NodeText, ResponseFormat, UpstreamFormat};
use super::completion::Completion;
use super::sse::Parser;
use super::{Endpoint, UpstreamError, get, join, post_json};
use crate::config::{InferenceConfig, InferenceKind};

/// What a client wants of a model.
#[derive(Debug)]
pub(crate) struct InferenceRequest {
    pub(crate) prompt: Prompt,
    pub(crate) form: ResponseFormat,
    /// What an R3MES node calls the adapter; the default one has no name there.
    pub(crate) lora: Option<String>,
}

/// What the model is to answer.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// A text.
    Message(String),
    /// A request of OpenAI's API; its text, for servers that take nothing else, where it can be told as one.
    Completion(Completion, Option<String>),
}

/// One inference server: a breaker, a number of places, a short queue before them.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Endpoint,
    config: InferenceConfig,
    in_flight: usize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    /// The model to ask for, once known.
    model: Mutex<Option<String>>,
}

/// A page of a node is small; an answer to `/v1/models` of a hub with thousands of models is not.
const PAGE: usize = 1 << 20;

impl Node {
    const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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
            in_flight,
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
        self.at.mark_present(self.probe().await.is_ok())
    }

    /// Asks for the page that every server of its kind has.
    pub(super) async fn probe(&self) -> Result<(), UpstreamError> {
        let request = self.health_request()?;
        let fetched = self.at.client.fetch(request, Self::PROBE_TIMEOUT, PAGE);
        let body = fetched.await?;
        match self.config.kind {
            InferenceKind::OpenAi if first_model(&body).is_none() => {
                Err(UpstreamError::Unreadable("no model is named".to_owned()))
            }
            InferenceKind::OpenAi | InferenceKind::R3mes => Ok(()),
        }
    }

    pub(super) fn health_request(&self) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let path = match self.config.kind {
            InferenceKind::R3mes => "/health",
            InferenceKind::OpenAi => "/v1/models",
        };
        get(&join(&self.at.url, path)?, self.at.token())
    }

    /// Whether an R3MES node has `/chat`: some versions have `/health` alone. A request without a message costs no inference;
    /// a GET would not tell, as nodes with `/chat` answer it 404 too.
    pub(super) async fn check_chat(&self) -> Result<(), UpstreamError> {
        if self.config.kind != InferenceKind::R3mes {
            return Ok(());
        }
        let uri = join(&self.at.url, "/chat")?;
        let request = post_json(&uri, self.at.token(), "{}".to_owned())?;
        match self
            .at
            .client
            .fetch(request, Self::PROBE_TIMEOUT, PAGE)
            .await
        {
            Err(UpstreamError::Status(status @ (404 | 405 | 501 | 503))) => {
                Err(UpstreamError::NoChat(status))
            }
            _ => Ok(()),
        }
    }

    /// Whether it takes a text and nothing else.
    pub(crate) fn takes_text_only(&self) -> bool {
        self.config.kind == InferenceKind::R3mes
    }

    /// Chats that are there or wait.
    pub(crate) fn load(&self) -> usize {
        let taken = self
            .in_flight
            .saturating_sub(self.places.available_permits());
        taken + self.waiting.load(Ordering::Acquire)
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

    /// Sends what is asked and waits for the head of the answer.
    pub(crate) async fn ask(&self, ask: &InferenceRequest) -> Result<Answer, UpstreamError> {
        if self.config.kind == InferenceKind::R3mes {
            return self.ask_for("", ask).await;
        }
        let known = self.known_model().clone();
        let Some(model) = known else {
            let model = self.learn_model().await?;
            return self.ask_for(&model, ask).await;
        };
        let answered = self.ask_for(&model, ask).await;
        // What a server says that has another model by now; some of them say 400 of it.
        let may_be_the_model = matches!(
            answered,
            Err(UpstreamError::Status(400 | 404 | 422) | UpstreamError::Refused(400 | 422))
        );
        if !may_be_the_model || !self.config.model.is_empty() {
            return answered;
        }
        match self.learn_model().await {
            Ok(another) if another != model => self.ask_for(&another, ask).await,
            _ => answered,
        }
    }

    async fn ask_for(&self, model: &str, ask: &InferenceRequest) -> Result<Answer, UpstreamError> {
        let stream = !matches!(ask.form, ResponseFormat::Whole { .. });
        let (path, body) = match (self.config.kind, &ask.prompt) {
            (InferenceKind::R3mes, Prompt::Message(text) | Prompt::Completion(_, Some(text))) => (
                "/chat",
                match &ask.lora {
                    Some(lora) => json!({ "message": text, "lora_name": lora }),
                    None => json!({ "message": text }),
                }
                .to_string(),
            ),
            (InferenceKind::R3mes, Prompt::Completion(_, None)) => {
                let what = "a text-only server was asked for more".to_owned();
                return Err(UpstreamError::Unreadable(what));
            }
            (InferenceKind::OpenAi, Prompt::Message(text)) => {
                let messages = json!([{ "role": "user", "content": text }]);
                let usage = json!({ "include_usage": true });
                let body = json!({ "model": model, "messages": messages, "stream": true, "stream_options": usage });
                ("/v1/chat/completions", body.to_string())
            }
            (InferenceKind::OpenAi, Prompt::Completion(request, _)) => {
                ("/v1/chat/completions", request.body(model))
            }
        };
        let sent = self
            .at
            .client
            .send(post_json(
                &join(&self.at.url, path)?,
                self.at.token(),
                body,
            )?)
            .await;
        let response = match (sent, &ask.prompt) {
            // The body is the client's own, so is the fault.
            (Err(UpstreamError::Status(status @ (400 | 413 | 422))), Prompt::Completion(..)) => {
                return Err(UpstreamError::Refused(status));
            }
            (sent, _) => sent?,
        };
        let wire = match self.config.kind {
            InferenceKind::R3mes => UpstreamFormat::Text(NodeText::default()),
            InferenceKind::OpenAi if stream => UpstreamFormat::Events(Parser::default()),
            InferenceKind::OpenAi => UpstreamFormat::Json(BytesMut::new()),
        };
        Ok(Answer::new(response.into_body(), wire, ask.form.clone()))
    }

    fn known_model(&self) -> MutexGuard<'_, Option<String>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn learn_model(&self) -> Result<String, UpstreamError> {
        let request = get(&join(&self.at.url, "/v1/models")?, self.at.token())?;
        let body = self
            .at
            .client
            .fetch(request, Duration::from_secs(5), PAGE)
            .await?;
        let model = first_model(&body)
            .ok_or_else(|| UpstreamError::Unreadable("/v1/models names no model".to_owned()))?;
        *self.known_model() = Some(model.clone());
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
        // Lazily: one made and dropped here would leave a queue that it never entered.
        entered.is_ok().then(|| Self(waiting))
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
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

    #[test]
    fn a_place_in_the_queue_is_counted_once_and_a_refusal_not_at_all() {
        let waiting = AtomicUsize::new(0);
        let one = InQueue::enter(&waiting, 1);
        assert!(one.is_some() && InQueue::enter(&waiting, 1).is_none());
        assert_eq!(waiting.load(Ordering::Acquire), 1);
        drop(one);
        assert_eq!(waiting.load(Ordering::Acquire), 0);
        assert!(InQueue::enter(&waiting, 1).is_some());
    }

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = first_model(&page);
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
