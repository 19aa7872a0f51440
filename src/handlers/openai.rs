//! The routes that OpenAI's own clients call.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use super::chat::{lora, open_nodes, payer, wallet_header};
use crate::app::App;
use crate::billing::{Order, begin};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::upstream::answer::{Form, Named};
use crate::upstream::completion::Completion;
use crate::upstream::inference::{Ask, Prompt};

/// The adapters that somebody serves, as models.
pub(super) fn models(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let served = |adapter: &&String| app.upstreams.nodes.iter().any(|node| node.serves(adapter));
    let created = app.clock.now().millis() / 1000;
    let model = |adapter: &String| json!({ "id": adapter, "object": "model", "created": created, "owned_by": "r3mes-edge" });
    let models: Vec<_> = app.adapters.iter().filter(served).map(model).collect();
    Reply::json(StatusCode::OK, &json!({ "object": "list", "data": models }))
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
    let once = match stream {
        true => None,
        false => call.once(|answer: &String| (200, Some(answer.clone())))?,
    };
    let once = match once {
        None => None,
        Some(once) => {
            let running = app.running_keys.enter(once.key).ok_or_else(|| {
                let detail = "a request with this Idempotency-Key is being answered";
                ApiError::new(ErrorCode::IdempotencyRunning, detail)
            })?;
            let now = app.clock.now();
            if let Some(kept) = app.store.kept(once.key, once.request, now).await? {
                return Reply::again(kept);
            }
            Some((once, running))
        }
    };
    let named = Named {
        id: app.ids.make("chatcmpl-", app.clock.now()),
        created: app.clock.now().millis() / 1000,
        model: adapter.clone(),
    };
    let text = request.as_text();
    let nodes = match &text {
        Ok(_) => open_nodes(app, &adapter, |_| true)?,
        // Where only servers of text are left, what no text can say is the client's to change.
        Err(refused) => open_nodes(app, &adapter, |node| !node.takes_text_only()).map_err(
            |error| match error.code {
                ErrorCode::InferenceDisabled
                    if app.upstreams.nodes.iter().any(|node| node.serves(&adapter)) =>
                {
                    refused.clone().into()
                }
                _ => error,
            },
        )?,
    };
    let form = if stream {
        let usage = request.wants_usage;
        Form::Events { usage, named }
    } else {
        Form::Whole { named }
    };
    let order = Order {
        wallet,
        price: app.config.chat.price,
        ask: Ask {
            lora: lora(app, &adapter),
            prompt: Prompt::Completion(request, text.ok()),
            form,
        },
        adapter,
        nodes,
        once,
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
