//! Copies of the whole database, each a file that stands on its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Advice, fadvise};

use super::open::{self, OpenError};
use super::{sql, unavailable, verify};
use crate::model::Timestamp;
use crate::store::{Backup, InstanceLock, LedgerReport, StoreError};

/// Copies `database`, as it is at one moment, to the new file `to`; verified before it gets its name. Others may read and
/// write the database meanwhile: what they commit after the copy began is not in it, and nobody waits. Blocks until it is
/// done; [`Repository::back_up`](crate::Repository::back_up) is the way of a server.
///
/// # Errors
/// Where `database` cannot be read or does not add up, `to` is there already, or the file system refuses.
///
/// # Example
/// ```
/// use r3mes_edge::SqliteStore;
/// use r3mes_edge::store::{OpenError, back_up, verify_backup};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let database = folder.path().join("edge.db");
///
/// let store = SqliteStore::open(&database, true)?;
/// let copy = folder.path().join("monday.backup");
/// // Beside the store that has the file.
/// let report = back_up(&database, &copy)?;
/// assert_eq!(verify_backup(&copy)?, report);
/// // What is there already is never written over.
/// assert!(matches!(back_up(&database, &copy), Err(OpenError::Io(..))));
/// # drop(store);
/// # Ok(())
/// # }
/// ```
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

/// How a copy's name ends.
const EXTENSION: &str = "backup";

/// The name of a copy of `database` that is made now, in `folder` or beside it; names rise with the time. [`backups`] finds
/// it again.
#[must_use]
pub fn backup_file(database: &Path, folder: Option<&Path>, now: Timestamp) -> PathBuf {
    let name = database.with_added_extension(format!("{}.{EXTENSION}", now.compact()));
    match (folder, name.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => name,
    }
}

/// The copies of `database` in `folder`, or beside it, the newest last; only files whose names this program gave.
///
/// # Errors
/// Where the folder cannot be read.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use r3mes_edge::{Clock, SqliteStore};
/// use r3mes_edge::store::{back_up, backup_file, backups, thin_out};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let database = folder.path().join("edge.db");
///
/// # let store = SqliteStore::open(&database, true)?;
/// let monday = Clock::default().now();
/// let days = [0, 1, 2].map(|day| monday.plus(Duration::from_secs(day * 86_400)));
/// for day in days {
///     back_up(&database, &backup_file(&database, None, day))?;
/// }
/// thin_out(&database, None, 2)?;
/// let left: Vec<_> = backups(&database, None)?.into_iter().map(|(made_at, _)| made_at).collect();
/// assert_eq!(left, days[1..]);
/// # drop(store);
/// # Ok(())
/// # }
/// ```
pub fn backups(
    database: &Path,
    folder: Option<&Path>,
) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    files(database, folder, EXTENSION)
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

/// Deletes all copies but the newest `keep`, and what crashes left of others; [`backups`] shows it.
///
/// # Errors
/// Where the folder cannot be read, or a file cannot be deleted.
pub fn thin_out(database: &Path, folder: Option<&Path>, keep: usize) -> std::io::Result<()> {
    let copies = files(database, folder, EXTENSION)?;
    let newest = copies.last().map(|(made_at, _)| *made_at);
    let unfinished = files(database, folder, "backup.part")?;
    // One that was begun before the newest copy was made, an hour and more, is nobody's any more.
    let left = unfinished.into_iter().filter(|(begun, _)| {
        newest.is_some_and(|newest| begun.plus(Duration::from_secs(3600)) < newest)
    });
    for (_, old) in copies.into_iter().rev().skip(keep).chain(left) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// Checks a copy: every page, and every wallet's ledger.
///
/// # Errors
/// Where it is no database of ours, of a newer version, or cannot be read. What does not add up is in the report.
///
/// # Example
/// ```
/// use r3mes_edge::store::{OpenError, verify_backup};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// // `back_up` shows a good one; this is none at all.
/// let file = folder.path().join("monday.backup");
/// std::fs::write(&file, "not a database")?;
/// assert!(matches!(verify_backup(&file), Err(OpenError::Foreign(_))));
/// # Ok(())
/// # }
/// ```
pub fn verify_backup(file: &Path) -> Result<LedgerReport, OpenError> {
    let connection = open::reading(file)?;
    open::version(&connection, file)?;
    let damage: String = connection.query_row(sql::INTEGRITY, [], |row| row.get(0))?;
    let mut report = verify::verify(&connection)?;
    if damage != "ok" {
        report.mistakes.insert(0, damage);
    }
    Ok(report)
}

/// Puts a verified copy in the place of `database`, which no server may have; returns where the old one is kept, if there
/// was one: under its own name with `.` and `kept` behind it. The copy stays where it is.
///
/// # Errors
/// Where the copy does not verify, a server has the database, or the file system refuses; then nothing has changed.
///
/// # Example
/// ```
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::store::{back_up, restore};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let database = folder.path().join("edge.db");
///
/// let store = SqliteStore::open(&database, true)?;
/// let copy = folder.path().join("monday.backup");
/// back_up(&database, &copy)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// store.create_user(wallet, Clock::default().now(), None).await?;
/// store.close();
///
/// let old = restore(&copy, &database, "before-restore")?;
/// assert_eq!(old, Some(folder.path().join("edge.db.before-restore")));
/// // As it was on Monday; what came after is in the old one.
/// let store = SqliteStore::open(&database, false)?;
/// assert_eq!(store.user(wallet).await?, None);
/// # Ok(())
/// # }
/// ```
pub fn restore(backup: &Path, database: &Path, kept: &str) -> Result<Option<PathBuf>, OpenError> {
    if !backup.exists() {
        return Err(OpenError::Missing(backup.to_owned()));
    }
    let _lock = InstanceLock::acquire(database).map_err(OpenError::Locked)?;
    // Not the file alone: what a crashed server committed may stand in a log beside it.
    let part = database.with_added_extension("restoring");
    snapshot(backup, &part)?;
    hand_over(&part, database)?;
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
    let report = verify_backup(copy)?;
    match report.mistakes.first() {
        None => Ok(report),
        Some(mistake) => Err(OpenError::Damaged(copy.to_owned(), mistake.clone())),
    }
}

pub(super) fn copy(database: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error: Error| OpenError::Io(to.to_owned(), error);
    let name = to
        .to_str()
        .ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
    // Left by one that was cut short.
    let _ = std::fs::remove_file(to);
    open::empty(to).map_err(failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    open::version(&connection, database)?;
    connection.execute(sql::VACUUM_INTO, [name])?;
    Ok(())
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

pub(super) fn log_of(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
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
        Ok(Backup {
            file: file.into_owned(),
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
