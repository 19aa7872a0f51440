//! What every statement of ours meets: SQLite's errors, and the values in its rows.

use rusqlite::{ErrorCode, Row};

use crate::model::{Credits, HashrateUnit, Timestamp, Wallet};
use crate::store::StoreError;

/// Sorts SQLite's errors: what the machine or another program does to the file is a fault of the storage; the rest is our
/// mistake.
pub(super) fn storage_error(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(text),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::PermissionDenied,
        ) => StoreError::Unavailable(text),
        None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
            StoreError::Damaged(text)
        }
        _ => StoreError::Internal(text),
    }
}

/// A value in the file that is not what we would have written there.
pub(super) fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
}

/// A count or a limit as SQLite takes it.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn wallet_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Wallet> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|_| unreadable(column, "a wallet"))?;
    Wallet::parse(text).map_err(|what| unreadable(column, what))
}

pub(super) fn credits_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Credits> {
    row.get(column).map(Credits::from_micro)
}

pub(super) fn time_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

pub(super) fn maybe_time_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(Timestamp::from_millis))
}

/// A unit as the file has it.
pub(super) const fn code(unit: HashrateUnit) -> i64 {
    match unit {
        HashrateUnit::GradientsPerHour => 0,
        HashrateUnit::HashesPerSecond => 1,
    }
}

pub(super) fn unit_at(row: &Row<'_>, column: usize) -> rusqlite::Result<HashrateUnit> {
    match row.get(column)? {
        0 => Ok(HashrateUnit::GradientsPerHour),
        1 => Ok(HashrateUnit::HashesPerSecond),
        _ => Err(unreadable(column, "a unit")),
    }
}
