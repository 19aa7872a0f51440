//! Opens a database file for writing: under its lock, with the settings that make a commit durable.
//! A file of another program or another version is refused before anything in it or beside it changes.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::Access;

use super::backup::{self, NewFile};
use super::read_only::ReadOnly;
use super::{identity, migrate, sql};
use crate::store::lock::with_suffix;
use crate::store::{InstanceLock, LockError, StoreError};

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the lock, or the lock file cannot be used.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// There is no such file.
    #[error("there is no database at {}", .0.display())]
    Missing(PathBuf),
    /// The file is something else.
    #[error("{} is not a database of r3mes-edge; if it was one, its first page is damaged: restore the newest good backup", .0.display())]
    Foreign(PathBuf),
    /// The file is not a database of an R3MES backend; why.
    #[error("{} is not a database of an R3MES backend: {}", .0.display(), .1)]
    NotR3mes(PathBuf, &'static str),
    /// A development version of this program wrote it, with this schema version.
    #[error("{} was made by development version {}; nothing was changed; start with an empty database", .0.display(), .1)]
    Older(PathBuf, i64),
    /// A newer version of this program wrote it, with this schema version.
    #[error("{} has schema version {}, which is newer than this program ({SCHEMA_VERSION}); nothing was changed; use the program that wrote it", .0.display(), .1)]
    Newer(PathBuf, i64),
    /// It is damaged; the first error in its pages or its ledger.
    #[error("{} is damaged: {}", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// There is no database, but this file of one, so none is created.
    #[error("{} belongs to a database whose file is missing or empty, so no new one is made: put that file back beside it, or run r3mes-edge restore FILE, which moves it out of the way", .0.display())]
    Leftover(PathBuf),
    /// The file (first) would be damaged by the log (second) of another state or another database.
    #[error("{file} would be damaged by {log}, which belongs to another state of it or to another database; nothing was changed: put the file that {log} belongs to back, or run r3mes-edge restore FILE with the copy to serve, which moves {log} out of the way", file = .0.display(), log = .1.display())]
    OtherLog(PathBuf, PathBuf),
    /// The file (first) comes from where it is, or was, in use (second), without its log.
    #[error("{file} was copied or moved from {place}, where it was in use, without its log, so that the last commits are missing; nothing was changed: put {place}-wal beside it as {file}-wal; if that is lost for good, or another program made the copy as a whole, run r3mes-edge restore {file}", file = .0.display(), place = .1.display())]
    LogMissing(PathBuf, PathBuf),
    /// The file system refused.
    #[error("cannot use {}: {}", .0.display(), .1)]
    Io(PathBuf, std::io::Error),
    /// SQLite refused.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

impl OpenError {
    /// Adds the file to an I/O error.
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Io(path.to_owned(), error)
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// "R3ME", the application id in the file's header, by which `file` and this program recognise it.
const APPLICATION_ID: i64 = 0x5233_4D45;
/// The version of the schema that this program writes, in the file's `PRAGMA user_version`.
pub const SCHEMA_VERSION: i64 = 9;

/// The schema of a new file.
pub(super) const SCHEMA: &str = include_str!("../../../schema.sql");

/// How long a connection waits for another program's lock when it is opened.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements cached per connection; there are about forty.
pub(super) const CACHED_STATEMENTS: usize = 64;

/// The suffix of a restored copy before it replaces the database.
pub(super) const RESTORING: &str = ".restoring";
/// The suffix of a new database before it is complete.
const CREATING: &str = ".creating";

/// Locks the database at a real path, which is created if it is missing and `create` is set.
pub(super) fn lock(path: &Path, create: bool) -> Result<InstanceLock, OpenError> {
    // By reading alone: a writable connection would create a log beside a file of another version, or checkpoint one that a
    // crash left. Any other error is reported when the file is opened.
    match ReadOnly::open(path) {
        Err(error @ (OpenError::Older(..) | OpenError::Newer(..))) => return Err(error),
        Err(error @ OpenError::Missing(_)) if !create => return Err(error),
        _ => {}
    }
    let mut lock = InstanceLock::acquire(path)?;
    let size = |suffix| std::fs::metadata(with_suffix(path, suffix)).map_or(0, |file| file.len());
    for suffix in ["-wal", "-shm", "-journal"] {
        let beside = with_suffix(path, suffix);
        check_usable(&beside, Access::READ_OK | Access::WRITE_OK)?;
    }
    if size("") > 0 {
        // A database of this program has one only where another program changed its mode.
        if size("-journal") > 0 && lock.is_in_wal_mode() {
            let journal = with_suffix(path, "-journal");
            return Err(OpenError::OtherLog(path.to_owned(), journal));
        }
        return Ok(lock);
    }
    // SQLite would start over and delete the log with all its commits.
    let leftovers = ["-wal", "-shm", "-journal", RESTORING];
    if let Some(suffix) = leftovers.into_iter().find(|suffix| size(suffix) > 0) {
        return Err(OpenError::Leftover(with_suffix(path, suffix)));
    }
    if !create {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    create_database(path, &mut lock)?;
    Ok(lock)
}

/// Refuses a file beside a database that cannot be used, which SQLite would not name.
pub(super) fn check_usable(beside: &Path, access: Access) -> Result<(), OpenError> {
    let check = || {
        match std::fs::metadata(beside) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(about) if !about.is_file() => {
                let what = "it is not a regular file; move it away";
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            about => about?,
        };
        rustix::fs::access(beside, access).map_err(|error| {
            let what = "give it the owner and the mode of the database";
            Error::new(Error::from(error).kind(), format!("{error}: {what}"))
        })
    };
    check().map_err(OpenError::io(beside))
}

/// Creates a database in place of a missing or an empty file. It gets its name when it is complete and on the disk, so that it
/// never is in its log alone.
fn create_database(path: &Path, lock: &mut InstanceLock) -> Result<(), OpenError> {
    if let Ok([.., (_, copy)]) = backup::backups(path, None).as_deref() {
        log::warn!(
            "{} is missing or empty, and a new database is made there; to go on with the earlier one, stop and run r3mes-edge restore {}",
            path.display(),
            copy.display()
        );
    }
    let new = NewFile::new(with_suffix(path, CREATING), path.to_owned())?;
    let mut connection = connect(&new.part)?;
    // Before the first table: a file created without it cannot shrink.
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    let fresh = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    fresh.execute_batch(SCHEMA)?;
    fresh.pragma_update(None, "application_id", APPLICATION_ID)?;
    fresh.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    fresh.commit()?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.close().map_err(|(_, error)| error)?;
    new.sync()?;
    // Before it has its name, so that no other process can lock it first.
    lock.add(&new.part)?;
    new.persist()
}

/// Creates an empty file that only its owner can read; one created by SQLite would be readable by others for a moment.
pub(super) fn create_empty(file: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)
}

/// Opens a file for writing without reading anything of it.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // SQLite falls back to a read-only connection if the file is not writable.
    if connection.is_readonly("main")? {
        let error = ErrorKind::ReadOnlyFilesystem;
        return Err(OpenError::Io(path.to_owned(), error.into()));
    }
    Ok(connection)
}

/// Checks that a file and its log belong together and are of this program, brings an older file up to its schema, and
/// configures the connection to write.
pub(super) fn init_schema(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    // A log that is not the file's own must not be written into it by closing the connection.
    let no_checkpoint = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(no_checkpoint, true)?;
    identity::check(connection, path)?;
    check_version(connection, path)?;
    connection.set_db_config(no_checkpoint, false)?;
    migrate::migrate(connection, path, migrate::STEPS, SCHEMA_VERSION)?;
    // On this connection, before the pool opens: set by several at once it fails with "locked".
    connection.pragma_update(None, "journal_mode", "wal")?;
    // An acknowledged change is on the disk. NORMAL would lose the last commits in a power cut.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    configure_statements(connection)?;
    if let Err(error) = identity::set_open_at(connection, Some(path)) {
        // As on a full disk: it only serves to find a fault of the future.
        log::warn!("{} could not be marked as open: {error}", path.display());
    }
    connection.execute_batch(sql::COUNT_IDEMPOTENCY)?;
    Ok(())
}

/// Refuses a file of another program or of a version that cannot be migrated; returns the version.
pub(super) fn check_version(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    match stamps(connection, path)? {
        (APPLICATION_ID, found) if found > SCHEMA_VERSION => {
            Err(OpenError::Newer(path.to_owned(), found))
        }
        (APPLICATION_ID, found) if found < migrate::oldest() => {
            Err(OpenError::Older(path.to_owned(), found))
        }
        (APPLICATION_ID, found) => Ok(found),
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

/// The application id and the schema version in a file's header.
fn stamps(connection: &Connection, path: &Path) -> Result<(i64, i64), OpenError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let application =
        number("application_id").map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
            _ => error.into(),
        })?;
    Ok((application, number("user_version")?))
}

/// Settings of every connection that runs the statements of `sql`.
pub(super) fn configure_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // Otherwise a statement whose plan may depend on its parameters, as with a partial index, is prepared again each time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(())
}

#[cfg(test)]
mod tests;
