//! Reading a file that a server may open, write or close at any moment.
//!
//! Opening a file without a server such that no file is created beside it takes no lock. The result is valid only if no
//! process wrote meanwhile, and is read again otherwise: a server that starts could make a healthy file look damaged.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::connections::{BUSY_TIMEOUT, OpenError};
use crate::store::lock::{FileId, is_locked_here, read_unlocked, with_suffix};

/// Times that something is read while others change how it must be read.
const ATTEMPTS: usize = 10;
/// Between two of them; a server that starts or ends makes and deletes several files.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection that can only read, and what its file was before it was opened.
pub(super) struct StableReader {
    path: PathBuf,
    connection: Connection,
    opened: Opened,
}

/// What a file was before it was opened, and how it is read.
struct Opened {
    state: State,
    mode: Mode,
}

/// What became of a file since it was opened.
enum Since {
    Unchanged,
    Changed,
    /// Another file has its name.
    Replaced,
}

impl Opened {
    fn before(path: &Path) -> Result<Self, OpenError> {
        let state = State::of(path);
        if state.main.is_none() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        // SQLite deletes the log of an empty file, whatever is in it.
        if state.content[0].is_some_and(|(length, ..)| length == 0) {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let mode = Mode::of(path);
        Ok(Self { state, mode })
    }

    fn since(&self, path: &Path) -> Since {
        let (now, then) = (State::of(path), &self.state);
        // Beside locks the content may change.
        let content = matches!(self.mode, Mode::Locks) || now.content == then.content;
        match now.main == then.main {
            false => Since::Replaced,
            true if now.logs == then.logs && content => Since::Unchanged,
            true => Since::Changed,
        }
    }
}

/// What a file and its log are at one moment.
struct State {
    main: Option<FileId>,
    /// `-wal` and `-shm`: they come and go with those who have the file open.
    logs: [Option<FileId>; 2],
    /// Length of the file and its log, and when they were written.
    content: [Option<(u64, i64, i64)>; 2],
}

impl State {
    fn of(path: &Path) -> Self {
        let about = |file: &Path| {
            let about = std::fs::metadata(file).ok()?;
            // Not when its owner or mode was set: SQLite does that, run by root.
            Some((about.len(), about.mtime(), about.mtime_nsec()))
        };
        let [log, index] = ["-wal", "-shm"].map(|suffix| with_suffix(path, suffix));
        Self {
            main: FileId::at(path),
            logs: [FileId::at(&log), FileId::at(&index)],
            content: [about(path), about(&log)],
        }
    }
}

impl StableReader {
    /// Opens the file at a real path; nothing in it or beside it is changed.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let opened = Opened::before(path)?;
        Ok(Self {
            path: path.to_owned(),
            connection: opened.mode.open(path)?,
            opened,
        })
    }

    /// The connection alone, to read one snapshot of a file that no process writes to.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    /// Runs `query`, again where its answer may be wrong.
    pub(super) fn read<T>(
        &mut self,
        mut query: impl FnMut(&Connection) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        for _ in 0..ATTEMPTS {
            let answer = query(&self.connection);
            match self.opened.since(&self.path) {
                Since::Unchanged => return answer,
                Since::Changed => {}
                Since::Replaced => break,
            }
            std::thread::sleep(PAUSE);
            *self = Self::open(&self.path)?;
        }
        Err(OpenError::Changing(self.path.clone()))
    }
}

/// Reads from a file at a real path as a [`StableReader`] does.
pub(super) fn read<T>(
    path: &Path,
    query: impl FnMut(&Connection) -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    StableReader::open(path)?.read(query)
}

/// Opens a file at a real path with `open` and hands it to `query`, again where its answer may be wrong.
pub(super) async fn read_async<S, T, E: From<OpenError>>(
    path: &Path,
    open: impl Fn(Mode) -> Result<S, OpenError>,
    query: impl AsyncFn(S) -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..ATTEMPTS {
        let opened = Opened::before(path)?;
        let answer = match open(opened.mode) {
            Ok(store) => query(store).await,
            Err(error) => Err(error.into()),
        };
        match opened.since(path) {
            Since::Unchanged => return answer,
            Since::Changed => tokio::time::sleep(PAUSE).await,
            Since::Replaced => break,
        }
    }
    Err(OpenError::Changing(path.to_owned()).into())
}

