//! Helpers of all statements: running them, SQLite's errors, and how the types of the model are stored.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row};

use super::OpenError;
use crate::auth::{KeyHash, Scopes};
use crate::model::{Credits, HashrateUnit, ParseError, Period, Timestamp, Wallet};
use crate::store::{Estimated, StoreError};

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
pub(super) fn value<T: FromSql>(row: &Row<'_>) -> rusqlite::Result<T> {
    row.get(0)
}

/// The two values of a row.
pub(super) fn pair<A: FromSql, B: FromSql>(row: &Row<'_>) -> rusqlite::Result<(A, B)> {
    Ok((row.get(0)?, row.get(1)?))
}

/// A count or a limit as an SQLite integer.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A list of names, as a JSON array.
pub(super) struct Names(pub(super) Vec<String>);

/// Stores a type of the model as a value of SQLite. One that the program would not have written is damage.
macro_rules! stored_as {
    ($type:ty, |$this:ident| $write:expr, |$value:ident| $read:expr) => {
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                let $this = self;
                Ok(ToSqlOutput::from($write))
            }
        }

        impl FromSql for $type {
            fn column_result($value: ValueRef<'_>) -> FromSqlResult<Self> {
                $read.map_err(|error: ParseError| FromSqlError::Other(error.into()))
            }
        }
    };
}

stored_as!(Wallet, |wallet| wallet.as_str(), |value| Self::parse(
    value.as_str()?
));
stored_as!(Credits, |amount| amount.micro(), |value| Ok(
    Self::from_micro(value.as_i64()?)
));
stored_as!(Timestamp, |time| time.millis(), |value| Ok(
    Self::from_millis(value.as_i64()?)
));
stored_as!(KeyHash, |hash| hash.as_bytes().as_slice(), |value| Ok(
    Self::from_bytes(FromSql::column_result(value)?)
));
stored_as!(Scopes, |scopes| scopes.to_string(), |value| Self::parse(
    value.as_str()?.split(',')
));
stored_as!(Period, |period| period.as_str(), |value| Self::parse(
    value.as_str()?
));
stored_as!(
    Names,
    |names| serde_json::Value::from(names.0.as_slice()).to_string(),
    |value| serde_json::from_str(value.as_str()?)
        .map(Self)
        .map_err(|_| "a list of names".into())
);
stored_as!(HashrateUnit, |unit| *unit as i64, |value| {
    match value.as_i64()? {
        0 => Ok(Self::GradientsPerHour),
        1 => Ok(Self::HashesPerSecond),
        _ => Err("a unit".into()),
    }
});
stored_as!(Estimated, |cause| *cause as i64, |value| {
    match value.as_i64()? {
        0 => Ok(Self::Cut),
        1 => Ok(Self::ClientLeft),
        2 => Ok(Self::NoUsage),
        _ => Err("a cause of an estimate".into()),
    }
});
