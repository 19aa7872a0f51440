use std::sync::atomic::AtomicU64;

use super::super::storage_error;
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
    let path = folder.path().join("test.db");
    let lock = Arc::new(crate::store::InstanceLock::acquire(&path).unwrap());
    let ballast = super::super::ballast::Ballast::open(&path, false);
    let faults = Faults::new(&connection, ballast, lock).unwrap();
    let writer = Writer::start(
        connection,
        log,
        faults,
        gate,
        Commits::default(),
        Arc::default(),
    );
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

#[tokio::test]
async fn a_job_that_fails_alone_leaves_nothing_and_the_next_one_works() {
    let (_folder, writer) = writer();
    let refused = writer.write(Room::Common, |connection| {
        insert(1)(connection)?;
        Err::<(), _>(StoreError::UserNotFound)
    });
    assert_eq!(refused.await, Err(StoreError::UserNotFound));
    assert_eq!(writer.write(Room::Common, insert(2)).await, Ok(1));
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
        room: Room::Common,
        work: Some(work),
        outcome: None,
        change: |_| None,
        reply,
    };
    writer.shared.push(Box::new(job)).unwrap();
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
async fn how_long_the_thread_has_been_at_its_work_is_told_and_rest_is_none() {
    let (_folder, writer) = writer();
    let open = hold(&writer).await;
    let first = writer.busy_for().unwrap();
    // More that waits makes it no younger.
    let waiting = queue(&writer, insert(1));
    while writer.busy_for().unwrap() < first + Duration::from_millis(5) {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(1));
    // It rests a moment after its last answer.
    while writer.busy_for().is_some() {
        tokio::task::yield_now().await;
    }
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
        room: Room::Common,
        work: Some(work),
        outcome: None,
        change: |_| None,
        reply,
    };
    shared.push(Box::new(job)).unwrap();
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
    assert!(!writer.takes_jobs());
    let wal = folder.path().join("test.db-wal");
    assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);
}

/// How often the log was begun anew (SQLite, "WAL-mode File Format": the checkpoint sequence number of its header).
fn beginnings(folder: &tempfile::TempDir) -> u32 {
    let mut header = [0; 16];
    let mut log = std::fs::File::open(folder.path().join("test.db-wal")).unwrap();
    std::io::Read::read_exact(&mut log, &mut header).unwrap();
    u32::from_be_bytes(header[12..].try_into().unwrap())
}

#[tokio::test]
async fn the_log_begins_anew_while_writes_go_on_and_no_commit_moves_its_pages() {
    let (folder, writer) = writer();
    let table = |connection: &Connection| {
        connection
            .execute_batch("CREATE TABLE b (n INTEGER PRIMARY KEY, b BLOB)")
            .map_err(storage_error)?;
        connection
            .query_row("PRAGMA wal_autocheckpoint", [], |row| row.get(0))
            .map_err(storage_error)
    };
    assert_eq!(writer.write(Room::Common, table).await, Ok(0));
    let (before, begun) = (beginnings(&folder), Instant::now());
    for n in 0.. {
        if beginnings(&folder) >= before + 3 {
            break;
        }
        assert!(begun.elapsed().as_secs() < 60, "after {n} writes");
        let pages = move |connection: &Connection| {
            connection
                .execute("INSERT INTO b VALUES (?1, zeroblob(30000))", [n])
                .map_err(storage_error)
        };
        writer.write(Room::Common, pages).await.unwrap();
    }
    let log = std::fs::metadata(folder.path().join("test.db-wal")).unwrap();
    // It was not cut off either, for which readers would have waited.
    assert!((1..32 << 20).contains(&log.len()), "{}", log.len());
}
