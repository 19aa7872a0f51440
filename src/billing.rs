//! One task per paid request: hold, ask, stream, charge.
//!
//! The task owns the hold from before a model is asked until its end. hyper drops a handler whose client left; it cannot
//! drop this task, which notices and charges or releases. Nothing given, nothing charged; once content was given, the
//! request is paid, whatever ended it. What looks like the end of an answer is sent after the COMMIT of its charge.

mod ask;
mod charge;
mod in_flight;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use self::ask::{Asked, ask_nodes};
pub(crate) use self::in_flight::{InFlightGuard, InFlightKeys};
use crate::breaker::Outcome;
use crate::clock::Clock;
use crate::config::ChatConfig;
use crate::error::ApiError;
use crate::metrics::{ChatEnd, Metrics, Release};
use crate::model::{Credits, Wallet};
use crate::shutdown::Shutdown;
use crate::store::{
    ChargedAnswer, Hold, HoldRequest, IdempotentRequest, LostRequest, OperationId, Repository,
    StoreError,
};
use crate::stream::{End, ModelStream, Relayed, Relaying};
use crate::timings::RequestTimings;
use crate::upstream::answer::{Answer, ResponseFormat};
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
    pub(crate) price: Credits,
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

async fn run(billing: Arc<Billing>, mut order: Order, reply: Reply) {
    let started = billing.clock.instant();
    let request = HoldRequest {
        operation: order.operation,
        wallet: order.wallet,
        amount: order.price,
        limit: None,
    };
    let end = match billing.store.hold(request).await {
        Ok(hold) => answer(&billing, &mut order, hold, reply).await,
        Err(error) => {
            let end = match error {
                StoreError::Insufficient { .. } | StoreError::LimitReached { .. } => {
                    ChatEnd::Refused
                }
                _ => ChatEnd::Failed,
            };
            if !reply.is_closed() {
                let _ = reply.send(Err(error.into()));
            }
            end
        }
    };
    let took = billing.clock.instant().saturating_duration_since(started);
    billing.metrics.chat_ended(&order.adapter, end, took);
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
        Err(error) => {
            release(hold, Release::Failed);
            let _ = reply.send(Err(error));
            return ChatEnd::Failed;
        }
    };
    let Some(first) = first else {
        // The whole answer is here and nothing of it was sent.
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
    let mut text = answer.take_end();
    let (once, running) = order.idempotency.take().unzip();
    let stored = once.map(|once| (once, String::from_utf8_lossy(&text).into_owned()));
    let charge = order.charge(&answer, stored);
    // From here on the upstream is not needed.
    answer.drain();
    text.extend_from_slice(order.request.format.last_bytes());
    let response = ModelStream::paid(text.freeze());
    let given = billing.give(hold, charge, reply, response).await;
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
    order: &Order,
    hold: Hold,
    mut answer: Answer,
    ended: Ended,
    end: Option<oneshot::Sender<End>>,
) -> ChatEnd {
    let charge = order.charge(&answer, None);
    let price = charge.amount;
    let tail = answer.take_end();
    // From here on the upstream is not needed: where the client is gone, this cancels it.
    match ended {
        Ended::Whole => answer.drain(),
        Ended::ClientLeft | Ended::Broken(_) => drop(answer),
    }
    let mut writing = pin!(billing.write(hold, charge, None));
    let written = timeout(charge::CHARGE_TIMEOUT, &mut writing).await;
    let is_charged = matches!(written, Ok(Some(_)));
    let (error, mut chat_end) = match ended {
        Ended::ClientLeft => (None, ChatEnd::ClientLeft),
        Ended::Whole if is_charged || price == Credits::ZERO => (None, ChatEnd::Success),
        Ended::Whole => (Some(charge::not_charged()), ChatEnd::Cut),
        Ended::Broken(error) => (Some(error), ChatEnd::Cut),
    };
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
            let error = serde_json::json!({ "error": error.for_openai() });
            End::Broken(format!("data: {error}\n\n").into())
        }
        // Without an end the connection is aborted.
        (Some(_), _) => return !end.is_closed(),
    };
    end.send(last).is_ok()
}

impl Order {
    /// Counts a request that was not paid, in the usage of its key too unless the storage refuses it.
    async fn count_lost(&mut self, billing: &Billing) {
        billing.metrics.lost(Release::ClientLeft);
        // Nothing waits for it: the hold has ended, and a repeated request may begin.
        self.idempotency = None;
        let lost = LostRequest {
            wallet: self.wallet,
            key_id: self.key_id.clone(),
            adapter: self.adapter.clone(),
        };
        if let Err(error) = billing.store.count_lost(lost, billing.clock.now()).await {
            log::debug!("{}: not counted as lost: {error}", self.operation);
        }
    }

    /// Counts the time until the first content.
    fn count_start(&self, billing: &Billing) {
        let (took, waited) = (self.timings.elapsed(&billing.clock), self.timings.waited());
        billing
            .metrics
            .chat_began(took, took.saturating_sub(waited));
    }
}
