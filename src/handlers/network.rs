//! Figures of the whole network, cached.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Context, Result};
use crate::app::App;
use crate::cache::Policy;
use crate::error::ApiError;
use crate::http::response::{self, json_bytes};
use crate::model::{Credits, Timestamp, Wallet, Whole};
use crate::store::RankedMiner;

/// Wallets of miners in one answer at most.
const MOST_WALLETS: usize = 20;

/// A new user, a grant, an earning or a miner's first sample drops the figures; a chat's charge does not.
const STATS: Policy = Policy {
    ttl: Duration::from_secs(300),
    stale_if_error: Duration::from_secs(300),
    failure_ttl: Duration::ZERO,
};
const LEADERBOARD: Policy = Policy {
    ttl: Duration::from_secs(60),
    stale_if_error: Duration::from_secs(300),
    failure_ttl: Duration::ZERO,
};

#[derive(Serialize)]
struct Stats {
    active_miners: i64,
    total_users: i64,
    total_credits: Credits,
    block_height: Option<i64>,
    /// Of this node's miners: the configured one, then those with the newest samples.
    wallets: Vec<Wallet>,
    generated_at: Timestamp,
}

pub(crate) async fn stats(ctx: Context) -> Result {
    let app = &ctx.app;
    let compute = || async {
        let now = app.clock.now();
        let totals = app.store.totals(now).await?;
        let wallets = app.store.recent_miners(now, MOST_WALLETS).await?;
        Ok::<_, ApiError>((totals, wallets, now))
    };
    let now = || app.clock.instant();
    let cached = app.caches.totals.get((), STATS, now, compute).await?;
    let (totals, recent, generated_at) = cached.value.clone();
    let own = app.config.miner.wallet;
    let others = recent.into_iter().filter(|wallet| Some(*wallet) != own);
    let wallets = own.into_iter().chain(others).take(MOST_WALLETS).collect();
    let known_height = app.known_height().await;
    let body = json_bytes(&Stats {
        active_miners: totals.active_miners,
        total_users: totals.users,
        total_credits: totals.credits,
        block_height: app.config.compat.unknown(known_height),
        wallets,
        generated_at,
    })?;
    Ok(response::cached(body, &cached, STATS))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaderboardQuery {
    limit: Option<Whole<1, 100>>,
    period: Option<Period>,
}

/// In days; 0 is all time.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Period {
    Day = 1,
    Week = 7,
    Month = 30,
    All = 0,
}

pub(crate) async fn leaderboard(ctx: Context) -> Result {
    let query: LeaderboardQuery = ctx.query()?;
    let limit = query.limit.map_or(10, Whole::count);
    let days = query.period.unwrap_or(Period::All) as u16;
    // A JSON value would not hold the digits of an amount.
    let page = |miners| json_bytes(&BTreeMap::from([("miners", miners)]));
    cached_leaderboard(&ctx.app, (days, limit, false), page).await
}

/// A leaderboard as the R3MES backend writes it.
#[derive(Serialize)]
struct BackendLeaderboard {
    miners: Vec<BackendMiner>,
    total: usize,
}

#[derive(Serialize)]
struct BackendMiner {
    address: Wallet,
    /// From its reputation on the chain, which this server does not read, as the next three.
    tier: Option<&'static str>,
    total_submissions: Option<i64>,
    reputation: Option<f64>,
    trend: Option<i64>,
    total_earnings: Credits,
    hashrate: Option<f64>,
    blocks_found: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendQuery {
    limit: Option<Whole<1, 100>>,
}

pub(crate) async fn backend_leaderboard(ctx: Context) -> Result {
    let query: BackendQuery = ctx.query()?;
    let limit = query.limit.map_or(100, Whole::count);
    let compat = ctx.app.config.compat.clone();
    let row = |miner: RankedMiner| BackendMiner {
        address: miner.wallet_address,
        // Its tier of a reputation of 0.
        tier: compat.unknown_as_zero.then_some("bronze"),
        total_submissions: compat.unknown(None),
        reputation: compat.unknown(None),
        trend: compat.unknown(None),
        total_earnings: miner.total_earnings,
        hashrate: miner.hashrate,
        blocks_found: miner.blocks_found,
    };
    let page = |miners: Vec<RankedMiner>| {
        let miners: Vec<_> = miners.into_iter().map(row).collect();
        let total = miners.len();
        json_bytes(&BackendLeaderboard { miners, total })
    };
    cached_leaderboard(&ctx.app, (0, limit, true), page).await
}

async fn cached_leaderboard(
    app: &App,
    key: (u16, usize, bool),
    page: impl FnOnce(Vec<RankedMiner>) -> Result<Bytes>,
) -> Result {
    let compute = || async {
        let (days, limit, _) = key;
        let period = Duration::from_secs(86_400 * u64::from(days));
        let now = app.clock.now();
        let since = (days > 0).then(|| now.minus(period));
        let mut miners = app.store.leaderboard(since, now, limit).await?;
        for miner in &mut miners {
            miner.hashrate = app.config.compat.unknown(miner.hashrate);
            miner.blocks_found = app.config.compat.unknown(miner.blocks_found);
        }
        page(miners)
    };
    let (pages, now) = (&app.caches.pages, || app.clock.instant());
    let page = pages.get(key, LEADERBOARD, now, compute).await?;
    Ok(response::cached(page.value.clone(), &page, LEADERBOARD))
}

/// The faucet of the R3MES backend, whose clients ask for its state; here is none.
pub(crate) async fn faucet(_: Context) -> Result {
    response::json(&BTreeMap::from([("enabled", false)]))
}
