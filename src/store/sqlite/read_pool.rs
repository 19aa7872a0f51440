//! The pool of reading connections, each unable to write.
//! A permit is acquired in async code, with a deadline, before a connection is: r2d2 itself never blocks a worker thread.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::closed;
use crate::store::{Observers, Result, StoreError};

/// The connections. The lock goes after them: closing the file it holds drops their locks.
type Open = (r2d2::Pool<SqliteConnectionManager>, Arc<dyn Send + Sync>);

/// The pool; see the module.
pub(super) struct ReadPool {
    /// `None` once closed.
    open: RwLock<Option<Open>>,
    permits: Arc<Semaphore>,
    observers: Arc<Observers>,
}

impl ReadPool {
    /// Connections in the pool.
    pub(super) const SIZE: usize = 4;
    /// How long a read waits for a connection before it fails as overloaded.
    const TIMEOUT: Duration = Duration::from_secs(2);
    /// How long one waits for another program's lock: on the thread of its caller.
    pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

    /// A pool over the connections of `manager`, which need `lock`.
    pub(super) fn new(
        manager: SqliteConnectionManager,
        lock: Arc<dyn Send + Sync>,
        observers: Arc<Observers>,
    ) -> Result<Self> {
        let pool = r2d2::Pool::builder()
            .max_size(Self::SIZE as u32)
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(Self::TIMEOUT)
            .build(manager)?;
        Ok(Self {
            open: RwLock::new(Some((pool, lock))),
            permits: Arc::new(Semaphore::new(Self::SIZE)),
            observers,
        })
    }

    /// Runs an index look-up on the calling thread: it takes a few microseconds, less than a hop to another thread.
    pub(super) async fn get_inline<T, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T> {
        let started = Instant::now();
        let (open, permit) = self.acquire().await?;
        let answer = run(&open, query);
        drop((open, permit));
        self.observe(started);
        answer
    }

    /// Runs a read that may take longer on a blocking thread.
    pub(super) async fn query_blocking<T: Send + 'static, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T> {
        let started = Instant::now();
        // A caller that left must not free the permit while its query runs on.
        let (open, permit) = self.acquire().await?;
        let work = move || {
            let (_permit, open) = (permit, open);
            run(&open, query)
        };
        let answer = tokio::task::spawn_blocking(work).await;
        self.observe(started);
        answer
            .unwrap_or_else(|error| Err(StoreError::Internal(format!("a read panicked: {error}"))))
    }

    /// Connections in use.
    pub(super) fn in_use(&self) -> usize {
        Self::SIZE - self.permits.available_permits()
    }

    /// Refuses reads from now on, and closes the connections when the last read under way is done.
    pub(super) fn close(&self) {
        let open = self.open.write();
        open.unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn acquire(&self) -> Result<(Open, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(Self::TIMEOUT, permit).await else {
            return Err(StoreError::Busy);
        };
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        Ok((open.clone().ok_or_else(closed)?, permit))
    }

    fn observe(&self, started: Instant) {
        let took = started.elapsed();
        self.observers.each(|observer| observer.read(took));
    }
}

fn run<T, E: Into<StoreError>>(
    (pool, _): &Open,
    query: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T> {
    query(&*pool.get()?).map_err(Into::into)
}
