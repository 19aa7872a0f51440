//! `POST /chat`: one message of a wallet, answered as plain text. The money is in `billing`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Context, Result};
use crate::app::App;
use crate::billing::{InFlightGuard, Order, begin};
use crate::error::{ApiError, ErrorCode};
use crate::http::response;
use crate::model::{Credits, InputError, Wallet};
use crate::store::{ChargedAnswer, IdempotentRequest};
use crate::upstream::UpstreamError;
use crate::upstream::answer::ResponseFormat;
use crate::upstream::inference::api::Api;
use crate::upstream::inference::{InferenceRequest, Node, Prompt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatRequest {
    message: String,
    adapter: Option<String>,
    wallet_address: Option<Wallet>,
}

const WALLET_HEADER: &str = "X-Wallet-Address";

/// What a whole answer cost.
pub(super) const CREDITS_CHARGED: HeaderName = HeaderName::from_static("x-credits-charged");

/// The wallet that the header names.
pub(super) fn wallet_header(ctx: &Context) -> Result<Option<Wallet>> {
    let wallet = ctx.header(WALLET_HEADER)?.map(Wallet::parse).transpose();
    wallet.map_err(|detail| ApiError::wallet(WALLET_HEADER, detail))
}

/// The value of a member or of the header that may replace it.
pub(super) fn agreed<T: PartialEq>(
    name: &str,
    field: Option<T>,
    header: Option<T>,
) -> Result<Option<T>> {
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
    let wallet = payer(&ctx, wallet).await?;
    let adapter = match adapter {
        Some(name) => match app.resolve(&name).await {
            Some(adapter) => adapter,
            None => {
                let detail = "unknown adapter; see GET /v1/models";
                return Err(InputError::field("/adapter", detail).into());
            }
        },
        None => adapter_for(&ctx, &request.message),
    };
    check_model(&ctx, &adapter)?;
    let nodes = open_nodes(app, &adapter, Api::ChatCompletions, |_| true)?;
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
    let mut terms = app.terms(&adapter);
    let reads_context = terms.context_length.is_none() && terms.price.is_by_tokens();
    terms.context_length = terms.context_length.or_else(|| {
        let lengths = nodes.iter().map(|node| node.context_length());
        // Whichever of them answers.
        lengths
            .reduce(|one, other| Some(one?.max(other?)))
            .flatten()
    });
    let (own, choices, bytes, bound) = match &prompt {
        Prompt::Message(text) => (None, 1, text.len(), terms.prompt_bound(1, text.len(), 0)),
        Prompt::Request(asked, _) => {
            let bound = asked.prompt_bound(&terms);
            (asked.max_tokens, asked.choices, asked.prompt_bytes(), bound)
        }
    };
    if !format.api().has_output() {
        terms.max_output_tokens = None;
    }
    let is_priced = terms.price.completion > Credits::ZERO;
    if choices > 1 && !is_priced {
        let detail = "must be 1: answers of this model have no price of their own";
        return Err(InputError::member("n", detail).into());
    }
    let max_tokens = own.into_iter().chain(terms.max_output_tokens).min();
    let is_whole = matches!(format, ResponseFormat::Whole { .. });
    let order = Order {
        operation: ctx.operation,
        wallet,
        key_id: ctx.principal.as_ref().map(|key| key.key_id.clone()),
        limits: ctx.principal.as_ref().and_then(|key| key.limits.clone()),
        concurrency: ctx.concurrency.clone(),
        price: terms.price,
        prompt_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        prompt_bound: bound,
        is_counted: false,
        request: Arc::new(InferenceRequest {
            name: adapter.clone(),
            // An R3MES node has no name for the default adapter.
            lora: (adapter != chat.default_adapter).then(|| adapter.clone()),
            max_tokens,
            reads_context,
            max_pieces: max_tokens
                .filter(|_| is_priced)
                .map(|most| 2 * u64::from(choices) * u64::from(most)),
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
    let memory = reserve_memory(app, &order.request)?;
    let body = begin(&app.billing, order).await?;
    let mut response = response::bytes(StatusCode::OK, content_type, Bytes::new());
    if !is_whole {
        // nginx hands each piece on at once, though it buffers by default.
        let name = HeaderName::from_static("x-accel-buffering");
        response::set(response.headers_mut(), name, "no");
    }
    if let Some(charged) = body.charged.filter(|_| is_whole) {
        response::set(response.headers_mut(), CREDITS_CHARGED, charged.to_string());
    }
    let body = body.map_frame(move |frame| {
        // Held until the answer is written.
        let _ = &memory;
        frame
    });
    Ok(response.map(|_| body.boxed_unsync()))
}

/// What a whole answer with embeddings may take of the memory that there is for all of them; others are small.
fn reserve_memory(app: &App, request: &InferenceRequest) -> Result<Option<OwnedSemaphorePermit>> {
    if request.format.api() != Api::Embeddings {
        return Ok(None);
    }
    let mebibytes = request.max_bytes().div_ceil(1 << 20) as u32;
    let reserved = Arc::clone(&app.embeddings).try_acquire_many_owned(mebibytes);
    let detail = "too many embeddings at once; retry shortly, or with fewer inputs";
    let reserved = reserved.map_err(|_| ApiError::new(ErrorCode::Overloaded, detail))?;
    Ok(Some(reserved))
}

/// The wallet that pays: that of the key, unless it is blocked.
pub(super) async fn payer(ctx: &Context, named: Option<Wallet>) -> Result<Wallet> {
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
        (Some(wallet), _) => ctx.check_not_blocked().map(|()| wallet),
        (None, Some(wallet)) => match ctx.app.store.user(wallet).await?.blocked {
            true => Err(ApiError::blocked()),
            false => Ok(wallet),
        },
        (None, None) => {
            let detail = "is required with an admin key";
            Err(InputError::member("wallet_address", detail).into())
        }
    }
}

/// Refuses an adapter that the limits of the key do not leave to the caller.
pub(super) fn check_model(ctx: &Context, adapter: &str) -> Result<()> {
    let (app, caller) = (&ctx.app, ctx.principal.as_ref());
    if app.may_use(caller, adapter) {
        return Ok(());
    }
    let detail =
        format!("this key may not use the model {adapter}; GET /v1/models lists those that it may");
    Err(ApiError::new(ErrorCode::ModelNotAllowed, detail))
}

/// The first adapter with a keyword in the message that a server has and the key may use; else the default.
fn adapter_for(ctx: &Context, message: &str) -> String {
    let (app, caller) = (&ctx.app, ctx.principal.as_ref());
    let message = message.to_lowercase();
    let is_named = |word: &String| message.contains(&word.to_lowercase());
    // Keywords are those of configured adapters, which may be named like a server's model.
    let is_served = |name| {
        !app.upstreams
            .serving(name, Some(Api::ChatCompletions))
            .is_empty()
    };
    let adapters = app.config.adapters.iter();
    let found = adapters
        .filter(|(name, _)| app.may_use(caller, name))
        .find(|(name, adapter)| adapter.keywords.iter().any(is_named) && is_served(name));
    let default = &app.config.chat.default_adapter;
    found.map_or(default, |(name, _)| name).clone()
}

/// The servers of an adapter that are `fit`, whose breakers are not open and that did not ask to be left alone. Checked before
/// any money moves: where there is none, the request fails at once.
pub(super) fn open_nodes(
    app: &App,
    adapter: &str,
    api: Api,
    fit: impl Fn(&Node) -> bool,
) -> Result<Vec<Arc<Node>>> {
    let serving = app.upstreams.serving(adapter, Some(api));
    if serving.is_empty() && app.is_served(adapter) {
        let path = api.path();
        let detail = format!("no inference server of the model {adapter} serves {path}");
        return Err(ApiError::new(ErrorCode::NotSupported, detail));
    }
    let nodes = serving.into_iter().filter(|node| fit(node));
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
