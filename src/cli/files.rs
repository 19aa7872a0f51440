//! Files that are made whole or not at all, and their names in a shell.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Writes a file that must not be there yet, on the disk with its name; `mode` is who may read it.
///
/// # Errors
/// Where it is there or cannot be written; half a file, which would be taken for a whole one, is not left.
pub(super) fn write_new(path: &Path, mode: u32, text: Arguments<'_>) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path)?;
    let written = file.write_fmt(text).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    File::open(folder_of(path))?.sync_all()
}

/// Puts a file of `owner` (user and group), which nobody else may read, in the place of what has its name. At every moment
/// the one or the other is there, whole; when this returns, the new one is on the disk.
///
/// # Errors
/// Where it cannot be written; then what was there is there still.
pub(super) fn replace(path: &Path, owner: (u32, u32), text: Arguments<'_>) -> std::io::Result<()> {
    let new = path.with_added_extension("new");
    // What a crash left.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&new)?;
    let about = file.metadata()?;
    let replaced = match (about.uid(), about.gid()) == owner {
        true => Ok(()),
        false => fchown(&file, Some(owner.0), Some(owner.1)),
    }
    .and_then(|()| file.write_fmt(text))
    .and_then(|()| file.sync_all())
    .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = replaced {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    File::open(folder_of(path))?.sync_all()
}

/// The folder that holds a file.
pub(super) fn folder_of(file: &Path) -> &Path {
    let folder = file.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
