//! For the operator: health, metrics and alerts, version and time, copies of the database, the ledger's check, the
//! audit trail, breakers.

use std::sync::atomic::Ordering;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, PageQuery, Result, cursor, cut_page, page_size};
use crate::breaker::Phase;
use crate::error::{ApiError, ErrorCode};
use crate::http::response::{self, json, json_with_status};
use crate::model::percent_decoded;
use crate::store::{AuditEntry, Backups, LedgerReport, audit_id, parse_audit_id};
use crate::upstream::Endpoint;

/// The oldest clients that are served: the first ones of the R3MES backend, whose paths and fields are supported.
const OLDEST_CLIENT: [u32; 3] = [0, 1, 0];

/// The state of the server, without paths and addresses: it is public.
pub(crate) async fn health(ctx: Context) -> Result {
    let app = &ctx.app;
    let (store, ready) = (app.store.gauges(), app.store.is_ready());
    let draining = app.shutdown.is_draining();
    let chain_halted = app.chain_halted.load(Ordering::Acquire);
    let breakers: Vec<_> = app.upstreams.breakers().map(|b| b.status()).collect();
    let mut states = breakers.iter().map(|breaker| breaker.state);
    let closed = states.all(|state| state == Phase::Closed);
    let present = || {
        app.upstreams
            .nodes
            .iter()
            .filter(|node| node.at.is_present())
    };
    let need_operator = present().any(|node| node.standing.needs_operator());
    // One that never answered has a wrong address or token; its breaker may be closed.
    let never_answered = |at: &Endpoint| {
        let availability = &at.availability;
        availability.answered_at().is_none() && availability.failure().is_some()
    };
    let all_answer = !app.upstreams.polled().any(never_answered);
    let answers = |name| {
        let mut polled = app.upstreams.polled();
        polled.any(|at| at.breaker.name() == name && !never_answered(at))
    };
    let is_ok = ready && closed && !draining && !chain_halted && !need_operator && all_answer;
    let now = app.clock.instant();
    let nodes: Vec<_> = present().map(|node| node.status(now)).collect();
    let uptime = app.clock.instant().saturating_duration_since(app.started);
    let mut health = json!({
        "status": if is_ok { "ok" } else { "degraded" },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime.as_secs(),
        "draining": draining,
        "storage": {
            "ready": ready,
            "write_queue": store.queue_depth,
            "pool_in_use": store.pool_in_use,
            "pool_size": store.pool_size,
            "holds": store.holds,
        },
        "inference": !nodes.is_empty(),
        "nodes": nodes,
        "chain": answers("chain"),
        "chain_halted": chain_halted,
        "miner": answers("miner"),
        "breakers": breakers,
    });
    for (name, size) in [
        ("file_bytes", store.file_bytes),
        ("wal_bytes", store.wal_bytes),
    ] {
        if let Some(size) = size {
            health["storage"][name] = size.into();
        }
    }
    json(&health)
}

/// The process answers.
pub(crate) async fn livez(_: Context) -> Result {
    json(&json!({ "status": "alive" }))
}

/// The storage accepts writes and the server is not shutting down. Reads memory only.
pub(crate) async fn readyz(ctx: Context) -> Result {
    if ctx.app.shutdown.is_draining() {
        return Err(ApiError::shutting_down());
    }
    if !ctx.app.store.is_ready() {
        let detail = "the storage rejects writes";
        return Err(ApiError::new(ErrorCode::StorageUnavailable, detail));
    }
    json(&json!({ "status": "ready" }))
}

/// The alerts as of now.
pub(crate) async fn alerts(ctx: Context) -> Result {
    let (firing, recent) = crate::monitoring::evaluate(&ctx.app).await;
    json(&json!({ "firing": firing, "recent": recent }))
}

