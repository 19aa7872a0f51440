//! API keys: only their hashes are stored. A wallet has a limit of active keys; those of a wallet login do not count.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::row::{Names, all, count, execute, first, one, value};
use super::{accounts, audit, sql};
use crate::auth::{KeyHash, KeyLimits, KeyRecord};
use crate::model::{Timestamp, Wallet};
use crate::store::{Actor, Result, StoreError};

/// Stores a key; returns whether its wallet's account is new.
pub(super) fn create(
    c: &Connection,
    key: &KeyRecord,
    max_active: usize,
    actor: &Actor,
) -> Result<bool> {
    let new_account = match &key.wallet {
        Some(wallet) => accounts::ensure(c, wallet, key.created_at)?,
        None => false,
    };
    insert_new(c, key, max_active)?;
    let limits = key
        .limits
        .as_ref()
        .map(|limits| format!("limits: {limits}"));
    record_change(c, actor, "keys.create", key, limits.as_deref())?;
    Ok(new_account)
}

/// Adds a change of a key to the audit trail. That a wallet logs in, and out, is none of an administrator's.
fn record_change(
    c: &Connection,
    actor: &Actor,
    action: &str,
    key: &KeyRecord,
    reason: Option<&str>,
) -> rusqlite::Result<()> {
    match key.login {
        true => Ok(()),
        false => audit::record(c, actor, action, &key.id, None, reason),
    }
}

/// Stores a key, whose wallet must have less than `max` active ones.
fn insert_new(c: &Connection, key: &KeyRecord, max: usize) -> Result<()> {
    let values = params![key.wallet, key.created_at];
    let active: i64 = one(c, sql::COUNT_ACTIVE_KEYS, values, value)?;
    if key.wallet.is_some() && !key.login && active >= count(max) {
        return Err(StoreError::Conflict(format!(
            "the wallet has {active} active keys already; revoke one first"
        )));
    }
    match insert(c, key, false)? {
        true => Ok(()),
        false => Err(StoreError::Internal("two keys are alike".to_owned())),
    }
}

/// Stores a key, unless its id or its hash is stored already, as those of an import may be.
pub(super) fn insert(c: &Connection, key: &KeyRecord, imported: bool) -> rusqlite::Result<bool> {
    let limits = key.limits.as_deref();
    let models = limits.and_then(|limits| limits.models.clone());
    let values = params![
        key.id,
        key.hash,
        key.start,
        key.wallet,
        key.name,
        key.scopes,
        key.created_at,
        key.expires_at,
        key.revoked_at,
        key.last_used,
        key.login,
        imported,
        limits.map(|limits| limits.id),
        models.map(Names),
        limits.and_then(|limits| limits.credit_limit),
        limits.and_then(|limits| limits.credit_period),
        limits.and_then(|limits| limits.max_concurrency),
    ];
    let is_new = execute(c, sql::INSERT_KEY, values)? == 1;
    // Of an imported key.
    if let (Some(wallet), Some(at)) = (&key.wallet, key.last_used.filter(|_| is_new)) {
        execute(c, sql::SET_USER_USED, params![wallet, at])?;
    }
    Ok(is_new)
}

/// Replaces the SHA-256 of an imported key with its own hash, and returns the key; also if this was done already.
pub(super) fn adopt(
    c: &Connection,
    sha256: &KeyHash,
    hash: &KeyHash,
    start: &str,
) -> rusqlite::Result<Option<KeyRecord>> {
    let values = params![sha256, hash, start];
    execute(c, sql::ADOPT_KEY, values)?;
    by_hash(c, hash)
}

pub(super) fn by_hash(c: &Connection, hash: &KeyHash) -> rusqlite::Result<Option<KeyRecord>> {
    first(c, sql::SELECT_KEY_BY_HASH, [hash], record)
}

pub(super) fn by_id(c: &Connection, id: &str) -> rusqlite::Result<Option<KeyRecord>> {
    first(c, sql::SELECT_KEY, [id], record)
}

fn existing(c: &Connection, id: &str) -> Result<KeyRecord> {
    by_id(c, id)?.ok_or(StoreError::KeyNotFound)
}

