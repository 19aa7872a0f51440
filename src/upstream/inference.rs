//! Inference servers: a [`Node`] is one of them, with a number of slots, a short queue before them, and a health check.
//! There is one file per wire format, behind the trait of `wire.rs`; `answer.rs` relays what they read.

pub(super) mod chat_completions;
pub(super) mod openai;
pub(super) mod r3mes;
pub(super) mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, ResponseFormat, UpstreamFormat};
use super::completion::Completion;
use super::{Endpoint, UpstreamError};
use crate::breaker::{Outcome, Permit};
use crate::config::{ChatConfig, InferenceConfig, InferenceKind};

/// A request to a model, and the format of its answer to the client.
#[derive(Debug)]
pub(crate) struct InferenceRequest {
    pub(crate) prompt: Prompt,
    pub(crate) format: ResponseFormat,
    /// The adapter's name at an R3MES node; the default one has none.
    pub(crate) lora: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Prompt {
    Message(String),
    /// A request of OpenAI's API, and the same as one text for servers that take nothing else, where that is possible.
    Completion(Completion, Option<String>),
}

/// One inference server.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Endpoint,
    config: InferenceConfig,
    slots: Arc<Semaphore>,
    queue: Semaphore,
    /// The number of slots plus the length of the queue.
    capacity: usize,
    /// The model to request; empty until it is found.
    model: Mutex<String>,
}

impl Node {
    const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

    pub(super) fn new(at: Endpoint, config: InferenceConfig, chat: &ChatConfig) -> Self {
        let [slots, queue] = [chat.in_flight, chat.queue].map(|n| n.min(Semaphore::MAX_PERMITS));
        Self {
            at,
            slots: Arc::new(Semaphore::new(slots)),
            queue: Semaphore::new(queue),
            capacity: slots + queue,
            model: Mutex::new(config.model.clone()),
            config,
        }
    }

    pub(crate) fn serves(&self, adapter: &str) -> bool {
        self.at.is_present() && self.config.adapters.iter().any(|served| served == adapter)
    }

    pub(crate) fn takes_text_only(&self) -> bool {
        self.config.kind == InferenceKind::R3mes
    }

    /// Requests in a slot or in the queue.
    pub(crate) fn load(&self) -> usize {
        let free = self.slots.available_permits() + self.queue.available_permits();
        self.capacity.saturating_sub(free)
    }

    /// A slot, waited for if the queue is not full. Dropped while waiting, it leaves the queue.
    pub(crate) async fn acquire_slot(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let _queued = self.queue.try_acquire().map_err(|_| UpstreamError::Busy)?;
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        slot.map_err(|_| UpstreamError::Busy)
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn request(
        &self,
        request: &InferenceRequest,
    ) -> Result<Answer, UpstreamError> {
        // It is the first that the server names.
        let finds_model = self.config.kind == InferenceKind::OpenAi && self.config.model.is_empty();
        let known = self.model().clone();
        if finds_model && known.is_empty() {
            return self.send(request, &self.fetch_model().await?).await;
        }
        let answer = self.send(request, &known).await;
        // The statuses of servers that serve another model now.
        if let Err(UpstreamError::Status(400 | 404 | 422) | UpstreamError::Refused(400 | 422)) =
            answer
            && finds_model
            && let Ok(other) = self.fetch_model().await
            && other != known
        {
            return self.send(request, &other).await;
        }
        answer
    }

    async fn send(&self, request: &InferenceRequest, model: &str) -> Result<Answer, UpstreamError> {
        let (path, body) = match self.config.kind {
            InferenceKind::R3mes => ("/chat", r3mes::request_body(request)?),
            InferenceKind::OpenAi => ("/v1/chat/completions", openai::request_body(request, model)),
        };
        let sent = self.at.request(path, Some(body))?;
        let sent = self.at.client.send(sent).await;
        let response = match (sent, &request.prompt) {
            // The body is the client's own, so is the error.
            (Err(UpstreamError::Status(status @ (400 | 413 | 422))), Prompt::Completion(..)) => {
                return Err(UpstreamError::Refused(status));
            }
            (sent, _) => sent?,
        };
        let format = match (self.config.kind, &request.format) {
            (InferenceKind::R3mes, _) => UpstreamFormat::Text(Default::default()),
            (InferenceKind::OpenAi, ResponseFormat::Whole { .. }) => UpstreamFormat::Json,
            (InferenceKind::OpenAi, _) => UpstreamFormat::Events(Default::default()),
        };
        let body = response.into_body();
        Ok(Answer::new(body, format, request.format.clone()))
    }

    fn model(&self) -> MutexGuard<'_, String> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_model(&self) -> Result<String, UpstreamError> {
        let deadline = Duration::from_secs(5);
        let body = self.at.get("/v1/models", deadline).await?;
        let model = openai::first_model(&body)?;
        self.model().clone_from(&model);
        Ok(model)
    }

    async fn fetch_health(&self) -> Result<Bytes, UpstreamError> {
        let path = match self.config.kind {
            InferenceKind::R3mes => "/health",
            InferenceKind::OpenAi => "/v1/models",
        };
        self.at.get(path, Self::PROBE_TIMEOUT).await
    }

    /// Whether an inference server of its kind answers. Some versions of R3MES nodes have `/health` alone, so `/chat` is tried
    /// too: a request without a message costs no inference; a GET would not do, as nodes with `/chat` answer it 404.
    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        let body = self.fetch_health().await?;
        if self.config.kind == InferenceKind::OpenAi {
            return openai::first_model(&body).map(drop);
        }
        let request = self.at.request("/chat", Some("{}".to_owned()))?;
        match (self.at.client.fetch(request, Self::PROBE_TIMEOUT)).await {
            Err(UpstreamError::Status(status @ (404 | 405 | 501 | 503))) => {
                Err(UpstreamError::NoChat(status))
            }
            _ => Ok(()),
        }
    }

    /// Runs the health checks that the breaker requires, in a separate task, so that no client waits for them.
    pub(crate) fn run_health_checks(self: &Arc<Self>, check: Option<Permit>) {
        let Some(mut check) = check else {
            return;
        };
        // The task must not outlive the server while a node stays unreachable.
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut level = log::Level::Warn;
            while check.due().await
                && let Some(node) = node.upgrade()
            {
                let health = node.fetch_health().await;
                if let Err(error) = &health {
                    let name = check.name();
                    log::log!(level, "inference {name}: health check failed: {error}");
                    level = log::Level::Debug;
                }
                let next = check.end(match health {
                    Ok(_) => Outcome::Success,
                    Err(UpstreamError::Connect(_)) => Outcome::Unreachable,
                    Err(_) => Outcome::Failure,
                });
                let Some(next) = next else { return };
                check = next;
            }
        });
    }
}
