use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::billing::{Order, begin};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Fields, InputError, Wallet, text};
use crate::upstream::UpstreamError;
use crate::upstream::answer::ResponseFormat;
use crate::upstream::inference::{InferenceRequest, Node, Prompt};

/// What a client asks for.
struct Request {
    message: String,
    adapter: Option<String>,
    wallet: Option<Wallet>,
}

impl Request {
    fn parse(call: &Call, most: usize) -> Result<Self, ApiError> {
        let fields = Fields::parse(call.text()?, "", &["message", "adapter", "wallet_address"])?;
        let message = fields.required("message", |value| {
            let message = text(value)?;
            match message.chars().count() {
                0 => Err("must not be empty".to_owned()),
                n if n > most => Err(format!("has {n} characters; at most {most} are taken")),
                _ => Ok(message.into_owned()),
            }
        })?;
        let adapter = fields.optional("adapter", |value| {
            text(value).map(std::borrow::Cow::into_owned)
        })?;
        let header = call.header("x-adapter")?.map(str::to_owned);
        let adapter = agreed(adapter, header, "adapter", "X-Adapter")?;
        let wallet = agreed(
            fields.wallet("wallet_address")?,
            wallet_header(call)?,
            "wallet_address",
            "X-Wallet-Address",
        )?;
        Ok(Self {
            message,
            adapter,
            wallet,
        })
    }
}

/// The wallet that the header names.
pub(super) fn wallet_header(call: &Call) -> Result<Option<Wallet>, ApiError> {
    let header = call.header("x-wallet-address")?.map(Wallet::parse);
    header.transpose().map_err(|detail| ApiError {
        pointer: Some("X-Wallet-Address".to_owned()),
        ..ApiError::new(ErrorCode::InvalidWallet, detail)
    })
}

fn agreed<T: PartialEq>(
    field: Option<T>,
    header: Option<T>,
    name: &str,
    header_name: &str,
) -> Result<Option<T>, ApiError> {
    match (field, header) {
        (Some(field), Some(header)) if field != header => Err(InputError::field(
            format!("/{name}"),
            format!("{name} and the header {header_name} differ"),
        )
        .into()),
        (field, header) => Ok(field.or(header)),
    }
}

pub(super) async fn chat(app: &Arc<App>, call: &Call) -> Result<Reply, ApiError> {
    let request = Request::parse(call, app.config.chat.max_message)?;
    call.refuse_idempotency_key()?;
    let wallet = payer(call, request.wallet)?;
    let adapter = match request.adapter {
        Some(adapter) if app.adapters.contains(&adapter) => adapter,
        Some(_) => {
            return Err(
                InputError::field("/adapter", "unknown adapter; see GET /v1/models").into(),
            );
        }
        None => adapter_for(app, &request.message),
    };
    let ask = InferenceRequest {
        lora: lora(app, &adapter),
        prompt: Prompt::Message(request.message),
        form: ResponseFormat::Text,
    };
    let order = Order {
        wallet,
        price: app.config.chat.price,
        nodes: open_nodes(app, &adapter, |_| true)?,
        ask,
        adapter,
        once: None,
        trace: Arc::clone(&call.trace),
        place: Arc::clone(&call.place),
    };
    let body = begin(app, order).await?;
    Ok(Reply::chat("text/plain; charset=utf-8", body))
}

/// What an R3MES node calls an adapter: the default one has no name there.
pub(super) fn lora(app: &App, adapter: &str) -> Option<String> {
    (adapter != app.config.chat.default_adapter).then(|| adapter.to_owned())
}

/// Whose credits are spent: those of the key's wallet.
pub(super) fn payer(call: &Call, named: Option<Wallet>) -> Result<Wallet, ApiError> {
    let Some(principal) = &call.principal else {
        return Err(match named {
            None => ApiError::new(
                ErrorCode::MissingChatIdentity,
                "Either API key or wallet_address is required",
            ),
            Some(_) => {
                let detail = "a wallet's name alone proves nothing: send a key of it as X-API-Key or Authorization: Bearer";
                ApiError::new(ErrorCode::MissingCredentials, detail)
            }
        });
    };
    match (principal.wallet, named) {
        (Some(own), None) => Ok(own),
        (Some(own), Some(named)) if own == named => Ok(own),
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::Forbidden,
            "this key belongs to another wallet",
        )),
        (None, Some(named)) => Ok(named),
        (None, None) => Err(InputError::field(
            "/wallet_address",
            "wallet_address is required with an admin key",
        )
        .into()),
    }
}

/// By the first adapter one of whose keywords the message holds, if a server has it; else the default.
fn adapter_for(app: &App, message: &str) -> String {
    let message = message.to_lowercase();
    let fits = |keywords: &[String]| {
        keywords
            .iter()
            .any(|word| message.contains(&word.to_lowercase()))
    };
    let served = |adapter: &str| app.upstreams.nodes.iter().any(|node| node.serves(adapter));
    let found = app
        .config
        .adapters
        .iter()
        .find(|(name, adapter)| fits(&adapter.keywords) && served(name));
    found.map_or_else(
        || app.config.chat.default_adapter.clone(),
        |(name, _)| name.clone(),
    )
}

/// The servers of an adapter that are `fit` and whose breakers let something pass. Asked before any money moves: where
/// none does, the answer comes at once.
pub(super) fn open_nodes(
    app: &App,
    adapter: &str,
    fit: impl Fn(&Node) -> bool,
) -> Result<Vec<Arc<Node>>, ApiError> {
    let mut soonest: Option<Duration> = None;
    let mut open = Vec::new();
    let nodes = app.upstreams.nodes.iter();
    for node in nodes.filter(|node| node.serves(adapter) && fit(node)) {
        match node.at.breaker().refusal() {
            None => open.push(Arc::clone(node)),
            Some(wait) => soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait))),
        }
    }
    match soonest {
        _ if !open.is_empty() => Ok(open),
        Some(wait) => Err(UpstreamError::Open(wait).into()),
        None => Err(ApiError::new(
            ErrorCode::InferenceDisabled,
            "no inference server is configured for this adapter, and none was found",
        )),
    }
}
