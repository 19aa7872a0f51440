//! Figures of the whole network, cached.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Context, NoParameters, Result};
use crate::app::CacheKey;
use crate::cache::{Cached, Policy, Source};
use crate::error::ApiError;
use crate::http::response::{self, json_bytes};
use crate::model::{Credits, Timestamp, Wallet, Whole};

/// A new user, a grant, an earning or a miner's first sample drops the figures; a chat's charge does not.
const STATS: Policy = Policy {
    ttl: Duration::from_secs(300),
    stale_if_error: Duration::from_secs(300),
};
const LEADERBOARD: Policy = Policy {
    ttl: Duration::from_secs(60),
    stale_if_error: Duration::from_secs(300),
};

#[derive(Serialize)]
struct Stats {
    active_miners: i64,
    total_users: i64,
    total_credits: Credits,
    block_height: Option<i64>,
    generated_at: Timestamp,
}

/// Why figures are not cached.
enum Uncached {
    /// The chain's height is missing; it may be there in a moment.
    Partial(Bytes),
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Uncached {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

pub(crate) async fn stats(ctx: Context) -> Result {
    let NoParameters {} = ctx.query()?;
    let app = &ctx.app;
    let compute = || async {
        let totals = app.store.totals(app.active_since()).await?;
        let configured = app.upstreams.chain();
        let chain = match configured {
            Some(chain) => app.cached_chain_status(chain).await.ok(),
            None => None,
        };
        let is_whole = chain.is_some() || configured.is_none();
        let page = json_bytes(&Stats {
            active_miners: totals.active_miners,
            total_users: totals.users,
            total_credits: totals.credits,
            block_height: chain.map(|chain| chain.value.latest_block_height),
            generated_at: app.clock.now(),
        })?;
        match is_whole {
            true => Ok(page),
            false => Err(Uncached::Partial(page)),
        }
    };
    let (pages, now) = (&app.caches.pages, || app.clock.instant());
    match pages.get(CacheKey::NetworkStats, STATS, now, compute).await {
        Ok(page) => Ok(response::cached(page.value.clone(), &page, STATS)),
        Err(Uncached::Failed(error)) => Err(error),
        Err(Uncached::Partial(value)) => {
            let ttl = Duration::ZERO;
            let policy = Policy { ttl, ..STATS };
            let (age, source) = (Duration::ZERO, Source::Miss);
            let page = Cached { value, age, source };
            Ok(response::cached(page.value.clone(), &page, policy))
        }
    }
}

#[derive(Serialize)]
struct Leaderboard {
    miners: Vec<RankedMiner>,
}

#[derive(Serialize)]
struct RankedMiner {
    rank: usize,
    wallet_address: Wallet,
    total_earnings: Credits,
    hashrate: Option<f64>,
    blocks_found: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaderboardQuery {
    limit: Option<Whole<1, 100>>,
    period: Option<Period>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Period {
    Day,
    Week,
    Month,
    All,
}

pub(crate) async fn leaderboard(ctx: Context) -> Result {
    let query: LeaderboardQuery = ctx.query()?;
    let limit = query.limit.map_or(10, Whole::count);
    let days = match query.period {
        Some(Period::Day) => Some(1),
        Some(Period::Week) => Some(7),
        Some(Period::Month) => Some(30),
        None | Some(Period::All) => None,
    };
    let app = &ctx.app;
    let compute = || async {
        let now = app.clock.now();
        let since = days.map(|days| now.minus(Duration::from_secs(86_400 * u64::from(days))));
        let rows = app.store.leaderboard(since, limit).await?;
        let miners = rows.into_iter().zip(1..).map(|(row, rank)| RankedMiner {
            rank,
            wallet_address: row.wallet,
            total_earnings: row.total_earnings,
            hashrate: row.hashrate,
            blocks_found: row.blocks_found,
        });
        let miners = miners.collect();
        json_bytes(&Leaderboard { miners })
    };
    let (pages, now) = (&app.caches.pages, || app.clock.instant());
    let key = CacheKey::Leaderboard { days, limit };
    let page = pages.get(key, LEADERBOARD, now, compute).await?;
    Ok(response::cached(page.value.clone(), &page, LEADERBOARD))
}
