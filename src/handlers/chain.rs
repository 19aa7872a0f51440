use std::sync::Arc;

use serde_json::json;

use crate::app::App;
use crate::cache::Source;
use crate::call::{Call, Reply, json_bytes};
use crate::error::{ApiError, ErrorCode};
use crate::upstream::chain::Chain;

pub(super) async fn status(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let status = app.cached_chain_status(chain(app)?).await?;
    let mut body = json!({
        "network": status.value.network,
        "latest_block_height": status.value.latest_block_height,
        "latest_block_time": status.value.latest_block_time,
        "catching_up": status.value.catching_up,
        "halted": app.chain_halted(&status),
        "stale": status.source == Source::Stale,
    });
    // The age is in the header too: an answer that only grew older is the same answer.
    let same = json_bytes(&body)?;
    body["age_seconds"] = status.age.as_secs().into();
    let mut reply = Reply::cached(json_bytes(&body)?, &status, app.chain_policy());
    reply.tag(&same);
    Ok(reply)
}

pub(super) async fn blocks(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let limit = call
        .parameters(&["limit"])?
        .number("limit", 1..=100)?
        .unwrap_or(20);
    let chain = chain(app)?;
    let ask = || async { chain.blocks(limit).await.map(Arc::new) };
    let blocks = app
        .blocks
        .get(limit, app.chain_policy(), || app.clock.instant(), ask)
        .await?;
    let body =
        json!({ "blocks": blocks.value.blocks, "limit": limit, "total": blocks.value.total });
    Ok(Reply::cached(
        json_bytes(&body)?,
        &blocks,
        app.chain_policy(),
    ))
}

fn chain(app: &App) -> Result<&Arc<Chain>, ApiError> {
    let disabled = || {
        ApiError::new(
            ErrorCode::ChainDisabled,
            "no chain is configured here, and none was found",
        )
    };
    app.upstreams.chain().ok_or_else(disabled)
}
