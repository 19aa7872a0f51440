//! The paths that are asked for often: reads and ingest.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use r3mes_edge::model::{HashrateUnit, Sample, Timestamp, Wallet};
use r3mes_edge::{Clock, Repository, SqliteStore};

use crate::load::{Job, Round, Used, closed, open};
use crate::processes::{Edge, Process, WALLET, count, cpu};
use crate::wire::request;
use crate::{Bench, Goal, Result, Series, Target};

/// Connections of the load.
pub(crate) const MANY: usize = 64;

/// A target in a closed loop.
pub(crate) fn loaded<'a>(
    bench: &Bench,
    name: &'static str,
    process: &'a Process,
    job: &Job,
) -> Target<'a> {
    let (job, length) = (job.clone(), bench.length());
    Target {
        name,
        process: Some(process),
        round: Box::new(move || closed(&job, MANY, length, &|| process.used())),
    }
}

/// The same with so many requests a second, whatever is answered.
pub(crate) fn paced<'a>(
    bench: &Bench,
    name: &'static str,
    process: &'a Process,
    job: &Job,
    rate: f64,
) -> Target<'a> {
    let (job, length) = (job.clone(), bench.length());
    Target {
        name,
        process: Some(process),
        round: Box::new(move || open(&job, MANY, rate, length, &|| process.used())),
    }
}

