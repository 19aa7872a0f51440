//! Files that are written whole or not at all, and their names in a shell.

use std::fmt::Arguments;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use r3mes_edge::store::folder_of;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

/// Writes a file that must not exist yet; it and its name are on the disk when this returns.
///
/// # Errors
/// If it exists or cannot be written; half a file is not left.
pub(super) fn create(path: &Path, mode: u32, text: Arguments<'_>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path)?;
    let written = file.write_fmt(text).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(path)))?;
    File::open(folder_of(path))?.sync_all()
}

/// Replaces a file by one of `owner` (user and group) that only they may read. At every moment the old or the new one
/// exists, whole; when this returns, the new one is on the disk.
///
/// # Errors
/// If it cannot be written; then the old file is unchanged.
pub(super) fn replace(path: &Path, owner: (u32, u32), text: Arguments<'_>) -> io::Result<()> {
    let new = &path.with_added_extension("new");
    // A crash may have left it.
    let _ = fs::remove_file(new);
    create(new, 0o600, text)?;
    chown(new, Some(owner.0), Some(owner.1))
        .and_then(|()| fs::rename(new, path))
        .inspect_err(|_| drop(fs::remove_file(new)))?;
    File::open(folder_of(path))?.sync_all()
}

/// A database with the files of its log.
pub(super) fn with_log(database: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut file = database.as_os_str().to_owned();
        file.push(suffix);
        file.into()
    })
}

/// Checks that this user may use a database and its log: SQLite does not name the file that it cannot open.
pub(super) fn check_access(database: &Path, access: Access) -> Result<(), String> {
    for file in with_log(database) {
        // By the effective user, as opening it is.
        if let Err(error @ Errno::ACCESS) = accessat(CWD, &file, access, AtFlags::EACCESS) {
            let (shown, error) = (file.display(), io::Error::from(error));
            return Err(format!(
                "{shown} cannot be accessed: {error}; only the owner of the database or root may use it, and all its files must be the owner's"
            ));
        }
    }
    Ok(())
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
