//! The benchmark: the real server, and what it is held against, in the same run and interleaved, as on a machine that others
//! use too only the ratio of two neighbours says something.
//!
//! `cargo bench` measures everything, within five minutes. `cargo bench -- NAME` only the paths whose names hold it.
//! `--quick` only proves that all of it runs; `--rows N` is the size of the largest database. Nothing fails for being
//! slow; an answer that is no success, or a write that is not there afterwards, fails.
//!
//! Not of that run, as they have minutes of their own: `cargo bench -- growth`, what grows with what, and `cargo bench --
//! footprint`, what the server takes of a machine that is a miner's. `cargo bench -- --against BINARY` measures this build beside
//! another one, both in turns.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark is a program: what it prints is what it shows"
)]

mod against;
mod chat;
mod floors;
mod footprint;
mod growth;
mod load;
mod paths;
mod processes;
mod size;
mod wire;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::load::{Round, Used};
use crate::processes::Process;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, floor @ ..] = &arguments[..]
        && flag == floors::FLAG
    {
        return floors::serve(floor);
    }
    let bench = Bench::new(&arguments)?;
    let (busy, ours) = (processes::busy(), processes::all_of_ours());
    match bench.part {
        Part::Paths => all_paths(&bench)?,
        Part::Growth => growth::growth(&bench)?,
        Part::Footprint => footprint::footprint(&bench)?,
        Part::Against => {
            let binary = bench.against.as_deref().ok_or("--against BINARY")?;
            against::against(&bench, binary)?;
        }
    }
    let took = bench.began.elapsed().as_secs_f64();
    let cores = std::thread::available_parallelism()?.get() as f64;
    let ours = processes::all_of_ours().saturating_sub(ours);
    let others = (processes::busy().saturating_sub(busy)).saturating_sub(ours);
    let others = others.as_secs_f64() / took / cores * 100.0;
    println!("\n{took:.0} s, in which others used {others:.0} % of the processors");
    bench
        .verdicts
        .borrow()
        .iter()
        .for_each(|line| println!("{line}"));
    Ok(())
}

/// What is asked for often, beside its floors.
fn all_paths(bench: &Bench) -> Result<()> {
    bench.head();
    let idle = size::Idle::begin(bench)?;
    paths::reads(bench)?;
    paths::ingest(bench)?;
    paths::batches(bench)?;
    chat::chat(bench)?;
    size::latest(bench)?;
    idle.end(bench)
}

/// What has a run of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Paths,
    Growth,
    Footprint,
    Against,
}

impl Part {
    /// The part that a name begins with.
    fn of(name: Option<&str>) -> Self {
        let begins = |with| name.is_some_and(|name| name.starts_with(with));
        if begins("growth") {
            Self::Growth
        } else if begins("footprint") {
            Self::Footprint
        } else {
            Self::Paths
        }
    }
}

/// What is to be measured, and what was.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    /// Rows of the largest database.
    pub(crate) rows: u64,
    /// How long memory is watched under load.
    pub(crate) minutes: f64,
    /// How many times the usual load that is.
    pub(crate) load: f64,
    /// Where growth is drawn.
    pub(crate) plot: Option<PathBuf>,
    /// The other binary.
    against: Option<PathBuf>,
    part: Part,
    only: Option<String>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) began: Instant,
    verdicts: RefCell<Vec<String>>,
}

/// Something to measure.
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    pub(crate) process: Option<&'a Process>,
    pub(crate) round: Box<dyn Fn() -> Result<Round> + 'a>,
}

/// The rounds of one target.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    rounds: Vec<Figures>,
    memory: Option<u64>,
}

/// The figures of a round: a rate in answers a second, times in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    done: usize,
    used: Used,
}

impl From<Round> for Figures {
    fn from(round: Round) -> Self {
        Self {
            rate: round.rate(),
            p50: round.wait(0.5).as_secs_f64(),
            p99: round.wait(0.99).as_secs_f64(),
            done: round.done,
            used: round.used,
        }
    }
}

/// The middle one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Series {
    pub(crate) fn median(&self, figure: fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    /// Of the processors for each answer, in seconds; over all rounds, as its clock is coarse.
    pub(crate) fn cpu(&self, of: fn(&Used) -> Duration) -> f64 {
        let done: usize = self.rounds.iter().map(|round| round.done).sum();
        let used: Duration = self.rounds.iter().map(|round| of(&round.used)).sum();
        used.as_secs_f64() / done.max(1) as f64
    }

    /// The middle of what each round gives beside the round of another series that was its neighbour.
    pub(crate) fn beside(&self, other: &Self, of: fn(&Figures, &Figures) -> f64) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(a, b)| of(a, b)))
    }

    /// The ratio of the rates.
    pub(crate) fn ratio(&self, floor: &Self) -> f64 {
        self.beside(floor, |ours, floor| ours.rate / floor.rate)
    }
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    Least(f64),
    Most(f64),
}

