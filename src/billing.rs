//! One task per chat: reserve, ask, settle or refund.
//!
//! The task owns the money from before the reserve to its end. hyper drops a handler whose client left; it cannot drop
//! this task, which notices and refunds or settles. The rule is simple: until the first text is handed to the socket
//! everything is refunded, whoever is at fault; from then on the chat is paid.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use crate::app::{App, Closing};
use crate::breaker::{Outcome, Permit};
use crate::error::{ApiError, ErrorCode};
use crate::metrics::ChatEnd;
use crate::model::{Credits, Wallet};
use crate::store::{StoreError, ledger_id};
use crate::stream::{Piece, TextStream};
use crate::upstream::UpstreamError;
use crate::upstream::inference::{Answer, Node};

/// A chat that was checked and may begin.
pub(crate) struct Order {
    pub(crate) wallet: Wallet,
    pub(crate) price: Credits,
    pub(crate) message: String,
    pub(crate) adapter: String,
    pub(crate) node: Arc<Node>,
    /// The request's place among those in flight, so that the shutdown waits for the money too.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

/// Begins a chat; returns with its first text, or with why there is none.
pub(crate) async fn begin(app: &Arc<App>, order: Order) -> Result<TextStream, ApiError> {
    let (answer, first) = oneshot::channel();
    tokio::spawn(run(Arc::clone(app), order, answer));
    first
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("a chat ended without an answer")))
}

async fn run(
    app: Arc<App>,
    order: Order,
    mut answer: oneshot::Sender<Result<TextStream, ApiError>>,
) {
    let started = app.clock.instant();
    let adapter = order.adapter.clone();
    let end = |end| {
        app.metrics.chat_ended(
            &adapter,
            end,
            app.clock.instant().saturating_duration_since(started),
        )
    };
    let reservation = match app
        .store
        .reserve(order.wallet, order.price, app.clock.now())
        .await
    {
        Ok(reservation) => reservation,
        Err(error) => {
            end(if matches!(error, StoreError::Insufficient { .. }) {
                ChatEnd::Refused
            } else {
                ChatEnd::Failed
            });
            let _ = answer.send(Err(error.into()));
            return;
        }
    };
    app.metrics.reserved(order.price);
    let reservation = Reservation {
        app: &app,
        id: reservation,
        price: order.price,
        closed: false,
    };
    let first = tokio::select! {
        biased;
        () = answer.closed() => Err(None),
        () = app.cut_off() => Err(Some(ApiError::new(ErrorCode::ShuttingDown, "the server is shutting down"))),
        first = first_text(&app, &order) => first.map_err(|error| Some(error.into())),
    };
    let (conversation, text) = match first {
        Ok(first) => first,
        Err(error) => {
            reservation.close(Closing::Refund).await;
            end(if error.is_some() {
                ChatEnd::Failed
            } else {
                ChatEnd::ClientLeft
            });
            if let Some(error) = error {
                let _ = answer.send(Err(error));
            }
            return;
        }
    };
    let (pieces, was_taken, body) = TextStream::begin(text);
    let handed_out = answer.send(Ok(body)).is_ok();
    // hyper takes the first text as soon as the head is written; one that does not is a client that does not read.
    let taken = handed_out
        && matches!(
            timeout(app.config.chat.idle_timeout, was_taken).await,
            Ok(Ok(()))
        );
    if !taken {
        reservation.close(Closing::Refund).await;
        end(ChatEnd::ClientLeft);
        return;
    }
    // The rest flows while the settlement is being written; only the end waits for it.
    let (written, settled) = oneshot::channel();
    let settle = async {
        reservation.close(Closing::Settle).await;
        let _ = written.send(());
    };
    let ((), ended) = tokio::join!(settle, conversation.pass_on(&app, pieces, settled));
    end(ended);
    drop(order.place);
}

/// A conversation that gave its first text.
struct Conversation {
    stream: Answer,
    permit: Permit,
    _room: OwnedSemaphorePermit,
}

