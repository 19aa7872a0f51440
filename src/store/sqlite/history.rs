//! The hashrate over time: samples are rolled up into minutes, minutes into hours, hours into days, and read back.
//!
//! A sample stands until the miner's next one, at most a minute, and counts for as long as it stood, in the time that it
//! was taken in. So a mean is weighted by time, hours add up from minutes without a rest, and a time without samples has
//! no point. What is not rolled up yet is added when it is read.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};

use super::row::{code, unit_at};
use super::{accounts, sql};
use crate::model::{HashrateUnit, Timestamp, Wallet};
use crate::store::{HashratePoint, Resolution};

/// Milliseconds.
pub(super) const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Samples that one step rolls up, give or take a minute's; some milliseconds of the writer's time.
const SAMPLES: usize = 2000;
/// Miners that one step looks after.
const MINERS: i64 = 32;
/// Late minutes that one step looks after; most lie side by side.
const LATE: i64 = 128;
/// Rows that one answer may be made from, so that a wallet with ten thousand miners does not hold a connection for long.
const MOST_ROWS: usize = 500_000;

/// Where the time of this length begins that `at` lies in.
pub(super) const fn start(at: i64, length: i64) -> i64 {
    at - at.rem_euclid(length)
}

/// The samples of a time.
#[derive(Clone, Copy, Debug)]
struct Window {
    mean: f64,
    weight: i64,
    min: f64,
    max: f64,
    samples: i64,
}

impl Window {
    /// One sample that stood for `weight` milliseconds.
    const fn of(hashrate: f64, weight: i64) -> Self {
        Self {
            mean: hashrate,
            weight,
            min: hashrate,
            max: hashrate,
            samples: 1,
        }
    }

    fn add(&mut self, other: Self) {
        let weight = self.weight + other.weight;
        let area = |window: &Self| window.mean * window.weight as f64;
        self.mean = (area(self) + area(&other)) / weight as f64;
        self.weight = weight;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.samples += other.samples;
    }
}

/// Windows by where they begin and by unit.
type Windows = BTreeMap<(i64, HashrateUnit), Window>;

fn add(windows: &mut Windows, at: i64, unit: HashrateUnit, window: Window) {
    let there = windows.entry((at, unit));
    there
        .and_modify(|there| there.add(window))
        .or_insert(window);
}

/// A sample: when, how much, of what.
#[derive(Clone, Copy)]
struct Standing {
    at: i64,
    hashrate: f64,
    unit: HashrateUnit,
}

impl Standing {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            at: row.get(0)?,
            hashrate: row.get(1)?,
            unit: unit_at(row, 2)?,
        })
    }

    /// Counts it in the window of this length that it lies in; `until` is the moment of the miner's next sample.
    fn count(self, windows: &mut Windows, length: i64, until: i64) {
        let window = Window::of(self.hashrate, until.saturating_sub(self.at).min(MINUTE));
        add(windows, start(self.at, length), self.unit, window);
    }
}

/// Notes which minutes are to be rolled up again where a new sample changes them: its own, and that of the one it follows,
/// which stood for less time than it seemed.
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
    let mut select = c.prepare_cached(sql::SELECT_HAS_WINDOW)?;
    if !select.query_row([worker], |row| row.get::<_, bool>(0))? {
        // Nothing is rolled up yet: it was only the first to come that is not the first in time.
        c.prepare_cached(sql::SET_ROLLED_UNTIL)?
            .execute([worker, minute.min(rolled_until)])?;
        return Ok(());
    }
    let mut insert = c.prepare_cached(sql::INSERT_LATE_MINUTE)?;
    for changed in [minute - MINUTE, minute] {
        if changed < rolled_until {
            insert.execute([worker, changed])?;
        }
    }
    Ok(())
}

