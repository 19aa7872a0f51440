//! The clock as it was last known: one row.

use rusqlite::{Connection, params};

use super::row::{execute, first};
use super::sql;
use crate::model::ClockReading;

pub(super) fn last(c: &Connection) -> rusqlite::Result<Option<ClockReading>> {
    first(c, sql::SELECT_CLOCK, [], |row| {
        Ok(ClockReading {
            at: row.get(0)?,
            boot: row.get(1)?,
            uptime: row.get(2)?,
            held: row.get(3)?,
        })
    })
}

pub(super) fn record(c: &Connection, reading: &ClockReading) -> rusqlite::Result<()> {
    let values = params![reading.at, reading.boot, reading.uptime, reading.held];
    execute(c, sql::SET_CLOCK, values)?;
    Ok(())
}
