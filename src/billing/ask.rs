//! Which inference server answers a request: one after the other is asked, until one gives content.
//!
//! A failure is judged by what it means, not by the class of its status: a wrong key, a redirect or a missing model is a
//! fault of that server, so the next is asked; what the client did wrong is an error for the client; a server that asks to be
//! left alone is; one whose model is loading is asked again while the request waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Billing, Ended, Order};
use crate::breaker::{Outcome, Permit};
use crate::error::ApiError;
use crate::stream::{Patience, Relayed};
use crate::upstream::UpstreamError;
use crate::upstream::answer::{Answer, ResponseFormat};
use crate::upstream::inference::{InferenceRequest, Node, Slot};

/// A model that answers.
pub(super) struct Conversation {
    node: Arc<Node>,
    permit: Permit,
    _slot: Slot,
}

/// A model that was asked, and the first content of its answer; `None` where it is complete.
pub(super) struct Asked {
    pub(super) conversation: Conversation,
    pub(super) answer: Answer,
    pub(super) first: Option<Bytes>,
    pub(super) patience: Patience,
}

impl Conversation {
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Reports how it ended: to the breaker, and to the order in which servers are asked.
    pub(super) fn end(self, outcome: Outcome) {
        if outcome == Outcome::Success {
            self.node.standing.succeeded();
        }
        self.node.run_health_checks(self.permit.end(outcome));
    }

    /// The same for a stream, and what its client is to read of it.
    pub(super) fn over(self, relayed: Relayed, now: std::time::Instant) -> Ended {
        let (outcome, ended) = match relayed {
            Relayed::Whole => (Outcome::Success, Ended::Whole),
            Relayed::ClientLeft => (Outcome::Unknown, Ended::ClientLeft),
            Relayed::Stopped => (Outcome::Unknown, Ended::Broken(ApiError::shutting_down())),
            Relayed::Broken(error) => {
                let name = self.node.at.breaker.name();
                log::warn!("inference {name} broke off: {error}");
                self.node.standing.failed(&error, now);
                (error.outcome(), Ended::Broken(error.into()))
            }
        };
        self.end(outcome);
        ended
    }
}

/// The first and the longest pause before a server whose model is loading is asked again.
const LOADING_PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// Asks one server after the other until one gives content: first those without recent failures, of these the least busy.
pub(super) async fn ask_nodes(billing: &Billing, order: &Order) -> Result<Asked, UpstreamError> {
    let mut left = order.nodes.clone();
    let (mut loading, mut failed) = (None, None);
    loop {
        let now = billing.clock.instant();
        let first = left
            .iter()
            .enumerate()
            .min_by_key(|(_, node)| node.rank(now));
        let Some((first, _)) = first else {
            break;
        };
        let node = left.remove(first);
        // Where there is another, it may answer sooner than one that is loading.
        let waits = left.is_empty() && loading.is_none();
        match ask(billing, order, &node, waits).await {
            Err(error) if error.is_loading() && !waits => {
                loading.get_or_insert((node, error));
            }
            Err(error) if error.is_retryable() => failed = Some(preferred(failed, error)),
            answered => return answered,
        }
    }
    if let Some((node, error)) = loading {
        return match error.retry_after() {
            Some(wait) if wait > LOADING_PAUSE[1] => Err(error),
            _ => ask(billing, order, &node, true).await,
        };
    }
    Err(failed.unwrap_or(UpstreamError::Busy(LOADING_PAUSE[1])))
}

/// Which of several failures the client gets: what it can change, else when to come back, else the last.
fn preferred(earlier: Option<UpstreamError>, error: UpstreamError) -> UpstreamError {
    let is_of_client =
        |error: &UpstreamError| matches!(error, UpstreamError::Refused(of) if of.is_of_client());
    match earlier {
        Some(earlier) if is_of_client(&earlier) => earlier,
        Some(earlier) if error == UpstreamError::NotServed => earlier,
        Some(earlier) if !is_of_client(&error) => {
            match (earlier.retry_after(), error.retry_after()) {
                (Some(sooner), Some(wait)) if sooner <= wait => earlier,
                (Some(_), None) => earlier,
                _ => error,
            }
        }
        _ => error,
    }
}