pub(super) fn list(
    c: &Connection,
    wallet: Option<&Wallet>,
    before: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<KeyRecord>> {
    // Identifiers are `key_` and ASCII capitals and digits: a tilde sorts after them all.
    let (before, limit) = (before.unwrap_or("~"), count(limit));
    match wallet {
        Some(wallet) => {
            let values = params![wallet, before, limit];
            all(c, sql::SELECT_KEYS_OF_WALLET, values, record)
        }
        None => all(c, sql::SELECT_KEYS, params![before, limit], record),
    }
}

pub(super) fn revoke(
    c: &Connection,
    id: &str,
    wallet: Option<&Wallet>,
    actor: &Actor,
) -> Result<KeyRecord> {
    let found = existing(c, id)?;
    if wallet.is_some() && found.wallet.as_ref() != wallet {
        return Err(StoreError::KeyNotFound);
    }
    if execute(c, sql::REVOKE_KEY, params![id, actor.at])? > 0 {
        record_change(c, actor, "keys.revoke", &found, None)?;
    }
    existing(c, id)
}

/// Replaces the key `id`, which stays valid until `until`, with `new`; returns the updated old key. The number of keys does
/// not grow in the end, so a wallet at its limit can rotate too, and all of its keys at once.
pub(super) fn rotate(
    c: &Connection,
    id: &str,
    new: &KeyRecord,
    until: Timestamp,
    max_active: usize,
    actor: &Actor,
) -> Result<KeyRecord> {
    if !existing(c, id)?.is_active(new.created_at) {
        let detail = "the key is not active; make a new one instead";
        return Err(StoreError::Conflict(detail.to_owned()));
    }
    let max = match until > new.created_at {
        true => max_active.saturating_mul(2),
        false => usize::MAX,
    };
    insert_new(c, new, max)?;
    execute(c, sql::REVOKE_KEY, params![id, until])?;
    let old = existing(c, id)?;
    let replaced = format!("replaced by {}", new.id);
    record_change(c, actor, "keys.rotate", &old, Some(&replaced))?;
    Ok(old)
}

/// How long a key is listed after it was revoked or expired. The audit trail has it longer.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Deletes some keys that ended: those of wallet logins at once, others of wallets later; returns how many. An imported key
/// stays, which another import would bring back, and so does an admin's, which a server would adopt from its file.
pub(super) fn purge(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    const STEP: i64 = 500;
    let ended = now.minus(ENDED_KEPT);
    Ok(execute(c, sql::PURGE_LOGIN_KEYS, params![now, STEP])?
        + execute(c, sql::PURGE_REVOKED_KEYS, params![ended, STEP])?
        + execute(c, sql::PURGE_EXPIRED_KEYS, params![ended, STEP])?)
}

pub(super) fn touch(c: &Connection, touched: &[(String, Timestamp)]) -> rusqlite::Result<()> {
    let mut touched: Vec<_> = touched.iter().collect();
    // The last one is that of the account.
    touched.sort_by_key(|(_, at)| *at);
    for (id, at) in touched {
        execute(c, sql::TOUCH_KEY, params![id, at])?;
        execute(c, sql::SET_USER_USED_BY_KEY, params![id, at])?;
    }
    Ok(())
}

fn record(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    Ok(KeyRecord {
        id: row.get(0)?,
        hash: row.get(1)?,
        start: row.get(2)?,
        wallet: row.get(3)?,
        name: row.get(4)?,
        scopes: row.get(5)?,
        created_at: row.get(6)?,
        expires_at: row.get(7)?,
        revoked_at: row.get(8)?,
        last_used: row.get(9)?,
        login: row.get(10)?,
        limits: limits(row)?.map(Arc::new),
    })
}

fn limits(row: &Row<'_>) -> rusqlite::Result<Option<KeyLimits>> {
    let Some(id) = row.get(11)? else {
        return Ok(None);
    };
    let models: Option<Names> = row.get(12)?;
    Ok(Some(KeyLimits {
        id,
        models: models.map(|Names(models)| models),
        credit_limit: row.get(13)?,
        credit_period: row.get(14)?,
        max_concurrency: row.get(15)?,
    }))
}
