use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{sql, storage_error};
use crate::store::{LockError, StoreError};

/// Why a database was not opened; [`SqliteStore::open`](super::SqliteStore::open) shows two of them.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it, or its lock file cannot be used.
    Locked(LockError),
    /// There is no such file.
    Missing(PathBuf),
    /// The file is something else.
    Foreign(PathBuf),
    /// The file is no database of an R3MES backend; why.
    NotR3mes(PathBuf, &'static str),
    /// A newer version of this program wrote it.
    Newer {
        /// The file's schema version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// Its pages or its ledger are not as they were written; what is wrong first.
    Damaged(PathBuf, String),
    /// The file system refused.
    Io(PathBuf, std::io::Error),
    /// SQLite refused.
    Storage(StoreError),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Locked(error) => error.fmt(f),
            Self::Missing(path) => write!(f, "there is no database at {}", path.display()),
            Self::Foreign(path) => write!(f, "{} is not a database of r3mes-edge", path.display()),
            Self::NotR3mes(path, why) => write!(
                f,
                "{} is no database of an R3MES backend: {why}",
                path.display()
            ),
            Self::Newer { found, known } => {
                write!(
                    f,
                    "the database has schema version {found}, this program knows versions up to {known}: use a newer one"
                )
            }
            Self::Damaged(path, what) => write!(f, "{} is damaged: {what}", path.display()),
            Self::Io(path, error) => write!(f, "cannot use {}: {error}", path.display()),
            Self::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(storage_error(error))
    }
}

/// "R3ME", in the file's header: tells `file` and us whose database it is.
const APPLICATION_ID: i64 = 0x5233_4D45;
/// The version of the schema that this program writes; it stands in the file as `PRAGMA user_version`.
pub const SCHEMA_VERSION: i64 = 2;

/// What a fresh file gets.
pub(super) const SCHEMA: &str = include_str!("../../../schema.sql");

/// How long the writing connection waits for another program's lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Statements kept ready per connection; there are about forty.
pub(super) const PREPARED: usize = 64;

/// Opens the one writing connection and brings the file into shape; it must not be of an older version. Call it under the
/// instance lock.
pub(super) fn writing(path: &Path, create: bool) -> Result<Connection, OpenError> {
    let mut connection = connect_or_make(path, create)?;
    shape(&mut connection, path)?;
    Ok(connection)
}

/// A connection that can write to a file, which is made where it is missing and `create` says so.
pub(super) fn connect_or_make(path: &Path, create: bool) -> Result<Connection, OpenError> {
    if !path.exists() {
        if !create {
            return Err(OpenError::Missing(path.to_owned()));
        }
        // -wal and -shm take its mode.
        empty(path).map_err(|error| OpenError::Io(path.to_owned(), error))?;
    }
    connect(path)
}

/// Makes an empty file; here and not by SQLite, so that nobody else can read it for a moment.
pub(super) fn empty(file: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)
}

/// The folder that a file is in.
pub(super) fn folder_of(file: &Path) -> &Path {
    let folder = file.parent();
    let named = folder.filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// Gives a fresh file its schema, and the connection what writing needs.
pub(super) fn shape(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    match stamps(connection, path)? {
        (0, 0)
            if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })? == 0 =>
        {
            // Before there is a table: a file that was made without it cannot give pages back.
            connection.pragma_update(None, "auto_vacuum", "incremental")?;
            // WAL once, on this connection, before the pool opens: set by several at once it fails with "locked".
            connection.pragma_update(None, "journal_mode", "wal")?;
            settle(connection)?;
            let fresh =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            fresh.execute_batch(SCHEMA)?;
            fresh.pragma_update(None, "application_id", APPLICATION_ID)?;
            fresh.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            fresh.commit()?;
        }
        (APPLICATION_ID, SCHEMA_VERSION) => {
            connection.pragma_update(None, "journal_mode", "wal")?;
            settle(connection)?;
        }
        stamps => return Err(refusal(stamps, path)),
    }
    connection.execute_batch(sql::COUNT_IDEMPOTENCY)?;
    Ok(())
}

/// A connection that can write, and nothing looked at yet.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    // SQLite opens to read what it cannot open to write, and would never look again.
    if connection.is_readonly("main")? {
        let error = std::io::ErrorKind::ReadOnlyFilesystem;
        return Err(OpenError::Io(path.to_owned(), error.into()));
    }
    Ok(connection)
}

/// Why a file with such stamps is not ours to open.
fn refusal((application, found): (i64, i64), path: &Path) -> OpenError {
    match (application, found) {
        (APPLICATION_ID, 1..SCHEMA_VERSION) => OpenError::Storage(StoreError::Conflict(format!(
            "the database has schema version {found}: `r3mes-edge db migrate` brings it to version {SCHEMA_VERSION}, and so does a start of the server"
        ))),
        (APPLICATION_ID, SCHEMA_VERSION..) => OpenError::Newer {
            found,
            known: SCHEMA_VERSION,
        },
        _ => OpenError::Foreign(path.to_owned()),
    }
}

