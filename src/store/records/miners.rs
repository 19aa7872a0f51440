//! What miners tell and earn.

use crate::model::{Credits, HashrateUnit, Timestamp, Wallet};

/// An earning that a miner was paid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Earning {
    /// Who earned.
    pub wallet: Wallet,
    /// How much; positive.
    pub earnings: Credits,
    /// What the payer calls it: the same again counts once.
    pub source_id: String,
    /// When it was earned.
    pub recorded_at: Timestamp,
}

/// What came of an [`Earning`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Counted {
    /// Who earned.
    pub wallet_address: Wallet,
    /// How much.
    pub earnings: Credits,
    /// Whether it was granted now; `false` where its `source_id` was counted before.
    pub counted: bool,
    /// The ledger entry that granted it now.
    #[serde(skip)]
    pub entry: Option<i64>,
}

/// The earnings of one UTC day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarningsDay {
    /// Their sum.
    pub earnings: Credits,
    /// When the last of them was earned.
    pub recorded_at: Timestamp,
}

/// What is known of a wallet's miners. A figure that no sample ever told is `None`.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct MinerStats {
    /// Whose miners.
    pub wallet_address: Wallet,
    /// Everything they ever earned.
    pub total_earnings: Credits,
    /// The sum over the workers that are active; of the newest where none is.
    pub hashrate: Option<f64>,
    /// What `hashrate` counts, as the newest worker says.
    pub hashrate_unit: Option<HashrateUnit>,
    /// The hottest, in degrees Celsius.
    pub gpu_temperature: Option<f64>,
    /// The sum over the workers.
    pub blocks_found: Option<i64>,
    /// The mean over the workers, in percent: 0 to 100.
    pub uptime_percentage: Option<f64>,
    /// As the newest worker sees it.
    pub network_difficulty: Option<f64>,
    /// Whether a worker told a sample lately.
    pub is_active: bool,
    /// When the last sample was recorded.
    pub recorded_at: Option<Timestamp>,
}

/// How finely a hashrate is asked for; finer is less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resolution {
    /// Every sample.
    Raw,
    /// By the minute.
    Minute,
    /// By the hour.
    Hour,
    /// By the UTC day.
    Day,
}

impl Resolution {
    /// Every resolution, the finest first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Minute, Self::Hour, Self::Day];

    /// The resolution as it stands in a query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }
}

/// A point of a hashrate history: over all workers, the sum of each one's mean, least and most in that time.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct HashratePoint {
    /// The UTC date, `2026-11-24`.
    pub date: String,
    /// The mean by time, in `hashrate_unit`, as are `min` and `max`: a sample stands for the time until the next, a minute at
    /// most.
    pub hashrate: f64,
    /// What it counts.
    pub hashrate_unit: HashrateUnit,
    /// The start of the time it is for.
    pub recorded_at: Timestamp,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Samples behind it.
    pub samples: i64,
}

/// A place on the leaderboard.
#[derive(Clone, PartialEq, Debug)]
pub struct LeaderboardRow {
    /// Who.
    pub wallet: Wallet,
    /// What they earned in the period.
    pub total_earnings: Credits,
    /// The sum of what their workers told last.
    pub hashrate: Option<f64>,
    /// The sum of what their workers told last.
    pub blocks_found: Option<i64>,
}

/// Figures over all wallets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Accounts.
    pub users: i64,
    /// Credits in all accounts.
    pub credits: Credits,
    /// Wallets with a sample since the moment that was asked for.
    pub active_miners: i64,
}

/// What storing samples changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Samples that were not there before.
    pub new: usize,
    /// Whether a wallet told its first sample ever or got its account by it.
    pub first: bool,
}
