//! One task per paid request: hold, ask, stream, charge.
//!
//! The task owns the hold from before a model is asked until its end. hyper drops a handler whose client left; it cannot
//! drop this task, which notices and charges or releases. Nothing given, nothing charged; once content was given, the
//! request is paid, whatever ended it. What looks like the end of an answer is sent after the COMMIT of its charge.

mod ask;
mod charge;
mod count;
mod in_flight;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use self::ask::{Asked, ask_nodes};
pub(crate) use self::in_flight::{InFlightGuard, InFlightKeys};
use crate::auth::KeyLimits;
use crate::breaker::Outcome;
use crate::clock::Clock;
use crate::config::ChatConfig;
use crate::error::ApiError;
use crate::limits::ConcurrencyPermit;
use crate::metrics::{ChatEnd, Metrics, Release};
use crate::model::{Credits, Price, Timestamp, Wallet};
use crate::shutdown::Shutdown;
use crate::store::{
    Charge, ChargedAnswer, Estimated, Hold, HoldRequest, IdempotentRequest, LostRequest,
    OperationId, Repository, Spending, StoreError,
};
use crate::stream::{End, ModelStream, Relayed, Relaying};
use crate::timings::RequestTimings;
use crate::upstream::answer::{Answer, ResponseFormat, to_store};
use crate::upstream::inference::api::Api;
use crate::upstream::inference::{InferenceRequest, Node};

/// What the paid requests of a server share.
pub(crate) struct Billing {
    pub(crate) store: Arc<dyn Repository>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: ChatConfig,
    pub(crate) shutdown: Shutdown,
    pub(crate) in_flight_keys: InFlightKeys,
}

/// A request that was checked and may begin.
pub(crate) struct Order {
    pub(crate) operation: OperationId,
    pub(crate) wallet: Wallet,
    pub(crate) key_id: Option<String>,
    /// Those of the key.
    pub(crate) limits: Option<Arc<KeyLimits>>,
    /// Its place among the requests of the key, where those are limited; dropped before the client can see the end.
    pub(crate) concurrency: Option<Arc<ConcurrencyPermit<i64>>>,
    pub(crate) price: Price,
    /// Bytes of its prompt, and tokens of it at most.
    pub(crate) prompt_bytes: i64,
    pub(crate) prompt_bound: i64,
    /// Whether that bound is what a server counted.
    pub(crate) is_counted: bool,
    pub(crate) request: Arc<InferenceRequest>,
    pub(crate) adapter: String,
    /// Those that may answer it.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Where its answer is stored, if it is to be given again for the same idempotency key.
    pub(crate) idempotency: Option<(IdempotentRequest<ChargedAnswer>, InFlightGuard)>,
    pub(crate) timings: Arc<RequestTimings>,
    /// Whether a model was asked.
    pub(crate) is_asked: AtomicBool,
    /// Whether its client left although a model was asked, and nothing is charged.
    pub(crate) is_lost: bool,
    /// The permit of the request in flight, so that a shutdown waits for the charge too.
    pub(crate) _permit: Arc<OwnedSemaphorePermit>,
}

/// Begins a request; returns with its first content, or with why there is none.
pub(crate) async fn begin(billing: &Arc<Billing>, order: Order) -> Result<ModelStream, ApiError> {
    let (reply, first) = oneshot::channel();
    // In a box: it is large, and a task is moved many times before it runs.
    tokio::spawn(Box::pin(run(Arc::clone(billing), order, reply)));
    first
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("a chat ended without an answer")))
}

/// Where the response goes, until it has begun.
type Reply = oneshot::Sender<Result<ModelStream, ApiError>>;

async fn run(billing: Arc<Billing>, mut order: Order, mut reply: Reply) {
    let (started, now) = (billing.clock.instant(), billing.clock.now());
    let hold = async |order: &Order| billing.store.hold(order.hold_request(now)).await;
    let mut held = hold(&order).await;
    if held.as_ref().is_err_and(|error| order.may_fit(error)) {
        let is_counted = tokio::select! {
            is_counted = order.count_prompt(&billing) => is_counted,
            () = reply.closed() => false,
            () = billing.shutdown.aborted() => false,
        };
        if is_counted {
            held = hold(&order).await;
        }
    }
    let end = match held {
        Ok(hold) => answer(&billing, &mut order, hold, reply).await,
        Err(error) => {
            let end = match error {
                StoreError::Insufficient { .. } | StoreError::LimitReached { .. } => {
                    ChatEnd::Refused
                }
                _ => ChatEnd::Failed,
            };
            order.concurrency = None;
            if !reply.is_closed() {
                let _ = reply.send(Err(order.refusal(error, now)));
            }
            end
        }
    };
    let took = billing.clock.instant().saturating_duration_since(started);
    let (operation, adapter) = (order.api().operation(), &order.adapter);
    billing.metrics.chat_ended(operation, adapter, end, took);
    if order.is_lost {
        order.count_lost(&billing).await;
    }
}

