//! The audit trail. The functions that make an administrative change call [`record`] in its transaction; triggers of the
//! schema refuse to change an entry, or to delete one within two years.

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute};
use super::sql;
use crate::model::{Credits, Timestamp};
use crate::store::{Actor, AuditEntry};

/// Entries deleted per transaction.
const STEP_DELETED: i64 = 500;

/// Adds an entry.
pub(super) fn record(
    c: &Connection,
    actor: &Actor,
    action: &str,
    target: &str,
    amount: Option<Credits>,
    reason: Option<&str>,
) -> rusqlite::Result<()> {
    let address = actor.address.map(|address| address.to_string());
    let values = params![actor.at, actor.id, address, action, target, amount, reason];
    execute(c, sql::INSERT_AUDIT, values)?;
    Ok(())
}

/// The entries older than the entry `before`, newest first.
pub(super) fn list(
    c: &Connection,
    before: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Vec<AuditEntry>> {
    let page = params![before.unwrap_or(i64::MAX), count(limit)];
    all(c, sql::SELECT_AUDIT, page, entry)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get(0)?,
        created_at: row.get(1)?,
        actor: row.get(2)?,
        address: row.get(3)?,
        action: row.get(4)?,
        target: row.get(5)?,
        amount: row.get(6)?,
        reason: row.get(7)?,
    })
}

/// Deletes some entries that are older than two years; returns how many.
pub(super) fn delete_expired(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    execute(c, sql::DELETE_AUDIT, params![now, STEP_DELETED])
}

#[cfg(test)]
mod tests;
