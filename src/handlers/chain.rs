//! The chain's status and its last blocks, cached.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde_json::json;

use super::{Context, Result};
use crate::app::App;
use crate::cache::Source;
use crate::error::{ApiError, ErrorCode};
use crate::http::response::{self, json_bytes};
use crate::model::Whole;
use crate::upstream::chain::Chain;

pub(crate) async fn status(ctx: Context) -> Result {
    let app = &ctx.app;
    let status = app.cached_chain_status(chain(app)?).await?;
    let mut body = json!({
        "network": status.value.network,
        "latest_block_height": status.value.latest_block_height,
        "latest_block_time": status.value.latest_block_time,
        "catching_up": status.value.catching_up,
        "halted": app.chain_halted.load(Ordering::Acquire),
        "stale": status.source == Source::Stale,
    });
    // The age is in the header too: an answer that only grew older is the same answer.
    let tagged = json_bytes(&body)?;
    body["age_seconds"] = status.age.as_secs().into();
    let mut response = response::cached(json_bytes(&body)?, &status, app.chain_policy());
    response::set_etag(response.headers_mut(), &tagged);
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlocksQuery {
    limit: Option<Whole<1, 100>>,
}

pub(crate) async fn blocks(ctx: Context) -> Result {
    let limit = ctx.query::<BlocksQuery>()?.limit;
    let limit = limit.map_or(20, Whole::count);
    let (app, policy) = (&ctx.app, ctx.app.chain_policy());
    let chain = chain(app)?;
    let fetch = || async { chain.blocks(limit).await.map(Arc::new) };
    let now = || app.clock.instant();
    let blocks = app.blocks.get(limit, policy, now, fetch).await?;
    let (list, total) = (&blocks.value.blocks, blocks.value.total);
    let body = json_bytes(&json!({ "blocks": list, "limit": limit, "total": total }))?;
    Ok(response::cached(body, &blocks, policy))
}

fn chain(app: &App) -> Result<&Arc<Chain>> {
    let detail = "no chain is configured here, and none was found";
    let chain = app.upstreams.chain();
    chain.ok_or_else(|| ApiError::new(ErrorCode::ChainDisabled, detail))
}
