//! Alerts: rules over the node's own figures, confirmed over time, with one message for an incident's beginning and one for
//! its end; in the log, at `/alerts`, and to a webhook.
//!
//! `snapshot` has the figures, `rules` defines what is wrong, `tracker` when it is an incident, `webhook` delivers its
//! messages.

mod rules;
mod snapshot;
mod tracker;
mod webhook;

pub(crate) use snapshot::{Miner, Snapshot};
pub(crate) use tracker::Alert;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::snapshot::Window;
use self::tracker::{Finding, IncidentTracker, Severity};
use crate::clock::Clock;
use crate::config::AlertsConfig;
use crate::metrics::{AlertCounts, Metrics, SHARES, Share};

/// The alerts of a server.
#[derive(Default)]
pub(crate) struct Alerts {
    state: Mutex<State>,
    /// Notified when there may be a message to deliver.
    changed: Notify,
}

#[derive(Default)]
struct State {
    tracker: IncidentTracker,
    /// The counts at the steps of the last five minutes, the oldest first.
    history: VecDeque<(Instant, AlertCounts)>,
}

/// The window of rates.
const WINDOW: Duration = Duration::from_secs(300);
/// The time between two evaluations, and between the counts of the window.
pub(crate) const STEP: Duration = Duration::from_secs(5);

impl Alerts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates the rules over a snapshot; returns the firing alerts, and the recent ones.
    pub(crate) fn update(
        &self,
        snapshot: &Snapshot,
        settings: &AlertsConfig,
        now: Instant,
    ) -> (Vec<Alert>, Vec<Alert>) {
        let mut state = self.lock();
        let findings = state.evaluate(snapshot, settings, now);
        let (time, confirm) = (snapshot.time, settings.confirm);
        for alert in state.tracker.update(&findings, now, time, confirm) {
            let (name, summary) = (alert.name, &alert.summary);
            let subject = alert.subject.as_deref().unwrap_or("-");
            match alert.resolved_at {
                None => log::warn!("alert {name} {subject}: {summary}"),
                Some(_) => log::info!("alert {name} {subject} is resolved: it was {summary}"),
            }
            if settings.webhook_file.is_some() {
                state.tracker.enqueue(alert);
            }
        }
        self.changed.notify_one();
        (state.tracker.firing(), state.tracker.recent())
    }

    /// How many of each alert are firing, with its severity.
    pub(crate) fn count(&self) -> impl Iterator<Item = (&'static str, &'static str, usize)> {
        let firing = self.lock().tracker.firing();
        rules::ALL.iter().map(move |(name, severity)| {
            let severity = match severity {
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            };
            let count = firing.iter().filter(|alert| alert.name == *name).count();
            (*name, severity, count)
        })
    }

    /// Delivers messages to the webhook for ever; a failed one again after a second, then after longer and longer.
    pub(crate) async fn deliver_webhooks(&self, metrics: &Metrics, clock: &Clock, node: &str) {
        let mut backoff = Duration::ZERO;
        loop {
            let settings = metrics.alert_settings();
            let alert = self.lock().tracker.outbox.first().cloned();
            let (Some(file), Some(alert)) = (&settings.webhook_file, alert) else {
                self.changed.notified().await;
                continue;
            };
            let kind = settings.webhook_kind;
            match webhook::deliver(file, kind, &alert, node, clock.now()).await {
                Ok(()) => {
                    backoff = Duration::ZERO;
                    self.lock().tracker.outbox.retain(|queued| *queued != alert);
                }
                Err(error) => {
                    backoff = (backoff * 2).clamp(Duration::from_secs(1), Duration::from_secs(60));
                    let name = alert.name;
                    log::warn!("webhook delivery of {name} failed, next in {backoff:?}: {error}");
                    tokio::time::sleep(backoff).await;
                }
            }
        }
    }
}

/// Checks the file with the webhook's address.
pub(crate) fn check(settings: &AlertsConfig) -> Result<(), String> {
    let file = settings.webhook_file.as_deref();
    file.map_or(Ok(()), |file| webhook::address(file).map(drop))
}

impl State {
    /// What is wrong now. What was counted while another alert explains it counts for nothing, now and later.
    fn evaluate(
        &mut self,
        snapshot: &Snapshot,
        settings: &AlertsConfig,
        now: Instant,
    ) -> Vec<Finding> {
        let mut window = Window {
            counts: self.window(now, snapshot.counts),
            explained: Default::default(),
        };
        let findings = rules::evaluate(snapshot, &window, settings);
        window.explained = snapshot.explained(|name| {
            let is_bad = |finding: &Finding| finding.is_known && finding.alert.name == name;
            self.tracker.is_firing(name) || findings.iter().any(is_bad)
        });
        for share in (0..SHARES).filter(|share| window.explained[*share]) {
            window.counts[share] = Share::default();
            for (_, earlier) in &mut self.history {
                earlier[share] = snapshot.counts[share];
            }
        }
        rules::evaluate(snapshot, &window, settings)
    }

    /// What was counted in the last five minutes, or since the first evaluation where that is later.
    fn window(&mut self, now: Instant, counts: AlertCounts) -> AlertCounts {
        let age = |at: Instant| now.saturating_duration_since(at);
        let history = &mut self.history;
        if history.back().is_none_or(|(at, _)| age(*at) >= STEP) {
            history.push_back((now, counts));
        }
        // The last one before the window stays, as the window is counted from it.
        while history.get(1).is_some_and(|(at, _)| age(*at) >= WINDOW) {
            history.pop_front();
        }
        let (_, earlier) = history.front().copied().unwrap_or((now, counts));
        std::array::from_fn(|share| counts[share].since(earlier[share]))
    }
}