/// A floor and ours at half of what ours serves at most: how long the slowest of a hundred took, in milliseconds.
fn at_half(
    bench: &Bench,
    path: &str,
    measured: Option<&Series>,
    [floor, ours]: [(&'static str, &Process, &Job); 2],
    most_ms: f64,
) -> Result<()> {
    let most = match measured {
        Some(series) => series.median(|round| round.rate),
        None => closed(ours.2, MANY, bench.length(), &Used::default)?.rate(),
    };
    let rate = (most / 2.0).max(1.0);
    let targets = [floor, ours].map(|(name, process, job)| paced(bench, name, process, job, rate));
    let all = bench.interleaved(&targets)?;
    bench.table(path, &all);
    let p99 = all[1].median(|round| round.p99) * 1e3;
    bench.verdict(path, p99, "ms", Goal::Most(most_ms));
    Ok(())
}

pub(crate) fn reads(bench: &Bench) -> Result<()> {
    let paths = [
        "auth-cached",
        "auth-cached-cpu",
        "auth-read",
        "network-stats",
        "wrong-key",
        "open-auth",
    ];
    if !paths.iter().any(|path| bench.wants(path)) {
        return Ok(());
    }
    let bare = Process::floor(&["bare"])?;
    let edge = Edge::start(bench.folder.path().join("reads.db"), "")?;
    let (key, id) = edge.key()?;
    let get = |address: SocketAddr, path: &str, key: &str| {
        Job::same(address, request("GET", path, Some(key), ""))
    };
    let at = edge.process.address;
    let cached = get(at, "/auth/me", &key);
    // Its last character is another: the checksum does not fit.
    let last = if key.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{last}", &key[..key.len() - 1]);
    let floor = get(bare.address, "/auth/me", &key);
    let jobs = [
        ("auth-cached", cached.clone(), 0.75),
        ("auth-read", get(at, &format!("/api/keys/{id}"), &key), 0.60),
        ("network-stats", get(at, "/network/stats", &key), 0.80),
        (
            "wrong-key",
            Job {
                status: 401,
                ..get(at, "/auth/me", &wrong)
            },
            0.80,
        ),
    ];
    let wanted =
        |path: &str| bench.wants(path) || path == "auth-cached" && bench.wants("auth-cached-cpu");
    let jobs: Vec<_> = jobs.into_iter().filter(|(path, ..)| wanted(path)).collect();
    let mut targets = vec![loaded(bench, "bare hyper", &bare, &floor)];
    targets.extend(
        jobs.iter()
            .map(|(path, job, _)| loaded(bench, path, &edge.process, job)),
    );
    let all = bench.interleaved(&targets)?;
    if let [bare, reads @ ..] = &all[..]
        && !reads.is_empty()
    {
        bench.table("reads", &all);
        let load = bare.cpu(|used| used.ours) * 1e6;
        bench.note(
            "reads",
            &format!("the load itself costs {load:.1} us a request of bare hyper"),
        );
        for ((path, _, goal), series) in jobs.iter().zip(reads) {
            bench.verdict(path, series.ratio(bare), "", Goal::Least(*goal));
            if *path == "auth-cached" {
                let cpu = series.cpu(|used| used.theirs) / bare.cpu(|used| used.theirs);
                bench.verdict("auth-cached-cpu", cpu, "", Goal::Most(1.4));
            }
        }
    }
    if bench.wants("open-auth") {
        let at = jobs.iter().position(|(path, ..)| *path == "auth-cached");
        let measured = at.and_then(|at| all.get(at + 1));
        let both = [
            ("bare hyper", &bare, &floor),
            ("auth-cached", &edge.process, &cached),
        ];
        at_half(bench, "open-auth", measured, both, 1.0)?;
    }
    Ok(())
}

/// Workers of each connection.
const WORKERS: usize = 16;

/// Samples to post, and how many requests of each connection were handed out.
pub(crate) struct Samples {
    pub(crate) job: Job,
    asked: Arc<[AtomicUsize; MANY]>,
}

impl Samples {
    fn new(
        address: SocketAddr,
        of: impl Fn(usize, usize) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::new([const { AtomicUsize::new(0) }; MANY]);
        let count = Arc::clone(&asked);
        let requests = move |connection: usize| {
            let before = count[connection].fetch_add(1, Ordering::Relaxed);
            of(connection, before)
        };
        let job = Job {
            requests: Arc::new(requests),
            status: 201,
            ..Job::same(address, Bytes::new())
        };
        Self { job, asked }
    }

    /// One sample a request. A connection's workers take turns, so that no two samples of one are of the same moment.
    pub(crate) fn single(address: SocketAddr, key: &str) -> Self {
        let body = |number: usize| {
            let worker = format!("rig-{}-{}", number / WORKERS, number % WORKERS);
            format!(r#"{{"worker":"{worker}","hashrate":42.5,"gpu_temperature":61.5}}"#)
        };
        let post = |number| request("POST", "/miner/stats", Some(key), &body(number));
        let all: Vec<_> = (0..MANY * WORKERS).map(post).collect();
        Self::new(address, move |connection, before| {
            all[connection * WORKERS + before % WORKERS].clone()
        })
    }

    /// A thousand a request, one worker a connection, a sample each millisecond from now on.
    pub(crate) fn batches(address: SocketAddr, key: &str) -> Self {
        let (key, now) = (key.to_owned(), Clock::default().now());
        Self::new(address, move |connection, before| {
            let sample = |at: usize| {
                let at = now.plus(batch_time(before, at)).millis();
                let (seconds, millis) = (at / 1000, at % 1000);
                format!(
                    r#"{{"worker":"rig-{connection}","recorded_at":{seconds}.{millis:03},"hashrate":42.5,"gpu_temperature":61.5}}"#
                )
            };
            let samples: Vec<_> = (0..BATCH).map(sample).collect();
            let body = format!("[{}]", samples.join(","));
            request("POST", "/miner/stats", Some(&key), &body)
        })
    }

    /// Each was answered with success; is each there, in a database that had so many before?
    pub(crate) fn all_there(&self, database: &Path, before: i64, each: usize) -> Result<()> {
        let asked = self.asked.iter().map(|count| count.load(Ordering::Relaxed));
        let sent = asked.sum::<usize>() * each;
        let there = stored(database)? - before;
        if usize::try_from(there)? == sent {
            return Ok(());
        }
        Err(format!("{sent} samples were acknowledged, {there} are stored").into())
    }
}

/// Samples in a database.
pub(crate) fn stored(database: &Path) -> Result<i64> {
    count(database, "SELECT count(*) FROM mining_stats")
}

/// Samples of a batch.
const BATCH: usize = Sample::MAX_BATCH;

fn batch_time(before: usize, at: usize) -> Duration {
    Duration::from_millis((before * BATCH + at) as u64)
}

/// The writer alone: producers in this process that each wait for their own writes.
struct Alone {
    store: Arc<SqliteStore>,
    began: Timestamp,
    batches: AtomicUsize,
}

impl Alone {
    fn open(database: &Path) -> Result<Self> {
        Ok(Self {
            store: Arc::new(SqliteStore::open(database, true)?),
            began: Clock::default().now(),
            batches: AtomicUsize::new(0),
        })
    }

    /// The samples of a producer's next write.
    fn samples(&self, producer: usize, before: usize, size: usize) -> Result<Vec<Sample>> {
        let (wallet, unit) = (Wallet::parse(WALLET)?, HashrateUnit::GradientsPerHour);
        let sample = |at: usize| {
            let (worker, time) = if size == 1 {
                let worker = format!("rig-{producer}-{}", before % WORKERS);
                (worker, Clock::default().now())
            } else {
                let time = self.began.plus(batch_time(before, at));
                (format!("rig-{producer}"), time)
            };
            Sample {
                worker,
                gpu_temperature: Some(61.5),
                ..Sample::new(wallet, time, 42.5, unit)
            }
        };
        Ok((0..size).map(sample).collect())
    }

    fn round(self: &Arc<Self>, producers: usize, size: usize, length: Duration) -> Result<Round> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let (began, before) = (Instant::now(), cpu("self"));
        let until = began + length;
        let produce = |producer: usize| {
            let this = Arc::clone(self);
            runtime.spawn(async move {
                let mut waits = Vec::new();
                while Instant::now() < until {
                    let number = this.batches.fetch_add(1, Ordering::Relaxed);
                    let samples = this.samples(producer, number, size)?;
                    let sent = Instant::now();
                    this.store
                        .record_samples(samples, 1000, Clock::default().now())
                        .await?;
                    waits.push(sent.elapsed());
                }
                Result::Ok(waits)
            })
        };
        let tasks: Vec<_> = (0..producers).map(produce).collect();
        let mut round = Round::default();
        for task in tasks {
            round.waits.append(&mut runtime.block_on(task)??);
        }
        round.took = began.elapsed();
        round.used.theirs = cpu("self").saturating_sub(before);
        round.done = round.waits.len();
        round.waits.sort_unstable();
        Ok(round)
    }
}

fn alone<'a>(bench: &Bench, writer: &Arc<Alone>, producers: usize, size: usize) -> Target<'a> {
    let (writer, length) = (Arc::clone(writer), bench.length());
    Target {
        name: "the writer alone",
        process: None,
        round: Box::new(move || writer.round(producers, size, length)),
    }
}

pub(crate) fn ingest(bench: &Bench) -> Result<()> {
    let paths = ["ingest", "ingest-grouped", "ingest-p99", "open-ingest"];
    if !paths.iter().any(|path| bench.wants(path)) {
        return Ok(());
    }
    let file = |name: &str| bench.folder.path().join(format!("ingest-{name}.db"));
    let floor = |kind: &str| Process::floor(&[kind, &file(kind).to_string_lossy()]);
    let (writer, serial) = (floor("writer")?, floor("serial")?);
    let edge = Edge::start(file("edge"), "")?;
    let (key, _) = edge.key()?;
    let at = |process: &Process| Samples::single(process.address, &key);
    let (posted, to_writer, to_serial) = (at(&edge.process), at(&writer), at(&serial));
    let producers = Arc::new(Alone::open(&file("alone"))?);
    let targets = [
        loaded(bench, "writer behind bare hyper", &writer, &to_writer.job),
        loaded(bench, "ingest", &edge.process, &posted.job),
        loaded(bench, "a transaction each", &serial, &to_serial.job),
        alone(bench, &producers, MANY, 1),
    ];
    let all = bench.interleaved(&targets)?;
    bench.table("ingest", &all);
    bench.verdict("ingest", all[1].ratio(&all[0]), "", Goal::Least(0.8));
    bench.verdict(
        "ingest-grouped",
        all[1].ratio(&all[2]),
        "",
        Goal::Least(4.0),
    );
    bench.verdict(
        "ingest-p99",
        all[1].median(|round| round.p99) * 1e3,
        "ms",
        Goal::Most(20.0),
    );
    if bench.wants("open-ingest") {
        let both = [
            ("writer behind bare hyper", &writer, &to_writer.job),
            ("ingest", &edge.process, &posted.job),
        ];
        at_half(bench, "open-ingest", Some(&all[1]), both, 10.0)?;
    }
    posted.all_there(&edge.database, 0, 1)
}

pub(crate) fn batches(bench: &Bench) -> Result<()> {
    const PRODUCERS: usize = 16;
    if !bench.wants("ingest-batches") {
        return Ok(());
    }
    let file = |name: &str| bench.folder.path().join(format!("batches-{name}.db"));
    let edge = Edge::start(file("edge"), "")?;
    let (key, _) = edge.key()?;
    let posted = Samples::batches(edge.process.address, &key);
    let producers = Arc::new(Alone::open(&file("alone"))?);
    let length = bench.length() * 2;
    let post = || closed(&posted.job, PRODUCERS, length, &|| edge.process.used());
    let targets = [
        alone(bench, &producers, PRODUCERS, BATCH),
        Target {
            name: "batches of 1,000",
            process: Some(&edge.process),
            round: Box::new(post),
        },
    ];
    let all = bench.interleaved(&targets)?;
    bench.table("ingest-batches", &all);
    bench.verdict(
        "ingest-batches",
        all[1].ratio(&all[0]),
        "",
        Goal::Least(0.8),
    );
    posted.all_there(&edge.database, 0, BATCH)
}
