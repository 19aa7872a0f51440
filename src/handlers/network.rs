//! Figures of the whole network, cached.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Context, NoParameters, Result};
use crate::app::CacheKey;
use crate::cache::Policy;
use crate::http::response::{self, json_bytes};
use crate::model::{Credits, Timestamp, Whole};

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

pub(crate) async fn stats(ctx: Context) -> Result {
    let NoParameters {} = ctx.query()?;
    let app = &ctx.app;
    let height_unknown = AtomicBool::new(false);
    let compute = || async {
        let totals = app.store.totals(app.active_since()).await?;
        let mut block_height = None;
        if let Some(chain) = app.upstreams.chain() {
            let status = app.cached_chain_status(chain).await.ok();
            block_height = status.map(|status| status.value.latest_block_height);
            height_unknown.store(block_height.is_none(), Ordering::Relaxed);
        }
        json_bytes(&Stats {
            active_miners: totals.active_miners,
            total_users: totals.users,
            total_credits: totals.credits,
            block_height,
            generated_at: app.clock.now(),
        })
    };
    let (pages, mut policy) = (&app.caches.pages, STATS);
    let now = || app.clock.instant();
    let page = pages
        .get(CacheKey::NetworkStats, STATS, now, compute)
        .await?;
    if height_unknown.into_inner() {
        // The chain may answer in a moment.
        pages.invalidate(&CacheKey::NetworkStats);
        policy.ttl = Duration::ZERO;
    }
    Ok(response::cached(page.value.clone(), &page, policy))
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
        let miners = app.store.leaderboard(since, limit).await?;
        // A JSON value would not hold the digits of an amount.
        json_bytes(&BTreeMap::from([("miners", miners)]))
    };
    let (pages, now) = (&app.caches.pages, || app.clock.instant());
    let key = CacheKey::Leaderboard { days, limit };
    let page = pages.get(key, LEADERBOARD, now, compute).await?;
    Ok(response::cached(page.value.clone(), &page, LEADERBOARD))
}
