//! The length of the write-ahead log.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use super::super::sql;
use super::health::StorageHealth;

pub(super) struct WriteAheadLog {
    path: PathBuf,
    /// The length at which it is truncated next.
    limit: u64,
}

impl WriteAheadLog {
    /// Without readers the log restarts by itself at about 4 MiB.
    const LIMIT: u64 = 32 << 20;
    /// How much it grows between two attempts to truncate it.
    const RETRY: u64 = 8 << 20;
    /// How long truncating it waits for the current reads; writes wait too, new reads do not.
    const TIMEOUT: Duration = Duration::from_millis(700);

    pub(super) const fn new(path: PathBuf) -> Self {
        let limit = Self::LIMIT;
        Self { path, limit }
    }

    /// Truncates a long log, as SQLite restarts it only while nothing reads. If a long read prevents that, it is tried again
    /// when the log has grown.
    pub(super) fn truncate(&mut self, c: &Connection) {
        let length = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if length < self.limit {
            return;
        }
        let _ = c.busy_timeout(Self::TIMEOUT);
        let busy: rusqlite::Result<bool> =
            c.query_row(sql::CHECKPOINT_TRUNCATE, [], |row| row.get(0));
        let _ = c.busy_timeout(StorageHealth::BUSY_TIMEOUT);
        self.limit = Self::LIMIT;
        if busy != Ok(false) {
            self.limit = length + Self::RETRY;
            log::warn!(
                "the write-ahead log of {} MiB was not emptied: it is being read",
                length >> 20
            );
        }
    }
}
