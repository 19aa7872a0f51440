//! The write-ahead log: its length, and whose it is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use super::super::{identity, sql};
use super::health::StorageHealth;

pub(super) struct WriteAheadLog {
    path: PathBuf,
    /// The length at which it is truncated next.
    limit: u64,
    file: Option<File>,
    /// Of the log that has its number.
    salt: Option<[u8; 8]>,
}

impl WriteAheadLog {
    /// Without readers the log restarts by itself at about 4 MiB.
    const LIMIT: u64 = 32 << 20;
    /// How much it grows between two attempts to truncate it.
    const RETRY: u64 = 8 << 20;
    /// How long truncating it waits for the current reads; writes wait too, new reads do not.
    const TIMEOUT: Duration = Duration::from_millis(700);

    pub(super) fn new(path: PathBuf) -> Self {
        let mut log = Self {
            limit: Self::LIMIT,
            file: File::open(&path).ok(),
            path,
            salt: None,
        };
        log.salt = log.read_salt();
        log
    }

    /// Bytes 16 to 23 of the header are random, and others each time that SQLite begins the log anew (SQLite, "Database File
    /// Format", 4.1). `None` while it is empty.
    fn read_salt(&self) -> Option<[u8; 8]> {
        let mut salt = [0; 8];
        let read = self.file.as_ref()?.read_exact_at(&mut salt, 16);
        read.ok().map(|()| salt)
    }

    /// Gives a log that was begun anew its number, by which it is known beside another file.
    pub(super) fn mark(&mut self, c: &Connection) {
        let salt = self.read_salt();
        if salt.is_some() && salt != self.salt && identity::begin_log(c).is_ok() {
            // That write may have begun another one.
            self.salt = self.read_salt();
        }
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