impl Bench {
    fn new(arguments: &[String]) -> Result<Self> {
        let (mut quick, mut rows, mut minutes, mut plot) = (false, None, None, None);
        let mut against: Option<PathBuf> = None;
        let mut load = 1.0;
        let mut only: Option<String> = None;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // cargo says it.
                "--bench" => {}
                "--quick" => quick = true,
                "--rows" => rows = Some(arguments.next().ok_or("--rows N")?.parse::<f64>()? as u64),
                "--minutes" => minutes = Some(arguments.next().ok_or("--minutes N")?.parse()?),
                "--load" => load = arguments.next().ok_or("--load N")?.parse()?,
                "--plot" => plot = Some(arguments.next().ok_or("--plot FILE")?.into()),
                "--against" => against = Some(arguments.next().ok_or("--against BINARY")?.into()),
                flag if flag.starts_with('-') => return Err(format!("{flag} is not known").into()),
                name => only = Some(name.to_owned()),
            }
        }
        raise_file_limit();
        let part = match against {
            Some(_) => Part::Against,
            None => Part::of(only.as_deref()),
        };
        let most = match part {
            _ if quick => 10_000,
            Part::Growth => 10_000_000,
            Part::Paths | Part::Footprint | Part::Against => 1_000_000,
        };
        Ok(Self {
            quick,
            rows: rows.unwrap_or(most),
            load,
            minutes: minutes.unwrap_or(if quick { 0.05 } else { 1.0 }),
            plot,
            against,
            part,
            only,
            folder: tempfile::tempdir()?,
            began: Instant::now(),
            verdicts: RefCell::default(),
        })
    }

    /// Whether a path is to be measured.
    pub(crate) fn wants(&self, path: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| path.contains(only.as_str()))
    }

    pub(crate) fn rounds(&self) -> usize {
        match self.part {
            _ if self.quick => 1,
            Part::Growth => 3,
            Part::Against => 5,
            Part::Paths | Part::Footprint => 9,
        }
    }

    /// How long a round lasts.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_millis(if self.quick { 50 } else { 600 })
    }

    /// Measures all of these, round by round; each round another one is first.
    pub(crate) fn interleaved(&self, targets: &[Target<'_>]) -> Result<Vec<Series>> {
        let mut rounds = vec![Vec::new(); targets.len()];
        for turn in 0..self.rounds() {
            for at in 0..targets.len() {
                let at = (at + turn) % targets.len();
                let target = &targets[at];
                let round = (target.round)();
                let round = round.map_err(|error| format!("{}: {error}", target.name))?;
                rounds[at].push(Figures::from(round));
            }
        }
        let series = targets.iter().zip(rounds).map(|(target, rounds)| Series {
            name: target.name,
            rounds,
            memory: target.process.map(Process::memory),
        });
        Ok(series.collect())
    }

    /// The heads of the columns of [`Self::table`].
    pub(crate) fn head(&self) {
        println!(
            "{:22} {:24} {:>9} {:>6} {:>9} {:>9} {:>9} {:>8}",
            "path", "what", "a second", "ratio", "p50", "p99", "CPU each", "memory"
        );
    }

    /// Prints the rows of a path, with each one's rate beside that of the first.
    pub(crate) fn table(&self, path: &str, all: &[Series]) {
        for series in all {
            let memory = series
                .memory
                .map_or_else(String::new, |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
            println!(
                "{path:22} {:24} {:9.0} {:6.2} {:>9} {:>9} {:>9} {memory:>8}",
                series.name,
                series.median(|round| round.rate),
                series.ratio(&all[0]),
                time(series.median(|round| round.p50)),
                time(series.median(|round| round.p99)),
                time(series.cpu(|used| used.theirs)),
            );
        }
    }

    /// A line apart from the table.
    pub(crate) fn note(&self, path: &str, what: &str) {
        println!("{path:22} {what}");
    }

    /// Notes what came of a path.
    pub(crate) fn verdict(&self, path: &str, value: f64, unit: &str, goal: Goal) {
        let (sign, goal, met) = match goal {
            Goal::Least(goal) => (">=", goal, value >= goal),
            Goal::Most(goal) => ("<=", goal, value <= goal),
        };
        let missed = if met { "" } else { "  missed" };
        let line = format!("{path} {value:.2}{unit} {sign}{goal}{unit}{missed}");
        self.verdicts.borrow_mut().push(line);
    }
}

/// A time as it is read.
fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "-".to_owned(),
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A thousand connections are a thousand files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, raised);
}
