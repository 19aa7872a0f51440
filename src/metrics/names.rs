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
            "Requests by route template, method and status; 499 is a client that left",
            self.http_requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time until the answer was handed to the connection",
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
            "breaker_looks",
            "Looks at an upstream before one wallet's failures open its breaker, by what was found",
            self.breaker_looks.clone(),
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
        self
    }
}
