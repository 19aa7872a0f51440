//! More and more chats at once: as fast as they go, and at the pace of a model.

use std::cell::Cell;
use std::time::Duration;

use super::{Axis, Step, decades, for_each_of};
use crate::chat::{COMPLETIONS, asking, is_paid, paying};
use crate::floors::{PAUSE, slow_words, words};
use crate::load::{Job, Round, Used, closed, each};
use crate::processes::{Edge, Process};
use crate::{Bench, Result, Target};

pub(super) const PATH: &str = "growth-streams";

/// Words of an answer at full speed, and of one at the pace of a model.
const LONG: usize = 256;
const SLOW: usize = 40;

/// A server and its chats.
struct Chats {
    edge: Edge,
    key: String,
    size: u64,
    /// Bytes of the server before any, and the most while they ran.
    before: u64,
    most: Cell<u64>,
}

impl Chats {
    fn new(bench: &Bench, upstream: &Process, size: u64) -> Result<Self> {
        let file = bench.folder.path().join(format!("streams-{size}.db"));
        let (edge, key) = paying(Edge::program(), file, upstream, "")?;
        let chats = Self {
            edge,
            key,
            size,
            before: 0,
            most: Cell::new(0),
        };
        // What is made at the first chat is not of the streams.
        closed(&chats.job(&words(LONG)), 1, bench.length(), &Used::default)?;
        let before = chats.edge.process.memory();
        Ok(Self { before, ..chats })
    }

    fn job(&self, message: &str) -> Job {
        asking(&self.edge.process, COMPLETIONS, &self.key, message)
    }

    /// Every step passes on as many texts; each text counts, and the wait for the first of each chat.
    fn at_full_speed(&self, chats: u64) -> Result<Round> {
        let process = &self.edge.process;
        process.forget_peak()?;
        let (size, times) = (usize::try_from(self.size)?, chats.div_ceil(self.size));
        let used = || process.used();
        let mut round = each(
            &self.job(&words(LONG)),
            size,
            usize::try_from(times)?,
            Duration::ZERO,
            &used,
        )?;
        round.done *= LONG;
        self.most.set(self.most.get().max(process.peak()));
        Ok(round)
    }

    /// The others get a text every tenth of a second, and one comes and goes: how long it waits for its first.
    fn at_a_models_pace(&self, spread: Duration) -> Result<Round> {
        let process = &self.edge.process;
        process.forget_peak()?;
        let others = usize::try_from(self.size)? - 1;
        let slow = self.job(&slow_words(SLOW));
        let run = || each(&slow, others, 1, spread, &Used::default);
        // While all of the others are there: from when the last came until the first leaves.
        let length = (PAUSE * u32::try_from(SLOW - 1)?).saturating_sub(spread);
        std::thread::scope(|scope| {
            let running = (others > 0).then(|| scope.spawn(run));
            std::thread::sleep(spread);
            let length = length.mul_f64(0.85);
            let round = closed(&self.job(&words(4)), 1, length, &|| process.used());
            if let Some(running) = running {
                running.join().map_err(|_| "the load panicked")??;
            }
            let mut round = round?;
            // What the processors did was for the others too.
            round.used = Used::default();
            self.most.set(self.most.get().max(process.peak()));
            Ok(round)
        })
    }
}

pub(super) fn streams(bench: &Bench) -> Result<Axis> {
    let sizes = decades(1, if bench.quick { 10 } else { 1000 });
    let most = sizes.last().copied().unwrap_or(1);
    let upstream = Process::floor(&["upstream"])?;
    type Kind = (&'static str, fn(&Chats, &Bench, u64) -> Result<Round>);
    let kinds: [Kind; 2] = [
        ("first text, full speed", |chats, _, most| {
            chats.at_full_speed(most)
        }),
        ("first text, 10 texts a second", |chats, bench, _| {
            chats.at_a_models_pace(Duration::from_millis(if bench.quick { 200 } else { 2000 }))
        }),
    ];
    let mut steps = Vec::new();
    for (name, round) in kinds {
        let servers = sizes.iter().map(|size| Chats::new(bench, &upstream, *size));
        let servers: Vec<Chats> = servers.collect::<Result<_>>()?;
        let target = |chats| Target {
            name,
            process: None,
            round: Box::new(move || round(chats, bench, most)),
        };
        let all = bench.interleaved(&servers.iter().map(target).collect::<Vec<_>>())?;
        for (series, chats) in all.iter().zip(&servers) {
            let memory = chats.most.get();
            steps.push(Step {
                each: Some(for_each_of(chats.size, memory, chats.before)),
                ..Step::of(chats.size, series, memory)
            });
            is_paid(&chats.edge)?;
        }
        for chats in servers {
            let file = chats.edge.database.clone();
            drop(chats);
            std::fs::remove_file(file)?;
        }
    }
    Ok(Axis {
        path: PATH,
        of: "streams",
        unit: "text",
        steps,
    })
}
