//! Wallet login: a challenge to sign, and a short-lived key for its signature.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, Result};
use crate::auth::{KeyRequest, LoginError, Scopes, SignedChallenge};
use crate::error::{ApiError, ErrorCode};
use crate::http::response::json;
use crate::model::Wallet;
use crate::store::{StoreError, User, issue_key};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeRequest {
    wallet_address: Wallet,
}

pub(crate) async fn challenge(ctx: Context) -> Result {
    let app = &ctx.app;
    let wallet = ctx.json::<ChallengeRequest>()?.wallet_address;
    let name = app.config.public_name();
    let (message, expires_at) = app.challenges.issue(&wallet, &name, app.clock.now());
    json(&json!({ "message": message, "expires_at": expires_at }))
}

#[derive(Serialize)]
struct Login<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    user: User,
}

pub(crate) async fn login(ctx: Context) -> Result {
    let app = &ctx.app;
    let signed: SignedChallenge = ctx.json()?;
    let (wallet, now) = (signed.wallet_address, app.clock.now());
    let redeemed = app.challenges.redeem(&signed, now);
    redeemed.map_err(|error| match error {
        LoginError::Refused(detail) => {
            app.metrics.table.auth_failures.inc();
            ApiError::new(ErrorCode::InvalidSignature, detail)
        }
        LoginError::Full => ApiError::new(ErrorCode::Overloaded, error.to_string()),
    })?;
    // A wallet's first login makes its account.
    match app.store.user(wallet).await {
        Ok(user) if user.blocked => return Err(ApiError::blocked()),
        Ok(_) | Err(StoreError::UserNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let ttl = app.config.auth.login_ttl;
    let request = KeyRequest {
        wallet: Some(wallet),
        name: "login".to_owned(),
        scopes: Scopes::LOGIN,
        expires_at: Some(app.clock.latest().plus(ttl)),
        login: true,
        // The owner of a wallet.
        limits: None,
    };
    let max_keys = app.config.auth.max_keys_per_wallet;
    let issued = issue_key(&*app.store, request, max_keys, ctx.actor(), None).await?;
    json(&Login {
        access_token: issued.key.reveal(),
        token_type: "bearer",
        expires_in: ttl.as_secs(),
        user: app.store.user(wallet).await?.seen_at(now),
    })
}
