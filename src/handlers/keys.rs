use std::time::Duration;

use hyper::StatusCode;
use serde_json::value::RawValue;

use super::page_limit;
use crate::app::App;
use crate::auth::{KeyRecord, KeyRequest, Principal, Scope, Scopes};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Credits, Fields, InputError, Timestamp, Wallet, integer, text};
use crate::store::{Kept, StoreError, issue_key, rotate_key};

impl KeyRequest {
    fn parse(body: &str, now: Timestamp) -> Result<Self, InputError> {
        let fields = Fields::parse(
            body,
            "",
            &["wallet_address", "name", "scopes", "expires_days"],
        )?;
        let name = |value| text(value).and_then(|name| Self::name(&name));
        let days = |value| match integer(value) {
            Ok(days @ 1..=365) => Ok(Duration::from_secs(days.unsigned_abs() * 86_400)),
            _ => Err("must be a whole number from 1 to 365"),
        };
        let scopes = |value: &RawValue| {
            let names: Vec<String> =
                serde_json::from_str(value.get()).map_err(|_| "must be an array of texts")?;
            Scopes::parse(names.iter().map(String::as_str))
        };
        Ok(Self {
            wallet: fields.wallet("wallet_address")?,
            name: fields.optional("name", name)?.unwrap_or_default(),
            scopes: fields
                .optional("scopes", scopes)?
                .unwrap_or(Scopes::DEFAULT),
            expires_at: fields
                .optional("expires_days", days)?
                .map(|days| now.plus(days)),
            login: false,
        })
    }
}

pub(super) async fn create(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let now = app.clock.now();
    let mut request = KeyRequest::parse(call.text()?, now)?;
    allow(call.principal()?, &mut request)?;
    // The answer holds the key, so it is not stored.
    let once = call.once(None, |key: &KeyRecord| Kept {
        status: 201,
        answer: None,
        reference: Some(key.id.clone()),
    })?;
    let most = app.config.auth.max_keys_per_wallet;
    let issued = issue_key(&*app.store, request, most, now, once).await?;
    Reply::json(StatusCode::CREATED, &issued.shown())
}

/// A key makes keys for its own wallet only (an admin for any), with scopes it has itself, and none that outlasts it. So the
/// token of a wallet login, which lasts an hour, cannot be turned into a lasting key.
fn allow(principal: &Principal, request: &mut KeyRequest) -> Result<(), ApiError> {
    if let Some(end) = principal.expires_at {
        if request.expires_at.is_some_and(|asked| asked > end) {
            let detail = format!(
                "expires_days must not go beyond the end of the key that asks, {end}; without it the new key ends then too"
            );
            return Err(ApiError {
                pointer: Some("/expires_days".to_owned()),
                ..ApiError::new(ErrorCode::Forbidden, detail)
            });
        }
        request.expires_at.get_or_insert(end);
    }
    if !principal.is_admin() {
        let own = principal.wallet;
        if request.wallet.is_some() && request.wallet != own {
            return Err(ApiError::new(
                ErrorCode::Forbidden,
                "a key makes keys for its own wallet only",
            ));
        }
        request.wallet = own;
        if !principal.scopes.covers(request.scopes) {
            return Err(ApiError::new(
                ErrorCode::Forbidden,
                "a key makes keys with scopes that it has itself",
            ));
        }
    }
    if request.wallet.is_none() && !request.scopes.contains(Scope::Admin) {
        return Err(InputError::field(
            "/wallet_address",
            "wallet_address is required, except for an admin key",
        )
        .into());
    }
    Ok(())
}

pub(super) async fn list(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let principal = call.principal()?;
    let parameters = call.parameters(&["wallet_address", "limit", "cursor"])?;
    let named = parameters
        .get("wallet_address")
        .map(Wallet::parse)
        .transpose()
        .map_err(|detail| ApiError {
            pointer: Some("wallet_address".to_owned()),
            ..ApiError::new(ErrorCode::InvalidWallet, detail)
        })?;
    // The R3MES backend's own path names the wallet in it.
    let asked = if call.part.is_empty() {
        named
    } else {
        Some(call.wallet()?)
    };
    let wallet = if principal.is_admin() {
        asked
    } else {
        principal.wallet
    };
    if asked.is_some() && asked != wallet {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "this key belongs to another wallet",
        ));
    }
    let limit = page_limit(&parameters)?;
    let mut before = parameters.get("cursor").map(str::to_owned);
    if before
        .as_deref()
        .is_some_and(|cursor| !cursor.starts_with("key_"))
    {
        return Err(ApiError::parameter(
            "cursor",
            "must be the next_cursor of an earlier page",
        ));
    }
    let mut keys = Vec::new();
    // More than one read only where admin keys of the wallet were left out.
    loop {
        let page = app.store.keys(wallet, before, limit + 1).await?;
        let last = page.len() <= limit;
        before = page.last().map(|key| key.id.clone());
        keys.extend(page.into_iter().filter(|key| manages(principal, key)));
        if last || keys.len() > limit {
            break;
        }
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    let now = app.clock.now();
    let next_cursor = if more {
        keys.last().map(|key| key.id.as_str())
    } else {
        None
    };
    let listed: Vec<_> = keys.iter().map(|record| record.view(now)).collect();
    Reply::json(
        StatusCode::OK,
        &object! { keys: listed, next_cursor: next_cursor },
    )
}

