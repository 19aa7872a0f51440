//! Takes a snapshot of the node and evaluates its alerts, every few seconds and for each `GET /alerts`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::alerts::{Alert, Miner, Snapshot};
use crate::app::App;
use crate::breaker::Phase;
use crate::model::{Timestamp, Wallet};
use crate::store::{Resolution, StoreError};

/// Evaluates the rules now; returns the firing alerts, and the recent ones.
pub(crate) async fn evaluate(app: &App) -> (Vec<Alert>, Vec<Alert>) {
    let miner = match app.config.miner.wallet {
        Some(wallet) => read_miner(app, wallet).await.unwrap_or_else(|error| {
            log::warn!("the miner's alerts were not evaluated: {error}");
            None
        }),
        None => None,
    };
    let (instant, now) = (app.clock.instant(), app.clock.now());
    let open_breakers = app
        .upstreams
        .breakers()
        .map(|breaker| breaker.status())
        .filter(|status| status.state != Phase::Closed)
        .map(|status| (status.name.to_owned(), status.forced));
    let started = now.minus(instant.saturating_duration_since(app.started));
    let last_backup = app.metrics.last_backup().unwrap_or(started);
    let snapshot = Snapshot {
        time: now,
        counts: app.metrics.alert_counts(),
        store: app.store.gauges(),
        is_ready: app.store.is_ready() || app.shutdown.is_draining(),
        ledger_errors: app.ledger_errors.load(Ordering::Acquire),
        open_breakers: open_breakers.collect(),
        is_chain_halted: app.chain_halted.load(Ordering::Acquire),
        backup: app.config.backup.every.map(|every| (every, last_backup)),
        miner,
    };
    app.alerts.update(&snapshot, instant)
}

async fn read_miner(app: &App, wallet: Wallet) -> Result<Option<Miner>, StoreError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let (store, now, limits) = (&app.store, app.clock.now(), app.alerts.settings());
    let stats = match store.miner(wallet, app.active_since()).await {
        Err(StoreError::UserNotFound) => return Ok(None),
        stats => stats?,
    };
    let mean = async |since: Timestamp, resolution| -> Result<Option<f64>, StoreError> {
        let mut points = store.hashrate(wallet, since, resolution, 10_000).await?;
        points.retain(|point| Some(point.hashrate_unit) == stats.hashrate_unit);
        let sum: f64 = points.iter().map(|point| point.hashrate).sum();
        Ok((!points.is_empty()).then(|| sum / points.len() as f64))
    };
    let recent = mean(now.minus(Duration::from_secs(900)), Resolution::Minute).await?;
    let day = mean(now.minus(DAY), Resolution::Hour).await?;
    // Longer, so that there is a sample before that time too, also for a miner with one every few minutes.
    let counted_since = now.minus(limits.shares_flat.mul_f64(1.5));
    let shares = store.shares(wallet, counted_since).await?;
    let week = now.minus(limits.earnings_stopped + 7 * DAY);
    let earned = store.earnings(wallet, week, 0, 500).await?;
    Ok(Some(Miner {
        newest: stats.recorded_at,
        hashrate: stats.hashrate,
        means: recent.zip(day),
        temperature: stats.gpu_temperature,
        shares,
        last_earning: earned.last().map(|day| day.recorded_at),
    }))
}
