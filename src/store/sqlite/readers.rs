use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::open::{OpenError, PREPARED};
use super::storage_error;
use crate::store::{InstanceLock, Observers, StoreError};

type Pool = r2d2::Pool<SqliteConnectionManager>;

/// Holds readers up, so that the log can be emptied: while one reads, SQLite keeps what it reads from in the log, and
/// where there is always one, the log only grows.
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(super) fn of(permits: &Arc<Semaphore>) -> Self {
        Self(Arc::clone(permits))
    }

    /// Every place, once whoever reads now is done; whoever comes waits behind. `None` where that takes too long.
    pub(super) async fn close(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.0).acquire_many_owned(Readers::SIZE as u32);
        tokio::time::timeout(patience, all).await.ok()?.ok()
    }
}

/// The pool of reading connections, each unable to write.
///
/// A permit is taken in async code, with a deadline, before a connection is asked for, so r2d2's own blocking wait never
/// happens on a worker thread.
pub(super) struct Readers {
    /// `None` once closed. The lock goes after the connections: closing the file it holds drops theirs.
    pool: RwLock<Option<(Pool, Arc<InstanceLock>)>>,
    permits: Arc<Semaphore>,
    observers: Arc<Observers>,
}

impl Readers {
    /// Connections in the pool.
    pub(super) const SIZE: usize = 4;
    /// How long a read waits for a connection before the client hears that there is too much to do.
    const PATIENCE: Duration = Duration::from_secs(2);

    pub(super) fn open(
        path: &Path,
        lock: Arc<InstanceLock>,
        observers: Arc<Observers>,
    ) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let manager = SqliteConnectionManager::file(path)
            .with_flags(flags)
            .with_init(|connection| {
                connection.pragma_update(None, "query_only", true)?;
                connection.pragma_update(None, "trusted_schema", false)?;
                connection.pragma_update(None, "temp_store", "memory")?;
                connection.set_prepared_statement_cache_capacity(PREPARED);
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
                // Nobody keeps a reader waiting but one who mends the log after a crash.
                connection.busy_timeout(Duration::from_millis(500))
            });
        let pool = r2d2::Pool::builder()
            .max_size(Self::SIZE as u32)
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(Self::PATIENCE)
            .build(manager)
            .map_err(|error| OpenError::Storage(StoreError::Unavailable(error.to_string())))?;
        Ok(Self {
            pool: RwLock::new(Some((pool, lock))),
            permits: Arc::new(Semaphore::new(Self::SIZE)),
            observers,
        })
    }

    /// A look-up by an index, run in place: it takes a few microseconds, less than a hop to another thread.
    pub(super) async fn point<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let permit = self.permit().await?;
        let answer = self.pool().and_then(|(pool, _lock)| read(&pool, query));
        drop(permit);
        self.observed(started);
        answer
    }

    /// A read that may take longer, run where it blocks nobody.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let permit = self.permit().await?;
        let open = self.pool()?;
        let work = move || {
            let answer = read(&open.0, query);
            drop(open);
            // Only now: a caller that left must not free the place while its query runs on.
            drop(permit);
            answer
        };
        let answer = tokio::task::spawn_blocking(work).await;
        self.observed(started);
        answer
            .unwrap_or_else(|error| Err(StoreError::Internal(format!("a read panicked: {error}"))))
    }

    /// What keeps every reader waiting for a moment.
    pub(super) fn gate(&self) -> Gate {
        Gate::of(&self.permits)
    }

    /// Connections in use.
    pub(super) fn in_use(&self) -> usize {
        Self::SIZE.saturating_sub(self.permits.available_permits())
    }

    /// Refuses reads from now on, and closes the connections when the last read under way is done.
    pub(super) fn close(&self) {
        self.pool
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn pool(&self) -> Result<(Pool, Arc<InstanceLock>), StoreError> {
        let pool = self
            .pool
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        pool.ok_or_else(|| StoreError::Unavailable("the storage is closed".to_owned()))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        // The usual case, without a timer.
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(Self::PATIENCE, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(StoreError::Busy),
        }
    }

    fn observed(&self, started: Instant) {
        self.observers
            .each(|observer| observer.read(started.elapsed()));
    }
}

fn read<T>(
    pool: &Pool,
    query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let connection = pool
        .get()
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    query(&connection).map_err(storage_error)
}
