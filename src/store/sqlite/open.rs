use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{sql, storage_error};
use crate::store::lock::with_suffix;
use crate::store::{InstanceLock, LockError, StoreError};

/// Why a database was not opened.
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
    /// It was changed again and again while it was read, so that nothing can be said about it.
    Changing(PathBuf),
    /// There is no database, but this file of one, so none is made.
    Leftover(PathBuf),
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
            Self::Changing(path) => write!(
                f,
                "{} was being changed while it was read, which says nothing about its state; run this again",
                path.display()
            ),
            Self::Leftover(path) => write!(
                f,
                "{} belongs to a database whose file is missing or empty, so no new one is made: put that file back beside it, or run r3mes-edge restore FILE, which moves it out of the way",
                path.display()
            ),
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

/// What a restore makes of a copy before it takes the database's place.
pub(super) const RESTORING: &str = "restoring";

/// Locks the database at a real path, which is made where it is missing and `create` says so.
pub(super) fn lock(path: &Path, create: bool) -> Result<InstanceLock, OpenError> {
    let exists = || path.symlink_metadata().is_ok();
    if !create && !exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let mut lock = InstanceLock::acquire(path).map_err(OpenError::Locked)?;
    let length = |file: &Path| std::fs::metadata(file).map_or(0, |about| about.len());
    let has_content = |file: &PathBuf| length(file) > 0;
    let [wal, journal] = ["-wal", "-journal"].map(|suffix| with_suffix(path, suffix));
    let restoring = path.with_added_extension(RESTORING);
    // SQLite would begin anew and delete the log, and every commit in it. A fresh file has a journal before its first page.
    let leftover = match exists() {
        true if length(path) > 0 => None,
        true => Some(wal).filter(has_content),
        false => [wal, journal, restoring].into_iter().find(has_content),
    };
    if let Some(leftover) = leftover {
        return Err(OpenError::Leftover(leftover));
    }
    if create {
        // -wal and -shm take its mode.
        lock.create_file().map_err(OpenError::Locked)?;
    } else if !exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    Ok(lock)
}

/// Opens a file as a server does that has its lock.
#[cfg(test)]
pub(super) fn writing(path: &Path) -> Result<Connection, OpenError> {
    let mut connection = connect(path)?;
    shape(&mut connection, path)?;
    Ok(connection)
}

/// A new database, for tests of what is inside one.
#[cfg(test)]
pub(super) fn fresh(path: &Path) -> Connection {
    drop(empty(path).unwrap());
    writing(path).unwrap()
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
        assert!(matches!(lock(&path, false), Err(OpenError::Missing(_))));
        assert!(folder.path().read_dir().unwrap().next().is_none());

        std::fs::write(
            &path,
            "this is a letter to my mother, and it is longer than a header",
        )
        .unwrap();
        assert!(matches!(writing(&path), Err(OpenError::Foreign(_))));
        std::fs::remove_file(&path).unwrap();

        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE theirs (n)")
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(writing(&path), Err(OpenError::Foreign(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(&path).unwrap();

        fresh(&path)
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            writing(&path),
            Err(OpenError::Newer {
                found: 99,
                known: SCHEMA_VERSION
            })
        ));
    }

    #[test]
    fn no_database_is_made_beside_what_is_left_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        for (suffix, beside_an_empty_file) in
            [("-wal", true), ("-journal", false), (".restoring", false)]
        {
            let left = with_suffix(&path, suffix);
            std::fs::write(&left, "something").unwrap();
            assert!(matches!(lock(&path, true), Err(OpenError::Leftover(file)) if file == left));
            assert!(!path.exists());
            std::fs::write(&path, "").unwrap();
            assert_eq!(lock(&path, true).is_err(), beside_an_empty_file, "{suffix}");
            std::fs::remove_file(&path).unwrap();
            // An empty one is all that a process leaves that was killed at once.
            std::fs::write(&left, "").unwrap();
            assert!(lock(&path, true).is_ok());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_a_new_database() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let _connection = fresh(&path);
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
        let connection = fresh(&folder.path().join("edge.db"));
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
