//! Copies of the whole database, each a file that stands on its own.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{Advice, fadvise};

use super::open::{self, OpenError};
use super::{sql, stable_read, unavailable, verify};
use crate::model::Timestamp;
use crate::store::lock::with_suffix;
use crate::store::{Backup, InstanceLock, LedgerReport, StoreError, real_path};

/// Copies `database`, as it is at one moment, to the new file `to`; verified before it gets its name. Others may read and
/// write the database meanwhile: what they commit after the copy began is not in it, and nobody waits. Blocks until it is
/// done; [`Repository::back_up`](crate::Repository::back_up) is the way of a server.
///
/// # Errors
/// Where `database` cannot be read or does not add up, `to` is there already, or the file system refuses.
pub fn back_up(database: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    let database = &real_path(database);
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

/// How a copy's name ends.
const EXTENSION: &str = "backup";

/// The name of a copy of `database` that is made now, in `folder` or beside it; names rise with the time. [`backups`] finds
/// it again.
#[must_use]
pub fn backup_file(database: &Path, folder: Option<&Path>, now: Timestamp) -> PathBuf {
    let name = real_path(database).with_added_extension(format!("{}.{EXTENSION}", now.compact()));
    match (folder, name.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => name,
    }
}

/// The copies of `database` in `folder`, or beside it, the newest last; only files whose names this program gave.
///
/// # Errors
/// Where the folder cannot be read.
pub fn backups(
    database: &Path,
    folder: Option<&Path>,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    files(&real_path(database), folder, EXTENSION)
}

/// The files of a kind that are named after `database` and a moment, in the order of these.
pub(super) fn files(
    database: &Path,
    folder: Option<&Path>,
    extension: &str,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    let folder = folder.unwrap_or(open::folder_of(database));
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

/// Deletes all copies but the newest `keep`, and what crashes left of others. Copies made while the
/// clock was ahead of `now` count as the oldest: else they would be kept, and each new one deleted.
///
/// # Errors
/// Where the folder cannot be read, or a file cannot be deleted.
pub fn thin_out(
    database: &Path,
    folder: Option<&Path>,
    keep: usize,
    now: Timestamp,
) -> std::io::Result<()> {
    let mut copies = backups(database, folder)?;
    copies.sort_by_key(|(made_at, _)| (*made_at <= now, *made_at));
    let newest = newest(&copies, now);
    let unfinished = files(&real_path(database), folder, "backup.part")?;
    // One that was begun before the newest copy was made, an hour and more, is nobody's any more.
    let left = unfinished.into_iter().filter(|(begun, _)| {
        newest.is_some_and(|newest| begun.plus(Duration::from_secs(3600)) < newest)
    });
    for (_, old) in copies.into_iter().rev().skip(keep).chain(left) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// When the newest of some copies was made that is not of the future.
pub(super) fn newest(copies: &[(Timestamp, PathBuf)], now: Timestamp) -> Option<Timestamp> {
    let made_at = copies.iter().map(|(made_at, _)| *made_at);
    made_at.filter(|made_at| *made_at <= now).max()
}

/// Checks a copy: every page, and every wallet's ledger.
///
/// # Errors
/// Where it is no database of ours, of a newer version, or cannot be read. What does not add up is in the report.
pub fn verify_backup(file: &Path) -> Result<LedgerReport, OpenError> {
    stable_read::read(&real_path(file), |connection| verify(connection, file))
}

fn verify(connection: &Connection, file: &Path) -> Result<LedgerReport, OpenError> {
    open::version(connection, file)?;
    let damage: String = connection.query_row(sql::INTEGRITY, [], |row| row.get(0))?;
    let mut report = verify::verify(connection)?;
    if damage != "ok" {
        report.mistakes.insert(0, damage);
    }
    Ok(report)
}

/// Puts a verified copy in the place of `database`, which no server may have, and verifies it there; returns where the old
/// one is kept, if there was one: under its own name with `.` and `kept` behind it, and its `-wal`, `-shm` and `-journal`
/// beside it. What is left of one whose file is missing is moved away in the same way. The copy stays where it is.
///
/// # Errors
/// Where the copy does not verify, a server has the database, or the file system refuses; then everything is as it was.
pub fn restore(backup: &Path, database: &Path, kept: &str) -> Result<Option<PathBuf>, OpenError> {
    let (backup, database) = (&real_path(backup), &real_path(database));
    if !backup.exists() {
        return Err(OpenError::Missing(backup.to_owned()));
    }
    let mut lock = InstanceLock::acquire(database).map_err(OpenError::Locked)?;
    let part = database.with_added_extension(open::RESTORING);
    delete_database(&part);
    // Not the file alone: what a crashed server committed may stand in a log beside it.
    snapshot(backup, &part)?;
    hand_over(&part, database).inspect_err(|_| delete_database(&part))?;
    // Before it has its name, so that no server is the first to lock it.
    lock.add(&part).map_err(OpenError::Locked)?;
    let moved = Moved::aside(database, &database.with_added_extension(kept))
        .inspect_err(|_| delete_database(&part))?;
    let placed = put(&part, database).and_then(|()| verify_in_place(database));
    if let Err(error) = placed {
        delete_database(&part);
        delete_database(database);
        moved.put_back();
        return Err(error);
    }
    Ok(moved.0.into_iter().next().map(|(_, to)| to))
}

/// The file of a database and those that SQLite has beside it.
const PARTS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Deletes a database that is not to be used any more, as far as there is one.
pub(super) fn delete_database(database: &Path) {
    for part in PARTS {
        let _ = std::fs::remove_file(with_suffix(database, part));
    }
}

/// The files of a database that were moved away: from where, and where to.
struct Moved(Vec<(PathBuf, PathBuf)>);

impl Moved {
    /// Moves what there is, the file before its logs: a crash in between must not leave it without them.
    fn aside(database: &Path, aside: &Path) -> Result<Self, OpenError> {
        let mut moved = Self(Vec::new());
        for part in PARTS {
            let (from, to) = (with_suffix(database, part), with_suffix(aside, part));
            let renamed = match to.symlink_metadata() {
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(&from, &to),
            };
            match renamed {
                Ok(()) => moved.0.push((from, to)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    moved.put_back();
                    return Err(OpenError::Io(to, error));
                }
            }
        }
        Ok(moved)
    }

    /// The logs first: a file is never without them.
    fn put_back(self) {
        for (from, to) in self.0.into_iter().rev() {
            if let Err(error) = std::fs::rename(&to, &from) {
                log::error!(
                    "{} could not be moved back to {}: {error}",
                    to.display(),
                    from.display()
                );
            }
        }
    }
}

/// Verifies a database under its own name, opened as the server does: what SQLite would find beside it counts too.
fn verify_in_place(database: &Path) -> Result<(), OpenError> {
    let connection = open::connect(database)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    without_mistakes(database, verify(&connection, database)?).map(drop)
}

/// Gives a file that is to be the database to whom its folder belongs: root restores for the user that serves.
fn hand_over(part: &Path, database: &Path) -> Result<(), OpenError> {
    let owners = |path: &Path| std::fs::metadata(path).map(|about| (about.uid(), about.gid()));
    let given = || {
        let (user, group) = owners(open::folder_of(database))?;
        if owners(part)?.0 != user && rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(part, Some(user), Some(group))?;
        }
        Ok(())
    };
    given().map_err(|error| OpenError::Io(part.to_owned(), error))
}

/// Makes `to` a copy of `from` without a mistake, or nothing.
fn snapshot(from: &Path, to: &Path) -> Result<LedgerReport, OpenError> {
    let whole = copy(from, to).and_then(|()| whole(to));
    whole.inspect_err(|_| drop(std::fs::remove_file(to)))
}

/// What is in a copy, which must be without a mistake.
pub(super) fn whole(copy: &Path) -> Result<LedgerReport, OpenError> {
    without_mistakes(copy, verify_backup(copy)?)
}

fn without_mistakes(file: &Path, report: LedgerReport) -> Result<LedgerReport, OpenError> {
    match report.mistakes.first() {
        None => Ok(report),
        Some(mistake) => Err(OpenError::Damaged(file.to_owned(), mistake.clone())),
    }
}

/// Copies the database at a real path to `to`, whatever is there.
pub(super) fn copy(database: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error: Error| OpenError::Io(to.to_owned(), error);
    let name = to
        .to_str()
        .ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
    stable_read::read(database, |connection| {
        // Left by one that was cut short, or of a file that was changed meanwhile.
        let _ = std::fs::remove_file(to);
        open::empty(to).map_err(failed)?;
        open::version(connection, database)?;
        // The copy is written by the same connection.
        connection.pragma_update(None, "query_only", false)?;
        connection.execute(sql::VACUUM_INTO, [name])?;
        Ok(())
    })
}

/// Gives a whole file its name, on the disk: a crash leaves it under the one or the other.
pub(super) fn put(part: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Io(to.to_owned(), error);
    File::open(part)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(part, to).map_err(failed)?;
    File::open(open::folder_of(to))
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

/// A copy that is not whole yet and has no name of its own; dropped before it has, it goes.
pub(super) struct Part {
    to: PathBuf,
    part: PathBuf,
}

impl Part {
    /// Makes the file empty, under a name that says that it is not whole.
    pub(super) fn begin(to: PathBuf) -> Result<Self, StoreError> {
        if to.exists() {
            return Err(StoreError::Conflict("a copy was made just now".to_owned()));
        }
        let part = to.with_added_extension("part");
        open::empty(&part).map_err(|error| unavailable(OpenError::Io(part.clone(), error)))?;
        Ok(Self { to, part })
    }

    pub(super) fn path(&self) -> &Path {
        &self.part
    }

    /// What flushes the file, a piece each time it is told, until nobody is left to tell it: one flush of everything at the
    /// end would keep the log waiting for the disk.
    pub(super) fn flush(&self, growing: Receiver<()>) -> impl FnOnce() + Send + 'static {
        let file = File::open(&self.part);
        move || {
            let mut from = 0;
            for () in growing {
                if let Ok(file) = &file {
                    let to = file.metadata().map_or(from, |about| about.len());
                    let piece = NonZeroU64::new(to.saturating_sub(from));
                    // A wish only. The flush at the end is the one that counts.
                    let _ = fadvise(file, from, piece, Advice::DontNeed);
                    from = to;
                }
            }
        }
    }

    /// Verifies the copy and gives it its name.
    pub(super) fn finish(self) -> Result<Backup, StoreError> {
        let ledger = whole(&self.part).map_err(unavailable)?;
        put(&self.part, &self.to).map_err(unavailable)?;
        let bytes = std::fs::metadata(&self.to).map_or(0, |file| file.len());
        let file = self.to.file_name().unwrap_or_default().to_string_lossy();
        let path = std::path::absolute(&self.to).unwrap_or(self.to.clone());
        Ok(Backup {
            file: file.into_owned(),
            path: path.to_string_lossy().into_owned(),
            bytes,
            ledger,
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is gone already where it got its name.
        let _ = std::fs::remove_file(&self.part);
    }
}