/// How a file is read.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// With locks, as any SQLite connection. In WAL mode this creates the log and its index if they are missing.
    Locks,
    /// It has a log without an index, so its writer is gone: the index is rebuilt in memory. With locks this would need an
    /// exclusive one, which a read-only connection cannot get.
    PrivateIndex,
    /// It has no log, and none is created.
    Immutable,
}

impl Mode {
    fn of(path: &Path) -> Self {
        let is_there = |suffix| with_suffix(path, suffix).exists();
        // A file that this process has open must be opened with SQLite's own bookkeeping of its locks.
        if is_locked_here(path) {
            return Self::Locks;
        }
        match (is_there("-wal"), is_there("-shm")) {
            (true, false) => Self::PrivateIndex,
            (false, _) if is_in_wal_mode(path) => Self::Immutable,
            _ => Self::Locks,
        }
    }

    const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY
        .union(OpenFlags::SQLITE_OPEN_URI)
        .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

    pub(super) fn open(self, path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(self.address(path), Self::FLAGS)?;
        self.configure(&connection)?;
        Ok(connection)
    }

    /// Opens what [`Mode::open`] does, for a pool.
    pub(super) fn manager(self, path: &Path) -> SqliteConnectionManager {
        SqliteConnectionManager::file(self.address(path))
            .with_flags(Self::FLAGS)
            .with_init(move |connection| self.configure(connection))
    }

    /// The file as a URI of SQLite (https://sqlite.org/uri.html).
    fn address(self, path: &Path) -> String {
        let mut address = String::from("file:");
        for character in path.to_string_lossy().chars() {
            match character {
                '%' => address.push_str("%25"),
                '?' => address.push_str("%3f"),
                '#' => address.push_str("%23"),
                other => address.push(other),
            }
        }
        address.push_str("?mode=ro");
        address.push_str(match self {
            Self::Locks => "",
            Self::PrivateIndex => "&vfs=unix-none",
            Self::Immutable => "&immutable=1",
        });
        address
    }

    fn configure(self, connection: &Connection) -> rusqlite::Result<()> {
        // A server that starts locks readers out while it recovers its log.
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if let Self::PrivateIndex = self {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.pragma_update(None, "locking_mode", "exclusive")?;
        }
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "trusted_schema", false)
    }
}

/// Bytes 18 and 19 of a database's header are 2 in WAL mode (SQLite, "Database File Format", 1.3.3).
fn is_in_wal_mode(path: &Path) -> bool {
    read_unlocked::<20>(path).is_some_and(|header| header[18] == 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::tests::{fresh, writing};

    fn entries(connection: &Connection) -> Result<i64, OpenError> {
        Ok(connection.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?)
    }

    fn insert(connection: &Connection, wallet: i64) {
        let insert = "INSERT INTO users (wallet, created_at) VALUES (?1, 0)";
        connection.execute(insert, [wallet.to_string()]).unwrap();
    }

    /// Whether the other process, after it started and wrote, ends or keeps running.
    #[derive(Clone, Copy, Debug)]
    enum Other {
        Ends,
        GoesOn,
    }

    #[test]
    fn what_was_read_while_a_server_started_is_read_again() {
        for other in [Other::Ends, Other::GoesOn] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("edge.db");
            drop(fresh(&path));
            let mut serving = None;
            let mut asked = 0;
            let found = read(&path, |connection| {
                asked += 1;
                let before = entries(connection)?;
                if asked == 1 {
                    let server = writing(&path).unwrap();
                    insert(&server, 1);
                    server.execute_batch("PRAGMA wal_checkpoint").unwrap();
                    if let Other::GoesOn = other {
                        serving = Some(server);
                    }
                }
                // Pages of two different states can give any result.
                let same = entries(connection)? == before;
                Ok((asked, before, same))
            });
            assert_eq!(found.unwrap(), (2, 1, true), "{other:?}");
        }
    }

    #[test]
    fn a_file_that_never_rests_is_called_neither_good_nor_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        drop(fresh(&path));
        let mut asked = 0;
        let found = read(&path, |_| {
            asked += 1;
            insert(&writing(&path).unwrap(), asked);
            Err::<(), _>(OpenError::Damaged(
                path.clone(),
                "or so it seems".to_owned(),
            ))
        });
        assert!(matches!(found, Err(OpenError::Changing(_))), "{found:?}");
        let found = read(&path, |_| {
            std::fs::rename(&path, folder.path().join("away.db")).unwrap();
            std::fs::copy(folder.path().join("away.db"), &path).unwrap();
            Ok(())
        });
        assert!(matches!(found, Err(OpenError::Changing(_))), "{found:?}");
    }
}
