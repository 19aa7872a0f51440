//! Helpers of all statements: running them, SQLite's errors, and values in rows.

use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row};

use super::OpenError;
use crate::model::{Credits, HashrateUnit, Timestamp, Wallet};
use crate::store::StoreError;

/// Errors caused by the machine or another program are storage faults; all others are bugs.
impl From<r2d2::Error> for StoreError {
    fn from(error: r2d2::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(text),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(text),
            None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
                Self::Damaged(text)
            }
            _ => Self::Internal(text),
        }
    }
}

/// For a running server: a file that cannot be opened is a temporary fault.
impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Storage(error) => error,
            error => Self::Unavailable(error.to_string()),
        }
    }
}

/// Runs a statement; returns the number of changed rows.
pub(super) fn execute(c: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    c.prepare_cached(sql)?.execute(params)
}

/// The first row of an answer that always has one.
pub(super) fn one<T>(
    c: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    c.prepare_cached(sql)?.query_row(params, read)
}

/// The first row, if there is one.
pub(super) fn first<T>(
    c: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    one(c, sql, params, read).optional()
}

/// Every row.
pub(super) fn all<T>(
    c: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    c.prepare_cached(sql)?.query_map(params, read)?.collect()
}

/// The only value of a row.
pub(super) fn value<T: rusqlite::types::FromSql>(row: &Row<'_>) -> rusqlite::Result<T> {
    row.get(0)
}

/// A value that this program would not have written.
pub(super) fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
}

/// A count or a limit as an SQLite integer.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn wallet_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Wallet> {
    let text = row.get_ref(column)?.as_str();
    let text = text.map_err(|_| unreadable(column, "a wallet"))?;
    Wallet::parse(text).map_err(|what| unreadable(column, what))
}

pub(super) fn credits_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Credits> {
    row.get(column).map(Credits::from_micro)
}

pub(super) fn time_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

pub(super) fn maybe_time_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let millis: Option<i64> = row.get(column)?;
    Ok(millis.map(Timestamp::from_millis))
}

/// A unit as stored.
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
