//! Copies the database between other writes. SQLite's online backup restarts when another connection writes, and a copy
//! within one read transaction would keep the log from being truncated.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Advice, fadvise};

use super::super::closed;
use super::{Shared, Tools};
use crate::store::{Result, StoreError};

/// Pages per step. With other writes queued there is one step per group, so that the copy does not delay them; otherwise
/// steps follow each other directly.
const STEP_PAGES: i32 = 16;
/// Steps between two requests to the kernel to write the copy: one flush of everything at the end would delay commits.
const FLUSH_STEPS: u64 = 16;
/// How long a step that another program's lock blocks is retried.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    /// Copies step by step into an empty file; queued writes run first.
    pub(super) fn copy(&self, c: &Connection, tools: &mut Tools, to: &Path) -> Result<()> {
        let failed = |error: std::io::Error| StoreError::Unavailable(error.to_string());
        let file = File::open(to).map_err(failed)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut copy = Connection::open_with_flags(to, flags)?;
        // An incomplete copy is discarded: it needs no journal, and is flushed at its end.
        copy.pragma_update(None, "journal_mode", "off")?;
        copy.pragma_update(None, "synchronous", "off")?;
        let backup = Backup::new(c, &mut copy)?;
        let (mut steps, mut flushed, mut stepped) = (0, 0, Instant::now());
        loop {
            match backup.step(STEP_PAGES)? {
                StepResult::Done => return Ok(()),
                StepResult::More => {
                    steps += 1;
                    stepped = Instant::now();
                }
                // Busy or locked: writes go on, and it is tried again.
                _ if stepped.elapsed() < BUSY_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => {
                    let held = "another program holds a lock of the database";
                    return Err(StoreError::Unavailable(held.to_owned()));
                }
            }
            if steps % FLUSH_STEPS == 0 {
                let length = file.metadata().map_or(flushed, |about| about.len());
                let grown = NonZeroU64::new(length.saturating_sub(flushed));
                if grown.is_some() {
                    // Best effort; the flush at the end is the one that matters.
                    let _ = fadvise(&file, flushed, grown, Advice::DontNeed);
                    flushed = length;
                }
            }
            let group = {
                let mut queue = self.lock();
                if queue.closed {
                    return Err(closed());
                }
                queue.take_group()
            };
            // Also an empty one: a copy must not delay noticing the end of a fault.
            self.write(c, tools, group);
        }
    }
}
