//! Samples and earnings of miners, the values derived from them, and the queries over them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row, params};

use super::accounts::{self, Movement};
use super::row::{all, count, execute, first, one, pair, value};
use super::{audit, rollup, sql};
use crate::model::{Credits, Sample, Timestamp, Wallet};
use crate::store::{
    Actor, Counted, Earning, EarningsDay, MinerStats, OperationId, RankedMiner, Recorded, Result,
    Shares, StoreError, Totals, WorkerStats, active_since, latest_sample,
};

pub(super) fn record(
    c: &Connection,
    samples: &[Sample],
    max_workers: usize,
    now: Timestamp,
) -> Result<Recorded> {
    let (mut recorded, mut late) = (Recorded::default(), Late::new());
    // A batch is nearly always of one wallet.
    for of_wallet in samples.chunk_by(|a, b| a.wallet == b.wallet) {
        let wallet = of_wallet[0].wallet;
        accounts::ensure(c, &wallet, now)?;
        let mines: bool = one(c, sql::SELECT_HAS_WORKER, [wallet], value)?;
        recorded.first |= !mines;
        for sample in of_wallet {
            recorded.new += usize::from(insert(c, sample, max_workers, now, &mut late)?);
        }
    }
    for ((worker, _), minutes) in late {
        rollup::roll_up_minutes(c, worker, minutes.start, minutes.end)?;
    }
    Ok(recorded)
}

/// By miner and hour, the minutes to roll up again; those in between too, with the same result.
type Late = BTreeMap<(i64, i64), Range<i64>>;

/// Stores one sample and updates derived rows; `false` if it is stored already. Adds the minutes that were
/// rolled up without it to `late`: its own, and that of the sample before, which now counts for less time.
fn insert(
    c: &Connection,
    sample: &Sample,
    max_workers: usize,
    now: Timestamp,
    late: &mut Late,
) -> Result<bool> {
    let (at, unit) = (sample.recorded_at.millis(), sample.unit);
    let (wallet, name) = (&sample.wallet, &sample.worker);
    let minute = rollup::start(at, rollup::MINUTE);
    let newest = latest_sample(now);
    let known = first(c, sql::SELECT_WORKER, params![wallet, name], pair)?;
    let (worker, rolled_until): (i64, i64) = match known {
        Some(known) => known,
        None => {
            let workers: i64 = one(c, sql::COUNT_WORKERS, [wallet], value)?;
            if workers >= count(max_workers) {
                return Err(StoreError::Conflict(format!(
                    "the wallet has {workers} workers already, as many as limits.workers_per_wallet allows, and {name:?} would be one more"
                )));
            }
            let values = params![wallet, name, at, sample.hashrate, unit, minute];
            (one(c, sql::INSERT_WORKER, values, value)?, minute)
        }
    };
    let values = params![
        worker,
        at,
        sample.hashrate,
        unit,
        sample.gpu_temperature,
        sample.blocks_found,
        sample.uptime_percentage,
        sample.network_difficulty,
        sample.uptime_seconds,
        sample.power_watts,
        sample.accepted,
        sample.rejected,
        sample.loss,
    ];
    if execute(c, sql::INSERT_SAMPLE, values)? == 0 {
        return Ok(false);
    }
    let latest = [&values[..8], &[&newest as &dyn ToSql]].concat();
    if execute(c, sql::UPDATE_WORKER, &latest[..])? == 0 && sample.recorded_at <= newest {
        execute(c, sql::REPLACE_WORKER, params![worker, newest])?;
    }
    let changed = [minute - rollup::MINUTE, minute];
    if changed[0] < rolled_until
        && execute(
            c,
            sql::LOWER_ROLLED_UNTIL,
            [worker, minute.min(rolled_until)],
        )? == 0
    {
        for at in changed.into_iter().filter(|at| *at < rolled_until) {
            let hour = (worker, rollup::start(at, rollup::HOUR));
            let minutes = late.entry(hour).or_insert(at..at);
            *minutes = minutes.start.min(at)..minutes.end.max(at + rollup::MINUTE);
        }
    }
    Ok(true)
}

/// Records an earning; returns also the balance after it, if it is new.
pub(super) fn record_earning(
    c: &Connection,
    earning: &Earning,
    operation: OperationId,
    actor: &Actor,
) -> Result<(Counted, Option<Credits>)> {
    let counted = |entry: Option<i64>| Counted {
        wallet_address: earning.wallet,
        earnings: earning.earnings,
        counted: entry.is_some(),
        entry,
    };
    accounts::ensure(c, &earning.wallet, actor.at)?;
    let (wallet, amount, source) = (&earning.wallet, earning.earnings, &earning.source_id);
    let values = params![source, wallet, amount, earning.recorded_at];
    if execute(c, sql::INSERT_EARNING, values)? == 0 {
        let before = one(c, sql::SELECT_EARNING, [source], pair)?;
        if before == (earning.wallet, amount) {
            return Ok((counted(None), None));
        }
        let detail = "this source_id was counted for another wallet or amount";
        return Err(StoreError::Conflict(detail.to_owned()));
    }
    if execute(c, sql::ADD_EARNINGS, params![wallet, amount])? == 0 {
        let detail = "the total of the wallet's earnings would be more than can be counted";
        return Err(StoreError::Conflict(detail.to_owned()));
    }
    let movement = Movement {
        reference: Some(source.clone()),
        operation,
        ..Movement::new(amount, "mining")
    };
    let (entry, _) = accounts::grant(c, wallet, movement, actor.at)?;
    let (action, target) = ("earnings.record", wallet.as_str());
    audit::record(c, actor, action, target, Some(amount), Some(source))?;
    Ok((counted(Some(entry.id)), Some(entry.balance)))
}

