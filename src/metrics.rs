//! Every metric, in one struct. Labels come from fixed sets only: route templates, the configured adapters, the names of
//! upstreams. Nothing a client sends becomes a label.

mod names;
mod text_format;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::breaker::{Breaker, Finding, Phase};
use crate::cache::Counts;
use crate::limits::RateClass;
use crate::model::Credits;
use crate::routes::ROUTES;
use crate::store::{StoreGauges, StoreObserver};

/// How a chat ended, as `chat_requests_total{status}` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ChatEnd {
    /// Whole.
    Success,
    /// Broken off by the upstream (or the shutdown) after its first text.
    Cut,
    /// The client did not wait for its end.
    ClientLeft,
    /// The wallet could not pay.
    Refused,
    /// Nothing came.
    Failed,
}

impl ChatEnd {
    const ALL: [Self; 5] = [
        Self::Success,
        Self::Cut,
        Self::ClientLeft,
        Self::Refused,
        Self::Failed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cut => "cut",
            Self::ClientLeft => "client_left",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ChatLabels {
    status: &'static str,
    adapter: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HttpLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TransitionLabels {
    upstream: String,
    to: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct LookLabels {
    upstream: String,
    found: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CacheLabels {
    cache: &'static str,
    result: &'static str,
}

type Amount = Counter<f64, AtomicU64>;

/// Figures that are read at the moment the page is asked for.
pub(crate) struct Gauges {
    pub(crate) active_users: usize,
    pub(crate) in_flight: usize,
    pub(crate) limiter_entries: [usize; RateClass::ALL.len()],
    pub(crate) unwritten: usize,
    pub(crate) store: StoreGauges,
}

/// The metrics and the registry that writes them.
pub(crate) struct Metrics {
    registry: Registry,
    http_requests: Family<HttpLabels, Counter>,
    http_duration: Family<RouteLabel, Histogram>,
    connections: Gauge,
    in_flight: Gauge,
    chats: Family<ChatLabels, Counter>,
    chat_duration: Histogram,
    active_users: Gauge,
    distributed: Family<ReasonLabel, Amount>,
    reserved: Amount,
    settled: Amount,
    refunded: Amount,
    unwritten: Gauge,
    auth_failures: Counter,
    /// Keys looked up in the storage.
    pub(crate) key_lookups: Counter,
    limited: Family<ClassLabel, Counter>,
    limiter_entries: Family<ClassLabel, Gauge>,
    /// Samples taken in.
    pub(crate) samples: Counter,
    breaker_state: Family<UpstreamLabel, Gauge>,
    breaker_forced: Family<UpstreamLabel, Gauge>,
    breaker_transitions: Family<TransitionLabels, Counter>,
    breaker_looks: Family<LookLabels, Counter>,
    cache: Family<CacheLabels, Counter>,
    commit_duration: Histogram,
    commit_jobs: Histogram,
    commit_failures: Counter,
    read_duration: Histogram,
    queue_depth: Gauge,
    pool_in_use: Gauge,
    pool_size: Gauge,
    file_bytes: Gauge,
    wal_bytes: Gauge,
}

const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];
const CHAT_SECONDS: [f64; 9] = [0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 120.0, 300.0];

impl Metrics {
    pub(crate) fn new(adapters: &BTreeSet<String>) -> Self {
        let seconds = || Histogram::new(SECONDS);
        let metrics = Self {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(seconds),
            connections: Gauge::default(),
            in_flight: Gauge::default(),
            chats: Family::default(),
            chat_duration: Histogram::new(CHAT_SECONDS),
            active_users: Gauge::default(),
            distributed: Family::default(),
            reserved: Amount::default(),
            settled: Amount::default(),
            refunded: Amount::default(),
            unwritten: Gauge::default(),
            auth_failures: Counter::default(),
            key_lookups: Counter::default(),
            limited: Family::default(),
            limiter_entries: Family::default(),
            samples: Counter::default(),
            breaker_state: Family::default(),
            breaker_forced: Family::default(),
            breaker_transitions: Family::default(),
            breaker_looks: Family::default(),
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
        for route in ROUTES {
            drop(
                metrics
                    .http_duration
                    .get_or_create(&RouteLabel { route: route.path }),
            );
        }
        metrics.registered()
    }

    /// Counts a request.
    pub(crate) fn request(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        took: Duration,
    ) {
        self.http_requests
            .get_or_create(&HttpLabels {
                route,
                method,
                status,
            })
            .inc();
        self.http_duration
            .get_or_create(&RouteLabel { route })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
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

    pub(crate) fn distributed(&self, reason: &'static str, amount: Credits) {
        if amount > Credits::ZERO {
            self.distributed
                .get_or_create(&ReasonLabel { reason })
                .inc_by(shown(amount));
        }
    }

    pub(crate) fn reserved(&self, price: Credits) {
        self.reserved.inc_by(shown(price));
    }

    pub(crate) fn settled(&self, price: Credits) {
        self.settled.inc_by(shown(price));
    }

    pub(crate) fn refunded(&self, price: Credits) {
        self.refunded.inc_by(shown(price));
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

    /// Sets what is read where it lives instead of being counted.
    pub(crate) fn set_gauges(&self, now: &Gauges) {
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.active_users, now.active_users);
        set(&self.in_flight, now.in_flight);
        for (class, entries) in RateClass::ALL.into_iter().zip(now.limiter_entries) {
            let class = class.as_str();
            set(
                &self.limiter_entries.get_or_create(&ClassLabel { class }),
                entries,
            );
        }
        set(&self.unwritten, now.unwritten);
        set(&self.queue_depth, now.store.queue_depth);
        set(&self.pool_in_use, now.store.pool_in_use);
        set(&self.pool_size, now.store.pool_size);
        set(&self.file_bytes, now.store.file_bytes as usize);
        set(&self.wal_bytes, now.store.wal_bytes as usize);
    }

    /// Sets what a breaker is doing, and what it did so far.
    pub(crate) fn set_breaker(&self, breaker: &Breaker) {
        let upstream = || breaker.name().to_owned();
        let label = UpstreamLabel {
            upstream: upstream(),
        };
        let status = breaker.status();
        self.breaker_state
            .get_or_create(&label)
            .set(match status.state {
                Phase::Closed => 0,
                Phase::HalfOpen => 1,
                Phase::Open => 2,
            });
        self.breaker_forced
            .get_or_create(&label)
            .set(status.forced.into());
        let store = |counter: &Counter, count| counter.inner().store(count, Ordering::Relaxed);
        for (phase, to) in [
            (Phase::Closed, "closed"),
            (Phase::Open, "open"),
            (Phase::HalfOpen, "half_open"),
        ] {
            let labels = TransitionLabels {
                upstream: upstream(),
                to,
            };
            let counter = self.breaker_transitions.get_or_create(&labels);
            store(&counter, breaker.times_entered(phase));
        }
        for finding in [Finding::Well, Finding::Down, Finding::Unknown] {
            let labels = LookLabels {
                upstream: upstream(),
                found: finding.as_str(),
            };
            let counter = self.breaker_looks.get_or_create(&labels);
            store(&counter, breaker.times_found(finding));
        }
    }

    /// Sets what a cache did so far.
    pub(crate) fn set_cache(
        &self,
        cache: &'static str,
        Counts {
            hits,
            misses,
            stale,
        }: &Counts,
    ) {
        for (result, count) in [("hit", hits), ("miss", misses), ("stale", stale)] {
            let counter = self.cache.get_or_create(&CacheLabels { cache, result });
            counter
                .inner()
                .store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl StoreObserver for Metrics {
    fn committed(&self, jobs: usize, took: Duration, ok: bool) {
        self.commit_duration.observe(took.as_secs_f64());
        self.commit_jobs.observe(jobs as f64);
        if !ok {
            self.commit_failures.inc();
        }
    }

    fn read(&self, took: Duration) {
        self.read_duration.observe(took.as_secs_f64());
    }
}

/// Prometheus knows no integers; this is the one place where an amount becomes a float, on its way out.
fn shown(amount: Credits) -> f64 {
    amount.micro() as f64 / 1_000_000.0
}
