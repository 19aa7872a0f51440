//! The sections that need no code of their own: sizes and times, access, chat, log, backups.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::validate::LABEL;
use super::validate::{is_host, is_label, is_narrow, is_origin, wrong_price};
use super::{Peer, Proxy};
use crate::model::section::section;
use crate::model::{Credits, Price, units};

/// What counts permits or sizes a table: tokio panics on a semaphore that is too large.
pub(super) const COUNT: std::ops::RangeInclusive<usize> = 1..=1_000_000;

/// No time at all would end everything before it began.
pub(super) const TIMEOUT: std::ops::RangeFrom<Duration> = Duration::from_millis(1)..;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

section! {
    /// Sizes and times of the HTTP side.
    LimitsConfig {
        /// Connections open at the same time; further ones wait unaccepted.
        connections: usize = 1024, in COUNT;
        /// Connections from one client address; a further one is closed. Trusted proxies are not counted.
        per_address: usize = 128, in COUNT;
        /// Requests in flight; a further one is refused with 503.
        in_flight: usize = 512, in COUNT;
        /// Bytes of a request's body.
        body: usize as "units::size" = 64 << 10;
        /// Bytes of a body of samples.
        telemetry_body: usize as "units::size" = 1 << 20;
        /// Bytes of a chat's body.
        chat_body: usize as "units::size" = 256 << 10;
        /// Bytes of a body of OpenAI's API, which carries whole conversations and pictures.
        v1_body: usize as "units::size" = 2 << 20;
        /// For the whole request head, and for the pause between requests on one connection.
        header_timeout: Duration as "units::duration" = seconds(10), in TIMEOUT;
        /// For the whole body.
        body_timeout: Duration as "units::duration" = seconds(30), in TIMEOUT;
        /// For a client to read some of its answer.
        write_timeout: Duration as "units::duration" = seconds(30), in TIMEOUT;
        /// For the answer to anything but chat.
        request_timeout: Duration as "units::duration" = seconds(30), in TIMEOUT;
        /// For requests in flight at shutdown.
        shutdown_grace: Duration as "units::duration" = seconds(30);
        /// Different workers of one wallet; samples of a further one are refused with 409.
        workers_per_wallet: usize = 1000, in COUNT;
    }
}

section! {
    /// Who may do what.
    AuthConfig {
        /// Whether public figures need no key, behind proxies too; where not set, they need none only while every listener is
        /// loopback or a Unix socket and no proxy is trusted, and only in requests that no proxy passed on.
        public_reads: Option<bool> = None;
        /// Names this server answers to, besides its address and `localhost`.
        hosts: Vec<String> = Vec::new(),
            each is_host => "name each host, \"edge.example\", without scheme, port or wildcard; one that lets in any name lets in a page whose name was made to point here (DNS rebinding)";
        /// Origins whose pages may call this server, as browsers write them: `https://app.example`.
        cors_origins: Vec<String> = Vec::new(),
            each is_origin => "name each origin as browsers do, \"https://app.example\"; a wildcard or \"null\" would let every page call this server";
        /// Proxies whose `X-Forwarded-For` is trusted.
        trusted_proxies: Vec<Proxy> = Vec::new(),
            each is_narrow => "everybody in there could choose the address that limits go by; name the proxies' own addresses";
        /// What a wallet login signs in to, for the person who signs; where empty, the address listened on.
        public_name: String = String::new(), where |name| !name.contains(char::is_control) => "must be one line";
        /// How long the key of a wallet login is valid.
        login_ttl: Duration as "units::duration" = seconds(3600), in seconds(60)..;
        /// Active keys of one wallet at most.
        max_keys_per_wallet: usize = 10, in COUNT;
    }
}

impl AuthConfig {
    /// Whether this peer's `X-Forwarded-For` is trusted.
    #[must_use]
    pub fn trusts(&self, peer: Peer) -> bool {
        self.trusted_proxies.iter().any(|proxy| proxy.is(peer))
    }
}

section! {
    /// Paid chat.
    ChatConfig {
        /// What a request costs: a number of credits, or a table of credits for a million tokens.
        price: Price = Price::per_request(Credits::from_micro(1_000_000)), check |price| wrong_price(price);
        /// Tokens of an answer at most, unless the client asks for less. Where tokens of answers have a price, 4096 if not set;
        /// else the client's own limit is all there is.
        max_output_tokens: Option<u32> = None, where |most| most != &Some(0) => "must be from 1 to 4294967295";
        /// Tokens of a request and its answer at most; where not set, what the server reports.
        context_length: Option<u32> = None, where |most| most != &Some(0) => "must be from 1 to 4294967295";
        /// Tokens of a picture at most.
        media_tokens: u32 = 4096, in 1..;
        /// Tokens that a model's template adds to a prompt at most.
        prompt_overhead: u32 = 512;
        /// Characters of a message at most.
        max_message: usize = 10_000, in 1..;
        /// The adapter of a message that names none and matches no keyword.
        default_adapter: String = "general".to_owned(), where |name| is_label(name) => LABEL;
        /// Chats in flight at one inference server whose own `in_flight` is not set, until llama.cpp says how many slots it has.
        in_flight: usize = 4, in COUNT;
        /// Chats that may queue for it.
        queue: usize = 16, in 0..=1_000_000;
        /// Until the head of a streamed answer; the server may have to load its model first.
        head_timeout: Duration as "units::duration" = seconds(300), in TIMEOUT;
        /// From then until the first text, and for a slot; anything the server sends renews it.
        first_text_timeout: Duration as "units::duration" = seconds(120), in TIMEOUT;
        /// Between two texts; anything the server sends renews it.
        idle_timeout: Duration as "units::duration" = seconds(60), in TIMEOUT;
        /// For the whole answer, from when a server is asked; all the others are within it.
        answer_timeout: Duration as "units::duration" = seconds(1800), in TIMEOUT;
    }
}

