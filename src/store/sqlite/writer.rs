//! The writer thread: it owns the only connection that may change the file.
//!
//! Jobs queue in memory; the thread takes whatever is queued, runs it in one transaction, each job in a savepoint of its
//! own, commits once (one fsync, `synchronous=FULL`), and only then answers them all. There is no timer: while one group's
//! fsync runs, the next group forms by itself, so a lone write does not wait and a thousand share one flush (group
//! commit; DeWitt et al., SIGMOD 1984).
//!
//! A COMMIT that returned an error may have happened. Before anything else is written, the ledger is asked for an entry of
//! the group; until then its jobs are not answered and its holds remain.

mod commit;
mod health;
mod job;
mod wal;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::commit::commit;
pub(super) use self::health::StorageHealth;
#[cfg(test)]
pub(super) use self::health::{Commit, Faults};
pub(super) use self::job::Written;
use self::job::{End, Failure, Job, Refused};
use self::wal::WriteAheadLog;
use super::{accounts, closed, identity};
use crate::store::{Hold, HoldTable, Observers, Origin, Result, StoreError};

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
    /// Why writes are refused, if the storage has a fault.
    fault: Mutex<Option<StoreError>>,
    holds: Arc<HoldTable>,
    /// When the thread started its current group; `None` while it is idle.
    began: Mutex<Option<Instant>>,
    #[cfg(test)]
    faults: Arc<Faults>,
}

impl State {
    fn set_fault(&self, fault: Option<StoreError>) {
        lock(&self.fault).clone_from(&fault);
        self.holds.set_fault(fault);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Jobs that may wait, beside those that charge a hold, of which there are never more than holds.
    pub(super) const CAPACITY: usize = 4096;
    /// About the maximum of rows per transaction, so that the first of a group does not wait for thousands.
    const GROUP_ROWS: usize = 512;

    /// Starts the thread on `connection`; `log` is its write-ahead log.
    pub(super) fn start(
        connection: Connection,
        log: PathBuf,
        health: StorageHealth,
        observers: Arc<Observers>,
        holds: Arc<HoldTable>,
    ) -> std::io::Result<Self> {
        let (sender, jobs) = channel();
        let state = Arc::new(State {
            holds,
            #[cfg(test)]
            faults: Arc::clone(&health.faults),
            ..State::default()
        });
        let thread = WriterThread {
            c: connection,
            jobs,
            state: Arc::clone(&state),
            observers,
            health,
            log: WriteAheadLog::new(log),
            undecided: Vec::new(),
        };
        let builder = std::thread::Builder::new().name("r3mes-writer".to_owned());
        let thread = builder.spawn(move || thread.run())?;
        let running = Mutex::new(Some((sender, thread)));
        Ok(Self { running, state })
    }

    /// Queues `work`, which writes about so many rows; the future waits until it is committed, refused or failed. The work
    /// goes on if the future is dropped.
    pub(super) fn write<T: Send + 'static, W>(
        &self,
        rows: usize,
        work: W,
    ) -> impl Future<Output = Result<T>> + use<T, W>
    where
        W: FnOnce(&Connection) -> Result<(T, Written)> + Send + 'static,
    {
        let written = self.charge(None, rows, work);
        async { written.await.map_err(|refused| refused.0) }
    }

    /// The same for what charges a hold, which ends with the commit. An error gives it back; dropped after queueing, the
    /// future ends nothing.
    pub(super) fn charge<T: Send + 'static, W>(
        &self,
        hold: Option<Hold>,
        rows: usize,
        work: W,
    ) -> impl Future<Output = Result<T, Refused>> + use<T, W>
    where
        W: FnOnce(&Connection) -> Result<(T, Written)> + Send + 'static,
    {
        let (send, value) = oneshot::channel();
        let (reply, committed) = oneshot::channel();
        let work = Box::new(move |c: &Connection| {
            let (value, written) = work(c)?;
            // The caller may have been dropped; the work is done anyway.
            let _ = send.send(value);
            Ok(written)
        });
        let end = End { reply, hold };
        self.push(Job { work, rows, end });
        async {
            let closed = || Box::new((closed(), None));
            committed.await.unwrap_or_else(|_| Err(closed()))?;
            value.await.map_err(|_| closed())
        }
    }

    fn push(&self, mut job: Job) {
        let running = lock(&self.running);
        if let Some(hold) = &mut job.end.hold {
            self.state.holds.begin_charge(hold);
        }
        let refusal = match &*running {
            None => Some(closed()),
            Some(_) if job.end.hold.is_none() && self.depth() >= Self::CAPACITY => {
                Some(StoreError::Busy)
            }
            Some(_) => lock(&self.state.fault).clone(),
        };
        match (refusal, &*running) {
            (None, Some((jobs, _))) => {
                self.state.depth.fetch_add(1, Ordering::Relaxed);
                if let Err(refused) = jobs.send(job) {
                    refused.0.end.refuse(&self.state.holds, closed());
                }
            }
            (refusal, _) => {
                let error = refusal.unwrap_or_else(closed);
                job.end.refuse(&self.state.holds, error);
            }
        }
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.state.depth.load(Ordering::Relaxed)
    }

    /// Whether jobs are accepted.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.state.fault).is_none()
    }

    /// How long the thread has been busy with one group of writes; `None` while it is idle.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        lock(&self.state.began).map(|began| began.elapsed())
    }

    /// The faults that a test causes.
    #[cfg(test)]
    pub(super) fn faults(&self) -> &Faults {
        &self.state.faults
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
    log: WriteAheadLog,
    /// The group whose COMMIT returned an error, until the file shows whether it happened.
    undecided: Vec<(End, Result<Written>)>,
}

