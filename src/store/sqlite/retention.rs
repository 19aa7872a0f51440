//! What was kept long enough is deleted, in small steps, and the room it leaves is given back.

use rusqlite::{Connection, OptionalExtension, params};

use super::history::{DAY, HOUR, MINUTE, start};
use super::{count, sql};
use crate::model::{Retention, Timestamp};

/// Rows that one step deletes at most.
const ROWS: usize = 1000;
/// Miners that are looked at in one go.
const MINERS: usize = 200;

/// The tables' parts that have an end of their own, and the moment before which each is deleted.
///
/// Each ends where the next coarser time begins: a sample that comes late, but is young enough to be taken, never finds
/// half of the samples of its minute, half of the minutes of its hour, or half of the hours of its day.
#[derive(Clone, Copy)]
pub(super) struct Ends([i64; 4]);

/// `None`: samples. Else the step of hashrate_history.
const PARTS: [Option<i64>; 4] = [None, Some(1), Some(60), Some(1440)];

impl Ends {
    pub(super) fn new(retention: &Retention, now: Timestamp) -> Self {
        let Retention {
            raw,
            minutes,
            hours,
            days,
        } = *retention;
        let ends = [(raw, MINUTE), (minutes, HOUR), (hours, DAY), (days, DAY)];
        Self(ends.map(|(kept, length)| match kept {
            Some(kept) => start(now.minus(kept).millis(), length),
            None => i64::MIN,
        }))
    }
}

/// A miner and which of [`PARTS`] holds something that is to go.
pub(super) type Due = (i64, usize);

/// What is to go of the next miners after `after`, and the last of them; `None` where there are no more.
pub(super) fn due(
    c: &Connection,
    after: i64,
    ends: Ends,
) -> rusqlite::Result<(Vec<Due>, Option<i64>)> {
    let mut due = Vec::new();
    let mut last = None;
    let mut select = c.prepare_cached(sql::SELECT_OLDEST)?;
    let mut rows = select.query([after, count(MINERS)])?;
    while let Some(row) = rows.next()? {
        let worker = row.get(0)?;
        last = Some(worker);
        for (part, end) in ends.0.into_iter().enumerate() {
            if row
                .get::<_, Option<i64>>(part + 1)?
                .is_some_and(|oldest| oldest < end)
            {
                due.push((worker, part));
            }
        }
    }
    Ok((due, last))
}

/// Deletes some of what is due; how many rows that were. 0: nothing is left.
pub(super) fn cut(c: &Connection, due: &[Due], ends: Ends) -> rusqlite::Result<usize> {
    let mut deleted = 0;
    for (worker, part) in due {
        let room = count(ROWS - deleted);
        // Up to the end, or to the row that there is no room for.
        let up_to = |row: Option<i64>| row.map_or(ends.0[*part], |at| at.min(ends.0[*part]));
        let at = |statement, parameters: &[i64]| {
            c.prepare_cached(statement)?
                .query_row(rusqlite::params_from_iter(parameters), |row| row.get(0))
                .optional()
        };
        deleted += match PARTS[*part] {
            None => {
                let up_to = up_to(at(sql::SELECT_SAMPLE_AT, &[*worker, room])?);
                c.prepare_cached(sql::DELETE_SAMPLES)?
                    .execute([*worker, up_to])?
            }
            Some(step) => {
                let up_to = up_to(at(sql::SELECT_WINDOW_AT, &[*worker, step, room])?);
                c.prepare_cached(sql::DELETE_WINDOWS)?
                    .execute(params![worker, step, up_to])?
            }
        };
        if deleted >= ROWS {
            break;
        }
    }
    Ok(deleted)
}

/// Gives some free pages back to the file system; `false` where none is to be given. Some stay, for what comes next.
pub(super) fn give_back(c: &Connection) -> rusqlite::Result<bool> {
    let number = |statement| c.query_row(statement, [], |row| row.get::<_, i64>(0));
    let (pages, free) = (number(sql::PAGES)?, number(sql::FREE_PAGES)?);
    if free <= (pages / 8).max(64) {
        return Ok(false);
    }
    let mut vacuum = c.prepare_cached(sql::GIVE_BACK)?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    // A file that was made without it keeps its free pages.
    Ok(number(sql::FREE_PAGES)? < free)
}
