//! The copy before a migration: what a file was, to go back to.
//!
//! The migration is one transaction, so the file is good with or without it. That is why nobody waits until the copy is on
//! the disk and verified: its bytes are taken while nobody can write, and the rest is done by whoever comes to it. A copy
//! is named for what is known of it: `.part` while it is written, `.unverified` once it is whole, `.damaged` where it did
//! not verify, and the name alone where it did.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::backup::{self, files, put, whole};
use super::super::open::{self, OpenError, SCHEMA_VERSION};
use crate::model::Timestamp;
use crate::store::lock::with_suffix;
use crate::store::{InstanceLock, StoreError};

const UNVERIFIED: &str = "unverified";
/// How long it is waited for others that read, so that the file alone is the whole database.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Copies a file of `version` beside it, under its lock, so that it stays as it is.
pub(super) fn copy(
    database: &Path,
    lock: &InstanceLock,
    version: i64,
) -> Result<PathBuf, OpenError> {
    // What a crash left of another; no migration came after that.
    for part in copies(database, "part") {
        let _ = std::fs::remove_file(part);
    }
    let stamp = Timestamp::from(std::time::SystemTime::now()).compact();
    let name = database.with_added_extension(format!("{stamp}.version-{version}"));
    let part = name.with_added_extension("part");
    let unverified = name.with_added_extension(UNVERIFIED);
    // Another program that reads may have kept the log from being emptied.
    let log = std::fs::metadata(with_suffix(database, "-wal")).map_or(0, |log| log.len());
    let copied = match lock.file() {
        Some(file) if log == 0 => bytes(file, &part),
        _ => backup::copy(database, &part),
    };
    copied
        .and_then(|()| {
            std::fs::rename(&part, &unverified)
                .map_err(|error| OpenError::Io(unverified.clone(), error))
        })
        .inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    Ok(unverified)
}

/// The file's bytes, which the system copies in a sixth of the time that SQLite takes, or shares where it can.
fn bytes(mut file: &File, to: &Path) -> Result<(), OpenError> {
    let copied = file.seek(SeekFrom::Start(0)).and_then(|_| {
        let mut copy = open::empty(to)?;
        std::io::copy(&mut file, &mut copy)
    });
    copied
        .map(drop)
        .map_err(|error| OpenError::Io(to.to_owned(), error))
}

/// The copies that nobody has verified yet.
pub(super) fn unverified(database: &Path) -> Vec<PathBuf> {
    copies(database, UNVERIFIED)
}

/// Verifies a copy and gives it the name that it has from then on, which is returned.
pub(super) fn verify(copy: &Path) -> Result<PathBuf, OpenError> {
    let name = copy.with_extension("");
    match whole(copy) {
        Ok(_) => put(copy, &name).map(|()| name),
        Err(OpenError::Damaged(_, what)) => Err(set_aside(copy, &name, what)),
        Err(OpenError::Storage(StoreError::Damaged(what))) => Err(set_aside(copy, &name, what)),
        Err(error @ OpenError::Foreign(_)) => Err(set_aside(copy, &name, error.to_string())),
        // Another time.
        Err(error) => Err(error),
    }
}

/// Gives a copy that is not good a name that says so.
fn set_aside(copy: &Path, name: &Path, what: String) -> OpenError {
    let damaged = name.with_added_extension("damaged");
    match std::fs::rename(copy, &damaged) {
        Ok(()) => OpenError::Damaged(damaged, what),
        Err(error) => OpenError::Io(damaged, error),
    }
}

/// Verifies on a thread of its own what there is to verify; what comes of it stands in the log.
pub(in super::super) fn verify_aside(database: &Path) {
    let copies = unverified(database);
    if copies.is_empty() {
        return;
    }
    let work = move || {
        for copy in copies {
            match verify(&copy) {
                Ok(name) => log::info!(
                    "the copy from before the migration is good: {}",
                    name.display()
                ),
                Err(error) => log::error!(
                    "the copy from before the migration is not good: {error}; see whether the database is, with db check, and make a copy of it with backup create"
                ),
            }
        }
    };
    if let Err(error) = super::super::aside(work) {
        log::warn!("the copy from before the migration is verified at the next start: {error}");
    }
}

/// The copies whose names end so, beside a database.
fn copies(database: &Path, end: &str) -> Vec<PathBuf> {
    let of = |version| files(database, None, &format!("version-{version}.{end}"));
    let all = (1..=SCHEMA_VERSION).flat_map(|version| of(version).unwrap_or_default());
    all.map(|(_, file)| file).collect()
}