async fn first_text(app: &App, order: &Order) -> Result<(Conversation, Bytes), UpstreamError> {
    let patience = app.config.chat.first_text_timeout;
    let waited = timeout(patience, order.node.place()).await;
    let room = waited.unwrap_or(Err(UpstreamError::Busy))?;
    // Asked for only now: while it waited in the queue, the breaker may have opened.
    let mut permit = order
        .node
        .at
        .breaker()
        .admit()
        .map_err(UpstreamError::Open)?;
    let lora =
        Some(order.adapter.as_str()).filter(|adapter| *adapter != app.config.chat.default_adapter);
    let asked = async {
        let mut stream = order.node.ask(&order.message, lora).await?;
        match stream.next().await? {
            Some(text) => Ok((stream, text)),
            None => Err(UpstreamError::Unreadable(
                "an answer without any text".to_owned(),
            )),
        }
    };
    match timeout(patience, asked)
        .await
        .unwrap_or(Err(UpstreamError::Timeout("the first text")))
    {
        Ok((stream, text)) => {
            permit.working();
            Ok((
                Conversation {
                    stream,
                    permit,
                    _room: room,
                },
                text,
            ))
        }
        Err(error) => {
            log::warn!("inference {}: {error}", order.node.at.breaker().name());
            permit.end(error.outcome());
            Err(error)
        }
    }
}

impl Conversation {
    /// Passes texts on until either side ends. Where the client is gone, dropping the stream cancels the upstream, and
    /// its permit counts for nothing.
    async fn pass_on(
        mut self,
        app: &App,
        pieces: mpsc::Sender<Piece>,
        settled: oneshot::Receiver<()>,
    ) -> ChatEnd {
        let patience = app.config.chat.idle_timeout;
        let broken = loop {
            let next = tokio::select! {
                biased;
                () = pieces.closed() => return ChatEnd::ClientLeft,
                () = app.cut_off() => break Some(Outcome::Unknown),
                next = timeout(patience, self.stream.next()) => next.unwrap_or(Err(UpstreamError::Timeout("the next text"))),
            };
            match next {
                // A client that takes nothing for so long has left in all but name.
                Ok(Some(text)) => match timeout(patience, pieces.send(Piece::Text(text))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return ChatEnd::ClientLeft,
                },
                Ok(None) => break None,
                Err(error) => {
                    log::warn!("inference {} broke off: {error}", self.permit.name());
                    break Some(error.outcome());
                }
            }
        };
        // What a client takes for the end comes after the commit.
        let _ = settled.await;
        let Some(blame) = broken else {
            let ended = timeout(patience, pieces.send(Piece::End)).await;
            drop(pieces);
            self.permit.end(Outcome::Success);
            self.stream.drain().await;
            return if matches!(ended, Ok(Ok(()))) {
                ChatEnd::Success
            } else {
                ChatEnd::ClientLeft
            };
        };
        self.permit.end(blame);
        ChatEnd::Cut
    }
}

/// A reservation that is open. Whatever becomes of its task, it is closed: dropped without a word, as by a panic, it
/// waits among those to refund.
struct Reservation<'a> {
    app: &'a App,
    id: i64,
    price: Credits,
    closed: bool,
}

impl Reservation<'_> {
    /// Closes it; what cannot be written now is kept for [`retry`].
    async fn close(mut self, closing: Closing) {
        if let Err(error) = write(self.app, self.id, self.price, closing).await {
            log::error!(
                "{closing:?} of {} was not written and is tried again: {error}",
                ledger_id(self.id)
            );
            self.app
                .unwritten
                .lock()
                .push((self.id, self.price, closing));
        }
        self.closed = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.closed {
            self.app
                .unwritten
                .lock()
                .push((self.id, self.price, Closing::Refund));
        }
    }
}

async fn write(
    app: &App,
    reservation: i64,
    price: Credits,
    closing: Closing,
) -> Result<(), StoreError> {
    let now = app.clock.now();
    match closing {
        Closing::Settle => app
            .store
            .settle(reservation, now)
            .await
            .map(|()| app.metrics.settled(price)),
        Closing::Refund => app
            .store
            .refund(reservation, now)
            .await
            .map(|()| app.metrics.refunded(price)),
    }
}

/// Tries once more to write what could not be written. Each stays in the list until it is: this may be cut short.
pub(crate) async fn retry(app: &App) {
    let waiting = app.unwritten.lock().clone();
    for (reservation, price, closing) in waiting {
        match write(app, reservation, price, closing).await {
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
        app.unwritten.lock().retain(|(id, ..)| *id != reservation);
    }
}
