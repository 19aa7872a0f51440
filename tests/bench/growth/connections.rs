//! More and more connections that are open, of which one asks at a time, each time another.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Runtime;

use super::{Axis, Step, decades, for_each_of};
use crate::load::{Job, Round, closed};
use crate::processes::Edge;
use crate::wire::{Connection, alone, request};
use crate::{Bench, Result, Target};

pub(super) const PATH: &str = "growth-connections";

/// A server and its open connections.
struct Connections {
    edge: Edge,
    ask: Bytes,
    runtime: Runtime,
    open: RefCell<Vec<Connection>>,
    /// Bytes that each of them takes.
    each: f64,
}

impl Connections {
    fn new(bench: &Bench, size: u64) -> Result<Self> {
        let file = bench.folder.path().join(format!("connections-{size}.db"));
        // Most of them are silent for longer than clients usually may be.
        let edge = Edge::start(file, "limits.header_timeout = \"10min\"")?;
        let (key, _) = edge.key()?;
        let ask = request("GET", "/auth/me", Some(&key), "");
        let job = Job::same(edge.process.address, ask.clone());
        // What is made at the first request is not of the connections.
        closed(&job, 1, bench.length(), &|| edge.process.used())?;
        let before = edge.process.memory();
        let runtime = alone()?;
        let open = runtime.block_on(async {
            let mut open = Vec::new();
            for _ in 0..size {
                let mut connection = Connection::open(edge.process.address).await?;
                asked(&mut connection, &ask).await?;
                open.push(connection);
            }
            Result::Ok(open)
        })?;
        let each = for_each_of(size, edge.process.memory(), before);
        Ok(Self {
            edge,
            ask,
            runtime,
            open: RefCell::new(open),
            each,
        })
    }

    fn round(&self, length: Duration) -> Result<Round> {
        let mut open = self.open.borrow_mut();
        let used = || self.edge.process.used();
        self.runtime.block_on(async {
            let (mut round, began, before) = (Round::default(), Instant::now(), used());
            let mut at = 0;
            while round.done == 0 || began.elapsed() < length {
                // A prime: it comes to each of them, and never to the one beside the last.
                at = (at + 7919) % open.len();
                let sent = Instant::now();
                asked(&mut open[at], &self.ask).await?;
                round.waits.push(sent.elapsed());
                round.done += 1;
            }
            round.take(began, before, used());
            round.waits.sort_unstable();
            Ok(round)
        })
    }
}

async fn asked(connection: &mut Connection, ask: &[u8]) -> Result<()> {
    let (status, _) = connection.ask(ask).await?;
    if status == 200 {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&connection.body);
    Err(format!("answered with {status}: {body}").into())
}

pub(super) fn connections(bench: &Bench) -> Result<Axis> {
    let mut sizes = decades(1, if bench.quick { 100 } else { 10_000 });
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        // All of them are open in this process at once; some files are open beside them.
        let mut left = limit.saturating_sub(256);
        let asked = sizes.len();
        sizes.retain(|size| {
            left.checked_sub(*size)
                .inspect(|rest| left = *rest)
                .is_some()
        });
        if sizes.len() < asked {
            bench.note(
                PATH,
                &format!("no more steps: this machine allows {limit} open files"),
            );
        }
    }
    let sets = sizes.iter().map(|size| Connections::new(bench, *size));
    let sets: Vec<Connections> = sets.collect::<Result<_>>()?;
    let target = |set| Target {
        name: "a read by one of them",
        process: None,
        round: Box::new(move || Connections::round(set, bench.length())),
    };
    let all = bench.interleaved(&sets.iter().map(target).collect::<Vec<_>>())?;
    let steps = all.iter().zip(sets.iter().zip(&sizes));
    let steps = steps.map(|(series, (set, size))| Step {
        each: Some(set.each),
        ..Step::of(*size, series, set.edge.process.memory())
    });
    Ok(Axis {
        path: PATH,
        of: "connections",
        unit: "request",
        steps: steps.collect(),
    })
}
