//! Copies of the whole database, each a file that stands on its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::open::{self, OpenError};
use super::{accounts, sql};
use crate::store::{InstanceLock, LedgerReport};

/// Copies `database`, as it is at one moment, to the new file `to`; verified before it gets its name. Others may read and
/// write the database meanwhile: what they commit after the copy began is not in it, and nobody waits.
///
/// # Errors
/// Where `database` cannot be read or does not add up, `to` is there already, or the file system refuses.
pub fn back_up(database: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    if !database.exists() {
        return Err(OpenError::Missing(database.to_owned()));
    }
    if to.exists() {
        return Err(OpenError::Io(
            to.to_owned(),
            ErrorKind::AlreadyExists.into(),
        ));
    }
    let part = to.with_added_extension("part");
    let report = snapshot(database, &part)?;
    put(&part, to)?;
    Ok(report)
}

/// Checks a copy: every page, and every wallet's ledger.
///
/// # Errors
/// Where it is no database of ours, of a newer version, or cannot be read. What does not add up is in the report.
pub fn verify_backup(file: &Path) -> Result<LedgerReport, OpenError> {
    let connection = open::reading(file)?;
    open::version(&connection, file)?;
    let damage: String = connection.query_row(sql::INTEGRITY, [], |row| row.get(0))?;
    let mut report = accounts::verify(&connection)?;
    if damage != "ok" {
        report.mistakes.insert(0, damage);
    }
    Ok(report)
}

/// Puts a verified copy in the place of `database`, which no server may have; returns where the old one is kept, if there
/// was one.
///
/// # Errors
/// Where the copy does not verify, a server has the database, or the file system refuses; then nothing has changed.
pub fn restore(backup: &Path, database: &Path, kept: &str) -> Result<Option<PathBuf>, OpenError> {
    if !backup.exists() {
        return Err(OpenError::Missing(backup.to_owned()));
    }
    let _lock = InstanceLock::acquire(database).map_err(OpenError::Locked)?;
    // Not the file alone: what a crashed server committed may stand in a log beside it.
    let part = database.with_added_extension("restoring");
    snapshot(backup, &part)?;
    let mut old = None;
    if database.exists() {
        // Opened and closed, what its log holds is in the file. Where that fails, the log goes with it.
        drop(open::writing(database, false));
        let aside = database.with_added_extension(kept);
        // Under two names for a moment, so that there is always a database here.
        std::fs::hard_link(database, &aside)
            .map_err(|error| OpenError::Io(aside.clone(), error))?;
        for log in ["-wal", "-shm"] {
            let from = log_of(database, log);
            match std::fs::rename(&from, log_of(&aside, log)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(OpenError::Io(from, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        old = Some(aside);
    }
    put(&part, database)?;
    Ok(old)
}

/// Makes `to` a copy of `from` without a mistake, or nothing.
fn snapshot(from: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    let checked = copy(from, to).and_then(|()| verify_backup(to));
    let whole = checked.and_then(|report| match report.mistakes.first() {
        None => Ok(report),
        Some(mistake) => Err(OpenError::Damaged(from.to_owned(), mistake.clone())),
    });
    whole.inspect_err(|_| drop(std::fs::remove_file(to)))
}

fn copy(database: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error: Error| OpenError::Io(to.to_owned(), error);
    let name = to
        .to_str()
        .ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
    // Left by one that was cut short.
    let _ = std::fs::remove_file(to);
    // Made here and not by SQLite, so that nobody else can read it for a moment.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(to).map_err(failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    open::version(&connection, database)?;
    connection.execute(sql::VACUUM_INTO, [name])?;
    Ok(())
}

/// Gives a whole file its name, on the disk: a crash leaves it under the one or the other.
fn put(part: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Io(to.to_owned(), error);
    File::open(part)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(part, to).map_err(failed)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

fn log_of(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}
