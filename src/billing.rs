//! One task per chat: reserve, ask, settle or refund.
//!
//! The task owns the money from before the reserve to its end. hyper drops a handler whose client left; it cannot drop
//! this task, which notices and refunds or settles. The rule is simple: until the first text is handed to the socket
//! everything is refunded, whoever is at fault; from then on the chat is paid.

mod pending;

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use crate::breaker::{Outcome, Permit};
use crate::clock::Clock;
use crate::config::ChatConfig;
use crate::error::ApiError;
use crate::metrics::{ChatEnd, Metrics};
use crate::model::{Credits, Wallet};
use crate::shutdown::Shutdown;
use crate::store::{IdempotentRequest, Repository, StoreError, ledger_id};
use crate::stream::{ModelStream, Piece};
use crate::timings::RequestTimings;
use crate::upstream::UpstreamError;
use crate::upstream::answer::{Answer, ResponseFormat, Usage};
use crate::upstream::inference::{InferenceRequest, Node};

pub(crate) use pending::{InFlightGuard, InFlightKeys, PendingQueue, Settlement};

/// What the chats of a server share.
pub(crate) struct Billing {
    pub(crate) store: Arc<dyn Repository>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: ChatConfig,
    pub(crate) shutdown: Shutdown,
    /// Reservations that could not be closed yet.
    pub(crate) unwritten: PendingQueue<(i64, Credits, Settlement)>,
    /// Token counts of ended chats, for the ledger.
    pub(crate) notes: PendingQueue<(i64, String)>,
    pub(crate) in_flight_keys: InFlightKeys,
}

/// A chat that was checked and may begin.
pub(crate) struct Order {
    pub(crate) wallet: Wallet,
    pub(crate) price: Credits,
    pub(crate) ask: InferenceRequest,
    pub(crate) adapter: String,
    /// Those that may answer it.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Where its answer is to be given again, should it be asked again.
    pub(crate) once: Option<(IdempotentRequest<(i64, String)>, InFlightGuard)>,
    pub(crate) trace: Arc<RequestTimings>,
    /// The request's place among those in flight, so that the shutdown waits for the money too.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

/// Begins a chat; returns with its first content, or with why there is none.
pub(crate) async fn begin(billing: &Arc<Billing>, order: Order) -> Result<ModelStream, ApiError> {
    let (answer, first) = oneshot::channel();
    // In a box: it is large, and a task is moved many times before it runs.
    tokio::spawn(Box::pin(run(Arc::clone(billing), order, answer)));
    first
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("a chat ended without an answer")))
}