/// Rolls up some of what was sampled before `until`, the start of a minute, or came late; `false` where nothing is left.
pub(super) fn roll_up(c: &Connection, until: i64) -> rusqlite::Result<bool> {
    let unrolled = pairs(c, sql::SELECT_UNROLLED, &[until, MINERS])?;
    let mut samples = 0;
    for (worker, from) in &unrolled {
        let (reached, read) = roll_up_worker(c, *worker, *from, until)?;
        c.prepare_cached(sql::SET_ROLLED_UNTIL)?
            .execute([*worker, reached])?;
        samples += read;
        if samples >= SAMPLES {
            break;
        }
    }
    Ok(!unrolled.is_empty() || roll_up_late(c)?)
}

/// Rolls up again some of the minutes that samples came late into; `false` where there are none.
pub(super) fn roll_up_late(c: &Connection) -> rusqlite::Result<bool> {
    let late = pairs(c, sql::SELECT_LATE_MINUTES, &[LATE])?;
    let same_hour =
        |a: &(i64, i64), b: &(i64, i64)| a.0 == b.0 && start(a.1, HOUR) == start(b.1, HOUR);
    for minutes in late.chunk_by(same_hour) {
        if let [(worker, first), ..] = minutes
            && let [.., (_, last)] = minutes
        {
            // Minutes in between are made again too, which changes nothing. Those whose samples were cut meanwhile stay.
            let (reached, _) = roll_up_worker(c, *worker, *first, last + MINUTE)?;
            c.prepare_cached(sql::DELETE_LATE_MINUTES)?
                .execute([*worker, reached])?;
        }
    }
    Ok(!late.is_empty())
}

