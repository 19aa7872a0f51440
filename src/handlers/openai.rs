//! The routes of OpenAI's API, for its clients.

use std::time::Duration;

use serde_json::json;

use super::chat::{answer, is_served, open_nodes, payer, wallet_header};
use super::{Context, Result};
use crate::error::{ApiError, ErrorCode};
use crate::http::response;
use crate::model::new_id;
use crate::store::{ChargedAnswer, StoredResponse, ledger_id};
use crate::upstream::answer::{CompletionMeta, ResponseFormat};
use crate::upstream::completion::Completion;
use crate::upstream::inference::{Node, Prompt};

/// The adapters that an inference server has, as models.
pub(crate) async fn models(ctx: Context) -> Result {
    let app = &ctx.app;
    let created = app.clock.now().millis() / 1000;
    let model = |adapter| json!({ "id": adapter, "object": "model", "created": created, "owned_by": "r3mes-edge" });
    let adapters = app.adapters.iter();
    let served = adapters.filter(|adapter| is_served(app, adapter));
    let models: Vec<_> = served.map(model).collect();
    response::json(&json!({ "object": "list", "data": models }))
}

pub(crate) async fn completions(ctx: Context) -> Result {
    let app = &ctx.app;
    let request = Completion::parse(ctx.text()?)?;
    let wallet = payer(&ctx, wallet_header(&ctx)?)?;
    let adapter = match &request.model {
        None => app.config.chat.default_adapter.clone(),
        Some(model) if app.adapters.contains(model) => model.clone(),
        Some(_) => {
            let detail = "unknown model; see GET /v1/models";
            return Err(ApiError::new(ErrorCode::NotFound, detail).at("/model"));
        }
    };
    if request.stream {
        ctx.refuse_idempotency_key()?;
    }
    let once = ctx.idempotency(Some(wallet), |charged: &ChargedAnswer| StoredResponse {
        status: 200,
        answer: Some(charged.answer.clone()),
        reference: charged.entry.map(ledger_id),
    })?;
    let now = app.clock.now();
    let mut stored_once = None;
    if let Some(once) = once {
        let entered = app.billing.in_flight_keys.enter(&once.scope, once.key);
        let (running, count) = entered.ok_or_else(|| {
            let detail = "a request with this Idempotency-Key is being answered";
            ApiError::new(ErrorCode::IdempotencyRunning, detail).retry_after(Duration::from_secs(1))
        })?;
        let earlier = app.store.stored_response(once.key, once.request, now);
        if let Some(stored) = earlier.await? {
            return response::replayed(stored);
        }
        let scope = once.scope.clone();
        app.store.check_idempotency_rows(scope, count, now).await?;
        stored_once = Some((once, running));
    }
    let text = request.as_text();
    let fit = |node: &Node| text.is_ok() || !node.takes_text_only();
    let nodes = match (open_nodes(app, &adapter, fit), &text) {
        // Only text-only servers are left, so the client has to change the request.
        (Err(error), Err(refused))
            if error.code == ErrorCode::InferenceDisabled && is_served(app, &adapter) =>
        {
            return Err(refused.clone().into());
        }
        (nodes, _) => nodes?,
    };
    let meta = CompletionMeta {
        id: new_id("chatcmpl-"),
        created: now.millis() / 1000,
        model: adapter.clone(),
    };
    let include_usage = request.wants_usage;
    let format = match request.stream {
        true => ResponseFormat::Events {
            include_usage,
            meta,
        },
        false => ResponseFormat::Whole { meta },
    };
    let prompt = Prompt::Completion(request, text.ok());
    answer(&ctx, wallet, adapter, nodes, prompt, format, stored_once).await
}
