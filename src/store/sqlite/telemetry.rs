use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{code, unit_at};
use super::{accounts, count, credits_at, history, sql, storage_error, time_at, wallet_at};
use crate::model::{Credits, HashrateUnit, Sample, Timestamp, Wallet};
use crate::store::{
    Counted, Earning, EarningsDay, LeaderboardRow, MinerStats, Recorded, StoreError, Totals,
};

pub(super) fn record(
    c: &Connection,
    samples: &[Sample],
    now: Timestamp,
) -> Result<Recorded, StoreError> {
    let mut recorded = Recorded {
        new: 0,
        first: false,
    };
    let mut known: Option<Wallet> = None;
    for sample in samples {
        // A batch nearly always is one wallet's: look its account up once.
        if known != Some(sample.wallet) {
            accounts::ensure(c, &sample.wallet, now)?;
            let mut select = c
                .prepare_cached(sql::SELECT_HAS_WORKER)
                .map_err(storage_error)?;
            let mines: bool = select
                .query_row([sample.wallet.as_str()], |row| row.get(0))
                .map_err(storage_error)?;
            recorded.first |= !mines;
            known = Some(sample.wallet);
        }
        recorded.new += usize::from(insert(c, sample).map_err(storage_error)?);
    }
    // So that the next read shows those that came late, unless they are very many.
    history::roll_up_late(c).map_err(storage_error)?;
    Ok(recorded)
}

/// Stores one sample with all that follows from it; `false` where it was there already.
fn insert(c: &Connection, sample: &Sample) -> rusqlite::Result<bool> {
    let (at, unit) = (sample.recorded_at.millis(), code(sample.unit));
    let known = c
        .prepare_cached(sql::SELECT_WORKER)?
        .query_row(params![sample.wallet.as_str(), sample.worker], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    let worker = match known {
        Some((worker, _)) => worker,
        None => c.prepare_cached(sql::INSERT_WORKER)?.query_row(
            params![
                sample.wallet.as_str(),
                sample.worker,
                at,
                sample.hashrate,
                unit,
                sample.gpu_temperature,
                sample.blocks_found,
                sample.uptime_percentage,
                sample.network_difficulty,
                history::start(at, history::MINUTE),
            ],
            |row| row.get(0),
        )?,
    };
    let inserted = c.prepare_cached(sql::INSERT_SAMPLE)?.execute(params![
        worker,
        at,
        sample.hashrate,
        unit,
        sample.gpu_temperature,
        sample.blocks_found,
        sample.uptime_percentage,
        sample.uptime_seconds,
        sample.network_difficulty,
        sample.power_watts,
        sample.accepted,
        sample.rejected,
        sample.loss,
    ])?;
    if inserted == 0 {
        return Ok(false);
    }
    if let Some((_, rolled_until)) = known {
        c.prepare_cached(sql::UPDATE_WORKER)?.execute(params![
            worker,
            at,
            sample.hashrate,
            unit,
            sample.gpu_temperature,
            sample.blocks_found,
            sample.uptime_percentage,
            sample.network_difficulty,
        ])?;
        history::note_sample(c, worker, at, rolled_until)?;
    }
    Ok(true)
}

pub(super) fn record_earning(
    c: &Connection,
    earning: &Earning,
    now: Timestamp,
) -> Result<Counted, StoreError> {
    let told = |entry: Option<i64>| Counted {
        wallet_address: earning.wallet,
        earnings: earning.earnings,
        counted: entry.is_some(),
        entry,
    };
    accounts::ensure(c, &earning.wallet, now)?;
    let wallet = earning.wallet.as_str();
    let values = params![
        earning.source_id,
        wallet,
        earning.earnings.micro(),
        earning.recorded_at.millis()
    ];
    let mut insert = c
        .prepare_cached(sql::INSERT_EARNING)
        .map_err(storage_error)?;
    if insert.execute(values).map_err(storage_error)? == 0 {
        let mut select = c
            .prepare_cached(sql::SELECT_EARNING)
            .map_err(storage_error)?;
        let counted = select.query_row([&earning.source_id], |row| {
            Ok((wallet_at(row, 0)?, credits_at(row, 1)?))
        });
        return match counted.map_err(storage_error)? {
            same if same == (earning.wallet, earning.earnings) => Ok(told(None)),
            _ => Err(StoreError::Conflict(
                "this source_id was counted for another wallet or amount".to_owned(),
            )),
        };
    }
    let mut add = c.prepare_cached(sql::ADD_EARNINGS).map_err(storage_error)?;
    add.execute(params![wallet, earning.earnings.micro()])
        .map_err(storage_error)?;
    let entry = accounts::post(
        c,
        &earning.wallet,
        earning.earnings,
        "mining",
        Some(earning.source_id.clone()),
        now,
    )?;
    Ok(told(Some(entry.id)))
}

pub(super) fn miner(
    c: &Connection,
    wallet: &Wallet,
    active_since: Timestamp,
) -> rusqlite::Result<Option<MinerStats>> {
    let earned = c
        .prepare_cached(sql::SELECT_TOTAL_EARNINGS)?
        .query_row([wallet.as_str()], |row| credits_at(row, 0))
        .optional()?;
    let Some(total_earnings) = earned else {
        return Ok(None);
    };
    let mut select = c.prepare_cached(sql::SELECT_WORKERS)?;
    let workers = select
        .query_map([wallet.as_str()], Worker::read)?
        .collect::<Result<Vec<_>, _>>()?;
    let newest = workers.iter().max_by_key(|worker| worker.recorded_at);
    let is_active = newest.is_some_and(|newest| newest.recorded_at >= active_since);
    let since = if is_active {
        Some(active_since)
    } else {
        newest.map(|newest| newest.recorded_at)
    };
    // Those that speak now; where none does, the one that spoke last. Unlike units are not added up.
    let speaking = || {
        let unit = newest.map(|newest| newest.unit);
        workers
            .iter()
            .filter(move |worker| Some(worker.recorded_at) >= since && Some(worker.unit) == unit)
    };
    let uptimes = speaking()
        .filter_map(|worker| worker.uptime_percentage)
        .collect::<Vec<_>>();
    Ok(Some(MinerStats {
        wallet_address: *wallet,
        total_earnings,
        hashrate: newest.map(|_| speaking().map(|worker| worker.hashrate).sum()),
        hashrate_unit: newest.map(|newest| newest.unit),
        gpu_temperature: speaking()
            .filter_map(|worker| worker.gpu_temperature)
            .reduce(f64::max),
        blocks_found: workers
            .iter()
            .filter_map(|worker| worker.blocks_found)
            .reduce(i64::saturating_add),
        uptime_percentage: (!uptimes.is_empty())
            .then(|| uptimes.iter().sum::<f64>() / uptimes.len() as f64),
        network_difficulty: newest.and_then(|newest| newest.network_difficulty),
        is_active,
        recorded_at: newest.map(|newest| newest.recorded_at),
    }))
}

struct Worker {
    recorded_at: Timestamp,
    hashrate: f64,
    unit: HashrateUnit,
    gpu_temperature: Option<f64>,
    blocks_found: Option<i64>,
    uptime_percentage: Option<f64>,
    network_difficulty: Option<f64>,
}

impl Worker {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            recorded_at: time_at(row, 0)?,
            hashrate: row.get(1)?,
            unit: unit_at(row, 2)?,
            gpu_temperature: row.get(3)?,
            blocks_found: row.get(4)?,
            uptime_percentage: row.get(5)?,
            network_difficulty: row.get(6)?,
        })
    }
}

