//! `POST /chat`: one message of a wallet, answered as plain text. The money is in `billing`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use serde::Deserialize;

use super::{Context, Result};
use crate::app::App;
use crate::billing::{InFlightGuard, Order, begin};
use crate::error::{ApiError, ErrorCode};
use crate::http::response;
use crate::model::{InputError, Wallet};
use crate::store::{ChargedAnswer, IdempotentRequest};
use crate::upstream::UpstreamError;
use crate::upstream::answer::ResponseFormat;
use crate::upstream::inference::{InferenceRequest, Node, Prompt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatRequest {
    message: String,
    adapter: Option<String>,
    wallet_address: Option<Wallet>,
}

const WALLET_HEADER: &str = "X-Wallet-Address";

/// The wallet that the header names.
pub(super) fn wallet_header(ctx: &Context) -> Result<Option<Wallet>> {
    let wallet = ctx.header(WALLET_HEADER)?.map(Wallet::parse).transpose();
    wallet.map_err(|detail| ApiError::wallet(WALLET_HEADER, detail))
}

/// The value of a member or of the header that may replace it.
fn agreed<T: PartialEq>(name: &str, field: Option<T>, header: Option<T>) -> Result<Option<T>> {
    match (field, header) {
        (Some(field), Some(header)) if field != header => {
            Err(InputError::member(name, "and its header differ").into())
        }
        (field, header) => Ok(field.or(header)),
    }
}

pub(crate) async fn chat(ctx: Context) -> Result {
    let app = &ctx.app;
    let request: ChatRequest = ctx.json()?;
    let (length, most) = (request.message.chars().count(), app.config.chat.max_message);
    if !(1..=most).contains(&length) {
        let detail = format!("must have 1 to {most} characters, not {length}");
        return Err(InputError::member("message", &detail).into());
    }
    let adapter = ctx.header("X-Adapter")?.map(str::to_owned);
    let adapter = agreed("adapter", request.adapter, adapter)?;
    let header = wallet_header(&ctx)?;
    let wallet = agreed("wallet_address", request.wallet_address, header)?;
    ctx.refuse_idempotency_key()?;
    let wallet = payer(&ctx, wallet)?;
    let adapter = match adapter {
        Some(adapter) if app.adapters.contains(&adapter) => adapter,
        Some(_) => {
            let detail = "unknown adapter; see GET /v1/models";
            return Err(InputError::field("/adapter", detail).into());
        }
        None => adapter_for(app, &request.message),
    };
    let nodes = open_nodes(app, &adapter, |_| true)?;
    let (prompt, format) = (Prompt::Message(request.message), ResponseFormat::Text);
    answer(&ctx, wallet, adapter, nodes, prompt, format, None).await
}

/// The paid response of a model.
pub(super) async fn answer(
    ctx: &Context,
    wallet: Wallet,
    adapter: String,
    nodes: Vec<Arc<Node>>,
    prompt: Prompt,
    format: ResponseFormat,
    idempotency: Option<(IdempotentRequest<ChargedAnswer>, InFlightGuard)>,
) -> Result {
    let (app, chat) = (&ctx.app, &ctx.app.config.chat);
    let content_type = match format {
        ResponseFormat::Text => "text/plain; charset=utf-8",
        ResponseFormat::Events { .. } => "text/event-stream; charset=utf-8",
        ResponseFormat::Whole { .. } => "application/json",
    };
    let order = Order {
        operation: ctx.operation,
        wallet,
        key_id: ctx.principal.as_ref().map(|key| key.key_id.clone()),
        price: chat.price,
        request: Arc::new(InferenceRequest {
            // An R3MES node has no name for the default adapter.
            lora: (adapter != chat.default_adapter).then(|| adapter.clone()),
            prompt,
            format,
        }),
        adapter,
        nodes,
        idempotency,
        timings: Arc::clone(&ctx.timings),
        is_asked: AtomicBool::new(false),
        is_lost: false,
        _permit: Arc::clone(&ctx.permit),
    };
    let body = begin(&app.billing, order).await?;
    let response = response::bytes(StatusCode::OK, content_type, Bytes::new());
    Ok(response.map(|_| body.boxed_unsync()))
}

pub(super) fn is_served(app: &App, adapter: &str) -> bool {
    app.upstreams.nodes.iter().any(|node| node.serves(adapter))
}

/// The wallet that pays: that of the key.
pub(super) fn payer(ctx: &Context, named: Option<Wallet>) -> Result<Wallet> {
    let Some(principal) = &ctx.principal else {
        if named.is_none() {
            let detail = "Either API key or wallet_address is required";
            return Err(ApiError::new(ErrorCode::MissingChatIdentity, detail));
        }
        let detail = "a wallet address alone proves nothing: send a key of it as X-API-Key or Authorization: Bearer";
        return Err(ApiError::new(ErrorCode::MissingCredentials, detail));
    };
    match (principal.wallet, named) {
        (Some(own), Some(named)) if own != named => Err(ApiError::other_wallet()),
        (Some(wallet), _) | (None, Some(wallet)) => Ok(wallet),
        (None, None) => {
            let detail = "is required with an admin key";
            Err(InputError::member("wallet_address", detail).into())
        }
    }
}

/// The first adapter with a keyword in the message, if a server has it; else the default.
fn adapter_for(app: &App, message: &str) -> String {
    let message = message.to_lowercase();
    let is_named = |word: &String| message.contains(&word.to_lowercase());
    let mut adapters = app.config.adapters.iter();
    let found = adapters
        .find(|(name, adapter)| adapter.keywords.iter().any(is_named) && is_served(app, name));
    let default = &app.config.chat.default_adapter;
    found.map_or(default, |(name, _)| name).clone()
}

/// The servers of an adapter that are `fit`, whose breakers are not open and that did not ask to be left alone. Checked before
/// any money moves: where there is none, the request fails at once.
pub(super) fn open_nodes(
    app: &App,
    adapter: &str,
    fit: impl Fn(&Node) -> bool,
) -> Result<Vec<Arc<Node>>> {
    let nodes = app.upstreams.nodes.iter();
    let nodes = nodes.filter(|node| node.serves(adapter) && fit(node));
    let now = app.clock.instant();
    let refusals = nodes.map(|node| (node, node.refusal(now)));
    let (open, refused): (Vec<_>, Vec<_>) = refusals.partition(|(_, refusal)| refusal.is_none());
    let refused = refused.into_iter().filter_map(|(_, refusal)| refusal);
    match refused.min_by_key(UpstreamError::retry_after) {
        _ if !open.is_empty() => Ok(open.into_iter().map(|(node, _)| Arc::clone(node)).collect()),
        Some(refusal) => Err(refusal.into()),
        None => Err(ApiError::new(
            ErrorCode::InferenceDisabled,
            "no inference server is configured for this adapter, and none was found",
        )),
    }
}
