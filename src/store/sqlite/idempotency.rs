//! Requests with an `Idempotency-Key`: the answer is stored in the transaction of its effect, so a crash leaves both or
//! neither. Writes run one after the other, so the second of two at once finds the first one's answer.
//!
//! No answer is deleted within its day to make space for another, as its request would then be done, and paid, again: a
//! request that finds no free row is refused before it is done. A body that does not fit leaves its status and a reference.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::row::{count, execute, first, one, value};
use super::sql;
use crate::model::Timestamp;
use crate::store::{IdempotentRequest, Outcome, Result, StoreError, StoredResponse};

/// How long an answer is stored.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Rows deleted in one transaction: an answer has up to 4 MiB.
const PURGE_ROWS: usize = 50;

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
pub(super) fn run<T>(
    c: &Connection,
    request: Option<IdempotentRequest<T>>,
    now: Timestamp,
    effect: impl FnOnce() -> Result<T>,
) -> Result<Outcome<T>> {
    let Some(request) = request else {
        return effect().map(Outcome::New);
    };
    if let Some(stored) = find(c, &request.key, &request.request, now)? {
        return Ok(Outcome::Replayed(stored));
    }
    check_rows(c, &request.scope, 1, now)?;
    let result = effect()?;
    store(c, &request, &result, now)?;
    Ok(Outcome::New(result))
}

/// The answer stored for a key, which must be to this request.
pub(super) fn find(
    c: &Connection,
    key: &[u8; 32],
    request: &[u8; 32],
    now: Timestamp,
) -> Result<Option<StoredResponse>> {
    let read = |row: &Row<'_>| {
        let text: Option<String> = row.get(2)?;
        // No JSON begins with a letter of these.
        let is_id = |text: &String| text.starts_with("led_") || text.starts_with("key_");
        let (reference, answer) = match text {
            Some(id) if is_id(&id) => (Some(id), None),
            answer => (None, answer),
        };
        let status = row.get(1)?;
        let stored = StoredResponse {
            status,
            answer,
            reference,
        };
        Ok((row.get::<_, [u8; 32]>(0)?, stored))
    };
    match first(c, sql::SELECT_ONCE, params![key, now.millis()], read)? {
        Some((other, _)) if other != *request => Err(StoreError::KeyReused),
        found => Ok(found.map(|(_, stored)| stored)),
    }
}

/// Refuses what would be more answers in a scope than it may have stored.
pub(super) fn check_rows(
    c: &Connection,
    scope: &str,
    answers: usize,
    now: Timestamp,
) -> Result<()> {
    let is_full =
        || Ok::<_, StoreError>(usage(c, scope)?[0].saturating_add(count(answers)) > LIMITS.rows);
    let purge = params![scope, now.millis(), count(PURGE_ROWS)];
    // What has expired waits up to a minute for the purge of all.
    if !is_full()? || (execute(c, sql::PURGE_ONCE_OF_SCOPE, purge)? > 0 && !is_full()?) {
        return Ok(());
    }
    let oldest: Option<i64> = first(c, sql::SELECT_OLDEST_ONCE, [scope], value)?;
    let wait = oldest
        .unwrap_or_default()
        .saturating_sub(now.millis())
        .max(0);
    // A clock that was ahead left moments far away; nothing asks a client to wait for longer than a day.
    let retry_after = Duration::from_millis(wait.unsigned_abs()).min(LIFETIME);
    Err(StoreError::IdempotencyFull { retry_after })
}

/// The rows and bytes of a scope, and the bytes of all.
fn usage(c: &Connection, scope: &str) -> rusqlite::Result<[i64; 3]> {
    one(c, sql::SELECT_IDEMPOTENCY_USAGE, [scope], |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?])
    })
}

/// Stores the answer to a request that was done.
pub(super) fn store<T>(
    c: &Connection,
    request: &IdempotentRequest<T>,
    result: &T,
    now: Timestamp,
) -> Result<()> {
    store_within(c, request, (request.answer)(result), now, &LIMITS)
}

fn store_within<T>(
    c: &Connection,
    request: &IdempotentRequest<T>,
    stored: StoredResponse,
    now: Timestamp,
    limits: &Limits,
) -> Result<()> {
    // An older answer under the same key has expired.
    execute(c, sql::DELETE_ONCE, [request.key])?;
    let [_, scope_bytes, total_bytes] = usage(c, &request.scope)?;
    let fits = |answer: &String| {
        let bytes = count(answer.len());
        scope_bytes + bytes <= limits.scope_bytes && total_bytes + bytes <= limits.total_bytes
    };
    let values = params![
        request.key,
        request.scope,
        request.request,
        stored.status,
        stored.answer.filter(fits).or(stored.reference),
        now.plus(LIFETIME).millis()
    ];
    execute(c, sql::INSERT_ONCE, values)?;
    Ok(())
}

/// Deletes some expired answers; how many.
pub(super) fn purge(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    execute(c, sql::PURGE_ONCE, params![now.millis(), count(PURGE_ROWS)])
}

#[cfg(test)]
mod tests;
