//! The one thread that writes.
//!
//! It owns the only connection that may change the file. Jobs queue in memory; the thread takes whatever is queued, runs
//! it in one transaction, each job in a savepoint of its own, commits once (one fsync, `synchronous=FULL`), and only then
//! answers them all. There is no timer: while one group's fsync runs, the next group forms by itself, so a lone write
//! waits for nobody and a thousand share the disk's patience (group commit; DeWitt et al., SIGMOD 1984).
//!
//! It also copies the database, in small steps between groups: SQLite's online backup begins anew when anybody but its
//! own connection writes, and a copy by a reader would keep the log from being emptied all the while.

mod copy;
mod faults;
mod job;
mod log;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

pub(super) use self::faults::Faults;
use self::job::{Job, Typed, commit};
use self::log::Log;
use super::readers::Gate;
use super::sql;
use super::unchanged::Commits;
use crate::store::{Change, Observers, StoreError};

/// How urgent a job is when the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// Refused when the queue is full, or the storage at fault.
    Common,
    /// Has room of its own: what ends a reservation must get in however many want to begin one.
    Kept,
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
    commits: Commits,
    observers: Arc<Observers>,
}

struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    copy: Option<Copying>,
    /// A copy is waited for or under way.
    copying: bool,
    /// Why common writes are refused, where the storage is at fault.
    fault: Option<StoreError>,
    /// When the thread began what it is at, if it is at work.
    began: Option<Instant>,
    closed: bool,
}

/// What is committed together.
type Group = Vec<Box<dyn Job>>;

/// A copy that is asked for.
struct Copying {
    to: PathBuf,
    /// Told now and then as the copy grows, so that somebody else flushes it in pieces.
    grown: SyncSender<()>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// What the thread does next.
enum Next {
    /// Writes, and then the copy that was asked for.
    Work(Group, Option<Copying>),
    /// Whether a fault is over.
    Look,
}

/// What the thread has beside its connection.
struct Tools {
    log: Log,
    faults: Faults,
}

impl Writer {
    /// Jobs that may wait.
    pub(super) const CAPACITY: usize = 4096;
    /// Further places for jobs that end a reservation.
    const KEPT: usize = 4096;
    /// Jobs in one transaction at most, so that the first of a group does not wait for thousands.
    const GROUP: usize = 512;

