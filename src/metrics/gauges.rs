//! Gauges that are read when the metrics page is requested, as their values are stored elsewhere.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::table::Float;
use super::{Metrics, process};
use crate::breaker::{Breaker, Phase};
use crate::cache::Source;
use crate::limits::RateClass;
use crate::model::Sample;
use crate::store::StoreGauges;

/// The current values.
pub(crate) struct Gauges {
    pub(crate) active_users: usize,
    pub(crate) in_flight: usize,
    pub(crate) limiter_entries: [usize; RateClass::ALL.len()],
    pub(crate) unwritten: usize,
    pub(crate) store: StoreGauges,
}

fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// A counter whose value is stored elsewhere.
fn store(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}

impl Metrics {
    pub(crate) fn set_gauges(&self, now: &Gauges) {
        let table = &self.table;
        set(&table.active_users, now.active_users);
        set(&table.in_flight, now.in_flight);
        for (class, entries) in RateClass::ALL.into_iter().zip(now.limiter_entries) {
            set(&table.limiter_entries.with([class.as_str()]), entries);
        }
        set(&table.unwritten, now.unwritten);
        set(&table.queue_depth, now.store.queue_depth);
        set(&table.pool_in_use, now.store.pool_in_use);
        set(&table.pool_size, now.store.pool_size);
        set(&table.file_bytes, now.store.file_bytes as usize);
        set(&table.wal_bytes, now.store.wal_bytes as usize);
        let free = now.store.disk_free_bytes.unwrap_or_default();
        set(&table.disk_free, free as usize);
        process::refresh(table);
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
            set(&self.table.alerts.with([severity]), count);
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
        table.breaker_state.with([name]).set(state);
        table.breaker_forced.with([name]).set(status.forced.into());
        for (phase, to) in [
            (Phase::Closed, "closed"),
            (Phase::Open, "open"),
            (Phase::HalfOpen, "half_open"),
        ] {
            let counter = table.breaker_transitions.with([name, to]);
            store(&counter, breaker.times_entered(phase));
        }
        for (result, passed) in [("passed", true), ("failed", false)] {
            let counter = table.breaker_health_checks.with([name, result]);
            store(&counter, breaker.health_checks(passed));
        }
    }

    /// Sets the counters of a cache.
    pub(crate) fn set_cache(&self, cache: &'static str, counts: [(Source, u64); 3]) {
        for (source, count) in counts {
            let counter = self.table.cache.with([cache, source.as_str()]);
            store(&counter, count);
        }
    }
}