impl WriterThread {
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
            let mut rows: usize = group.iter().map(|job| job.rows).sum();
            while rows < Writer::GROUP_ROWS
                && let Ok(job) = self.jobs.try_recv()
            {
                rows += job.rows;
                group.push(job);
            }
            self.state.depth.fetch_sub(group.len(), Ordering::Relaxed);
            *lock(&self.state.began) = Some(Instant::now());
            self.write(group);
            let has_fault = lock(&self.state.fault).is_some();
            if self.health.recovered(&self.c) && (!has_fault || self.decide()) {
                self.log.truncate(&self.c);
            }
            *lock(&self.state.began) = None;
        }
        if !self.undecided.is_empty() && self.health.can_write(&self.c) {
            self.decide();
        }
        self.state.set_fault(Some(closed()));
        for (end, _) in self.undecided.drain(..) {
            end.refuse(&self.state.holds, closed());
        }
        // Closing the last connection checkpoints too; doing it here reports errors.
        if let Err(error) = identity::set_open_at(&self.c, None) {
            log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = self.c.close() {
            log::warn!("the database was not closed cleanly: {error}");
        }
    }

    fn write(&mut self, group: Vec<Job>) {
        let holds = Arc::clone(&self.state.holds);
        let fault = lock(&self.state.fault).clone();
        if let Some(fault) = fault {
            // Queued before the fault.
            for job in group {
                job.end.refuse(&holds, fault.clone());
            }
            return;
        }
        if group.is_empty() {
            return;
        }
        let (jobs, started) = (group.len(), Instant::now());
        let (works, ends): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.work, job.end)).unzip();
        // Before the commit, so that nothing is written to a deleted file, and after it, so that nothing is acknowledged.
        let checked = self.health.check_file();
        let committed = (checked.map_err(Failure::Definite))
            .and_then(|()| commit(&self.c, works, &self.health))
            .and_then(|outcomes| match self.health.check_file() {
                Ok(()) => Ok(outcomes),
                Err(fault) => Err(Failure::Unknown(fault, outcomes)),
            });
        let (took, ok) = (started.elapsed(), committed.is_ok());
        (self.observers).each(|observer| observer.committed(jobs, took, ok));
        let fault = match &committed {
            Ok(outcomes) => health::fault_of(outcomes),
            Err(Failure::Definite(error)) => {
                log::error!("a group of {jobs} writes failed: {error}");
                health::is_fault(error).then(|| error.clone())
            }
            // Whatever it was, nothing is written before the group is decided.
            Err(Failure::Unknown(error, _)) => {
                log::error!("the COMMIT of a group of {jobs} writes failed: {error}");
                Some(error.clone())
            }
        };
        match committed {
            Ok(outcomes) => self.publish(ends.into_iter().zip(outcomes)),
            Err(Failure::Unknown(_, outcomes)) => {
                self.undecided = ends.into_iter().zip(outcomes).collect();
            }
            Err(Failure::Definite(error)) => {
                for end in ends {
                    end.refuse(&holds, error.clone());
                }
            }
        }
        if let Some(fault) = fault
            && (self.health.record_failure(&self.c, &fault) || !self.decide())
        {
            self.state.set_fault(Some(fault));
        }
    }

    /// Publishes a commit to the holds, and only then answers its jobs. Before that the log gets its number, without which it
    /// would not be known as another's beside another file.
    fn publish(&mut self, group: impl Iterator<Item = (End, Result<Written>)>) {
        self.log.mark(&self.c);
        let (mut values, mut ended, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for (mut end, outcome) in group {
            match outcome {
                Ok(written) => {
                    values.extend(written.values);
                    ended.extend(end.hold.take());
                    replies.push((end.reply, written.changes));
                }
                Err(error) => end.refuse(&self.state.holds, error),
            }
        }
        self.state.holds.publish(values, ended);
        for (reply, changes) in replies {
            for change in &changes {
                self.observers
                    .each(|observer| observer.changed(change, Origin::Here));
            }
            let _ = reply.send(Ok(()));
        }
    }

    /// Ends a fault, now that a COMMIT succeeded: the group whose COMMIT returned an error is in the file as a whole or not at
    /// all, and its jobs are answered. `false` if the file cannot be read.
    fn decide(&mut self) -> bool {
        let mut written = self.undecided.iter().flat_map(|(_, outcome)| outcome);
        let happened = match written.find_map(|written| written.entry) {
            Some((entry, operation)) => accounts::is_written(&self.c, entry, operation),
            // Without an entry nothing shows it; the client repeats what was not acknowledged.
            None => Ok(false),
        };
        let Ok(happened) = happened else {
            return false;
        };
        let group = std::mem::take(&mut self.undecided).into_iter();
        // Before the answers, so that what follows one is not refused.
        self.state.set_fault(None);
        if happened {
            log::warn!(
                "a COMMIT that returned an error had written {} jobs",
                group.len()
            );
            self.publish(group);
        } else {
            for (end, outcome) in group {
                let error = "the COMMIT failed, and nothing was written".to_owned();
                let error = outcome.err().unwrap_or(StoreError::Unavailable(error));
                end.refuse(&self.state.holds, error);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
