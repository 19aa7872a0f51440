//! Whether a database file is intact: its pages, its schema, what rows refer to, and its ledger.
//! It is read beside whoever writes it, and nothing in it or beside it changes.

use std::path::Path;

use rusqlite::Connection;

use super::connections::{self, OpenError};
use super::{sql, stable_read, verify};
use crate::store::{LedgerReport, real_path};

/// What [`check_database`] or [`quick_check`] found.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Check {
    /// The version of its schema.
    pub version: i64,
    /// What is wrong with its pages, its schema and its references, a sentence each.
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

/// Checks every page, the schema, what rows refer to, and every wallet's ledger; beside a running server too.
///
/// # Errors
/// Where it is no database of ours, of another version, or cannot be read; [`OpenError::Changing`] where others changed it
/// too often for an answer. What is wrong with it is in the answer.
pub fn check_database(database: &Path) -> Result<Check, OpenError> {
    check(database, true)
}

/// Checks less than [`check_database`]: not whether indexes hold what their tables do, and no references.
///
/// # Errors
/// As [`check_database`].
pub fn quick_check(database: &Path) -> Result<Check, OpenError> {
    check(database, false)
}

fn check(database: &Path, everything: bool) -> Result<Check, OpenError> {
    let database = &real_path(database);
    stable_read::read(database, |c| {
        let version = connections::check_version(c, database)?;
        let integrity = if everything {
            sql::INTEGRITY_ALL
        } else {
            sql::INTEGRITY_QUICK
        };
        let mut mistakes = texts(c, integrity)?;
        mistakes.retain(|mistake| mistake != "ok");
        mistakes.extend(schema_differences(c)?);
        if everything {
            mistakes.extend(broken_references(c, 100)?);
        }
        Ok(Check {
            version,
            mistakes,
            ledger: verify::verify(c)?,
        })
    })
}

/// Rows that refer to what is not there, a sentence each, at most `limit`.
pub(super) fn broken_references(c: &Connection, limit: usize) -> rusqlite::Result<Vec<String>> {
    let mut check = c.prepare(sql::CHECK_REFERENCES)?;
    let broken = check.query_map([], |row| {
        let (table, missing): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!(
            "a row of {table} refers to a row of {missing} that is not there"
        ))
    })?;
    broken.take(limit).collect()
}

/// Where the schema is not that of a new file.
fn schema_differences(c: &Connection) -> rusqlite::Result<Vec<String>> {
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(connections::SCHEMA)?;
    let (expected, found) = (schema(&fresh)?, schema(c)?);
    let lacks = expected.iter().filter(|part| !found.contains(part));
    let lacks = lacks.map(|part| format!("the schema lacks: {part}"));
    let foreign = found.iter().filter(|part| !expected.contains(part));
    let foreign = foreign.map(|part| format!("the schema has what is not ours: {part}"));
    Ok(lacks.chain(foreign).collect())
}

/// What made each table, index and trigger, without comments and line breaks.
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
