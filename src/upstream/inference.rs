//! Inference servers: a [`Node`] is one of them, with a number of slots, a fair queue before them, and a health check.
//! There is one file per wire format, behind the trait of `wire.rs`; `answer.rs` relays what they read.
//! `refusal` reads what a server means by a status, `standing` remembers how it has done.

pub(super) mod chat_completions;
pub(super) mod openai;
pub(super) mod r3mes;
pub(crate) mod refusal;
pub(crate) mod standing;
pub(super) mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use hyper::header::{RETRY_AFTER, SERVER};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use self::refusal::{Meaning, Refusal};
use self::standing::{Standing, StandingStatus};
use super::answer::{Answer, ResponseFormat, UpstreamFormat};
use super::completion::Completion;
use super::queue::{FairQueue, QueueStatus};
use super::{Endpoint, ResponseBody, UpstreamError};
use crate::body;
use crate::breaker::{Outcome, Permit};
use crate::clock::Clock;
use crate::config::{ChatConfig, InferenceConfig, InferenceKind};
use crate::model::Wallet;

/// The right to one request at a server.
pub(crate) type Slot = super::queue::Slot<Wallet>;

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

/// An inference server as health shows it.
#[derive(Serialize)]
pub(crate) struct NodeStatus<'a> {
    name: &'a str,
    #[serde(flatten)]
    queue: QueueStatus,
    #[serde(flatten)]
    standing: StandingStatus,
}

/// One inference server.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Endpoint,
    pub(crate) queue: Arc<FairQueue<Wallet>>,
    pub(crate) standing: Standing,
    config: InferenceConfig,
    clock: Clock,
    /// The model to request; empty until it is found.
    model: Mutex<String>,
    /// It answered only without them.
    refuses_stream_options: AtomicBool,
    /// When llama.cpp was last asked for the number of its slots.
    slots_read_at: Mutex<Option<Instant>>,
    /// Held by the request for which the server may load its model.
    loading: Arc<tokio::sync::Semaphore>,
}

impl Node {
    const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
    /// For `/v1/models` and `/props`.
    const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
    /// For the body of a refusal, and the bytes of it.
    const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
    const REFUSAL_BYTES: usize = 64 << 10;
    /// How often the number of slots is read.
    const SLOTS_INTERVAL: Duration = Duration::from_secs(60);

    pub(super) fn new(
        at: Endpoint,
        config: InferenceConfig,
        chat: &ChatConfig,
        clock: Clock,
    ) -> Self {
        let slots = config.in_flight.unwrap_or(chat.in_flight);
        Self {
            at,
            queue: FairQueue::new(slots, chat.queue, clock.clone()),
            standing: Standing::default(),
            model: Mutex::new(config.model.clone()),
            refuses_stream_options: AtomicBool::new(false),
            slots_read_at: Mutex::new(None),
            loading: Arc::new(tokio::sync::Semaphore::new(1)),
            config,
            clock,
        }
    }

    pub(crate) fn serves(&self, adapter: &str) -> bool {
        self.at.is_present() && self.config.adapters.iter().any(|served| served == adapter)
    }

    pub(crate) fn takes_text_only(&self) -> bool {
        self.config.kind == InferenceKind::R3mes
    }

    /// Where it comes among those that may answer, the least first: without recent failures, then by its load.
    pub(crate) fn rank(&self, now: Instant) -> (u32, usize) {
        let queue = self.queue.status();
        let load = queue.in_use + queue.waiting;
        (self.standing.recent_failures(now), load)
    }

