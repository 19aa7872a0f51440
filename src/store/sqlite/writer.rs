//! The writer thread.
//!
//! It owns the only connection that may change the file. Jobs queue in memory; the thread takes whatever is queued, runs
//! it in one transaction, each job in a savepoint of its own, commits once (one fsync, `synchronous=FULL`), and only then
//! answers them all. There is no timer: while one group's fsync runs, the next group forms by itself, so a lone write
//! does not wait and a thousand share one flush (group commit; DeWitt et al., SIGMOD 1984).

mod copy;
mod health;
mod job;
mod wal;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

pub(super) use self::health::StorageHealth;
use self::job::{Job, Typed, commit};
use self::wal::Wal;
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
    alive: AtomicBool,
    observers: Arc<Observers>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    copy: Option<CopyRequest>,
    /// Why normal writes are refused, if the storage has a fault.
    fault: Option<StoreError>,
    /// When the thread started its current group; `None` while it is idle.
    began: Option<Instant>,
    closed: bool,
}

/// The jobs that are committed together.
type Group = Vec<Box<dyn Job>>;

/// A copy of the database into an empty file.
struct CopyRequest {
    to: PathBuf,
    reply: oneshot::Sender<Result<()>>,
}

/// The state of the thread besides its connection.
struct Tools {
    wal: Wal,
    health: StorageHealth,
}

impl Writer {
    /// Jobs that may wait.
    pub(super) const CAPACITY: usize = 4096;
    /// Further capacity for jobs that end a reservation.
    const SETTLEMENT_CAPACITY: usize = 4096;
    /// The maximum of jobs per transaction, so that the first of a group does not wait for thousands.
    const GROUP: usize = 512;

    /// Starts the thread on `connection`; `wal` is its log file.
    pub(super) fn start(
        connection: Connection,
        wal: PathBuf,
        health: StorageHealth,
        observers: Arc<Observers>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(Queue::default(), observers));
        let thread = {
            let shared = Arc::clone(&shared);
            let wal = Wal::new(wal);
            std::thread::Builder::new()
                .name("r3mes-writer".to_owned())
                .spawn(move || shared.run(connection, Tools { wal, health }))?
        };
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
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

    /// Queues `work` and waits until it is committed, refused or failed. The work goes on if the caller is dropped.
    ///
    /// `change` returns the change for observers; the writer thread notifies them, as the caller may be dropped before the
    /// commit.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        change: fn(&T) -> Option<Change>,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Box::new(Typed {
            priority,
            work: Some(work),
            outcome: None,
            change,
            reply,
        }))?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Copies the database into an empty file, between other writes; the copy includes what they commit until its end. One
    /// at a time.
    pub(super) async fn copy(&self, to: PathBuf) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.lock();
            if queue.closed {
                return Err(closed());
            }
            queue.copy = Some(CopyRequest { to, reply });
        }
        self.shared.filled.notify_one();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Whether normal jobs are accepted.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire) && self.shared.lock().fault.is_none()
    }

    /// How long the thread has been busy with one group of writes or one step of a copy; `None` while it is idle.
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
            alive: AtomicBool::new(true),
            observers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Box<dyn Job>) -> Result<()> {
        let mut queue = self.lock();
        let capacity = match job.priority() {
            Priority::Normal => Writer::CAPACITY,
            Priority::Settlement => Writer::CAPACITY + Writer::SETTLEMENT_CAPACITY,
        };
        if queue.closed {
            return Err(closed());
        }
        if let (Priority::Normal, Some(fault)) = (job.priority(), &queue.fault) {
            return Err(fault.clone());
        }
        if queue.jobs.len() >= capacity {
            return Err(StoreError::Busy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// The next group, and the copy to advance after it; the copy does not wait for an empty queue, as there may never be
    /// one. An empty group probes whether a fault is over. `None` when the queue is closed and empty.
    fn next(&self) -> Option<(Group, Option<CopyRequest>)> {
        let mut queue = self.lock();
        queue.began = None;
        while queue.jobs.is_empty() && queue.copy.is_none() {
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
        Some((queue.take_group(), queue.copy.take()))
    }

    fn run(&self, connection: Connection, mut tools: Tools) {
        while let Some((group, copy)) = self.next() {
            self.write(&connection, &mut tools, group);
            if let Some(CopyRequest { to, reply }) = copy {
                let copied = self.copy(&connection, &mut tools, &to);
                // The caller may be gone; it finds a complete file or none.
                let _ = reply.send(copied.and_then(|()| tools.health.check_file()));
            }
        }
        self.alive.store(false, Ordering::Release);
        // Closing the last connection checkpoints too; doing it here reports errors.
        if let Err(error) = connection.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(())) {
            log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = connection.close() {
            log::warn!("the database was not closed cleanly: {error}");
        }
    }

    fn write(&self, c: &Connection, tools: &mut Tools, group: Group) {
        let mut group = self.admit(group);
        if group.is_empty() {
            self.check_recovery(c, tools);
            return;
        }
        let started = Instant::now();
        let health = &mut tools.health;
        // Before the commit, so that nothing is written to a deleted file, and after it, so that nothing is acknowledged.
        let committed = health
            .check_file()
            .and_then(|()| commit(c, &mut group))
            .and_then(|()| health.check_file());
        if let Err(error) = &committed {
            log::error!("a group of {} writes failed: {error}", group.len());
        }
        if let Some(fault) = health::fault_of(&committed, &group)
            && health.record_failure(c, &fault)
        {
            self.lock().fault = Some(fault);
        }
        let took = started.elapsed();
        self.observers
            .each(|observer| observer.committed(group.len(), took, committed.is_ok()));
        for job in group {
            job.answer(&committed, &self.observers);
        }
        if self.check_recovery(c, tools) {
            tools.wal.checkpoint_if_needed(c);
        }
    }

    /// The jobs of a group that may run; the others were queued before a fault.
    fn admit(&self, group: Group) -> Group {
        let Some(fault) = self.lock().fault.clone() else {
            return group;
        };
        let (settlements, normal): (Group, Group) = group
            .into_iter()
            .partition(|job| job.priority() == Priority::Settlement);
        for job in normal {
            job.answer(&Err(fault.clone()), &self.observers);
        }
        settlements
    }

    /// Accepts normal writes again if a fault is over; returns whether there is none.
    fn check_recovery(&self, c: &Connection, tools: &mut Tools) -> bool {
        let recovered = tools.health.recovered(c);
        if recovered {
            self.lock().fault = None;
        }
        recovered
    }
}

impl Queue {
    /// Removes the queued jobs, at most one group.
    fn take_group(&mut self) -> Group {
        self.began = Some(Instant::now());
        let size = self.jobs.len().min(Writer::GROUP);
        self.jobs.drain(..size).collect()
    }
}

#[cfg(test)]
mod tests;
