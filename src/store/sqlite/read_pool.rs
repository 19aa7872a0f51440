//! The pool of reading connections, each unable to write.
//! A permit is acquired in async code, with a deadline, and there are as many connections as permits.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::closed;
use super::connections::configure_statements;
use crate::store::{InstanceLock, Observers, Result, StoreError};

pub(super) type Connect = dyn Fn() -> rusqlite::Result<Connection> + Send + Sync;

/// The pool; see the module.
pub(super) struct ReadPool {
    /// `None` once closed.
    connections: RwLock<Option<Arc<Connections>>>,
    permits: Arc<Semaphore>,
    observers: Arc<Observers>,
}

struct Connections {
    connect: Box<Connect>,
    idle: Mutex<Vec<Connection>>,
    /// After the connections: closing the file it holds drops their locks.
    _lock: Option<Arc<InstanceLock>>,
}

impl ReadPool {
    /// Connections in the pool.
    pub(super) const SIZE: usize = 4;
    /// How long a read waits for a connection before the client is told that there is too much to do.
    const TIMEOUT: Duration = Duration::from_secs(2);

    pub(super) fn open(
        path: &Path,
        lock: Arc<InstanceLock>,
        observers: Arc<Observers>,
    ) -> rusqlite::Result<Self> {
        let path = path.to_owned();
        Self::new(Box::new(move || connect(&path)), Some(lock), observers)
    }

    /// A pool of connections that are opened by `connect`.
    pub(super) fn new(
        connect: Box<Connect>,
        lock: Option<Arc<InstanceLock>>,
        observers: Arc<Observers>,
    ) -> rusqlite::Result<Self> {
        let idle: rusqlite::Result<_> = (0..Self::SIZE).map(|_| connect()).collect();
        let connections = Connections {
            connect,
            idle: Mutex::new(idle?),
            _lock: lock,
        };
        Ok(Self {
            connections: RwLock::new(Some(Arc::new(connections))),
            permits: Arc::new(Semaphore::new(Self::SIZE)),
            observers,
        })
    }

    /// Runs a look-up by an index in place: it takes a few microseconds, less than a hop to another thread.
    pub(super) async fn get_inline<T, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T> {
        let started = Instant::now();
        let permit = self.permit().await?;
        let answer = self.connections().and_then(|open| open.run(query));
        drop(permit);
        self.observe(started);
        answer
    }

    /// Runs a read that may take longer on a blocking thread.
    pub(super) async fn query_blocking<T: Send + 'static, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T> {
        let started = Instant::now();
        let permit = self.permit().await?;
        let open = self.connections()?;
        let work = move || {
            let answer = open.run(query);
            drop(open);
            // Only now: a caller that left must not free the permit while its query runs on.
            drop(permit);
            answer
        };
        let answer = tokio::task::spawn_blocking(work).await;
        self.observe(started);
        answer
            .unwrap_or_else(|error| Err(StoreError::Internal(format!("a read panicked: {error}"))))
    }

    /// Connections in use.
    pub(super) fn in_use(&self) -> usize {
        Self::SIZE.saturating_sub(self.permits.available_permits())
    }

    /// Refuses reads from now on, and closes the connections when the last read under way is done.
    pub(super) fn close(&self) {
        let open = self.connections.write();
        open.unwrap_or_else(PoisonError::into_inner).take();
    }

    fn connections(&self) -> Result<Arc<Connections>> {
        let open = self.connections.read();
        open.unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        // The usual case, without a timer.
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(Self::TIMEOUT, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(StoreError::Busy),
        }
    }

    fn observe(&self, started: Instant) {
        let took = started.elapsed();
        self.observers.each(|observer| observer.read(took));
    }
}

impl Connections {
    fn run<T, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One is missing where a query panicked.
        let connection = idle().pop();
        let connection = connection.map_or_else(&self.connect, Ok)?;
        let answer = query(&connection);
        idle().push(connection);
        answer.map_err(Into::into)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    configure_statements(&connection)?;
    // Nothing keeps a reader waiting but another program that recovers the log after a crash.
    connection.busy_timeout(Duration::from_millis(500))?;
    Ok(connection)
}
