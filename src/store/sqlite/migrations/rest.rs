//! What a step of the schema leaves for later: rows that come along in pieces, beside whoever reads and writes.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::Value;
use rusqlite::{Batch, Connection, OptionalExtension, params_from_iter};

use super::super::sql;
use super::{STEPS, Way};

/// The name under which a table of another version waits until all of it has come along.
pub(super) fn waiting(table: &str, version: i64) -> String {
    format!("{table}_{version}")
}

pub(super) fn is_there(c: &Connection, table: &str) -> rusqlite::Result<bool> {
    c.prepare_cached(sql::SELECT_TABLE)?.exists([table])
}

/// Whether a part of a schema is a table that waits.
pub(in super::super) fn waits(part: &str) -> bool {
    ways().any(|(way, version, _)| {
        let mut tables = way.tables.iter();
        tables.any(|table| part.starts_with(&format!("CREATE TABLE {} (", waiting(table, version))))
    })
}

/// Every way there is, the version that it leaves, and whether it leads up.
fn ways() -> impl Iterator<Item = (&'static Way, i64, bool)> {
    STEPS.iter().flat_map(|step| {
        [
            (&step.up, step.version - 1, true),
            (&step.down, step.version, false),
        ]
    })
}

/// The way of which something is left in a file, and the version that it left.
pub(super) fn left(c: &Connection) -> rusqlite::Result<Option<(&'static Way, i64)>> {
    let now: i64 = c.query_row(sql::VERSION, [], |row| row.get(0))?;
    for (way, version, up) in ways() {
        if up == (now > version) && now != version {
            for table in way.tables {
                if is_there(c, &waiting(table, version))? {
                    return Ok(Some((way, version)));
                }
            }
        }
    }
    Ok(None)
}

/// Brings a piece along, some thousand rows; call it in a transaction. `false` where nothing is left.
pub(in super::super) fn go_on(c: &Connection) -> rusqlite::Result<bool> {
    let Some((way, version)) = left(c)? else {
        return Ok(false);
    };
    for part in way.rest {
        let Some((next, statements)) = part.split_once("\n\n") else {
            continue;
        };
        let mut next = c.prepare_cached(next)?;
        let columns = next.column_count();
        let values = next
            .query_row([], |row| (0..columns).map(|n| row.get(n)).collect())
            .optional()?;
        let Some::<Vec<Value>>(values) = values else {
            continue;
        };
        let mut statements = Batch::new(c, statements);
        while let Some(mut statement) = statements.next()? {
            statement.execute(params_from_iter(&values))?;
        }
        return Ok(true);
    }
    for table in way.tables {
        c.execute_batch(&sql::drop_table(&waiting(table, version)))?;
    }
    Ok(true)
}
