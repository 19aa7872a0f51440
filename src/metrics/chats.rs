//! What chats count: how they ended, what they waited for, what they used and were charged.

use std::time::Duration;

use super::labels::{CHAT_ENDS, ChatEnd, RELEASES, Release};
use super::table::{GenAi, with};
use super::{Metrics, SLOW_CHATS, float};
use crate::model::{Credits, Tokens};
use crate::store::Charge;

impl Metrics {
    /// Counts a chat's end. `adapter` is a configured one or a model of a server: the handler refuses all others before.
    pub(crate) fn chat_ended(&self, operation: &str, adapter: &str, end: ChatEnd, took: Duration) {
        let adapter = self.models.label(adapter);
        let status = CHAT_ENDS[end as usize];
        let labels = [("status", status), ("adapter", adapter)];
        with(&self.table.chats, labels).inc();
        self.table.chat_duration.observe(took.as_secs_f64());
        let error = match end {
            ChatEnd::Success => None,
            // No server was asked.
            ChatEnd::Refused => return,
            ChatEnd::Cut | ChatEnd::ClientLeft | ChatEnd::Failed => Some(("error_type", status)),
        };
        let duration = &self.table.gen_ai_duration;
        self.gen_ai(duration, operation, adapter, error, took.as_secs_f64());
    }

    /// A chat's first content was handed to the connection, so long after the request; `overhead` of it was not waiting for
    /// the model. Of one that is streamed, that is its first token.
    pub(crate) fn chat_began(
        &self,
        is_streamed: bool,
        operation: &str,
        adapter: &str,
        took: Duration,
        overhead: Duration,
    ) {
        let seconds = took.as_secs_f64();
        self.table.chat_first_byte.observe(seconds);
        self.table.chat_overhead.observe(overhead.as_secs_f64());
        if is_streamed {
            let first_token = &self.table.gen_ai_first_token;
            let adapter = self.models.label(adapter);
            self.gen_ai(first_token, operation, adapter, None, seconds);
        }
        let (limits, counts) = &mut *self.watched();
        counts[SLOW_CHATS].count(overhead > limits.overhead_p99);
    }

    /// An inference server sent its first content after so long. `upstream` is a configured one.
    pub(crate) fn upstream_waited(&self, upstream: &str, took: Duration) {
        let wait = with(&self.table.upstream_wait, [("upstream", upstream)]);
        wait.observe(took.as_secs_f64());
    }

    /// A chat waited for a slot of an inference server for so long.
    pub(crate) fn upstream_queued(&self, upstream: &str, took: Duration) {
        let wait = with(&self.table.upstream_queue, [("upstream", upstream)]);
        wait.observe(took.as_secs_f64());
    }

    /// A charge was written, of so much; its tokens cost `cost`, which may be above the hold. What was never reported is not
    /// counted, so that its figures are left out.
    pub(crate) fn charged(
        &self,
        operation: &str,
        charge: &Charge,
        charged: Credits,
        cost: Credits,
    ) {
        let table = &self.table;
        table.charged.inc_by(float(charged));
        table
            .charges_short
            .inc_by(u64::from(charged < charge.amount));
        if charge.amount > Credits::ZERO && cost > charge.amount {
            let above = cost.micro() - charge.amount.micro();
            table.above_hold.inc_by(float(Credits::from_micro(above)));
        }
        let adapter = self.models.label(&charge.adapter);
        let Tokens {
            prompt,
            cached,
            completion,
        } = charge.tokens.unwrap_or_default();
        for (kind, tokens) in [
            ("prompt", prompt),
            ("cached", cached),
            ("completion", completion),
        ] {
            if let Some(tokens) = u64::try_from(tokens).ok().filter(|tokens| *tokens > 0) {
                with(&table.tokens, [("adapter", adapter), ("kind", kind)]).inc_by(tokens);
            }
        }
        if let Some(cause) = charge.estimated {
            with(&table.estimated, [("cause", cause.as_str())]).inc();
            return;
        }
        for (kind, tokens) in [("input", prompt), ("output", completion)] {
            if tokens > 0 {
                let kind = Some(("gen_ai_token_type", kind));
                self.gen_ai(
                    &table.gen_ai_tokens,
                    operation,
                    adapter,
                    kind,
                    tokens as f64,
                );
            }
        }
    }

    /// Observes one of OpenTelemetry's metrics, where they are wanted, with an adapter as the model.
    fn gen_ai(
        &self,
        metric: &GenAi,
        operation: &str,
        adapter: &str,
        more: Option<(&'static str, &str)>,
        value: f64,
    ) {
        if !self.gen_ai {
            return;
        }
        let labels = [
            ("gen_ai_operation_name", operation),
            ("gen_ai_provider_name", "r3mes-edge"),
            ("gen_ai_request_model", adapter),
        ];
        let labels = labels.into_iter().chain(more);
        let labels: Vec<_> = labels
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        metric.get_or_create_owned(&labels).observe(value);
    }

    /// A hold ended without a charge.
    pub(crate) fn released(&self, cause: Release, held: Credits) {
        let cause = [("cause", RELEASES[cause as usize])];
        with(&self.table.released, cause).inc_by(float(held));
    }

    /// A model worked on a request that nothing is charged for.
    pub(crate) fn lost(&self, cause: Release) {
        with(&self.table.lost, [("cause", RELEASES[cause as usize])]).inc();
    }

    /// A charge was reversed.
    pub(crate) fn refunded(&self, amount: Credits) {
        self.table.refunded.inc_by(float(amount));
    }
}
