use std::sync::atomic::{AtomicBool, Ordering};

use super::super::row::execute;
use super::*;
use crate::model::Credits;
use crate::model::Wallet;
use crate::store::HoldRequest;
use crate::store::{Account, OperationId};

fn writer() -> (tempfile::TempDir, Writer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)")
        .unwrap();
    let lock = Arc::new(crate::store::InstanceLock::acquire(&path).unwrap());
    let health = StorageHealth::new(&connection, lock).unwrap();
    let wal = folder.path().join("test.db-wal");
    let writer = Writer::start(connection, wal, health, Arc::default(), Arc::default());
    (folder, writer.unwrap())
}

async fn write<T: Send + 'static>(
    writer: &Writer,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    queue(writer, work).await
}

fn insert(n: i64) -> impl FnOnce(&Connection) -> Result<i64> {
    move |c| {
        execute(c, "INSERT INTO t VALUES (?1)", [n])?;
        Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
    }
}

#[tokio::test]
async fn a_job_that_fails_or_panics_takes_nothing_with_it() {
    let (_folder, writer) = writer();
    let refused = write(&writer, |connection| {
        insert(1)(connection)?;
        Err::<(), _>(StoreError::UserNotFound)
    });
    let panicked = write(&writer, |connection| {
        insert(2)(connection)?;
        if connection.is_autocommit() {
            Ok(())
        } else {
            panic!("as the test wants")
        }
    });
    let (refused, panicked, kept) = tokio::join!(refused, panicked, write(&writer, insert(3)));
    assert_eq!(refused, Err(StoreError::UserNotFound));
    assert!(matches!(panicked, Err(StoreError::Internal(_))));
    assert_eq!(kept, Ok(1));
}

#[tokio::test]
async fn a_job_that_fails_alone_leaves_nothing_and_the_next_one_works() {
    let (_folder, writer) = writer();
    let refused = write(&writer, |connection| {
        insert(1)(connection)?;
        Err::<(), _>(StoreError::UserNotFound)
    });
    assert_eq!(refused.await, Err(StoreError::UserNotFound));
    assert_eq!(write(&writer, insert(2)).await, Ok(1));
}

/// Keeps the thread busy until the sender is used, so that what is queued meanwhile forms one group.
async fn hold(writer: &Writer) -> std::sync::mpsc::Sender<()> {
    let (open, gate) = std::sync::mpsc::channel();
    let (began, begun) = oneshot::channel();
    let _held = queue(writer, move |_: &Connection| {
        let _ = began.send(());
        gate.recv()
            .map_err(|error| StoreError::Internal(error.to_string()))
    });
    begun.await.unwrap();
    open
}

fn queue<T: Send + 'static, W: FnOnce(&Connection) -> Result<T> + Send + 'static>(
    writer: &Writer,
    work: W,
) -> impl Future<Output = Result<T>> + use<T, W> {
    writer.write(1, |c: &Connection| Ok((work(c)?, Written::default())))
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_under_a_job_fails_the_whole_group_and_the_next_one_works()
 {
    let (_folder, writer) = writer();
    let open = hold(&writer).await;
    let first = queue(&writer, insert(1));
    let rolled_back = queue(&writer, |connection: &Connection| {
        execute(connection, "ROLLBACK", [])?;
        Ok(())
    });
    open.send(()).unwrap();
    assert!(matches!(first.await, Err(StoreError::Unavailable(_))));
    assert!(matches!(rolled_back.await, Err(StoreError::Unavailable(_))));
    assert_eq!(write(&writer, insert(2)).await, Ok(1));
}

#[tokio::test]
async fn a_full_queue_refuses_jobs_but_never_a_charge() {
    let (_folder, writer) = writer();
    let holds = Arc::clone(&writer.state.holds);
    let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm").unwrap();
    holds.publish([(Account::Wallet(wallet), Credits::from_micro(5))], []);
    let request = HoldRequest {
        operation: OperationId::new(),
        wallet,
        amount: Credits::from_micro(5),
        limit: None,
    };
    let read = |_| async { unreachable!("it is loaded") };
    let charged = holds.hold(request, read).await.unwrap();
    let open = hold(&writer).await;
    let waiting: Vec<_> = (0..Writer::CAPACITY as i64)
        .map(|n| queue(&writer, insert(n)))
        .collect();
    assert_eq!(write(&writer, insert(-1)).await, Err(StoreError::Busy));
    let work = |c: &Connection| Ok((insert(-2)(c)?, Written::default()));
    let charge = writer.charge(Some(charged), 1, work);
    let (charge, ()) = tokio::join!(charge, async { open.send(()).unwrap() });
    assert_eq!(charge.ok(), Some(Writer::CAPACITY as i64 + 1));
    assert_eq!(holds.held(), (0, Credits::ZERO));
    for job in waiting {
        assert!(job.await.is_ok());
    }
}

#[tokio::test]
async fn the_run_time_of_the_current_job_is_reported_and_none_when_idle() {
    let (_folder, writer) = writer();
    let open = hold(&writer).await;
    let first = writer.busy_for().unwrap();
    // More that waits makes it no younger.
    let waiting = queue(&writer, insert(1));
    while writer.busy_for().unwrap() < first + Duration::from_millis(5) {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    assert_eq!(waiting.await, Ok(1));
    // It rests a moment after its last answer.
    while writer.busy_for().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_refuses_the_rest() {
    let (folder, writer) = writer();
    let (written, ()) = tokio::join!(write(&writer, insert(1)), async { writer.close() });
    assert_eq!(written, Ok(1));
    assert!(matches!(
        write(&writer, insert(2)).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(!writer.is_ready());
    let wal = folder.path().join("test.db-wal");
    assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);
}

fn log_bytes(folder: &tempfile::TempDir) -> u64 {
    std::fs::metadata(folder.path().join("test.db-wal"))
        .unwrap()
        .len()
}

/// Writes so many pages of 4 KiB.
fn pages(count: i64) -> impl FnOnce(&Connection) -> Result<()> {
    move |c| {
        c.execute_batch("CREATE TABLE IF NOT EXISTS b (n INTEGER PRIMARY KEY, b BLOB)")?;
        let values = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            REPLACE INTO b SELECT i, randomblob(4000) FROM n";
        execute(c, values, [count])?;
        Ok(())
    }
}

#[tokio::test]
async fn the_log_restarts_by_itself_without_readers() {
    let (folder, writer) = writer();
    for _ in 0..40 {
        write(&writer, pages(500)).await.unwrap();
    }
    // 80 MiB went through it.
    assert!(log_bytes(&folder) < 16 << 20, "{}", log_bytes(&folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_emptied_although_one_reads_at_every_moment() {
    let (folder, writer) = writer();
    let path = folder.path().join("test.db");
    let stop = Arc::new(AtomicBool::new(false));
    // Each begins before the one before it ends.
    let (path, stopped) = (path.clone(), Arc::clone(&stop));
    let readers = std::thread::spawn(move || {
        let read = || {
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
            connection
        };
        let mut reading = read();
        while !stopped.load(Ordering::SeqCst) {
            reading = read();
        }
        drop(reading);
    });
    let mut longest = 0;
    for _ in 0..100 {
        write(&writer, pages(500)).await.unwrap();
        longest = longest.max(log_bytes(&folder));
    }
    stop.store(true, Ordering::SeqCst);
    readers.join().unwrap();
    // 200 MiB went through it.
    assert!(longest < 64 << 20, "{longest}");
}
