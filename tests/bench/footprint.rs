//! What the server takes of a machine that is a miner's: idle, with a miner's page read every ten
//! seconds and without; and whether its memory stays where it is under load, for as long as `--minutes` says and under `--load`
//! times the usual one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::chat::{COMPLETIONS, asking, is_paid, paying};
use crate::floors::words;
use crate::load::{Job, Used, open};
use crate::paths::{Samples, stored};
use crate::processes::{Edge, Process, WALLET};
use crate::wire::request;
use crate::{Bench, Goal, Result};

const IDLE: &str = "footprint-idle";
const LOAD: &str = "footprint-load";

pub(crate) fn footprint(bench: &Bench) -> Result<()> {
    if bench.wants(IDLE) {
        idle(bench)?;
    }
    if bench.wants(LOAD) {
        load(bench)?;
    }
    Ok(())
}

fn idle(bench: &Bench) -> Result<()> {
    let upstream = Process::floor(&["upstream"])?;
    let page = format!(
        "miner.url = \"http://{}/stats\"\nminer.wallet = \"{WALLET}\"",
        upstream.address
    );
    let servers = [("alone", ""), ("with a miner", page.as_str())];
    let file = |name: &str| {
        bench
            .folder
            .path()
            .join(format!("{}.db", name.replace(' ', "-")))
    };
    let start = |(name, config)| Ok((name, Edge::start(file(name), config)?));
    let servers: Vec<_> = servers.into_iter().map(start).collect::<Result<_>>()?;
    let (settled, length) = if bench.quick { (1, 2) } else { (10, 60) };
    // What a start does is done by then.
    std::thread::sleep(Duration::from_secs(settled));
    let mut watched: Vec<_> = servers
        .iter()
        .map(|(_, edge)| Watched::new(&edge.process))
        .collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(length) {
        std::thread::sleep(Duration::from_millis(500));
        watched.iter_mut().for_each(Watched::look);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{:22} {:16} {:>8} {:>18} {:>16} {:>8} {:>10}",
        "path", "server", "CPU", "wake-ups a second", "written an hour", "threads", "memory"
    );
    for ((name, edge), watched) in servers.iter().zip(&watched) {
        let cpu = watched.cpu.as_secs_f64() / seconds * 100.0;
        println!(
            "{IDLE:22} {name:16} {:>8} {:>18.1} {:>16} {:>8} {:>10}",
            format!("{cpu:.3} %"),
            watched.switches as f64 / seconds,
            format!(
                "{:.2} MB",
                watched.written() as f64 / seconds * 3600.0 / 1e6
            ),
            watched.threads,
            format!("{:.1} MB", edge.process.memory() as f64 / 1e6),
        );
        bench.verdict(
            &format!("{IDLE}-{}", name.replace(' ', "-")),
            cpu,
            "%",
            Goal::Most(0.1),
        );
    }
    Ok(())
}

/// The resources of a process, sampled at intervals.
struct Watched {
    process: u32,
    /// The processor time of each thread at the last sample.
    known: HashMap<String, Thread>,
    cpu: Duration,
    switches: u64,
    /// Bytes that were on their way to the disk when it began.
    before: u64,
    /// The most that there were at once.
    threads: usize,
}

#[derive(Clone, Copy, Default)]
struct Thread {
    cpu: u64,
    switches: u64,
}

impl Watched {
    fn new(process: &Process) -> Self {
        let process = process.id();
        let mut watched = Self {
            process,
            known: threads(process),
            cpu: Duration::ZERO,
            switches: 0,
            before: 0,
            threads: 0,
        };
        watched.before = watched.written();
        watched
    }

    /// Adds what was done since; a thread that began and ended in between is missed.
    fn look(&mut self) {
        let now = threads(self.process);
        for (thread, now) in &now {
            let before = self.known.get(thread).copied().unwrap_or_default();
            self.cpu += Duration::from_nanos(now.cpu.saturating_sub(before.cpu));
            self.switches += now.switches.saturating_sub(before.switches);
        }
        self.threads = self.threads.max(now.len());
        self.known = now;
    }

    /// Bytes that it made the disk write since the first sample.
    fn written(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.process)).unwrap_or_default();
        number(&io, "write_bytes:") - self.before
    }
}

