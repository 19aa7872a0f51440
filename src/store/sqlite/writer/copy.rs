use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::super::storage_error;
use super::{Shared, Tools, closed};
use crate::store::StoreError;

/// Pages of one step. While others write there is a step to each of their groups, so that the copy takes its share of the
/// disk and no more; while nobody does, one follows the other.
const STEP: i32 = 16;
/// Pages of what is flushed at once.
const FLUSH: i32 = 256;
/// How long a step is tried that another program's lock keeps from going on.
const PATIENCE: Duration = Duration::from_secs(5);

impl Shared {
    /// Copies step by step; whatever is queued meanwhile goes first.
    pub(super) fn copy(
        &self,
        connection: &Connection,
        tools: &mut Tools,
        to: &Path,
        grown: &SyncSender<()>,
    ) -> Result<(), StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut copy = Connection::open_with_flags(to, flags).map_err(storage_error)?;
        // A copy that is not whole has no name and is thrown away: it needs no journal, and is flushed by who asked.
        copy.pragma_update(None, "journal_mode", "off")
            .and_then(|()| copy.pragma_update(None, "synchronous", "off"))
            .map_err(storage_error)?;
        let backup = Backup::new(connection, &mut copy).map_err(storage_error)?;
        let (mut unflushed, mut stepped) = (0, Instant::now());
        loop {
            match backup.step(STEP).map_err(storage_error)? {
                StepResult::Done => return Ok(()),
                StepResult::More => {
                    unflushed += STEP;
                    stepped = Instant::now();
                }
                // Busy or locked: writes go on, and it is tried again.
                _ if stepped.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
                _ => {
                    let held = "another program holds a lock of the database";
                    return Err(StoreError::Unavailable(held.to_owned()));
                }
            }
            if unflushed >= FLUSH {
                unflushed = 0;
                // Where the last piece is still being flushed, this one goes with the next.
                let _ = grown.try_send(());
            }
            let group = {
                let mut queue = self.lock();
                if queue.closed {
                    return Err(closed());
                }
                queue.group()
            };
            // An empty one too: a copy must not keep the end of a fault from being noticed.
            self.write(connection, tools, group);
        }
    }
}