/// Asks one server. While its model is loading, a request that `waits` keeps its slot and asks again.
async fn ask(
    billing: &Billing,
    order: &Order,
    node: &Arc<Node>,
    waits: bool,
) -> Result<Asked, UpstreamError> {
    let (chat, clock) = (&billing.config, &billing.clock);
    let name = node.at.breaker.name();
    let queued_at = clock.instant();
    let waiting = order.timings.waiting(clock);
    let slot = timeout(chat.first_text_timeout, node.queue.acquire(order.wallet)).await;
    drop(waiting);
    let queued = clock.instant().saturating_duration_since(queued_at);
    billing.metrics.upstream_queued(name, queued);
    let slot = slot.unwrap_or_else(|_| Err(node.queue.retry_after()));
    let slot = slot.map_err(UpstreamError::Busy)?;
    // Asked for only now: while it waited in the queue, the breaker may have opened.
    if let Some(refusal) = node.refusal(clock.instant()) {
        return Err(refusal);
    }
    let permit = node.at.breaker.admit().map_err(UpstreamError::Open)?;
    let asked_at = Instant::now();
    let idle = match order.request.format {
        // All of it comes at its end.
        ResponseFormat::Whole { .. } => chat.answer_timeout,
        ResponseFormat::Text | ResponseFormat::Events { .. } => chat.first_text_timeout,
    };
    let mut patience = Patience::start(idle, chat.answer_timeout);
    let waiting = order.timings.waiting(clock);
    let asked = Box::pin(first_content(billing, order, node, &mut patience, waits)).await;
    drop(waiting);
    match asked {
        Ok((answer, first)) => {
            billing.metrics.upstream_waited(name, asked_at.elapsed());
            let conversation = Conversation {
                node: Arc::clone(node),
                permit,
                _slot: slot,
            };
            Ok(Asked {
                conversation,
                answer,
                first,
                patience,
            })
        }
        Err(error) => {
            node.standing.failed(&error, clock.instant());
            let level = match &error {
                UpstreamError::Refused(refusal) if refusal.is_of_client() => log::Level::Info,
                UpstreamError::NotServed => log::Level::Info,
                _ => log::Level::Warn,
            };
            log::log!(level, "inference {name}: {error}");
            node.run_health_checks(permit.end(error.outcome()));
            Err(error)
        }
    }
}

/// The head of an answer, and its first content.
async fn first_content(
    billing: &Billing,
    order: &Order,
    node: &Arc<Node>,
    patience: &mut Patience,
    waits: bool,
) -> Result<(Answer, Option<Bytes>), UpstreamError> {
    let chat = &billing.config;
    let is_whole = matches!(order.request.format, ResponseFormat::Whole { .. });
    // The head of a whole answer comes at its end.
    let head_timeout = match is_whole {
        true => chat.answer_timeout,
        false => chat.head_timeout.min(chat.answer_timeout),
    };
    let deadline = patience.deadline();
    let head = head(
        billing,
        order,
        node,
        deadline,
        waits.then_some(head_timeout),
    );
    let head = timeout(head_timeout, head).await;
    let mut answer = head.unwrap_or(Err(UpstreamError::Timeout("the response head")))?;
    let first = poll_fn(|context| {
        if let Poll::Ready(next) = answer.poll_next(context) {
            return Poll::Ready(next);
        }
        ready!(patience.poll(answer.received(), false, context));
        Poll::Ready(Err(UpstreamError::Timeout("the first content")))
    });
    let api = order.request.format.api();
    let first = first.await.map_err(|error| node.meaning_of(error, api));
    Ok((answer, first?))
}

/// The head of an answer. With a time to wait for a model that is loading, the server is asked again until then.
async fn head(
    billing: &Billing,
    order: &Order,
    node: &Arc<Node>,
    deadline: Instant,
    loading: Option<Duration>,
) -> Result<Answer, UpstreamError> {
    let (request, clock) = (&order.request, &billing.clock);
    let loaded_by = loading.and_then(|wait| clock.instant().checked_add(wait));
    let mut pause = LOADING_PAUSE[0];
    loop {
        order.is_asked.store(true, Ordering::Relaxed);
        let answered = match node.load_permit(&request.format, clock.instant()) {
            Some(permit) => ask_detached(billing, request, node, deadline, permit).await,
            None => node.request(request).await,
        };
        if let Err(UpstreamError::Refused(_)) = &answered {
            // It took no model's time.
            order.is_asked.store(false, Ordering::Relaxed);
        }
        let error = match answered {
            Err(error) if error.is_loading() => error,
            answered => return answered,
        };
        let wait = error.retry_after().unwrap_or(pause);
        let again = clock.instant() + wait;
        if wait > LOADING_PAUSE[1] || loaded_by.is_none_or(|loaded_by| again >= loaded_by) {
            return Err(error);
        }
        clock.sleep_until(again).await;
        pause = (pause * 2).min(LOADING_PAUSE[1]);
    }
}

/// Asks in a task of its own, which waits for the head of the answer even where its client has left meanwhile, and only
/// then cancels it: a server that loads its model for this request (Ollama, llama-swap) stops that when the request is
/// cancelled, and would start again with the next. Its slot is free as soon as the client has left.
async fn ask_detached(
    billing: &Billing,
    request: &Arc<InferenceRequest>,
    node: &Arc<Node>,
    deadline: Instant,
    load: OwnedSemaphorePermit,
) -> Result<Answer, UpstreamError> {
    let (mut sender, answer) = oneshot::channel();
    let (request, node) = (Arc::clone(request), Arc::clone(node));
    let shutdown = billing.shutdown.clone();
    tokio::spawn(async move {
        let left = async {
            shutdown.draining().await;
            sender.closed().await;
        };
        let answered = tokio::select! {
            biased;
            answered = timeout_at(deadline, node.request(&request)) => answered,
            () = left => return,
        };
        drop(load);
        let late = Err(UpstreamError::Timeout("the response head"));
        let _ = sender.send(answered.unwrap_or(late));
    });
    let ended = UpstreamError::Cut("the request was given up".to_owned());
    answer.await.unwrap_or(Err(ended))
}
