use std::sync::Arc;

use crate::app::App;
use crate::billing::{Order, begin};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Fields, InputError, Wallet, text};
use crate::upstream::inference::Node;

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
        let header = call
            .header("x-wallet-address")?
            .map(Wallet::parse)
            .transpose()
            .map_err(|detail| ApiError {
                pointer: Some("X-Wallet-Address".to_owned()),
                ..ApiError::new(ErrorCode::InvalidWallet, detail)
            })?;
        let wallet = agreed(
            fields.wallet("wallet_address")?,
            header,
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
    let wallet = payer(call, request.wallet)?;
    let adapter = match request.adapter {
        Some(adapter) if app.adapters.contains(&adapter) => adapter,
        Some(_) => {
            return Err(
                InputError::field("/adapter", "adapter is none of those configured here").into(),
            );
        }
        None => adapter_for(app, &request.message),
    };
    // Before any money moves: an open breaker answers at once.
    let node = choose(app, &adapter)?;
    let order = Order {
        wallet,
        price: app.config.chat.price,
        message: request.message,
        adapter,
        node,
        place: Arc::clone(&call.place),
    };
    Ok(Reply::chat(begin(app, order).await?))
}

/// Whose credits are spent: those of the key's wallet.
fn payer(call: &Call, named: Option<Wallet>) -> Result<Wallet, ApiError> {
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

/// The first server of the adapter whose breaker lets something pass.
fn choose(app: &App, adapter: &str) -> Result<Arc<Node>, ApiError> {
    let mut soonest = None;
    for node in app
        .upstreams
        .nodes
        .iter()
        .filter(|node| node.serves(adapter))
    {
        match node.at.breaker().refusal() {
            None => return Ok(Arc::clone(node)),
            Some(wait) => {
                soonest =
                    Some(soonest.map_or(wait, |soonest: std::time::Duration| soonest.min(wait)))
            }
        }
    }
    Err(match soonest {
        Some(wait) => crate::upstream::UpstreamError::Open(wait).into(),
        None => ApiError::new(
            ErrorCode::InferenceDisabled,
            "no inference server is configured for this adapter, and none was found",
        ),
    })
}
