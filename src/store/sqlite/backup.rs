//! Backups: verified copies of the whole database, each a single file.
//! This module copies a file, and lists, prunes, verifies and restores backups; a server's writer makes its own copies.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::connections::{self, OpenError};
use super::{sql, stable_read, verify};
use crate::model::Timestamp;
use crate::store::lock::with_suffix;
use crate::store::{Backup, InstanceLock, LedgerReport, StoreError, real_path};

/// Copies a snapshot of `database` to the new file `to`, and verifies it before it gets that name. Others may read and
/// write the database meanwhile without waiting; what they commit after the start is not in the copy. Blocks until it is
/// done; a server uses [`Repository::back_up`](crate::Repository::back_up).
///
/// # Errors
/// If `database` cannot be read or is inconsistent, if `to` exists, or on an I/O error.
pub fn back_up(database: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    if to.exists() {
        return Err(OpenError::io(to)(ErrorKind::AlreadyExists.into()));
    }
    let part = to.with_added_extension("part");
    let report = snapshot(&real_path(database), &part)?;
    persist(&part, to)?;
    Ok(report)
}

/// The extension of a backup.
const EXTENSION: &str = "backup";

/// The path of a backup of `database` made now, in `folder` or beside it; names sort by time, and [`backups`] finds them.
#[must_use]
pub fn backup_file(database: &Path, folder: Option<&Path>, now: Timestamp) -> PathBuf {
    let name = real_path(database).with_added_extension(format!("{}.{EXTENSION}", now.compact()));
    match (folder, name.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => name,
    }
}

/// The backups of `database` in `folder`, or beside it, the newest last; only files named by this program.
///
/// # Errors
/// Where the folder cannot be read.
pub fn backups(
    database: &Path,
    folder: Option<&Path>,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    stamped_files(database, folder, EXTENSION)
}

/// The files named after `database`, a time and an extension, sorted by time.
fn stamped_files(
    database: &Path,
    folder: Option<&Path>,
    extension: &str,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    let database = real_path(database);
    let folder = folder.unwrap_or(connections::folder_of(&database));
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let made_at = |file: &Path| {
        let text = file.file_name()?.to_str()?;
        let stamp = text.strip_prefix(&*name)?.strip_prefix('.')?;
        Timestamp::parse_compact(stamp.strip_suffix(extension)?.strip_suffix('.')?)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        if let Some(made_at) = made_at(&file) {
            files.push((made_at, file));
        }
    }
    files.sort();
    Ok(files)
}

