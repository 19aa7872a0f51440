//! API keys: making, listing, showing, rotating and revoking them, and what a key knows of itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Context, PageSize, Result, cursor, cut_page, page_size};
use crate::app::App;
use crate::auth::{KeyLimits, KeyRecord, KeyRequest, Principal, Scope, Scopes, ShownKey, Spent};
use crate::error::ApiError;
use crate::http::response::{json, json_with_status};
use crate::model::{Credits, InputError, Period, Timestamp, Wallet, Whole, optional_credits};
use crate::store::{HoldTable, Spending, StoreError, StoredResponse, issue_key, rotate_key};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    wallet_address: Option<Wallet>,
    name: Option<String>,
    scopes: Option<Scopes>,
    expires_days: Option<Whole<1, 365>>,
    models: Option<Vec<String>>,
    #[serde(default, deserialize_with = "optional_credits")]
    credit_limit: Option<Credits>,
    credit_period: Option<Period>,
    max_concurrency: Option<Whole<1, { HoldTable::MAX_HOLDS as i64 }>>,
}

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) async fn create(ctx: Context) -> Result {
    ctx.check_not_blocked()?;
    let (app, principal) = (&ctx.app, ctx.principal()?);
    let actor = ctx.actor();
    let now = actor.at;
    let mut body: CreateRequest = ctx.json()?;
    let limits = limits_for(app, principal, &mut body).await?;
    let name = KeyRequest::name(&body.name.unwrap_or_default());
    let expires_at = |days: Whole<1, 365>| now.plus(DAY * days.count() as u32);
    let request = KeyRequest {
        wallet: ctx.named_or_own(body.wallet_address)?,
        name: name.map_err(|detail| InputError::member("name", detail))?,
        scopes: body.scopes.unwrap_or(Scopes::DEFAULT),
        expires_at: body.expires_days.map(expires_at).or(principal.expires_at),
        login: false,
        limits,
    };
    check_grant(principal, request.scopes, request.expires_at)?;
    if request.wallet.is_none() && !request.scopes.contains(Scope::Admin) {
        let detail = "is required, except for an admin key";
        return Err(InputError::member("wallet_address", detail).into());
    }
    if request.limits.is_some() && request.scopes.contains(Scope::Admin) {
        let detail = "may not hold admin in a key with limits, which an admin sets";
        return Err(InputError::member("scopes", detail).into());
    }
    // The response holds the key, so it is not stored.
    let idempotency = ctx.idempotency(None, |key: &KeyRecord| StoredResponse {
        status: 201,
        answer: None,
        reference: Some(key.id.clone()),
    })?;
    let max_keys = app.config.auth.max_keys_per_wallet;
    // Before the key is made, which an error would not show.
    let spent = spent(&ctx, [request.limits.as_ref()]).await?;
    let issued = issue_key(&*app.store, request, max_keys, actor, idempotency).await?;
    json_with_status(StatusCode::CREATED, &issued.shown(spent[0]))
}

/// The limits of a new key: those that the request has, or where the calling key has any, exactly these.
async fn limits_for(
    app: &App,
    principal: &Principal,
    body: &mut CreateRequest,
) -> Result<Option<Arc<KeyLimits>>> {
    let named = body.models.take();
    let max_concurrency = body.max_concurrency.map(|most| most.count() as u32);
    if let Some(own) = &principal.limits {
        let adapters = |names: &[String]| {
            let adapter = |name| app.adapters.get(name).unwrap_or(name).clone();
            names.iter().map(adapter).collect::<BTreeSet<_>>()
        };
        let named = named.as_deref().map(adapters);
        let is_other = [
            (
                "models",
                named.is_some() && named != own.models.as_deref().map(adapters),
            ),
            ("credit_limit", differs(body.credit_limit, own.credit_limit)),
            (
                "credit_period",
                differs(body.credit_period, own.credit_period),
            ),
            (
                "max_concurrency",
                differs(max_concurrency, own.max_concurrency),
            ),
        ];
        return match is_other.into_iter().find(|(_, is_other)| *is_other) {
            None => Ok(Some(Arc::clone(own))),
            Some((name, _)) => {
                let detail = format!(
                    "the calling key has limits ({own}) and passes on exactly these; leave {name} out"
                );
                Err(ApiError::forbidden(detail).at(format!("/{name}")))
            }
        };
    }
    let missing = match (body.credit_limit, body.credit_period) {
        (Some(limit), _) if limit <= Credits::ZERO => {
            let detail = "must be more than 0; leave it out for no limit";
            return Err(InputError::member("credit_limit", detail).into());
        }
        (Some(_), None) => Some((
            "credit_period",
            "is required with credit_limit: day, week, month or total",
        )),
        (None, Some(_)) => Some(("credit_limit", "is required with credit_period")),
        _ => None,
    };
    if let Some((name, detail)) = missing {
        return Err(InputError::member(name, detail).into());
    }
    let models = match named {
        Some(names) => Some(known_adapters(app, &names).await?),
        None => None,
    };
    if models.is_none() && body.credit_limit.is_none() && max_concurrency.is_none() {
        return Ok(None);
    }
    let none = KeyLimits::new();
    let none = none.map_err(|error| ApiError::internal(format!("no random bytes: {error}")))?;
    Ok(Some(Arc::new(KeyLimits {
        models,
        credit_limit: body.credit_limit,
        credit_period: body.credit_period,
        max_concurrency,
        ..none
    })))
}

/// Whether a member is there and is not what it would be without.
fn differs<T: PartialEq>(member: Option<T>, own: Option<T>) -> bool {
    member.is_some() && member != own
}

