//! Backups: verified copies of the whole database, each a single file. This module makes, lists, prunes, verifies and
//! restores them.

mod of_store;

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::StepResult;

use super::connections::{self, OpenError};
use super::read_only::ReadOnly;
use super::{audit, check, identity, read_only, sql, verify};
use crate::model::Timestamp;
use crate::store::lock::with_suffix;
use crate::store::{Actor, Backup, InstanceLock, LedgerReport, folder_of, real_path};

/// Copies a snapshot of `database` to the new file `to`, and verifies it before it gets that name. Others may read and
/// write the database meanwhile without waiting; what they commit after the start is not in the copy. Blocks until it is
/// done; a server uses [`Backups::back_up`](crate::store::Backups::back_up).
///
/// # Errors
/// If `database` cannot be read or is inconsistent, if `to` exists, or on an I/O error.
pub fn back_up(database: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    Ok(copy(database, to.to_owned())?.finish()?.ledger)
}

/// Copies a snapshot of `database`, to be verified and named `to` by [`NewFile::finish`].
pub(super) fn copy(database: &Path, to: PathBuf) -> Result<NewFile, OpenError> {
    let copy = NewFile::create(to)?;
    copy.fill(&*ReadOnly::open(database)?)?;
    Ok(copy)
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

/// The backups of `database` in `folder`, or beside it, the newest last; only files named by this program, and not those of
/// another database that has a file of the same name and shares the folder.
///
/// # Errors
/// Where the folder cannot be read.
pub fn backups(
    database: &Path,
    folder: Option<&Path>,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    let mut files = stamped_files(database, folder, |extension| extension == EXTENSION)?;
    // Of a database that cannot be read all files of its name are shown, as one of them is to replace it.
    if let Ok(own) = ReadOnly::open(database).and_then(|c| Ok(identity::read(&c)?)) {
        files.retain(|(_, file)| {
            let copy = read_only::open_without_log(file).and_then(|c| identity::read(&c));
            copy.map_or(true, |copy| copy.database == own.database)
        });
    }
    Ok(files)
}

/// The files named after `database`, a time and an extension, sorted by time.
fn stamped_files(
    database: &Path,
    folder: Option<&Path>,
    has_extension: impl Fn(&str) -> bool,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    let database = real_path(database);
    let folder = folder.unwrap_or(folder_of(&database));
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let made_at = |file: &Path| {
        let text = file.file_name()?.to_str()?;
        let named = text.strip_prefix(&*name)?.strip_prefix('.')?;
        // The stamp has a dot itself.
        let (stamp, extension) = named.split_at_checked(named.find("Z.")? + 1)?;
        let stamp = Timestamp::parse_compact(stamp)?;
        has_extension(&extension[1..]).then_some(stamp)
    };
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<std::io::Result<Vec<_>>>()?.into_iter();
    let mut stamped: Vec<_> = files
        .filter_map(|file| Some((made_at(&file)?, file)))
        .collect();
    stamped.sort();
    Ok(stamped)
}

/// Deletes all backups in the folder of `made`, which was made now and stays whatever its date, but it and the newest others,
/// `keep` in all, and unfinished ones that crashes left. Those dated after `now` count as the oldest: otherwise they would
/// remain, and each new backup would be deleted.
///
/// # Errors
/// Where the folder cannot be read, or a file cannot be deleted.
pub fn prune_backups(
    database: &Path,
    made: &Path,
    keep: usize,
    now: Timestamp,
) -> std::io::Result<()> {
    let folder = Some(folder_of(made));
    let mut others = backups(database, folder)?;
    others.retain(|(_, file)| file.file_name() != made.file_name());
    others.sort_by_key(|(made_at, _)| (*made_at <= now, *made_at));
    let unfinished = stamped_files(database, folder, |extension| extension == "backup.part")?;
    // After an hour a copy is not being written any more.
    let is_abandoned = |begun: Timestamp| begun.plus(Duration::from_secs(3600)) < now;
    let abandoned = unfinished
        .into_iter()
        .filter(|(begun, _)| is_abandoned(*begun));
    let old = others.into_iter().rev().skip(keep.saturating_sub(1));
    for (_, file) in old.chain(abandoned) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

/// How long the files of a database stay that a restore replaced or a migration copied; the newest of them stay in any case.
const REPLACED_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Deletes the files of databases that were replaced long ago.
pub(super) fn delete_replaced(database: &Path, now: Timestamp) -> std::io::Result<()> {
    let is_replaced = |extension: &str| {
        let of_restore = extension.strip_prefix("replaced");
        of_restore.is_some_and(|suffix| SUFFIXES.contains(&suffix))
            || extension.starts_with("version-")
    };
    let files = stamped_files(database, None, is_replaced)?;
    let newest = files.last().map(|(at, _)| *at);
    for (at, file) in files {
        if Some(at) != newest && at.plus(REPLACED_KEPT) < now {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// Checks a backup: every page, and every wallet's ledger.
///
/// # Errors
/// If the file is not an r3mes-edge database, has another version or cannot be read. Errors in the ledger are in the report.
pub fn verify_backup(file: &Path) -> Result<LedgerReport, OpenError> {
    verify(&*ReadOnly::open(file)?)
}

fn verify(c: &Connection) -> Result<LedgerReport, OpenError> {
    let mut report = verify::verify(c)?;
    report.mistakes.splice(..0, check::damage(c)?);
    Ok(report)
}

/// Replaces `database`, which no server may use, by a verified copy of a backup; returns the new path of the old database,
/// if there was one: its name with `.` and `suffix` added, its `-wal`, `-shm` and `-journal` beside it. Remaining files of
/// a missing database are moved away as well. The backup is not changed; the audit trail of its copy states who restored it.
///
/// # Errors
/// If the backup does not verify, a server uses the database, or on an I/O error; then nothing is changed, unless the files
/// themselves cannot be renamed: the error names the one.
pub fn restore(
    backup: &Path,
    database: &Path,
    suffix: &str,
    actor: &Actor,
) -> Result<Option<PathBuf>, OpenError> {
    let database = real_path(database);
    if !backup.exists() {
        return Err(OpenError::Missing(backup.to_owned()));
    }
    let mut lock = InstanceLock::acquire(&database)?;
    let old = database.with_added_extension(suffix);
    let copy = NewFile::new(with_suffix(&database, connections::RESTORING), database)?;
    // With its log, as that may hold commits of a crashed server.
    copy.fill(&*ReadOnly::open(backup)?)?;
    copy.verify()?;
    copy.record_restore(backup, actor)?;
    if rustix::process::geteuid().is_root() {
        // For the server's user.
        std::fs::metadata(folder_of(&copy.part))
            .and_then(|folder| lchown(&copy.part, Some(folder.uid()), Some(folder.gid())))
            .map_err(OpenError::io(&copy.part))?;
    }
    // Before the rename, so that no server can lock it first.
    lock.add(&copy.part)?;
    let moved = move_away(&copy.to, &old)?;
    copy.persist()?;
    Ok(moved)
}

/// The file of a database and those that SQLite has beside it.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Deletes the files of a database, as far as there are any.
pub(super) fn delete_database(database: &Path) {
    for suffix in SUFFIXES {
        let _ = std::fs::remove_file(with_suffix(database, suffix));
    }
}

/// Renames the existing files of a database; returns the new path of the first. The database goes before its logs: a crash
/// in between must not leave it without them.
fn move_away(database: &Path, new: &Path) -> Result<Option<PathBuf>, OpenError> {
    let mut moved = None;
    for suffix in SUFFIXES {
        let to = with_suffix(new, suffix);
        match std::fs::rename(with_suffix(database, suffix), &to) {
            Ok(()) => moved = moved.or(Some(to)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::Io(to, error)),
        }
    }
    Ok(moved)
}

/// A database file that is being made, under a name that marks it as incomplete; deleted if it is dropped before it is
/// complete.
pub(super) struct NewFile {
    pub(super) part: PathBuf,
    to: PathBuf,
}

impl NewFile {
    /// Creates the empty file of a copy that is to be named `to`.
    pub(super) fn create(to: PathBuf) -> Result<Self, OpenError> {
        if to.exists() {
            return Err(OpenError::Io(to, ErrorKind::AlreadyExists.into()));
        }
        Self::new(to.with_added_extension("part"), to)
    }

    /// The same where another name marks it, and where `to` may exist.
    pub(super) fn new(part: PathBuf, to: PathBuf) -> Result<Self, OpenError> {
        // Left by an interrupted copy.
        delete_database(&part);
        connections::create_empty(&part).map_err(OpenError::io(&part))?;
        Ok(Self { part, to })
    }

    /// Copies the database of a connection within one read transaction: writes go on meanwhile, and their log grows.
    pub(super) fn fill(&self, from: &Connection) -> Result<(), OpenError> {
        // Pages between two syncs of the copy: one sync of everything at the end would delay commits.
        const STEP: i32 = 4096;
        let file = File::open(&self.part).map_err(OpenError::io(&self.part))?;
        let from = from.unchecked_transaction()?;
        from.query_row(sql::IS_EMPTY, [], |_| Ok(()))?;
        let mut to = Connection::open(&self.part)?;
        // An incomplete copy is discarded: it needs no journal.
        to.pragma_update(None, "journal_mode", "off")?;
        to.pragma_update(None, "synchronous", "off")?;
        let copy = rusqlite::backup::Backup::new(&from, &mut to)?;
        while copy.step(STEP)? != StepResult::Done {
            file.sync_data().map_err(OpenError::io(&self.part))?;
        }
        drop(copy);
        // Nothing has it open, and no log is its own.
        identity::set_open_at(&to, None)?;
        to.close().map_err(|(_, error)| error.into())
    }

    /// Writes it to the disk.
    pub(super) fn sync(&self) -> Result<(), OpenError> {
        let synced = File::open(&self.part).and_then(|file| file.sync_all());
        synced.map_err(OpenError::io(&self.part))
    }

    /// Verifies the copy and names it.
    pub(super) fn finish(self) -> Result<Backup, OpenError> {
        let ledger = self.verify()?;
        self.persist()?;
        let path = std::path::absolute(&self.to).unwrap_or(self.to.clone());
        let file = path.file_name().unwrap_or_default();
        Ok(Backup {
            file: file.to_string_lossy().into_owned(),
            path: path.to_string_lossy().into_owned(),
            bytes: std::fs::metadata(&path).map_or(0, |file| file.len()),
            ledger,
        })
    }

    /// Verifies and syncs the copy.
    fn verify(&self) -> Result<LedgerReport, OpenError> {
        self.sync()?;
        let copy = ReadOnly::open_any(&self.part)?;
        let report = verify(&copy)?;
        match report.mistakes.first() {
            None => Ok(report),
            Some(error) => Err(OpenError::Damaged(self.part.clone(), error.clone())),
        }
    }

    /// Adds the restore to the audit trail of the copy, so that no database takes another's place without it.
    fn record_restore(&self, backup: &Path, actor: &Actor) -> Result<(), OpenError> {
        let c = connections::connect(&self.part)?;
        c.pragma_update(None, "synchronous", "full")?;
        let backup = backup.file_name().unwrap_or_default().to_string_lossy();
        audit::record(&c, actor, "backup.restore", &backup, None, None)?;
        // Closed, it is complete without its log; an error here would be lost in a drop.
        c.close().map_err(|(_, error)| error.into())
    }

    /// Renames the complete file; after a crash it has either name.
    pub(super) fn persist(&self) -> Result<(), OpenError> {
        let renamed = std::fs::rename(&self.part, &self.to)
            .and_then(|()| File::open(folder_of(&self.to)))
            .and_then(|folder| folder.sync_all());
        renamed.map_err(OpenError::io(&self.to))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Once it is complete there are none of that name.
        delete_database(&self.part);
    }
}
