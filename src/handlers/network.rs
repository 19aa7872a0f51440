use std::time::Duration;

use bytes::Bytes;

use crate::app::{App, Page};
use crate::cache::{Cached, Policy, Source};
use crate::call::{Call, Reply, json_bytes};
use crate::error::ApiError;

/// A new user, a grant, an earning or a miner's first sample drops the figures; a chat's charge does not.
const STATS: Policy = Policy {
    ttl: Duration::from_secs(300),
    stale_if_error: Duration::from_secs(300),
};
const LEADERBOARD: Policy = Policy {
    ttl: Duration::from_secs(60),
    stale_if_error: Duration::from_secs(300),
};

pub(super) async fn stats(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let compute = || async {
        let totals = app.store.totals(app.active_since()).await?;
        let chain = match app.upstreams.chain() {
            Some(chain) => app.cached_chain_status(chain).await.ok(),
            None => None,
        };
        let whole = chain.is_some() || app.upstreams.chain().is_none();
        let page = json_bytes(&object! {
            active_miners: totals.active_miners,
            total_users: totals.users,
            total_credits: totals.credits,
            block_height: chain.map(|chain| chain.value.latest_block_height),
            generated_at: app.clock.now(),
        })?;
        if whole {
            Ok(page)
        } else {
            Err(Unkept::Partial(page))
        }
    };
    let kept = app
        .caches
        .pages
        .get(Page::NetworkStats, STATS, || app.clock.instant(), compute)
        .await;
    let (page, policy) = match kept {
        Ok(page) => (page, STATS),
        Err(Unkept::Partial(value)) => {
            let (age, source) = (Duration::ZERO, Source::Miss);
            let policy = Policy {
                ttl: Duration::ZERO,
                ..STATS
            };
            (Cached { value, age, source }, policy)
        }
        Err(Unkept::Failed(error)) => return Err(error),
    };
    Ok(Reply::cached(page.value.clone(), &page, policy))
}

/// Why figures are not kept.
enum Unkept {
    /// The chain did not tell its height; it may in a moment.
    Partial(Bytes),
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Unkept {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) async fn leaderboard(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let parameters = call.parameters(&["limit", "period"])?;
    let limit = parameters.number("limit", 1..=100)?.unwrap_or(10);
    let days = match parameters.get("period") {
        Some("day") => Some(1),
        Some("week") => Some(7),
        Some("month") => Some(30),
        None | Some("all") => None,
        Some(_) => {
            return Err(ApiError::parameter(
                "period",
                "must be day, week, month or all",
            ));
        }
    };
    let compute = || async {
        let since = days.map(|days| {
            app.clock
                .now()
                .minus(Duration::from_secs(86_400 * u64::from(days)))
        });
        let rows = app.store.leaderboard(since, limit).await?;
        let row = |(index, row): (usize, &crate::store::LeaderboardRow)| {
            object! {
                rank: index + 1,
                wallet_address: row.wallet,
                total_earnings: row.total_earnings,
                hashrate: row.hashrate,
                blocks_found: row.blocks_found,
            }
        };
        let miners: Vec<_> = rows.iter().enumerate().map(row).collect();
        json_bytes(&object! { miners: miners })
    };
    let page = app
        .caches
        .pages
        .get(
            Page::Leaderboard { days, limit },
            LEADERBOARD,
            || app.clock.instant(),
            compute,
        )
        .await?;
    Ok(Reply::cached(page.value.clone(), &page, LEADERBOARD))
}