/// The adapters or models of some names, each one time, in order. An unknown name would make a key that can use nothing by it,
/// of which only its user would learn.
async fn known_adapters(app: &App, names: &[String]) -> Result<Vec<String>> {
    let most = KeyLimits::MAX_MODELS;
    if !(1..=most).contains(&names.len()) {
        let detail = format!("must have 1 to {most} names; leave it out for every model");
        return Err(InputError::member("models", &detail).into());
    }
    let mut adapters = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        let Some(adapter) = app.resolve(name).await else {
            let adapters = app.adapters.clone().into_iter();
            let known = app.served_names(None).into_iter().chain(adapters);
            let known: BTreeSet<_> = known.map(|(name, _)| name).collect();
            let known: Vec<_> = known.into_iter().take(20).collect();
            let detail = format!(
                "models has the unknown name {name:?}; known are {}",
                known.join(", ")
            );
            return Err(InputError::field(format!("/models/{at}"), detail).into());
        };
        adapters.insert(adapter);
    }
    Ok(adapters.into_iter().collect())
}

/// What the keys of some limits spent in their current periods.
async fn spent<'a>(
    ctx: &Context,
    limits: impl IntoIterator<Item = Option<&'a Arc<KeyLimits>>>,
) -> Result<Vec<Spent>> {
    let now = ctx.app.clock.now();
    let of = |limits: Option<&Arc<KeyLimits>>| {
        let (spending, _) = Spending::of(limits?, now)?;
        Some((spending, limits?.credit_period?.end(now)))
    };
    let of: Vec<_> = limits.into_iter().map(of).collect();
    let rows: Vec<_> = of.iter().flatten().map(|(row, _)| *row).collect();
    let mut amounts = match rows.is_empty() {
        true => Vec::new(),
        false => ctx.app.store.spent(rows).await?,
    }
    .into_iter();
    let shown = |of: Option<(Spending, Option<Timestamp>)>| {
        of.map_or_else(Spent::default, |(_, period_ends_at)| Spent {
            spent: amounts.next(),
            period_ends_at,
        })
    };
    Ok(of.into_iter().map(shown).collect())
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
    #[serde(alias = "wallet_address")]
    wallet: Option<Wallet>,
    limit: Option<PageSize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Keys<'a> {
    keys: Vec<ShownKey<'a>>,
    next_cursor: Option<String>,
}

pub(crate) async fn list(ctx: Context) -> Result {
    let principal = ctx.principal()?;
    let query: ListQuery = ctx.query()?;
    // The R3MES backend's path names the wallet in it.
    let wanted = match ctx.path_param.is_empty() {
        true => query.wallet,
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
    let spent = spent(&ctx, keys.iter().map(|key| key.limits.as_ref())).await?;
    let keys = keys.iter().zip(spent);
    let keys: Vec<_> = keys.map(|(key, spent)| key.shown(now, spent)).collect();
    json(&Keys { keys, next_cursor })
}

pub(crate) async fn get(ctx: Context) -> Result {
    let key = managed_key(&ctx, ctx.path_param.clone()).await?;
    let spent = spent(&ctx, [key.limits.as_ref()]).await?;
    json(&key.shown(ctx.app.clock.latest(), spent[0]))
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
    let spent = spent(ctx, [key.limits.as_ref()]).await?;
    let record = store.revoke_key(key.id, key.wallet, actor).await?;
    json(&record.shown(now, spent[0]))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    grace_seconds: Option<Whole<0, { 30 * 86_400 }>>,
}

pub(crate) async fn rotate(ctx: Context) -> Result {
    ctx.check_not_blocked()?;
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
    if principal.limits.is_some() && principal.limits != old.limits {
        let detail = "a key with limits rotates no key that has others";
        return Err(ApiError::forbidden(detail));
    }
    let actor = ctx.actor();
    let until = actor.at.plus(Duration::from_secs(grace as u64));
    let (ends_by, max_keys) = (principal.expires_at, app.config.auth.max_keys_per_wallet);
    let spent = spent(&ctx, [old.limits.as_ref()]).await?;
    let rotated = rotate_key(&*app.store, &old, until, ends_by, max_keys, actor);
    let (issued, _) = rotated.await?;
    json_with_status(StatusCode::CREATED, &issued.shown(spent[0]))
}

#[derive(Serialize)]
struct Me<'a> {
    wallet_address: Option<Wallet>,
    credits: Credits,
    /// Without what is held for requests that run.
    available: Credits,
    is_miner: bool,
    key: OwnKey<'a>,
}

#[derive(Serialize)]
struct OwnKey<'a> {
    #[serde(flatten)]
    principal: &'a Principal,
    limits: Option<&'a KeyLimits>,
    #[serde(flatten)]
    spent: Spent,
}

pub(crate) async fn me(ctx: Context) -> Result {
    let principal = ctx.principal()?;
    let (mut user, mut available) = (None, Credits::ZERO);
    if let Some(wallet) = principal.wallet {
        let found = ctx.app.store.user(wallet).await?;
        available = ctx.app.store.available(wallet).await?.min(found.credits);
        user = Some(found);
    }
    let limits = principal.limits.as_ref();
    let spent = spent(&ctx, [limits]).await?;
    json(&Me {
        wallet_address: principal.wallet,
        credits: user.as_ref().map_or(Credits::ZERO, |user| user.credits),
        available,
        is_miner: user.is_some_and(|user| user.is_miner),
        key: OwnKey {
            principal,
            limits: limits.map(AsRef::as_ref),
            spent: spent[0],
        },
    })
}
