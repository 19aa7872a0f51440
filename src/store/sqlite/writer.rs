//! The writer thread: it owns the only connection that may change the file.
//!
//! Jobs queue in memory; the thread takes whatever is queued, runs it in one transaction, each job in a savepoint of its
//! own, commits once (one fsync, `synchronous=FULL`), and only then answers them all. There is no timer: while one group's
//! fsync runs, the next group forms by itself, so a lone write does not wait and a thousand share one flush (group
//! commit; DeWitt et al., SIGMOD 1984).

mod health;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

pub(super) use self::health::StorageHealth;
use super::row::execute;
use super::{closed, sql};
use crate::store::{Change, Observers, Result, StoreError};

/// How a job is queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Priority {
    /// Refused if the queue is full or the storage has a fault.
    Normal,
    /// Has its own capacity: ending a reservation must succeed under any load of new ones.
    Settlement,
}

/// The handle to the writing thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    observers: Arc<Observers>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Why normal writes are refused, if the storage has a fault.
    fault: Option<StoreError>,
    /// When the thread started its current group; `None` while it is idle.
    began: Option<Instant>,
    closed: bool,
}

/// One write.
struct Job {
    priority: Priority,
    work: Work,
    /// Receives the result of the work, if its group was committed.
    reply: oneshot::Sender<Result<()>>,
}

/// Changes the database; an error is rolled back. Returns the change for observers.
type Work = Box<dyn FnOnce(&Connection) -> Result<Option<Change>> + Send>;

impl Writer {
    /// Jobs that may wait.
    pub(super) const CAPACITY: usize = 4096;
    /// Further capacity for jobs that end a reservation.
    const SETTLEMENT_CAPACITY: usize = 4096;
    /// The maximum of jobs per transaction, so that the first of a group does not wait for thousands.
    const GROUP: usize = 512;

