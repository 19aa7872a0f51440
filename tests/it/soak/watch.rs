//! The server's process from outside: its resources every second, its log, and whether it grows.

use std::path::Path;
use std::time::{Duration, Instant};

use super::chats::PRIVATE;
use super::ledger_model::{Kind, LedgerModel, Span, Timed};
use crate::support::Process;

/// What the process uses at a moment.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Figures {
    pub(super) resident_kib: u64,
    pub(super) threads: u64,
    pub(super) files: u64,
    pub(super) log_bytes: u64,
}

impl Figures {
    pub(super) fn of(serving: &Process) -> Self {
        let process = format!("/proc/{}", serving.id());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap()
        };
        let log = format!("{}-wal", serving.database.display());
        Self {
            resident_kib: field("VmRSS:"),
            threads: field("Threads:"),
            files: std::fs::read_dir(format!("{process}/fd")).unwrap().count() as u64,
            log_bytes: std::fs::metadata(log).map_or(0, |file| file.len()),
        }
    }
}

/// All figures of a run, one a second.
#[derive(Default)]
pub(super) struct Watch {
    figures: Vec<Figures>,
    warnings: u64,
    errors: u64,
    lines: u64,
}

/// How much more memory the last third of a run may use than the one before it, as a share.
const MORE: f64 = 0.05;
/// How many more threads and files: they come and go with how many clients meet.
const SOME: u64 = 8;

impl Watch {
    /// Takes one sample.
    pub(super) fn sample(&mut self, serving: &Process, model: &LedgerModel) {
        self.figures.push(Figures::of(serving));
        self.read_log(serving, model);
    }

    /// No panic, no key, no text of a chat, and no error that no fault explains.
    pub(super) fn read_log(&mut self, serving: &Process, model: &LedgerModel) {
        // Since before the last sample, by the timeout of a chat.
        let since = Instant::now() - Duration::from_secs(5);
        for line in serving.take_log() {
            self.lines += 1;
            let level = line.split_whitespace().nth(1).unwrap_or_default();
            match level {
                "INFO" => {}
                "WARN" => self.warnings += 1,
                "ERROR" => {
                    self.errors += 1;
                    if !model.faults.explains_line(&line, since) {
                        model.violation(format!("the log has: {line}"));
                    }
                }
                _ => model.violation(format!("the log has the line: {line}")),
            }
            if line.contains("panicked") {
                model.violation(format!("a panic: {line}"));
            }
            if line.contains(PRIVATE) || holds_key(&line) {
                model.violation(format!("the log has a secret: {line}"));
            }
        }
    }

    pub(super) fn print_head() {
        let kinds: Vec<_> = Kind::ALL.iter().map(|(_, name)| *name).collect();
        println!("requests: {}; times in ms, p50 / p99", kinds.join(", "));
        println!(
            "{:>6}  {:<50} {:>13} {:>13} {:>13} {:>9} {:>8} {:>5} {:>7}  refused; what was wrong",
            "second",
            "requests",
            "reads",
            "writes",
            "first text",
            "RSS MiB",
            "WAL KiB",
            "files",
            "threads"
        );
    }

    /// A line of the table.
    pub(super) fn print(&self, span: Span, at: Duration) {
        let Span {
            asked,
            mut times,
            refused,
            faults,
        } = span;
        let counts = Kind::ALL.map(|(kind, _)| asked.get(&kind).copied().unwrap_or_default());
        let counts = counts.map(|count| count.to_string()).join(" ");
        let mut time = |timed| times.entry(timed).or_default().text();
        let now = self.figures.last().copied().unwrap_or_default();
        let refused = refused
            .iter()
            .map(|(code, count)| format!("{code} {count}"));
        let refused: Vec<_> = refused.collect();
        println!(
            "{:>6.0}  {counts:<50} {:>13} {:>13} {:>13} {:>9.1} {:>8} {:>5} {:>7}  {}; {}",
            at.as_secs_f64(),
            time(Timed::Read),
            time(Timed::Write),
            time(Timed::FirstText),
            now.resident_kib as f64 / 1024.0,
            now.log_bytes / 1024,
            now.files,
            now.threads,
            refused.join(", "),
            faults.join(", ")
        );
    }

    /// Prints what the run used by thirds; where it was `long` enough, the last may use hardly more than the one before.
    pub(super) fn conclude(&self, model: &LedgerModel, long: bool) {
        let third = self.figures.len() / 3;
        let parts = [
            &self.figures[..third],
            &self.figures[third..2 * third],
            &self.figures[2 * third..],
        ];
        let resident: fn(&Figures) -> u64 = |figures| figures.resident_kib;
        for (name, of, share, some) in [
            ("resident KiB", resident, MORE, 0),
            ("threads", |figures| figures.threads, 0.0, SOME),
            ("files", |figures| figures.files, 0.0, SOME),
        ] {
            let [first, middle, last] = parts.map(|part| median(part, of));
            let slope = slope(&self.figures[third..], of) * 60.0;
            println!(
                "{name}: medians of thirds {first}, {middle}, {last}; {slope:+.2} a minute after the first"
            );
            if long && last as f64 > middle as f64 * (1.0 + share) + some as f64 {
                model.violation(format!("{name} grew from {middle} to {last}"));
            }
        }
        let most = self.figures.iter().map(|f| f.resident_kib).max();
        let log = self.figures.iter().map(|f| f.log_bytes).max();
        println!(
            "at most {} KiB resident, {} bytes in the write-ahead log; {} lines logged, {} warnings and {} errors among them",
            most.unwrap_or_default(),
            log.unwrap_or_default(),
            self.lines,
            self.warnings,
            self.errors
        );
    }
}

/// A key, or most of one.
fn holds_key(line: &str) -> bool {
    line.match_indices("r3mes_").any(|(at, prefix)| {
        let rest = line[at + prefix.len()..].bytes();
        rest.take_while(u8::is_ascii_alphanumeric).count() >= 20
    })
}

fn median(figures: &[Figures], of: fn(&Figures) -> u64) -> u64 {
    let mut values: Vec<_> = figures.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// How much it grows in a second, by least squares.
fn slope(figures: &[Figures], of: fn(&Figures) -> u64) -> f64 {
    let count = figures.len().max(1) as f64;
    let (at, is) = (
        (count - 1.0) / 2.0,
        figures.iter().map(|f| of(f) as f64).sum::<f64>() / count,
    );
    let (mut both, mut square) = (0.0, 0.0);
    for (second, figures) in figures.iter().enumerate() {
        let away = second as f64 - at;
        both += away * (of(figures) as f64 - is);
        square += away * away;
    }
    if square > 0.0 { both / square } else { 0.0 }
}

/// The files of a folder whose names end so.
pub(super) fn files_ending(folder: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|is| is == end))
        .collect()
}

#[test]
fn growth_is_detected_and_a_constant_level_is_not() {
    let run = |kib: fn(u64) -> u64| {
        let figure = |second| Figures {
            resident_kib: kib(second),
            ..Figures::default()
        };
        (0..600).map(figure).collect::<Vec<_>>()
    };
    let grows = run(|second| 1000 + 2 * second);
    assert!((slope(&grows, |f| f.resident_kib) - 2.0).abs() < 1e-9);
    assert_eq!(median(&grows, |f| f.resident_kib), 1600);
    let level = run(|second| 1000 + second % 2);
    assert!(slope(&level, |f| f.resident_kib).abs() < 0.01);
    assert!(holds_key(&format!(
        "so it is looked for: r3mes_{}",
        "k".repeat(49)
    )));
    assert!(!holds_key("r3mes_edge, and r3mes_miner_samples_total"));
}
