//! Requests with an `Idempotency-Key`: the response is stored in the transaction of its effect, so a crash leaves both or
//! neither. Writes are serialized, so the second of two concurrent requests finds the response of the first.
//!
//! No response is deleted within its day to make space for another, as a retry would then be executed, and paid, again: a
//! request without a free row is refused before its execution. If a body does not fit, its status and reference are stored.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::row::{count, execute, first, one, value};
use super::sql;
use crate::model::{Sample, Timestamp};
use crate::store::{IdempotentRequest, Outcome, Result, StoreError, StoredResponse};

/// How long a response is stored.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Rows deleted per transaction: a response has up to 16 MiB, and those of a scope 64 together.
const PURGE_ROWS: usize = 50;

/// Stored responses of a scope.
const MAX_ROWS: i64 = 20_000;
/// Bytes of the stored bodies of a scope, and of all.
const MAX_SCOPE_BYTES: i64 = 64 << 20;
const MAX_BYTES: i64 = 1 << 30;

/// Runs `effect`, unless it ran for this key before.
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

/// The response stored for a key, which must belong to this request.
pub(super) fn find(
    c: &Connection,
    key: &[u8; 32],
    request: &[u8; 32],
    now: Timestamp,
) -> Result<Option<StoredResponse>> {
    let read = |row: &Row<'_>| {
        let text: Option<String> = row.get(2)?;
        // No JSON starts with these letters.
        let is_id = |text: &String| text.starts_with("led_") || text.starts_with("key_");
        let stored = StoredResponse {
            status: row.get(1)?,
            reference: text.clone().filter(is_id),
            answer: text.filter(|text| !is_id(text)),
        };
        Ok((row.get::<_, [u8; 32]>(0)?, stored))
    };
    match first(c, sql::SELECT_RESPONSE, params![key, now], read)? {
        Some((other, _)) if other != *request => Err(StoreError::KeyReused),
        stored => Ok(stored.map(|(_, stored)| stored)),
    }
}

/// Refuses a request that would exceed the limit of stored responses of its scope.
pub(super) fn check_rows(
    c: &Connection,
    scope: &str,
    answers: usize,
    now: Timestamp,
) -> Result<()> {
    let is_full = || -> Result<bool> {
        let [rows, ..] = usage(c, scope)?;
        Ok(rows.saturating_add(count(answers)) > MAX_ROWS)
    };
    let purge = params![scope, now, count(PURGE_ROWS)];
    // Expired rows may wait a minute for the general purge.
    if !is_full()? || (execute(c, sql::PURGE_RESPONSES_OF_SCOPE, purge)? > 0 && !is_full()?) {
        return Ok(());
    }
    let oldest: Option<i64> = first(c, sql::SELECT_OLDEST_EXPIRY, [scope], value)?;
    let wait = oldest.map_or(0, |at| at.saturating_sub(now.millis()).max(0));
    // A clock that was ahead can leave times far in the future; a client never has to wait longer than a day.
    let retry_after = Duration::from_millis(wait.unsigned_abs()).min(LIFETIME);
    Err(StoreError::IdempotencyFull { retry_after })
}

/// The rows and bytes of a scope, and the bytes of all.
fn usage(c: &Connection, scope: &str) -> rusqlite::Result<[i64; 3]> {
    one(c, sql::SELECT_IDEMPOTENCY_USAGE, [scope], |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?])
    })
}

/// Stores the response to an executed request.
pub(super) fn store<T>(
    c: &Connection,
    request: &IdempotentRequest<T>,
    result: &T,
    now: Timestamp,
) -> Result<()> {
    // An older response under the same key has expired.
    execute(c, sql::DELETE_RESPONSE, [request.key])?;
    let [_, scope_bytes, total_bytes] = usage(c, &request.scope)?;
    let fits = |answer: &String| {
        let bytes = count(answer.len());
        scope_bytes + bytes <= MAX_SCOPE_BYTES && total_bytes + bytes <= MAX_BYTES
    };
    let stored = (request.answer)(result);
    let values = params![
        request.key,
        request.scope,
        request.request,
        stored.status,
        stored.answer.filter(fits).or(stored.reference),
        now.plus(LIFETIME)
    ];
    execute(c, sql::INSERT_RESPONSE, values)?;
    Ok(())
}

/// Lets some responses that a clock stored that was ahead expire in a day; returns how many.
pub(super) fn shorten(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    let longest = now.plus(LIFETIME + Sample::MAX_AHEAD);
    let values = params![longest, now.plus(LIFETIME), count(PURGE_ROWS)];
    execute(c, sql::SHORTEN_RESPONSES, values)
}

/// Deletes some expired responses; returns how many.
pub(super) fn purge(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    execute(c, sql::PURGE_RESPONSES, params![now, count(PURGE_ROWS)])
}

#[cfg(test)]
mod tests;
