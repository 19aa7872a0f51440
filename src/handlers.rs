//! What each route does, once its call is known to be allowed.

#![allow(
    non_camel_case_types,
    reason = "in `object!` each member's type has its name"
)]

/// A JSON object of an answer with amounts in it: in `json!` they would pass through floats, which print a millionth as
/// 1e-6 and hold no more than 15 digits.
macro_rules! object {
    ($($name:ident: $value:expr),* $(,)?) => {{
        #[derive(serde::Serialize)]
        struct Object<$($name),*> { $($name: $name),* }
        Object { $($name: $value),* }
    }};
}

mod chain;
mod chat;
#[cfg(feature = "page")]
mod dashboard;
mod keys;
mod login;
mod miner;
mod network;
mod openai;
mod ops;
mod users;

use std::sync::Arc;

use crate::app::App;
use crate::call::{Call, Reply};
use crate::error::ApiError;
use crate::routes::RouteId;

/// Runs the handler of a call's route.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice (https://github.com/rust-lang/rust/issues/62958)"
)]
pub(crate) fn dispatch(
    app: Arc<App>,
    call: Call,
) -> impl Future<Output = Result<Reply, ApiError>> + Send {
    async move { run(&app, &call).await }
}

async fn run(app: &Arc<App>, call: &Call) -> Result<Reply, ApiError> {
    match call.route.id {
        RouteId::CreateKey => keys::create(app, call).await,
        RouteId::ListKeys => keys::list(app, call).await,
        RouteId::ListKeysOf => keys::list(app, call).await,
        RouteId::RevokeByPost | RouteId::RevokeByBody => keys::revoke_named(app, call).await,
        RouteId::GetKey => keys::get(app, call).await,
        RouteId::RevokeKey => keys::revoke(app, call).await,
        RouteId::RotateKey => keys::rotate(app, call).await,
        RouteId::Challenge => login::challenge(app, call),
        RouteId::Login => login::login(app, call).await,
        RouteId::Me => keys::me(app, call).await,
        RouteId::CreateUser => users::create(app, call).await,
        RouteId::ListUsers => users::list(app, call).await,
        RouteId::GetUser => users::get(app, call).await,
        RouteId::Grant => users::grant(app, call).await,
        RouteId::Ledger => users::ledger(app, call).await,
        RouteId::PostStats => miner::post_stats(app, call).await,
        RouteId::PostEarnings => miner::post_earnings(app, call).await,
        RouteId::MinerStats => miner::stats(app, call).await,
        RouteId::Earnings => miner::earnings(app, call).await,
        RouteId::Hashrate => miner::hashrate(app, call).await,
        RouteId::Leaderboard => network::leaderboard(app, call).await,
        RouteId::Chat => chat::chat(app, call).await,
        RouteId::Completions => openai::completions(app, call).await,
        RouteId::Models => openai::models(app, call),
        RouteId::NetworkStats => network::stats(app, call).await,
        RouteId::ChainStatus => chain::status(app, call).await,
        RouteId::Blocks => chain::blocks(app, call).await,
        RouteId::BackUp => ops::back_up(app, call).await,
        RouteId::VerifyLedger => ops::verify_ledger(app, call).await,
        RouteId::Breakers => ops::breakers(app, call),
        RouteId::SetBreaker => ops::set_breaker(app, call),
        RouteId::Alerts => ops::alerts(app).await,
        RouteId::Health => ops::health(app),
        RouteId::Livez => ops::livez(),
        RouteId::Readyz => ops::readyz(app),
        RouteId::Metrics => ops::metrics(app, call),
        RouteId::Version => ops::version(call),
        RouteId::Time => ops::time(app, call),
        RouteId::OpenApi => Ok(ops::openapi()),
        #[cfg(feature = "page")]
        RouteId::Page => Ok(dashboard::page()),
        #[cfg(feature = "page")]
        RouteId::PageScript => Ok(dashboard::script()),
        #[cfg(feature = "page")]
        RouteId::PageStyle => Ok(dashboard::style()),
    }
}

/// Reads `?limit=` and `?cursor=` of a list; the page holds one more than was asked for, which tells whether there is a
/// next one.
fn page_limit(parameters: &crate::call::Parameters<'_>) -> Result<usize, ApiError> {
    Ok(parameters.number("limit", 1..=500)?.unwrap_or(50))
}
