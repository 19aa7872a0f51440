//! Metrics. `table` declares each; this module updates them. Labels come from bounded sets only: route templates, the configured
//! adapters, some models of servers, the names of upstreams; nothing a client sends becomes a label.

mod chats;
mod counts;
mod labels;
pub(crate) mod process;
mod table;

pub(crate) use counts::*;
pub(crate) use labels::{ChatEnd, Release};
pub(crate) use table::{set, size, store, with};

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::labels::{CHAT_ENDS, ESTIMATES, Models, RELEASES, SERVER_ERROR, STATUSES};
use self::table::Table;
use crate::config::AlertsConfig;
use crate::limits::RateClass;
use crate::model::{Credits, Sample, Timestamp};
use crate::store::Change;

tokio::task_local! {
    /// The route whose handler runs, for what is measured far below it.
    pub(crate) static ROUTE: RouteSlot;
}

/// The position of a route's metrics.
#[derive(Clone, Copy)]
pub(crate) struct RouteSlot(usize);

impl RouteSlot {
    /// Requests that match no route, and work outside of requests.
    pub(crate) const NONE: Self = Self(0);
    /// The routes of an embedding program.
    pub(crate) const HOST: Self = Self(1);

    /// A row of the routes table.
    pub(crate) const fn of(index: usize) -> Self {
        Self(index + 2)
    }
}

/// The metrics of one route, so that a request looks up no labels.
struct RouteMetrics {
    path: &'static str,
    requests: [Counter; STATUSES.len()],
    duration: Histogram,
    slow_queries: Counter,
}

/// The metrics and the registry that writes them.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) table: Table,
    /// By [`RouteSlot`].
    routes: Vec<RouteMetrics>,
    /// From when on something counts as slow, which a reload changes, and what alerts compare.
    watched: Mutex<(AlertsConfig, AlertCounts)>,
    /// Whether the names of OpenTelemetry are there too.
    gen_ai: bool,
    models: Models,
}

