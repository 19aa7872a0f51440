//! The hashrate over time: samples are rolled up into minutes, minutes into hours, hours into days; expired rows are
//! deleted. All in steps of a few milliseconds, between which other writes run.
//!
//! A sample holds until the miner's next one, at most a minute, and counts for as long as it held, in the window that it
//! was measured in. So a mean is weighted by time, hours add up from minutes exactly, and a window without samples has no
//! point. Samples that are not rolled up yet are added by reads.

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute, first, one, unit_at, value};
use super::{accounts, sql};
use crate::model::{Retention, Timestamp, Wallet};
use crate::store::{HashratePoint, Resolution, Result, StoreError};

/// Milliseconds.
pub(super) const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Samples per step, to within those of a minute.
const STEP_SAMPLES: i64 = 2000;
/// Miners that one step rolls up.
const STEP_MINERS: i64 = 32;
/// Late minutes per step; most are adjacent.
const STEP_LATE: i64 = 128;
/// Rows that one step deletes at most.
const STEP_DELETED: usize = 1000;
/// Miners per read of their oldest rows.
const MINERS: usize = 200;
/// Rows read for one response, so that a wallet with ten thousand miners does not use a connection for long.
const MAX_ROWS: i64 = 500_000;

/// The start of the window of this length that contains `at`.
pub(super) const fn start(at: i64, length: i64) -> i64 {
    at - at.rem_euclid(length)
}

/// Marks the minutes to roll up again after a new sample: its own, and that of the previous sample, which now counts for
/// less time.
pub(super) fn note_sample(
    c: &Connection,
    worker: i64,
    at: i64,
    rolled_until: i64,
) -> rusqlite::Result<()> {
    if at - MINUTE >= rolled_until {
        return Ok(());
    }
    let minute = start(at, MINUTE);
    if !one(c, sql::SELECT_HAS_WINDOW, [worker], value)? {
        // Nothing is rolled up yet: the first sample to arrive was not the first in time.
        execute(c, sql::SET_ROLLED_UNTIL, [worker, minute.min(rolled_until)])?;
        return Ok(());
    }
    for changed in [minute - MINUTE, minute] {
        if changed < rolled_until {
            execute(c, sql::INSERT_LATE_MINUTE, [worker, changed])?;
        }
    }
    Ok(())
}

/// Rolls up some of the samples before `until`, the start of a minute, and some late ones; `false` if none is left.
pub(super) fn roll_up(c: &Connection, until: i64) -> rusqlite::Result<bool> {
    let unrolled = all(c, sql::SELECT_UNROLLED, [until, STEP_MINERS], pair)?;
    let mut samples = 0;
    for (worker, from) in &unrolled {
        let (reached, read) = roll_up_worker(c, *worker, *from, until)?;
        execute(c, sql::SET_ROLLED_UNTIL, [*worker, reached])?;
        samples += read;
        if samples >= STEP_SAMPLES {
            break;
        }
    }
    Ok(!unrolled.is_empty() || roll_up_late(c)?)
}

/// Rolls up some minutes with late samples again; `false` if there are none.
pub(super) fn roll_up_late(c: &Connection) -> rusqlite::Result<bool> {
    let late = all(c, sql::SELECT_LATE_MINUTES, [STEP_LATE], pair)?;
    let same_hour =
        |a: &(i64, i64), b: &(i64, i64)| a.0 == b.0 && start(a.1, HOUR) == start(b.1, HOUR);
    for minutes in late.chunk_by(same_hour) {
        let ((worker, begin), (_, last)) = (minutes[0], minutes[minutes.len() - 1]);
        // Minutes in between are rolled up again too, with the same result. Those without samples any more are not changed.
        let (reached, _) = roll_up_worker(c, worker, begin, last + MINUTE)?;
        execute(c, sql::DELETE_LATE_MINUTES, [worker, reached])?;
    }
    Ok(!late.is_empty())
}

fn pair(row: &Row<'_>) -> rusqlite::Result<(i64, i64)> {
    Ok((row.get(0)?, row.get(1)?))
}

/// Rolls up a miner's samples from `from` on: those of one hour at most, and before `until`. Returns the end of the
/// rolled-up range and the number of samples.
fn roll_up_worker(
    c: &Connection,
    worker: i64,
    from: i64,
    until: i64,
) -> rusqlite::Result<(i64, i64)> {
    let begin: Option<i64> = first(c, sql::SELECT_SAMPLE_FROM, [worker, from, 0], value)?;
    let Some(begin) = begin.filter(|begin| *begin < until) else {
        return Ok((until, 0));
    };
    let (minute, hour, day) = (start(begin, MINUTE), start(begin, HOUR), start(begin, DAY));
    // A limited number, but at least a minute.
    let many = first(
        c,
        sql::SELECT_SAMPLE_FROM,
        [worker, begin, STEP_SAMPLES],
        value,
    )?;
    let many = many.map_or(i64::MAX, |at| start(at, MINUTE).max(minute + MINUTE));
    let end = until.min(hour + HOUR).min(many);
    execute(c, sql::ROLL_UP_MINUTES, [worker, minute, end])?;
    execute(c, sql::COMBINE_WINDOWS, [worker, 60, hour, hour + HOUR, 1])?;
    execute(c, sql::COMBINE_WINDOWS, [worker, 1440, day, day + DAY, 60])?;
    Ok((
        end,
        one(c, sql::COUNT_SAMPLES, [worker, minute, end], value)?,
    ))
}

