//! Every background task of the server, with its interval. They are started here and stop when the set is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::app::App;
use crate::store::Backups;
use crate::{alerts, monitoring};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Starts all of them. What changes or checks the whole storage is done by its leader only, asked each time.
pub(crate) fn start(app: &Arc<App>) -> JoinSet<()> {
    let app = || Arc::clone(app);
    let mut tasks = JoinSet::new();

    // These have their own loop.
    let shared = app();
    tasks.spawn(async move { shared.upstreams.discover().await });
    let shared = app();
    tasks.spawn(async move {
        let (alerts, node) = (&shared.alerts, shared.config.public_name());
        let webhooks = alerts.deliver_webhooks(&shared.metrics, &shared.clock, &node);
        webhooks.await;
    });
    tasks.spawn(poll_miner(app()));
    tasks.spawn(watch_chain(app()));
    tasks.spawn(back_up(app()));

    // These run at an interval, the first time after a delay.
    let now = Duration::ZERO;
    tasks.spawn(every(alerts::STEP, now, app(), |app| async move {
        monitoring::evaluate(&app).await;
    }));
    if app().config.discover {
        tasks.spawn(every(MINUTE, now, app(), |app| async move {
            app.upstreams.refresh().await;
        }));
    }
    tasks.spawn(every(MINUTE, now, app(), compact_samples));
    tasks.spawn(every(MINUTE, MINUTE, app(), purge_expired));
    tasks.spawn(every(5 * MINUTE, now, app(), record_clock));
    tasks.spawn(every(HOUR, now, app(), verify_ledger));
    tasks
}

/// Runs `job` at an interval; a run that takes longer delays the next.
async fn every<F>(period: Duration, delay: Duration, app: Arc<App>, job: fn(Arc<App>) -> F)
where
    F: Future<Output = ()>,
{
    let mut ticks = interval_at(Instant::now() + delay, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        job(Arc::clone(&app)).await;
    }
}

/// Polls the miner on this machine and records its report as a sample, by the same method as `POST /miner/stats`.
async fn poll_miner(app: Arc<App>) {
    let Some(page) = app.upstreams.miner.clone() else {
        return;
    };
    page.at.wait_present().await;
    let (url, settings) = (&page.at.url, &page.settings);
    let Some(wallet) = settings.wallet else {
        return log::warn!(
            "the miner at {url} is not recorded: set wallet in [miner] to say whose it is"
        );
    };
    loop {
        let next = app.clock.instant() + settings.every;
        // A failure is logged once, by the upstream.
        let read = page.read(wallet, &app.clock).await.ok().flatten();
        app.metrics.set_miner(read.as_ref());
        if let Some(sample) = read {
            let now = sample.recorded_at;
            let max_workers = app.config.limits.workers_per_wallet;
            let recorded = app.store.record_samples(vec![sample], max_workers, now);
            if let Err(error) = recorded.await {
                log::warn!("a sample of the miner was not recorded: {error}");
            }
        }
        app.clock.sleep_until(next).await;
    }
}

/// Refreshes the chain's status in the cache, so that a halt is noticed and a last status is available when the chain is
/// down, even without requests; and when a request wants it without waiting for it.
async fn watch_chain(app: Arc<App>) {
    // A wrong address or token is found soon after the start.
    let mut interval = 5 * SECOND;
    loop {
        let _ = timeout(interval, app.chain_wanted.notified()).await;
        interval = 15 * SECOND;
        if let Some(chain) = app.upstreams.chain() {
            // A failure is logged once, by the upstream.
            let _ = app.cached_chain_status(chain).await;
        }
    }
}

/// Rolls up samples and deletes those past their retention.
async fn compact_samples(app: Arc<App>) {
    let retention = app.config.retention;
    if let Some(now) = app.clock.confirmed()
        && app.store.is_leader()
        && let Err(error) = app.store.compact(retention, now).await
    {
        log::warn!("samples were not rolled up or not deleted: {error}");
    }
}

/// Deletes expired keys and responses, and records the last use of keys.
async fn purge_expired(app: Arc<App>) {
    if let Some(now) = app.clock.confirmed()
        && app.store.is_leader()
        && let Err(error) = app.store.purge(now).await
    {
        log::warn!("expired rows were not deleted: {error}");
    }
    app.record_key_use().await;
}

/// Stores the clock, so that the next start can compare it.
pub(crate) async fn record_clock(app: Arc<App>) {
    // What is stored must not be overwritten before it was read.
    if app.store.is_leader()
        && app.resume_clock().await
        && let Err(error) = app.record_clock().await
    {
        log::warn!("the clock was not stored: {error}");
    }
}

async fn verify_ledger(app: Arc<App>) {
    if app.store.is_leader()
        && let Err(error) = app.verify_ledger(false).await
    {
        log::warn!("the ledger was not verified: {error}");
    }
}

/// Makes backups when the newest is old enough, so that a restart neither repeats nor skips one, nor does another process
/// that becomes the leader.
async fn back_up(app: Arc<App>) {
    let settings = &app.config.backup;
    let Some(backups) = app.store.backups() else {
        if settings.every.is_some() {
            log::warn!("backup.every has no effect: the storage makes no backups");
        }
        return;
    };
    read_last_backup(&app, backups).await;
    let Some(every) = settings.every else {
        return;
    };
    let is_due = || {
        // One in the future was made before the clock was set back.
        let (newest, now) = (app.metrics.last_backup(), app.clock.now());
        !newest.is_some_and(|at| at <= now && now < at.plus(every))
    };
    let mut retry = MINUTE;
    let mut next = app.clock.instant();
    loop {
        app.clock.sleep_until(next).await;
        next = app.clock.instant() + SECOND;
        if !app.store.is_leader() || !is_due() {
            continue;
        }
        // The leader before may have made one.
        read_last_backup(&app, backups).await;
        if !is_due() {
            continue;
        }
        // While the clock is in question it is unknown which copy is the oldest.
        let keep = app.clock.jump().is_none().then_some(settings.keep);
        match app.back_up(backups, keep).await {
            Ok(made) => {
                log::info!("database backed up to {}", made.file);
                retry = MINUTE;
            }
            Err(error) => {
                log::error!("database backup failed, next attempt in {retry:?}: {error}");
                app.clock.sleep_until(app.clock.instant() + retry).await;
                retry = (retry * 2).min(HOUR);
            }
        }
    }
}

async fn read_last_backup(app: &App, backups: &dyn Backups) {
    let folder = app.config.backup.folder().map(Into::into);
    if let Ok(Some(newest)) = backups.last_backup(folder, app.clock.now()).await {
        app.metrics.backed_up(newest);
    }
}
