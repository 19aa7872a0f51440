//! Opens a database file to read it, also while a server writes to it; changes or creates no file.
//!
//! In WAL mode SQLite creates `-wal` and `-shm` even to read. Where no process has the file open it is read without them,
//! under a shared flock(2), so that no server opens it meanwhile.

use std::io::ErrorKind::NotFound;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::Access;

use super::SqliteStore;
use super::connections::{
    BUSY_TIMEOUT, OpenError, check_usable, check_version, configure_statements,
};
use super::read_pool::ReadPool;
use super::writer::Writer;
use crate::store::lock::{LockedFile, with_suffix};
use crate::store::{Observers, real_path};

/// A connection that can only read.
pub(super) struct ReadOnly {
    connection: Connection,
    /// Dropped after the connection.
    _lock: Option<LockedFile>,
}

impl Deref for ReadOnly {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl ReadOnly {
    /// Opens a database of this program and version.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let opened = Self::open_any(path)?;
        check_version(&opened, path)?;
        Ok(opened)
    }

    /// Opens any database.
    pub(super) fn open_any(path: &Path) -> Result<Self, OpenError> {
        let (manager, lock) = manager(&real_path(path), BUSY_TIMEOUT)?;
        Ok(Self {
            connection: manager.connect()?,
            _lock: lock,
        })
    }
}

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY
    .union(OpenFlags::SQLITE_OPEN_PRIVATE_CACHE)
    .union(OpenFlags::SQLITE_OPEN_URI)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// <https://sqlite.org/uri.html>
fn uri(path: &Path, options: &str) -> String {
    let name = path.to_string_lossy().replace('%', "%25");
    let name = name.replace('?', "%3f").replace('#', "%23");
    format!("file:{name}?mode=ro{options}")
}

/// Opens the file at a real path as if no log were beside it.
pub(super) fn open_without_log(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(uri(path, "&immutable=1"), FLAGS)
}

/// What opens the file at a real path, and the lock that must be held meanwhile. Its connections wait for so long for another
/// program's lock, as one that recovers the log after a crash has.
pub(super) fn manager(
    path: &Path,
    timeout: Duration,
) -> Result<(SqliteConnectionManager, Option<LockedFile>), OpenError> {
    match std::fs::metadata(path) {
        // SQLite deletes the log of an empty file, whatever is in it.
        Ok(about) if about.len() == 0 => return Err(OpenError::Foreign(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == NotFound => return Err(OpenError::Missing(path.to_owned())),
        Err(error) => return Err(OpenError::Io(path.to_owned(), error)),
    }
    for suffix in ["-wal", "-shm"] {
        check_usable(&with_suffix(path, suffix), Access::READ_OK)?;
    }
    let mut lock = LockedFile::lock_shared(path).map_err(OpenError::io(path))?;
    let exists = |suffix| with_suffix(path, suffix).exists();
    let option = match (&lock, exists("-wal"), exists("-shm")) {
        // The index of the log is made in memory.
        (Some(_), true, false) => "&vfs=unix-none",
        (Some(file), false, _) if file.is_in_wal_mode() => "&immutable=1",
        // SQLite's own locks do: a process has it open, or needs no other files for it.
        _ => {
            lock = None;
            ""
        }
    };
    let is_private = lock.is_some();
    let manager = SqliteConnectionManager::file(uri(path, option))
        .with_flags(FLAGS)
        .with_init(move |connection| {
            connection.busy_timeout(timeout)?;
            if is_private {
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                connection.pragma_update(None, "locking_mode", "exclusive")?;
            }
            connection.pragma_update(None, "query_only", true)?;
            configure_statements(connection)
        });
    Ok((manager, lock))
}

impl SqliteStore {
    /// Opens `database` to read; every write is refused. While no server has it open, none can open it until this is dropped.
    ///
    /// # Errors
    /// If the file is not an r3mes-edge database, has another version or cannot be read.
    pub fn open_read_only(database: &Path) -> Result<Self, OpenError> {
        let path = real_path(database);
        let (manager, lock) = manager(&path, BUSY_TIMEOUT)?;
        check_version(&manager.connect()?, &path)?;
        let observers = Arc::<Observers>::default();
        let read_pool = ReadPool::new(manager, Arc::new(lock), Arc::clone(&observers))?;
        Ok(Self::new(path, read_pool, Writer::default(), observers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::row::value;
    use crate::store::sqlite::tests::{fresh, writing};
    use crate::store::{InstanceLock, LockError};

    fn users(c: &Connection) -> i64 {
        c.query_row("SELECT count(*) FROM users", [], value)
            .unwrap()
    }

    #[test]
    fn no_server_opens_a_file_while_it_is_read_without_its_wal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        drop(fresh(&path));
        // The second copy is one of a crashed server's files.
        let crashed = folder.path().join("crashed.db");
        let server = writing(&path).unwrap();
        let insert = "INSERT INTO users (wallet, created_at) VALUES ('a', 0)";
        server.execute(insert, []).unwrap();
        for suffix in ["", "-wal"] {
            let (from, to) = (with_suffix(&path, suffix), with_suffix(&crashed, suffix));
            std::fs::copy(from, to).unwrap();
        }
        drop(server);
        for path in [path, crashed] {
            let files = || folder.path().read_dir().unwrap().count();
            let before = files();
            let readers = [(); 2].map(|()| ReadOnly::open(&path).unwrap());
            assert!(readers.iter().all(|reader| users(reader) == 1));
            let refused = InstanceLock::acquire(&path);
            assert!(matches!(refused, Err(LockError::Held(None))), "{refused:?}");
            drop(readers);
            std::fs::remove_file(with_suffix(&path, ".lock")).unwrap();
            assert_eq!(files(), before);
            drop(InstanceLock::acquire(&path).unwrap());
        }
    }

    #[test]
    fn a_file_that_a_server_has_open_is_read_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let store = SqliteStore::open(&path, true).unwrap();
        assert_eq!(users(&ReadOnly::open(&path).unwrap()), 0);
        drop(store);
        assert_eq!(users(&ReadOnly::open(&path).unwrap()), 0);
    }
}
