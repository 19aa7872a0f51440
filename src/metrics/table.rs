//! Every metric, one row each: its help as the doc comment, its name, its type and labels. A new metric is a new row here
//! and the line that counts it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// A counter of credits.
pub(crate) type Amount = Counter<f64, AtomicU64>;
/// A gauge with fractional values.
pub(crate) type Float = Gauge<f64, AtomicU64>;
/// A metric with labels.
pub(crate) type Labeled<M, const N: usize> = Family<[(&'static str, String); N], M, fn() -> M>;

/// A metric of OpenTelemetry's semantic conventions for generative AI, as Prometheus names it; some of its labels are there
/// only where they say something.
pub(crate) type GenAi = Family<Vec<(&'static str, String)>, Histogram, fn() -> Histogram>;

/// A metric that is left out while the storage has none of it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Optional<M>(Arc<Mutex<Option<M>>>);

impl<M: Clone> Optional<M> {
    pub(crate) fn get(&self) -> Option<M> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, metric: Option<M>) {
        *self.lock() = metric;
    }

    fn lock(&self) -> MutexGuard<'_, Option<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Clone + EncodeMetric + TypedMetric> EncodeMetric for Optional<M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.get().map_or(Ok(()), |metric| metric.encode(encoder))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

/// A gauge of bytes, if known.
pub(crate) type Size = Optional<Gauge>;

pub(crate) fn size(gauge: &Size, bytes: Option<u64>) {
    gauge.set(bytes.map(|bytes| whole(bytes.cast_signed())));
}

pub(super) fn whole(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

pub(super) fn float(value: f64) -> Float {
    let gauge = Float::default();
    gauge.set(value);
    gauge
}

/// The metric with these labels, whose values must come from fixed sets.
pub(crate) fn with<M: Clone, const N: usize>(
    family: &Labeled<M, N>,
    labels: [(&'static str, &str); N],
) -> M {
    family.get_or_create_owned(&labels.map(|(name, value)| (name, value.to_owned())))
}

pub(crate) fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Sets a counter whose value is stored elsewhere.
pub(crate) fn store(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}

fn seconds() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
    ])
}

fn chat_seconds() -> Histogram {
    Histogram::new([0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 120.0, 300.0])
}

// The buckets are those that the conventions name.
fn gen_ai_tokens() -> Histogram {
    Histogram::new((0..14).map(|power| f64::from(1 << (2 * power))))
}

fn gen_ai_seconds() -> Histogram {
    Histogram::new((0..14).map(|power| 0.01 * f64::from(1 << power)))
}

fn gen_ai_first_token() -> Histogram {
    Histogram::new([
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ])
}

fn powers_of_two() -> Histogram {
    Histogram::new((0..10).map(|power| f64::from(1 << power)))
}

/// Declares the table as a struct with a field for each metric, and registers them in its order.
macro_rules! metrics {
    (@new $type:ty) => { <$type>::default() };
    (@new $type:ty, $new:expr) => { $new };
    ($(#[doc = $help:literal] $name:literal $field:ident: $type:ty $(= $new:expr)?;)*) => {
        pub(crate) struct Table {
            $(pub(crate) $field: $type,)*
        }

        impl Table {
            pub(super) fn register(registry: &mut Registry) -> Self {
                let table = Self { $($field: metrics!(@new $type $(, $new)?),)* };
                $(registry.register($name, $help.trim(), table.$field.clone());)*
                table
            }
        }
    };
}

metrics! {
    /// The running version; its value is always 1
    "r3mes_build_info" build_info: Labeled<Gauge, 1>;
    /// Chats by how they ended
    "chat_requests" chats: Labeled<Counter, 2>;
    /// Time from a chat's hold to its end
    "chat_request_duration_seconds" chat_duration: Histogram = chat_seconds();
    /// Time from a chat's request until its first content was handed to the connection
    "r3mes_chat_first_byte_seconds" chat_first_byte: Histogram = chat_seconds();
    /// The part of it that waited neither for the model nor in its queue
    "r3mes_chat_overhead_seconds" chat_overhead: Histogram = seconds();
    /// Time until an inference server sent its first content
    "r3mes_upstream_first_content_seconds" upstream_wait: Labeled<Histogram, 1> = Family::new_with_constructor(chat_seconds);
    /// Time a chat waited for a slot of an inference server
    "r3mes_upstream_queue_seconds" upstream_queue: Labeled<Histogram, 1> = Family::new_with_constructor(chat_seconds);
    /// Chats that wait for a slot of an inference server
    "r3mes_upstream_waiting" upstream_waiting: Labeled<Gauge, 1>;
    /// Chats in a slot of an inference server
    "r3mes_upstream_in_flight" upstream_in_flight: Labeled<Gauge, 1>;
    /// Slots of an inference server
    "r3mes_upstream_slots" upstream_slots: Labeled<Gauge, 1>;
    /// Calls of an inference server that failed, by cause
    "r3mes_upstream_failures" upstream_failures: Labeled<Counter, 2>;
    /// Wallets with an authenticated request in the last 15 minutes
    "active_users" active_users: Gauge;
    /// Credits given out, by reason
    "credits_distributed" distributed: Labeled<Amount, 1>;
    /// Requests by route template, method and the first digit of the status; left is a client that did not wait
    "r3mes_http_requests" http_requests: Labeled<Counter, 3>;
    /// Time until the answer, or its first part, was ready; without what the client took to send its body
    "r3mes_http_request_duration_seconds" http_duration: Labeled<Histogram, 1> = Family::new_with_constructor(seconds);
    /// Connections open
    "r3mes_http_connections" connections: Gauge;
    /// Requests in flight
    "r3mes_http_requests_in_flight" in_flight: Gauge;
    /// Requests with an invalid key
    "r3mes_auth_failures" auth_failures: Counter;
    /// Keys looked up in the storage, as they were not cached; bounded by the rate of failures
    "r3mes_key_lookups" key_lookups: Counter;
    /// Requests refused by a rate, by its class
    "r3mes_rate_limited" limited: Labeled<Counter, 1>;
    /// Buckets held by a limiter, by its class
    "r3mes_rate_limiter_entries" limiter_entries: Labeled<Gauge, 1>;
    /// Credits held for requests that run now
    "r3mes_credits_held" held: Float;
    /// Holds of requests that run now
    "r3mes_holds" holds: Gauge;
    /// Credits charged for chats
    "r3mes_credits_charged" charged: Amount;
    /// Credits that the usage of chats cost beyond what was held for them, and that were not charged
    "r3mes_credits_above_hold" above_hold: Amount;
    /// Charges for tokens that this server estimated, by the cause
    "r3mes_charges_estimated" estimated: Labeled<Counter, 1>;
    /// Tokens of chats by adapter and kind, as in the ledger; cached ones are a part of those of the prompt
    "r3mes_tokens" tokens: Labeled<Counter, 2>;
    /// Tokens of a chat, where its server reported them; this and what follows only with metrics.gen_ai
    "gen_ai_client_token_usage" gen_ai_tokens: GenAi = Family::new_with_constructor(gen_ai_tokens);
    /// Time from a chat's hold to its end
    "gen_ai_server_request_duration_seconds" gen_ai_duration: GenAi = Family::new_with_constructor(gen_ai_seconds);
    /// Time from a streamed chat's request until its first content was handed to the connection
    "gen_ai_server_time_to_first_token_seconds" gen_ai_first_token: GenAi = Family::new_with_constructor(gen_ai_first_token);
    /// Held credits of chats that were not charged, by cause
    "r3mes_credits_released" released: Labeled<Amount, 1>;
    /// Requests that a model worked on and that were not paid, by cause
    "r3mes_requests_lost" lost: Labeled<Counter, 1>;
    /// Charges reversed, as they were written too late for their answer
    "r3mes_credits_refunded" refunded: Amount;
    /// Charges that were tried again after a failure of the storage
    "r3mes_charges_retried" charges_retried: Counter;
    /// Charges that took less than was held for them, as the wallet had less: the file is damaged or was changed
    "r3mes_charges_short" charges_short: Counter;
    /// Samples recorded, from requests and from the collector
    "r3mes_miner_samples" samples: Counter;
    /// The hashrate of the miner on this machine, in its own unit; this and what follows only while its page is read and shows it
    "r3mes_miner_hashrate" miner_hashrate: Optional<Float>;
    /// Its temperature
    "r3mes_miner_gpu_temperature_celsius" miner_gpu_temperature: Optional<Float>;
    /// Its power draw
    "r3mes_miner_power_watts" miner_power_watts: Optional<Float>;
    /// Shares that the pool accepted, as the miner counts them
    "r3mes_miner_shares_accepted" miner_accepted: Optional<Gauge>;
    /// Shares that the pool rejected, as the miner counts them
    "r3mes_miner_shares_rejected" miner_rejected: Optional<Gauge>;
    /// When the miner's page was last read, unix time; not before the first time
    "r3mes_miner_read_timestamp_seconds" miner_read_at: Optional<Float>;
    /// 0 closed, 1 half-open, 2 open
    "r3mes_breaker_state" breaker_state: Labeled<Gauge, 1>;
    /// 1 where an operator opened the breaker
    "r3mes_breaker_forced" breaker_forced: Labeled<Gauge, 1>;
    /// Times a breaker changed to a state; to half-open by its probe
    "r3mes_breaker_transitions" breaker_transitions: Labeled<Counter, 2>;
    /// Health checks of an upstream, before its breaker opens and while it refuses connections, by result
    "r3mes_breaker_health_checks" breaker_health_checks: Labeled<Counter, 2>;
    /// Look-ups in a cache, by result
    "r3mes_cache_requests" cache: Labeled<Counter, 2>;
    /// Time of a group commit
    "r3mes_db_commit_duration_seconds" commit_duration: Histogram = seconds();
    /// Writes in a group commit
    "r3mes_db_commit_jobs" commit_jobs: Histogram = powers_of_two();
    /// Group commits that failed
    "r3mes_db_commit_failures" commit_failures: Counter;
    /// Time of a read, waiting included
    "r3mes_db_read_duration_seconds" read_duration: Histogram = seconds();
    /// Reads that took longer than alerts.slow_query, by the route they were for
    "r3mes_db_slow_queries" slow_queries: Labeled<Counter, 1>;
    /// Writes waiting
    "r3mes_db_write_queue_depth" queue_depth: Gauge;
    /// Read connections in use
    "r3mes_db_pool_in_use" pool_in_use: Gauge;
    /// Read connections
    "r3mes_db_pool_size" pool_size: Gauge;
    /// Size of the database file
    "r3mes_db_file_bytes" file_bytes: Size;
    /// Size of the write-ahead log
    "r3mes_db_wal_bytes" wal_bytes: Size;
    /// When the last good backup was made, unix time; not where none is known
    "r3mes_backup_timestamp_seconds" backup_made_at: Optional<Float>;
    /// Backups that failed
    "r3mes_backup_failures" backup_failures: Optional<Counter>;
    /// Free space on the file system of the database
    "r3mes_disk_free_bytes" disk_free: Size;
    /// 1 where an alert is firing, or of how many things it is, by name and severity
    "r3mes_alerts_firing" alerts: Labeled<Gauge, 2>;
    /// Times that the alerts were evaluated
    "r3mes_alert_evaluations" alert_evaluations: Counter;
    /// Seconds by which the wall clock jumped, negative if back, while that is in question; else 0
    "r3mes_clock_jump_seconds" clock_jump: Gauge;
    /// Memory that is in use and not swapped out
    "r3mes_process_resident_memory_bytes" resident_bytes: Gauge;
    /// Processor time used so far, all threads
    "r3mes_process_cpu_seconds" cpu_seconds: Float;
    /// File descriptors open
    "r3mes_process_open_fds" open_files: Gauge;
    /// File descriptors that may be open; -1 without a limit
    "r3mes_process_max_fds" max_files: Gauge;
    /// Threads
    "r3mes_process_threads" threads: Gauge;
}
