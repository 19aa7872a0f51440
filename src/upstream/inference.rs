//! Inference servers: a [`Node`] is one of them, with a number of slots, a fair queue before them, and a health check.
//! There is one file per wire format, behind the trait of `wire.rs`; `answer.rs` relays what they read.
//! `refusal` reads what a server means by a status, `standing` remembers how it has done.

pub(crate) mod api;
pub(super) mod chat_completions;
mod count;
mod endpoints;
mod figures;
pub(super) mod lists;
pub(super) mod messages;
mod models;
pub(super) mod openai;
pub(super) mod r3mes;
pub(crate) mod refusal;
pub(super) mod responses;
pub(crate) mod standing;
pub(super) mod wire;

pub(crate) use self::count::Count;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use hyper::header::{RETRY_AFTER, SERVER};
use serde::Serialize;
use tokio::time::timeout;

use self::api::Api;
use self::refusal::{Meaning, Refusal};
use self::standing::{Standing, StandingStatus};
use super::answer::{Answer, ResponseFormat, UpstreamFormat};
use super::queue::{FairQueue, QueueStatus};
use super::request::ApiRequest;
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
    /// The adapter, or a server's own model.
    pub(crate) name: String,
    pub(crate) prompt: Prompt,
    pub(crate) format: ResponseFormat,
    /// The adapter's name at an R3MES node; the default one has none.
    pub(crate) lora: Option<String>,
    /// Tokens of each answer at most.
    pub(crate) max_tokens: Option<u32>,
    /// Whether its price depends on how many tokens the server's context has.
    pub(crate) reads_context: bool,
    /// Pieces of content of a stream at most: one with more does not keep the limit of tokens.
    pub(crate) max_pieces: Option<u64>,
}

impl InferenceRequest {
    /// How many answers are asked for.
    pub(crate) const fn choices(&self) -> u32 {
        match &self.prompt {
            Prompt::Message(_) => 1,
            Prompt::Request(asked, _) => asked.choices,
        }
    }