impl Metrics {
    /// Known label values are zero from the start, so that a rate sees the first event.
    /// `routes` are path and method of each row of the routes table.
    pub(crate) fn new<'a>(
        adapters: &BTreeSet<String>,
        upstreams: impl Iterator<Item = &'a str>,
        routes: impl Iterator<Item = (&'static str, &'static str)>,
        alerts: &AlertsConfig,
        gen_ai: bool,
    ) -> Self {
        let mut registry = Registry::default();
        let table = Table::register(&mut registry);
        with(&table.build_info, [("version", env!("CARGO_PKG_VERSION"))]).set(1);
        for adapter in adapters {
            for end in CHAT_ENDS {
                with(&table.chats, [("status", end), ("adapter", adapter)]);
            }
        }
        for upstream in upstreams {
            with(&table.upstream_wait, [("upstream", upstream)]);
            with(&table.upstream_queue, [("upstream", upstream)]);
        }
        for cause in RELEASES {
            with(&table.released, [("cause", cause)]);
        }
        for cause in [Release::ClientLeft, Release::NotWritten] {
            with(&table.lost, [("cause", RELEASES[cause as usize])]);
        }
        for cause in ESTIMATES {
            with(&table.estimated, [("cause", cause.as_str())]);
        }
        for reason in ["grant", "mining"] {
            with(&table.distributed, [("reason", reason)]);
        }
        for class in RateClass::ALL {
            with(&table.limited, [("class", class.as_str())]);
        }
        let others = [("none", "none"), ("own", "any")].into_iter();
        let routes = others.chain(routes).map(|(path, method)| {
            let route = ("route", path);
            let requests = |status| [route, ("method", method), ("status", status)];
            RouteMetrics {
                path,
                requests: STATUSES.map(|status| with(&table.http_requests, requests(status))),
                duration: with(&table.http_duration, [route]),
                slow_queries: with(&table.slow_queries, [route]),
            }
        });
        Self {
            routes: routes.collect(),
            watched: Mutex::new((alerts.clone(), AlertCounts::default())),
            registry,
            table,
            gen_ai,
            models: Models::new(adapters),
        }
    }

    fn watched(&self) -> MutexGuard<'_, (AlertsConfig, AlertCounts)> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request; without a status where its client left before there was one. `took` is without the time of its
    /// client, which may be slow on purpose; only what `is_bounded` by the request timeout counts for the latency alert.
    /// `fault` is what failed, [`OWN_ERRORS`] or one of the others, where its client is not to blame.
    pub(crate) fn request(
        &self,
        route: RouteSlot,
        status: Option<u16>,
        fault: Option<usize>,
        took: Duration,
        is_bounded: bool,
    ) {
        let status = status.map_or(0, |status| usize::from(status / 100) - 1);
        let status = status.min(SERVER_ERROR);
        if let Some(route) = self.routes.get(route.0) {
            route.requests[status].inc();
            route.duration.observe(took.as_secs_f64());
        }
        let (limits, counts) = &mut *self.watched();
        for kind in [OWN_ERRORS, STORAGE_ERRORS, UPSTREAM_ERRORS] {
            counts[kind].count(fault == Some(kind));
        }
        if is_bounded {
            counts[SLOW_ANSWERS].count(took > limits.response_time);
        }
    }

    /// The thresholds in force.
    pub(crate) fn alert_settings(&self) -> AlertsConfig {
        self.watched().0.clone()
    }

    pub(crate) fn set_alert_settings(&self, settings: &AlertsConfig) {
        self.watched().0.clone_from(settings);
    }

    /// The counts since the start.
    pub(crate) fn alert_counts(&self) -> AlertCounts {
        self.watched().1
    }

    /// Adds the metrics of backups, for a storage that makes them.
    pub(crate) fn add_backups(&self) {
        self.table.backup_failures.set(Some(Counter::default()));
    }

    /// A backup was made at this time.
    pub(crate) fn backed_up(&self, made_at: Timestamp) {
        let made_at = table::float(seconds(made_at));
        self.table.backup_made_at.set(Some(made_at));
    }

    pub(crate) fn backup_failed(&self) {
        if let Some(failures) = self.table.backup_failures.get() {
            failures.inc();
        }
    }

    /// When the newest known backup was made.
    pub(crate) fn last_backup(&self) -> Option<Timestamp> {
        Some(time(self.table.backup_made_at.get()?.get()))
    }

    /// Sets the gauges of the miner on this machine. What it does not report, and all but the time while it is not read, is
    /// left out of the page.
    pub(crate) fn set_miner(&self, sample: Option<&Sample>) {
        let table = &self.table;
        for (gauge, value) in [
            (&table.miner_hashrate, sample.map(|sample| sample.hashrate)),
            (
                &table.miner_gpu_temperature,
                sample.and_then(|sample| sample.gpu_temperature),
            ),
            (
                &table.miner_power_watts,
                sample.and_then(|sample| sample.power_watts),
            ),
        ] {
            gauge.set(value.map(table::float));
        }
        for (gauge, shares) in [
            (
                &table.miner_accepted,
                sample.and_then(|sample| sample.accepted),
            ),
            (
                &table.miner_rejected,
                sample.and_then(|sample| sample.rejected),
            ),
        ] {
            gauge.set(shares.map(table::whole));
        }
        if let Some(sample) = sample {
            let read_at = seconds(sample.recorded_at);
            table.miner_read_at.set(Some(table::float(read_at)));
        }
    }

    /// When the page of the miner was last read.
    pub(crate) fn miner_read_at(&self) -> Option<Timestamp> {
        Some(time(self.table.miner_read_at.get()?.get()))
    }

    /// The page with its content type, in OpenMetrics 1.0 or in Prometheus' text format 0.0.4.
    pub(crate) fn page(
        &self,
        open_metrics: bool,
    ) -> Result<(&'static str, String), std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        if open_metrics {
            return Ok((
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text,
            ));
        }
        Ok((
            "text/plain; version=0.0.4; charset=utf-8",
            text_format(&text),
        ))
    }

    /// Counts what was changed in this process: samples, and credits that came from nowhere.
    pub(crate) fn changed(&self, change: &Change) {
        let (reason, amount) = match change {
            Change::Samples { new, .. } => {
                self.table.samples.inc_by(*new as u64);
                return;
            }
            Change::Granted(movement) => ("grant", movement.amount),
            Change::Earned(movement) => ("mining", movement.amount),
            _ => return,
        };
        with(&self.table.distributed, [("reason", reason)]).inc_by(float(amount));
    }

    pub(crate) fn read(&self, took: Duration) {
        self.table.read_duration.observe(took.as_secs_f64());
        if took > self.watched().0.slow_query {
            // A background task has no route.
            let slot = ROUTE.try_with(|slot| *slot).unwrap_or(RouteSlot::NONE);
            if let Some(route) = self.routes.get(slot.0) {
                route.slow_queries.inc();
                log::warn!("a read of {} took {took:?}", route.path);
            }
        }
    }
}

