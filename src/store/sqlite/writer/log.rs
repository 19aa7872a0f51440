use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::super::readers::Gate;
use super::super::{be_nice, sql};
use super::faults::Faults;

/// Bytes from which on the log is emptied while the readers wait. It begins anew by itself at some 8 MiB, unless somebody
/// reads from it all the time.
const LONG_LOG: u64 = 32 << 20;
/// Pages in the log from which on they are moved to their places. Writes wait for the last of them and their flush, so it
/// is done seldom; the same pages are changed again and again, so there are few to move.
const MANY: i64 = 2000;
/// Commits from one look at the log to the next, which SQLite prepares anew each time.
const COMMITS: u32 = 8;
/// What the writing thread moves itself.
const FEW: i64 = 32;
/// Rounds after which the rest counts as few, however much is written meanwhile.
const ROUNDS: usize = 5;

/// How long the readers are waited for, at first and at most. Writes wait too.
const PATIENCE: Duration = Duration::from_millis(250);
const LONGEST_PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// The write-ahead log, which must not grow without end.
pub(super) struct Log {
    file: PathBuf,
    gate: Gate,
    mover: Mover,
    /// To wait for the readers, which wait in async code.
    runtime: tokio::runtime::Runtime,
    patience: Duration,
    not_before: Instant,
    commits: u32,
}

impl Log {
    /// Of the database that `connection` writes, whose log is `file`.
    pub(super) fn new(connection: &Connection, file: PathBuf, gate: Gate) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        Ok(Self {
            file,
            gate,
            mover: Mover::start(connection)?,
            runtime,
            patience: PATIENCE,
            not_before: Instant::now(),
            commits: 0,
        })
    }

    /// Sees to it that the log begins anew before it is long; to be called after each commit. Another program that reads
    /// may keep it from that; then it is tried again.
    pub(super) fn keep_short(&mut self, connection: &Connection) {
        self.commits = (self.commits + 1) % COMMITS;
        if self.commits != 0 {
            return;
        }
        if self.mover.is_done() {
            // What was written since. The next write finds everything moved, and writes from the log's start.
            let _ = connection.query_row(sql::COPY_LOG, [], |_| Ok(()));
        } else if unmoved(connection) >= MANY {
            self.mover.begin();
        }
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

/// Pages in the log that are not in the file yet.
fn unmoved(connection: &Connection) -> i64 {
    let look = || {
        let mut look = connection.prepare_cached(sql::LOOK_AT_LOG)?;
        look.query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
    };
    // Where it cannot be told, its length still can.
    look().unwrap_or(0)
}

/// The thread that moves pages from the log to their places, which takes long as they are flushed there. SQLite would do it
/// in the commit that finds the log long, and let the writes wait.
struct Mover {
    begin: Option<SyncSender<()>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    fn start(writing: &Connection) -> std::io::Result<Self> {
        let opened = || {
            writing.pragma_update(None, "wal_autocheckpoint", 0)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(writing.path().unwrap_or_default(), flags)
        };
        let connection = opened().map_err(std::io::Error::other)?;
        // Without a place: whoever is at work hears nothing.
        let (begin, told) = sync_channel(0);
        let done = Arc::new(AtomicBool::new(false));
        let thread = {
            let done = Arc::clone(&done);
            let work = move || {
                // Nobody waits for it, but its pages keep a core busy for a while; it must not fall behind, either.
                be_nice(5);
                for () in told {
                    for _ in 0..ROUNDS {
                        // A full disk, say: the writing thread meets it too, and says so.
                        let moved = connection.query_row(sql::COPY_LOG, [], |_| Ok(()));
                        if moved.is_err() || unmoved(&connection) <= FEW {
                            break;
                        }
                    }
                    done.store(true, Ordering::Release);
                }
            };
            std::thread::Builder::new()
                .name("r3mes-move".to_owned())
                .spawn(work)?
        };
        Ok(Self {
            begin: Some(begin),
            done,
            thread: Some(thread),
        })
    }

    fn begin(&self) {
        if let Some(begin) = &self.begin {
            let _ = begin.try_send(());
        }
    }

    /// Whether it has moved nearly everything since this was asked last.
    fn is_done(&self) -> bool {
        self.done.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.begin.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that moves the log's pages panicked");
        }
    }
}