    /// Bytes of a whole answer at most.
    pub(crate) fn max_bytes(&self) -> usize {
        match &self.prompt {
            Prompt::Message(_) => self.format.api().max_bytes(),
            Prompt::Request(asked, _) => asked.max_bytes(),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Prompt {
    Message(String),
    /// A request of OpenAI's API, and the same as one text for servers that take nothing else, where that is possible.
    Request(Box<ApiRequest>, Option<String>),
}

/// An inference server as health shows it.
#[derive(Serialize)]
pub(crate) struct NodeStatus<'a> {
    name: &'a str,
    endpoints: Vec<&'static str>,
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
    /// Whether clients may ask for its models by their own names, as no adapters are configured.
    has_own_names: bool,
    models: models::Models,
    /// It answered only without them.
    refuses_stream_options: AtomicBool,
    missing_counts: count::MissingRoutes,
    figures: figures::Figures,
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

    pub(super) fn new(
        at: Endpoint,
        mut config: InferenceConfig,
        chat: &ChatConfig,
        clock: Clock,
    ) -> Self {
        let is_named = !config.adapters.is_empty();
        if !is_named {
            config.adapters.push(chat.default_adapter.clone());
        }
        let slots = config.in_flight.unwrap_or(chat.in_flight);
        Self {
            at,
            queue: FairQueue::new(slots, chat.queue, clock.clone()),
            standing: Standing::default(),
            has_own_names: !is_named && config.kind == InferenceKind::OpenAi,
            models: models::Models::default(),
            refuses_stream_options: AtomicBool::new(false),
            missing_counts: count::MissingRoutes::default(),
            figures: figures::Figures::default(),
            loading: Arc::new(tokio::sync::Semaphore::new(1)),
            config,
            clock,
        }
    }

    /// The members that it gets besides those that every server gets.
    pub(crate) fn pass(&self) -> &[String] {
        &self.config.pass
    }

    /// Whether it may get a request with these members, and understands it: `text` says whether it is one text.
    pub(crate) fn fits(&self, request: &ApiRequest, is_text: bool) -> bool {
        request.may_go_to(self.pass()) && (is_text || self.config.kind != InferenceKind::R3mes)
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
            endpoints: self.endpoints(),
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
        let (name, api) = (&*request.name, request.format.api());
        let is_known = self.models.count() > 0;
        let model = self.find_model(name, api).await?;
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
            && self.finds_model()
            && is_known
            && let Meaning::Model | Meaning::NotServed | Meaning::Request(_) | Meaning::Server =
                refusal.meaning
            && self.read_models().await.is_ok()
        {
            match self.find_model(name, api).await {
                Ok(other) if other == model => {}
                Ok(other) => answer = self.send(request, &other, stream_options).await,
                Err(error) => answer = Err(error),
            }
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
                let body = openai::request_body(request, model, stream_options, self.pass());
                (request.format.api().path(), body)
            }
        };
        let sent = self.at.request(path, Some(body))?;
        let api = request.format.api();
        let response = match self.at.client.send(sent).await {
            Err(error @ UpstreamError::Connect(_)) => {
                self.forget_endpoints();
                return Err(error);
            }
            response => response?,
        };
        if !response.status().is_success() {
            let mut refusal = self.read_refusal(response).await;
            refusal.meaning = match (refusal.meaning, &request.prompt) {
                // The client wrote no more of it than the message.
                (Meaning::Request(_), Prompt::Message(_)) if refusal.status != 413 => {
                    Meaning::Server
                }
                (Meaning::Request(Some(name)), Prompt::Request(asked, _)) => {
                    Meaning::Request(Some(name).filter(|name| asked.has_member(name)))
                }
                (meaning, _) => meaning,
            };
            if refusal.meaning == Meaning::NotServed {
                let now = self.clock.instant();
                self.models.set_refused(model, api, now);
                // Every server has to serve chats, unless its operator knows of it: others need not serve more.
                if api != Api::ChatCompletions || !self.models.may_serve(model, api, now) {
                    return Err(UpstreamError::NotServed);
                }
            }
            return Err(UpstreamError::Refused(refusal));
        }
        let now = self.clock.instant();
        self.standing.answered(now);
        self.models.set_endpoint(api, true, now);
        self.read_figures_if_due(&response, model, request.reads_context);
        let format = match (self.config.kind, &request.format) {
            (InferenceKind::R3mes, _) => UpstreamFormat::Text(Default::default()),
            (InferenceKind::OpenAi, ResponseFormat::Whole { .. }) => UpstreamFormat::Json,
            (InferenceKind::OpenAi, _) => UpstreamFormat::Events(Default::default()),
        };
        // vLLM and SGLang, by the web server that they use.
        let server = response.headers().get(SERVER);
        let counts_all = server.is_some_and(|server| server.as_bytes() == b"uvicorn");
        let body = response.into_body();
        let answer = Answer::new(body, format, request.format.clone());
        let answer = answer.to(request.choices(), request.max_pieces, counts_all);
        Ok(answer.within(request.max_bytes()))
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

    async fn fetch_health(&self) -> Result<Bytes, UpstreamError> {
        let path = match self.config.kind {
            InferenceKind::R3mes => "/health",
            InferenceKind::OpenAi => "/v1/models",
        };
        let body = self.at.get(path, Self::PROBE_TIMEOUT).await?;
        // A server is healthy whatever it names.
        if self.config.kind == InferenceKind::OpenAi
            && let Ok(listed) = models::parse(&body)
        {
            self.models.set(listed);
        }
        Ok(body)
    }

    /// Whether an inference server of its kind answers, and would answer a chat: some versions of R3MES nodes have `/health`
    /// alone, and llama.cpp names its models without a key. A request without a message costs no inference; a GET would not
    /// do, as nodes with `/chat` answer it 404.
    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        let body = self.fetch_health().await?;
        let path = match self.config.kind {
            InferenceKind::R3mes => "/chat",
            InferenceKind::OpenAi => {
                models::parse(&body)?;
                "/v1/chat/completions"
            }
        };
        let request = self.at.request(path, Some("{}".to_owned()))?;
        let Ok(Ok(response)) = timeout(Self::PROBE_TIMEOUT, self.at.client.send(request)).await
        else {
            return Ok(());
        };
        if self.config.kind == InferenceKind::OpenAi {
            self.probe_endpoints().await;
        }
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