/// Prometheus' text format 0.0.4 from OpenMetrics, which names a counter without its `_total` and ends with `# EOF`.
fn text_format(open_metrics: &str) -> String {
    const HELP: &str = "# HELP ";
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    for family in open_metrics.trim_end_matches("# EOF\n").split(HELP).skip(1) {
        let (name, rest) = family.split_once(' ').unwrap_or((family, ""));
        let counter = format!("# TYPE {name} counter");
        let total = format!("# TYPE {name}_total counter");
        text += HELP;
        text += &match rest.contains(&counter) {
            true => format!("{name}_total {}", rest.replace(&counter, &total)),
            false => family.to_owned(),
        };
    }
    text
}

/// A time as Prometheus writes it: unix seconds.
fn seconds(time: Timestamp) -> f64 {
    time.millis() as f64 / 1000.0
}

fn time(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1000.0).round() as i64)
}

/// Prometheus has no integers; this is the only function that converts an amount to a float, for output.
fn float(amount: Credits) -> f64 {
    amount.micro() as f64 / 1_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format_names_counters_whole_and_has_no_end() {
        let open_metrics = "# HELP chats How many chats counter.\n# TYPE chats counter\nchats_total{status=\"a b\"} 1\n\
                            # HELP size_bytes Now.\n# TYPE size_bytes gauge\nsize_bytes 7\n# EOF\n";
        let text = "# HELP chats_total How many chats counter.\n# TYPE chats_total counter\nchats_total{status=\"a b\"} 1\n\
                    # HELP size_bytes Now.\n# TYPE size_bytes gauge\nsize_bytes 7\n";
        assert_eq!(text_format(open_metrics), text);
    }

    #[test]
    fn what_takes_longer_than_its_threshold_is_counted_as_slow() {
        let alerts = AlertsConfig::default();
        let none = std::iter::empty;
        let metrics = Metrics::new(&BTreeSet::new(), none(), std::iter::empty(), &alerts, false);
        let none = RouteSlot::NONE;
        metrics.request(
            none,
            Some(500),
            Some(OWN_ERRORS),
            alerts.response_time,
            true,
        );
        let before = metrics.alert_counts();
        metrics.request(none, Some(404), None, 2 * alerts.response_time, true);
        metrics.request(none, Some(200), None, 2 * alerts.response_time, false);
        let most = alerts.overhead_p99;
        metrics.chat_began(false, "chat", "general", most, most);
        metrics.chat_began(false, "chat", "general", most, 2 * most);
        let (now, share) = (metrics.alert_counts(), |part, all| Share { part, all });
        assert_eq!(now[OWN_ERRORS].since(before[OWN_ERRORS]), share(0, 2));
        assert_eq!(now[SLOW_ANSWERS].since(before[SLOW_ANSWERS]), share(1, 1));
        assert_eq!(now[SLOW_CHATS].since(before[SLOW_CHATS]), share(1, 2));
    }
}
