//! Checks a database file: its pages, schema, foreign keys and ledger. Only reads, also while a server writes to it, and
//! changes or creates no file.

use std::path::Path;

use rusqlite::Connection;

use super::connections::{self, OpenError};
use super::read_only::ReadOnly;
use super::{sql, verify};
use crate::store::LedgerReport;

/// The result of [`check_database`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Check {
    /// The schema version.
    pub version: i64,
    /// Errors in its pages, schema and foreign keys, a sentence each.
    pub mistakes: Vec<String>,
    /// The totals of the ledger and its errors.
    pub ledger: LedgerReport,
}

impl Check {
    /// All errors, of the file and of the ledger.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        let ledger = self.ledger.mistakes.iter();
        self.mistakes.iter().chain(ledger).map(String::as_str)
    }
}

/// Checks every page, the schema, the foreign keys and every wallet's ledger; also while a server runs.
///
/// # Errors
/// If the file is not an r3mes-edge database, has another version or cannot be read. Errors in the database are in the
/// result.
pub fn check_database(database: &Path) -> Result<Check, OpenError> {
    let c = &ReadOnly::open(database)?;
    let mut errors = damage(c)?;
    errors.extend(schema_differences(c)?);
    errors.extend(broken_references(c, 100)?);
    Ok(Check {
        version: connections::check_version(c, database)?,
        mistakes: errors,
        ledger: verify::verify(c)?,
    })
}

/// Errors in the pages, a sentence each, at most a hundred.
pub(super) fn damage(c: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut errors = texts(c, sql::INTEGRITY)?;
    errors.retain(|error| error != "ok");
    Ok(errors)
}

/// Violated foreign keys, a sentence each, at most `limit`.
pub(super) fn broken_references(c: &Connection, limit: usize) -> rusqlite::Result<Vec<String>> {
    let mut check = c.prepare(sql::CHECK_REFERENCES)?;
    let broken = check.query_map([], |row| {
        let (table, missing): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!(
            "a row of {table} refers to a missing row of {missing}"
        ))
    })?;
    broken.take(limit).collect()
}

/// Differences from the schema of a new file.
fn schema_differences(c: &Connection) -> rusqlite::Result<Vec<String>> {
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(connections::SCHEMA)?;
    let (expected, found) = (schema(&fresh)?, schema(c)?);
    let missing = expected.iter().filter(|part| !found.contains(part));
    let missing = missing.map(|part| format!("missing in the schema: {part}"));
    let unexpected = found.iter().filter(|part| !expected.contains(part));
    let unexpected = unexpected.map(|part| format!("unexpected in the schema: {part}"));
    Ok(missing.chain(unexpected).collect())
}

/// The statements that created each table, index and trigger, without comments and line breaks.
pub(super) fn schema(c: &Connection) -> rusqlite::Result<Vec<String>> {
    let statements = texts(c, sql::SCHEMA)?;
    let words = statements.iter().map(|text| {
        let lines = text.lines().filter_map(|line| line.split("--").next());
        let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
        words.join(" ")
    });
    Ok(words.collect())
}

fn texts(c: &Connection, statement: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = c.prepare(statement)?;
    select.query_map([], |row| row.get(0))?.collect()
}
