use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::readers::Gate;
use super::super::sql;
use super::faults::Faults;

/// Bytes from which on the log is emptied while the readers wait. SQLite empties it by itself at some 4 MiB, unless
/// somebody reads from it all the time.
const LONG_LOG: u64 = 16 << 20;

/// How long the readers are waited for, at first and at most. Writes wait too.
const PATIENCE: Duration = Duration::from_millis(250);
const LONGEST_PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// The write-ahead log, which must not grow without end.
pub(super) struct Log {
    file: PathBuf,
    gate: Gate,
    /// To wait for the readers, which wait in async code.
    runtime: tokio::runtime::Runtime,
    patience: Duration,
    not_before: Instant,
}

impl Log {
    pub(super) fn new(file: PathBuf, gate: Gate) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        Ok(Self {
            file,
            gate,
            runtime,
            patience: PATIENCE,
            not_before: Instant::now(),
        })
    }

    /// Empties the log where it is long. Another program that reads may keep it from that; then it is tried again.
    pub(super) fn keep_short(&mut self, connection: &Connection) {
        let length = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        if length < LONG_LOG || Instant::now() < self.not_before {
            return;
        }
        let readers = self.runtime.block_on(self.gate.close(self.patience));
        if readers.is_none() {
            // Long reads: the next time they are waited for longer, as else the log would grow for ever.
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
        } else {
            self.patience = PATIENCE;
            if let Err(error) = empty(connection) {
                log::warn!(
                    "the write-ahead log of {} MiB was not emptied: {error}",
                    length >> 20
                );
            }
        }
        self.not_before = Instant::now() + PAUSE;
    }
}

/// Empties the log unless another program reads from it: who waits for that one keeps every write and read waiting.
fn empty(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    let emptied = connection.query_row(sql::EMPTY_LOG, [], |_| Ok(()));
    connection.busy_timeout(Faults::PATIENCE)?;
    emptied
}