/// Asks a model and gives its answer for what is held.
async fn answer(billing: &Billing, order: &mut Order, hold: Hold, mut reply: Reply) -> ChatEnd {
    let release = |hold: Hold, cause| {
        billing.metrics.released(cause, hold.request().amount);
        hold.release();
    };
    let asked = tokio::select! {
        biased;
        () = reply.closed() => {
            release(hold, Release::ClientLeft);
            order.is_lost = *order.is_asked.get_mut();
            return ChatEnd::ClientLeft;
        }
        () = billing.shutdown.aborted() => Err(ApiError::shutting_down()),
        asked = ask_nodes(billing, order) => asked.map_err(ApiError::from),
    };
    let Asked {
        conversation,
        answer,
        first,
        patience,
    } = match asked {
        Ok(asked) => asked,
        Err(mut error) => {
            if error.pointer.as_deref() == Some(Api::ChatCompletions.prompt()) {
                error.pointer = Some(order.api().prompt().to_owned());
            }
            release(hold, Release::Failed);
            order.concurrency = None;
            let _ = reply.send(Err(error));
            return ChatEnd::Failed;
        }
    };
    let Some(first) = first else {
        // The whole answer is here and nothing of it was sent.
        order.watch_usage(conversation.node(), &answer);
        conversation.end(Outcome::Success);
        return give_whole(billing, order, hold, answer, reply).await;
    };
    let patience = patience.with_idle(billing.config.idle_timeout);
    let timings = Arc::clone(&order.timings);
    let (body, relaying, end) = ModelStream::relay(first, answer, patience, timings);
    if reply.send(Ok(body)).is_ok() {
        order.count_start(billing);
    }
    let (relayed, end) = until_relayed(billing, order, relaying, end).await;
    let Some((answer, relayed)) = relayed else {
        release(hold, Release::ClientLeft);
        order.is_lost = true;
        return ChatEnd::ClientLeft;
    };
    if matches!(relayed, Relayed::Whole) {
        order.watch_usage(conversation.node(), &answer);
    }
    let ended = conversation.over(relayed, billing.clock.instant());
    end_stream(billing, order, hold, answer, ended, end).await
}

/// Charges a whole answer and then gives it.
async fn give_whole(
    billing: &Billing,
    order: &mut Order,
    hold: Hold,
    mut answer: Answer,
    reply: Reply,
) -> ChatEnd {
    let charge = order.charge(&answer, Estimated::NoUsage);
    let mut text = answer.take_end(Some(order.paid(&answer, &charge)));
    let (once, running) = order.idempotency.take().unzip();
    let charged = charge.amount;
    let stored = once.map(|once| (once, to_store(&text, charged)));
    let charge = Charge {
        answer: stored,
        ..charge
    };
    // From here on the upstream is not needed.
    answer.drain();
    text.extend_from_slice(order.request.format.last_bytes());
    let response = ModelStream::paid(text.freeze(), charged);
    let given = billing.give(order, hold, charge, reply, response).await;
    drop(running);
    if given == ChatEnd::Success {
        order.count_start(billing);
    }
    given
}

/// How the upstream's part of a stream ended.
enum Ended {
    Whole,
    ClientLeft,
    Broken(ApiError),
}

/// Waits until the answer is relayed; a shutdown stops it.
async fn until_relayed(
    billing: &Billing,
    order: &Order,
    relaying: Relaying,
    end: oneshot::Sender<End>,
) -> (Option<(Answer, Relayed)>, Option<oneshot::Sender<End>>) {
    let mut relayed = pin!(relaying.ended(billing.config.idle_timeout));
    tokio::select! {
        biased;
        relayed = &mut relayed => (relayed, Some(end)),
        () = billing.shutdown.aborted() => {
            send_end(order, end, None, Some(ApiError::shutting_down()));
            (relayed.await, None)
        }
    }
}

