//! Backups of a store, for one that can make them.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Backup, BackupList, LedgerReport, Result};
use crate::model::Timestamp;

/// The backups of a store.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Copies the database into a new file in `folder`, or beside the original, without blocking writes; verified before it
    /// gets its name. It includes every write acknowledged before the call. Then all backups there but the newest `keep` are
    /// deleted; those dated after `now` count as the oldest.
    ///
    /// # Errors
    /// [`StoreError::Conflict`](super::StoreError::Conflict) while another backup runs; [`StoreError::Unavailable`](super::StoreError::Unavailable) if the copy does not verify.
    async fn back_up(
        &self,
        folder: Option<PathBuf>,
        keep: Option<usize>,
        now: Timestamp,
    ) -> Result<Backup>;
    /// The time of the newest backup there, without those dated after `now`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if the folder cannot be read.
    async fn last_backup(
        &self,
        folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>>;
    /// The newest `limit` backups there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if the folder cannot be read.
    async fn list(&self, folder: Option<PathBuf>, limit: usize) -> Result<BackupList>;
    /// Checks the backup there of this name, every page and every wallet's ledger, without blocking others; what it found.
    /// `None` if there is no backup of this name.
    ///
    /// # Errors
    /// [`StoreError::Conflict`](super::StoreError::Conflict) while another check runs; [`StoreError::Unavailable`](super::StoreError::Unavailable) if the folder or the file cannot be read.
    async fn verify(&self, folder: Option<PathBuf>, name: String) -> Result<Option<LedgerReport>>;
}
