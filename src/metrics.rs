//! Every metric, in one struct. Labels come from fixed sets only: route templates, the configured adapters, the names of
//! upstreams. Nothing a client sends becomes a label.

mod gauges;
mod labels;
mod names;
mod process;
mod text_format;
mod watched;

pub(crate) use gauges::Gauges;
pub(crate) use labels::ChatEnd;
pub(crate) use watched::{AlertCounters, CounterSnapshot};

use labels::{
    AlertLabels, CacheLabels, ChatLabels, ClassLabel, HealthCheckLabels, HttpEnd, HttpLabels,
    ReasonLabel, RouteLabel, TransitionLabels, UpstreamLabel,
};

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::limits::RateClass;
use crate::model::{Credits, Timestamp};
use crate::routes::{MatchedRoute, ROUTES, RouteId};
use crate::store::Change;

/// The counters of one route, found by its place in the table instead of by its labels.
struct HttpRoute {
    ends: [Counter; HttpEnd::ALL.len()],
    duration: Histogram,
    slow_queries: Counter,
}

tokio::task_local! {
    /// The route whose handler runs, for what is measured far below it.
    pub(crate) static ROUTE: RouteId;
}

type Amount = Counter<f64, AtomicU64>;

/// The metrics and the registry that writes them.
pub(crate) struct Metrics {
    registry: Registry,
    /// For alerts, which look back over minutes.
    pub(crate) watched: AlertCounters,
    /// From when on a read counts as slow, in microseconds.
    slow_query: AtomicU64,
    /// By [`RouteId`]; then what leads nowhere, and the host's own routes.
    routes: Vec<HttpRoute>,
    http_requests: Family<HttpLabels, Counter>,
    http_duration: Family<RouteLabel, Histogram>,
    slow_queries: Family<RouteLabel, Counter>,
    connections: Gauge,
    in_flight: Gauge,
    chats: Family<ChatLabels, Counter>,
    chat_duration: Histogram,
    chat_first_byte: Histogram,
    chat_overhead: Histogram,
    upstream_wait: Family<UpstreamLabel, Histogram>,
    active_users: Gauge,
    distributed: Family<ReasonLabel, Amount>,
    reserved: Amount,
    settled: Amount,
    refunded: Amount,
    reservations_open: Gauge,
    unwritten: Gauge,
    auth_failures: Counter,
    /// Keys looked up in the storage.
    pub(crate) key_lookups: Counter,
    limited: Family<ClassLabel, Counter>,
    limiter_entries: Family<ClassLabel, Gauge>,
    samples: Counter,
    miner: gauges::Miner,
    process: process::Process,
    alerts: Family<AlertLabels, Gauge>,
    disk_free: Gauge,
    breaker_state: Family<UpstreamLabel, Gauge>,
    breaker_forced: Family<UpstreamLabel, Gauge>,
    breaker_transitions: Family<TransitionLabels, Counter>,
    breaker_health_checks: Family<HealthCheckLabels, Counter>,
    cache: Family<CacheLabels, Counter>,
    commit_duration: Histogram,
    commit_jobs: Histogram,
    commit_failures: Counter,
    read_duration: Histogram,
    queue_depth: Gauge,
    pool_in_use: Gauge,
    pool_size: Gauge,
    file_bytes: Gauge,
    backup_made_at: Gauge<f64, AtomicU64>,
    backup_failures: Counter,
    wal_bytes: Gauge,
}

const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];
const CHAT_SECONDS: [f64; 9] = [0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 120.0, 300.0];

