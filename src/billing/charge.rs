//! Writes the charge of a request: tried again until it is written, reversed where it came too late for a whole answer.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Billing, Order, Reply};
use crate::auth::KeyLimits;
use crate::error::{ApiError, ErrorCode};
use crate::metrics::{ChatEnd, Release};
use crate::model::{Credits, Price, Timestamp, Tokens};
use crate::store::{Charge, Charged, Estimated, Hold, StoreError};
use crate::stream::ModelStream;
use crate::upstream::answer::{Answer, Paid};
use crate::upstream::inference::api::Api;

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
    /// What it can cost at most.
    pub(super) fn bound(&self) -> Credits {
        self.bound_with(self.prompt_bound)
    }

    /// Why it was not begun at this time; of one whose tokens have a price, with the limit of them that would be within what is
    /// available.
    pub(super) fn refusal(&self, error: StoreError, now: Timestamp) -> ApiError {
        let available = match &error {
            StoreError::Insufficient { needed, balance } => {
                (needed, balance, "are available".to_owned())
            }
            StoreError::LimitReached { needed, available } => {
                let credit = self.limits.as_deref().and_then(KeyLimits::credit);
                let next = credit.and_then(|(_, period)| period.end(now));
                let until = next.map_or_else(String::new, |next| format!(" until {next}"));
                let where_from = format!("are left by the limit of the key{until}");
                (needed, available, where_from)
            }
            _ => return error.into(),
        };
        let (needed, available, where_from) = available;
        let fitting = self.price.completion_within(*available, self.prompt_bound);
        let fitting = fitting.map(|tokens| tokens / i64::from(self.request.choices()));
        let limits = self.api().limits();
        let fits = match (fitting, limits) {
            (Some(tokens), [limit, ..]) if tokens > 0 && self.price.completion > Credits::ZERO => {
                format!("; {limit} {tokens} would fit")
            }
            _ => String::new(),
        };
        let counted = match self.is_counted {
            true => format!(
                " with the {} tokens counted in its prompt",
                self.prompt_bound
            ),
            false => String::new(),
        };
        let detail = format!(
            "this request may cost up to {needed} credits{counted}, {available} {where_from}{fits}"
        );
        ApiError {
            detail,
            ..error.into()
        }
    }

    /// The endpoint that was asked.
    pub(super) fn api(&self) -> Api {
        self.request.format.api()
    }

    pub(super) fn has_output(&self) -> bool {
        self.api().has_output()
    }

    /// Whether the model's server reported all that was used.
    fn is_reported(&self, answer: &Answer) -> bool {
        let completion = answer.estimated_completion().filter(|_| self.has_output());
        answer.usage().is_some() && completion.is_none()
    }

    /// What was used, by this server's own count of what the model's server did not report.
    fn estimate(&self, answer: &Answer) -> Tokens {
        let known = answer.usage().unwrap_or(Tokens {
            prompt: self.prompt_bytes / 4,
            cached: 0,
            completion: answer.reported_completion(),
        });
        let completion = answer.estimated_completion();
        Tokens {
            completion: completion
                .filter(|_| self.has_output())
                .unwrap_or(known.completion),
            ..known
        }
    }

    /// What the client reads of its charge.
    pub(super) fn paid(&self, answer: &Answer, charge: &Charge) -> Paid {
        Paid {
            tokens: charge.tokens.unwrap_or_else(|| self.estimate(answer)),
            cost: charge.amount,
        }
    }

    /// The charge for an answer: nothing for one without content. Where the model's server did not count the tokens and they
    /// have a price, they are estimated, for the cause given.
    pub(super) fn charge(&self, answer: &Answer, cause: Estimated) -> Charge {
        let mut charge = Charge {
            amount: Credits::ZERO,
            key_id: self.key_id.clone(),
            adapter: self.adapter.clone(),
            tokens: answer.usage(),
            estimated: None,
            answer: None,
        };
        if !answer.has_content() {
            return charge;
        }
        if self.price.is_by_tokens() && !self.is_reported(answer) {
            charge.estimated = Some(cause);
            charge.tokens = Some(self.estimate(answer));
        }
        let cost = self.price.cost(charge.tokens.unwrap_or_default());
        charge.amount = cost.min(self.bound());
        charge
    }
}

impl Billing {
    /// Writes a charge; repeated after a failure, at the latest until `deadline` or the end of the shutdown. `None` where it
    /// is not written: then the hold is released. A charge of nothing is tried one time.
    pub(super) async fn write(
        &self,
        api: Api,
        price: Price,
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
                    let cost = price.cost(charge.tokens.unwrap_or_default());
                    self.metrics
                        .charged(api.operation(), &charge, charged.amount, cost);
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

    /// Charges a whole answer, returns the permit that it ran with, and then sends it. One whose charge is not written in time
    /// is not sent, and the charge is reversed if it is written afterwards.
    pub(super) async fn give(
        &self,
        order: &mut Order,
        hold: Hold,
        charge: Charge,
        reply: Reply,
        response: ModelStream,
    ) -> ChatEnd {
        let key = charge.answer.as_ref().map(|(once, _)| once.key);
        let is_free = charge.amount == Credits::ZERO && key.is_none();
        let deadline = Instant::now() + CHARGE_TIMEOUT;
        let mut writing = pin!(self.write(order.api(), order.price, hold, charge, Some(deadline)));
        let written = timeout(CHARGE_TIMEOUT, &mut writing).await;
        order.concurrency = None;
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
