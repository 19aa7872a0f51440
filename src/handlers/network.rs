//! Figures of the whole network, cached.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Context, Result};
use crate::cache::Policy;
use crate::error::ApiError;
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
    let app = &ctx.app;
    let compute = || async {
        let now = app.clock.now();
        Ok::<_, ApiError>((app.store.totals(now).await?, now))
    };
    let now = || app.clock.instant();
    let cached = app.caches.totals.get((), STATS, now, compute).await?;
    let (totals, generated_at) = cached.value;
    // It has a cache of its own.
    let block_height = match app.upstreams.chain() {
        Some(chain) => app.cached_chain_status(chain).await.ok(),
        None => None,
    };
    let body = json_bytes(&Stats {
        active_miners: totals.active_miners,
        total_users: totals.users,
        total_credits: totals.credits,
        block_height: block_height.map(|status| status.value.latest_block_height),
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
    let app = &ctx.app;
    let compute = || async {
        let now = app.clock.now();
        let period = Duration::from_secs(86_400 * u64::from(days));
        let since = (days > 0).then(|| now.minus(period));
        let miners = app.store.leaderboard(since, now, limit).await?;
        // A JSON value would not hold the digits of an amount.
        json_bytes(&BTreeMap::from([("miners", miners)]))
    };
    let (pages, now) = (&app.caches.pages, || app.clock.instant());
    let page = pages.get((days, limit), LEADERBOARD, now, compute);
    let page = page.await?;
    Ok(response::cached(page.value.clone(), &page, LEADERBOARD))
}