impl Metrics {
    /// `slow_query` is from when on a read counts as slow.
    pub(crate) fn new(adapters: &BTreeSet<String>, slow_query: Duration) -> Self {
        let seconds = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::default(),
            watched: AlertCounters::default(),
            slow_query: AtomicU64::new(micros(slow_query)),
            routes: Vec::new(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(seconds),
            slow_queries: Family::default(),
            connections: Gauge::default(),
            in_flight: Gauge::default(),
            chats: Family::default(),
            chat_duration: Histogram::new(CHAT_SECONDS),
            chat_first_byte: Histogram::new(CHAT_SECONDS),
            chat_overhead: seconds(),
            upstream_wait: Family::new_with_constructor(|| Histogram::new(CHAT_SECONDS)),
            active_users: Gauge::default(),
            distributed: Family::default(),
            reserved: Amount::default(),
            settled: Amount::default(),
            refunded: Amount::default(),
            reservations_open: Gauge::default(),
            unwritten: Gauge::default(),
            auth_failures: Counter::default(),
            key_lookups: Counter::default(),
            limited: Family::default(),
            limiter_entries: Family::default(),
            samples: Counter::default(),
            miner: gauges::Miner::default(),
            process: process::Process::default(),
            alerts: Family::default(),
            disk_free: Gauge::default(),
            breaker_state: Family::default(),
            breaker_forced: Family::default(),
            breaker_transitions: Family::default(),
            breaker_health_checks: Family::default(),
            cache: Family::default(),
            commit_duration: seconds(),
            commit_jobs: Histogram::new([
                1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0,
            ]),
            commit_failures: Counter::default(),
            read_duration: seconds(),
            queue_depth: Gauge::default(),
            pool_in_use: Gauge::default(),
            pool_size: Gauge::default(),
            file_bytes: Gauge::default(),
            backup_made_at: Gauge::default(),
            backup_failures: Counter::default(),
            wal_bytes: Gauge::default(),
        };
        // What can be known beforehand is zero from the start, so that the first event is a step a rate can see.
        for adapter in adapters {
            for end in ChatEnd::ALL {
                drop(metrics.chats.get_or_create(&ChatLabels {
                    status: end.as_str(),
                    adapter: adapter.clone(),
                }));
            }
        }
        for reason in ["grant", "mining"] {
            drop(metrics.distributed.get_or_create(&ReasonLabel { reason }));
        }
        for class in RateClass::ALL {
            drop(metrics.limited.get_or_create(&ClassLabel {
                class: class.as_str(),
            }));
        }
        let others = [("none", "none"), ("own", "any")];
        let known = ROUTES
            .iter()
            .map(|route| (route.path, route.method.as_str()));
        for (route, method) in known.chain(others) {
            let end = |end: HttpEnd| {
                let status = end.as_str();
                let labels = HttpLabels {
                    route,
                    method,
                    status,
                };
                metrics.http_requests.get_or_create(&labels).clone()
            };
            let label = RouteLabel { route };
            metrics.routes.push(HttpRoute {
                ends: HttpEnd::ALL.map(end),
                duration: metrics.http_duration.get_or_create(&label).clone(),
                slow_queries: metrics.slow_queries.get_or_create(&label).clone(),
            });
        }
        metrics.registered()
    }

    /// Counts a request; no status where its client left before there was one. `took` is without the time of its client,
    /// who may be slow on purpose.
    pub(crate) fn request(&self, reached: MatchedRoute, status: Option<u16>, took: Duration) {
        let end = HttpEnd::of(status);
        if let Some(counters) = self.routes.get(match reached {
            MatchedRoute::Route(route) => route.id as usize,
            MatchedRoute::Nothing => ROUTES.len(),
            MatchedRoute::Own => ROUTES.len() + 1,
        }) {
            if let Some(counter) = counters.ends.get(end as usize) {
                counter.inc();
            }
            counters.duration.observe(took.as_secs_f64());
        }
        let chat = matches!(reached, MatchedRoute::Route(route) if route.rate == RateClass::Chat);
        let took = (!chat).then_some(took);
        self.watched.request(end == HttpEnd::ServerError, took);
    }