pub(crate) async fn metrics(ctx: Context) -> Result {
    let open_metrics = ctx.prefers("application/openmetrics-text", "text/plain");
    crate::monitoring::refresh_gauges(&ctx.app);
    let page = ctx.app.metrics.page(open_metrics);
    let (content_type, text) = page.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(response::by_accept(response::bytes(
        StatusCode::OK,
        content_type,
        text.into(),
    )))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionQuery {
    version: Option<String>,
}

/// Whether a client of the version in the query is too old for this server.
pub(crate) async fn version(ctx: Context) -> Result {
    let VersionQuery { version } = ctx.query()?;
    let detail = "must be three numbers with dots between them: 1.0.0";
    let invalid = || ApiError::parameter("version", detail);
    let parse = |text: String| parse_version(&text).ok_or_else(invalid);
    let client = version.map(parse).transpose()?;
    let [major, minor, patch] = OLDEST_CLIENT;
    json(&json!({
        "current_version": env!("CARGO_PKG_VERSION"),
        "min_version": format!("{major}.{minor}.{patch}"),
        "update_required": client.is_some_and(|client| client < OLDEST_CLIENT),
    }))
}

/// Major, minor and patch of a version, each of at most nine digits.
fn parse_version(text: &str) -> Option<[u32; 3]> {
    let number = |part: &str| match part.len() {
        ..10 if !part.starts_with('+') => part.parse().ok(),
        _ => None,
    };
    let numbers: Option<Vec<u32>> = text.split('.').map(number).collect();
    numbers?.try_into().ok()
}

/// The server's time, for clients that check their own clock.
pub(crate) async fn time(ctx: Context) -> Result {
    let now = ctx.app.clock.now();
    json(&json!({
        "server_time": now.millis().div_euclid(1000),
        "server_time_iso": now,
        "timezone": "UTC",
    }))
}

/// The HTTP contract, for programs.
pub(crate) async fn openapi(_: Context) -> Result {
    Ok(response::file("application/json", crate::openapi::DOCUMENT))
}

/// The backups of the store, if it makes any.
fn backups_of(ctx: &Context) -> Result<&dyn Backups> {
    let none = "the storage of this server makes no backups; use those of its own database";
    let none = || ApiError::new(ErrorCode::NotSupported, none);
    ctx.app.store.backups().ok_or_else(none)
}

/// Copies the database into the configured folder.
pub(crate) async fn back_up(ctx: Context) -> Result {
    let backup = ctx.app.back_up(backups_of(&ctx)?, None).await?;
    ctx.record_action("backup.create", &backup.file).await;
    json_with_status(StatusCode::CREATED, &backup)
}

/// Lists the backups in the configured folder.
pub(crate) async fn backups(ctx: Context) -> Result {
    const MOST: usize = 1000;
    let folder = ctx.app.config.backup.folder().map(Into::into);
    json(&backups_of(&ctx)?.list(folder, MOST).await?)
}

#[derive(Serialize)]
struct Verified {
    name: String,
    ledger: LedgerReport,
}

/// Checks a backup in the configured folder: every page, and every wallet's ledger.
pub(crate) async fn verify_backup(ctx: Context) -> Result {
    let folder = ctx.app.config.backup.folder().map(Into::into);
    let unknown = || {
        let detail = "no backup has this name; see GET /admin/backups";
        ApiError::new(ErrorCode::NotFound, detail)
    };
    let name = percent_decoded(&ctx.path_param).ok_or_else(unknown)?;
    let verified = backups_of(&ctx)?.verify(folder, name.clone()).await?;
    let ledger = verified.ok_or_else(unknown)?;
    for error in &ledger.mistakes {
        log::error!("backup {name}: {error}");
    }
    json(&Verified { name, ledger })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyQuery {
    #[serde(default)]
    full: bool,
}

/// Checks what is new in the ledger, or all of it.
pub(crate) async fn verify_ledger(ctx: Context) -> Result {
    let VerifyQuery { full } = ctx.query()?;
    let report = ctx.app.verify_ledger(full).await?;
    for error in &report.mistakes {
        log::error!("ledger: {error}");
    }
    json(&report)
}

/// Believes the wall clock at once, instead of after an hour.
pub(crate) async fn accept_clock(ctx: Context) -> Result {
    let app = &ctx.app;
    if !app.clock.accept() {
        let detail = "the clock of this machine is before 2020; set it first";
        return Err(ApiError::new(ErrorCode::Conflict, detail));
    }
    app.record_clock().await?;
    let now = app.clock.now();
    ctx.record_action("clock.accept", &now.to_string()).await;
    json(&json!({ "server_time_iso": now }))
}

#[derive(Serialize)]
struct Audit {
    entries: Vec<AuditEntry>,
    next_cursor: Option<String>,
}

/// Who made which administrative change.
pub(crate) async fn audit(ctx: Context) -> Result {
    let query: PageQuery = ctx.query()?;
    let limit = page_size(query.limit);
    let before = cursor(query.cursor, parse_audit_id)?;
    let mut entries = ctx.app.store.audit(before, limit + 1).await?;
    let next_cursor = cut_page(&mut entries, limit, |entry| audit_id(entry.id));
    json(&Audit {
        entries,
        next_cursor,
    })
}

/// The state of each upstream's breaker.
pub(crate) async fn breakers(ctx: Context) -> Result {
    let breakers: Vec<_> = ctx.app.upstreams.breakers().map(|b| b.status()).collect();
    json(&json!({ "breakers": breakers }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerRequest {
    state: BreakerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum BreakerState {
    Open,
    Reset,
}

/// Opens a breaker until it is reset, or resets it.
pub(crate) async fn set_breaker(ctx: Context) -> Result {
    let body: BreakerRequest = ctx.json()?;
    let unknown = || ApiError::new(ErrorCode::NotFound, "no upstream has this name");
    let mut breakers = ctx.app.upstreams.breakers();
    let breaker = breakers.find(|breaker| breaker.name() == ctx.path_param);
    let breaker = breaker.ok_or_else(unknown)?;
    let action = match body.state {
        BreakerState::Open => {
            breaker.force_open();
            "breaker.open"
        }
        BreakerState::Reset => {
            breaker.reset();
            "breaker.reset"
        }
    };
    ctx.record_action(action, breaker.name()).await;
    json(&breaker.status())
}
