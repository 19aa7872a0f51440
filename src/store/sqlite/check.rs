use std::path::Path;

use rusqlite::Connection;

use super::open::{self, OpenError, SCHEMA_VERSION};
use super::{migrations, sql, stable_read, verify};
use crate::store::{LedgerReport, real_path};

/// What a database was found to be by [`check_database`] or [`glance`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Check {
    /// The version of its schema.
    pub version: i64,
    /// What is wrong with its pages, its schema and its references, a sentence each; empty where all is well.
    pub mistakes: Vec<String>,
    /// What is in the ledger, and what does not add up there.
    pub ledger: LedgerReport,
}

impl Check {
    /// Everything that is wrong.
    pub fn mistakes(&self) -> impl Iterator<Item = &str> {
        let ledger = self.ledger.mistakes.iter();
        self.mistakes.iter().chain(ledger).map(String::as_str)
    }
}

/// Looks at everything in a database: every page, the schema, what rows refer to, every wallet's ledger. Beside a running
/// server too, and one that starts or ends meanwhile; nothing is changed.
///
/// # Errors
/// Where it is no database of ours, of a newer version, or cannot be read; [`OpenError::Changing`] where others changed it
/// too often for an answer. What is wrong with it is in the answer.
pub fn check_database(database: &Path) -> Result<Check, OpenError> {
    let database = &real_path(database);
    stable_read::read(database, |connection| {
        let mut found = look(connection, database, sql::INTEGRITY_ALL)?;
        found.mistakes.extend(broken_references(connection, 100)?);
        Ok(found)
    })
}

/// Rows that refer to what is not there, a sentence each, at most `most`.
pub(super) fn broken_references(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<String>> {
    broken(connection, sql::CHECK_REFERENCES, most)
}

/// The first such row of one table.
pub(super) fn broken_references_of(
    connection: &Connection,
    table: &str,
) -> rusqlite::Result<Vec<String>> {
    broken(connection, &sql::check_references_of(table), 1)
}

fn broken(connection: &Connection, statement: &str, most: usize) -> rusqlite::Result<Vec<String>> {
    let mut check = connection.prepare(statement)?;
    let broken = check.query_map([], |row| {
        let (table, missing): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!(
            "a row of {table} refers to a row of {missing} that is not there"
        ))
    })?;
    broken.take(most).collect()
}

/// Looks at less than [`check_database`]: not whether indexes hold what their tables do, and not at references.
///
/// # Errors
/// As [`check_database`].
pub fn glance(database: &Path) -> Result<Check, OpenError> {
    let database = &real_path(database);
    stable_read::read(database, |connection| {
        look(connection, database, sql::INTEGRITY_QUICK)
    })
}

fn look(connection: &Connection, database: &Path, integrity: &str) -> Result<Check, OpenError> {
    let version = open::version(connection, database)?;
    let mut mistakes = texts(connection, integrity)?;
    mistakes.retain(|mistake| mistake != "ok");
    mistakes.extend(differences(connection, version)?);
    Ok(Check {
        version,
        mistakes,
        ledger: verify::verify(connection)?,
    })
}

/// Where the schema is not what this version's is.
fn differences(connection: &Connection, version: i64) -> rusqlite::Result<Vec<String>> {
    let mut differences = missing(connection, version)?;
    if version == SCHEMA_VERSION {
        let should = should()?;
        let is = schema(connection)?.into_iter();
        let foreign = is.filter(|part| !should.contains(part) && !migrations::waits(part));
        differences.extend(foreign.map(|part| format!("the schema has what is not ours: {part}")));
    }
    Ok(differences)
}

/// What the schema lacks of this version's.
pub(super) fn missing(connection: &Connection, version: i64) -> rusqlite::Result<Vec<String>> {
    if version != SCHEMA_VERSION {
        return Ok(Vec::new());
    }
    let is = schema(connection)?;
    let missing = should()?.into_iter().filter(|part| !is.contains(part));
    Ok(missing
        .map(|part| format!("the schema lacks: {part}"))
        .collect())
}

/// The schema of a fresh file.
fn should() -> rusqlite::Result<Vec<String>> {
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(open::SCHEMA)?;
    schema(&fresh)
}

/// Every table, index and trigger as the file has it, without comments, spaces, and the quotes that a renamed table has
/// around its name.
pub(super) fn schema(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let words = |text: &String| {
        let lines = text.lines().filter_map(|line| line.split("--").next());
        let lines = lines.collect::<Vec<_>>().join(" ");
        let words = lines.split_whitespace().collect::<Vec<_>>().join(" ");
        words.replace('"', "")
    };
    Ok(texts(connection, sql::SCHEMA)?.iter().map(words).collect())
}

fn texts(connection: &Connection, statement: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare(statement)?;
    select.query_map([], |row| row.get(0))?.collect()
}