fn threads(process: u32) -> HashMap<String, Thread> {
    let folder = std::fs::read_dir(format!("/proc/{process}/task"));
    let read = |entry: std::fs::DirEntry| {
        let text = |name| std::fs::read_to_string(entry.path().join(name)).ok();
        let (status, schedule) = (text("status")?, text("schedstat")?);
        let thread = Thread {
            cpu: schedule.split(' ').next()?.parse().ok()?,
            switches: number(&status, "voluntary_ctxt_switches:")
                + number(&status, "nonvoluntary_ctxt_switches:"),
        };
        Some((entry.file_name().to_string_lossy().into_owned(), thread))
    };
    folder
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(read)
        .collect()
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Reads, writes and chats at a pace that a node may have, and the memory meanwhile.
fn load(bench: &Bench) -> Result<()> {
    let upstream = Process::floor(&["upstream"])?;
    let (edge, key) = paying(
        Edge::program(),
        bench.folder.path().join("load.db"),
        &upstream,
        "",
    )?;
    let samples = Samples::single(edge.process.address, &key);
    let chats = asking(&edge.process, COMPLETIONS, &key, &words(4));
    let loads = [
        (reads(&edge, &key), 200.0),
        (samples.job.clone(), 100.0),
        (chats, 50.0),
    ];
    let length = Duration::from_secs_f64(bench.minutes * 60.0);
    // Each loads for a tenth more, which it does not count.
    let whole = length.mul_f64(1.1);
    let (mut seen, times) = (Vec::new(), bench.load);
    let asked = std::thread::scope(|scope| {
        let run = |(job, rate): &(Job, f64)| open(job, 8, rate * times, length, &Used::default);
        let running: Vec<_> = loads
            .iter()
            .map(|load| scope.spawn(move || run(load)))
            .collect();
        let began = Instant::now();
        while began.elapsed() < whole {
            std::thread::sleep(whole / 300);
            seen.push((began.elapsed().as_secs_f64(), edge.process.memory() as f64));
        }
        let mut asked = 0;
        for running in running {
            asked += running.join().map_err(|_| "the load panicked")??.done;
        }
        Result::Ok(asked)
    })?;
    is_paid(&edge)?;
    samples.all_there(&edge.database, 0, 1)?;
    // So that what fills in the beginning can be distinguished from steady growth.
    let tenth = seen.len().div_ceil(10);
    let tenths = seen.chunks(tenth).map(|seen| format!("{:.1}", mean(seen)));
    let second_half = &seen[seen.len() / 2..];
    bench.note(
        LOAD,
        &format!(
            "{:.1} minutes, {asked} requests, {} samples stored; memory by tenths of the time: {} MB; in the second half {:+.1} MB an hour",
            whole.as_secs_f64() / 60.0,
            stored(&edge.database)?,
            tenths.collect::<Vec<_>>().join(" "),
            slope(second_half) * 3600.0 / 1e6,
        ),
    );
    Ok(())
}

/// Of the paths that are read often, one after the other.
fn reads(edge: &Edge, key: &str) -> Job {
    let paths = [
        "/auth/me".to_owned(),
        "/network/stats".to_owned(),
        format!("/users/{WALLET}/ledger"),
        format!("/miner/stats/{WALLET}"),
        format!("/miner/hashrate/{WALLET}?days=1"),
        "/metrics".to_owned(),
    ];
    let asks: Vec<Bytes> = paths
        .iter()
        .map(|path| request("GET", path, Some(key), ""))
        .collect();
    let asked = AtomicUsize::new(0);
    Job {
        requests: Arc::new(move |_| {
            asks[asked.fetch_add(1, Ordering::Relaxed) % asks.len()].clone()
        }),
        ..Job::same(edge.process.address, Bytes::new())
    }
}

/// In megabytes.
fn mean(seen: &[(f64, f64)]) -> f64 {
    seen.iter().map(|(_, memory)| memory).sum::<f64>() / seen.len() as f64 / 1e6
}

/// How much is added in each second: least squares.
fn slope(seen: &[(f64, f64)]) -> f64 {
    let count = seen.len() as f64;
    let sum = |of: fn(&(f64, f64)) -> f64| seen.iter().map(of).sum::<f64>();
    let (x, y) = (sum(|seen| seen.0), sum(|seen| seen.1));
    let (xx, xy) = (sum(|seen| seen.0 * seen.0), sum(|seen| seen.0 * seen.1));
    (count * xy - x * y) / (count * xx - x * x)
}
