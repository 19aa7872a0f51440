//! How a file of another version gets this program's schema, and goes back to an older one.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::open::{self, OpenError, SCHEMA_VERSION};
use super::{back_up, check, sql};
use crate::model::Timestamp;
use crate::store::{InstanceLock, StoreError};

/// The way from the version below to this one, and back.
struct Step {
    version: i64,
    up: &'static str,
    down: &'static str,
}

/// Every step, in order, the first to version 2.
const STEPS: [Step; 1] = [Step {
    version: 2,
    up: include_str!("migrations/2_up.sql"),
    down: include_str!("migrations/2_down.sql"),
}];

/// What [`migrate_database`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migrated {
    /// The version that was found.
    pub from: i64,
    /// The version that it has now, or would have.
    pub to: i64,
    /// The copy that was made before; none where there was nothing to do, or nothing was to be changed.
    pub backup: Option<PathBuf>,
}

impl std::fmt::Display for Migrated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, backup } = self;
        match backup {
            Some(backup) => write!(
                f,
                "the database was migrated from version {from} to {to}; {} holds what it was",
                backup.display()
            ),
            None if from == to => write!(f, "the database has version {to}; nothing is to be done"),
            None => write!(
                f,
                "the database can be migrated from version {from} to {to}"
            ),
        }
    }
}

/// Brings a database that no server has to version `to`, by default this program's. A `dry_run` does everything and keeps
/// nothing of it.
///
/// # Errors
/// Where a server has it, it is no database of ours or newer than this program, there is no such version, or a step fails:
/// then it is as it was.
///
/// # Example
/// ```
/// use r3mes_edge::{Repository, SqliteStore};
/// use r3mes_edge::store::{SCHEMA_VERSION, migrate_database};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let database = folder.path().join("edge.db");
///
/// SqliteStore::open(&database, true)?.close();
/// // Back to what an older program reads; a copy of what it was is kept.
/// let back = migrate_database(&database, Some(1), false)?;
/// assert_eq!((back.from, back.to), (SCHEMA_VERSION, 1));
/// assert!(back.backup.is_some_and(|copy| copy.exists()));
/// // What would be done, without doing it. Opening such a file does it.
/// let trial = migrate_database(&database, None, true)?;
/// assert_eq!((trial.from, trial.to, trial.backup), (1, SCHEMA_VERSION, None));
/// SqliteStore::open(&database, false)?.close();
/// # Ok(())
/// # }
/// ```
pub fn migrate_database(
    database: &Path,
    to: Option<i64>,
    dry_run: bool,
) -> Result<Migrated, OpenError> {
    if !database.exists() {
        return Err(OpenError::Missing(database.to_owned()));
    }
    let _lock = InstanceLock::acquire(database).map_err(OpenError::Locked)?;
    migrate(
        &mut open::connect(database)?,
        database,
        to.unwrap_or(SCHEMA_VERSION),
        dry_run,
    )
}

/// Brings a file of an older version to this program's. Call it under the instance lock.
pub(super) fn bring_along(connection: &mut Connection, database: &Path) -> Result<(), OpenError> {
    // What it is, if it is fresh or none of ours, is told by who shapes it.
    if let Ok(1..SCHEMA_VERSION) = open::version(connection, database) {
        let done = migrate(connection, database, SCHEMA_VERSION, false)?;
        log::info!("{done}");
    }
    Ok(())
}

