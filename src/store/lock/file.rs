//! The database file itself: which file a path names, and the lock on it.
//!
//! SQLite locks with fcntl(2), and a process loses all such locks when it closes *any* descriptor of the file. So the file
//! is opened here once, before SQLite opens it, and closed after SQLite's last connection; all other code uses stat.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::ErrorKind::{AlreadyExists, InvalidInput, NotFound};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LockError;

/// Symbolic links that are followed, as by the kernel.
const MAX_LINKS: usize = 40;

/// The path of the file that `database` names: absolute, without symbolic links. Names derived from the
/// database's (`-wal`, lock file, admin key, backups) are derived from this one. A link to a missing file resolves to where
/// it would be created.
#[must_use]
pub fn real_path(database: &Path) -> PathBuf {
    let mut path = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    for _ in 0..MAX_LINKS {
        if let Ok(real) = path.canonicalize() {
            return real;
        }
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            path = folder.join(name);
        }
        match path.read_link() {
            // An absolute target replaces the folder.
            Ok(target) => path = path.with_file_name("").join(target),
            Err(_) => break,
        }
    }
    // Opening it fails with the reason.
    path
}

/// The identity of a file, independent of its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
        }
    }

    /// The file at `path`, if there is one.
    pub(in crate::store) fn at(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path)
            .ok()
            .map(|about| Self::of(&about))
    }
}

/// A fault of the files of an open database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// The file has no name any more.
    #[error(
        "the database file was deleted while it is in use; stop the server and restore the newest backup: r3mes-edge restore FILE"
    )]
    Deleted,
    /// It was renamed or moved.
    #[error(
        "the database file was renamed or moved while it is in use; move it back, or stop the server"
    )]
    Moved,
    /// Another file has its name.
    #[error(
        "another file took the path of the database while it is in use; put the one in use back, or stop the server and decide which of the two it is to serve"
    )]
    Replaced,
    /// It has a second name.
    #[error(
        "the database file got a second hard link while it is in use; delete the other name (find -samefile finds it)"
    )]
    Linked,
    /// `-wal` or `-shm` is not the one that was opened.
    #[error(
        "the -wal or -shm file of the database was deleted or replaced while it is in use; stop the server with SIGTERM, which writes everything into the database file, and start it again"
    )]
    Log,
}

/// The files that this process has locked. One of them is never opened a second time.
static LOCKED: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

fn locked() -> MutexGuard<'static, Vec<FileId>> {
    LOCKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that only this process uses to write (flock), until this is dropped.
#[derive(Debug)]
pub(super) struct LockedFile {
    file: File,
    id: FileId,
}

impl LockedFile {
    /// Locks the file at `path`; `None` where there is none.
    pub(super) fn lock(path: &Path) -> Result<Option<Self>, LockError> {
        let failed = |error| LockError::Io(path.to_owned(), error);
        let mut locked = locked();
        loop {
            let about = match std::fs::symlink_metadata(path) {
                Ok(about) => about,
                Err(error) if error.kind() == NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            if locked.contains(&FileId::of(&about)) {
                return Err(LockError::Held(None));
            }
            // Opening a pipe would block.
            if !about.is_file() {
                let error = std::io::Error::new(InvalidInput, "it is not a regular file");
                return Err(failed(error));
            }
            let file = match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(LockError::Held(None)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let id = FileId::of(&file.metadata().map_err(failed)?);
            // The last holder of the lock may have replaced the file.
            if FileId::at(path) != Some(id) {
                continue;
            }
            if about.nlink() > 1 {
                return Err(LockError::HardLinks(path.to_owned(), about.nlink()));
            }
            locked.push(id);
            return Ok(Some(Self { file, id }));
        }
    }

    /// Creates an empty file at `path` that only its owner can read, and locks it; an existing file is locked.
    pub(super) fn create(path: &Path) -> Result<Option<Self>, LockError> {
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == AlreadyExists => {}
            Err(error) => return Err(LockError::Io(path.to_owned(), error)),
        }
        Self::lock(path)
    }

    /// Whether `path` still names this file, and nothing else does.
    pub(super) fn fault(&self, path: &Path) -> Option<FileFault> {
        // Read each time: some network file systems renumber inodes.
        let open = self.file.metadata().ok()?;
        match std::fs::symlink_metadata(path) {
            Ok(about) if FileId::of(&about) != FileId::of(&open) => Some(FileFault::Replaced),
            Ok(about) => (about.nlink() > 1).then_some(FileFault::Linked),
            Err(_) if open.nlink() == 0 => Some(FileFault::Deleted),
            Err(_) => Some(FileFault::Moved),
        }
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        let mut locked = locked();
        locked.retain(|id| *id != self.id);
        // Explicitly, not by closing: a child process that is being spawned has a copy of the descriptor until its exec.
        let _ = self.file.unlock();
    }
}

/// Whether this process has locked the file at `path`.
pub(in crate::store) fn is_locked_here(path: &Path) -> bool {
    FileId::at(path).is_some_and(|id| locked().contains(&id))
}

/// The first bytes of a file; `None` where this process has locked it, so that it must not be opened.
pub(in crate::store) fn read_unlocked<const N: usize>(path: &Path) -> Option<[u8; N]> {
    let locked = locked();
    if FileId::at(path).is_none_or(|id| locked.contains(&id)) {
        return None;
    }
    let mut bytes = [0; N];
    File::open(path).ok()?.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_path_is_that_of_the_file_also_before_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (inner, link) = (folder.join("inner"), folder.join("link"));
        std::fs::create_dir(&inner).unwrap();
        std::os::unix::fs::symlink("inner", &link).unwrap();
        let target = inner.join("edge.db");
        std::os::unix::fs::symlink("edge.db", inner.join("relative")).unwrap();
        std::os::unix::fs::symlink(&target, folder.join("absolute")).unwrap();
        std::os::unix::fs::symlink("absolute", folder.join("twice")).unwrap();
        for made in [false, true] {
            for name in [
                "inner/edge.db",
                "link/edge.db",
                "link/relative",
                "absolute",
                "twice",
            ] {
                assert_eq!(real_path(&folder.join(name)), target, "{name}");
            }
            if !made {
                std::fs::write(&target, "").unwrap();
            }
        }
        // A link to itself fails when it is opened.
        std::os::unix::fs::symlink("loop", folder.join("loop")).unwrap();
        assert!(File::open(real_path(&folder.join("loop"))).is_err());
    }

    #[test]
    fn a_fault_of_the_locked_file_is_detected_and_so_is_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let other = folder.path().join("other.db");
        let held = LockedFile::create(&path).unwrap().unwrap();
        assert_eq!(held.fault(&path), None);
        std::fs::hard_link(&path, &other).unwrap();
        assert_eq!(held.fault(&path), Some(FileFault::Linked));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(held.fault(&path), Some(FileFault::Moved));
        std::fs::write(&path, "another").unwrap();
        assert_eq!(held.fault(&path), Some(FileFault::Replaced));
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(held.fault(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(held.fault(&path), Some(FileFault::Deleted));
    }
}
