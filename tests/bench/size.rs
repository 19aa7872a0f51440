//! What must not grow: the time of a read with the rows, the start with the file, memory and idle work.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
use r3mes_edge::{Clock, Repository, SqliteStore};
use rusqlite::{Connection as Database, params};

use crate::load::{Job, closed};
use crate::processes::{Edge, Process, WALLET};
use crate::wire::{Connection, alone, request};
use crate::{Bench, Goal, Result, Target, median};

/// Others who mine too.
const OTHERS: [&str; 2] = [
    "remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx",
    "remes16kykek0kkvk803mfw4e3wukykhaccla26tvxhq",
];

/// A database with so many samples: the wallet has one of each minute of the last hour and every ten minutes of the last
/// day, half of the others are its too but older, and half are those of a hundred other miners.
pub(crate) fn filled(file: &Path, rows: u64) -> Result<()> {
    let store = SqliteStore::open(file, true)?;
    let now = Clock::default().now();
    let unit = HashrateUnit::GradientsPerHour;
    let ago = |wallet, worker: &str, seconds| -> Result<Sample> {
        Ok(Sample {
            worker: worker.to_owned(),
            ..Sample::new(
                Wallet::parse(wallet)?,
                now.minus(Duration::from_secs(seconds)),
                42.5,
                unit,
            )
        })
    };
    let minutes = (0..=1440).rev();
    let found = minutes.filter(|minute: &u64| *minute < 60 || minute.is_multiple_of(10));
    let own = found.map(|minute| ago(WALLET, "default", minute * 60));
    let others = (0..100).map(|at| ago(OTHERS[at % 2], &format!("rig-{at}"), 0));
    let samples = own.chain(others).collect::<Result<Vec<_>>>()?;
    let found = samples.len();
    alone()?.block_on(store.record_samples(samples, 1000, now))?;
    store.close();
    drop(store);

    let mut database = Database::open(file)?;
    // It is flushed once, at the end.
    database.pragma_update(None, "synchronous", "off")?;
    let fill = database.transaction()?;
    let workers: Vec<(i64, bool)> = fill
        .prepare("SELECT id, wallet = ?1 FROM workers")?
        .query_map([WALLET], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let rest = i64::try_from(rows)?.saturating_sub(i64::try_from(found)?);
    // Days ago, before the first sample of each worker: there is nothing to roll up.
    const DAY: i64 = 86_400_000;
    let oldest = now.millis() - 6 * DAY;
    for (worker, own) in workers {
        let count = if own { rest / 2 } else { rest / 200 };
        if count > 0 {
            fill.execute(
                "WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)
                 INSERT INTO mining_stats (worker, recorded_at, hashrate, unit) SELECT ?1, ?3 + i * ?4, 42.5, 0 FROM n",
                params![worker, count, oldest, (5 * DAY / count).max(1)],
            )?;
        }
    }
    fill.commit()?;
    database.close().map_err(|(_, error)| error)?;
    std::fs::File::open(file)?.sync_all()?;
    Ok(())
}

/// The newest samples of a wallet, by the size of the table; and the start on the largest.
pub(crate) fn latest(bench: &Bench) -> Result<()> {
    if !bench.wants("latest") && !bench.wants("start") {
        return Ok(());
    }
    let sizes = [1_000, 100_000, bench.rows];
    let names = ["1,000 rows", "100,000 rows", "the most rows"];
    let file = |rows: u64| bench.folder.path().join(format!("rows-{rows}.db"));
    let start = |rows: u64| Edge::start(file(rows), "");
    if bench.wants("latest") {
        sizes
            .into_iter()
            .try_for_each(|rows| filled(&file(rows), rows))?;
        let edges: Vec<_> = sizes.into_iter().map(start).collect::<Result<_>>()?;
        let path = format!("/miner/hashrate/{WALLET}?hours=1&resolution=raw");
        let target = |(name, edge)| -> Result<Target<'_>> {
            let edge: &Edge = edge;
            let (key, _) = edge.key()?;
            let ask = request("GET", &path, Some(&key), "");
            let (job, length) = (Job::same(edge.process.address, ask), bench.length() / 2);
            Ok(Target {
                name,
                process: Some(&edge.process),
                round: Box::new(move || closed(&job, 1, length, &|| edge.process.used())),
            })
        };
        let targets: Vec<_> = names
            .into_iter()
            .zip(&edges)
            .map(target)
            .collect::<Result<_>>()?;
        let all = bench.interleaved(&targets)?;
        bench.table("latest", &all);
        let slower = all[2].beside(&all[0], |most, least| most.p99 / least.p99);
        bench.verdict("latest", slower, "", Goal::Most(2.0));
    } else {
        filled(&file(bench.rows), bench.rows)?;
    }
    if bench.wants("start") {
        let times: Vec<f64> = (0..bench.rounds())
            .map(|_| Ok(start(bench.rows)?.started_in.as_secs_f64()))
            .collect::<Result<_>>()?;
        let bytes = std::fs::metadata(file(bench.rows))?.len();
        let size = format!(
            "a database of {} rows, {:.0} MB",
            bench.rows,
            bytes as f64 / 1e6
        );
        bench.note("start", &size);
        bench.verdict("start", median(times) * 1e3, "ms", Goal::Most(100.0));
    }
    Ok(())
}

