use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{accounts, count, maybe_time_at, sql, storage_error, time_at, unreadable, wallet_at};
use crate::auth::{KeyHash, KeyRecord, Scopes};
use crate::model::{Timestamp, Wallet};
use crate::store::StoreError;

pub(super) fn create(
    c: &Connection,
    key: &KeyRecord,
    max_active: usize,
) -> Result<bool, StoreError> {
    let mut new_account = false;
    if let Some(wallet) = &key.wallet {
        new_account = accounts::ensure(c, wallet, key.created_at)?;
        if !key.login {
            room(c, wallet, max_active, key.created_at)?;
        }
    }
    insert(c, key)?;
    Ok(new_account)
}

/// A conflict where a wallet has `most` active keys or more.
fn room(c: &Connection, wallet: &Wallet, most: usize, now: Timestamp) -> Result<(), StoreError> {
    let active: i64 = c
        .prepare_cached(sql::COUNT_ACTIVE_KEYS)
        .and_then(|mut count| {
            count.query_row(params![wallet.as_str(), now.millis()], |row| row.get(0))
        })
        .map_err(storage_error)?;
    if active < count(most) {
        return Ok(());
    }
    Err(StoreError::Conflict(format!(
        "the wallet has {active} active keys already; revoke one first"
    )))
}

fn insert(c: &Connection, key: &KeyRecord) -> Result<(), StoreError> {
    let values = params![
        key.id,
        key.hash.as_bytes(),
        key.start,
        key.wallet.as_ref().map(Wallet::as_str),
        key.name,
        key.scopes.to_string(),
        key.created_at.millis(),
        key.expires_at.map(Timestamp::millis),
        key.login,
    ];
    let mut insert = c.prepare_cached(sql::INSERT_KEY).map_err(storage_error)?;
    insert.execute(values).map(drop).map_err(storage_error)
}

/// Stores a key of the R3MES backend whose account exists; returns whether it is new. A wallet may have any number.
pub(super) fn import(c: &Connection, key: &KeyRecord) -> Result<bool, StoreError> {
    let values = params![
        key.id,
        key.hash.as_bytes(),
        key.start,
        key.wallet.as_ref().map(Wallet::as_str),
        key.name,
        key.scopes.to_string(),
        key.created_at.millis(),
        key.expires_at.map(Timestamp::millis),
        key.revoked_at.map(Timestamp::millis),
        key.last_used.map(Timestamp::millis),
    ];
    c.prepare_cached(sql::INSERT_IMPORTED_KEY)
        .and_then(|mut insert| insert.execute(values))
        .map(|rows| rows == 1)
        .map_err(storage_error)
}

pub(super) fn has_imported(c: &Connection) -> rusqlite::Result<bool> {
    c.prepare_cached(sql::HAS_IMPORTED_KEYS)?
        .query_row([], |row| row.get(0))
}

/// Puts a key's own hash in the place of its SHA-256. Where that was done already, it finds the key all the same.
pub(super) fn adopt(
    c: &Connection,
    sha256: &KeyHash,
    hash: &KeyHash,
    start: &str,
) -> Result<Option<KeyRecord>, StoreError> {
    let mut update = c.prepare_cached(sql::ADOPT_KEY).map_err(storage_error)?;
    update
        .execute(params![sha256.as_bytes(), hash.as_bytes(), start])
        .map_err(storage_error)?;
    by_hash(c, hash).map_err(storage_error)
}

pub(super) fn by_hash(c: &Connection, hash: &KeyHash) -> rusqlite::Result<Option<KeyRecord>> {
    c.prepare_cached(sql::SELECT_KEY_BY_HASH)?
        .query_row([hash.as_bytes()], record)
        .optional()
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
            let mut select = c.prepare_cached(sql::SELECT_KEYS_OF_WALLET)?;
            select
                .query_map(params![wallet.as_str(), before, limit], record)?
                .collect()
        }
        None => c
            .prepare_cached(sql::SELECT_KEYS)?
            .query_map(params![before, limit], record)?
            .collect(),
    }
}

pub(super) fn revoke(
    c: &Connection,
    id: &str,
    wallet: Option<&Wallet>,
    now: Timestamp,
) -> Result<KeyRecord, StoreError> {
    let found = there(c, id)?;
    if wallet.is_some() && found.wallet.as_ref() != wallet {
        return Err(StoreError::KeyNotFound);
    }
    end(c, id, now)
}

/// Has a key open nothing from `at` on; returns it as it is then.
fn end(c: &Connection, id: &str, at: Timestamp) -> Result<KeyRecord, StoreError> {
    let mut update = c.prepare_cached(sql::REVOKE_KEY).map_err(storage_error)?;
    update
        .execute(params![id, at.millis()])
        .map_err(storage_error)?;
    there(c, id)
}

fn there(c: &Connection, id: &str) -> Result<KeyRecord, StoreError> {
    let found = by_id(c, id).map_err(storage_error)?;
    found.ok_or(StoreError::KeyNotFound)
}

pub(super) fn by_id(c: &Connection, id: &str) -> rusqlite::Result<Option<KeyRecord>> {
    c.prepare_cached(sql::SELECT_KEY)?
        .query_row([id], record)
        .optional()
}

/// Puts `new` in the place of the key `id`, which goes on until `until`; returns the old key as it is then. One comes and
/// one goes, so a wallet with as many keys as it may have can do this, and with all of them at once.
pub(super) fn rotate(
    c: &Connection,
    id: &str,
    new: &KeyRecord,
    until: Timestamp,
    max_active: usize,
) -> Result<KeyRecord, StoreError> {
    if !there(c, id)?.is_active(new.created_at) {
        return Err(StoreError::Conflict(
            "the key is not active; make a new one instead".to_owned(),
        ));
    }
    if let Some(wallet) = &new.wallet
        && until > new.created_at
        && !new.login
    {
        room(c, wallet, max_active.saturating_mul(2), new.created_at)?;
    }
    insert(c, new)?;
    end(c, id, until)
}

/// Deletes at most `limit` login keys that have run out; how many.
pub(super) fn purge_logins(
    c: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let mut delete = c
        .prepare_cached(sql::PURGE_LOGIN_KEYS)
        .map_err(storage_error)?;
    delete
        .execute(params![now.millis(), count(limit)])
        .map_err(storage_error)
}

pub(super) fn touch(c: &Connection, touched: &[(String, Timestamp)]) -> Result<(), StoreError> {
    let mut update = c.prepare_cached(sql::TOUCH_KEY).map_err(storage_error)?;
    for (id, at) in touched {
        update
            .execute(params![id, at.millis()])
            .map_err(storage_error)?;
    }
    Ok(())
}

fn record(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let wallet = match row.get_ref(3)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(wallet_at(row, 3)?),
    };
    let scopes = row
        .get_ref(5)?
        .as_str()
        .map_err(|_| unreadable(5, "scopes"))?;
    Ok(KeyRecord {
        id: row.get(0)?,
        hash: KeyHash::from_bytes(row.get(1)?),
        start: row.get(2)?,
        wallet,
        name: row.get(4)?,
        scopes: Scopes::parse(scopes.split(',')).map_err(|what| unreadable(5, what))?,
        created_at: time_at(row, 6)?,
        expires_at: maybe_time_at(row, 7)?,
        revoked_at: maybe_time_at(row, 8)?,
        last_used: maybe_time_at(row, 9)?,
        login: row.get(10)?,
    })
}