/// The same on a connection to it, under its lock.
fn migrate(
    connection: &mut Connection,
    database: &Path,
    to: i64,
    dry_run: bool,
) -> Result<Migrated, OpenError> {
    let from = open::version(connection, database)?;
    if !(1..=SCHEMA_VERSION).contains(&to) {
        let text = format!("there is no version {to}; there are 1 to {SCHEMA_VERSION}");
        return Err(OpenError::Storage(StoreError::Conflict(text)));
    }
    let mut backup = None;
    if from != to && !dry_run {
        let stamp = Timestamp::from(std::time::SystemTime::now()).compact();
        let copy = database.with_added_extension(format!("{stamp}.version-{from}"));
        back_up(database, &copy)?;
        backup = Some(copy);
    }
    // What refers to a table that is made anew must not be looked at before all of it is there.
    connection.pragma_update(None, "foreign_keys", false)?;
    let steps: Vec<(&str, i64)> = if from < to {
        let due = STEPS
            .iter()
            .filter(|step| (from + 1..=to).contains(&step.version));
        due.map(|step| (step.up, step.version)).collect()
    } else {
        let due = STEPS
            .iter()
            .filter(|step| (to + 1..=from).contains(&step.version));
        due.rev()
            .map(|step| (step.down, step.version - 1))
            .collect()
    };
    if dry_run {
        // One transaction around all, as a later step needs what an earlier one made.
        let trial = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (statements, _) in steps {
            trial.execute_batch(statements)?;
        }
        check_references(&trial, database)?;
        trial.rollback()?;
        return Ok(Migrated { from, to, backup });
    }
    for (statements, version) in steps {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(statements)?;
        check_references(&step, database)?;
        step.pragma_update(None, "user_version", version)?;
        step.commit()?;
    }
    give_back_pages(connection)?;
    Ok(Migrated { from, to, backup })
}

/// Whether everything that a row refers to is there.
fn check_references(connection: &Connection, database: &Path) -> Result<(), OpenError> {
    let mut broken = check::broken_references(connection, 1)?;
    match broken.pop() {
        None => Ok(()),
        Some(text) => Err(OpenError::Damaged(database.to_owned(), text)),
    }
}

/// Lets a file that was made before version 2 give free pages back, which takes writing it anew once.
fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    let now: i64 = connection.query_row(sql::AUTO_VACUUM, [], |row| row.get(0))?;
    if now == INCREMENTAL {
        return Ok(());
    }
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    if let Err(error) = connection.execute_batch(sql::VACUUM) {
        log::warn!("the file keeps its free pages, as it was not written anew: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(connection: &Connection) -> Vec<String> {
        check::schema(connection).unwrap()
    }

    fn version_1(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        let schema = include_str!("../../../tests/it/fixtures/schema_1.sql");
        connection.execute_batch(schema).unwrap();
        connection
            .execute_batch("PRAGMA application_id = 0x52334D45; PRAGMA user_version = 1")
            .unwrap();
        connection
    }

    #[test]
    fn from_every_older_version_there_is_a_way_up_to_the_schema_of_a_fresh_file_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = open::writing(&folder.path().join("fresh.db"), true).unwrap();
        let path = folder.path().join("old.db");
        let first = schema(&version_1(&path));
        // What each version looks like on the way up is what it looks like on the way down.
        let mut seen = vec![first];
        for version in 2..=SCHEMA_VERSION {
            let done = migrate_database(&path, Some(version), false).unwrap();
            assert_eq!((done.from, done.to), (version - 1, version));
            seen.push(schema(&open::connect(&path).unwrap()));
        }
        assert_eq!(seen.last(), Some(&schema(&fresh)));
        for version in (1..SCHEMA_VERSION).rev() {
            migrate_database(&path, Some(version), false).unwrap();
            let now = schema(&open::connect(&path).unwrap());
            assert_eq!(now, seen[version as usize - 1], "down to {version}");
        }
        let all = migrate_database(&path, None, false).unwrap();
        assert_eq!((all.from, all.to), (1, SCHEMA_VERSION));
        assert_eq!(schema(&open::connect(&path).unwrap()), schema(&fresh));
        let pages: i64 = open::connect(&path)
            .unwrap()
            .query_row(sql::AUTO_VACUUM, [], |row| row.get(0))
            .unwrap();
        assert_eq!(pages, 2);
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let connection = version_1(&path);
        // In the way of what the step makes.
        connection
            .execute_batch("CREATE TABLE late_minutes (theirs)")
            .unwrap();
        let before = schema(&connection);
        assert!(migrate_database(&path, None, false).is_err());
        assert_eq!(schema(&connection), before);
        assert_eq!(open::version(&connection, &path).unwrap(), 1);
    }
}