/// Deletes all backups but the newest `keep`, and unfinished ones that crashes left. Those dated
/// after `now` count as the oldest: otherwise they would remain, and each new backup would be deleted.
///
/// # Errors
/// Where the folder cannot be read, or a file cannot be deleted.
pub fn prune_backups(
    database: &Path,
    folder: Option<&Path>,
    keep: usize,
    now: Timestamp,
) -> std::io::Result<()> {
    let mut all = backups(database, folder)?;
    all.sort_by_key(|(made_at, _)| (*made_at <= now, *made_at));
    let newest = newest(&all, now);
    let unfinished = stamped_files(database, folder, "backup.part")?;
    // A copy started an hour before the newest backup is not being written any more.
    let abandoned = unfinished.into_iter().filter(|(begun, _)| {
        newest.is_some_and(|newest| begun.plus(Duration::from_secs(3600)) < newest)
    });
    for (_, old) in all.into_iter().rev().skip(keep).chain(abandoned) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// The time of the newest backup that is not in the future.
pub(super) fn newest(backups: &[(Timestamp, PathBuf)], now: Timestamp) -> Option<Timestamp> {
    let made_at = backups.iter().map(|(made_at, _)| *made_at);
    made_at.filter(|made_at| *made_at <= now).max()
}

/// Checks a backup: every page, and every wallet's ledger.
///
/// # Errors
/// If the file is not an r3mes-edge database, has another version or cannot be read. Errors in the ledger are in the report.
pub fn verify_backup(file: &Path) -> Result<LedgerReport, OpenError> {
    stable_read::read(&real_path(file), |c| {
        connections::check_version(c, file)?;
        verify(c)
    })
}

fn verify(c: &Connection) -> Result<LedgerReport, OpenError> {
    let damage: String = c.query_row(sql::INTEGRITY, [], |row| row.get(0))?;
    let mut report = verify::verify(c)?;
    if damage != "ok" {
        report.mistakes.insert(0, damage);
    }
    Ok(report)
}

/// Replaces `database`, which no server may use, by a verified copy of a backup, and verifies it again; returns the new
/// path of the old database, if there was one: its name with `.` and `suffix` added, its `-wal`, `-shm` and `-journal`
/// beside it. Remaining files of a missing database are moved away as well. The backup is not changed.
///
/// # Errors
/// If the backup does not verify, a server uses the database, or on an I/O error; then nothing is changed.
pub fn restore(backup: &Path, database: &Path, suffix: &str) -> Result<Option<PathBuf>, OpenError> {
    let (backup, database) = (&real_path(backup), &real_path(database));
    if !backup.exists() {
        return Err(OpenError::Missing(backup.to_owned()));
    }
    let mut lock = InstanceLock::acquire(database)?;
    let part = database.with_added_extension(connections::RESTORING);
    delete_database(&part);
    // Not the file alone: commits of a crashed server may be in its log.
    snapshot(backup, &part)?;
    let mut replace = || {
        give_to_folder_owner(&part, database)?;
        // Before the rename, so that no server can lock it first.
        lock.add(&part)?;
        MovedFiles::rename(database, &database.with_added_extension(suffix))
    };
    let moved = replace().inspect_err(|_| delete_database(&part))?;
    let placed = persist(&part, database).and_then(|()| verify_in_place(database));
    if let Err(error) = placed {
        delete_database(&part);
        delete_database(database);
        moved.undo();
        return Err(error);
    }
    Ok(moved.0.into_iter().next().map(|(_, to)| to))
}

/// The file of a database and those that SQLite has beside it.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Deletes the files of a database, as far as there are any.
pub(super) fn delete_database(database: &Path) {
    for suffix in SUFFIXES {
        let _ = std::fs::remove_file(with_suffix(database, suffix));
    }
}

/// The renamed files of a database: old and new paths.
struct MovedFiles(Vec<(PathBuf, PathBuf)>);

impl MovedFiles {
    /// Renames the existing files, the database before its logs: a crash in between must not leave it without them.
    fn rename(database: &Path, new: &Path) -> Result<Self, OpenError> {
        let mut moved = Self(Vec::new());
        for suffix in SUFFIXES {
            let (from, to) = (with_suffix(database, suffix), with_suffix(new, suffix));
            let renamed = match to.symlink_metadata() {
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(&from, &to),
            };
            match renamed {
                Ok(()) => moved.0.push((from, to)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    moved.undo();
                    return Err(OpenError::Io(to, error));
                }
            }
        }
        Ok(moved)
    }

    /// The logs first: the database must never be without them.
    fn undo(self) {
        for (from, to) in self.0.into_iter().rev() {
            if let Err(error) = std::fs::rename(&to, &from) {
                let (from, to) = (from.display(), to.display());
                log::error!("{to} could not be moved back to {from}: {error}");
            }
        }
    }
}

/// Verifies a database under its own name, opened as the server does, with the files beside it.
fn verify_in_place(database: &Path) -> Result<(), OpenError> {
    let connection = connections::connect(database)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    require_intact(database, verify(&connection)?).map(drop)
}

/// Changes the owner of a new database file to that of its folder, as root may restore for the server's user.
fn give_to_folder_owner(part: &Path, database: &Path) -> Result<(), OpenError> {
    let give = || {
        let folder = std::fs::metadata(connections::folder_of(database))?;
        if std::fs::metadata(part)?.uid() != folder.uid() && rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(part, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(())
    };
    give().map_err(OpenError::io(part))
}

/// Creates `to` as a verified copy of the database at a real path, or not at all.
fn snapshot(from: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    let copied = stable_read::read(from, |c| {
        connections::check_version(c, from)?;
        // The copy is written by the same connection.
        c.pragma_update(None, "query_only", false)?;
        vacuum_into(c, to)
    });
    let verified = copied.and_then(|()| verified(to));
    verified.inspect_err(|_| drop(std::fs::remove_file(to)))
}

/// Copies the database of a connection to the new file `to`, verified before it gets its name.
pub(super) fn copy_verified(c: &Connection, to: &Path) -> Result<(), OpenError> {
    let part = to.with_added_extension("part");
    let copied = vacuum_into(c, &part).and_then(|()| verified(&part));
    copied.inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    persist(&part, to)
}

fn vacuum_into(c: &Connection, to: &Path) -> Result<(), OpenError> {
    let name = to
        .to_str()
        .ok_or_else(|| OpenError::io(to)(ErrorKind::InvalidInput.into()))?;
    // Left by an interrupted copy, or by one of a file that changed meanwhile.
    let _ = std::fs::remove_file(to);
    connections::create_empty(to).map_err(OpenError::io(to))?;
    c.execute(sql::VACUUM_INTO, [name])?;
    Ok(())
}

/// Verifies a copy and returns its ledger report; an error if it is not intact.
fn verified(copy: &Path) -> Result<LedgerReport, OpenError> {
    require_intact(copy, stable_read::read(&real_path(copy), verify)?)
}

fn require_intact(file: &Path, report: LedgerReport) -> Result<LedgerReport, OpenError> {
    match report.mistakes.first() {
        None => Ok(report),
        Some(error) => Err(OpenError::Damaged(file.to_owned(), error.clone())),
    }
}

/// Syncs and renames a complete file; after a crash it has either name.
fn persist(part: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = OpenError::io(to);
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    sync(part).map_err(&failed)?;
    std::fs::rename(part, to).map_err(&failed)?;
    sync(connections::folder_of(to)).map_err(&failed)
}

/// A running backup of a server; its file is deleted if it is dropped before it is complete.
pub(super) struct PendingBackup {
    to: PathBuf,
    part: PathBuf,
}

impl PendingBackup {
    /// Creates the empty file, under a name that marks it as incomplete.
    pub(super) fn create(to: PathBuf) -> Result<Self, OpenError> {
        if to.exists() {
            let conflict = StoreError::Conflict("a backup was made just now".to_owned());
            return Err(conflict.into());
        }
        let part = to.with_added_extension("part");
        connections::create_empty(&part).map_err(OpenError::io(&part))?;
        Ok(Self { to, part })
    }

    pub(super) fn path(&self) -> &Path {
        &self.part
    }

    /// Verifies the copy and renames it.
    pub(super) fn finish(self) -> Result<Backup, OpenError> {
        let ledger = verified(&self.part)?;
        persist(&self.part, &self.to)?;
        let path = std::path::absolute(&self.to).unwrap_or(self.to.clone());
        Ok(Backup {
            file: self
                .to
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            path: path.to_string_lossy().into_owned(),
            bytes: std::fs::metadata(&self.to).map_or(0, |file| file.len()),
            ledger,
        })
    }
}

impl Drop for PendingBackup {
    fn drop(&mut self) {
        // After the rename there is no such file.
        let _ = std::fs::remove_file(&self.part);
    }
}