pub(super) fn miner(c: &Connection, wallet: &Wallet, now: Timestamp) -> Result<MinerStats> {
    let active_since = active_since(now);
    let values = params![wallet, active_since, latest_sample(now)];
    let miner = first(c, sql::SELECT_MINER, values, |row| {
        let recorded_at: Option<Timestamp> = row.get(1)?;
        Ok(MinerStats {
            wallet_address: *wallet,
            total_earnings: row.get(0)?,
            hashrate: row.get(4)?,
            hashrate_unit: row.get(2)?,
            gpu_temperature: row.get(5)?,
            blocks_found: row.get(7)?,
            uptime_percentage: row.get(6)?,
            network_difficulty: row.get(3)?,
            is_active: recorded_at >= Some(active_since),
            recorded_at,
        })
    })?;
    miner.ok_or(StoreError::UserNotFound)
}

pub(super) fn workers(
    c: &Connection,
    wallet: &Wallet,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<WorkerStats>> {
    accounts::balance(c, wallet)?;
    let since = now.minus(Duration::from_secs(86_400));
    let active_since = active_since(now);
    let values = params![wallet, since, latest_sample(now), count(limit)];
    let workers = all(c, sql::SELECT_WORKER_STATS, values, |row| {
        let recorded_at = row.get(1)?;
        Ok(WorkerStats {
            worker: row.get(0)?,
            hashrate: row.get(2)?,
            hashrate_unit: row.get(3)?,
            gpu_temperature: row.get(4)?,
            power_watts: row.get(5)?,
            accepted: row.get(6)?,
            rejected: row.get(7)?,
            is_active: recorded_at >= active_since,
            recorded_at,
        })
    })?;
    Ok(workers)
}

/// The wallets with the newest samples. As it ends at the last wallet, it reads few rows more than those wallets have workers.
pub(super) fn recent_miners(
    c: &Connection,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<Wallet>> {
    let mut select = c.prepare_cached(sql::SELECT_RECENT_WORKERS)?;
    let mut rows = select.query([latest_sample(now)])?;
    let mut wallets = Vec::new();
    while wallets.len() < limit {
        let Some(row) = rows.next()? else { break };
        let wallet = row.get(0)?;
        if !wallets.contains(&wallet) {
            wallets.push(wallet);
        }
    }
    Ok(wallets)
}

pub(super) fn earnings(
    c: &Connection,
    wallet: &Wallet,
    period: Range<Timestamp>,
) -> Result<Vec<EarningsDay>> {
    accounts::balance(c, wallet)?;
    let days = all(
        c,
        sql::SELECT_EARNINGS_BY_DAY,
        params![wallet, period.start, period.end],
        |row| {
            let (earnings, recorded_at): (Credits, Timestamp) = (row.get(0)?, row.get(1)?);
            Ok(EarningsDay {
                date: recorded_at.date(),
                earnings,
                amount: earnings,
                recorded_at,
            })
        },
    )?;
    Ok(days)
}

pub(super) fn shares(
    c: &Connection,
    wallet: &Wallet,
    period: Range<Timestamp>,
) -> rusqlite::Result<Option<Shares>> {
    let values = params![wallet, period.start, period.end];
    one(c, sql::SELECT_SHARES, values, |row| {
        let (accepted, since, until) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let times: (Option<Timestamp>, Option<Timestamp>) = (since, until);
        Ok(times.0.zip(times.1).map(|(since, until)| Shares {
            accepted,
            since,
            until,
        }))
    })
}

pub(super) fn leaderboard(
    c: &Connection,
    since: Option<Timestamp>,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<RankedMiner>> {
    let mut rank = 0;
    let read = |row: &Row<'_>| {
        rank += 1;
        Ok(RankedMiner {
            rank,
            wallet_address: row.get(0)?,
            total_earnings: row.get(1)?,
            hashrate: row.get(2)?,
            blocks_found: row.get(3)?,
        })
    };
    let (limit, active, newest) = (count(limit), active_since(now), latest_sample(now));
    match since {
        None => {
            let values = params![limit, active, newest];
            all(c, sql::SELECT_TOP_EARNERS, values, read)
        }
        Some(since) => {
            let values = params![limit, active, newest, since];
            all(c, sql::SELECT_TOP_EARNERS_SINCE, values, read)
        }
    }
}

pub(super) fn totals(c: &Connection, now: Timestamp) -> rusqlite::Result<Totals> {
    let active = [active_since(now), latest_sample(now)];
    one(c, sql::SELECT_TOTALS, active, |row| {
        Ok(Totals {
            users: row.get(0)?,
            credits: row.get(1)?,
            active_miners: row.get(2)?,
        })
    })
}
