//! What a server reports of itself beside its answers: how many slots it has, and how many tokens its context.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Response;
use hyper::header::SERVER;
use serde_json::Value;

use super::Node;
use crate::config::InferenceKind;
use crate::upstream::ResponseBody;

#[derive(Debug, Default)]
pub(super) struct Figures {
    read_at: Mutex<Option<Instant>>,
    /// Tokens of the context of one request; 0 where that is not known.
    context_length: AtomicU32,
}

impl Node {
    /// How often they are read.
    const FIGURES_INTERVAL: Duration = Duration::from_secs(60);

    /// Tokens of a request and its answer at most, if the server reported that, which it does for the model that was asked last.
    pub(crate) fn context_length(&self) -> Option<u32> {
        if self.finds_model() && self.models.count() > 1 {
            return None;
        }
        let length = self.figures.context_length.load(Ordering::Relaxed);
        (length > 0).then_some(length)
    }

    /// Reads them beside an answer, from time to time, as the server may be started again with others. llama.cpp, which names
    /// itself in each answer, has both on `/props`; vLLM and SGLang have the context with their models. A number of slots in
    /// the configuration wins, and the context is read only where the price of a request depends on it.
    pub(super) fn read_figures_if_due(
        self: &Arc<Self>,
        response: &Response<ResponseBody>,
        model: &str,
        reads_context: bool,
    ) {
        let server = response.headers().get(SERVER);
        let is_llama = server.is_some_and(|server| server.as_bytes() == b"llama.cpp");
        let reads_slots = is_llama && self.config.in_flight.is_none();
        if self.config.kind != InferenceKind::OpenAi || !(reads_slots || reads_context) {
            return;
        }
        let now = self.clock.instant();
        let mut read_at = self
            .figures
            .read_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if read_at.is_some_and(|at| at + Self::FIGURES_INTERVAL > now) {
            return;
        }
        *read_at = Some(now);
        let (node, model) = (Arc::clone(self), model.to_owned());
        tokio::spawn(async move {
            let path = if is_llama { "/props" } else { "/v1/models" };
            let Ok(page) = node.at.get(path, Self::LOOKUP_TIMEOUT).await else {
                return;
            };
            let context = context_length(&page, &model);
            node.figures
                .context_length
                .store(context.unwrap_or(0), Ordering::Relaxed);
            let slots = total_slots(&page).filter(|_| node.config.in_flight.is_none());
            let Some(slots) = slots else { return };
            if node.queue.status().slots != slots {
                log::info!("inference {}: it has {slots} slots", node.at.breaker.name());
                node.queue.set_slots(slots);
            }
        });
    }
}

/// The number of slots in llama.cpp's `/props`.
fn total_slots(page: &[u8]) -> Option<usize> {
    let page: Value = serde_json::from_slice(page).ok()?;
    let slots = page.get("total_slots")?.as_u64()?;
    (1..=10_000).contains(&slots).then_some(slots as usize)
}

/// The tokens of a request's context, in llama.cpp's `/props`, or of a model in a list of models.
fn context_length(page: &[u8], model: &str) -> Option<u32> {
    let page: Value = serde_json::from_slice(page).ok()?;
    let of_slot = page.pointer("/default_generation_settings/n_ctx");
    let of_model = || {
        let models = page.get("data")?.as_array()?;
        let model = models.iter().find(|listed| listed["id"] == model)?;
        model
            .get("max_model_len")
            .or_else(|| model.pointer("/meta/n_ctx"))
    };
    let length = of_slot.or_else(of_model)?.as_u64()?;
    u32::try_from(length).ok().filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_a_sensible_number_of_slots_has_none() {
        assert_eq!(total_slots(br#"{"total_slots":2}"#), Some(2));
        for page in [
            "",
            "{}",
            "[]",
            r#"{"total_slots":0}"#,
            r#"{"total_slots":"2"}"#,
            r#"{"total_slots":99999999}"#,
        ] {
            assert_eq!(total_slots(page.as_bytes()), None, "{page}");
        }
    }

    #[test]
    fn the_context_is_that_of_a_slot_or_of_the_model_that_is_asked() {
        for (page, expected) in [
            (
                r#"{"default_generation_settings":{"n_ctx":1024},"total_slots":2}"#,
                Some(1024),
            ),
            (
                r#"{"data":[{"id":"a","max_model_len":1},{"id":"b","max_model_len":8192}]}"#,
                Some(8192),
            ),
            (
                r#"{"data":[{"id":"b","meta":{"n_ctx":4096,"n_ctx_train":8192}}]}"#,
                Some(4096),
            ),
            (r#"{"data":[{"id":"a","max_model_len":8192}]}"#, None),
            (r#"{"data":[{"id":"b","max_model_len":0}]}"#, None),
            (r#"{"data":[{"id":"b","max_model_len":-1}]}"#, None),
            (r#"{"data":[{"id":"b","max_model_len":99999999999}]}"#, None),
            (r#"{"data":{}}"#, None),
            ("x", None),
        ] {
            assert_eq!(context_length(page.as_bytes(), "b"), expected, "{page}");
        }
    }
}