pub(super) fn earnings(
    c: &Connection,
    wallet: &Wallet,
    since: Timestamp,
    offset: usize,
    limit: usize,
) -> rusqlite::Result<Option<Vec<EarningsDay>>> {
    if accounts::balance(c, wallet)?.is_none() {
        return Ok(None);
    }
    let mut select = c.prepare_cached(sql::SELECT_EARNINGS_BY_DAY)?;
    let read = |row: &Row<'_>| {
        Ok(EarningsDay {
            earnings: credits_at(row, 0)?,
            recorded_at: time_at(row, 1)?,
        })
    };
    let days = select.query_map(
        params![wallet.as_str(), since.millis(), count(limit), count(offset)],
        read,
    )?;
    days.collect::<Result<_, _>>().map(Some)
}

pub(super) fn shares(
    c: &Connection,
    wallet: &Wallet,
    since: Timestamp,
) -> rusqlite::Result<Option<(i64, Timestamp)>> {
    let mut select = c.prepare_cached(sql::SELECT_ACCEPTED)?;
    let mut rows = select.query(params![wallet.as_str(), since.millis()])?;
    let (mut sum, mut first) = (0i64, None::<Timestamp>);
    let mut last: Option<(i64, Timestamp, i64)> = None;
    while let Some(row) = rows.next()? {
        let (worker, at, accepted): (i64, _, i64) = (row.get(0)?, time_at(row, 1)?, row.get(2)?);
        if let Some((_, then, before)) = last.filter(|(same, ..)| *same == worker) {
            sum = sum.saturating_add((accepted - before).max(0));
            first = Some(first.map_or(then, |first| first.min(then)));
        }
        last = Some((worker, at, accepted));
    }
    Ok(first.map(|first| (sum, first)))
}

pub(super) fn leaderboard(
    c: &Connection,
    since: Option<Timestamp>,
    limit: usize,
) -> rusqlite::Result<Vec<LeaderboardRow>> {
    let read = |row: &Row<'_>| {
        Ok(LeaderboardRow {
            wallet: wallet_at(row, 0)?,
            total_earnings: credits_at(row, 1)?,
            hashrate: row.get(2)?,
            blocks_found: row.get(3)?,
        })
    };
    match since {
        None => c
            .prepare_cached(sql::SELECT_TOP_EARNERS)?
            .query_map([count(limit)], read)?
            .collect(),
        Some(since) => {
            let mut select = c.prepare_cached(sql::SELECT_TOP_EARNERS_SINCE)?;
            select
                .query_map([since.millis(), count(limit)], read)?
                .collect()
        }
    }
}

pub(super) fn totals(c: &Connection, active_since: Timestamp) -> rusqlite::Result<Totals> {
    let c = c.unchecked_transaction()?;
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (users, credits) = c.prepare_cached(sql::SELECT_TOTALS)?.query_row([], read)?;
    let active_miners = c
        .prepare_cached(sql::COUNT_ACTIVE_MINERS)?
        .query_row([active_since.millis()], |row| row.get(0))?;
    Ok(Totals {
        users,
        credits: Credits::from_micro(credits),
        active_miners,
    })
}
