//! The routes that OpenAI's own clients call.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;

use super::chat::{lora, open_nodes, payer, wallet_header};
use crate::app::App;
use crate::billing::{Order, begin};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::new_id;
use crate::store::{Kept, ledger_id};
use crate::upstream::answer::{CompletionMeta, ResponseFormat};
use crate::upstream::completion::Completion;
use crate::upstream::inference::{InferenceRequest, Node, Prompt};

/// The adapters that somebody serves, as models.
pub(super) fn models(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let created = app.clock.now().millis() / 1000;
    let model = |adapter: &String| json!({ "id": adapter, "object": "model", "created": created, "owned_by": "r3mes-edge" });
    let adapters = app
        .adapters
        .iter()
        .filter(|adapter| is_served(app, adapter));
    let models: Vec<_> = adapters.map(model).collect();
    Reply::json(StatusCode::OK, &json!({ "object": "list", "data": models }))
}

fn is_served(app: &App, adapter: &str) -> bool {
    app.upstreams.nodes.iter().any(|node| node.serves(adapter))
}

pub(super) async fn completions(app: &Arc<App>, call: &Call) -> Result<Reply, ApiError> {
    let request = Completion::parse(call.text()?)?;
    let wallet = payer(call, wallet_header(call)?)?;
    let adapter = match &request.model {
        None => app.config.chat.default_adapter.clone(),
        Some(model) if app.adapters.contains(model) => model.clone(),
        Some(_) => {
            return Err(ApiError {
                pointer: Some("/model".to_owned()),
                ..ApiError::new(ErrorCode::NotFound, "model is none of those at /v1/models")
            });
        }
    };
    let stream = request.stream;
    if stream {
        call.refuse_idempotency_key()?;
    }
    let once = call.once(Some(wallet), |(entry, answer): &(i64, String)| Kept {
        status: 200,
        answer: Some(answer.clone()),
        reference: Some(ledger_id(*entry)),
    })?;
    let once = match once {
        None => None,
        Some(once) => {
            let entered = app.running_keys.enter(&once.scope, once.key);
            let (running, count) = entered.ok_or_else(|| {
                let detail = "a request with this Idempotency-Key is being answered";
                ApiError::new(ErrorCode::IdempotencyRunning, detail)
                    .retry_after(Duration::from_secs(1))
            })?;
            let now = app.clock.now();
            if let Some(kept) = app.store.kept(once.key, once.request, now).await? {
                return Reply::again(kept);
            }
            let scope = once.scope.clone();
            app.store.check_idempotency_rows(scope, count, now).await?;
            Some((once, running))
        }
    };
    let named = CompletionMeta {
        id: new_id("chatcmpl-"),
        created: app.clock.now().millis() / 1000,
        model: adapter.clone(),
    };
    let text = request.as_text();
    let fit = |node: &Node| text.is_ok() || !node.takes_text_only();
    let nodes = match (open_nodes(app, &adapter, fit), &text) {
        // Only servers of text are left, so what no text can say is the client's to change.
        (Err(error), Err(refused))
            if error.code == ErrorCode::InferenceDisabled && is_served(app, &adapter) =>
        {
            return Err(refused.clone().into());
        }
        (nodes, _) => nodes?,
    };
    let form = if stream {
        let usage = request.wants_usage;
        ResponseFormat::Events { usage, named }
    } else {
        ResponseFormat::Whole { named }
    };
    let order = Order {
        wallet,
        price: app.config.chat.price,
        ask: InferenceRequest {
            lora: lora(app, &adapter),
            prompt: Prompt::Completion(request, text.ok()),
            form,
        },
        adapter,
        nodes,
        once,
        trace: Arc::clone(&call.trace),
        place: Arc::clone(&call.place),
    };
    let body = begin(app, order).await?;
    let content_type = if stream {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    Ok(Reply::chat(content_type, body))
}
