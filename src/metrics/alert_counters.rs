//! The counters that alerts compare over five minutes; the registry's histograms cannot be read back.

use std::array::from_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts since the start.
#[derive(Default)]
pub(crate) struct AlertCounters {
    requests: AtomicU64,
    errors: AtomicU64,
    times: [AtomicU64; BUCKETS],
    overheads: [AtomicU64; BUCKETS],
}

/// Upper ends in milliseconds; the last bucket has none.
const ENDS: [u64; BUCKETS - 1] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000,
];
const BUCKETS: usize = 15;

impl AlertCounters {
    /// `took` is `None` if the duration was the model's.
    pub(super) fn request(&self, is_error: bool, took: Option<Duration>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(took) = took {
            count(&self.times, took);
        }
    }

    pub(super) fn overhead(&self, took: Duration) {
        count(&self.overheads, took);
    }

    /// The counts so far.
    pub(crate) fn snapshot(&self) -> CounterSnapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CounterSnapshot {
            requests: read(&self.requests),
            errors: read(&self.errors),
            times: self.times.each_ref().map(read),
            overheads: self.overheads.each_ref().map(read),
        }
    }
}

fn count(times: &[AtomicU64; BUCKETS], took: Duration) {
    let bucket = ENDS.partition_point(|end| Duration::from_millis(*end) < took);
    if let Some(count) = times.get(bucket) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts since the start, or of a window.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct CounterSnapshot {
    /// Requests that ended.
    pub(crate) requests: u64,
    /// Those that failed because of this server or an upstream.
    pub(crate) errors: u64,
    times: [u64; BUCKETS],
    overheads: [u64; BUCKETS],
}

impl CounterSnapshot {
    /// The counts after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let less = |now: &[u64; BUCKETS], then: &[u64; BUCKETS]| {
            from_fn(|at| now[at].saturating_sub(then[at]))
        };
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            times: less(&self.times, &earlier.times),
            overheads: less(&self.overheads, &earlier.overheads),
        }
    }

    /// The 99th percentile of answers that wait for no model, in seconds; `None` where there were none.
    pub(crate) fn response_p99(&self) -> Option<f64> {
        p99(&self.times)
    }

    /// The same for the overhead of chats, without the time of their model.
    pub(crate) fn overhead_p99(&self) -> Option<f64> {
        p99(&self.overheads)
    }
}

/// Interpolated within its bucket, as `histogram_quantile` of Prometheus does.
fn p99(counts: &[u64; BUCKETS]) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let rank = all as f64 * 0.99;
    let (mut below, mut start) = (0.0, 0.0);
    for (at, count) in counts.iter().enumerate().filter(|_| all > 0) {
        let seconds = |end: &u64| *end as f64 / 1000.0;
        let Some(end) = ENDS.get(at).map(seconds) else {
            return Some(start);
        };
        if below + *count as f64 >= rank {
            return Some(start + (end - start) * (rank - below) / *count as f64);
        }
        below += *count as f64;
        start = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_requests_have_no_p99() {
        assert_eq!(CounterSnapshot::default().response_p99(), None);
    }

    proptest! {
        #[test]
        fn the_p99_lies_in_the_bucket_of_the_exact_one(mut millis in prop::collection::vec(0u64..40_000, 1..300), before in prop::collection::vec(0u64..40_000, 0..50)) {
            let counters = AlertCounters::default();
            let count = |millis: &u64| counters.request(false, Some(Duration::from_millis(*millis)));
            before.iter().for_each(count);
            let earlier = counters.snapshot();
            millis.iter().for_each(count);
            let window = counters.snapshot().since(&earlier);
            prop_assert_eq!(window.requests, millis.len() as u64);
            millis.sort_unstable();
            let rank = (millis.len() as f64 * 0.99).ceil() as usize;
            let exact = millis[rank - 1];
            let shown = window.response_p99().unwrap();
            let bucket = ENDS.partition_point(|end| *end < exact);
            let start = if bucket == 0 { 0 } else { ENDS[bucket - 1] };
            let end = ENDS.get(bucket).copied().unwrap_or(start);
            prop_assert!(shown * 1000.0 >= start as f64 - 1e-6 && shown * 1000.0 <= end as f64 + 1e-6, "{} not in {}..{}", shown, start, end);
        }
    }
}