pub(super) async fn get(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let key = managed_key(app, call.principal()?, call.part.clone()).await?;
    Reply::json(StatusCode::OK, &key.view(app.clock.now()))
}

/// Whether the caller may list, show, rotate and revoke a key: an admin any, others those of their wallet that are no
/// admin's.
fn manages(principal: &Principal, key: &KeyRecord) -> bool {
    let own = key.wallet == principal.wallet && !key.scopes.contains(Scope::Admin);
    principal.is_admin() || own
}

/// The key with this id. One that the caller does not manage is as good as none.
async fn managed_key(app: &App, principal: &Principal, id: String) -> Result<KeyRecord, ApiError> {
    let key = app.store.key(id).await?;
    let key = key.filter(|key| manages(principal, key));
    Ok(key.ok_or(StoreError::KeyNotFound)?)
}

pub(super) async fn revoke(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let key = managed_key(app, call.principal()?, call.part.clone()).await?;
    revoke_key(app, key).await
}

/// The R3MES backend's way: the key and its wallet stand in the body.
pub(super) async fn revoke_named(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let principal = call.principal()?;
    let fields = Fields::parse(call.text()?, "", &["api_key_id", "wallet_address"])?;
    let id = fields.required("api_key_id", |value| {
        text(value).map(std::borrow::Cow::into_owned)
    })?;
    let wallet = fields.required_wallet("wallet_address")?;
    if !principal.owns(&wallet) {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "this key belongs to another wallet",
        ));
    }
    let key = managed_key(app, principal, id).await?;
    if key.wallet != Some(wallet) {
        return Err(StoreError::KeyNotFound.into());
    }
    revoke_key(app, key).await
}

async fn revoke_key(app: &App, key: KeyRecord) -> Result<Reply, ApiError> {
    let now = app.clock.now();
    let record = app.store.revoke_key(key.id, key.wallet, now).await?;
    Reply::json(StatusCode::OK, &record.view(now))
}

pub(super) async fn rotate(app: &App, call: &Call) -> Result<Reply, ApiError> {
    /// The longest a replaced key may go on.
    const MOST: i64 = 30 * 86_400;
    let principal = call.principal()?;
    let body = if call.body.is_empty() {
        "{}"
    } else {
        call.text()?
    };
    let fields = Fields::parse(body, "", &["grace_seconds"])?;
    let grace = |value| match integer(value) {
        Ok(seconds @ 0..=MOST) => Ok(Duration::from_secs(seconds.unsigned_abs())),
        _ => Err("must be a whole number from 0 to 2592000"),
    };
    let grace = fields.optional("grace_seconds", grace)?.unwrap_or_default();
    let old = managed_key(app, principal, call.part.clone()).await?;
    // The new key can do what the old one could: that must not be more than its maker can.
    if !principal.scopes.covers(old.scopes) {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "a key makes keys with scopes that it has itself",
        ));
    }
    let ends_by = principal.expires_at;
    if let Some(end) = ends_by
        && old.ends_at().is_none_or(|old_end| old_end > end)
    {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            format!(
                "the key that asks ends at {end}, so it cannot replace one that lasts longer; rotate it with a key that lasts as long, or revoke it"
            ),
        ));
    }
    let now = app.clock.now();
    let (until, most) = (now.plus(grace), app.config.auth.max_keys_per_wallet);
    let (issued, _) = rotate_key(&*app.store, &old, until, ends_by, most, now).await?;
    Reply::json(StatusCode::CREATED, &issued.shown())
}

pub(super) async fn me(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let principal = call.principal()?;
    let user = match principal.wallet {
        Some(wallet) => Some(
            app.store
                .user(wallet)
                .await?
                .ok_or(StoreError::UserNotFound)?,
        ),
        None => None,
    };
    let key = object! {
        id: &*principal.key_id,
        scopes: principal.scopes,
        expires_at: principal.expires_at,
    };
    let body = object! {
        wallet_address: principal.wallet,
        credits: user.as_ref().map_or(Credits::ZERO, |user| user.credits),
        is_miner: user.as_ref().is_some_and(|user| user.is_miner),
        key: key,
    };
    Reply::json(StatusCode::OK, &body)
}