/// The hashrate of a wallet from `since` on, at most `limit` points; `None` without an account.
pub(super) fn read(
    c: &Connection,
    wallet: &Wallet,
    since: Timestamp,
    resolution: Resolution,
    limit: usize,
) -> Result<Option<Vec<HashratePoint>>> {
    // One transaction, so that a sample is either rolled up or not, and never both.
    let c = c.unchecked_transaction()?;
    if accounts::balance(&c, wallet)?.is_none() {
        return Ok(None);
    }
    let length = match resolution {
        Resolution::Raw => 1,
        Resolution::Minute => MINUTE,
        Resolution::Hour => HOUR,
        Resolution::Day => DAY,
    };
    // From the start of the window that `since` lies in, so that the first one is complete.
    let since = start(since.millis(), length);
    let mut rows = 0;
    let read = |row: &Row<'_>| {
        let recorded_at = Timestamp::from_millis(row.get(0)?);
        rows += row.get::<_, i64>(6)?;
        Ok(HashratePoint {
            date: recorded_at.date(),
            hashrate: row.get(2)?,
            hashrate_unit: unit_at(row, 1)?,
            recorded_at,
            min: row.get(3)?,
            max: row.get(4)?,
            samples: row.get(5)?,
        })
    };
    let (wallet, most) = (wallet.as_str(), count(limit) + 1);
    let points = match resolution {
        Resolution::Raw => all(&c, sql::SELECT_RAW, params![wallet, since, most], read)?,
        _ => {
            let values = params![wallet, since, length, length / MINUTE, MAX_ROWS, most];
            all(&c, sql::SELECT_HISTORY, values, read)?
        }
    };
    if points.len() > limit || rows >= MAX_ROWS {
        return Err(StoreError::TooMuch);
    }
    Ok(Some(points))
}

/// The times before which samples, minutes, hours and days are deleted.
///
/// Each is the start of a window of the next coarser step, so that a late sample that is still accepted never finds its
/// minute, hour or day partly deleted.
#[derive(Clone, Copy)]
pub(super) struct Cutoffs([i64; 4]);

/// `None`: samples. Else the step of hashrate_history.
const PARTS: [Option<i64>; 4] = [None, Some(1), Some(60), Some(1440)];

impl Cutoffs {
    pub(super) fn new(retention: &Retention, now: Timestamp) -> Self {
        let Retention {
            raw,
            minutes,
            hours,
            days,
        } = *retention;
        let parts = [(raw, MINUTE), (minutes, HOUR), (hours, DAY), (days, DAY)];
        Self(parts.map(|(retention, length)| {
            retention.map_or(i64::MIN, |age| start(now.minus(age).millis(), length))
        }))
    }
}

/// A miner and which of [`PARTS`] has expired rows.
pub(super) type Expired = (i64, usize);

/// The expired rows of the next miners after `after`, and the last of these miners; `None` if there are no more.
pub(super) fn find_expired(
    c: &Connection,
    after: i64,
    cutoffs: Cutoffs,
) -> rusqlite::Result<(Vec<Expired>, Option<i64>)> {
    let oldest = all(c, sql::SELECT_OLDEST, [after, count(MINERS)], |row| {
        let oldest: [Option<i64>; 4] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        Ok((row.get::<_, i64>(0)?, oldest))
    })?;
    let mut expired = Vec::new();
    for (worker, oldest) in &oldest {
        for (part, cutoff) in cutoffs.0.into_iter().enumerate() {
            if oldest[part].is_some_and(|oldest| oldest < cutoff) {
                expired.push((*worker, part));
            }
        }
    }
    Ok((expired, oldest.last().map(|(worker, _)| *worker)))
}

/// Deletes some expired rows; returns their number. 0: nothing is left.
pub(super) fn delete_expired(
    c: &Connection,
    expired: &[Expired],
    cutoffs: Cutoffs,
) -> rusqlite::Result<usize> {
    let mut deleted = 0;
    for (worker, part) in expired {
        let (left, cutoff) = (count(STEP_DELETED - deleted), cutoffs.0[*part]);
        // Up to the cutoff, or to the first row that is too many for this step.
        let end = |at: Option<i64>| at.map_or(cutoff, |at| at.min(cutoff));
        deleted += match PARTS[*part] {
            None => {
                let at = first(c, sql::SELECT_SAMPLE_FROM, [*worker, i64::MIN, left], value)?;
                execute(c, sql::DELETE_SAMPLES, [*worker, end(at)])?
            }
            Some(step) => {
                let at = first(c, sql::SELECT_WINDOW_AT, [*worker, step, left], value)?;
                execute(c, sql::DELETE_WINDOWS, [*worker, step, end(at)])?
            }
        };
        if deleted >= STEP_DELETED {
            break;
        }
    }
    Ok(deleted)
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
