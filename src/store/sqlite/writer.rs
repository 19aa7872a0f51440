//! The writer thread: it owns the only connection that may change the file.
//!
//! Jobs queue in memory; the thread takes whatever is queued, runs it in one transaction, each job in a savepoint of its
//! own, commits once (one fsync, `synchronous=FULL`), and only then answers them all. There is no timer: while one group's
//! fsync runs, the next group forms by itself, so a lone write does not wait and a thousand share one flush (group
//! commit; DeWitt et al., SIGMOD 1984).

mod health;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
#[derive(Default)]
pub(super) struct Writer {
    /// `None` once closed, and for a database that is only read.
    running: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
    state: Arc<State>,
}

/// What the handle and the thread share.
#[derive(Default)]
struct State {
    /// Jobs queued.
    depth: AtomicUsize,
    /// Why normal writes are refused, if the storage has a fault.
    fault: Mutex<Option<StoreError>>,
    /// When the thread started its current group; `None` while it is idle.
    began: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (sender, jobs) = channel();
        let state = Arc::<State>::default();
        let thread = WriterThread {
            c: connection,
            jobs,
            state: Arc::clone(&state),
            observers,
            health,
            log,
            log_limit: WriterThread::LOG_LIMIT,
        };
        let builder = std::thread::Builder::new().name("r3mes-writer".to_owned());
        let thread = builder.spawn(move || thread.run())?;
        let running = Mutex::new(Some((sender, thread)));
        Ok(Self { running, state })
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
        let queued = self.push(Job {
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

    fn push(&self, job: Job) -> Result<()> {
        let running = lock(&self.running);
        let (jobs, _) = running.as_ref().ok_or_else(closed)?;
        let (capacity, fault) = match job.priority {
            Priority::Normal => (Self::CAPACITY, lock(&self.state.fault).clone()),
            Priority::Settlement => (Self::CAPACITY + Self::SETTLEMENT_CAPACITY, None),
        };
        match fault {
            Some(fault) => return Err(fault),
            None if self.depth() >= capacity => return Err(StoreError::Busy),
            None => {}
        }
        self.state.depth.fetch_add(1, Ordering::Relaxed);
        jobs.send(job).map_err(|_| closed())
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.state.depth.load(Ordering::Relaxed)
    }

    /// Whether normal jobs are accepted.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.state.fault).is_none()
    }

    /// How long the thread has been busy with one group of writes; `None` while it is idle.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        lock(&self.state.began).map(|began| began.elapsed())
    }

    /// Refuses further jobs, completes the queued ones, closes the connection.
    pub(super) fn close(&self) {
        let running = lock(&self.running).take();
        if let Some((jobs, thread)) = running {
            drop(jobs);
            if thread.join().is_err() {
                log::error!("the writing thread panicked");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The state of the thread.
struct WriterThread {
    c: Connection,
    jobs: Receiver<Job>,
    state: Arc<State>,
    observers: Arc<Observers>,
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
        loop {
            let timeout = match *lock(&self.state.fault) {
                None => Duration::MAX,
                Some(_) => StorageHealth::PROBE_INTERVAL,
            };
            let mut group = match self.jobs.recv_timeout(timeout) {
                Ok(job) => vec![job],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            group.extend(self.jobs.try_iter().take(Writer::GROUP - group.len()));
            self.state.depth.fetch_sub(group.len(), Ordering::Relaxed);
            *lock(&self.state.began) = Some(Instant::now());
            self.write(group);
            if self.health.recovered(&self.c) {
                *lock(&self.state.fault) = None;
                self.truncate_log();
            }
            *lock(&self.state.began) = None;
        }
        *lock(&self.state.fault) = Some(closed());
        // Closing the last connection checkpoints too; doing it here reports errors.
        if let Err(error) = self.c.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(())) {
            log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = self.c.close() {
            log::warn!("the database was not closed cleanly: {error}");
        }
    }

    fn write(&mut self, mut group: Vec<Job>) {
        let fault = lock(&self.state.fault).clone();
        if let Some(fault) = fault {
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
            *lock(&self.state.fault) = Some(fault);
        }
        let (took, ok) = (started.elapsed(), committed.is_ok());
        self.observers
            .each(|observer| observer.committed(jobs, took, ok));
        let outcomes = committed.unwrap_or_else(|error| vec![Err(error); jobs]);
        for (outcome, reply) in outcomes.into_iter().zip(replies) {
            if let Ok(Some(change)) = &outcome {
                self.observers.each(|observer| observer.changed(change));
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
