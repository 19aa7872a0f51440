//! The routes of OpenAI's API, for its clients.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::chat::{CREDITS_CHARGED, agreed, answer, check_model, open_nodes, payer, wallet_header};
use super::{Context, Result};
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::http::response;
use crate::model::guard::check_counted;
use crate::model::{Credits, Price, Wallet, members, new_id, percent_decoded};
use crate::store::{ChargedAnswer, StoredResponse, ledger_id};
use crate::upstream::UpstreamError;
use crate::upstream::answer::{CompletionMeta, ResponseFormat, from_stored};
use crate::upstream::inference::api::Api;
use crate::upstream::inference::{InferenceRequest, Node, Prompt};
use crate::upstream::request::ApiRequest;

/// An adapter or an alias of one, with what it costs.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    context_length: Option<u32>,
    max_output_tokens: Option<u32>,
    price: PriceTable,
}

#[derive(Serialize)]
struct PriceTable {
    request: Credits,
    prompt: Credits,
    cached_prompt: Credits,
    completion: Credits,
}

impl<'a> Model<'a> {
    fn new(app: &App, id: &'a str, adapter: &str) -> Self {
        let terms = app.terms(adapter);
        Self {
            id,
            object: "model",
            created: app.clock.now().millis() / 1000,
            owned_by: "r3mes-edge",
            context_length: terms.context_length,
            max_output_tokens: terms.max_output_tokens,
            price: PriceTable {
                request: terms.price.request,
                prompt: terms.price.prompt,
                cached_prompt: terms.price.cached_prompt,
                completion: terms.price.completion,
            },
        }
    }
}

/// What the caller may ask for, as models. The lists of servers are read again from time to time.
pub(crate) async fn models(ctx: Context) -> Result {
    const AGE: Duration = Duration::from_secs(10);
    let app = &ctx.app;
    app.upstreams.read_models(AGE).await;
    let names = app.served_names(ctx.principal.as_ref());
    let models = names
        .iter()
        .map(|(id, adapter)| Model::new(app, id, adapter));
    // A JSON value would not hold the digits of an amount.
    #[derive(Serialize)]
    struct Models<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    response::json(&Models {
        object: "list",
        data: models.collect(),
    })
}

pub(crate) async fn model(ctx: Context) -> Result {
    let app = &ctx.app;
    let id = percent_decoded(&ctx.path_param).ok_or_else(|| unknown_model(&ctx))?;
    let adapter = app.resolve(&id).await;
    let adapter = adapter.filter(|adapter| app.is_served(adapter));
    let adapter = adapter.ok_or_else(|| unknown_model(&ctx))?;
    check_model(&ctx, &adapter)?;
    response::json(&Model::new(app, &id, &adapter))
}

/// The error for a name that no model has.
fn unknown_model(ctx: &Context) -> ApiError {
    const MOST: usize = 20;
    let names = ctx.app.served_names(ctx.principal.as_ref());
    let names: Vec<_> = names.into_keys().take(MOST).collect();
    let known = match names.is_empty() {
        true => "none is known".to_owned(),
        false => format!("known are {}", names.join(", ")),
    };
    let detail = format!("unknown model; {known}; see GET /v1/models");
    ApiError::new(ErrorCode::ModelNotFound, detail)
}

pub(crate) async fn chat_completions(ctx: Context) -> Result {
    pass_on(ctx, Api::ChatCompletions).await
}

pub(crate) async fn completions(ctx: Context) -> Result {
    pass_on(ctx, Api::Completions).await
}

pub(crate) async fn embeddings(ctx: Context) -> Result {
    pass_on(ctx, Api::Embeddings).await
}

pub(crate) async fn messages(ctx: Context) -> Result {
    pass_on(ctx, Api::Messages).await
}

pub(crate) async fn rerank(ctx: Context) -> Result {
    pass_on(ctx, Api::Rerank).await
}

pub(crate) async fn responses(ctx: Context) -> Result {
    pass_on(ctx, Api::Responses).await
}

/// How many tokens the prompt of a message has: as a server counts them, else by this server's estimate.
pub(crate) async fn count_tokens(ctx: Context) -> Result {
    let (app, api) = (&ctx.app, Api::Messages);
    let text = ctx.text()?;
    check_counted(&members(text, "")?)?;
    let request = ApiRequest::parse(api, text)?;
    let (wallet, adapter) = payer_and_adapter(&ctx, &request).await?;
    check_passed(app, &adapter, &request)?;
    let nodes = match open_nodes(app, &adapter, api, |node: &Node| node.fits(&request, false)) {
        Err(error) if error.code == ErrorCode::InferenceDisabled => return Err(error),
        nodes => nodes.unwrap_or_default(),
    };
    // As answers without a reported usage are charged.
    let estimate = request.prompt_bytes().div_ceil(4);
    let meta = CompletionMeta::default();
    let request = InferenceRequest {
        name: adapter,
        prompt: Prompt::Request(Box::new(request), None),
        format: ResponseFormat::Whole { api, meta },
        lora: None,
        max_tokens: None,
        reads_context: false,
        max_pieces: None,
    };
    let counted = app
        .billing
        .count_prompt(nodes, wallet, &request, &ctx.timings)
        .await;
    let input_tokens = match counted {
        Some((_, count)) => count.tokens,
        None => i64::try_from(estimate).unwrap_or(i64::MAX),
    };
    response::json(&json!({ "input_tokens": input_tokens }))
}

