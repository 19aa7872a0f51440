use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// From when on something is wrong, and who is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AlertsConfig {
    /// What 99 of 100 answers that wait for no model may take.
    #[serde(with = "units::duration")]
    pub response_time: Duration,
    /// What 99 of 100 chats may wait for this server, apart from their model.
    #[serde(with = "units::duration")]
    pub overhead_p99: Duration,
    /// Share of requests of the last five minutes that a fault on this side ended, of at least fifty; 0 to 1.
    pub error_rate: f64,
    /// Share of the reading connections in use; 0 to 1.
    pub pool_use: f64,
    /// Without a sample of the miner.
    #[serde(with = "units::duration")]
    pub miner_silent: Duration,
    /// With a hashrate but without a share that the pool took.
    #[serde(with = "units::duration")]
    pub shares_flat: Duration,
    /// Share of the last day's mean that the hashrate of the last minutes falls below; 0 to 1.
    pub hashrate_low: f64,
    /// Of the hottest card, in degrees Celsius.
    pub temperature: f64,
    /// Without an earning, where there were some in the week before.
    #[serde(with = "units::duration")]
    pub earnings_stopped: Duration,
    /// Bytes free where the database is.
    #[serde(with = "units::size")]
    pub disk_free: usize,
    /// Bytes of the write-ahead log.
    #[serde(with = "units::size")]
    pub wal: usize,
    /// A read that takes longer is logged and counted.
    #[serde(with = "units::duration")]
    pub slow_query: Duration,
    /// How long something is wrong before anybody is told, and right before its end is told.
    #[serde(with = "units::duration")]
    pub confirm: Duration,
    /// A file whose first line is the address that is told; it is a secret, as whoever has it may write there.
    pub webhook_file: Option<PathBuf>,
    /// How that is written.
    pub webhook_kind: WebhookKind,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            response_time: Duration::from_secs(1),
            overhead_p99: Duration::from_millis(50),
            error_rate: 0.01,
            pool_use: 0.8,
            miner_silent: Duration::from_secs(300),
            shares_flat: Duration::from_secs(900),
            hashrate_low: 0.5,
            temperature: 85.0,
            earnings_stopped: Duration::from_secs(86_400),
            disk_free: 500 << 20,
            wal: 256 << 20,
            slow_query: Duration::from_millis(100),
            confirm: Duration::from_secs(60),
            webhook_file: None,
            webhook_kind: WebhookKind::Json,
        }
    }
}

/// What the receiver of a webhook reads, in [`AlertsConfig`].
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
