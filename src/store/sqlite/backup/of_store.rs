//! The backups of a running store, on threads of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::connections::OpenError;
use super::super::{SqliteStore, closed};
use super::{backup_file, backups, copy, prune_backups, verify_backup};
use crate::model::Timestamp;
use crate::store::{
    Backup, BackupFile, BackupList, Backups, LedgerReport, Result, StoreError, async_trait,
    folder_of,
};

#[async_trait]
impl Backups for SqliteStore {
    async fn back_up(
        &self,
        folder: Option<PathBuf>,
        keep: Option<usize>,
        now: Timestamp,
    ) -> Result<Backup> {
        // Held until the backup has its name, verification included.
        let conflict = |_| StoreError::Conflict("a backup is being made already".to_owned());
        let _one = self.backing_up.try_lock().map_err(conflict)?;
        let path = self.path.clone();
        let lock = self.lock().clone().ok_or_else(closed)?;
        in_background(move || {
            let copy = copy(&path, backup_file(&path, folder.as_deref(), now))?;
            // The path may be another file's by now.
            if let Some(fault) = lock.fault() {
                return Err(unavailable(fault));
            }
            let backup = copy.finish()?;
            if let Some(keep) = keep {
                prune_backups(&path, Path::new(&backup.path), keep, now).map_err(unavailable)?;
            }
            Ok(backup)
        })
        .await
    }

    async fn last_backup(
        &self,
        folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let (path, newest) = (self.path.clone(), |(made_at, _)| made_at);
        let files = blocking(move || backups(&path, folder.as_deref()));
        let made_at = files.await?.into_iter().map(newest);
        Ok(made_at.filter(|made_at| *made_at <= now).max())
    }

    async fn list(&self, folder: Option<PathBuf>, limit: usize) -> Result<BackupList> {
        let path = self.path.clone();
        blocking(move || {
            let files = backups(&path, folder.as_deref())?.into_iter().rev();
            // One that is deleted meanwhile is left out.
            let described = files.filter_map(|(created_at, file)| {
                Some(BackupFile {
                    name: file.file_name()?.to_string_lossy().into_owned(),
                    bytes: std::fs::metadata(&file).ok()?.len(),
                    created_at,
                })
            });
            let backups = described.take(limit).collect();
            let folder = std::path::absolute(folder.as_deref().unwrap_or(folder_of(&path)))?;
            let folder = Some(folder.to_string_lossy().into_owned());
            Ok(BackupList { folder, backups })
        })
        .await
    }

    async fn verify(&self, folder: Option<PathBuf>, name: String) -> Result<Option<LedgerReport>> {
        let conflict = |_| StoreError::Conflict("a backup is being verified already".to_owned());
        let one = Arc::clone(&self.verifying).try_lock_owned();
        let one = one.map_err(conflict)?;
        let path = self.path.clone();
        in_background(move || {
            let files = backups(&path, folder.as_deref()).map_err(unavailable)?;
            let is_named = |file: &&PathBuf| file.file_name().is_some_and(|own| *own == *name);
            let file = files.iter().map(|(_, file)| file).find(is_named);
            let report = file.map(|file| findings(file)).transpose();
            // It runs to its end also where the caller is gone.
            drop(one);
            report
        })
        .await
    }
}

/// What a check of a backup found. A file that cannot be opened because of what is in it is a finding too.
fn findings(file: &Path) -> Result<LedgerReport> {
    match verify_backup(file) {
        Ok(report) => Ok(report),
        Err(
            error @ (OpenError::Foreign(_)
            | OpenError::Older(..)
            | OpenError::Newer(..)
            | OpenError::Damaged(..)
            | OpenError::OtherLog(..)
            | OpenError::LogMissing(..)
            | OpenError::Storage(StoreError::Damaged(_))),
        ) => Ok(LedgerReport {
            mistakes: vec![error.to_string()],
            ..LedgerReport::default()
        }),
        Err(error) => Err(error.into()),
    }
}

/// Runs short blocking file operations.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| StoreError::Internal(error.to_string()))?;
    done.map_err(unavailable)
}

/// Runs long blocking file operations on a separate thread of lower priority.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let thread = move || {
        // Of this thread only on Linux (setpriority(2), "C library/kernel differences"); elsewhere of the process.
        if cfg!(target_os = "linux") {
            let _ = rustix::process::setpriority_process(None, 10);
        }
        let _ = reply.send(work());
    };
    let builder = std::thread::Builder::new().name("r3mes-backup".to_owned());
    builder.spawn(thread).map_err(unavailable)?;
    let done = answer.await;
    done.unwrap_or_else(|error| Err(StoreError::Internal(error.to_string())))
}

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