    /// Starts the thread on `connection`, whose log is the file `log`.
    pub(super) fn start(
        connection: Connection,
        log: PathBuf,
        faults: Faults,
        gate: Gate,
        commits: Commits,
        observers: Arc<Observers>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                copy: None,
                copying: false,
                fault: None,
                began: None,
                closed: false,
            }),
            filled: Condvar::new(),
            alive: AtomicBool::new(true),
            commits,
            observers,
        });
        let thread = {
            let shared = Arc::clone(&shared);
            let tools = Tools {
                log: Log::new(&connection, log, gate)?,
                faults,
            };
            std::thread::Builder::new()
                .name("r3mes-writer".to_owned())
                .spawn(move || shared.run(connection, tools))?
        };
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues `work` and waits until it is committed, refused or failed. The work goes on if the caller is dropped.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        room: Room,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(room, work, |_| None).await
    }

    /// The same for what others may have kept or count; `change` says what they are told. It is this thread that tells
    /// them, as the caller may be gone by the time of the commit.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        change: fn(&T) -> Option<Change>,
    ) -> Result<T, StoreError> {
        self.queue(Room::Common, work, change).await
    }

    async fn queue<T: Send + 'static>(
        &self,
        room: Room,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        change: fn(&T) -> Option<Change>,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Box::new(Typed {
            room,
            work: Some(work),
            outcome: None,
            change,
            reply,
        }))?;
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(
                "the writing thread ended".to_owned(),
            ))
        })
    }

    /// Copies the database into an empty file, between the writes of others; what they commit until the end is in it.
    /// `grown` is told as it grows.
    pub(super) async fn copy(&self, to: PathBuf, grown: SyncSender<()>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.lock();
            if queue.closed {
                return Err(closed());
            }
            if queue.copying {
                return Err(StoreError::Conflict(
                    "a copy is being made already".to_owned(),
                ));
            }
            queue.copying = true;
            queue.copy = Some(Copying { to, grown, reply });
        }
        self.shared.filled.notify_one();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Whether common jobs are taken.
    pub(super) fn takes_jobs(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire) && self.shared.lock().fault.is_none()
    }

    /// How long the thread has been at one group of writes or one step of a copy; `None` where it rests.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        self.shared.lock().began.map(|began| began.elapsed())
    }

    /// Takes no more jobs, finishes those that wait, closes the connection.
    pub(super) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            ::log::error!("the writing thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        let mut queue = self.lock();
        let places = match job.room() {
            Room::Common => Writer::CAPACITY,
            Room::Kept => Writer::CAPACITY + Writer::KEPT,
        };
        if queue.closed {
            return Err(closed());
        }
        if let (Room::Common, Some(fault)) = (job.room(), &queue.fault) {
            return Err(fault.clone());
        }
        if queue.jobs.len() >= places {
            return Err(StoreError::Busy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// What is next, or `None` once the queue is closed and empty: a group, then the copy that was asked for. That one is
    /// not put off until no job waits, as there may never be such a moment.
    fn next(&self) -> Option<Next> {
        let mut queue = self.lock();
        queue.began = None;
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            if queue.copy.is_some() {
                break;
            }
            if queue.fault.is_none() {
                queue = self
                    .filled
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (woken, waited) = self
                .filled
                .wait_timeout(queue, Faults::PAUSE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if waited.timed_out() {
                queue.began = Some(Instant::now());
                return Some(Next::Look);
            }
        }
        Some(Next::Work(queue.group(), queue.copy.take()))
    }

    fn run(&self, connection: Connection, mut tools: Tools) {
        while let Some(next) = self.next() {
            let Next::Work(group, copy) = next else {
                self.look(&connection, &mut tools);
                continue;
            };
            if !group.is_empty() {
                self.write(&connection, &mut tools, group);
            }
            if let Some(Copying { to, grown, reply }) = copy {
                let copied = self
                    .copy(&connection, &mut tools, &to, &grown)
                    .and_then(|()| tools.faults.check_file());
                self.lock().copying = false;
                // Whoever asked may have left; what they find is a whole file or none.
                let _ = reply.send(copied);
            }
        }
        self.alive.store(false, Ordering::Release);
        // Its connection too must be closed before the last one.
        drop(tools);
        // Everything is in the main file when the last connection closes; doing it here reports what goes wrong.
        if let Err(error) = connection.query_row(sql::EMPTY_LOG, [], |_| Ok(())) {
            ::log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = connection.close() {
            ::log::warn!("the database was not closed cleanly: {error}");
        }
    }
}

impl Shared {
    fn write(&self, connection: &Connection, tools: &mut Tools, group: Group) {
        let mut group = self.admitted(group);
        if group.is_empty() {
            self.look(connection, tools);
            return;
        }
        let started = Instant::now();
        // Before it, so that nothing is written into a file that is gone, and after it, so that nothing is acknowledged.
        let committed = tools
            .faults
            .check_file()
            .and_then(|()| commit(connection, &mut group))
            .and_then(|()| tools.faults.check_file());
        // Of a commit that failed nobody knows what became.
        self.commits.one_more();
        if let Err(error) = &committed {
            ::log::error!("a group of {} writes failed: {error}", group.len());
        }
        if let Some(fault) = faults::of(&committed, &group)
            && tools.faults.met(connection, &fault)
        {
            self.lock().fault = Some(fault);
        }
        let took = started.elapsed();
        self.observers
            .each(|observer| observer.committed(group.len(), took, committed.is_ok()));
        for job in group {
            job.answer(&committed, &self.observers);
        }
        if self.look(connection, tools) {
            tools.log.keep_short(connection);
        }
    }

    /// Those of a group that may be tried; the others were queued before a fault was met.
    fn admitted(&self, group: Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        let Some(fault) = self.lock().fault.clone() else {
            return group;
        };
        let (kept, common): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|job| job.room() == Room::Kept);
        for job in common {
            job.answer(&Err(fault.clone()), &self.observers);
        }
        kept
    }

    /// Takes common writes again where a fault is over; whether there is none.
    fn look(&self, connection: &Connection, tools: &mut Tools) -> bool {
        let over = tools.faults.are_over(connection);
        if over {
            self.lock().fault = None;
        }
        over
    }
}

impl Queue {
    /// Takes what is queued, at most a group.
    fn group(&mut self) -> Group {
        self.began = Some(Instant::now());
        let size = self.jobs.len().min(Writer::GROUP);
        self.jobs.drain(..size).collect()
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the storage is closed".to_owned())
}

#[cfg(test)]
mod tests;
