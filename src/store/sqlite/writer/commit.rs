//! One transaction of the writer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};

use super::super::row::execute;
use super::health::StorageHealth;
use super::job::{Failure, Work, Written};
use crate::store::{Result, StoreError};

/// Runs a group in one transaction. An error is the whole group's; a job's own failure is only its own. A job that is
/// alone needs no savepoint, for which SQLite would copy every page that it changes.
pub(super) fn commit(
    c: &Connection,
    works: Vec<Work>,
    health: &StorageHealth,
) -> Result<Vec<Result<Written>>, Failure> {
    let alone = works.len() == 1;
    // Rolled back if it is dropped.
    let transaction = Transaction::new_unchecked(c, TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(works.len());
    for work in works {
        if !alone {
            execute(c, "SAVEPOINT job", [])?;
        }
        let panicked = |_| Err(StoreError::Internal("a write panicked".to_owned()));
        let outcome = catch_unwind(AssertUnwindSafe(|| work(c))).unwrap_or_else(panicked);
        // A full disk or an I/O error may have rolled back everything, earlier jobs included.
        if c.is_autocommit() {
            let rolled_back = "the transaction was rolled back".to_owned();
            let error = outcome.err();
            return Err(error.unwrap_or(StoreError::Unavailable(rolled_back)).into());
        }
        match (&outcome, alone) {
            (Ok(_), true) => {}
            (Err(_), true) => return Ok(vec![outcome]),
            (Ok(_), false) => drop(execute(c, "RELEASE job", [])?),
            (Err(_), false) => c.execute_batch("ROLLBACK TO job; RELEASE job")?,
        }
        outcomes.push(outcome);
    }
    match health.commit(transaction) {
        Ok(()) => Ok(outcomes),
        Err(error) if is_log_incomplete(&error) => Err(error.into()),
        Err(error) => Err(Failure::Unknown(error.into(), outcomes)),
    }
}

/// Whether a COMMIT failed as the log could not be written: the frame that completes a transaction is the last that is
/// written, and one that is written in part has a wrong checksum. After any other error it may be there.
fn is_log_incomplete(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_FULL | ffi::SQLITE_IOERR_WRITE))
}