    /// From now on a read that takes this long counts as slow.
    pub(crate) fn set_slow_query(&self, from: Duration) {
        self.slow_query.store(micros(from), Ordering::Relaxed);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    /// A copy was made then, or could not be made.
    pub(crate) fn backed_up(&self, made_at: Option<Timestamp>) {
        match made_at {
            Some(made_at) => {
                let seconds = made_at.millis() as f64 / 1000.0;
                self.backup_made_at
                    .set(seconds.max(self.backup_made_at.get()));
            }
            None => drop(self.backup_failures.inc()),
        }
    }

    /// When the last copy was made that is known of.
    pub(crate) fn last_backup(&self) -> Option<Timestamp> {
        let seconds = self.backup_made_at.get();
        (seconds > 0.0).then(|| Timestamp::from_millis((seconds * 1000.0) as i64))
    }

    pub(crate) fn auth_failed(&self) {
        self.auth_failures.inc();
    }

    pub(crate) fn limited(&self, class: RateClass) {
        self.limited
            .get_or_create(&ClassLabel {
                class: class.as_str(),
            })
            .inc();
    }

    /// Counts a chat's end. `adapter` is a configured one: the handler refuses all others before.
    pub(crate) fn chat_ended(&self, adapter: &str, end: ChatEnd, took: Duration) {
        self.chats
            .get_or_create(&ChatLabels {
                status: end.as_str(),
                adapter: adapter.to_owned(),
            })
            .inc();
        self.chat_duration.observe(took.as_secs_f64());
    }

    /// A chat's first content was handed to the connection, so long after the request; `ours` of it was not waiting for
    /// the model.
    pub(crate) fn chat_began(&self, took: Duration, ours: Duration) {
        self.chat_first_byte.observe(took.as_secs_f64());
        self.chat_overhead.observe(ours.as_secs_f64());
        self.watched.overhead(ours);
    }

    /// An inference server that may be asked: its times are there from the start.
    pub(crate) fn knows_upstream(&self, upstream: &str) {
        let upstream = upstream.to_owned();
        drop(
            self.upstream_wait
                .get_or_create(&UpstreamLabel { upstream }),
        );
    }

    /// An inference server gave its first content after so long. `upstream` is a configured one.
    pub(crate) fn upstream_waited(&self, upstream: &str, took: Duration) {
        let upstream = upstream.to_owned();
        let label = UpstreamLabel { upstream };
        self.upstream_wait
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    fn distributed(&self, reason: &'static str, amount: Credits) {
        if amount > Credits::ZERO {
            self.distributed
                .get_or_create(&ReasonLabel { reason })
                .inc_by(shown(amount));
        }
    }

    pub(crate) fn reserved(&self, price: Credits) {
        self.reserved.inc_by(shown(price));
        self.reservations_open.inc();
    }

    pub(crate) fn settled(&self, price: Credits) {
        self.settled.inc_by(shown(price));
        self.reservations_open.dec();
    }

    pub(crate) fn refunded(&self, price: Credits) {
        self.refunded.inc_by(shown(price));
        self.reservations_open.dec();
    }

    /// The page, in OpenMetrics 1.0 or in Prometheus' text format 0.0.4, with its content type.
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
            text_format::from_open_metrics(&text),
        ))
    }
}

/// What the storage tells of itself.
impl Metrics {
    pub(crate) fn changed(&self, change: &Change) {
        match change {
            Change::Granted(amount) => self.distributed("grant", *amount),
            Change::Earned(amount) => self.distributed("mining", *amount),
            Change::Samples { new, .. } => drop(self.samples.inc_by(*new as u64)),
            Change::Account | Change::Key(_) => {}
        }
    }

    pub(crate) fn committed(&self, jobs: usize, took: Duration, ok: bool) {
        self.commit_duration.observe(took.as_secs_f64());
        self.commit_jobs.observe(jobs as f64);
        if !ok {
            self.commit_failures.inc();
        }
    }

    pub(crate) fn read(&self, took: Duration) {
        self.read_duration.observe(took.as_secs_f64());
        if micros(took) >= self.slow_query.load(Ordering::Relaxed) {
            // Outside of a request, as in the housekeeping, there is no route.
            let route = ROUTE.try_with(|route| *route).ok();
            let place = route.map_or(ROUTES.len(), |id| id as usize);
            if let Some(counters) = self.routes.get(place) {
                counters.slow_queries.inc();
            }
            let path = route.map_or("none", |id| ROUTES[id as usize].path);
            log::warn!("a read of {path} took {took:?}");
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Prometheus knows no integers; this is the one place where an amount becomes a float, on its way out.
fn shown(amount: Credits) -> f64 {
    amount.micro() as f64 / 1_000_000.0
}