    /// How it does, for health.
    pub(crate) fn status(&self, now: Instant) -> NodeStatus<'_> {
        NodeStatus {
            name: self.at.breaker.name(),
            queue: self.queue.status(),
            standing: self.standing.status(now),
        }
    }

    /// Why no request may be sent to it now.
    pub(crate) fn refusal(&self, now: Instant) -> Option<UpstreamError> {
        let open = self.at.breaker.refusal().map(UpstreamError::Open);
        open.or_else(|| self.standing.pause(now).map(UpstreamError::Paused))
    }

    /// The permit of a request whose end its client may not wait for, as the server may be loading its model for it: a
    /// server that sent nothing for a while may, and leaving early would make it start again with the next request. One at
    /// a time, and only of a stream, whose generation ends when its head is there and it is cancelled.
    pub(crate) fn load_permit(
        &self,
        format: &ResponseFormat,
        now: Instant,
    ) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let may_load = self.config.kind == InferenceKind::OpenAi
            && !matches!(format, ResponseFormat::Whole { .. })
            && self.standing.is_cold(now);
        let permit = may_load.then(|| Arc::clone(&self.loading).try_acquire_owned());
        permit?.ok()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn request(
        self: &Arc<Self>,
        request: &InferenceRequest,
    ) -> Result<Answer, UpstreamError> {
        // It is the first that the server names.
        let finds_model = self.config.kind == InferenceKind::OpenAi && self.config.model.is_empty();
        let mut model = self.model().clone();
        let is_known = !finds_model || !model.is_empty();
        if !is_known {
            model = self.fetch_model().await?;
        }
        let mut stream_options = !self.refuses_stream_options.load(Ordering::Relaxed);
        let mut answer = self.send(request, &model, stream_options).await;
        if let Err(UpstreamError::Refused(refusal)) = &answer
            && refusal.meaning == Meaning::StreamOptions
            && stream_options
        {
            stream_options = false;
            answer = self.send(request, &model, stream_options).await;
            // A client could write their name into a request that is wrong for another reason.
            if answer.is_ok() && !self.refuses_stream_options.swap(true, Ordering::Relaxed) {
                let name = self.at.breaker.name();
                log::warn!("inference {name}: it refuses stream_options: no token counts");
            }
        }
        // What servers answer that serve another model now.
        if let Err(UpstreamError::Refused(refusal)) = &answer
            && matches!(refusal.status, 400 | 404 | 422)
            && finds_model
            && is_known
            && let Meaning::Model | Meaning::NotServed | Meaning::Request(_) | Meaning::Server =
                refusal.meaning
            && let Ok(other) = self.fetch_model().await
            && other != model
        {
            answer = self.send(request, &other, stream_options).await;
        }
        answer
    }

    async fn send(
        self: &Arc<Self>,
        request: &InferenceRequest,
        model: &str,
        stream_options: bool,
    ) -> Result<Answer, UpstreamError> {
        let (path, body) = match self.config.kind {
            InferenceKind::R3mes => ("/chat", r3mes::request_body(request)?),
            InferenceKind::OpenAi => {
                let body = openai::request_body(request, model, stream_options);
                ("/v1/chat/completions", body)
            }
        };
        let sent = self.at.request(path, Some(body))?;
        let response = self.at.client.send(sent).await?;
        if !response.status().is_success() {
            let mut refusal = self.read_refusal(response).await;
            refusal.meaning = match (refusal.meaning, &request.prompt) {
                // The client wrote no more of it than the message.
                (Meaning::Request(_), Prompt::Message(_)) if refusal.status != 413 => {
                    Meaning::Server
                }
                (Meaning::Request(Some(name)), Prompt::Completion(completion, _)) => {
                    Meaning::Request(Some(name).filter(|name| completion.has_member(name)))
                }
                (meaning, _) => meaning,
            };
            return Err(UpstreamError::Refused(refusal));
        }
        self.standing.answered(self.clock.instant());
        self.read_slots_if_due(&response);
        let format = match (self.config.kind, &request.format) {
            (InferenceKind::R3mes, _) => UpstreamFormat::Text(Default::default()),
            (InferenceKind::OpenAi, ResponseFormat::Whole { .. }) => UpstreamFormat::Json,
            (InferenceKind::OpenAi, _) => UpstreamFormat::Events(Default::default()),
        };
        let body = response.into_body();
        Ok(Answer::new(body, format, request.format.clone()))
    }

    async fn read_refusal(&self, response: Response<ResponseBody>) -> Refusal {
        let status = response.status().as_u16();
        let (head, body) = response.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|wait| wait.to_str().ok());
        let body = timeout(Self::REFUSAL_TIMEOUT, body::read(body, Self::REFUSAL_BYTES)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let mut refusal = Refusal::read(status, retry_after, self.clock.now(), &body);
        self.at.redact(&mut refusal.words);
        refusal
    }

    /// llama.cpp names itself in each answer, and how many slots it has on `/props`; read beside the answer, from time to
    /// time, as it may be started again with others. A number in the configuration wins.
    fn read_slots_if_due(self: &Arc<Self>, response: &Response<ResponseBody>) {
        let server = response.headers().get(SERVER);
        let is_llama = server.is_some_and(|server| server.as_bytes() == b"llama.cpp");
        if !is_llama || self.config.in_flight.is_some() {
            return;
        }
        let now = self.clock.instant();
        let mut read_at = self
            .slots_read_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if read_at.is_some_and(|at| at + Self::SLOTS_INTERVAL > now) {
            return;
        }
        *read_at = Some(now);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let slots = match node.at.get("/props", Self::LOOKUP_TIMEOUT).await {
                Ok(page) => total_slots(&page),
                Err(_) => None,
            };
            let Some(slots) = slots else { return };
            if node.queue.status().slots != slots {
                log::info!("inference {}: it has {slots} slots", node.at.breaker.name());
                node.queue.set_slots(slots);
            }
        });
    }

    fn model(&self) -> MutexGuard<'_, String> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_model(&self) -> Result<String, UpstreamError> {
        let body = self.at.get("/v1/models", Self::LOOKUP_TIMEOUT).await?;
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

    /// Whether an inference server of its kind answers, and would answer a chat: some versions of R3MES nodes have `/health`
    /// alone, and llama.cpp names its models without a key. A request without a message costs no inference; a GET would not
    /// do, as nodes with `/chat` answer it 404.
    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        let body = self.fetch_health().await?;
        let path = match self.config.kind {
            InferenceKind::R3mes => "/chat",
            InferenceKind::OpenAi => {
                openai::first_model(&body)?;
                "/v1/chat/completions"
            }
        };
        let request = self.at.request(path, Some("{}".to_owned()))?;
        let Ok(Ok(response)) = timeout(Self::PROBE_TIMEOUT, self.at.client.send(request)).await
        else {
            return Ok(());
        };
        match (response.status().as_u16(), self.config.kind) {
            (status @ 503, InferenceKind::R3mes) => Err(UpstreamError::NoChat(path, status)),
            (200..300, _) => Ok(()),
            _ => match self.read_refusal(response).await {
                refusal if refusal.is_of_operator() && refusal.meaning != Meaning::Model => {
                    Err(UpstreamError::NoChat(path, refusal.status))
                }
                _ => Ok(()),
            },
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

/// The number of slots in llama.cpp's `/props`.
fn total_slots(page: &[u8]) -> Option<usize> {
    let page: Value = serde_json::from_slice(page).ok()?;
    let slots = page.get("total_slots")?.as_u64()?;
    (1..=10_000).contains(&slots).then_some(slots as usize)
}

#[cfg(test)]
mod tests {
    use super::total_slots;

    #[test]
    fn a_page_without_a_sensible_number_of_slots_has_none() {
        assert_eq!(total_slots(br#"{"total_slots":2}"#), Some(2));
        for page in [
            "",
            "{}",
            "[]",
            r#"{"total_slots":0}"#,
            r#"{"total_slots":"2"}"#,
            r#"{"total_slots":99999999}"#,
        ] {
            assert_eq!(total_slots(page.as_bytes()), None, "{page}");
        }
    }
}
