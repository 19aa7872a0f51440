//! Two builds of the server, measured in turns: `cargo bench -- --against BINARY` says what a change cost. Each has a database
//! of its own, both have the same stand-in for an inference server. Chats are measured beside nginx and the thin proxy in the
//! same turns.

use std::path::Path;

use crate::chat::{Floors, Server, is_paid, paying};
use crate::load::{Job, closed};
use crate::paths::{Samples, loaded};
use crate::processes::{Edge, Process};
use crate::wire::request;
use crate::{Bench, Figures, Goal, Result, Series, Target, time};

/// How much worse a path may be than with the other binary.
const SLOWER: f64 = 0.9;
const MORE_CPU: f64 = 1.05;

struct Build {
    name: &'static str,
    edge: Edge,
    key: String,
    key_id: String,
    single: Samples,
    batches: Samples,
}

impl Build {
    fn start(
        bench: &Bench,
        name: &'static str,
        program: &Path,
        upstream: &Process,
    ) -> Result<Self> {
        let database = bench.folder.path().join(format!("{name}.db"));
        let (edge, key) = paying(program, database, upstream, "")?;
        let (_, key_id) = edge.key()?;
        let address = edge.process.address;
        Ok(Self {
            name,
            single: Samples::single(address, &key),
            batches: Samples::batches(address, &key),
            edge,
            key,
            key_id,
        })
    }

    fn server(&self) -> Server<'_> {
        (self.name, &self.edge.process, &self.key)
    }

    fn get(&self, path: &str, key: &str, status: u16) -> Job {
        let request = request("GET", path, Some(key), "");
        Job {
            status,
            ..Job::same(self.edge.process.address, request)
        }
    }

    fn job(&self, path: &str) -> Job {
        match path {
            "auth-cached" => self.get("/auth/me", &self.key, 200),
            "auth-read" => self.get(&format!("/api/keys/{}", self.key_id), &self.key, 200),
            "network-stats" => self.get("/network/stats", &self.key, 200),
            "wrong-key" => self.get("/auth/me", "r3mes_0", 401),
            "ingest" => self.single.job.clone(),
            _ => self.batches.job.clone(),
        }
    }

    fn target<'a>(&'a self, bench: &Bench, path: &str) -> Target<'a> {
        let (process, job, length) = (&self.edge.process, self.job(path), bench.length());
        let connections = match path {
            "ingest-batches" => 16,
            _ => return loaded(bench, self.name, process, &job),
        };
        Target {
            name: self.name,
            process: Some(process),
            round: Box::new(move || closed(&job, connections, length, &|| process.used())),
        }
    }
}

const PATHS: [&str; 11] = [
    "auth-cached",
    "auth-read",
    "network-stats",
    "wrong-key",
    "ingest",
    "ingest-batches",
    "chat-first-byte",
    "chat-one-word",
    "chat-streams",
    "chat-text",
    "chat-long",
];

pub(crate) fn against(bench: &Bench, binary: &Path) -> Result<()> {
    let floors = Floors::start(bench)?;
    let before = Build::start(bench, "before", binary, &floors.upstream)?;
    let after = Build::start(bench, "after", Edge::program(), &floors.upstream)?;
    let is_chat = |path: &&str| path.starts_with("chat");
    let (chats, others): (Vec<_>, Vec<_>) = PATHS
        .into_iter()
        .filter(|path| bench.wants(path))
        .partition(is_chat);
    let mut rows = Vec::new();
    if !chats.is_empty() {
        bench.head();
    }
    for path in chats {
        let all = floors.beside(bench, path, &[before.server(), after.server()])?;
        rows.push((path, all));
    }
    for path in others {
        let targets = [before.target(bench, path), after.target(bench, path)];
        rows.push((path, bench.interleaved(&targets)?));
    }
    println!(
        "{:16} {:>19} {:>19} {:>6} {:>9} {:>9} {:>6} {:>9} {:>9}",
        "path", "before, a second", "after", "ratio", "CPU each", "after", "ratio", "p50", "after"
    );
    for (path, all) in &rows {
        if let [before, after, ..] = &all[..] {
            row(bench, path, before, after);
        }
    }
    // The other build has checks of its own.
    is_paid(&after.edge)
}

fn row(bench: &Bench, path: &str, before: &Series, after: &Series) {
    let rates = |series: &Series| {
        let rates = series.rounds.iter().map(|round| round.rate);
        let least = rates.clone().fold(f64::INFINITY, f64::min);
        (least, rates.fold(0.0, f64::max))
    };
    let cpu = |series: &Series| series.cpu(|used| used.theirs);
    let p50 = |series: &Series| time(series.median(|round: &Figures| round.p50));
    let (ratio, more) = (after.ratio(before), cpu(after) / cpu(before));
    let ((slowest, _), (_, fastest)) = (rates(before), rates(after));
    let range = |(least, most)| format!("{least:.0}..{most:.0}");
    println!(
        "{path:16} {:>19} {:>19} {ratio:6.2} {:>9} {:>9} {more:6.2} {:>9} {:>9}",
        range(rates(before)),
        range(rates(after)),
        time(cpu(before)),
        time(cpu(after)),
        p50(before),
        p50(after),
    );
    // Ranges that overlap are within the noise of this run.
    let ratio = if fastest >= slowest {
        ratio.max(SLOWER)
    } else {
        ratio
    };
    bench.verdict(path, ratio, "", Goal::Least(SLOWER));
    bench.verdict(&format!("{path}-cpu"), more, "", Goal::Most(MORE_CPU));
}