section! {
    /// Scheduled backups.
    BackupConfig {
        /// How often; `None` is never.
        every: Option<Duration> as "units::duration_or_off" = None,
            where |every| every.is_none_or(|every| every >= seconds(60)) => "must be at least 1min";
        /// Where backups go, also those on request; empty: beside the database.
        folder: PathBuf = PathBuf::new();
        /// How many remain after a scheduled one.
        keep: usize = 7, in 1..;
    }
}

impl BackupConfig {
    /// The folder, where one is set.
    #[must_use]
    pub fn folder(&self) -> Option<&std::path::Path> {
        let set = !self.folder.as_os_str().is_empty();
        set.then_some(&*self.folder)
    }
}

section! {
    /// What the program `r3mes-edge` logs. The library logs to the logger of its host.
    LogConfig {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String = "info".to_owned(),
            where |level| level.parse::<log::LevelFilter>().is_ok() => "must be error, warn, info, debug or trace";
        /// How a line is written.
        format: LogFormat = LogFormat::Auto;
    }
}

/// How a line of the log is written, in [`LogConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// The thresholds of alerts, and the webhook they are sent to.
    AlertsConfig {
        /// The 99th percentile of answers that wait for no model.
        response_time: Duration as "units::duration" = seconds(1);
        /// The 99th percentile of what chats wait for this server, apart from their model.
        overhead_p99: Duration as "units::duration" = Duration::from_millis(50);
        /// Share of requests of the last five minutes that a fault on this side ended, of at least fifty; 0 to 1.
        error_rate: f64 = 0.01, in 0.0..=1.0;
        /// Share of the read connections in use; 0 to 1.
        pool_use: f64 = 0.8, in 0.0..=1.0;
        /// Without a sample of the miner.
        miner_silent: Duration as "units::duration" = seconds(300);
        /// With a hashrate but without a share that the pool accepted.
        shares_flat: Duration as "units::duration" = seconds(900);
        /// Share of the last day's mean that the hashrate of the last minutes falls below; 0 to 1.
        hashrate_low: f64 = 0.5, in 0.0..=1.0;
        /// Of the hottest card, in degrees Celsius.
        temperature: f64 = 85.0, in -273.0..=1000.0;
        /// Without an earning, where there were some in the week before.
        earnings_stopped: Duration as "units::duration" = seconds(86_400);
        /// Bytes free where the database is.
        disk_free: usize as "units::size" = 500 << 20;
        /// Bytes of the write-ahead log.
        wal: usize as "units::size" = 256 << 20;
        /// A read that takes longer is logged and counted.
        slow_query: Duration as "units::duration" = Duration::from_millis(100);
        /// How long a condition must hold before its alert fires, and must be gone before it is resolved.
        confirm: Duration as "units::duration" = seconds(60);
        /// A file whose first line is the webhook's address: a secret, as the address is all it takes to post there.
        webhook_file: Option<PathBuf> = None;
        /// The format of its messages.
        webhook_kind: WebhookKind = WebhookKind::Json;
    }
}

/// The format of a webhook's messages, in [`AlertsConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookKind {
    /// An object with every figure.
    Json,
    /// `{"text": …}`
    Slack,
    /// `{"content": …}`
    Discord,
    /// A text, with its title and priority as headers.
    Ntfy,
}

section! {
    /// What `GET /metrics` has.
    MetricsConfig {
        /// Whether chats are also counted under the names of OpenTelemetry's conventions for generative AI, `gen_ai_…`.
        gen_ai: bool = false;
    }
}

section! {
    /// For clients of the R3MES backend that cannot read what its figures may be here.
    CompatConfig {
        /// Whether figures that were never reported are 0 instead of null on the paths of the R3MES backend; its dashboard
        /// fails at a null.
        unknown_as_zero: bool = false;
    }
}

impl CompatConfig {
    /// A figure as clients read it.
    pub(crate) fn unknown<T: Default>(&self, figure: Option<T>) -> Option<T> {
        figure.or_else(|| self.unknown_as_zero.then(T::default))
    }
}
