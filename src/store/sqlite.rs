//! The storage over one SQLite file: many readers beside one writer.
//!
//! `connections` opens the file, `writer` owns the only connection that changes anything, `read_pool` the others;
//! `repository` implements the trait with the functions of each subject (`accounts`, `users`, `keys`, `idempotency`, `audit`,
//! `telemetry`, `rollup`, `backup`, `verify`); `sql` holds every statement, `migrate` the steps between versions of the schema.

mod accounts;
mod audit;
mod backup;
mod check;
mod clock;
mod connections;
mod idempotency;
mod identity;
mod import;
mod keys;
mod migrate;
mod read_only;
mod read_pool;
mod repository;
mod rollup;
mod row;
mod sql;
mod telemetry;
mod usage;
mod users;
mod verify;
mod writer;

pub use backup::{back_up, backup_file, backups, prune_backups, restore, verify_backup};
pub use check::{Check, check_database};
pub use connections::{OpenError, SCHEMA_VERSION};
pub use import::{ImportCounts, ImportNote, ImportReport};

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use self::read_pool::ReadPool;
use self::writer::{StorageHealth, Writer, Written};
use super::lock::with_suffix;
use super::{Change, HoldTable, InstanceLock, Observers, Result, StoreError, folder_of, real_path};

/// A database file that only this process writes to: [`SqliteStore::open`] creates one, [`Repository`] documents its
/// methods. They need a tokio runtime with its timer enabled. A write that was started completes, and observers are
/// notified of it, even if its future is dropped.
///
/// [`Repository`]: super::Repository
pub struct SqliteStore {
    path: PathBuf,
    read_pool: ReadPool,
    writer: Writer,
    /// Held during a backup.
    backing_up: tokio::sync::Mutex<()>,
    /// Held while a backup is verified.
    verifying: Arc<tokio::sync::Mutex<()>>,
    /// When expired rows were last searched.
    expired_at: AtomicI64,
    /// Shared by everything that has the file open, so that it is dropped last.
    lock: Mutex<Option<Arc<InstanceLock>>>,
    holds: Arc<HoldTable>,
    observers: Arc<Observers>,
}

/// The version of SQLite, which is compiled in.
#[must_use]
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

impl SqliteStore {
    /// Opens the database at `path` under its instance lock; creates it (mode 0600) if it is missing and `create` is set.
    /// Blocks; called before the server accepts connections.
    ///
    /// # Errors
    /// If another process holds the lock, or the file has a second hard link, is missing, is not an r3mes-edge database or
    /// has another version; or if it is to be created and files of another database exist.
    pub fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let path = &real_path(path);
        let lock = Arc::new(connections::lock(path, create)?);
        // Left by an interrupted restore: one that is running would hold the lock.
        backup::delete_database(&with_suffix(path, connections::RESTORING));
        let mut connection = connections::connect(path)?;
        connections::init_schema(&mut connection, path)?;
        let observers = Arc::new(Observers::default());
        let (manager, _) = read_only::manager(path, ReadPool::BUSY_TIMEOUT)?;
        let read_pool = ReadPool::new(manager, Arc::clone(&lock) as _, Arc::clone(&observers))?;
        lock.watch_logs();
        let health = StorageHealth::new(&connection, Arc::clone(&lock))?;
        let wal = with_suffix(path, "-wal");
        let holds = Arc::<HoldTable>::default();
        let (observing, holding) = (Arc::clone(&observers), Arc::clone(&holds));
        let writer = Writer::start(connection, wal, health, observing, holding)
            .map_err(OpenError::io(path))?;
        Ok(Self {
            lock: Mutex::new(Some(lock)),
            holds,
            ..Self::new(path.to_owned(), read_pool, writer, observers)
        })
    }

    fn new(path: PathBuf, read_pool: ReadPool, writer: Writer, observers: Arc<Observers>) -> Self {
        Self {
            path,
            read_pool,
            writer,
            backing_up: tokio::sync::Mutex::default(),
            verifying: Arc::default(),
            expired_at: i64::MIN.into(),
            lock: Mutex::default(),
            holds: Arc::default(),
            observers,
        }
    }

    /// Writes the server's address into the lock file, so that commands find it, as [`InstanceLock::announce`] does.
    ///
    /// # Errors
    /// If the lock file cannot be written.
    pub fn announce(&self, address: &str) -> std::io::Result<()> {
        let lock = self.lock();
        lock.as_ref().map_or(Ok(()), |lock| lock.announce(address))
    }

    /// Whether the database has an admin key, valid or not; an imported one has keys of wallets only.
    ///
    /// # Errors
    /// As any method of [`Repository`](super::Repository).
    pub async fn has_admin_key(&self) -> Result<bool> {
        self.get(|c| row::one(c, sql::HAS_ADMIN_KEY, [], row::value))
            .await
    }

    /// How long the writer thread has been busy with one group of writes; `None` while it is idle.
    /// A storage fault does not count as busy; minutes mean a disk that does not respond, or a bug.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        self.writer.busy_for()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<InstanceLock>>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read that may take longer than an index look-up.
    async fn read<T: Send + 'static, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T> {
        self.read_pool.query_blocking(query).await
    }

    /// An index look-up.
    async fn get<T, E: Into<StoreError>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T> {
        self.read_pool.get_inline(query).await
    }

    /// A write without a notification of observers.
    async fn write<T: Send + 'static, E: Into<StoreError>>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T> {
        let work = |c: &Connection| Ok((work(c).map_err(Into::into)?, Written::default()));
        self.writer.write(1, work).await
    }

    /// A write with a notification of observers.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        change: fn(&T) -> Option<Change>,
    ) -> Result<T> {
        let work = move |c: &Connection| {
            let value = work(c)?;
            let change = change(&value);
            let written = Written {
                change,
                ..Written::default()
            };
            Ok((value, written))
        };
        self.writer.write(1, work).await
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the storage is closed".to_owned())
}

/// Bytes that this process may still write on the file system of a database.
fn disk_free(path: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder_of(path)).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(test)]
mod tests;