    /// Starts the thread on `connection`; `log` is its write-ahead log.
    pub(super) fn start(
        connection: Connection,
        log: PathBuf,
        health: StorageHealth,
        observers: Arc<Observers>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(Queue::default(), observers));
        let thread = WriterThread {
            c: connection,
            shared: Arc::clone(&shared),
            health,
            log,
            log_limit: WriterThread::LOG_LIMIT,
        };
        let builder = std::thread::Builder::new().name("r3mes-writer".to_owned());
        Ok(Self {
            shared,
            thread: Mutex::new(Some(builder.spawn(move || thread.run())?)),
        })
    }

    /// A writer that refuses every job, for a database that is only read.
    pub(super) fn closed(observers: Arc<Observers>) -> Self {
        let closed = Queue {
            closed: true,
            ..Queue::default()
        };
        Self {
            shared: Arc::new(Shared::new(closed, observers)),
            thread: Mutex::default(),
        }
    }

    /// Queues `work`; the future waits until it is committed, refused or failed. The work goes on if the future is dropped.
    ///
    /// `change` returns the change for observers; the writer thread notifies them, as the future may be dropped before the
    /// commit.
    pub(super) fn write<T: Send + 'static, W: FnOnce(&Connection) -> Result<T> + Send + 'static>(
        &self,
        priority: Priority,
        work: W,
        change: fn(&T) -> Option<Change>,
    ) -> impl Future<Output = Result<T>> + use<T, W> {
        let (send, value) = oneshot::channel();
        let (reply, committed) = oneshot::channel();
        let work = Box::new(move |c: &Connection| {
            let value = work(c)?;
            let change = change(&value);
            // The caller may have been dropped; the work is done anyway.
            let _ = send.send(value);
            Ok(change)
        });
        let queued = self.shared.push(Job {
            priority,
            work,
            reply,
        });
        async {
            queued?;
            committed.await.unwrap_or_else(|_| Err(closed()))?;
            value.await.map_err(|_| closed())
        }
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Whether normal jobs are accepted.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.lock().fault.is_none()
    }

    /// How long the thread has been busy with one group of writes; `None` while it is idle.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        self.shared.lock().began.map(|began| began.elapsed())
    }

    /// Refuses further jobs, completes the queued ones, closes the connection.
    pub(super) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        let thread = self.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the writing thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(queue: Queue, observers: Arc<Observers>) -> Self {
        Self {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            observers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<()> {
        let mut queue = self.lock();
        let (capacity, fault) = match job.priority {
            Priority::Normal => (Writer::CAPACITY, queue.fault.clone()),
            Priority::Settlement => (Writer::CAPACITY + Writer::SETTLEMENT_CAPACITY, None),
        };
        match fault {
            _ if queue.closed => return Err(closed()),
            Some(fault) => return Err(fault),
            None if queue.jobs.len() >= capacity => return Err(StoreError::Busy),
            None => {}
        }
        queue.jobs.push_back(job);
        self.filled.notify_one();
        Ok(())
    }

    /// The jobs to commit together; none when it is time to probe whether a fault is over. `None` when the queue is closed
    /// and empty.
    fn next_group(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        queue.began = None;
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            let timeout = match queue.fault {
                None => Duration::MAX,
                Some(_) => StorageHealth::PROBE_INTERVAL,
            };
            let woken = self.filled.wait_timeout(queue, timeout);
            let (woken, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if waited.timed_out() {
                break;
            }
        }
        queue.began = Some(Instant::now());
        let size = queue.jobs.len().min(Writer::GROUP);
        Some(queue.jobs.drain(..size).collect())
    }
}

/// The state of the thread.
struct WriterThread {
    c: Connection,
    shared: Arc<Shared>,
    health: StorageHealth,
    log: PathBuf,
    /// The length at which the log is truncated next.
    log_limit: u64,
}

impl WriterThread {
    /// Without readers the log restarts by itself at about 4 MiB.
    const LOG_LIMIT: u64 = 32 << 20;
    /// How much it grows between two attempts to truncate it.
    const LOG_RETRY: u64 = 8 << 20;
    /// How long truncating it waits for the current reads; writes wait too, new reads do not.
    const LOG_TIMEOUT: Duration = Duration::from_millis(700);

    fn run(mut self) {
        while let Some(group) = self.shared.next_group() {
            self.write(group);
            if self.health.recovered(&self.c) {
                self.shared.lock().fault = None;
                self.truncate_log();
            }
        }
        self.shared.lock().fault = Some(closed());
        // Closing the last connection checkpoints too; doing it here reports errors.
        if let Err(error) = self.c.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(())) {
            log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = self.c.close() {
            log::warn!("the database was not closed cleanly: {error}");
        }
    }

    fn write(&mut self, mut group: Vec<Job>) {
        if let Some(fault) = self.shared.lock().fault.clone() {
            // Queued before the fault.
            for job in group.extract_if(.., |job| job.priority == Priority::Normal) {
                let _ = job.reply.send(Err(fault.clone()));
            }
        }
        if group.is_empty() {
            return;
        }
        let (jobs, started) = (group.len(), Instant::now());
        let (works, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.work, job.reply)).unzip();
        // Before the commit, so that nothing is written to a deleted file, and after it, so that nothing is acknowledged.
        let checked = self.health.check_file();
        let committed = checked
            .and_then(|()| commit(&self.c, works))
            .and_then(|outcomes| self.health.check_file().map(|()| outcomes));
        if let Err(error) = &committed {
            log::error!("a group of {jobs} writes failed: {error}");
        }
        if let Some(fault) = health::fault_of(&committed)
            && self.health.record_failure(&self.c, &fault)
        {
            self.shared.lock().fault = Some(fault);
        }
        let (took, ok) = (started.elapsed(), committed.is_ok());
        let observers = &self.shared.observers;
        observers.each(|observer| observer.committed(jobs, took, ok));
        let outcomes = committed.unwrap_or_else(|error| vec![Err(error); jobs]);
        for (outcome, reply) in outcomes.into_iter().zip(replies) {
            if let Ok(Some(change)) = &outcome {
                observers.each(|observer| observer.changed(change));
            }
            let _ = reply.send(outcome.map(drop));
        }
    }

    /// Truncates a long log, as SQLite restarts it only while nothing reads. If a long read prevents that, it is tried again
    /// when the log has grown.
    fn truncate_log(&mut self) {
        let length = std::fs::metadata(&self.log).map_or(0, |file| file.len());
        if length < self.log_limit {
            return;
        }
        let _ = self.c.busy_timeout(Self::LOG_TIMEOUT);
        let busy: rusqlite::Result<bool> =
            (self.c).query_row(sql::CHECKPOINT_TRUNCATE, [], |row| row.get(0));
        let _ = self.c.busy_timeout(StorageHealth::BUSY_TIMEOUT);
        self.log_limit = Self::LOG_LIMIT;
        if busy != Ok(false) {
            self.log_limit = length + Self::LOG_RETRY;
            log::warn!(
                "the write-ahead log of {} MiB was not emptied: it is being read",
                length >> 20
            );
        }
    }
}

/// Runs a group in one transaction. An error is the whole group's; a job's own failure is only its own. A job that is
/// alone needs no savepoint, for which SQLite would copy every page that it changes.
fn commit(c: &Connection, works: Vec<Work>) -> Result<Vec<Result<Option<Change>>>> {
    let alone = works.len() == 1;
    // Rolled back if it is dropped.
    let transaction = Transaction::new_unchecked(c, TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(works.len());
    for work in works {
        if !alone {
            execute(c, "SAVEPOINT job", [])?;
        }
        let panicked = |_| Err(StoreError::Internal("a write panicked".to_owned()));
        let outcome = catch_unwind(AssertUnwindSafe(|| work(c))).unwrap_or_else(panicked);
        // A full disk or an I/O error may have rolled back everything, earlier jobs included.
        if c.is_autocommit() {
            let rolled_back = "the transaction was rolled back".to_owned();
            return outcome.and(Err(StoreError::Unavailable(rolled_back)));
        }
        match (&outcome, alone) {
            (Ok(_), true) => {}
            (Err(_), true) => return Ok(vec![outcome]),
            (Ok(_), false) => drop(execute(c, "RELEASE job", [])?),
            (Err(_), false) => c.execute_batch("ROLLBACK TO job; RELEASE job")?,
        }
        outcomes.push(outcome);
    }
    transaction.commit()?;
    Ok(outcomes)
}

#[cfg(test)]
mod tests;