/// Opens a file that no server has, to be read; nothing in it or beside it is changed.
pub(super) fn reading(path: &Path) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let text = path.to_string_lossy();
    let mut address = String::from("file:");
    for character in text.chars() {
        match character {
            '%' => address.push_str("%25"),
            '?' => address.push_str("%3f"),
            '#' => address.push_str("%23"),
            other => address.push(other),
        }
    }
    // Reading a database in WAL mode makes files beside it, unless it is said that nobody writes it. Without a log
    // nobody does; with one, the log must be read too. Where the index of the log is missing, whoever wrote it is gone:
    // made anew it stays in memory, if the file is this connection's alone, and such a lock cannot be had for reading.
    let beside = |end: &str| Path::new(&format!("{text}{end}")).exists();
    let alone = beside("-wal") && !beside("-shm");
    address.push_str("?mode=ro");
    if alone {
        address.push_str("&vfs=unix-none");
    } else if !beside("-wal") && is_in_wal_mode(path) {
        address.push_str("&immutable=1");
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(address, flags)?;
    if alone {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "locking_mode", "exclusive")?;
    }
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Bytes 18 and 19 of a database's header are 2 in WAL mode (SQLite, "Database File Format", 1.3.3).
fn is_in_wal_mode(path: &Path) -> bool {
    let mut header = [0; 20];
    let read = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut header));
    read.is_ok() && header[18] == 2
}

/// The version of a file, which must be a database of ours and no newer than this program.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    match stamps(connection, path)? {
        (APPLICATION_ID, version @ 1..=SCHEMA_VERSION) => Ok(version),
        stamps => Err(refusal(stamps, path)),
    }
}

/// Refuses what is no database of ours of this program's version.
pub(super) fn current(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    match stamps(connection, path)? {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        stamps => Err(refusal(stamps, path)),
    }
}

/// Whose the file says it is, and of which version.
fn stamps(connection: &Connection, path: &Path) -> Result<(i64, i64), OpenError> {
    let number = |pragma: &str| {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
    };
    let application =
        number("application_id").map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
            _ => error.into(),
        })?;
    Ok((application, number("user_version")?))
}

/// What the writing connection needs besides WAL.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    // FULL: an answer says that the change is on the disk. NORMAL would lose the last commits in a power cut.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // Else a statement whose plan might look at its parameters, as for an index of some rows, is prepared anew each time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_foreign_and_a_newer_file_are_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        assert!(matches!(writing(&path, false), Err(OpenError::Missing(_))));
        assert!(!path.exists());

        std::fs::write(
            &path,
            "this is a letter to my mother, and it is longer than a header",
        )
        .unwrap();
        assert!(matches!(writing(&path, true), Err(OpenError::Foreign(_))));
        std::fs::remove_file(&path).unwrap();

        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE theirs (n)")
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(writing(&path, true), Err(OpenError::Foreign(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(&path).unwrap();

        writing(&path, true)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            writing(&path, true),
            Err(OpenError::Newer {
                found: 99,
                known: SCHEMA_VERSION
            })
        ));
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_a_new_database() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let _connection = writing(&path, true).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", path.display());
            assert_eq!(
                std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o600,
                "{file}"
            );
        }
    }

    #[test]
    fn every_statement_is_answered_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let connection = writing(&folder.path().join("edge.db"), true).unwrap();
        for (name, statement) in super::super::sql::ALL {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
                .unwrap();
            let parameters = plan.parameter_count();
            let steps = plan
                .query_map(rusqlite::params_from_iter(vec![1i64; parameters]), |row| {
                    row.get::<_, String>(3)
                })
                .unwrap()
                .collect::<Result<Vec<_>, _>>()
                .unwrap();
            for step in &steps {
                // A walk over an index in its order is bounded by LIMIT, one over a grouped subquery by what that yields.
                let bounded = ["USING", "(subquery", "CONSTANT ROW"]
                    .iter()
                    .any(|word| step.contains(word));
                assert!(!step.starts_with("SCAN") || bounded, "{name}: {steps:#?}");
            }
        }
    }

    #[test]
    fn no_statement_stands_outside_the_one_list() {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found)
                } else {
                    found.push(path)
                }
            }
        }
        let mut files = Vec::new();
        walk(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut files,
        );
        let apart =
            |file: &&PathBuf| !file.ends_with("sqlite/sql.rs") && !file.ends_with("tests.rs");
        for file in files.iter().filter(apart) {
            let text = std::fs::read_to_string(file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for verb in ["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE "] {
                let allowed = file.ends_with("sqlite/open.rs") && verb == "\"SELECT ";
                assert!(
                    allowed || !code.contains(verb),
                    "{} holds SQL",
                    file.display()
                );
            }
        }
    }
}
