//! More and more samples in the file: what is asked for often, and one write.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Axis, Step, decades};
use crate::load::{Job, Round, closed};
use crate::paths::{Samples, stored};
use crate::processes::{Edge, WALLET};
use crate::size::filled;
use crate::wire::{Connection, alone, request};
use crate::{Bench, Result, Target};

pub(super) const PATH: &str = "growth-samples";

/// A server over a file of this size.
struct Sized {
    edge: Edge,
    key: String,
    samples: Samples,
    /// Stored before the load begins.
    rows: i64,
}

impl Sized {
    fn new(bench: &Bench, rows: u64) -> Result<Self> {
        let file = bench.folder.path().join(format!("samples-{rows}.db"));
        filled(&file, rows)?;
        let rows = stored(&file)?;
        let edge = Edge::start(file, "")?;
        let (key, _) = edge.key()?;
        let samples = Samples::single(edge.process.address, &key);
        Ok(Self {
            edge,
            key,
            samples,
            rows,
        })
    }

    /// One connection that asks for this.
    fn asks(&self, path: &str, length: Duration) -> Result<Round> {
        let ask = request("GET", &format!("/miner/{path}"), Some(&self.key), "");
        self.does(&Job::same(self.edge.process.address, ask), length)
    }

    fn does(&self, job: &Job, length: Duration) -> Result<Round> {
        closed(job, 1, length, &|| self.edge.process.used())
    }

    /// The network's figures, each time after a grant that invalidates the cached ones. Only the read counts; what the
    /// processors did for it cannot be distinguished from what they did for the grant.
    fn network(&self, length: Duration) -> Result<Round> {
        let admin = std::fs::read_to_string(self.edge.database.with_added_extension("admin-key"))?;
        let grant = r#"{"amount":0.000001,"reason":"benchmark"}"#;
        let path = format!("/users/{WALLET}/credits");
        let grant = request("POST", &path, Some(admin.trim()), grant);
        let ask = request("GET", "/network/stats", Some(&self.key), "");
        let last = Cell::new(0.0);
        alone()?.block_on(async {
            let mut connection = Connection::open(self.edge.process.address).await?;
            let (mut round, began) = (Round::default(), Instant::now());
            while round.done == 0 || began.elapsed() < length {
                connection.ask(&grant).await?;
                let sent = Instant::now();
                let (status, came) = connection.ask(&ask).await?;
                round.waits.push(came - sent);
                round.done += 1;
                let found: serde_json::Value = serde_json::from_slice(&connection.body)?;
                let credits = found["total_credits"].as_f64().unwrap_or(f64::NAN);
                if status != 200 || last.replace(credits) == credits {
                    return Err(format!("answered with {status}: {found}, which is old").into());
                }
            }
            round.took = round.waits.iter().sum();
            round.waits.sort_unstable();
            Ok(round)
        })
    }
}

pub(super) fn samples(bench: &Bench) -> Result<Axis> {
    let sizes = decades(1000, bench.rows);
    let began = Instant::now();
    let servers = sizes.iter().map(|rows| Sized::new(bench, *rows));
    let servers: Vec<Sized> = servers.collect::<Result<_>>()?;
    if let Some(largest) = servers.last() {
        let size = std::fs::metadata(&largest.edge.database)?.len() as f64 / 1e6;
        let took = began.elapsed().as_secs_f64();
        bench.note(
            PATH,
            &format!("the largest file has {size:.0} MB; all were filled in {took:.0} s"),
        );
    }
    type Kind = (&'static str, fn(&Sized, Duration) -> Result<Round>);
    let reads: &[Kind] = &[
        ("latest figures", |server, length| {
            server.asks(&format!("stats/{WALLET}"), length)
        }),
        ("an hour, every sample", |server, length| {
            let path = format!("hashrate/{WALLET}?hours=1&resolution=raw");
            server.asks(&path, length)
        }),
        ("a day by the minute", |server, length| {
            server.asks(&format!("hashrate/{WALLET}?days=1"), length)
        }),
        ("network stats, not kept", Sized::network),
    ];
    // After them, as what is written is of the hour that they read.
    let writes: &[Kind] = &[("one durable sample", |server, length| {
        server.does(&server.samples.job, length)
    })];
    let mut steps = Vec::new();
    for kinds in [reads, writes] {
        // Neighbours are the same thing at other sizes.
        let targets: Vec<_> = kinds
            .iter()
            .flat_map(|kind| servers.iter().map(move |server| (kind, server)))
            .map(|((name, ask), server)| Target {
                name,
                process: None,
                round: Box::new(move || ask(server, bench.length())),
            })
            .collect();
        let all = bench.interleaved(&targets)?;
        let sized = servers.iter().zip(&sizes).cycle();
        steps.extend(
            all.iter().zip(sized).map(|(series, (server, size))| {
                Step::of(*size, series, server.edge.process.memory())
            }),
        );
    }
    for server in &servers {
        server
            .samples
            .all_there(&server.edge.database, server.rows, 1)?;
    }
    Ok(Axis {
        path: PATH,
        of: "samples",
        unit: "request",
        steps,
    })
}
