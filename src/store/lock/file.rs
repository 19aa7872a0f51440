//! The database file itself: which file a path names, and the lock on it.
//!
//! SQLite locks with fcntl(2), and a process loses all such locks when it closes *any* descriptor of the file. So the file
//! is opened here once, before SQLite opens it, and closed after SQLite's last connection; all other code uses stat.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::Error;
use std::io::ErrorKind::{InvalidInput, NotFound};
use std::os::unix::fs::{FileExt, MetadataExt};
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
        match path.read_link() {
            // An absolute target replaces the folder.
            Ok(target) => path = path.with_file_name("").join(target),
            Err(_) => break,
        }
    }
    // Opening a file that cannot be resolved fails with the reason.
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// The folder that holds a file.
#[must_use]
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The identity of a file, independent of its name: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileId(u64, u64);

impl FileId {
    fn of(about: &Metadata) -> Self {
        Self(about.dev(), about.ino())
    }

    /// The file at `path`, if there is one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let about = std::fs::symlink_metadata(path).ok()?;
        Some(Self::of(&about))
    }
}

/// The files that this process has locked to write. One of them is never opened a second time.
static LOCKED: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

fn locked() -> MutexGuard<'static, Vec<FileId>> {
    LOCKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is locked (flock) until this is dropped: only this process uses it to write, or none does.
#[derive(Debug)]
pub(in crate::store) struct LockedFile {
    file: File,
    id: FileId,
}

impl LockedFile {
    /// Locks the file at `path` to write; `None` where there is none.
    pub(super) fn lock(path: &Path) -> Result<Option<Self>, LockError> {
        let failed = |error| LockError::Io(path.to_owned(), error);
        let mut locked = locked();
        let about = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == NotFound => return Ok(None),
            about => about.map_err(failed)?,
        };
        if locked.contains(&FileId::of(&about)) {
            return Err(LockError::Held(None));
        }
        // Opening a pipe would block.
        if !about.is_file() {
            return Err(failed(Error::new(InvalidInput, "it is not a regular file")));
        }
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => LockError::Held(None),
            TryLockError::Error(error) => failed(error),
        })?;
        let about = file.metadata().map_err(failed)?;
        let id = FileId::of(&about);
        // The last holder of the lock may have replaced the file.
        if FileId::at(path) != Some(id) {
            return Err(LockError::Held(None));
        }
        if about.nlink() > 1 {
            return Err(LockError::HardLinks(path.to_owned(), about.nlink()));
        }
        if is_mounted(&file) {
            return Err(LockError::Mounted(path.to_owned()));
        }
        locked.push(id);
        Ok(Some(Self { file, id }))
    }

    /// Locks the file at `path` against writing; `None` where a process has locked it to write, also this one.
    pub(in crate::store) fn lock_shared(path: &Path) -> std::io::Result<Option<Self>> {
        let locked = locked();
        if FileId::at(path).is_some_and(|id| locked.contains(&id)) {
            return Ok(None);
        }
        let file = File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let id = FileId::of(&file.metadata()?);
        // By a restore that ended just now.
        let is_replaced = FileId::at(path) != Some(id);
        Ok((!is_replaced).then(|| Self { file, id }))
    }

    /// Bytes 18 and 19 of a database's header are 2 in WAL mode (SQLite, "Database File Format", 1.3.3).
    pub(in crate::store) fn is_in_wal_mode(&self) -> bool {
        let mut version = [0];
        self.file.read_exact_at(&mut version, 18).is_ok() && version == [2]
    }

    /// What is wrong where `path` does not name this file, or something else does too.
    pub(super) fn fault(&self, path: &Path) -> Option<&'static str> {
        // Read each time: some network file systems renumber inodes.
        let open = self.file.metadata().ok()?;
        match std::fs::symlink_metadata(path) {
            Ok(about) if FileId::of(&about) != FileId::of(&open) => Some(
                "another file took the path of the database while it is in use; put the one in use back, or stop the server and decide which of the two it is to serve",
            ),
            Ok(about) if about.nlink() > 1 => Some(
                "the database file got a second hard link while it is in use; delete the other name (find -samefile finds it)",
            ),
            Ok(_) => None,
            Err(_) if open.nlink() == 0 => Some(
                "the database file was deleted while it is in use; stop the server and restore the newest backup: r3mes-edge restore FILE",
            ),
            Err(_) => Some(
                "the database file was renamed or moved while it is in use; move it back, or stop the server",
            ),
        }
    }
}

/// Whether the file is a mount of its own, as `docker run -v FILE:FILE` makes one: its folder is on another. Known from
/// Linux 5.8 on; devices are no sign of it, as on overlayfs a file can have another one than its folder.
#[cfg(target_os = "linux")]
fn is_mounted(file: &File) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let about = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    about.is_ok_and(|about| about.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mounted(_: &File) -> bool {
    false
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        locked().retain(|id| *id != self.id);
        // Explicitly, not by closing: a child process that is being spawned has a copy of the descriptor until its exec.
        let _ = self.file.unlock();
    }
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
        std::fs::write(&path, "").unwrap();
        let held = LockedFile::lock(&path).unwrap().unwrap();
        let assert_fault = |expected: &str| {
            let fault = held.fault(&path).unwrap();
            assert!(fault.contains(expected), "{fault}");
        };
        assert_eq!(held.fault(&path), None);
        std::fs::hard_link(&path, &other).unwrap();
        assert_fault("second hard link");
        std::fs::remove_file(&path).unwrap();
        assert_fault("moved");
        std::fs::write(&path, "another").unwrap();
        assert_fault("another file");
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(held.fault(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_fault("deleted");
    }
}
