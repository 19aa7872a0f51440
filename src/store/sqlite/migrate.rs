//! Brings a file of another schema version to this program's by numbered steps, and back.
//! A verified copy of the file is made first, and the steps run in one transaction, so that a failure changes nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, TransactionBehavior};

use super::backup::NewFile;
use super::check;
use super::connections::{OpenError, SCHEMA_VERSION};
use crate::model::Timestamp;

/// A change of the schema from the version below to this one, and what undoes it; each a list of statements.
pub(super) struct Step {
    version: i64,
    up: &'static str,
    down: &'static str,
}

/// Every step, in order. None is owed between development versions: the first comes with the first schema change after a
/// release.
pub(super) const STEPS: &[Step] = &[];

/// The oldest version that the steps lead from.
pub(super) const fn oldest() -> i64 {
    SCHEMA_VERSION - STEPS.len() as i64
}

/// Migrates a database to version `to`; returns the copy of what it was, if it had another version. Needs the instance
/// lock.
pub(super) fn migrate(
    connection: &mut Connection,
    database: &Path,
    steps: &[Step],
    to: i64,
) -> Result<Option<PathBuf>, OpenError> {
    let from: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if from == to {
        return Ok(None);
    }
    let stamp = Timestamp::from(SystemTime::now()).compact();
    let copy = database.with_added_extension(format!("{stamp}.version-{from}"));
    let backup = NewFile::create(copy.clone())?;
    backup.fill(connection)?;
    backup.finish()?;
    // A table that others refer to may be made anew.
    connection.pragma_update(None, "foreign_keys", false)?;
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_between = |step: &&Step| (from.min(to) + 1..=from.max(to)).contains(&step.version);
    let between = steps.iter().filter(is_between);
    let statements: Vec<_> = match from < to {
        true => between.map(|step| step.up).collect(),
        false => between.rev().map(|step| step.down).collect(),
    };
    change.execute_batch(&statements.join(";\n"))?;
    if let Some(broken) = check::broken_references(&change, 1)?.pop() {
        return Err(OpenError::Damaged(database.to_owned(), broken));
    }
    change.pragma_update(None, "user_version", to)?;
    change.commit()?;
    log::info!(
        "migrated the database from version {from} to {to}; {} is what it was",
        copy.display()
    );
    Ok(Some(copy))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fresh, schema_of};
    use super::*;

    const NEXT: i64 = SCHEMA_VERSION + 1;
    const MADE_FOR_THE_TEST: &[Step] = &[
        Step {
            version: NEXT,
            up: "CREATE TABLE first (n INTEGER) STRICT; INSERT INTO first SELECT credits FROM totals",
            down: "DROP TABLE first",
        },
        Step {
            version: NEXT + 1,
            up: "CREATE TABLE second (n INTEGER) STRICT; INSERT INTO second SELECT n FROM first; DROP TABLE first",
            down: "CREATE TABLE first (n INTEGER) STRICT; INSERT INTO first SELECT n FROM second; DROP TABLE second",
        },
    ];

    fn version(c: &Connection) -> i64 {
        c.pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"))
            .collect()
    }

    #[test]
    fn steps_lead_up_and_down_and_each_way_leaves_a_verified_copy_of_the_file_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let mut c = fresh(&path);
        let before = schema_of(&c);
        assert_eq!(
            migrate(&mut c, &path, MADE_FOR_THE_TEST, SCHEMA_VERSION).unwrap(),
            None
        );
        for (to, table) in [(NEXT, "first"), (NEXT + 1, "second")] {
            let from = version(&c);
            let copy = migrate(&mut c, &path, MADE_FOR_THE_TEST, to)
                .unwrap()
                .unwrap();
            assert!(
                copy.to_str()
                    .unwrap()
                    .ends_with(&format!(".version-{from}"))
            );
            assert_eq!(version(&Connection::open(&copy).unwrap()), from);
            let rows: i64 = c
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                    row.get(0)
                })
                .unwrap();
            assert_eq!((version(&c), rows), (to, 1));
        }
        let copy = migrate(&mut c, &path, MADE_FOR_THE_TEST, SCHEMA_VERSION).unwrap();
        assert_eq!(version(&Connection::open(copy.unwrap()).unwrap()), NEXT + 1);
        assert_eq!((version(&c), schema_of(&c)), (SCHEMA_VERSION, before));
    }

    #[test]
    fn a_step_that_fails_half_way_changes_nothing_and_leaves_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let mut c = fresh(&path);
        // In the way of the second step.
        c.execute_batch("CREATE TABLE second (theirs)").unwrap();
        let before = schema_of(&c);
        assert!(migrate(&mut c, &path, MADE_FOR_THE_TEST, NEXT + 1).is_err());
        assert_eq!((version(&c), schema_of(&c)), (SCHEMA_VERSION, before));
        assert!(
            files(folder.path())
                .iter()
                .any(|name| name.ends_with(&format!(".version-{SCHEMA_VERSION}")))
        );
    }

    #[test]
    fn a_damaged_database_is_not_migrated_and_no_copy_of_it_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let mut c = fresh(&path);
        c.execute("UPDATE totals SET credits = 1", []).unwrap();
        let migrated = migrate(&mut c, &path, MADE_FOR_THE_TEST, NEXT);
        assert!(
            matches!(migrated, Err(OpenError::Damaged(..))),
            "{migrated:?}"
        );
        assert_eq!(version(&c), SCHEMA_VERSION);
        assert_eq!(files(folder.path()), ["edge.db"]);
    }
}