async fn run(
    billing: Arc<Billing>,
    order: Order,
    mut answer: oneshot::Sender<Result<ModelStream, ApiError>>,
) {
    let started = billing.clock.instant();
    let end = |end| {
        let took = billing.clock.instant().saturating_duration_since(started);
        billing.metrics.chat_ended(&order.adapter, end, took);
    };
    let mut asked = Box::pin(async {
        tokio::select! {
            biased;
            () = answer.closed() => Err(None),
            () = billing.shutdown.aborted() => Err(Some(ApiError::shutting_down())),
            first = first_content(&billing, &order) => first.map_err(|error| Some(error.into())),
        }
    });
    let (id, first) = match reserve(&billing, &order, &mut asked).await {
        Ok(reserved) => reserved,
        Err(error) => {
            drop(asked);
            end(match error {
                StoreError::Insufficient { .. } => ChatEnd::Refused,
                _ => ChatEnd::Failed,
            });
            let _ = answer.send(Err(error.into()));
            return;
        }
    };
    billing.metrics.reserved(order.price);
    let reservation = Reservation {
        billing: &billing,
        id,
        price: order.price,
        closed: false,
    };
    let first = match first {
        Some(first) => first,
        None => asked.as_mut().await,
    };
    drop(asked);
    let (conversation, first) = match first {
        Ok(first) => first,
        Err(None) => {
            reservation.close(Settlement::Refund).await;
            end(ChatEnd::ClientLeft);
            return;
        }
        Err(Some(error)) => {
            reservation.close(Settlement::Refund).await;
            end(ChatEnd::Failed);
            let _ = answer.send(Err(error));
            return;
        }
    };
    if let Some((once, running)) = order.once {
        // Kept and paid in one transaction, before anybody sees it: asked again, it is there. Only an answer that comes
        // whole has a `once`, so this is all of it.
        reservation
            .settle_kept(once, &first, conversation.answer.usage)
            .await;
        drop(running);
        let given = answer.send(Ok(ModelStream::paid(first, "\n"))).is_ok();
        let check = conversation.permit.end(Outcome::Success);
        conversation.node.run_health_checks(check);
        let (took, waited) = (order.trace.elapsed(&billing.clock), order.trace.waited());
        billing
            .metrics
            .chat_began(took, took.saturating_sub(waited));
        end(if given {
            ChatEnd::Success
        } else {
            ChatEnd::ClientLeft
        });
        return;
    }
    let (pieces, mut was_taken, body) = ModelStream::begin(first);
    let handed_out = answer.send(Ok(body)).is_ok();
    // hyper takes the first piece as soon as the head is written; one that does not is a client that does not read.
    let taken = handed_out
        && match timeout(billing.config.idle_timeout, &mut was_taken).await {
            Ok(taken) => taken.is_ok(),
            Err(_) => {
                // From here on it cannot be handed out; what was in this moment is paid.
                was_taken.close();
                was_taken.try_recv().is_ok()
            }
        };
    if !taken {
        reservation.close(Settlement::Refund).await;
        end(ChatEnd::ClientLeft);
        return;
    }
    let (took, waited) = (order.trace.elapsed(&billing.clock), order.trace.waited());
    billing
        .metrics
        .chat_began(took, took.saturating_sub(waited));
    // The rest flows while the settlement is being written; only the end waits for it.
    let (written, settled) = oneshot::channel();
    let settle = async {
        reservation.close(Settlement::Settle).await;
        let _ = written.send(());
    };
    let pass_on = conversation.pass_on(&billing, &order.ask.format, &order.trace, pieces, settled);
    let ((), (ended, usage)) = tokio::join!(settle, pass_on);
    if let Some(usage) = usage {
        billing.notes.push((id, note(usage)));
    }
    end(ended);
    drop(order.place);
}

/// Takes the price; the reservation, and how `asked` ended if it did: it begins already, as a model is asked while the disk
/// still writes. Nothing of what it says is seen before the reservation is there, and where that fails it is asked in vain.
async fn reserve<T>(
    billing: &Billing,
    order: &Order,
    asked: &mut (impl Future<Output = T> + Unpin),
) -> Result<(i64, Option<T>), StoreError> {
    let (tell, mut taken) = oneshot::channel();
    let tell = Box::new(|| {
        let _ = tell.send(());
    });
    let now = billing.clock.now();
    let mut reserved = billing
        .store
        .reserve_ahead(order.wallet, order.price, now, tell);
    let (mut suffices, mut first) = (false, None);
    loop {
        tokio::select! {
            biased;
            reserved = &mut reserved => return Ok((reserved?, first)),
            ended = &mut *asked, if suffices && first.is_none() => first = Some(ended),
            Ok(()) = &mut taken, if !suffices => suffices = true,
        }
    }
}

/// What a ledger entry says of its chat.
fn note(usage: Usage) -> String {
    let Usage {
        prompt_tokens,
        completion_tokens,
    } = usage;
    format!("prompt_tokens={prompt_tokens} completion_tokens={completion_tokens}")
}

/// A conversation that gave its first content.
struct Conversation {
    node: Arc<Node>,
    answer: Answer,
    permit: Permit,
    _room: OwnedSemaphorePermit,
}

type First = Result<(Conversation, Bytes), UpstreamError>;

/// Asks one node after the other, the least busy first, until one gives content.
async fn first_content(billing: &Billing, order: &Order) -> First {
    let mut left = order.nodes.clone();
    loop {
        let least = left
            .iter()
            .enumerate()
            .min_by_key(|(_, node)| node.load())
            .map(|(at, _)| at);
        let Some(least) = least else {
            return Err(UpstreamError::Busy);
        };
        let node = left.remove(least);
        match ask(billing, order, &node).await {
            Err(error) if error.is_retryable() && !left.is_empty() => {}
            answered => return answered,
        }
    }
}