/// An idle server, while all else is measured.
pub(crate) struct Idle(Option<(Edge, Process, Instant, Duration)>);

impl Idle {
    pub(crate) fn begin(bench: &Bench) -> Result<Self> {
        if !bench.wants("idle") && !bench.wants("memory") {
            return Ok(Self(None));
        }
        let miner = Process::floor(&["upstream"])?;
        let config = format!(
            "miner.url = \"http://{}/stats\"\nminer.wallet = \"{WALLET}\"",
            miner.address
        );
        let file: PathBuf = bench.folder.path().join("idle.db");
        let edge = Edge::start(file, &config)?;
        // What a start does is done by then.
        std::thread::sleep(bench.length());
        let used = edge.process.used().theirs;
        Ok(Self(Some((edge, miner, Instant::now(), used))))
    }

    pub(crate) fn end(self, bench: &Bench) -> Result<()> {
        let Some((edge, _miner, since, before)) = self.0 else {
            return Ok(());
        };
        if bench.wants("idle") {
            let least = if bench.quick { 1 } else { 30 };
            std::thread::sleep(Duration::from_secs(least).saturating_sub(since.elapsed()));
            let used = edge.process.used().theirs.saturating_sub(before);
            let (used, took) = (used.as_secs_f64(), since.elapsed().as_secs_f64());
            bench.note(
                "idle",
                &format!(
                    "{:.0} ms of the processors in {took:.0} s, the miner polled every 10 s",
                    used * 1e3
                ),
            );
            bench.verdict("idle", used / took * 100.0, "%", Goal::Most(0.1));
        }
        if bench.wants("memory") {
            let memory = |name: &str, most: f64| {
                let megabytes = edge.process.memory() as f64 / 1e6;
                bench.verdict(name, megabytes, "MB", Goal::Most(most));
            };
            memory("memory-idle", 12.0);
            let (key, _) = edge.key()?;
            let ask = request("GET", "/auth/me", Some(&key), "");
            alone()?.block_on(async {
                let mut open = Vec::new();
                for _ in 0..1024 {
                    let mut connection = Connection::open(edge.process.address).await?;
                    connection.ask(&ask).await?;
                    open.push(connection);
                }
                memory("memory-1024", 64.0);
                Result::Ok(())
            })?;
            let binary = std::fs::metadata(Edge::program())?.len() as f64 / 1e6;
            bench.verdict("memory-binary", binary, "MB", Goal::Most(9.0));
        }
        Ok(())
    }
}