/// Charges a stream whose content was relayed, and then gives its end.
async fn end_stream(
    billing: &Billing,
    order: &mut Order,
    hold: Hold,
    mut answer: Answer,
    ended: Ended,
    end: Option<oneshot::Sender<End>>,
) -> ChatEnd {
    let cause = match ended {
        Ended::Whole => Estimated::NoUsage,
        Ended::ClientLeft => Estimated::ClientLeft,
        Ended::Broken(_) => Estimated::Cut,
    };
    let charge = order.charge(&answer, cause);
    let price = charge.amount;
    let tail = answer.take_end(Some(order.paid(&answer, &charge)));
    // From here on the upstream is not needed: where the client is gone, this cancels it.
    match ended {
        Ended::Whole => answer.drain(),
        Ended::ClientLeft | Ended::Broken(_) => drop(answer),
    }
    let mut writing = pin!(billing.write(order.api(), order.price, hold, charge, None));
    let written = timeout(charge::CHARGE_TIMEOUT, &mut writing).await;
    let is_charged = matches!(written, Ok(Some(_)));
    let (error, mut chat_end) = match ended {
        Ended::ClientLeft => (None, ChatEnd::ClientLeft),
        Ended::Whole if is_charged || price == Credits::ZERO => (None, ChatEnd::Success),
        Ended::Whole => (Some(charge::not_charged()), ChatEnd::Cut),
        Ended::Broken(error) => (Some(error), ChatEnd::Cut),
    };
    order.concurrency = None;
    if let Some(end) = end
        && chat_end != ChatEnd::ClientLeft
        && !send_end(order, end, Some(tail), error)
    {
        chat_end = ChatEnd::ClientLeft;
    }
    if written.is_err() {
        writing.await;
    }
    chat_end
}

/// Sends what follows the content: the withheld end of a whole answer, or what a client of this format reads as an error.
/// Returns whether the client was there.
fn send_end(
    order: &Order,
    end: oneshot::Sender<End>,
    tail: Option<BytesMut>,
    error: Option<ApiError>,
) -> bool {
    let format = &order.request.format;
    let last = match (error, format) {
        (None, _) => {
            let mut last = tail.unwrap_or_default();
            last.extend_from_slice(format.last_bytes());
            End::Whole(last.freeze())
        }
        (Some(error), ResponseFormat::Events { .. }) => {
            End::Broken(error_event(&error, format.api(), order.operation).into())
        }
        // Without an end the connection is aborted.
        (Some(_), _) => return !end.is_closed(),
    };
    end.send(last).is_ok()
}

/// The event that tells a client of this API that the answer broke off.
fn error_event(error: &ApiError, api: Api, operation: OperationId) -> String {
    let openai = serde_json::json!(error.for_openai());
    match api {
        Api::Messages => {
            let error = error.for_anthropic(&operation.to_string());
            format!("event: error\ndata: {error}\n\n")
        }
        // Its members are read by some clients, those of `error` by others.
        Api::Responses => {
            let mut event = openai.clone();
            event["type"] = "error".into();
            event["sequence_number"] = 0.into();
            event["error"] = openai;
            format!("event: error\ndata: {event}\n\n")
        }
        _ => format!("data: {}\n\n", serde_json::json!({ "error": openai })),
    }
}

impl Order {
    /// What is held for it. The period of the key's limit is that of now, whenever it ends.
    fn hold_request(&self, now: Timestamp) -> HoldRequest {
        let limits = self.limits.as_ref();
        HoldRequest {
            operation: self.operation,
            wallet: self.wallet,
            amount: self.bound(),
            limit: limits.and_then(|limits| Spending::of(limits, now)),
        }
    }

    /// Counts a request that was not paid, in the usage of its key too unless the storage refuses it.
    async fn count_lost(&mut self, billing: &Billing) {
        billing.metrics.lost(Release::ClientLeft);
        // Nothing waits for it: the hold has ended, and a repeated request may begin.
        self.idempotency = None;
        self.concurrency = None;
        let lost = LostRequest {
            wallet: self.wallet,
            key_id: self.key_id.clone(),
            adapter: self.adapter.clone(),
        };
        if let Err(error) = billing.store.count_lost(lost, billing.clock.now()).await {
            log::debug!("{}: not counted as lost: {error}", self.operation);
        }
    }

    /// Notes whether a server reports the usage of an answer whose tokens have a price.
    fn watch_usage(&self, node: &Node, answer: &Answer) {
        if self.price.is_by_tokens() && answer.has_content() {
            let is_whole = |completion| completion > 0 || !self.has_output();
            let reported = answer.usage().is_some_and(|used| is_whole(used.completion));
            node.standing.reported_usage(reported);
        }
    }

    /// Counts the time until the first content.
    fn count_start(&self, billing: &Billing) {
        let (took, waited) = (self.timings.elapsed(&billing.clock), self.timings.waited());
        let is_streamed = !matches!(self.request.format, ResponseFormat::Whole { .. });
        let overhead = took.saturating_sub(waited);
        let metrics = &billing.metrics;
        let operation = self.api().operation();
        metrics.chat_began(is_streamed, operation, &self.adapter, took, overhead);
    }
}
