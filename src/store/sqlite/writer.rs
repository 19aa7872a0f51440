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
mod job;
mod log;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::job::{Job, Typed, commit};
use self::log::Log;
use super::readers::Gate;
use super::sql;
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
    copy: Option<Copying>,
    /// A copy is waited for or under way.
    copying: bool,
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
        gate: Gate,
        observer: Arc<OnceLock<Arc<dyn StoreObserver>>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                copy: None,
                copying: false,
                closed: false,
            }),
            filled: Condvar::new(),
            alive: AtomicBool::new(true),
            observer,
        });
        let thread = {
            let shared = Arc::clone(&shared);
            let log = Log::new(log, gate)?;
            std::thread::Builder::new()
                .name("r3mes-writer".to_owned())
                .spawn(move || shared.run(connection, log))?
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

    fn push(&self, room: Room, job: Box<dyn Job>) -> Result<(), StoreError> {
        let mut queue = self.lock();
        let places = match room {
            Room::Common => Writer::CAPACITY,
            Room::Kept => Writer::CAPACITY + Writer::KEPT,
        };
        if queue.closed {
            return Err(closed());
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
    fn next(&self) -> Option<(Group, Option<Copying>)> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            if queue.copy.is_some() {
                break;
            }
            queue = self
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Some((queue.group(), queue.copy.take()))
    }

    fn run(&self, connection: Connection, mut log: Log) {
        while let Some((group, copy)) = self.next() {
            if !group.is_empty() {
                self.write(&connection, &mut log, group);
            }
            if let Some(Copying { to, grown, reply }) = copy {
                let copied = self.copy(&connection, &mut log, &to, &grown);
                self.lock().copying = false;
                // Whoever asked may have left; what they find is a whole file or none.
                let _ = reply.send(copied);
            }
        }
        self.alive.store(false, Ordering::Release);
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
    fn write(&self, connection: &Connection, log: &mut Log, mut group: Group) {
        let started = Instant::now();
        let committed = commit(connection, &mut group);
        if let Err(error) = &committed {
            ::log::error!("a group of {} writes failed: {error}", group.len());
        }
        if let Some(observer) = self.observer.get() {
            observer.committed(group.len(), started.elapsed(), committed.is_ok());
        }
        for job in group {
            job.answer(&committed);
        }
        log.keep_short(connection);
    }
}

impl Queue {
    /// Takes what is queued, at most a group.
    fn group(&mut self) -> Group {
        let size = self.jobs.len().min(Writer::GROUP);
        self.jobs.drain(..size).collect()
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the storage is closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::storage_error;
    use std::sync::atomic::AtomicU64;

    use super::job::run;
    use super::*;

    fn writer() -> (tempfile::TempDir, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("test.db")).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        let log = folder.path().join("test.db-wal");
        let gate = Gate::of(&Arc::new(tokio::sync::Semaphore::new(4)));
        let writer = Writer::start(connection, log, gate, Arc::default());
        (folder, writer.unwrap())
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

    /// Queues a job that queues the next one, so that one waits at every moment, `left` times.
    fn chain(shared: Arc<Shared>, left: Arc<AtomicU64>) {
        let (reply, _) = oneshot::channel();
        let next = Arc::clone(&shared);
        let work = move |_: &Connection| {
            if left.fetch_sub(1, Ordering::SeqCst) > 1 {
                chain(next, left);
            }
            Ok(())
        };
        let job = Typed {
            work: Some(work),
            outcome: None,
            reply,
        };
        shared.push(Room::Common, Box::new(job)).unwrap();
    }

    #[tokio::test]
    async fn a_copy_is_made_though_jobs_wait_at_every_moment() {
        let (folder, writer) = writer();
        assert_eq!(writer.write(Room::Common, insert(1)).await, Ok(1));
        let to = folder.path().join("copy.db");
        std::fs::File::create(&to).unwrap();
        let left = Arc::new(AtomicU64::new(2000));
        let open = hold(&writer).await;
        chain(Arc::clone(&writer.shared), Arc::clone(&left));
        let (grown, _growing) = std::sync::mpsc::sync_channel(1);
        let copy = writer.copy(to, grown);
        let (copy, ()) = tokio::join!(copy, async { open.send(()).unwrap() });
        assert_eq!(copy, Ok(()));
        assert!(left.load(Ordering::SeqCst) > 0, "only once no job waited");
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
    async fn one_copy_is_made_at_a_time_and_what_is_queued_meanwhile_is_in_it() {
        let (folder, writer) = writer();
        let open = hold(&writer).await;
        let file = folder.path().join("copy.db");
        std::fs::write(&file, "").unwrap();
        let (grown, _growing) = std::sync::mpsc::sync_channel(1);
        let first = writer.copy(file.clone(), grown.clone());
        let second = async {
            // The first has asked by now: it is polled first.
            let second = writer
                .copy(folder.path().join("other.db"), grown.clone())
                .await;
            assert!(matches!(second, Err(StoreError::Conflict(_))));
            let written = queue(&writer, insert(7));
            open.send(()).unwrap();
            written.await.unwrap()
        };
        let (copied, written) = tokio::join!(biased; first, second);
        assert_eq!((copied, written), (Ok(()), Ok(1)));
        let copy = Connection::open(&file).unwrap();
        let kept: i64 = copy
            .query_row("SELECT n FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 7);
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
