//! What miners tell and earn.

use crate::model::{Credits, HashrateUnit, Timestamp, Wallet};

/// An earning that a miner was paid.
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::{Done, Earning, StoreError};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let earning = Earning {
///     wallet,
///     earnings: Credits::parse("2.5")?,
///     source_id: "block-4711".to_owned(),
///     recorded_at: now,
/// };
/// // Told twice, as after a time-out, it counts once: `counted` says which of the two this was.
/// for counted in [true, false] {
///     let done = store.record_earning(earning.clone(), now, None).await?;
///     assert!(matches!(done, Done::New(told) if told.counted == counted));
/// }
/// let user = store.user(wallet).await?.ok_or("an account")?;
/// assert_eq!(user.credits, earning.earnings);
/// // The same name for something else is a mistake of the payer's.
/// let other = Earning { earnings: Credits::parse("3")?, ..earning };
/// let refused = store.record_earning(other, now, None).await;
/// assert!(matches!(refused, Err(StoreError::Conflict(_))));
///
/// let days = store.earnings(wallet, now.day(), 0, 7).await?.ok_or("an account")?;
/// assert_eq!(days[0].earnings, user.credits);
/// # Ok(())
/// # }
/// ```
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

/// The earnings of one UTC day; [`Earning`] shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarningsDay {
    /// Their sum.
    pub earnings: Credits,
    /// When the last of them was earned.
    pub recorded_at: Timestamp,
}

/// What is known of a wallet's miners. A figure that no sample ever told is `None`.
///
/// ```
/// use std::time::Duration;
/// use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let rig = |worker: &str, temperature| Sample {
///     worker: worker.to_owned(),
///     gpu_temperature: Some(temperature),
///     ..Sample::new(wallet, now, 20.0, HashrateUnit::GradientsPerHour)
/// };
/// store.record_samples(vec![rig("rig-1", 61.5), rig("rig-2", 74.0)], now).await?;
///
/// // Active is who told something in the last five minutes.
/// let since = now.minus(Duration::from_secs(300));
/// let miner = store.miner(wallet, since).await?.ok_or("an account")?;
/// assert!(miner.is_active);
/// assert_eq!((miner.hashrate, miner.gpu_temperature), (Some(40.0), Some(74.0)));
/// // What nobody told is no zero.
/// assert_eq!(miner.blocks_found, None);
/// # Ok(())
/// # }
/// ```
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

/// How finely a hashrate is asked for; finer is less. [`HashratePoint`] shows an answer.
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
///
/// ```
/// use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
/// use r3mes_edge::store::{Resolution, StoreError};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let noon = now.day();
/// let sample = |second, hashrate| {
///     let at = noon.plus(std::time::Duration::from_secs(second));
///     Sample::new(wallet, at, hashrate, HashrateUnit::HashesPerSecond)
/// };
/// store.record_samples(vec![sample(0, 30.0), sample(60, 50.0)], now).await?;
///
/// let samples = store.hashrate(wallet, noon, Resolution::Raw, 100).await?.ok_or("an account")?;
/// assert_eq!(samples.len(), 2);
/// let hours = store.hashrate(wallet, noon, Resolution::Hour, 100).await?.ok_or("an account")?;
/// assert_eq!((hours[0].min, hours[0].hashrate, hours[0].max), (30.0, 40.0, 50.0));
/// // What does not fit is refused, never cut: a coarser one may fit.
/// let finer = store.hashrate(wallet, noon, Resolution::Raw, 1).await;
/// assert_eq!(finer, Err(StoreError::TooMuch));
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::Earning;
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let other = Wallet::parse("remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx")?;
/// for (wallet, earned) in [(wallet, "1"), (other, "2")] {
///     let (earnings, source_id) = (Credits::parse(earned)?, format!("block of {wallet}"));
///     let earning = Earning { wallet, earnings, source_id, recorded_at: now };
///     store.record_earning(earning, now, None).await?;
/// }
/// let best = store.leaderboard(Some(now.day()), 10).await?;
/// assert_eq!(best.iter().map(|row| row.wallet).collect::<Vec<_>>(), [other, wallet]);
/// // They earned without telling a sample.
/// assert_eq!(best[0].hashrate, None);
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let five = Credits::parse("5")?;
/// store.grant(wallet, five, "welcome".to_owned(), now, None).await?;
/// let totals = store.totals(now).await?;
/// assert_eq!((totals.users, totals.credits, totals.active_miners), (1, five, 0));
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let sample = Sample::new(wallet, now, 42.5, HashrateUnit::GradientsPerHour);
/// let recorded = store.record_samples(vec![sample.clone()], now).await?;
/// assert_eq!((recorded.new, recorded.first), (1, true));
/// // The same again changes nothing: a miner that did not hear the answer tells it once more.
/// let recorded = store.record_samples(vec![sample], now).await?;
/// assert_eq!((recorded.new, recorded.first), (0, false));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Samples that were not there before.
    pub new: usize,
    /// Whether a wallet told its first sample ever or got its account by it.
    pub first: bool,
}
