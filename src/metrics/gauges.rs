use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{
    AlertLabels, CacheLabels, ClassLabel, HealthCheckLabels, Metrics, TransitionLabels,
    UpstreamLabel,
};
use crate::breaker::{Breaker, Phase};
use crate::cache::Counts;
use crate::limits::RateClass;
use crate::model::Sample;
use crate::store::StoreGauges;

/// Figures that are read at the moment the page is asked for.
pub(crate) struct Gauges {
    pub(crate) active_users: usize,
    pub(crate) in_flight: usize,
    pub(crate) limiter_entries: [usize; RateClass::ALL.len()],
    pub(crate) unwritten: usize,
    pub(crate) store: StoreGauges,
}

/// What the miner on this machine told last.
#[derive(Default)]
pub(super) struct Miner {
    pub(super) hashrate: Gauge<f64, AtomicU64>,
    pub(super) gpu_temperature: Gauge<f64, AtomicU64>,
    pub(super) power_watts: Gauge<f64, AtomicU64>,
    pub(super) accepted: Gauge,
    pub(super) rejected: Gauge,
    pub(super) read_at: Gauge<f64, AtomicU64>,
}

impl Metrics {
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
        set(
            &self.disk_free,
            now.store.disk_free_bytes.unwrap_or_default() as usize,
        );
        self.process.read();
    }

    /// Sets what the miner on this machine told. A figure that it leaves out keeps its last value.
    pub(crate) fn set_miner(&self, sample: &Sample) {
        let miner = &self.miner;
        miner.hashrate.set(sample.hashrate);
        let set = |gauge: &Gauge<f64, AtomicU64>, value: Option<f64>| {
            if let Some(value) = value {
                gauge.set(value);
            }
        };
        set(&miner.gpu_temperature, sample.gpu_temperature);
        set(&miner.power_watts, sample.power_watts);
        set(
            &miner.read_at,
            Some(sample.recorded_at.millis() as f64 / 1000.0),
        );
        for (gauge, value) in [
            (&miner.accepted, sample.accepted),
            (&miner.rejected, sample.rejected),
        ] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
    }

    /// Sets how many alerts are firing, by severity.
    pub(crate) fn set_alerts(&self, firing: [(&'static str, usize); 2]) {
        for (severity, count) in firing {
            let labels = AlertLabels { severity };
            self.alerts.get_or_create(&labels).set(count as i64);
        }
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
        for (result, passed) in [("passed", true), ("failed", false)] {
            let labels = HealthCheckLabels {
                upstream: upstream(),
                result,
            };
            let counter = self.breaker_health_checks.get_or_create(&labels);
            store(&counter, breaker.health_checks(passed));
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
