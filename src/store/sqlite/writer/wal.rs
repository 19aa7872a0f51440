//! Keeps the write-ahead log short. SQLite checkpoints it at commits, and restarts it when it has no readers. With constant
//! readers a long log is truncated explicitly, as soon as the current reads are done.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::sql;
use super::health::StorageHealth;

pub(super) struct Wal {
    file: PathBuf,
    /// The length at which it is truncated next.
    limit: u64,
}

impl Wal {
    /// Without readers it restarts by itself at about 4 MiB.
    const LIMIT: u64 = 32 << 20;
    /// How much it grows between two attempts.
    const RETRY: u64 = 8 << 20;
    /// How long to wait for the current reads; writes wait too, new reads do not.
    const TIMEOUT: Duration = Duration::from_millis(700);

    pub(super) const fn new(file: PathBuf) -> Self {
        let limit = Self::LIMIT;
        Self { file, limit }
    }

    /// Truncates the log if it is long; called after each commit. If a long read prevents that, it is tried again when the
    /// log has grown.
    pub(super) fn checkpoint_if_needed(&mut self, c: &Connection) {
        let length = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        if length < self.limit {
            return;
        }
        let emptied = Self::empty(c);
        let _ = c.busy_timeout(StorageHealth::BUSY_TIMEOUT);
        self.limit = Self::LIMIT;
        if !emptied.unwrap_or(false) {
            self.limit = length + Self::RETRY;
            log::warn!(
                "the write-ahead log of {} MiB was not emptied: it is being read",
                length >> 20
            );
        }
    }

    fn empty(c: &Connection) -> rusqlite::Result<bool> {
        let deadline = Instant::now() + Self::TIMEOUT;
        // Without writes each new read starts at the end of the log, and does not block the checkpoint.
        while c.query_row(sql::CHECKPOINT, [], |row| {
            Ok(row.get::<_, i64>(1)? != row.get::<_, i64>(2)?)
        })? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // From now on new reads do not use the log, so this waits only for the earlier ones.
        c.busy_timeout(Self::TIMEOUT)?;
        c.query_row(sql::CHECKPOINT_TRUNCATE, [], |row| {
            Ok(row.get::<_, i64>(0)? == 0)
        })
    }
}
