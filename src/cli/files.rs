//! Files that are written whole or not at all, and their names in a shell.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Writes a file that must not exist yet; it and its name are on the disk when this returns.
///
/// # Errors
/// Where it exists or cannot be written; half a file is not left.
pub(super) fn create(path: &Path, mode: u32, text: Arguments<'_>) -> Result<()> {
    write(path, mode, text, |_| Ok(()))
}

/// Replaces a file by one of `owner` (user and group), which only they may read. At every moment the old or the new one is
/// there, whole; when this returns, the new one is on the disk.
///
/// # Errors
/// Where it cannot be written; then the old file is still there.
pub(super) fn replace(path: &Path, owner: (u32, u32), text: Arguments<'_>) -> Result<()> {
    let new = &path.with_added_extension("new");
    match std::fs::remove_file(new) {
        // What a crash left is removed.
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(new, 0o600, text, |file| {
        let about = file.metadata()?;
        if (about.uid(), about.gid()) != owner {
            fchown(file, Some(owner.0), Some(owner.1))?;
        }
        std::fs::rename(new, path)
    })
}

fn write(
    path: &Path,
    mode: u32,
    text: Arguments<'_>,
    finish: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path)?;
    let written = file.write_fmt(text).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| finish(&file)) {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    File::open(folder_of(path))?.sync_all()
}

/// The folder that holds a file.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
