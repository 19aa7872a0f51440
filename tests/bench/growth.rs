//! What grows with what, decade by decade: `cargo bench -- growth`, or one axis of it by name. Each step has a server of
//! its own, so that the steps can be measured in turns and memory be measured separately; the cost of a step is beside
//! that of the first, and where that is not flat `.github/docs/figures.md` says why.
//!
//! `--plot FILE` draws it.

mod connections;
mod keys;
mod plot;
mod samples;
mod streams;

use std::collections::BTreeSet;

use crate::{Bench, Result, Series, time};

/// Something that is made larger and larger.
pub(crate) struct Axis {
    pub(crate) path: &'static str,
    /// Of what there are more with each step.
    pub(crate) of: &'static str,
    /// What is counted a second, and costs.
    pub(crate) unit: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// What was seen of one thing at one size.
pub(crate) struct Step {
    pub(crate) size: u64,
    pub(crate) what: &'static str,
    /// Seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Units a second.
    pub(crate) rate: f64,
    /// Of the processors for each unit, in seconds, where it can be measured separately.
    pub(crate) cpu: Option<f64>,
    /// Bytes of the server.
    pub(crate) memory: u64,
    /// Bytes of them for each one of the size, where it is the size that takes them.
    pub(crate) each: Option<f64>,
}

impl Step {
    fn of(size: u64, series: &Series, memory: u64) -> Self {
        Self {
            size,
            what: series.name,
            p50: series.median(|round| round.p50),
            p99: series.median(|round| round.p99),
            rate: series.median(|round| round.rate),
            cpu: Some(series.cpu(|used| used.theirs)).filter(|cpu| *cpu > 0.0),
            memory,
            each: None,
        }
    }
}

/// How much there is for each of so many.
fn for_each_of(size: u64, after: u64, before: u64) -> f64 {
    after.saturating_sub(before) as f64 / size.max(1) as f64
}

/// Ten times as many again and again.
fn decades(least: u64, most: u64) -> Vec<u64> {
    std::iter::successors(Some(least), |size| size.checked_mul(10))
        .take_while(|size| *size <= most.max(least))
        .collect()
}

pub(crate) fn growth(bench: &Bench) -> Result<()> {
    type Measure = fn(&Bench) -> Result<Axis>;
    let axes: [(&str, Measure); 4] = [
        (samples::PATH, samples::samples),
        (connections::PATH, connections::connections),
        (streams::PATH, streams::streams),
        (keys::PATH, keys::keys),
    ];
    println!(
        "{:18} {:>10} {:26} {:>9} {:>9} {:>9} {:>9} {:>5} {:>5} {:>9} {:>9}",
        "axis",
        "size",
        "what",
        "p50",
        "p99",
        "a second",
        "CPU each",
        "time",
        "CPU",
        "memory",
        "for each"
    );
    let mut measured = Vec::new();
    for (path, measure) in axes {
        if bench.wants(path) {
            let axis = measure(bench)?;
            axis.print();
            measured.push(axis);
        }
    }
    println!("\n{}", summary(&measured));
    if let Some(file) = &bench.plot {
        std::fs::write(file, plot::drawn(&measured))?;
    }
    Ok(())
}

impl Axis {
    /// The things that were measured, in order.
    fn whats(&self) -> Vec<&'static str> {
        let mut whats: Vec<_> = self.steps.iter().map(|step| step.what).collect();
        whats.dedup();
        whats
    }

    fn steps_of(&self, what: &str) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.what == what)
    }

    fn print(&self) {
        for what in self.whats() {
            let mut first = None;
            for step in self.steps_of(what) {
                let first = *first.get_or_insert((step.p50, step.cpu));
                let slower = step.p50 / first.0;
                let dearer = step.cpu.zip(first.1).map(|(cpu, first)| cpu / first);
                println!(
                    "{:18} {:>10} {:26} {:>9} {:>9} {:>9.0} {:>9} {slower:>5.2} {:>5} {:>9} {:>9}",
                    self.path,
                    step.size,
                    step.what,
                    time(step.p50),
                    time(step.p99),
                    step.rate,
                    time(step.cpu.unwrap_or(0.0)),
                    dearer.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
                    bytes(step.memory as f64),
                    step.each.map_or("-".to_owned(), bytes),
                );
            }
        }
    }
}

/// A table for people, in Markdown: a line a figure, a column a decade.
fn summary(axes: &[Axis]) -> String {
    let sizes: BTreeSet<u64> = axes
        .iter()
        .flat_map(|axis| &axis.steps)
        .map(|step| step.size)
        .collect();
    let mut text = String::from("| |");
    sizes
        .iter()
        .for_each(|size| text += &format!(" {} |", grouped(*size)));
    text += "\n|---|";
    text += &"--:|".repeat(sizes.len());
    for axis in axes {
        for what in axis.whats() {
            let mut line = |figure: &str, of: &dyn Fn(&Step) -> Option<String>| {
                let cell = |size| {
                    axis.steps_of(what)
                        .find(|step| step.size == size)
                        .and_then(of)
                };
                let cells: Vec<_> = sizes.iter().map(|size| cell(*size)).collect();
                if cells.iter().any(Option::is_some) {
                    text += &format!("\n| {}: {what}, {figure} |", axis.of);
                    cells
                        .into_iter()
                        .for_each(|cell| text += &format!(" {} |", cell.unwrap_or_default()));
                }
            };
            line("p50 and p99", &|step| {
                Some(format!("{}, {}", time(step.p50), time(step.p99)))
            });
            line(&format!("CPU a {}", axis.unit), &|step| step.cpu.map(time));
            if axis.unit != "request" {
                let rate = |step: &Step| grouped(step.rate as u64);
                line(&format!("{}s a second", axis.unit), &|step| {
                    step.cpu.map(|_| rate(step))
                });
            }
            line("memory for each", &|step| step.each.map(bytes));
        }
        text += &format!("\n| {}: memory |", axis.of);
        for size in &sizes {
            let most = axis
                .steps
                .iter()
                .filter(|step| step.size == *size)
                .map(|step| step.memory)
                .max();
            text += &format!(
                " {} |",
                most.map_or_else(String::new, |most| bytes(most as f64))
            );
        }
    }
    text
}

/// A number as it is read.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An amount of memory as it is read.
fn bytes(bytes: f64) -> String {
    match bytes {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b => format!("{:.1} MB", b / 1e6),
    }
}
