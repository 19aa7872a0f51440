//! Tells the operator what is wrong: rules over the node's own figures, confirmed over time, one message an incident and
//! one at its end; in the log, at `/alerts`, and to a webhook.
//!
//! `rules` says what counts as wrong, `book` when it is an incident, `webhook` who hears of it; `watch.rs` looks.

mod book;
mod rules;
mod webhook;

pub(crate) use book::Alert;
pub(crate) use rules::{Miner, Snapshot};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::book::{IncidentTracker, Severity};
use self::webhook::Outbox;
use crate::clock::Clock;
use crate::config::AlertsConfig;
use crate::metrics::CounterSnapshot;
use crate::upstream::HttpClient;

/// The alerts of a server.
pub(crate) struct Alerts {
    /// Written only when a configuration is read again.
    settings: RwLock<Arc<AlertsConfig>>,
    state: Mutex<State>,
    /// Told when there is something to tell a webhook.
    changed: Notify,
}

#[derive(Default)]
struct State {
    book: IncidentTracker,
    outbox: Outbox,
    /// What was counted at the moments of the last five minutes, the oldest first.
    counted: VecDeque<(Instant, CounterSnapshot)>,
}

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(300);
/// How far apart the moments are at which it is looked, and counts are kept.
pub(crate) const STEP: Duration = Duration::from_secs(5);

impl Alerts {
    pub(crate) fn new(settings: AlertsConfig) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings)),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// From when on something is wrong, and who is told.
    pub(crate) fn settings(&self) -> Arc<AlertsConfig> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings)
    }

    /// From now on these.
    pub(crate) fn change(&self, settings: AlertsConfig) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is so at one moment; returns what is wrong, and what was.
    pub(crate) fn update(&self, reading: &Snapshot, now: Instant) -> (Vec<Alert>, Vec<Alert>) {
        let limits = self.settings();
        let time = reading.now;
        let mut state = self.lock();
        let figures = state.figures(now, reading.counted);
        let findings = rules::findings(reading, &figures, &limits);
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

    /// How many are firing, by severity.
    pub(crate) fn count(&self) -> [(&'static str, usize); 2] {
        let firing = self.lock().book.firing();
        [Severity::Warning, Severity::Critical].map(|severity| {
            let count = firing.iter().filter(|alert| alert.severity == severity);
            (severity.as_str(), count.count())
        })
    }

    /// Tells the webhook for ever, each alert until it has heard: after a failure again in a second, then later and later.
    pub(crate) async fn tell(&self, clock: &Clock, node: &str) {
        let mut wait = Duration::ZERO;
        let mut client = None;
        loop {
            let limits = self.settings();
            let next = limits.webhook_file.as_deref().and_then(|file| {
                let (key, alert) = self.lock().outbox.next(clock.instant())?;
                Some((file, key, alert))
            });
            let Some((file, key, alert)) = next else {
                // What has to wait for its time is looked for now and then.
                let _ = tokio::time::timeout(STEP, self.changed.notified()).await;
                continue;
            };
            // Made for the first message: most servers have none to send.
            let client = match &client {
                Some(client) => client,
                None => match HttpClient::new(None) {
                    Ok(new) => &*client.insert(new),
                    Err(error) => {
                        log::error!("no webhook is told: {error}");
                        return;
                    }
                },
            };
            let kind = limits.webhook_kind;
            match webhook::tell(client, file, kind, &alert, node, clock.now()).await {
                Ok(()) => {
                    wait = Duration::ZERO;
                    self.lock().outbox.heard(&key, &alert, clock.instant());
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
}

impl State {
    /// What was counted in the last five minutes, or since the first look where that is later.
    fn figures(&mut self, now: Instant, counted: CounterSnapshot) -> CounterSnapshot {
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
