//! The exact count of a prompt: for a client that asks for it, and for a request that is within what is available but for the
//! bound of its prompt.

use std::sync::Arc;

use tokio::time::timeout;

use super::{Billing, Order};
use crate::model::{Credits, Wallet};
use crate::store::StoreError;
use crate::timings::RequestTimings;
use crate::upstream::inference::{Count, InferenceRequest, Node, Prompt};

impl Order {
    /// Whether a count of its prompt could make it fit: the rest of its bound fits, and the prompt is text alone.
    pub(super) fn may_fit(&self, error: &StoreError) -> bool {
        let available = match error {
            StoreError::Insufficient { balance, .. } => balance,
            StoreError::LimitReached { available, .. } => available,
            _ => return false,
        };
        let is_text = match &self.request.prompt {
            Prompt::Message(_) => true,
            Prompt::Request(asked, _) => asked.media == 0,
        };
        is_text && self.bound_with(0) <= *available
    }

    /// What it can cost at most with so many tokens of its prompt.
    pub(super) fn bound_with(&self, prompt: i64) -> Credits {
        let each = self.request.max_tokens.unwrap_or(0);
        let completion = i64::from(each) * i64::from(self.request.choices());
        self.price.bound(prompt, completion)
    }

    /// Has a server count the prompt. Then only that server may answer it, as another may have another tokenizer. Returns
    /// whether it counted fewer than the bound.
    pub(super) async fn count_prompt(&mut self, billing: &Billing) -> bool {
        let nodes = self.nodes.clone();
        let counted = billing
            .count_prompt(nodes, self.wallet, &self.request, &self.timings)
            .await;
        let fewer = counted.filter(|(_, count)| count.is_whole && count.tokens < self.prompt_bound);
        let Some((node, count)) = fewer else {
            return false;
        };
        self.nodes = vec![node];
        self.prompt_bound = count.tokens;
        self.is_counted = true;
        true
    }
}

impl Billing {
    /// Asks the servers in turn, through their queues, until one has counted the tokens of a prompt; `None` where none did
    /// within [`Node::COUNT_TIMEOUT`].
    pub(crate) async fn count_prompt(
        &self,
        mut nodes: Vec<Arc<Node>>,
        wallet: Wallet,
        request: &InferenceRequest,
        timings: &RequestTimings,
    ) -> Option<(Arc<Node>, Count)> {
        let now = self.clock.instant();
        nodes.retain(|node| node.can_count(request.format.api()));
        nodes.sort_by_cached_key(|node| node.rank(now));
        let waiting = timings.waiting(&self.clock);
        let counted = timeout(Node::COUNT_TIMEOUT, async {
            for node in nodes {
                let _slot = node.queue.acquire(wallet).await.ok()?;
                // A breaker may have opened meanwhile.
                if node.refusal(self.clock.instant()).is_some() {
                    continue;
                }
                match node.count_prompt(request).await {
                    Ok(Some(count)) => return Some((node, count)),
                    Ok(None) => {}
                    Err(error) => {
                        let name = node.at.breaker.name();
                        log::info!("inference {name}: the prompt was not counted: {error}");
                        return None;
                    }
                }
            }
            None
        });
        let counted = counted.await.ok().flatten();
        drop(waiting);
        counted
    }
}
