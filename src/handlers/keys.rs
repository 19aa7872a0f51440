//! API keys: making, listing, showing, rotating and revoking them, and what a key knows of itself.

use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, PageSize, Result, cursor, cut_page, page_size};
use crate::auth::{KeyRecord, KeyRequest, Principal, Scope, Scopes};
use crate::error::ApiError;
use crate::http::response::{json, json_with_status};
use crate::model::{Credits, InputError, Timestamp, Wallet, Whole};
use crate::store::{StoreError, StoredResponse, issue_key, rotate_key};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    wallet_address: Option<Wallet>,
    name: Option<String>,
    scopes: Option<Scopes>,
    expires_days: Option<Whole<1, 365>>,
}

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) async fn create(ctx: Context) -> Result {
    let (app, principal) = (&ctx.app, ctx.principal()?);
    let actor = ctx.actor();
    let now = actor.at;
    let body: CreateRequest = ctx.json()?;
    let name = KeyRequest::name(&body.name.unwrap_or_default());
    let expires_at = |days: Whole<1, 365>| now.plus(DAY * days.count() as u32);
    let request = KeyRequest {
        wallet: ctx.named_or_own(body.wallet_address)?,
        name: name.map_err(|detail| InputError::member("name", detail))?,
        scopes: body.scopes.unwrap_or(Scopes::DEFAULT),
        expires_at: body.expires_days.map(expires_at).or(principal.expires_at),
        login: false,
    };
    check_grant(principal, request.scopes, request.expires_at)?;
    if request.wallet.is_none() && !request.scopes.contains(Scope::Admin) {
        let detail = "is required, except for an admin key";
        return Err(InputError::member("wallet_address", detail).into());
    }
    // The response holds the key, so it is not stored.
    let idempotency = ctx.idempotency(None, |key: &KeyRecord| StoredResponse {
        status: 201,
        answer: None,
        reference: Some(key.id.clone()),
    })?;
    let max_keys = app.config.auth.max_keys_per_wallet;
    let issued = issue_key(&*app.store, request, max_keys, actor, idempotency).await?;
    json_with_status(StatusCode::CREATED, &issued.shown())
}

/// A key makes keys with scopes that it has itself, and none that outlasts it. So the token of a wallet login, which lasts an
/// hour, cannot be turned into a lasting key.
fn check_grant(principal: &Principal, scopes: Scopes, end: Option<Timestamp>) -> Result<()> {
    if !principal.scopes.covers(scopes) {
        let detail = "a key makes keys with scopes that it has itself";
        return Err(ApiError::forbidden(detail));
    }
    match principal.expires_at {
        Some(own) if end.is_none_or(|end| end > own) => {
            let detail = format!("the calling key ends at {own}, so no key of it lasts longer");
            Err(ApiError::forbidden(detail).at("/expires_days"))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    wallet_address: Option<Wallet>,
    limit: Option<PageSize>,
    cursor: Option<String>,
}

pub(crate) async fn list(ctx: Context) -> Result {
    let principal = ctx.principal()?;
    let query: ListQuery = ctx.query()?;
    // The R3MES backend's path names the wallet in it.
    let wanted = match ctx.path_param.is_empty() {
        true => query.wallet_address,
        false => Some(ctx.wallet()?),
    };
    let wallet = ctx.named_or_own(wanted)?;
    let limit = page_size(query.limit);
    let is_id = |text: &str| text.starts_with("key_").then(|| text.to_owned());
    let before = cursor(query.cursor, is_id)?;
    let mut keys = ctx.app.store.keys(wallet, before, limit + 1).await?;
    let next_cursor = cut_page(&mut keys, limit, |key| key.id.clone());
    // So a page may be shorter than its limit.
    keys.retain(|key| manages(principal, key));
    let now = ctx.app.clock.latest();
    let keys: Vec<_> = keys.iter().map(|key| key.shown(now)).collect();
    json(&json!({ "keys": keys, "next_cursor": next_cursor }))
}

pub(crate) async fn get(ctx: Context) -> Result {
    let key = managed_key(&ctx, ctx.path_param.clone()).await?;
    json(&key.shown(ctx.app.clock.latest()))
}

/// Whether the caller may list, show, rotate and revoke a key: an admin any, others those of their wallet that are no
/// admin's.
fn manages(principal: &Principal, key: &KeyRecord) -> bool {
    let own = key.wallet == principal.wallet && !key.scopes.contains(Scope::Admin);
    principal.is_admin() || own
}

/// The key with this id. One that the caller does not manage does not exist for them.
async fn managed_key(ctx: &Context, id: String) -> Result<KeyRecord> {
    let principal = ctx.principal()?;
    let key = ctx.app.store.key(id).await?;
    let key = key.filter(|key| manages(principal, key));
    Ok(key.ok_or(StoreError::KeyNotFound)?)
}

pub(crate) async fn revoke(ctx: Context) -> Result {
    let key = managed_key(&ctx, ctx.path_param.clone()).await?;
    revoke_key(&ctx, key).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    api_key_id: String,
    wallet_address: Wallet,
}

/// As the R3MES backend has it: the body names the key and its wallet.
pub(crate) async fn revoke_named(ctx: Context) -> Result {
    let body: RevokeRequest = ctx.json()?;
    ctx.check_owner(&body.wallet_address)?;
    let key = managed_key(&ctx, body.api_key_id).await?;
    if key.wallet != Some(body.wallet_address) {
        return Err(StoreError::KeyNotFound.into());
    }
    revoke_key(&ctx, key).await
}

async fn revoke_key(ctx: &Context, key: KeyRecord) -> Result {
    let (store, actor) = (&ctx.app.store, ctx.actor());
    let now = actor.at;
    let record = store.revoke_key(key.id, key.wallet, actor).await?;
    json(&record.shown(now))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    grace_seconds: Option<Whole<0, { 30 * 86_400 }>>,
}

pub(crate) async fn rotate(ctx: Context) -> Result {
    let (app, principal) = (&ctx.app, ctx.principal()?);
    let body: RotateRequest = match ctx.body.is_empty() {
        true => RotateRequest::default(),
        false => ctx.json()?,
    };
    let grace = body.grace_seconds.map_or(0, Whole::count);
    let old = managed_key(&ctx, ctx.path_param.clone()).await?;
    // The body of a rotation has no such member.
    let pointer = None;
    check_grant(principal, old.scopes, old.ends_at())
        .map_err(|error| ApiError { pointer, ..error })?;
    let actor = ctx.actor();
    let until = actor.at.plus(Duration::from_secs(grace as u64));
    let (ends_by, max_keys) = (principal.expires_at, app.config.auth.max_keys_per_wallet);
    let rotated = rotate_key(&*app.store, &old, until, ends_by, max_keys, actor);
    let (issued, _) = rotated.await?;
    json_with_status(StatusCode::CREATED, &issued.shown())
}

#[derive(Serialize)]
struct Me<'a> {
    wallet_address: Option<Wallet>,
    credits: Credits,
    is_miner: bool,
    key: &'a Principal,
}

pub(crate) async fn me(ctx: Context) -> Result {
    let principal = ctx.principal()?;
    let user = match principal.wallet {
        Some(wallet) => Some(ctx.app.store.user(wallet).await?),
        None => None,
    };
    json(&Me {
        wallet_address: principal.wallet,
        credits: user.as_ref().map_or(Credits::ZERO, |user| user.credits),
        is_miner: user.is_some_and(|user| user.is_miner),
        key: principal,
    })
}
