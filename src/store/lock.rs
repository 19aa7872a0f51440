//! The instance lock: only one process writes to a database. A file beside it holds the address that the process serves,
//! for the commands.

mod file;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind::{NotFound, PermissionDenied};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use self::file::FileId;
pub(super) use self::file::LockedFile;
pub use self::file::{folder_of, real_path};

/// The exclusive right to write to a database: a lock (flock) on the file itself, by whatever path it was opened, and on
/// `<database>.lock`, which holds the server's address, so that commands find a running server without opening the
/// database. The kernel releases it when the process ends.
#[derive(Debug)]
pub struct InstanceLock {
    database: PathBuf,
    announcement: File,
    /// The database file, and behind it one that it replaces. Closed last.
    files: Vec<LockedFile>,
    /// `-wal` and `-shm` as SQLite has them open.
    logs: OnceLock<[Option<FileId>; 2]>,
}

/// Why the lock was not acquired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it, or this one already; the address it serves, if announced.
    #[error("another r3mes-edge {}", match .0 {
        Some(address) => format!("serves this database at {address}"),
        None => "uses this database".to_owned(),
    })]
    Held(Option<String>),
    /// The database file has hard links; how many.
    #[error("{path} has {links} hard links, and SQLite keeps a separate -wal for each name, so that commits would be lost: delete the other names (find / -xdev -samefile {path}), or give this database a file of its own with cp and mv", path = .0.display(), links = .1)]
    HardLinks(PathBuf, u64),
    /// The database file is mounted by itself.
    #[error("{} is mounted without its folder, so that its -wal with the last commits would not be on that mount, and lost with the container: mount the folder (docker: -v DATA:/data and --database /data/edge.db)", .0.display())]
    Mounted(PathBuf),
    /// The lock file or the database could not be used.
    #[error("cannot lock {}: {}", .0.display(), .1)]
    Io(PathBuf, std::io::Error),
}

impl InstanceLock {
    /// Acquires the lock for `database`. If there is no such file yet, only the lock file is locked.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process holds it, [`LockError::HardLinks`] if the file has other names,
    /// [`LockError::Io`] if it or the lock file cannot be used.
    pub fn acquire(database: &Path) -> Result<Self, LockError> {
        let database = real_path(database);
        let path = lock_file(&database);
        let failed = |error| LockError::Io(path.clone(), error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut announcement = options.mode(0o600).open(&path).map_err(failed)?;
        announcement.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                address_in(&mut announcement).map_or_else(failed, LockError::Held)
            }
            TryLockError::Error(error) => failed(error),
        })?;
        // Not the lock file alone: it may have been deleted while it was held.
        let file = LockedFile::lock(&database)?;
        // The address that a crashed holder left is no longer valid.
        announcement.set_len(0).map_err(failed)?;
        Ok(Self {
            database,
            announcement,
            files: file.into_iter().collect(),
            logs: OnceLock::new(),
        })
    }

    /// The address of the server of `database`, if one is running and announced it. Creates or changes nothing; a starting
    /// server does not find the lock held, unless a crashed one left its address.
    ///
    /// # Errors
    /// Where the lock file cannot be used.
    pub fn server_of(database: &Path) -> Result<Option<String>, LockError> {
        let path = lock_file(&real_path(database));
        let failed = |error| LockError::Io(path.clone(), error);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // Without permission to read it there is none to connect either.
            Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let address = address_in(&mut file).map_err(failed)?;
        match address.is_some().then(|| file.try_lock_shared()) {
            None | Some(Ok(())) => Ok(None),
            Some(Err(TryLockError::WouldBlock)) => Ok(address),
            Some(Err(TryLockError::Error(error))) => Err(failed(error)),
        }
    }

    /// Writes the holder's address, for commands that send requests to it; further lines are the caller's.
    ///
    /// # Errors
    /// Where the lock file cannot be written.
    pub fn announce(&self, address: &str) -> std::io::Result<()> {
        let mut file = &self.announcement;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(address.as_bytes())
    }

    /// Locks another file too, which is about to be the database.
    pub(super) fn add(&mut self, file: &Path) -> Result<(), LockError> {
        self.files.splice(..0, LockedFile::lock(file)?);
        Ok(())
    }

    /// Whether the header of the database is that of one with a `-wal`.
    pub(super) fn is_in_wal_mode(&self) -> bool {
        self.files.first().is_some_and(LockedFile::is_in_wal_mode)
    }

    /// From now on checks `-wal` and `-shm` too; called when SQLite has created them.
    pub(super) fn watch_logs(&self) {
        let _ = self.logs.set(self.log_ids());
    }

    fn log_ids(&self) -> [Option<FileId>; 2] {
        ["-wal", "-shm"].map(|suffix| FileId::at(&with_suffix(&self.database, suffix)))
    }

    /// What happened to the database's files since they were opened, and what to do. Costs a few calls of stat.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let main = self.files.first()?.fault(&self.database);
        let is_other = || self.logs.get().is_some_and(|ids| *ids != self.log_ids());
        main.or_else(|| is_other().then_some("the -wal or -shm file of the database was deleted or replaced while it is in use; stop the server with SIGTERM, which writes everything into the database file, and start it again"))
    }
}

