//! Tells the operator what is wrong: rules over the node's own figures, confirmed over time, one message an incident and
//! one at its end; in the log, at `/alerts`, and to a webhook.
//!
//! [`rules`] says what counts as wrong, [`book`] when it is an incident, [`webhook`] who hears of it.

mod book;
mod rules;
mod webhook;

pub(crate) use book::{Alert, Severity};

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::book::Book;
use self::rules::{Miner, Reading};
use self::webhook::Outbox;
use crate::app::App;
use crate::breaker::Phase;
use crate::metrics::Figures;
use crate::model::{Timestamp, Wallet};
use crate::store::{Resolution, StoreError};
use crate::upstream::HttpClient;

/// The alerts of a server.
#[derive(Default)]
pub(crate) struct Alerts {
    state: Mutex<State>,
    /// Told when there is something to tell a webhook.
    changed: Notify,
}

#[derive(Default)]
struct State {
    book: Book,
    outbox: Outbox,
    /// What was counted at the moments of the last five minutes, the oldest first.
    counted: VecDeque<(Instant, Figures)>,
}

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(300);
/// How far apart the moments are at which counts are kept.
const STEP: Duration = Duration::from_secs(5);

impl Alerts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at everything once; returns what is wrong, and what was.
    pub(crate) async fn evaluate(&self, app: &App) -> (Vec<Alert>, Vec<Alert>) {
        let miner = match app.config.miner.wallet {
            Some(wallet) => read_miner(app, wallet).await.unwrap_or_else(|error| {
                log::warn!("the miner's alerts were not looked at: {error}");
                None
            }),
            None => None,
        };
        let (now, time) = (app.clock.instant(), app.clock.now());
        let limits = &app.config.alerts;
        let mut state = self.lock();
        let reading = Reading {
            now: time,
            figures: state.figures(now, app.metrics.watched.read()),
            store: app.store.gauges(),
            is_ready: app.store.is_ready() || app.is_draining(),
            ledger_mistakes: app.ledger_mistakes(),
            open_breakers: app
                .upstreams
                .breakers()
                .map(|breaker| breaker.status())
                .filter(|status| status.state != Phase::Closed)
                .map(|status| (status.name.to_owned(), status.forced))
                .collect(),
            is_chain_halted: app.is_chain_halted(),
            backup: app.config.backup.every.map(|every| {
                // Without any copy, from the start on.
                let up = app.clock.instant().saturating_duration_since(app.started);
                let age = app.metrics.last_backup().map(|made_at| {
                    let millis = time.millis().saturating_sub(made_at.millis());
                    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
                });
                (every, age.unwrap_or(up))
            }),
            miner,
        };
        let findings = rules::findings(&reading, limits);
        let changes = state.book.update(&findings, now, time, limits.confirm);
        for alert in changes {
            let subject = alert.subject.as_deref().unwrap_or("-");
            match alert.resolved_at {
                None => log::warn!("alert {} {subject}: {}", alert.name, alert.summary),
                Some(_) => log::info!(
                    "alert {} {subject} is over: it was {}",
                    alert.name,
                    alert.summary
                ),
            }
            if limits.webhook_file.is_some() {
                state.outbox.put(alert);
            }
        }
        if !state.outbox.is_empty() {
            self.changed.notify_one();
        }
        (state.book.firing(), state.book.recent())
    }

    /// Names of what is wrong, for the metrics page.
    pub(crate) fn firing(&self) -> Vec<Alert> {
        self.lock().book.firing()
    }
}

impl State {
    /// What was counted in the last five minutes, or since the first look where that is later.
    fn figures(&mut self, now: Instant, counted: Figures) -> Figures {
        let age = |at: Instant| now.saturating_duration_since(at);
        if self.counted.back().is_none_or(|(at, _)| age(*at) >= STEP) {
            self.counted.push_back((now, counted));
        }
        // The last one before the five minutes stays, as that is what the others are counted from.
        while self
            .counted
            .get(1)
            .is_some_and(|(at, _)| age(*at) >= WINDOW)
        {
            self.counted.pop_front();
        }
        let (_, earlier) = self.counted.front().copied().unwrap_or((now, counted));
        counted.since(&earlier)
    }
}

async fn read_miner(app: &App, wallet: Wallet) -> Result<Option<Miner>, StoreError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let (store, now, limits) = (&app.store, app.clock.now(), &app.config.alerts);
    let Some(stats) = store.miner(wallet, app.active_since()).await? else {
        return Ok(None);
    };
    let mean = async |since: Timestamp, resolution| -> Result<Option<f64>, StoreError> {
        let points = store.hashrate(wallet, since, resolution, 10_000).await?;
        let mut points = points.unwrap_or_default();
        points.retain(|point| Some(point.hashrate_unit) == stats.hashrate_unit);
        let sum: f64 = points.iter().map(|point| point.hashrate).sum();
        Ok((!points.is_empty()).then(|| sum / points.len() as f64))
    };
    let recent = mean(now.minus(Duration::from_secs(900)), Resolution::Minute).await?;
    let day = mean(now.minus(DAY), Resolution::Hour).await?;
    // Longer, so that there is a count before that time too, also of a miner that tells one every few minutes.
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
        last_earning: earned.unwrap_or_default().last().map(|day| day.recorded_at),
    }))
}

/// Looks at everything again and again.
pub(crate) async fn watch(app: std::sync::Arc<App>) {
    let mut every = tokio::time::interval(STEP);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        app.alerts.evaluate(&app).await;
    }
}

/// Tells the webhook, until it has heard: after a failure again in a second, then later and later.
pub(crate) async fn tell(app: std::sync::Arc<App>) {
    let limits = &app.config.alerts;
    let Some(file) = &limits.webhook_file else {
        return;
    };
    let client = match HttpClient::new(None) {
        Ok(client) => client,
        Err(error) => {
            log::error!("no webhook is told: {error}");
            return;
        }
    };
    let node = app.config.public_name();
    let mut wait = Duration::ZERO;
    loop {
        let next = app.alerts.lock().outbox.next(app.clock.instant());
        let Some((key, alert)) = next else {
            // What has to wait for its time is looked for now and then.
            let _ = tokio::time::timeout(STEP, app.alerts.changed.notified()).await;
            continue;
        };
        let kind = limits.webhook_kind;
        match webhook::tell(&client, file, kind, &alert, &node, app.clock.now()).await {
            Ok(()) => {
                wait = Duration::ZERO;
                let now = app.clock.instant();
                app.alerts.lock().outbox.heard(&key, &alert, now);
            }
            Err(error) => {
                wait = (wait * 2).clamp(Duration::from_secs(1), Duration::from_secs(60));
                log::warn!(
                    "the webhook did not hear of {}: {error}; again in {wait:?}",
                    alert.name
                );
                tokio::time::sleep(wait).await;
            }
        }
    }
}
