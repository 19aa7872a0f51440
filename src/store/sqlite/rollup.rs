//! The hashrate over time: samples are rolled up into minutes, minutes into hours, hours into days; expired rows are
//! deleted. All in steps of a few milliseconds, between which other writes run.
//!
//! A sample holds until the miner's next one, at most a minute, and counts for as long as it held, in the window that it
//! was measured in. So a mean is weighted by time, hours add up from minutes exactly, and a window without samples has no
//! point. Samples that are not rolled up yet are added by reads; late ones are rolled up when they are stored.

use std::ops::Range;

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute, first, pair, value};
use super::{accounts, sql};
use crate::model::{Retention, Timestamp, Wallet};
use crate::store::{HashratePoint, Resolution, Result, StoreError};

/// Milliseconds.
pub(super) const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Miners that one step rolls up, and how much time of each: at a sample a second two minutes of samples in all.
const STEP_MINERS: i64 = 32;
const STEP_TIME: i64 = 10 * MINUTE;
/// Rows that one step deletes, and miners that it looks through.
const STEP_DELETED: usize = 1000;
const STEP_SEARCHED: usize = 100;
/// Rows read for one response, so that a wallet with ten thousand miners does not use a connection for long.
const MAX_ROWS: i64 = 500_000;

/// The start of the window of this length that contains `at`.
pub(super) const fn start(at: i64, length: i64) -> i64 {
    at - at.rem_euclid(length)
}

/// Rolls up some of the samples before `until`, the start of a minute; `false` if none is left.
pub(super) fn roll_up(c: &Connection, until: i64) -> rusqlite::Result<bool> {
    let unrolled = all(c, sql::SELECT_UNROLLED, [until, STEP_MINERS], pair)?;
    for (worker, from) in &unrolled {
        let next: Option<i64> = first(c, sql::SELECT_SAMPLE_FROM, [*worker, *from], value)?;
        let end = match next.filter(|at| *at < until) {
            None => until,
            Some(at) => {
                let begin = start(at, MINUTE);
                let end = until.min(begin + STEP_TIME).min(start(at, HOUR) + HOUR);
                roll_up_minutes(c, *worker, begin, end)?;
                end
            }
        };
        execute(c, sql::SET_ROLLED_UNTIL, [*worker, end])?;
    }
    Ok(!unrolled.is_empty())
}

/// Rolls up a miner's samples of some minutes of one hour, and that hour and its day; also if they were rolled up before.
pub(super) fn roll_up_minutes(
    c: &Connection,
    worker: i64,
    begin: i64,
    end: i64,
) -> rusqlite::Result<()> {
    execute(c, sql::ROLL_UP_MINUTES, [worker, begin, end])?;
    for (length, parts) in [(HOUR, MINUTE), (DAY, HOUR)] {
        let (from, step) = (start(begin, length), length / MINUTE);
        let window = [worker, step, from, from + length, parts / MINUTE];
        execute(c, sql::COMBINE_WINDOWS, window)?;
    }
    Ok(())
}

/// The hashrate of a wallet in a period, at most `limit` points.
pub(super) fn read(
    c: &Connection,
    wallet: &Wallet,
    period: Range<Timestamp>,
    resolution: Resolution,
    limit: usize,
) -> Result<Vec<HashratePoint>> {
    // One transaction, so that a sample is either rolled up or not, and never both.
    let c = c.unchecked_transaction()?;
    accounts::balance(&c, wallet)?;
    let length = match resolution {
        Resolution::Raw => 1,
        Resolution::Minute => MINUTE,
        Resolution::Hour => HOUR,
        Resolution::Day => DAY,
    };
    // From the start of the window that the period begins in, so that the first one is complete.
    let (since, until) = (start(period.start.millis(), length), period.end);
    let mut rows = 0;
    let read = |row: &Row<'_>| {
        let recorded_at: Timestamp = row.get(0)?;
        rows += row.get::<_, i64>(6)?;
        Ok(HashratePoint {
            date: recorded_at.date(),
            hashrate: row.get(2)?,
            hashrate_unit: row.get(1)?,
            recorded_at,
            min: row.get(3)?,
            max: row.get(4)?,
            samples: row.get(5)?,
        })
    };
    let most = count(limit) + 1;
    let points = match resolution {
        Resolution::Raw => all(
            &c,
            sql::SELECT_RAW,
            params![wallet, since, most, until],
            read,
        )?,
        _ => {
            let step = length / MINUTE;
            let values = params![wallet, since, length, step, MAX_ROWS, most, until];
            all(&c, sql::SELECT_HISTORY, values, read)?
        }
    };
    if points.len() > limit || rows >= MAX_ROWS {
        return Err(StoreError::TooMuch);
    }
    Ok(points)
}

/// The times before which samples, minutes, hours and days are deleted.
///
/// Each is the start of a window of the next coarser step, so that a late sample that is still accepted never finds its
/// minute, hour or day partly deleted.
pub(super) fn cutoffs(retention: &Retention, now: Timestamp) -> [i64; 4] {
    let of = retention;
    let parts = [
        (of.raw, MINUTE),
        (of.minutes, HOUR),
        (of.hours, DAY),
        (of.days, DAY),
    ];
    parts.map(|(retention, length)| {
        retention.map_or(i64::MIN, |age| start(now.minus(age).millis(), length))
    })
}

/// Deletes some expired rows of the miners from `worker` on; the miner to go on with, or `None` if nothing is left.
pub(super) fn delete_expired(
    c: &Connection,
    worker: i64,
    [samples, windows @ ..]: [i64; 4],
) -> rusqlite::Result<Option<i64>> {
    let workers = all(
        c,
        sql::SELECT_WORKERS,
        [worker, count(STEP_SEARCHED)],
        value,
    )?;
    let mut deleted = 0;
    for worker in &workers {
        let most = count(STEP_DELETED);
        deleted += execute(c, sql::DELETE_SAMPLES, [*worker, samples, most])?;
        for (step, before) in [1, 60, 1440].into_iter().zip(windows) {
            deleted += execute(c, sql::DELETE_WINDOWS, [*worker, step, before, most])?;
        }
        if deleted >= STEP_DELETED {
            return Ok(Some(*worker));
        }
    }
    Ok(workers.last().map(|worker: &i64| worker + 1))
}

/// Returns some free pages to the file system; `false` if there are too few. Some remain, for later writes.
pub(super) fn vacuum_step(c: &Connection) -> rusqlite::Result<bool> {
    let number = |pragma| c.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (pages, free) = (number("page_count")?, number("freelist_count")?);
    if free <= (pages / 8).max(64) {
        return Ok(false);
    }
    all(c, sql::VACUUM_STEP, [], |_| Ok(()))?;
    // A file created without auto_vacuum cannot shrink.
    Ok(number("freelist_count")? < free)
}
