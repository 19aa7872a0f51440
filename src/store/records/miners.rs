//! Samples and earnings of miners, as the storage returns them.

use std::time::Duration;

use crate::model::{Credits, HashrateUnit, Sample, Timestamp, Wallet};

/// A miner is active if its newest sample is not older than this time: five minutes.
#[must_use]
pub fn active_since(now: Timestamp) -> Timestamp {
    now.minus(Duration::from_secs(300))
}

/// The latest time of a sample or an earning that counts: a later one is from the future, and was stored by a clock that was
/// ahead.
#[must_use]
pub fn latest_sample(now: Timestamp) -> Timestamp {
    now.plus(Sample::MAX_AHEAD)
}

/// An earning of a miner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Earning {
    /// The miner's wallet.
    pub wallet: Wallet,
    /// The amount; positive.
    pub earnings: Credits,
    /// The payer's id for it; an id is counted only once.
    pub source_id: String,
    /// When it was earned.
    pub recorded_at: Timestamp,
}

/// The result of recording an [`Earning`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Counted {
    /// The miner's wallet.
    pub wallet_address: Wallet,
    /// The amount.
    pub earnings: Credits,
    /// Whether it was granted; `false` if its `source_id` was counted before.
    pub counted: bool,
    /// The ledger entry of the grant.
    #[serde(skip)]
    pub entry: Option<i64>,
}

/// The earnings of one UTC day.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct EarningsDay {
    /// The UTC date, `2026-11-24`.
    pub date: String,
    /// Their sum.
    pub earnings: Credits,
    /// The same, under the name that the R3MES dashboard reads.
    pub amount: Credits,
    /// When the last of them was earned.
    pub recorded_at: Timestamp,
}

/// The state of a wallet's miners. A value that no sample ever had is `None`.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct MinerStats {
    /// The wallet.
    pub wallet_address: Wallet,
    /// All earnings so far.
    pub total_earnings: Credits,
    /// The sum over the active workers; if none is active, that of the newest.
    pub hashrate: Option<f64>,
    /// The unit of `hashrate`, from the newest worker.
    pub hashrate_unit: Option<HashrateUnit>,
    /// The hottest, in degrees Celsius.
    pub gpu_temperature: Option<f64>,
    /// The sum over the workers.
    pub blocks_found: Option<i64>,
    /// The mean over the workers, in percent: 0 to 100.
    pub uptime_percentage: Option<f64>,
    /// From the newest worker.
    pub network_difficulty: Option<f64>,
    /// Whether a worker reported a sample recently.
    pub is_active: bool,
    /// When the last sample was recorded.
    pub recorded_at: Option<Timestamp>,
}

/// The newest sample of a worker.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct WorkerStats {
    /// The name of the miner within its wallet.
    pub worker: String,
    /// Work done, in `hashrate_unit`.
    pub hashrate: f64,
    /// The unit.
    pub hashrate_unit: HashrateUnit,
    /// Degrees Celsius; where the newest sample left it out, as an earlier one has it.
    pub gpu_temperature: Option<f64>,
    /// Watts drawn.
    pub power_watts: Option<f64>,
    /// Shares that the pool accepted since the miner started.
    pub accepted: Option<i64>,
    /// Shares that the pool rejected since then.
    pub rejected: Option<i64>,
    /// Whether the sample is recent.
    pub is_active: bool,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// Shares that the pool accepted in a time, as the miners count them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// How many.
    pub accepted: i64,
    /// The first sample that reports them.
    pub since: Timestamp,
    /// The last one.
    pub until: Timestamp,
}

/// The resolution of a hashrate history; finer is less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Deserialize)]
pub enum Resolution {
    /// Every sample.
    #[serde(rename = "raw")]
    Raw,
    /// By the minute.
    #[serde(rename = "1m")]
    Minute,
    /// By the hour.
    #[serde(rename = "1h")]
    Hour,
    /// By the UTC day.
    #[serde(rename = "1d")]
    Day,
}

/// A point of a hashrate history: the sums over all workers of their mean, minimum and maximum in its period.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct HashratePoint {
    /// The UTC date, `2026-11-24`.
    pub date: String,
    /// The mean weighted by time, in `hashrate_unit`, as are `min` and `max`: a sample counts until the next one, at most for
    /// a minute.
    pub hashrate: f64,
    /// The unit.
    pub hashrate_unit: HashrateUnit,
    /// The start of the period.
    pub recorded_at: Timestamp,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
    /// The number of samples.
    pub samples: i64,
}

/// A row of the leaderboard.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct RankedMiner {
    /// 1 for the top earner.
    pub rank: usize,
    /// The wallet.
    pub wallet_address: Wallet,
    /// Earnings in the period.
    pub total_earnings: Credits,
    /// The sum over the active workers, in the unit of the newest; `None` if none is active.
    pub hashrate: Option<f64>,
    /// The sum of the workers' latest block counts.
    pub blocks_found: Option<i64>,
}

/// Figures over all wallets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Accounts.
    pub users: i64,
    /// Credits in all accounts.
    pub credits: Credits,
    /// Wallets with a sample since the given time.
    pub active_miners: i64,
}

/// The result of storing samples.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Samples that were new.
    pub new: usize,
    /// Whether it was the first sample of a wallet, or created its account.
    pub first: bool,
}
