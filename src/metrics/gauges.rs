//! Gauges that are read when the metrics page is requested, as their values are stored elsewhere.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::table::{Float, with};
use super::{Metrics, process};
use crate::breaker::{Breaker, Phase};
use crate::cache::Source;
use crate::limits::RateClass;
use crate::model::Sample;
use crate::store::StoreGauges;

pub(crate) fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// A counter whose value is stored elsewhere.
fn store(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}

impl Metrics {
    /// Sets the gauges of the process and the storage.
    pub(crate) fn set_store(&self, store: &StoreGauges) {
        let table = &self.table;
        set(&table.queue_depth, store.queue_depth);
        set(&table.pool_in_use, store.pool_in_use);
        set(&table.pool_size, store.pool_size);
        set(&table.file_bytes, store.file_bytes as usize);
        set(&table.wal_bytes, store.wal_bytes as usize);
        let free = store.disk_free_bytes.unwrap_or_default();
        set(&table.disk_free, free as usize);
        process::refresh(table);
    }

    /// Sets how many buckets each limiter holds.
    pub(crate) fn set_limiters(&self, entries: [usize; RateClass::ALL.len()]) {
        for (class, entries) in RateClass::ALL.into_iter().zip(entries) {
            let class = [("class", class.as_str())];
            set(&with(&self.table.limiter_entries, class), entries);
        }
    }

    /// Sets the gauges of the miner on this machine. Values that its sample leaves out are not changed.
    pub(crate) fn set_miner(&self, sample: &Sample) {
        let table = &self.table;
        let set = |gauge: &Float, value: Option<f64>| {
            if let Some(value) = value {
                gauge.set(value);
            }
        };
        set(&table.miner_hashrate, Some(sample.hashrate));
        set(&table.miner_gpu_temperature, sample.gpu_temperature);
        set(&table.miner_power_watts, sample.power_watts);
        let read_at = sample.recorded_at.millis() as f64 / 1000.0;
        set(&table.miner_read_at, Some(read_at));
        for (gauge, shares) in [
            (&table.miner_accepted, sample.accepted),
            (&table.miner_rejected, sample.rejected),
        ] {
            gauge.set(shares.unwrap_or_else(|| gauge.get()));
        }
    }

    /// Sets how many alerts are firing, by severity.
    pub(crate) fn set_alerts(&self, firing: [(&'static str, usize); 2]) {
        for (severity, count) in firing {
            set(&with(&self.table.alerts, [("severity", severity)]), count);
        }
    }

    /// Sets the state of a breaker and its counters.
    pub(crate) fn set_breaker(&self, breaker: &Breaker) {
        let (table, name, status) = (&self.table, breaker.name(), breaker.status());
        let state = match status.state {
            Phase::Closed => 0,
            Phase::HalfOpen => 1,
            Phase::Open => 2,
        };
        let upstream = ("upstream", name);
        with(&table.breaker_state, [upstream]).set(state);
        with(&table.breaker_forced, [upstream]).set(status.forced.into());
        for (phase, to) in [
            (Phase::Closed, "closed"),
            (Phase::Open, "open"),
            (Phase::HalfOpen, "half_open"),
        ] {
            let counter = with(&table.breaker_transitions, [upstream, ("to", to)]);
            store(&counter, breaker.times_entered(phase));
        }
        for (result, passed) in [("passed", true), ("failed", false)] {
            let counter = with(&table.breaker_health_checks, [upstream, ("result", result)]);
            store(&counter, breaker.health_checks(passed));
        }
    }

    /// Sets the counters of a cache.
    pub(crate) fn set_cache(&self, cache: &'static str, counts: [(Source, u64); 3]) {
        for (source, count) in counts {
            let labels = [("cache", cache), ("result", source.as_str())];
            store(&with(&self.table.cache, labels), count);
        }
    }
}
