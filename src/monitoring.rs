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
use crate::store::{HashratePoint, Resolution, StoreError};
use crate::upstream::inference::Node;

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
    for (name, severity, count) in app.alerts.count() {
        let labels = [("alert", name), ("severity", severity)];
        set(&with(&table.alerts, labels), count);
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
    let mut miner = read_miner(app, &settings).await.unwrap_or_else(|error| {
        log::warn!("the miner's alerts were not evaluated: {error}");
        None
    });
    let (instant, now) = (app.clock.instant(), app.clock.now());
    let adapters = app.config.adapter_names();
    let names = |is_meant: &dyn Fn(&Node) -> bool| {
        let nodes = app.upstreams.nodes.iter();
        let meant = nodes.filter(|node| node.at.is_present() && is_meant(node));
        meant
            .map(|node| node.at.breaker.name().to_owned())
            .collect()
    };
    let open_breakers = app
        .upstreams
        .breakers()
        .map(|breaker| breaker.status())
        .filter(|status| status.state != Phase::Closed)
        .map(|status| (status.name.to_owned(), status.forced));
    let polled = || app.upstreams.polled();
    // A page that never had a hashrate has been silent since its first answer.
    let mut pages = polled().filter(|at| at.breaker.name() == "miner");
    let first_answer = pages.find_map(|at| at.availability.answered_at());
    if let Some(at) = first_answer.filter(|_| app.config.miner.wallet.is_some()) {
        let since = now.minus(instant.saturating_duration_since(at));
        let miner = miner.get_or_insert_default();
        miner.newest = miner.newest.or(Some(since));
    }
    let failing_upstreams = polled().filter(|at| at.breaker.status().state == Phase::Closed);
    let failing_upstreams = failing_upstreams.filter_map(|at| {
        let name = at.breaker.name();
        let is_watched = name == "miner" && at.availability.answered_at().is_some();
        let reason = at.availability.failure().filter(|_| !is_watched)?;
        Some((name.to_owned(), reason))
    });
    let makes_backups = app.store.backups().is_some() && app.store.is_leader();
    let schedule = app.config.backup.every.filter(|_| makes_backups);
    // One in the future was made before the clock was set back.
    let last_backup = (app.metrics.last_backup()).filter(|made_at| *made_at <= now);
    let last_backup = last_backup.unwrap_or_else(|| started(app));
    let snapshot = Snapshot {
        time: now,
        counts: app.metrics.alert_counts(),
        store: app.store.gauges(),
        is_ready: app.store.is_ready() || app.shutdown.is_draining(),
        ledger_errors: app.ledger_errors.load(Ordering::Acquire),
        open_breakers: open_breakers.collect(),
        failing_upstreams: failing_upstreams.collect(),
        misconfigured: names(&|node| node.standing.needs_operator()),
        without_usage: names(&|node| {
            let is_priced = |adapter: &String| app.terms(adapter).price.is_by_tokens();
            let mut served = adapters.iter().filter(|adapter| node.serves(adapter, None));
            node.standing.has_no_usage() && served.any(is_priced)
        }),
        is_chain_halted: app.chain_halted.load(Ordering::Acquire),
        clock_jump: app.clock.jump(),
        backup: schedule.map(|every| (every, last_backup)),
        miner,
    };
    app.metrics.table.alert_evaluations.inc();
    app.alerts.update(&snapshot, &settings, instant)
}

/// When the server started, by the wall clock as it is now.
fn started(app: &App) -> Timestamp {
    let uptime = app.clock.instant().saturating_duration_since(app.started);
    app.clock.now().minus(uptime)
}

async fn read_miner(app: &App, limits: &AlertsConfig) -> Result<Option<Miner>, StoreError> {
    const MINUTE: Duration = Duration::from_secs(60);
    const RECENT: Duration = Duration::from_secs(900);
    const DAY: Duration = Duration::from_secs(86_400);
    let Some(wallet) = app.config.miner.wallet else {
        return Ok(None);
    };
    let (store, now) = (&app.store, app.clock.now());
    let stats = match store.miner(wallet, now).await {
        Err(StoreError::UserNotFound) => return Ok(None),
        stats => stats?,
    };
    let points = async |period: Duration, resolution| {
        let period = app.until_now(now.minus(period));
        let mut points = store.hashrate(wallet, period, resolution, 10_000).await?;
        points.retain(|point| Some(point.hashrate_unit) == stats.hashrate_unit);
        Ok::<_, StoreError>(points)
    };
    // Longer, so that there is a sample before that time too, also for a miner with one every few minutes.
    let watched = limits.shares_flat.mul_f64(1.5);
    let minutes = points(watched.clamp(RECENT, DAY), Resolution::Minute).await?;
    let expected = limits.earnings_stopped;
    let longest = expected.max(watched).clamp(DAY, 365 * DAY);
    let hours = points(longest, Resolution::Hour).await?;
    let hashing = |point: &HashratePoint| point.min > 0.0;
    let gap = limits.miner_silent;
    let hashing_since = match watched <= DAY {
        true => unbroken_since(&minutes, gap + MINUTE, hashing),
        false => unbroken_since(&hours, gap + 60 * MINUTE, hashing),
    };
    let reporting_since = unbroken_since(&minutes, gap + MINUTE, |_| true);
    // A miner that just started is still warming up.
    let is_warm = reporting_since.is_some_and(|since| since <= now.minus(10 * MINUTE));
    let means = mean(&minutes, now.minus(RECENT)).zip(mean(&hours, now.minus(DAY)));
    let mined = hours.iter().filter(|hour| hour.hashrate > 0.0);
    let mined = mined.filter(|hour| hour.recorded_at >= now.minus(expected));
    let earned = store.earnings(wallet, app.until_now(now.minus(expected + 7 * DAY)));
    // The time in which there was no server to send one to does not count.
    let started = started(app);
    let read_at = app.metrics.miner_read_at().unwrap_or(started);
    Ok(Some(Miner {
        newest: stats.recorded_at.map(|newest| newest.max(started)),
        sends: stats.recorded_at > Some(read_at),
        hashing_since,
        means: means.filter(|_| is_warm),
        temperature: stats.gpu_temperature,
        shares: store
            .shares(wallet, app.until_now(now.minus(watched)))
            .await?,
        mined_hours: mined.count() as u64,
        last_earning: earned.await?.last().map(|day| day.recorded_at),
    }))
}

fn mean(points: &[HashratePoint], since: Timestamp) -> Option<f64> {
    let points = points.iter().filter(|point| point.recorded_at >= since);
    let (count, sum) = points.fold((0, 0.0), |(count, sum), point| {
        (count + 1, sum + point.hashrate)
    });
    (count > 0).then(|| sum / f64::from(count))
}

/// The first of the newest points that all fulfil a condition, without a longer gap between them.
fn unbroken_since(
    points: &[HashratePoint],
    gap: Duration,
    fulfils: impl Fn(&HashratePoint) -> bool,
) -> Option<Timestamp> {
    let mut since: Option<Timestamp> = None;
    for point in points.iter().rev().take_while(|point| fulfils(point)) {
        if since.is_some_and(|since| since > point.recorded_at.plus(gap)) {
            break;
        }
        since = Some(point.recorded_at);
    }
    since
}
