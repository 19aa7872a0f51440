//! Writes the charge of a request: tried again until it is written, reversed where it came too late for a whole answer.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Billing, Order, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::metrics::{ChatEnd, Release};
use crate::model::Credits;
use crate::store::{Charge, Charged, ChargedAnswer, Hold, IdempotentRequest};
use crate::stream::ModelStream;
use crate::upstream::answer::Answer;

/// How long an answer waits for its charge.
pub(super) const CHARGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to write a charge, doubled up to the second.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// The error of an answer whose charge is not written.
pub(super) fn not_charged() -> ApiError {
    let detail = "the storage is unavailable, so the answer could not be charged";
    ApiError::new(ErrorCode::StorageUnavailable, detail)
}

impl Order {
    /// The charge for an answer: nothing for one without content.
    pub(super) fn charge(
        &self,
        answer: &Answer,
        stored: Option<(IdempotentRequest<ChargedAnswer>, String)>,
    ) -> Charge {
        let amount = match answer.has_content() {
            true => self.price,
            false => Credits::ZERO,
        };
        Charge {
            amount,
            key_id: self.key_id.clone(),
            adapter: self.adapter.clone(),
            tokens: answer.usage(),
            answer: stored,
        }
    }
}

impl Billing {
    /// Writes a charge; repeated after a failure, at the latest until `deadline` or the end of the shutdown. `None` where it
    /// is not written: then the hold is released. A charge of nothing is tried one time.
    pub(super) async fn write(
        &self,
        mut hold: Hold,
        charge: Charge,
        deadline: Option<Instant>,
    ) -> Option<Charged> {
        let request = *hold.request();
        let [mut pause, most] = RETRY_AFTER;
        let error = loop {
            let now = self.clock.now();
            // One attempt is made in a shutdown too.
            let failed = match self.store.charge(hold, charge.clone(), now).await {
                Ok(charged) => {
                    self.metrics.charged(charged.amount, charge.amount);
                    return Some(charged);
                }
                Err(failed) => failed,
            };
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let Some(again) = failed
                .hold
                .filter(|_| !is_late && charge.amount > Credits::ZERO)
            else {
                break failed.error;
            };
            hold = again;
            log::warn!(
                "{}: the charge is tried again: {}",
                request.operation,
                failed.error
            );
            self.metrics.table.charges_retried.inc();
            tokio::select! {
                biased;
                () = self.shutdown.aborted() => break closing(),
                () = sleep(pause) => {}
            }
            pause = (2 * pause).min(most);
        };
        log::error!(
            "{}: {} credits of {} were not charged: {error}",
            request.operation,
            charge.amount,
            request.wallet.short()
        );
        self.metrics.released(Release::NotWritten, request.amount);
        if charge.amount > Credits::ZERO {
            self.metrics.lost(Release::NotWritten);
        }
        None
    }

    /// Charges a whole answer and then sends it. One whose charge is not written in time is not sent, and the charge is
    /// reversed if it is written afterwards.
    pub(super) async fn give(
        &self,
        hold: Hold,
        charge: Charge,
        reply: Reply,
        response: ModelStream,
    ) -> ChatEnd {
        let key = charge.answer.as_ref().map(|(once, _)| once.key);
        let is_free = charge.amount == Credits::ZERO && key.is_none();
        let deadline = Instant::now() + CHARGE_TIMEOUT;
        let mut writing = pin!(self.write(hold, charge, Some(deadline)));
        let written = timeout(CHARGE_TIMEOUT, &mut writing).await;
        if matches!(written, Ok(Some(_))) || (is_free && written.is_ok()) {
            return match reply.send(Ok(response)) {
                Ok(()) => ChatEnd::Success,
                Err(_) => ChatEnd::ClientLeft,
            };
        }
        let _ = reply.send(Err(not_charged()));
        if written.is_err()
            && let Some(charged) = writing.await
        {
            self.refund(charged, key).await;
        }
        ChatEnd::Failed
    }

    /// Reverses a charge; repeated until that is written.
    async fn refund(&self, charged: Charged, answer: Option<[u8; 32]>) {
        let [mut pause, most] = RETRY_AFTER;
        while let Err(error) = (self.store).refund(charged, answer, self.clock.now()).await {
            let (operation, amount) = (charged.request.operation, charged.amount);
            log::error!("{operation}: the charge of {amount} credits is not reversed yet: {error}");
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shutdown.aborted() => return,
            }
            pause = (2 * pause).min(most);
        }
        self.metrics.refunded(charged.amount);
    }
}

fn closing() -> crate::store::StoreError {
    crate::store::StoreError::Unavailable("the server shut down".to_owned())
}
