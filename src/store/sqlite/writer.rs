//! The one thread that writes.
//!
//! It owns the only connection that may change the file. Jobs queue in memory; the thread takes whatever is queued, runs
//! it in one transaction, each job in a savepoint of its own, commits once (one fsync, `synchronous=FULL`), and only then
//! answers them all. There is no timer: while one group's fsync runs, the next group forms by itself, so a lone write
//! waits for nobody and a thousand share the disk's patience (group commit; DeWitt et al., SIGMOD 1984).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::storage_error;
use crate::store::{StoreError, StoreObserver};

/// How urgent a job is when the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// Refused when the queue is full.
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
    observer: Arc<OnceLock<Arc<dyn StoreObserver>>>,
}

struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    closed: bool,
}

impl Writer {
    /// Jobs that may wait.
    pub(super) const CAPACITY: usize = 4096;
    /// Further places for jobs that end a reservation.
    const KEPT: usize = 4096;
    /// Jobs in one transaction at most, so that the first of a group does not wait for thousands.
    const GROUP: usize = 512;

    /// Starts the thread on `connection`.
    pub(super) fn start(
        connection: Connection,
        observer: Arc<OnceLock<Arc<dyn StoreObserver>>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                closed: false,
            }),
            filled: Condvar::new(),
            alive: AtomicBool::new(true),
            observer,
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("r3mes-writer".to_owned())
                .spawn(move || shared.run(connection))?
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
        let (reply, answer) = oneshot::channel();
        self.shared.push(
            room,
            Box::new(Typed {
                work: Some(work),
                outcome: None,
                reply,
            }),
        )?;
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(
                "the writing thread ended".to_owned(),
            ))
        })
    }

    /// Jobs waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Whether jobs are taken.
    pub(super) fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
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
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, room: Room, job: Box<dyn Job>) -> Result<(), StoreError> {
        let mut queue = self.lock();
        let places = match room {
            Room::Common => Writer::CAPACITY,
            Room::Kept => Writer::CAPACITY + Writer::KEPT,
        };
        if queue.closed {
            return Err(StoreError::Unavailable("the storage is closed".to_owned()));
        }
        if queue.jobs.len() >= places {
            return Err(StoreError::Busy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// The next jobs, or `None` once the queue is closed and empty.
    fn next_group(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let size = queue.jobs.len().min(Writer::GROUP);
        Some(queue.jobs.drain(..size).collect())
    }

    fn run(&self, connection: Connection) {
        while let Some(mut group) = self.next_group() {
            let started = Instant::now();
            let committed = commit(&connection, &mut group);
            if let Err(error) = &committed {
                log::error!("a group of {} writes failed: {error}", group.len());
            }
            if let Some(observer) = self.observer.get() {
                observer.committed(group.len(), started.elapsed(), committed.is_ok());
            }
            for job in group {
                job.answer(&committed);
            }
        }
        self.alive.store(false, Ordering::Release);
        // Everything is in the main file when the last connection closes; doing it here reports what goes wrong.
        if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            log::warn!("the write-ahead log was not emptied at the end: {error}");
        }
        if let Err((_, error)) = connection.close() {
            log::warn!("the database was not closed cleanly: {error}");
        }
    }
}

/// Runs a group in one transaction. An error is the whole group's; a job's own failure is only its own.
fn commit(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    let outcome = (|| {
        run(connection, "BEGIN IMMEDIATE")?;
        for job in &mut *group {
            run(connection, "SAVEPOINT job")?;
            let done = job.run(connection);
            // A full disk or an I/O error may have rolled back everything, earlier jobs included.
            if connection.is_autocommit() {
                return Err(job.failure().unwrap_or_else(|| {
                    StoreError::Unavailable("the transaction was rolled back".to_owned())
                }));
            }
            if !done {
                run(connection, "ROLLBACK TO job")?;
            }
            run(connection, "RELEASE job")?;
        }
        run(connection, "COMMIT")
    })();
    if outcome.is_err() && !connection.is_autocommit() {
        // Nothing more can be done where even this fails; the next BEGIN will say so.
        let _ = run(connection, "ROLLBACK");
    }
    outcome
}

fn run(connection: &Connection, statement: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached(statement)
        .and_then(|mut prepared| prepared.execute([]))
        .map(drop)
        .map_err(storage_error)
}

/// A write whose result type is hidden, so that one queue holds all.
trait Job: Send {
    /// Does the work; whether it is to be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// What went wrong in it.
    fn failure(&self) -> Option<StoreError>;
    /// Tells the caller; `committed` is how the whole group ended.
    fn answer(self: Box<Self>, committed: &Result<(), StoreError>);
}

struct Typed<F, T> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Typed<F, T>
where
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else {
            return false;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(StoreError::Internal("a write panicked".to_owned())));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn failure(&self) -> Option<StoreError> {
        self.outcome
            .as_ref()
            .and_then(|outcome| outcome.as_ref().err().cloned())
    }

    fn answer(self: Box<Self>, committed: &Result<(), StoreError>) {
        let answer = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(StoreError::Internal("a write was not run".to_owned())),
            (Err(error), _) => Err(error.clone()),
        };
        // The caller may have left; its work is done all the same.
        let _ = self.reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> (tempfile::TempDir, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("test.db")).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        (folder, Writer::start(connection, Arc::default()).unwrap())
    }

    fn insert(n: i64) -> impl FnOnce(&Connection) -> Result<i64, StoreError> {
        move |connection| {
            connection
                .execute("INSERT INTO t VALUES (?1)", [n])
                .map_err(storage_error)?;
            connection
                .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                .map_err(storage_error)
        }
    }

    #[tokio::test]
    async fn a_job_that_fails_or_panics_takes_nothing_with_it() {
        let (_folder, writer) = writer();
        let refused = writer.write(Room::Common, |connection| {
            insert(1)(connection)?;
            Err::<(), _>(StoreError::UserNotFound)
        });
        let panicked = writer.write(Room::Common, |connection| {
            insert(2)(connection)?;
            if connection.is_autocommit() {
                Ok(())
            } else {
                panic!("as the test wants")
            }
        });
        let (refused, panicked, kept) =
            tokio::join!(refused, panicked, writer.write(Room::Common, insert(3)));
        assert_eq!(refused, Err(StoreError::UserNotFound));
        assert!(matches!(panicked, Err(StoreError::Internal(_))));
        assert_eq!(kept, Ok(1));
    }

    /// Keeps the thread busy until the sender is used, so that what is queued meanwhile forms one group.
    async fn hold(writer: &Writer) -> std::sync::mpsc::Sender<()> {
        let (open, gate) = std::sync::mpsc::channel();
        let (began, begun) = oneshot::channel();
        queue(writer, move |_: &Connection| {
            let _ = began.send(());
            gate.recv()
                .map_err(|error| StoreError::Internal(error.to_string()))
        });
        begun.await.unwrap();
        open
    }

    fn queue<T: Send + 'static>(
        writer: &Writer,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let job = Typed {
            work: Some(work),
            outcome: None,
            reply,
        };
        writer.shared.push(Room::Common, Box::new(job)).unwrap();
        answer
    }

    #[tokio::test]
    async fn a_transaction_that_is_rolled_back_under_a_job_fails_the_whole_group_and_the_next_one_works()
     {
        let (_folder, writer) = writer();
        let open = hold(&writer).await;
        let first = queue(&writer, insert(1));
        let rolled_back = queue(&writer, |connection: &Connection| {
            run(connection, "ROLLBACK")
        });
        open.send(()).unwrap();
        assert!(matches!(
            first.await.unwrap(),
            Err(StoreError::Unavailable(_))
        ));
        assert!(matches!(
            rolled_back.await.unwrap(),
            Err(StoreError::Unavailable(_))
        ));
        assert_eq!(writer.write(Room::Common, insert(2)).await, Ok(1));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_common_jobs_and_keeps_room_for_those_that_end_a_reservation() {
        let (_folder, writer) = writer();
        let open = hold(&writer).await;
        let waiting: Vec<_> = (0..Writer::CAPACITY as i64)
            .map(|n| queue(&writer, insert(n)))
            .collect();
        assert_eq!(
            writer.write(Room::Common, insert(-1)).await,
            Err(StoreError::Busy)
        );
        let kept = writer.write(Room::Kept, insert(-2));
        let (kept, ()) = tokio::join!(kept, async { open.send(()).unwrap() });
        assert_eq!(kept, Ok(Writer::CAPACITY as i64 + 1));
        for job in waiting {
            assert!(job.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn closing_finishes_what_is_queued_and_refuses_the_rest() {
        let (folder, writer) = writer();
        let (written, ()) = tokio::join!(writer.write(Room::Common, insert(1)), async {
            writer.close()
        });
        assert_eq!(written, Ok(1));
        assert!(matches!(
            writer.write(Room::Common, insert(2)).await,
            Err(StoreError::Unavailable(_))
        ));
        assert!(!writer.is_alive());
        let wal = folder.path().join("test.db-wal");
        assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);
    }
}