fn pairs(c: &Connection, statement: &str, parameters: &[i64]) -> rusqlite::Result<Vec<(i64, i64)>> {
    c.prepare_cached(statement)?
        .query_map(rusqlite::params_from_iter(parameters), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect()
}

/// Rolls up a miner's samples from `from` on: those of one hour at most, and before `until`. Returns up to where, and how
/// many samples that were.
fn roll_up_worker(
    c: &Connection,
    worker: i64,
    from: i64,
    until: i64,
) -> rusqlite::Result<(i64, usize)> {
    let mut minutes = Windows::new();
    let mut reached = until;
    let mut read = 0;
    let mut last: Option<Standing> = None;
    let mut select = c.prepare_cached(sql::SELECT_SAMPLES)?;
    let mut rows = select.query([worker, from])?;
    while let Some(row) = rows.next()? {
        let next = Standing::read(row)?;
        let mut enough = next.at >= until;
        if let Some(last) = last.take() {
            last.count(&mut minutes, MINUTE, next.at);
            let other = |length| start(last.at, length) != start(next.at, length);
            if !enough && other(MINUTE) && (read >= SAMPLES || other(HOUR)) {
                reached = start(next.at, MINUTE);
                enough = true;
            }
        }
        if enough {
            break;
        }
        last = Some(next);
        read += 1;
    }
    if let Some(last) = last {
        last.count(&mut minutes, MINUTE, i64::MAX);
    }
    let Some(((first, _), _)) = minutes.first_key_value() else {
        return Ok((reached, read));
    };
    let (hour, day) = (start(*first, HOUR), start(*first, DAY));
    let mut upsert = c.prepare_cached(sql::UPSERT_WINDOW)?;
    for ((minute, unit), w) in &minutes {
        upsert.execute(params![
            worker,
            1,
            minute,
            code(*unit),
            w.mean,
            w.weight,
            w.min,
            w.max,
            w.samples
        ])?;
    }
    let mut combine = c.prepare_cached(sql::COMBINE_WINDOWS)?;
    combine.execute(params![worker, 60, hour, hour + HOUR, 1])?;
    combine.execute(params![worker, 1440, day, day + DAY, 60])?;
    Ok((reached, read))
}

/// What was found of a hashrate.
pub(super) enum Found {
    NoAccount,
    TooMuch,
    Points(Vec<HashratePoint>),
}

/// The hashrate of a wallet from `since` on, at most `limit` points.
pub(super) fn read(
    c: &Connection,
    wallet: &Wallet,
    since: Timestamp,
    resolution: Resolution,
    limit: usize,
) -> rusqlite::Result<Found> {
    // One transaction, so that a sample is either rolled up or not, and never both.
    let c = c.unchecked_transaction()?;
    if accounts::balance(&c, wallet)?.is_none() {
        return Ok(Found::NoAccount);
    }
    let length = match resolution {
        Resolution::Raw => return samples(&c, wallet, since.millis(), limit),
        Resolution::Minute => MINUTE,
        Resolution::Hour => HOUR,
        Resolution::Day => DAY,
    };
    // From the start of the time that `since` lies in, so that the first one is whole.
    let since = start(since.millis(), length);
    let mut sums = Windows::new();
    let mut rows_left = MOST_ROWS;
    for (worker, rolled_until) in workers(&c, wallet, since)? {
        let windows = windows(&c, worker, since, rolled_until, length, &mut rows_left)?;
        for (key, window) in windows {
            let sum = sums.entry(key);
            sum.and_modify(|sum| {
                sum.mean += window.mean;
                sum.min += window.min;
                sum.max += window.max;
                sum.samples += window.samples;
            })
            .or_insert(window);
        }
        if sums.len() > limit || rows_left == 0 {
            return Ok(Found::TooMuch);
        }
    }
    let shown = |((at, hashrate_unit), sum): (_, Window)| {
        let recorded_at = Timestamp::from_millis(at);
        HashratePoint {
            date: recorded_at.date(),
            hashrate: sum.mean,
            hashrate_unit,
            recorded_at,
            min: sum.min,
            max: sum.max,
            samples: sum.samples,
        }
    };
    Ok(Found::Points(sums.into_iter().map(shown).collect()))
}

/// The miners of a wallet that told a sample since, by name, and until when each is rolled up.
fn workers(c: &Connection, wallet: &Wallet, since: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    c.prepare_cached(sql::SELECT_WORKERS_SINCE)?
        .query_map(params![wallet.as_str(), since], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect()
}

/// One miner's windows: those that are rolled up, and what is not yet. Stops when no row is left.
fn windows(
    c: &Connection,
    worker: i64,
    since: i64,
    rolled_until: i64,
    length: i64,
    rows_left: &mut usize,
) -> rusqlite::Result<Windows> {
    let mut found = Windows::new();
    let mut select = c.prepare_cached(sql::SELECT_WINDOWS)?;
    let mut rows = select.query([worker, length / MINUTE, since])?;
    while let Some(row) = rows.next()?
        && *rows_left > 0
    {
        *rows_left -= 1;
        let window = Window {
            mean: row.get(2)?,
            weight: row.get(3)?,
            min: row.get(4)?,
            max: row.get(5)?,
            samples: row.get(6)?,
        };
        found.insert((row.get(0)?, unit_at(row, 1)?), window);
    }
    let mut select = c.prepare_cached(sql::SELECT_SAMPLES)?;
    let mut rows = select.query([worker, since.max(rolled_until)])?;
    let mut last: Option<Standing> = None;
    while let Some(row) = rows.next()?
        && *rows_left > 0
    {
        *rows_left -= 1;
        let next = Standing::read(row)?;
        if let Some(last) = last.replace(next) {
            last.count(&mut found, length, next.at);
        }
    }
    if let Some(last) = last {
        last.count(&mut found, length, i64::MAX);
    }
    Ok(found)
}

/// Every sample, a point each.
fn samples(c: &Connection, wallet: &Wallet, since: i64, limit: usize) -> rusqlite::Result<Found> {
    let mut points = Vec::new();
    for (worker, _) in workers(c, wallet, since)? {
        let mut select = c.prepare_cached(sql::SELECT_SAMPLES)?;
        let mut rows = select.query([worker, since])?;
        while let Some(row) = rows.next()? {
            if points.len() == limit {
                return Ok(Found::TooMuch);
            }
            let Standing { at, hashrate, unit } = Standing::read(row)?;
            let recorded_at = Timestamp::from_millis(at);
            points.push(HashratePoint {
                date: recorded_at.date(),
                hashrate,
                hashrate_unit: unit,
                recorded_at,
                min: hashrate,
                max: hashrate,
                samples: 1,
            });
        }
    }
    // Stable: miners at the same moment stay in the order of their names.
    points.sort_by_key(|point| point.recorded_at);
    Ok(Found::Points(points))
}