async fn ask(billing: &Billing, order: &Order, node: &Arc<Node>) -> First {
    let chat = &billing.config;
    let waiting = order.trace.waiting(&billing.clock);
    let place = timeout(chat.first_text_timeout, node.acquire_slot()).await;
    drop(waiting);
    let room = place.unwrap_or(Err(UpstreamError::Busy))?;
    // Asked for only now: while it waited in the queue, the breaker may have opened.
    let mut permit = node.at.breaker.admit().map_err(UpstreamError::Open)?;
    let patience = match order.ask.format {
        ResponseFormat::Whole { .. } => chat.answer_timeout,
        ResponseFormat::Text | ResponseFormat::Events { .. } => chat.first_text_timeout,
    };
    let asked = Box::pin(async {
        let mut answer = node.request(&order.ask).await?;
        match answer.next().await? {
            Some(first) => Ok((answer, first)),
            None => Err(UpstreamError::Unreadable(
                "an answer without any content".to_owned(),
            )),
        }
    });
    let asked_at = std::time::Instant::now();
    let waiting = order.trace.waiting(&billing.clock);
    let asked = timeout(patience, asked).await;
    drop(waiting);
    match asked.unwrap_or(Err(UpstreamError::Timeout("the first content"))) {
        Ok((answer, first)) => {
            billing
                .metrics
                .upstream_waited(node.at.breaker.name(), asked_at.elapsed());
            // Of an answer that comes whole nobody knows how long its first text took.
            if !matches!(order.ask.format, ResponseFormat::Whole { .. }) {
                permit.answer_started();
            }
            Ok((
                Conversation {
                    node: Arc::clone(node),
                    answer,
                    permit,
                    _room: room,
                },
                first,
            ))
        }
        Err(error) => {
            log::warn!("inference {}: {error}", node.at.breaker.name());
            node.run_health_checks(permit.end(error.outcome()));
            Err(error)
        }
    }
}

impl Conversation {
    /// Passes pieces on until either side ends. Where the client is gone, dropping the answer cancels the upstream, and
    /// its permit counts for nothing.
    async fn pass_on(
        mut self,
        billing: &Billing,
        form: &ResponseFormat,
        trace: &RequestTimings,
        pieces: mpsc::Sender<Piece>,
        settled: oneshot::Receiver<()>,
    ) -> (ChatEnd, Option<Usage>) {
        let patience = billing.config.idle_timeout;
        let broken = {
            // Made once, not for each of thousands of pieces.
            let mut client_left = pin!(pieces.closed());
            let mut aborted = pin!(billing.shutdown.aborted());
            loop {
                let waiting = trace.waiting(&billing.clock);
                let next = tokio::select! {
                    biased;
                    () = &mut client_left => return (ChatEnd::ClientLeft, self.answer.usage),
                    () = &mut aborted => break Some((Outcome::Unknown, ApiError::shutting_down())),
                    next = timeout(patience, self.answer.next()) => next.unwrap_or(Err(UpstreamError::Timeout("the next piece"))),
                };
                drop(waiting);
                match next {
                    Ok(Some(part)) => {
                        let taken = timeout(patience, pieces.send(Piece::Part(part))).await;
                        // A client that takes nothing for so long has left in all but name.
                        if !matches!(taken, Ok(Ok(()))) {
                            return (ChatEnd::ClientLeft, self.answer.usage);
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => {
                        log::warn!("inference {} broke off: {error}", self.permit.name());
                        break Some((error.outcome(), error.into()));
                    }
                }
            }
        };
        // What a client takes for the end comes after the commit.
        let _ = settled.await;
        let usage = self.answer.usage;
        let Some((blame, error)) = broken else {
            let last = match form {
                ResponseFormat::Events { .. } => "data: [DONE]\n\n",
                ResponseFormat::Text | ResponseFormat::Whole { .. } => "\n",
            };
            let ended = timeout(patience, pieces.send(Piece::End(last))).await;
            drop(pieces);
            self.node
                .run_health_checks(self.permit.end(Outcome::Success));
            self.answer.drain().await;
            let whole = matches!(ended, Ok(Ok(())));
            return (
                if whole {
                    ChatEnd::Success
                } else {
                    ChatEnd::ClientLeft
                },
                usage,
            );
        };
        self.node.run_health_checks(self.permit.end(blame));
        if let ResponseFormat::Events { .. } = form {
            let error = serde_json::json!({ "error": error.for_openai() });
            let event = Piece::Part(format!("data: {error}\n\n").into());
            let _ = timeout(patience, pieces.send(event)).await;
        }
        (ChatEnd::Cut, usage)
    }
}

/// A reservation that is open. Whatever becomes of its task, it is closed: dropped without a word, as by a panic, it
/// waits among those to refund.
struct Reservation<'a> {
    billing: &'a Billing,
    id: i64,
    price: Credits,
    closed: bool,
}

impl Reservation<'_> {
    /// Closes it; what cannot be written now is kept for [`retry`].
    async fn close(mut self, closing: Settlement) {
        if let Err(error) = write(self.billing, self.id, self.price, closing).await {
            log::error!(
                "{closing:?} of {} was not written and is tried again: {error}",
                ledger_id(self.id)
            );
            self.billing.unwritten.push((self.id, self.price, closing));
        }
        self.closed = true;
    }

