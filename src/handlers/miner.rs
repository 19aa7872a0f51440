//! Miners: their samples and earnings in, their statistics and histories out.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, Format, Result, table};
use crate::error::ApiError;
use crate::http::response::{self, json, json_with_status};
use crate::model::{Credits, InputError, Sample, Timestamp, Wallet, Whole, exact_credits};
use crate::store::{
    Counted, Earning, HashratePoint, Resolution, StoreError, StoredResponse, WorkerStats, ledger_id,
};

pub(crate) async fn post_stats(ctx: Context) -> Result {
    let (app, principal) = (&ctx.app, ctx.principal()?);
    let now = app.clock.now();
    let retention = app.config.retention.raw;
    let oldest = retention.map(|retention| now.minus(retention));
    // A miner whose clock is right may send the time of a wall clock that is not believed yet.
    let latest = app.clock.latest();
    let samples = Sample::parse_batch(ctx.text()?, principal.wallet, oldest, now, latest)?;
    if samples.iter().any(|sample| !principal.owns(&sample.wallet)) {
        let detail = "a key records samples of its own wallet only";
        return Err(ApiError::forbidden(detail));
    }
    let accepted = samples.len();
    let max_workers = app.config.limits.workers_per_wallet;
    app.store.record_samples(samples, max_workers, now).await?;
    json_with_status(StatusCode::CREATED, &json!({ "accepted": accepted }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EarningRequest {
    wallet_address: Wallet,
    #[serde(deserialize_with = "exact_credits")]
    earnings: Credits,
    source_id: String,
    recorded_at: Option<Timestamp>,
}

pub(crate) async fn post_earnings(ctx: Context) -> Result {
    let actor = ctx.actor();
    let now = actor.at;
    let request: EarningRequest = ctx.json()?;
    let source = request.source_id.as_bytes();
    if request.earnings <= Credits::ZERO {
        return Err(InputError::member("earnings", "must be more than 0").into());
    }
    if !(1..=128).contains(&source.len()) || !source.iter().all(u8::is_ascii_graphic) {
        let detail = "must be 1 to 128 visible ASCII characters";
        return Err(InputError::member("source_id", detail).into());
    }
    let recorded_at = request.recorded_at.unwrap_or(now);
    let earning = Earning {
        wallet: request.wallet_address,
        earnings: request.earnings,
        source_id: request.source_id,
        recorded_at: Sample::check_not_ahead(recorded_at, "", ctx.app.clock.latest())?,
    };
    let stored = |counted: &Counted| StoredResponse {
        status: if counted.counted { 201 } else { 200 },
        answer: serde_json::to_string(counted).ok(),
        reference: counted.entry.map(ledger_id),
    };
    let idempotency = ctx.idempotency(None, stored)?;
    let done = ctx.app.store.record_earning(earning, actor, idempotency);
    response::idempotent(done.await?, stored)
}

pub(crate) async fn stats(ctx: Context) -> Result {
    let (wallet, now) = (ctx.wallet()?, ctx.app.clock.now());
    let mut stats = ctx.app.store.miner(wallet, now).await?;
    let compat = &ctx.app.config.compat;
    stats.hashrate = compat.unknown(stats.hashrate);
    stats.gpu_temperature = compat.unknown(stats.gpu_temperature);
    stats.blocks_found = compat.unknown(stats.blocks_found);
    stats.uptime_percentage = compat.unknown(stats.uptime_percentage);
    stats.network_difficulty = compat.unknown(stats.network_difficulty);
    json(&stats)
}

#[derive(Serialize)]
struct Workers {
    wallet_address: Wallet,
    workers: Vec<WorkerStats>,
}

pub(crate) async fn workers(ctx: Context) -> Result {
    let (wallet_address, now) = (ctx.wallet()?, ctx.app.clock.now());
    let limit = ctx.app.config.limits.workers_per_wallet;
    let workers = ctx.app.store.workers(wallet_address, now, limit).await?;
    json(&Workers {
        wallet_address,
        workers,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EarningsQuery {
    days: Option<Whole<1, 365>>,
    limit: Option<Whole<1, 500>>,
    offset: Option<Whole<0, 365>>,
}

pub(crate) async fn earnings(ctx: Context) -> Result {
    let wallet = ctx.wallet()?;
    let query: EarningsQuery = ctx.query()?;
    let days = query.days.map_or(7, Whole::count);
    let limit = query.limit.map_or(365, Whole::count);
    let offset = query.offset.map_or(0, Whole::count);
    // Whole UTC days, today the last of them.
    let today = ctx.app.clock.now().day();
    let since = today.minus(Duration::from_secs(86_400 * (days as u64 - 1)));
    let period = ctx.app.until_now(since);
    let days = ctx.app.store.earnings(wallet, period).await?;
    let days: Vec<_> = days.into_iter().skip(offset).take(limit).collect();
    // A JSON value would not hold the digits of an amount.
    json(&BTreeMap::from([("earnings", days)]))
}

/// Points of one answer at most.
const MAX_POINTS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashrateQuery {
    days: Option<Whole<1, 365>>,
    hours: Option<Whole<1, 8760>>,
    resolution: Option<Resolution>,
    format: Option<Format>,
}

pub(crate) async fn hashrate(ctx: Context) -> Result {
    let wallet = ctx.wallet()?;
    let query: HashrateQuery = ctx.query()?;
    let hours = match (query.days, query.hours) {
        (Some(_), Some(_)) => {
            return Err(ApiError::parameter("hours", "and days exclude each other"));
        }
        (None, Some(hours)) => hours.count(),
        (days, None) => days.map_or(7, Whole::count) * 24,
    };
    // Its points fit one response, however many workers there are.
    let (fitting, name) = match hours {
        0..=48 => (Resolution::Minute, "1m"),
        49..=1440 => (Resolution::Hour, "1h"),
        _ => (Resolution::Day, "1d"),
    };
    let finest = if hours <= 2 { Resolution::Raw } else { fitting };
    let (store, length) = (&ctx.app.store, Duration::from_secs(hours as u64 * 3600));
    let period = || ctx.app.until_now(ctx.app.clock.now().minus(length));
    let resolution = query.resolution.unwrap_or(finest);
    let read = |resolution| store.hashrate(wallet, period(), resolution, MAX_POINTS);
    let points = match read(resolution).await {
        Err(StoreError::TooMuch) if query.resolution.is_none() => read(fitting).await?,
        Err(StoreError::TooMuch) => {
            let detail = format!("gives more than 10,000 points; resolution={name} fits");
            return Err(ApiError::parameter("resolution", &detail));
        }
        points => points?,
    };
    let history = BTreeMap::from([("hashrate", points)]);
    let csv = |history: &BTreeMap<_, Vec<_>>| csv(history.values().flatten());
    table(&ctx, query.format, &history, csv, None)
}

fn csv<'a>(points: impl Iterator<Item = &'a HashratePoint>) -> String {
    let mut text = String::from("recorded_at,hashrate,hashrate_unit,min,max,samples\r\n");
    for point in points {
        let (time, unit) = (point.recorded_at, point.hashrate_unit.as_str());
        let (hashrate, min, max) = (point.hashrate, point.min, point.max);
        text += &format!("{time},{hashrate},{unit},{min},{max},{}\r\n", point.samples);
    }
    text
}
