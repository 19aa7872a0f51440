use hyper::StatusCode;
use hyper::header::ACCEPT;
use serde_json::json;

use crate::app::App;
use crate::breaker::Phase;
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Fields, text};

/// The oldest clients whose calls are answered: the first ones of the R3MES backend, whose paths and fields are kept.
const OLDEST_CLIENT: [u32; 3] = [0, 1, 0];

/// How the node is, in detail but without paths and addresses: strangers may read it.
pub(super) fn health(app: &App) -> Result<Reply, ApiError> {
    let store = app.store.gauges();
    let ready = app.store.is_ready();
    let breakers: Vec<_> = app.upstreams.breakers().map(|b| b.status()).collect();
    let all_closed = breakers
        .iter()
        .all(|breaker| breaker.state == Phase::Closed);
    let status = if ready && all_closed && !app.is_draining() && !app.is_chain_halted() {
        "ok"
    } else {
        "degraded"
    };
    let body = json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.clock.instant().saturating_duration_since(app.started).as_secs(),
        "draining": app.is_draining(),
        "storage": {
            "ready": ready,
            "write_queue": store.queue_depth,
            "pool_in_use": store.pool_in_use,
            "pool_size": store.pool_size,
            "file_bytes": store.file_bytes,
            "wal_bytes": store.wal_bytes,
            "reservations_unwritten": app.unwritten.len(),
        },
        "inference": app.upstreams.nodes.iter().any(|node| node.at.is_present()),
        "chain": app.upstreams.chain().is_some(),
        "chain_halted": app.is_chain_halted(),
        "miner": app.upstreams.miner.iter().any(|miner| miner.at.is_present()),
        "breakers": breakers,
    });
    Reply::json(StatusCode::OK, &body)
}

/// The process answers.
pub(super) fn livez() -> Result<Reply, ApiError> {
    Reply::json(StatusCode::OK, &json!({ "status": "alive" }))
}

/// The storage takes writes and nobody told the server to stop. Looks at memory only.
pub(super) fn readyz(app: &App) -> Result<Reply, ApiError> {
    if app.is_draining() {
        return Err(ApiError::shutting_down());
    }
    if !app.store.is_ready() {
        return Err(ApiError::new(
            ErrorCode::StorageUnavailable,
            "the storage takes no writes",
        ));
    }
    Reply::json(StatusCode::OK, &json!({ "status": "ready" }))
}

/// What is wrong and what was, as of now.
pub(super) async fn alerts(app: &App) -> Result<Reply, ApiError> {
    let (firing, recent) = crate::watch::evaluate(app).await;
    let body = json!({ "firing": firing, "recent": recent });
    Reply::json(StatusCode::OK, &body)
}

pub(super) fn metrics(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let accept = call
        .headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let open_metrics = accept.contains("application/openmetrics-text");
    app.measure();
    let page = app
        .metrics
        .page(open_metrics)
        .map_err(|error| ApiError::internal(format!("metrics: {error}")))?;
    Ok(Reply::bytes(StatusCode::OK, page.0, page.1.into()))
}

/// Whether a client of the version that the query names is too old for this server.
pub(super) fn version(call: &Call) -> Result<Reply, ApiError> {
    let parameters = call.parameters(&["version"])?;
    let client = match parameters.get("version") {
        Some(text) => Some(numbers(text).ok_or_else(|| {
            ApiError::parameter(
                "version",
                "must be three numbers with dots between them: 1.0.0",
            )
        })?),
        None => None,
    };
    let [major, minor, patch] = OLDEST_CLIENT;
    Reply::json(
        StatusCode::OK,
        &json!({
            "current_version": env!("CARGO_PKG_VERSION"),
            "min_version": format!("{major}.{minor}.{patch}"),
            "update_required": client.is_some_and(|client| client < OLDEST_CLIENT),
        }),
    )
}

/// Major, minor and patch of a version, each of at most nine digits.
fn numbers(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split('.').map(|part| {
        let digits = (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    });
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

/// The time here, for clients that look how far theirs is off.
pub(super) fn time(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let now = app.clock.now();
    Reply::json(
        StatusCode::OK,
        &json!({
            "server_time": now.millis().div_euclid(1000),
            "server_time_iso": now,
            "timezone": "UTC",
        }),
    )
}

/// The contract, for programs that read it.
pub(super) fn openapi() -> Reply {
    Reply::fixed("application/json", crate::openapi::document())
}

/// Copies the database into the configured folder.
pub(super) async fn back_up(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    Reply::json(StatusCode::CREATED, &app.back_up().await?)
}

pub(super) async fn verify_ledger(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let report = app.verify_ledger().await?;
    for mistake in &report.mistakes {
        log::error!("ledger: {mistake}");
    }
    Reply::json(StatusCode::OK, &report)
}

/// What the breaker before each upstream is doing.
pub(super) fn breakers(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let breakers: Vec<_> = app.upstreams.breakers().map(|b| b.status()).collect();
    Reply::json(StatusCode::OK, &json!({ "breakers": breakers }))
}

/// Opens a breaker until it is reset, or resets it.
pub(super) fn set_breaker(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let fields = Fields::parse(call.text()?, "", &["state"])?;
    let open = fields.required("state", |value| match &*text(value)? {
        "open" => Ok(true),
        "reset" => Ok(false),
        _ => Err("must be open or reset"),
    })?;
    let mut breakers = app.upstreams.breakers();
    let breaker = breakers
        .find(|breaker| breaker.name() == call.part)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no upstream has this name"))?;
    if open {
        breaker.force_open();
    } else {
        breaker.reset();
    }
    Reply::json(StatusCode::OK, &breaker.status())
}