/// A file that belongs to a database: `-wal`, say.
pub(super) fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock_file(database: &Path) -> PathBuf {
    database.with_added_extension("lock")
}

/// The announced address: the first line.
fn address_in(file: &mut File) -> std::io::Result<Option<String>> {
    let mut address = Vec::new();
    file.read_to_end(&mut address)?;
    let address = String::from_utf8_lossy(&address);
    let address = address.trim().lines().next().unwrap_or_default().to_owned();
    Ok(Some(address).filter(|address| !address.is_empty()))
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // The address is not served any more.
        let _ = self.announcement.set_len(0);
        // Explicitly, not by closing: a child process that is being spawned has a copy of the descriptor until its exec.
        let _ = self.announcement.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_holder_gets_the_address_and_a_dropped_lock_can_be_acquired() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let first = InstanceLock::acquire(&database).unwrap();
        assert!(matches!(
            InstanceLock::acquire(&database),
            Err(LockError::Held(None))
        ));
        first.announce("http://127.0.0.1:8000").unwrap();
        match InstanceLock::acquire(&database) {
            Err(LockError::Held(Some(address))) => assert_eq!(address, "http://127.0.0.1:8000"),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(InstanceLock::acquire(&database).is_ok());
    }

    #[test]
    fn a_server_is_found_while_it_serves_and_a_query_for_it_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let address = || InstanceLock::server_of(&database).unwrap();
        assert_eq!(address(), None);
        assert!(!database.with_added_extension("lock").exists());
        let held = InstanceLock::acquire(&database).unwrap();
        assert_eq!(address(), None);
        held.announce("http://127.0.0.1:8000").unwrap();
        assert_eq!(address().unwrap(), "http://127.0.0.1:8000");
        drop(held);
        assert_eq!(address(), None);
        // A crash leaves the address, or anything else.
        let file = database.with_added_extension("lock");
        for left in [&b"http://127.0.0.1:8000"[..], b"\xff"] {
            std::fs::write(&file, left).unwrap();
            assert_eq!(address(), None);
        }
        assert!(InstanceLock::acquire(&database).is_ok());
    }

    #[test]
    fn a_lock_is_released_although_a_child_that_is_being_started_has_a_copy_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let held = InstanceLock::acquire(&database).unwrap();
        let _copy = held.announcement.try_clone().unwrap();
        drop(held);
        assert!(InstanceLock::acquire(&database).is_ok());
    }

    proptest! {
        // Each case writes a file.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_last_announcement_replaces_all_content_of_the_lock_file(earlier in any::<String>(), last in any::<String>(), junk in prop::collection::vec(any::<u8>(), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let database = folder.path().join("edge.db");
            // A crash can leave any content.
            std::fs::write(database.with_added_extension("lock"), junk).unwrap();
            let held = InstanceLock::acquire(&database).unwrap();
            held.announce(&earlier).unwrap();
            held.announce(&last).unwrap();
            let last = last.trim().lines().next().unwrap_or_default();
            match InstanceLock::acquire(&database) {
                Err(LockError::Held(address)) => prop_assert_eq!(address, (!last.is_empty()).then(|| last.to_owned())),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
