//! What an operator sees of the running server: the gauges of values that are stored elsewhere, set when the metrics page
//! is requested, and the snapshot that alerts are evaluated over, every few seconds and for each `GET /alerts`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::alerts::{Alert, Miner, Snapshot};
use crate::app::App;
use crate::breaker::Phase;
use crate::config::AlertsConfig;
use crate::limits::RateClass;
use crate::metrics::{process, set, size, store, with};
use crate::model::Timestamp;
use crate::store::{Resolution, StoreError};

/// A wallet counts as an active user for this long after an authenticated request.
const SEEN: Duration = Duration::from_secs(15 * 60);

/// Updates the gauges of values that are stored elsewhere.
pub(crate) fn refresh_gauges(app: &App) {
    let (table, gauges) = (&app.metrics.table, app.store.gauges());
    let seen = app.until_now(app.clock.now().minus(SEEN));
    let active = app.caches.keys.active_wallets(&seen);
    table
        .clock_jump
        .set(app.clock.jump().unwrap_or_default() / 1000);
    let in_flight = app.config.limits.in_flight - app.in_flight.available_permits();
    for (gauge, value) in [
        (&table.active_users, active),
        (&table.in_flight, in_flight),
        (&table.holds, gauges.holds),
        (&table.queue_depth, gauges.queue_depth),
        (&table.pool_in_use, gauges.pool_in_use),
        (&table.pool_size, gauges.pool_size),
    ] {
        set(gauge, value);
    }
    size(&table.file_bytes, gauges.file_bytes);
    size(&table.wal_bytes, gauges.wal_bytes);
    size(&table.disk_free, gauges.disk_free_bytes);
    table.held.set(gauges.held.micro() as f64 / 1e6);
    process::refresh(table);
    for (class, entries) in RateClass::ALL.into_iter().zip(app.limits().entries()) {
        let class = [("class", class.as_str())];
        set(&with(&table.limiter_entries, class), entries);
    }
    for (severity, count) in app.alerts.count() {
        set(&with(&table.alerts, [("severity", severity)]), count);
    }
    for breaker in app.upstreams.breakers() {
        let (upstream, status) = (("upstream", breaker.name()), breaker.status());
        with(&table.breaker_forced, [upstream]).set(status.forced.into());
        for (value, phase, to) in [
            (0, Phase::Closed, "closed"),
            (1, Phase::HalfOpen, "half_open"),
            (2, Phase::Open, "open"),
        ] {
            if status.state == phase {
                with(&table.breaker_state, [upstream]).set(value);
            }
            let counter = with(&table.breaker_transitions, [upstream, ("to", to)]);
            store(&counter, status.entered[phase as usize]);
        }
        for (result, count) in ["failed", "passed"].into_iter().zip(status.health_checks) {
            let counter = with(&table.breaker_health_checks, [upstream, ("result", result)]);
            store(&counter, count);
        }
    }
    for node in &app.upstreams.nodes {
        let (upstream, queue) = (("upstream", node.at.breaker.name()), node.queue.status());
        set(&with(&table.upstream_waiting, [upstream]), queue.waiting);
        set(&with(&table.upstream_in_flight, [upstream]), queue.in_use);
        set(&with(&table.upstream_slots, [upstream]), queue.slots);
        for (cause, count) in node.standing.counts() {
            let counter = with(&table.upstream_failures, [upstream, ("cause", cause)]);
            store(&counter, count);
        }
    }
    for (cache, counts) in [
        ("totals", app.caches.totals.counts()),
        ("pages", app.caches.pages.counts()),
        ("chain", app.chain_status.counts()),
        ("blocks", app.blocks.counts()),
    ] {
        for (source, count) in counts {
            let labels = [("cache", cache), ("result", source.as_str())];
            store(&with(&table.cache, labels), count);
        }
    }
}

/// Evaluates the rules now; returns the firing alerts, and the recent ones.
pub(crate) async fn evaluate(app: &App) -> (Vec<Alert>, Vec<Alert>) {
    let settings = app.metrics.alert_settings();
    let miner = read_miner(app, &settings).await.unwrap_or_else(|error| {
        log::warn!("the miner's alerts were not evaluated: {error}");
        None
    });
    let (instant, now) = (app.clock.instant(), app.clock.now());
    let open_breakers = app
        .upstreams
        .breakers()
        .map(|breaker| breaker.status())
        .filter(|status| status.state != Phase::Closed)
        .map(|status| (status.name.to_owned(), status.forced));
    let started = now.minus(instant.saturating_duration_since(app.started));
    let makes_backups = app.store.backups().is_some() && app.store.is_leader();
    let schedule = app.config.backup.every.filter(|_| makes_backups);
    let last_backup = app.metrics.last_backup().unwrap_or(started);
    let snapshot = Snapshot {
        time: now,
        counts: app.metrics.alert_counts(),
        store: app.store.gauges(),
        is_ready: app.store.is_ready() || app.shutdown.is_draining(),
        ledger_errors: app.ledger_errors.load(Ordering::Acquire),
        open_breakers: open_breakers.collect(),
        is_chain_halted: app.chain_halted.load(Ordering::Acquire),
        clock_jump: app.clock.jump(),
        backup: schedule.map(|every| (every, last_backup)),
        miner,
    };
    app.alerts.update(&snapshot, &settings, instant)
}

async fn read_miner(app: &App, limits: &AlertsConfig) -> Result<Option<Miner>, StoreError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let Some(wallet) = app.config.miner.wallet else {
        return Ok(None);
    };
    let (store, now) = (&app.store, app.clock.now());
    let stats = match store.miner(wallet, now).await {
        Err(StoreError::UserNotFound) => return Ok(None),
        stats => stats?,
    };
    let mean = async |since: Timestamp, resolution| -> Result<Option<f64>, StoreError> {
        let mut points = store
            .hashrate(wallet, app.until_now(since), resolution, 10_000)
            .await?;
        points.retain(|point| Some(point.hashrate_unit) == stats.hashrate_unit);
        let sum: f64 = points.iter().map(|point| point.hashrate).sum();
        Ok((!points.is_empty()).then(|| sum / points.len() as f64))
    };
    let recent = mean(now.minus(Duration::from_secs(900)), Resolution::Minute).await?;
    let day = mean(now.minus(DAY), Resolution::Hour).await?;
    // Longer, so that there is a sample before that time too, also for a miner with one every few minutes.
    let counted_since = now.minus(limits.shares_flat.mul_f64(1.5));
    let shares = store.shares(wallet, app.until_now(counted_since)).await?;
    let week = now.minus(limits.earnings_stopped + 7 * DAY);
    let earned = store.earnings(wallet, app.until_now(week)).await?;
    Ok(Some(Miner {
        newest: stats.recorded_at,
        hashrate: stats.hashrate,
        means: recent.zip(day),
        temperature: stats.gpu_temperature,
        shares,
        last_earning: earned.last().map(|day| day.recorded_at),
    }))
}
