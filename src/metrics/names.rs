use prometheus_client::metrics::info::Info;

use super::Metrics;

impl Metrics {
    /// Gives every metric its name and says what it means.
    pub(super) fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "chat_requests",
            "Chats by how they ended",
            self.chats.clone(),
        );
        registry.register(
            "chat_request_duration_seconds",
            "Time from a chat's reserve to its end",
            self.chat_duration.clone(),
        );
        registry.register(
            "r3mes_chat_first_byte_seconds",
            "Time from a chat's request until its first content was handed to the connection",
            self.chat_first_byte.clone(),
        );
        registry.register(
            "r3mes_chat_overhead_seconds",
            "The part of it that did not wait for the model or for a place there",
            self.chat_overhead.clone(),
        );
        registry.register(
            "r3mes_upstream_first_content_seconds",
            "Time until an inference server gave its first content",
            self.upstream_wait.clone(),
        );
        registry.register(
            "active_users",
            "Wallets with an authenticated request in the last 15 minutes",
            self.active_users.clone(),
        );
        registry.register(
            "credits_distributed",
            "Credits given out, by why",
            self.distributed.clone(),
        );
        let registry = registry.sub_registry_with_prefix("r3mes");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", build);
        registry.register(
            "http_requests",
            "Requests by route template, method and the first digit of the status; left is a client that did not wait",
            self.http_requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time until the answer, or its first part, was there; without what the client took to send its body",
            self.http_duration.clone(),
        );
        registry.register(
            "http_connections",
            "Connections open",
            self.connections.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests being worked on",
            self.in_flight.clone(),
        );
        registry.register(
            "auth_failures",
            "Requests with a key that opens nothing",
            self.auth_failures.clone(),
        );
        registry.register(
            "key_lookups",
            "Keys looked up in the storage, as no known key was sent; bounded by the rate of failures",
            self.key_lookups.clone(),
        );
        registry.register(
            "rate_limited",
            "Requests refused by a rate, by its class",
            self.limited.clone(),
        );
        registry.register(
            "rate_limiter_entries",
            "Buckets held by a limiter, by its class",
            self.limiter_entries.clone(),
        );
        registry.register(
            "credits_reserved",
            "Credits taken for chats",
            self.reserved.clone(),
        );
        registry.register(
            "credits_settled",
            "Reserved credits that were spent",
            self.settled.clone(),
        );
        registry.register(
            "credits_refunded",
            "Reserved credits that went back",
            self.refunded.clone(),
        );
        registry.register(
            "reservations_open",
            "Chats that are paid for and neither settled nor refunded yet",
            self.reservations_open.clone(),
        );
        registry.register(
            "reservations_unwritten",
            "Reservations whose end waits to be written",
            self.unwritten.clone(),
        );
        registry.register(
            "miner_samples",
            "Samples taken in, from requests and from the collector",
            self.samples.clone(),
        );
        registry.register(
            "miner_hashrate",
            "What the miner on this machine told last, in its own unit",
            self.miner.hashrate.clone(),
        );
        registry.register(
            "miner_gpu_temperature_celsius",
            "What it told last",
            self.miner.gpu_temperature.clone(),
        );
        registry.register(
            "miner_power_watts",
            "What it told last",
            self.miner.power_watts.clone(),
        );
        registry.register(
            "miner_shares_accepted",
            "Shares that the pool took, as the miner counts them",
            self.miner.accepted.clone(),
        );
        registry.register(
            "miner_shares_rejected",
            "Shares that the pool refused, as the miner counts them",
            self.miner.rejected.clone(),
        );
        registry.register(
            "miner_read_timestamp_seconds",
            "When the miner's page was last read, unix time; 0 where it never was",
            self.miner.read_at.clone(),
        );
        registry.register(
            "breaker_state",
            "0 closed, 1 half-open, 2 open",
            self.breaker_state.clone(),
        );
        registry.register(
            "breaker_forced",
            "1 where an operator opened the breaker",
            self.breaker_forced.clone(),
        );
        registry.register(
            "breaker_transitions",
            "Times a breaker went over to a state; to half-open by its probe",
            self.breaker_transitions.clone(),
        );
        registry.register(
            "breaker_health_checks",
            "Health checks of an upstream, before its breaker opens and while it refuses connections, by result",
            self.breaker_health_checks.clone(),
        );
        registry.register(
            "cache_requests",
            "Look-ups in a cache, by what came of them",
            self.cache.clone(),
        );
        registry.register(
            "db_commit_duration_seconds",
            "Time of a group commit",
            self.commit_duration.clone(),
        );
        registry.register(
            "db_commit_jobs",
            "Writes in a group commit",
            self.commit_jobs.clone(),
        );
        registry.register(
            "db_commit_failures",
            "Group commits that failed",
            self.commit_failures.clone(),
        );
        registry.register(
            "db_read_duration_seconds",
            "Time of a read, waiting included",
            self.read_duration.clone(),
        );
        registry.register(
            "db_slow_queries",
            "Reads that took longer than alerts.slow_query, by the route they were for",
            self.slow_queries.clone(),
        );
        registry.register(
            "db_write_queue_depth",
            "Writes waiting",
            self.queue_depth.clone(),
        );
        registry.register(
            "db_pool_in_use",
            "Reading connections in use",
            self.pool_in_use.clone(),
        );
        registry.register(
            "db_pool_size",
            "Reading connections",
            self.pool_size.clone(),
        );
        registry.register(
            "db_file_bytes",
            "Size of the database file",
            self.file_bytes.clone(),
        );
        registry.register(
            "db_wal_bytes",
            "Size of the write-ahead log",
            self.wal_bytes.clone(),
        );
        registry.register(
            "backup_timestamp_seconds",
            "When the last good copy was made, unix time; 0 where none is known of",
            self.backup_made_at.clone(),
        );
        registry.register(
            "backup_failures",
            "Copies that could not be made",
            self.backup_failures.clone(),
        );
        registry.register(
            "disk_free_bytes",
            "Room on the file system of the database",
            self.disk_free.clone(),
        );
        registry.register(
            "alerts_firing",
            "Alerts that are firing, by severity",
            self.alerts.clone(),
        );
        let process = &self.process;
        registry.register(
            "process_resident_memory_bytes",
            "Memory that is in use and not swapped out",
            process.resident_bytes.clone(),
        );
        registry.register(
            "process_cpu_seconds",
            "Processor time used so far, all threads",
            process.cpu_seconds.clone(),
        );
        registry.register(
            "process_open_fds",
            "File descriptors open",
            process.open_files.clone(),
        );
        registry.register(
            "process_max_fds",
            "File descriptors that may be open; -1 without a limit",
            process.most_files.clone(),
        );
        registry.register("process_threads", "Threads", process.threads.clone());
        self
    }
}