/// Who pays for a request, and the adapter of its model.
async fn payer_and_adapter(ctx: &Context, request: &ApiRequest) -> Result<(Wallet, String)> {
    let app = &ctx.app;
    let wallet = agreed(
        "wallet_address",
        request.wallet_address,
        wallet_header(ctx)?,
    )?;
    let wallet = payer(ctx, wallet).await?;
    let adapter = match &request.model {
        None => app.config.chat.default_adapter.clone(),
        Some(model) => match app.resolve(model).await {
            Some(adapter) => adapter,
            None => return Err(unknown_model(ctx).at("/model")),
        },
    };
    check_model(ctx, &adapter)?;
    Ok((wallet, adapter))
}

/// Refuses members of a request that none of an adapter's servers gets.
fn check_passed(app: &App, adapter: &str, request: &ApiRequest) -> Result<()> {
    let serving = app.upstreams.serving(adapter, Some(request.api));
    if serving.is_empty() {
        return Ok(());
    }
    Ok(request.check_passed(serving.into_iter().map(|node| node.pass()))?)
}

/// Passes a request on to an inference server, for its price.
async fn pass_on(ctx: Context, api: Api) -> Result {
    let app = &ctx.app;
    let request = ApiRequest::parse(api, ctx.text()?)?;
    let (wallet, adapter) = payer_and_adapter(&ctx, &request).await?;
    check_price(app, &adapter, api)?;
    if !api.has_output() {
        // Which server has a model for it decides who is asked.
        app.upstreams.read_models(Duration::MAX).await;
    }
    check_passed(app, &adapter, &request)?;
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
        if let Some(mut stored) = earlier.await? {
            let (answer, charged) = stored.answer.map(from_stored).unzip();
            stored.answer = answer;
            let mut response = response::replayed(stored)?;
            if let Some(charged) = charged.flatten() {
                response::set(response.headers_mut(), CREDITS_CHARGED, charged);
            }
            return Ok(response);
        }
        let scope = once.scope.clone();
        app.store.check_idempotency_rows(scope, count, now).await?;
        stored_once = Some((once, running));
    }
    let text = request.as_text();
    let fit = |node: &Node| node.fits(&request, text.is_ok());
    let nodes = match (open_nodes(app, &adapter, api, fit), &text) {
        // Only text-only servers are left, so the client has to change the request.
        (Err(error), Err(refused))
            if error.code == ErrorCode::InferenceDisabled && app.is_served(&adapter) =>
        {
            return Err(match api {
                Api::ChatCompletions => refused.clone().into(),
                _ => UpstreamError::NotServed.into(),
            });
        }
        (nodes, _) => nodes?,
    };
    let meta = CompletionMeta {
        id: new_id(api.id_prefix()),
        created: now.millis() / 1000,
        model: adapter.clone(),
    };
    let include_usage = request.wants_usage;
    let format = match request.stream {
        true => ResponseFormat::Events {
            api,
            include_usage,
            meta,
        },
        false => ResponseFormat::Whole { api, meta },
    };
    let prompt = Prompt::Request(Box::new(request), text.ok());
    let name = adapter.clone();
    let answered = answer(&ctx, wallet, adapter, nodes, prompt, format, stored_once).await;
    match answered {
        Err(error) if error.code == ErrorCode::NotSupported => {
            // The model was there when it was asked for, and is not in the list that was read since.
            if app.resolve(&name).await.is_none() {
                return Err(unknown_model(&ctx).at("/model"));
            }
            // One that could not be asked may serve it.
            Err(match open_nodes(app, &name, api, |_| true) {
                Err(later) if later.code != ErrorCode::InferenceDisabled => later,
                _ => error,
            })
        }
        answered => answered,
    }
}

/// Refuses embeddings and ranks of a model whose answers alone have a price: they have none, and would be free.
fn check_price(app: &App, adapter: &str, api: Api) -> Result<()> {
    let price = app.terms(adapter).price;
    let is_free = price == Price::per_request(Credits::ZERO);
    if api.has_output() || is_free || [price.request, price.prompt] != [Credits::ZERO; 2] {
        return Ok(());
    }
    let path = api.path();
    let detail = format!(
        "{path} has no price for the model {adapter}: its operator has to set prompt or request in adapters.{adapter:?}.price"
    );
    Err(ApiError::new(ErrorCode::NotSupported, detail))
}
