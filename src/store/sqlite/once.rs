//! Doing a thing once, however often it is asked for (`Idempotency-Key`). The answer is stored in the transaction of its
//! effect, so a crash leaves both or neither, and nothing is ever "running": writes are done one after the other, and the
//! second of two at once finds the first one's answer.
//!
//! No answer is deleted within its day to make room for another, as its request would then be done, and paid, again: what
//! finds no free row is refused before it is done. A body that finds no room leaves its status and a reference.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{count, sql, storage_error};
use crate::model::Timestamp;
use crate::store::{Done, Kept, Once, StoreError};

/// How long an answer is stored.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Rows deleted in one transaction: an answer has up to 4 MiB.
const PURGED_AT_ONCE: usize = 50;

/// What the stored answers may take.
struct Limits {
    rows: i64,
    scope_bytes: i64,
    total_bytes: i64,
}

const LIMITS: Limits = Limits {
    rows: 20_000,
    scope_bytes: 64 << 20,
    total_bytes: 1 << 30,
};

/// Runs `effect`, unless it was run for this key before.
pub(super) fn once<T>(
    c: &Connection,
    once: Option<Once<T>>,
    now: Timestamp,
    effect: impl FnOnce() -> Result<T, StoreError>,
) -> Result<Done<T>, StoreError> {
    let Some(once) = once else {
        return effect().map(Done::New);
    };
    if let Some(kept) = find_same(c, &once.key, &once.request, now)? {
        return Ok(Done::Again(kept));
    }
    check_rows(c, &once.scope, 1, now)?;
    let result = effect()?;
    store(c, &once, &result, now)?;
    Ok(Done::New(result))
}

/// The answer stored for a key, which must be to this request.
pub(super) fn find_same(
    c: &Connection,
    key: &[u8; 32],
    request: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Kept>, StoreError> {
    same(find(c, key, now).map_err(storage_error)?, request)
}

/// What was found, if it was the answer to this request.
pub(super) fn same(
    found: Option<([u8; 32], Kept)>,
    request: &[u8; 32],
) -> Result<Option<Kept>, StoreError> {
    match found {
        Some((asked, _)) if asked != *request => Err(StoreError::KeyReused),
        found => Ok(found.map(|(_, kept)| kept)),
    }
}

/// The answer stored for a key, with the hash of the request it answered.
pub(super) fn find(
    c: &Connection,
    key: &[u8; 32],
    now: Timestamp,
) -> rusqlite::Result<Option<([u8; 32], Kept)>> {
    let read = |row: &Row<'_>| {
        let text: Option<String> = row.get(2)?;
        // No JSON begins with a letter of these.
        let is_id = |text: &String| text.starts_with("led_") || text.starts_with("key_");
        let (reference, answer) = match text {
            Some(id) if is_id(&id) => (Some(id), None),
            answer => (None, answer),
        };
        let kept = Kept {
            status: row.get(1)?,
            answer,
            reference,
        };
        Ok((row.get(0)?, kept))
    };
    c.prepare_cached(sql::SELECT_ONCE)?
        .query_row(params![key, now.millis()], read)
        .optional()
}

/// Whether there are rows left in a scope for so many answers.
pub(super) fn check_rows(
    c: &Connection,
    scope: &str,
    answers: usize,
    now: Timestamp,
) -> Result<(), StoreError> {
    check_rows_within(c, scope, answers, now, &LIMITS)
}

fn check_rows_within(
    c: &Connection,
    scope: &str,
    answers: usize,
    now: Timestamp,
    limits: &Limits,
) -> Result<(), StoreError> {
    let is_full = || {
        let [rows, ..] = usage(c, scope)?;
        Ok::<_, rusqlite::Error>(rows.saturating_add(count(answers)) > limits.rows)
    };
    let purge = || {
        c.prepare_cached(sql::PURGE_ONCE_OF_SCOPE)?.execute(params![
            scope,
            now.millis(),
            count(PURGED_AT_ONCE)
        ])
    };
    let oldest = || {
        c.prepare_cached(sql::SELECT_OLDEST_ONCE)?
            .query_row([scope], |row| row.get::<_, i64>(0))
            .optional()
    };
    let check = || {
        // What has expired waits up to a minute for the purge of all.
        if !is_full()? || (purge()? > 0 && !is_full()?) {
            return Ok(None);
        }
        let oldest = oldest()?.unwrap_or_default();
        let wait = Duration::from_millis(oldest.saturating_sub(now.millis()).max(0).unsigned_abs());
        // A clock that was ahead left moments far away; nothing asks a client to wait for longer than a day.
        Ok(Some(wait.min(LIFETIME)))
    };
    match check().map_err(storage_error)? {
        None => Ok(()),
        Some(retry_after) => Err(StoreError::IdempotencyFull { retry_after }),
    }
}

/// The rows and bytes of a scope, and the bytes of all.
fn usage(c: &Connection, scope: &str) -> rusqlite::Result<[i64; 3]> {
    let read = |row: &Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?]);
    c.prepare_cached(sql::SELECT_IDEMPOTENCY_USAGE)?
        .query_row([scope], read)
}

/// Stores what is answered to a request that was done.
pub(super) fn store<T>(
    c: &Connection,
    once: &Once<T>,
    result: &T,
    now: Timestamp,
) -> Result<(), StoreError> {
    store_within(c, once, (once.answer)(result), now, &LIMITS).map_err(storage_error)
}

fn store_within<T>(
    c: &Connection,
    once: &Once<T>,
    kept: Kept,
    now: Timestamp,
    limits: &Limits,
) -> rusqlite::Result<()> {
    // An older answer under the same key has expired.
    c.prepare_cached(sql::DELETE_ONCE)?.execute([once.key])?;
    let [_, scope_bytes, total_bytes] = usage(c, &once.scope)?;
    let fits = |answer: &String| {
        let bytes = count(answer.len());
        scope_bytes.saturating_add(bytes) <= limits.scope_bytes
            && total_bytes.saturating_add(bytes) <= limits.total_bytes
    };
    let values = params![
        once.key,
        once.scope,
        once.request,
        kept.status,
        kept.answer.filter(fits).or(kept.reference),
        now.plus(LIFETIME).millis()
    ];
    c.prepare_cached(sql::INSERT_ONCE)?
        .execute(values)
        .map(drop)
}

/// Deletes some answers that have expired; how many.
pub(super) fn purge(c: &Connection, now: Timestamp) -> Result<usize, StoreError> {
    let mut delete = c.prepare_cached(sql::PURGE_ONCE).map_err(storage_error)?;
    delete
        .execute(params![now.millis(), count(PURGED_AT_ONCE)])
        .map_err(storage_error)
}

#[cfg(test)]
mod tests;