    /// Closes it as spent and keeps its answer.
    async fn settle_kept(
        mut self,
        once: IdempotentRequest<(i64, String)>,
        answer: &[u8],
        usage: Option<Usage>,
    ) {
        let (billing, id) = (self.billing, self.id);
        let answer = String::from_utf8_lossy(answer).into_owned();
        let kept =
            billing
                .store
                .settle_kept(id, answer, usage.map(note), billing.clock.now(), once);
        match kept.await {
            Ok(()) => {
                billing.metrics.settled(self.price);
                self.closed = true;
            }
            Err(error) => {
                log::error!("the answer of {} was not kept: {error}", ledger_id(id));
                self.close(Settlement::Settle).await;
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.closed {
            let refund = (self.id, self.price, Settlement::Refund);
            self.billing.unwritten.push(refund);
        }
    }
}

async fn write(
    billing: &Billing,
    reservation: i64,
    price: Credits,
    closing: Settlement,
) -> Result<(), StoreError> {
    let now = billing.clock.now();
    match closing {
        Settlement::Settle => billing
            .store
            .settle(reservation, now)
            .await
            .map(|()| billing.metrics.settled(price)),
        Settlement::Refund => billing
            .store
            .refund(reservation, now)
            .await
            .map(|()| billing.metrics.refunded(price)),
    }
}

/// Writes what is to be noted of chats: of all that ended meanwhile in one go, as no client waits for it, and the next
/// chat would wait behind each. A crash loses the notes of a moment, and no money.
pub(crate) async fn write_notes(billing: &Billing) {
    let notes = std::mem::take(&mut *billing.notes.lock());
    let count = notes.len();
    if count > 0
        && let Err(error) = billing.store.note_reservations(notes).await
    {
        log::warn!("the tokens of {count} chats were not noted: {error}");
    }
}

/// Tries once more to write what could not be written. Each stays in the list until it is: this may be cut short.
pub(crate) async fn retry(billing: &Billing) {
    let waiting = billing.unwritten.lock().clone();
    for (reservation, price, closing) in waiting {
        match write(billing, reservation, price, closing).await {
            Ok(()) => {}
            // Ended the other way by a write whose answer was lost: there is nothing left to do.
            Err(StoreError::Conflict(what)) => log::warn!("{closing:?} is not needed: {what}"),
            Err(error) => {
                log::error!(
                    "{closing:?} of {} is still not written: {error}",
                    ledger_id(reservation)
                );
                continue;
            }
        }
        billing
            .unwritten
            .lock()
            .retain(|(id, ..)| *id != reservation);
    }
}
