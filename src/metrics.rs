//! Metrics. `table` declares each; this module updates them. Labels come from fixed sets only: route
//! templates, the configured adapters, the names of upstreams; nothing a client sends becomes a label.

mod alert_counters;
mod gauges;
mod process;
mod table;
mod text_format;

pub(crate) use alert_counters::{AlertCounters, CounterSnapshot};
pub(crate) use gauges::Gauges;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::table::Table;
use crate::limits::RateClass;
use crate::model::{Credits, Timestamp};
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

/// How a chat ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChatEnd {
    /// Whole.
    Success,
    /// Ended by the upstream (or the shutdown) after its first text.
    Cut,
    /// The client did not wait for its end.
    ClientLeft,
    /// The wallet could not pay.
    Refused,
    /// There was no text.
    Failed,
}

/// The label of each [`ChatEnd`].
const CHAT_ENDS: [&str; 5] = ["success", "cut", "client_left", "refused", "failed"];

/// The label of a status; the first is for a client that left before there was one.
const STATUSES: [&str; 5] = ["left", "2xx", "3xx", "4xx", "5xx"];
const SERVER_ERROR: usize = 4;

fn status_index(status: Option<u16>) -> usize {
    match status {
        None => 0,
        Some(..300) => 1,
        Some(300..400) => 2,
        Some(400..500) => 3,
        Some(500..) => SERVER_ERROR,
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
    /// From when on a read counts as slow, in microseconds.
    slow_query: AtomicU64,
    pub(crate) alert_counters: AlertCounters,
}

impl Metrics {
    /// Known label values are zero from the start, so that a rate sees the first event.
    /// `routes` are path and method of each row of the routes table.
    pub(crate) fn new<'a>(
        adapters: &BTreeSet<String>,
        upstreams: impl Iterator<Item = &'a str>,
        routes: impl Iterator<Item = (&'static str, &'static str)>,
        slow_query: Duration,
    ) -> Self {
        let mut registry = Registry::default();
        let table = Table::register(&mut registry);
        for adapter in adapters {
            for end in CHAT_ENDS {
                table.chats.with([end, adapter]);
            }
        }
        upstreams.for_each(|name| drop(table.upstream_wait.with([name])));
        for reason in ["grant", "mining"] {
            table.distributed.with([reason]);
        }
        for class in RateClass::ALL {
            table.limited.with([class.as_str()]);
        }
        let others = [("none", "none"), ("own", "any")].into_iter();
        let routes = others.chain(routes).map(|(route, method)| RouteMetrics {
            path: route,
            requests: STATUSES.map(|status| table.http_requests.with([route, method, status])),
            duration: table.http_duration.with([route]),
            slow_queries: table.slow_queries.with([route]),
        });
        Self {
            routes: routes.collect(),
            slow_query: AtomicU64::new(micros(slow_query)),
            alert_counters: AlertCounters::default(),
            registry,
            table,
        }
    }

    /// Counts a request; without a status where its client left before there was one. `took` is without the time of its
    /// client, which may be slow on purpose; only what `is_bounded` by the request timeout counts for the latency alert.
    pub(crate) fn request(
        &self,
        route: RouteSlot,
        status: Option<u16>,
        took: Duration,
        is_bounded: bool,
    ) {
        let status = status_index(status);
        if let Some(route) = self.routes.get(route.0) {
            route.requests[status].inc();
            route.duration.observe(took.as_secs_f64());
        }
        let took = is_bounded.then_some(took);
        self.alert_counters.request(status == SERVER_ERROR, took);
    }

    /// From now on a read that takes this long counts as slow.
    pub(crate) fn set_slow_query(&self, from: Duration) {
        self.slow_query.store(micros(from), Ordering::Relaxed);
    }

    /// A backup was made at this time, or failed.
    pub(crate) fn backed_up(&self, made_at: Option<Timestamp>) {
        match made_at {
            Some(made_at) => {
                let seconds = made_at.millis() as f64 / 1000.0;
                let newest = &self.table.backup_made_at;
                newest.set(seconds.max(newest.get()));
            }
            None => drop(self.table.backup_failures.inc()),
        }
    }

    /// When the newest known backup was made.
    pub(crate) fn last_backup(&self) -> Option<Timestamp> {
        let seconds = self.table.backup_made_at.get();
        (seconds > 0.0).then(|| Timestamp::from_millis((seconds * 1000.0) as i64))
    }

    pub(crate) fn limited(&self, class: RateClass) {
        self.table.limited.with([class.as_str()]).inc();
    }

    /// Counts a chat's end. `adapter` is a configured one: the handler refuses all others before.
    pub(crate) fn chat_ended(&self, adapter: &str, end: ChatEnd, took: Duration) {
        let label = CHAT_ENDS[end as usize];
        self.table.chats.with([label, adapter]).inc();
        self.table.chat_duration.observe(took.as_secs_f64());
    }

    /// A chat's first content was handed to the connection, so long after the request; `overhead` of it was not waiting for
    /// the model.
    pub(crate) fn chat_began(&self, took: Duration, overhead: Duration) {
        self.table.chat_first_byte.observe(took.as_secs_f64());
        self.table.chat_overhead.observe(overhead.as_secs_f64());
        self.alert_counters.overhead(overhead);
    }

    /// An inference server sent its first content after so long. `upstream` is a configured one.
    pub(crate) fn upstream_waited(&self, upstream: &str, took: Duration) {
        let wait = self.table.upstream_wait.with([upstream]);
        wait.observe(took.as_secs_f64());
    }

    pub(crate) fn reserved(&self, price: Credits) {
        self.table.reserved.inc_by(float(price));
        self.table.reservations_open.inc();
    }

    pub(crate) fn settled(&self, price: Credits) {
        self.table.settled.inc_by(float(price));
        self.table.reservations_open.dec();
    }

    pub(crate) fn refunded(&self, price: Credits) {
        self.table.refunded.inc_by(float(price));
        self.table.reservations_open.dec();
    }

    /// The page with its content type, in OpenMetrics 1.0 or in Prometheus' text format 0.0.4.
    pub(crate) fn page(
        &self,
        open_metrics: bool,
    ) -> Result<(&'static str, String), std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        if open_metrics {
            let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return Ok((media_type, text));
        }
        let media_type = "text/plain; version=0.0.4; charset=utf-8";
        Ok((media_type, text_format::from_open_metrics(&text)))
    }

    pub(crate) fn changed(&self, change: &Change) {
        let distributed = |reason, amount: Credits| {
            if amount > Credits::ZERO {
                let counter = self.table.distributed.with([reason]);
                counter.inc_by(float(amount));
            }
        };
        match change {
            Change::Granted(amount) => distributed("grant", *amount),
            Change::Earned(amount) => distributed("mining", *amount),
            Change::Samples { new, .. } => drop(self.table.samples.inc_by(*new as u64)),
            Change::Account | Change::Key(_) => {}
        }
    }

    pub(crate) fn committed(&self, jobs: usize, took: Duration, ok: bool) {
        self.table.commit_duration.observe(took.as_secs_f64());
        self.table.commit_jobs.observe(jobs as f64);
        if !ok {
            self.table.commit_failures.inc();
        }
    }

    pub(crate) fn read(&self, took: Duration) {
        self.table.read_duration.observe(took.as_secs_f64());
        if micros(took) >= self.slow_query.load(Ordering::Relaxed) {
            // A background task has no route.
            let slot = ROUTE.try_with(|slot| *slot).unwrap_or(RouteSlot::NONE);
            if let Some(route) = self.routes.get(slot.0) {
                route.slow_queries.inc();
                log::warn!("a read of {} took {took:?}", route.path);
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Prometheus has no integers; this is the only function that converts an amount to a float, for output.
fn float(amount: Credits) -> f64 {
    amount.micro() as f64 / 1_000_000.0
}
