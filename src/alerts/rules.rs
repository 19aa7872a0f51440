//! What counts as wrong.

use std::time::Duration;

use super::book::{Finding, Level, Severity};
use crate::config::AlertsConfig;
use crate::metrics::CounterSnapshot;
use crate::model::Timestamp;
use crate::store::StoreGauges;

/// Everything that rules look at, as it is at one moment.
pub(crate) struct Snapshot {
    pub(crate) now: Timestamp,
    /// What was counted so far.
    pub(crate) counted: CounterSnapshot,
    pub(crate) store: StoreGauges,
    pub(crate) is_ready: bool,
    pub(crate) ledger_mistakes: usize,
    /// The breakers that are not closed, and whether an operator did that.
    pub(crate) open_breakers: Vec<(String, bool)>,
    pub(crate) is_chain_halted: bool,
    /// Where copies are made by schedule: how often, and the last one's age.
    pub(crate) backup: Option<(Duration, Duration)>,
    pub(crate) miner: Option<Miner>,
}

/// What is known of the wallet in `[miner]`.
#[derive(Default)]
pub(crate) struct Miner {
    pub(crate) newest: Option<Timestamp>,
    /// The sum of what its miners told last.
    pub(crate) hashrate: Option<f64>,
    /// The mean of the last quarter of an hour, and of the last day.
    pub(crate) means: Option<(f64, f64)>,
    pub(crate) temperature: Option<f64>,
    /// Shares that the pool took, and since when they were counted.
    pub(crate) shares: Option<(i64, Timestamp)>,
    pub(crate) last_earning: Option<Timestamp>,
}

/// Requests below which a share of errors says nothing.
const ENOUGH: u64 = 50;

/// `figures` is what was counted in the last five minutes.
pub(super) fn findings(
    reading: &Snapshot,
    figures: &CounterSnapshot,
    limits: &AlertsConfig,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(p99) = figures.response_p99() {
        let most = limits.response_time.as_secs_f64();
        found.push(Finding {
            summary: format!("99 of 100 answers that wait for no model take up to {p99:.2} s; look at the slow reads in the log and at the machine's load"),
            ..above("response_time", Severity::Warning, p99, most)
        });
    }
    if let Some(p99) = figures.overhead_p99() {
        let most = limits.overhead_p99.as_secs_f64();
        found.push(Finding {
            summary: format!("99 of 100 chats wait up to {:.0} ms for this server, apart from their model; is the disk slow, or the machine busy?", p99 * 1000.0),
            ..above("gateway_overhead", Severity::Warning, p99, most)
        });
    }
    if figures.requests >= ENOUGH {
        let share = figures.errors as f64 / figures.requests as f64;
        found.push(Finding {
            summary: format!(
                "{} of {} requests failed by a fault on this side; the log names each",
                figures.errors, figures.requests
            ),
            ..above("error_rate", Severity::Critical, share, limits.error_rate)
        });
    }
    let store = &reading.store;
    let in_use = store.pool_in_use as f64 / store.pool_size.max(1) as f64;
    found.push(Finding {
        summary: format!(
            "{} of {} reading connections are in use; reads will soon wait",
            store.pool_in_use, store.pool_size
        ),
        ..above("pool_use", Severity::Warning, in_use, limits.pool_use)
    });
    found.push(Finding {
        summary: "the storage takes no writes; is the disk full, or broken?".to_owned(),
        ..holds(
            "storage_unavailable",
            Severity::Critical,
            !reading.is_ready && store.file_fault.is_none(),
        )
    });
    found.push(Finding {
        summary: store
            .file_fault
            .map(|fault| format!("storage fault, rejecting writes: {fault}"))
            .unwrap_or_default(),
        at_once: true,
        ..holds(
            "database_file",
            Severity::Critical,
            store.file_fault.is_some(),
        )
    });
    if let Some(free) = store.disk_free_bytes {
        found.push(Finding {
            summary: format!(
                "{} MiB are free where the database is; make room before writes fail",
                free >> 20
            ),
            ..below(
                "disk_free",
                Severity::Critical,
                free as f64,
                limits.disk_free as f64,
            )
        });
    }
    found.push(Finding {
        summary: format!(
            "the write-ahead log has {} MiB; does another program hold the database open?",
            store.wal_bytes >> 20
        ),
        ..above(
            "wal_size",
            Severity::Warning,
            store.wal_bytes as f64,
            limits.wal as f64,
        )
    });
    found.push(Finding {
        summary: "the ledger does not add up; run r3mes-edge ledger verify, keep the file, and put a good copy in its place".to_owned(),
        value: reading.ledger_mistakes as f64,
        at_once: true,
        ..holds("ledger_mismatch", Severity::Critical, reading.ledger_mistakes > 0)
    });
    for (name, forced) in &reading.open_breakers {
        let why = if *forced {
            "an operator took it out of use"
        } else {
            "its calls failed; is it running?"
        };
        found.push(Finding {
            key: ("breaker_open", Some(name.clone())),
            summary: format!("{name} is not asked: {why}"),
            at_once: true,
            ..holds("breaker_open", Severity::Critical, true)
        });
    }
    found.push(Finding {
        summary: "the chain answers but makes no new blocks".to_owned(),
        at_once: true,
        ..holds("chain_halted", Severity::Critical, reading.is_chain_halted)
    });
    if let Some((every, age)) = reading.backup {
        // Two in a row were missed.
        let most = (2 * every).as_secs_f64();
        found.push(Finding {
            summary: format!("the last copy of the database is {} hours old; the log says why no newer one was made", age.as_secs() / 3600),
            ..above("backup_age", Severity::Warning, age.as_secs_f64(), most)
        });
    }
    if let Some(miner) = &reading.miner {
        found.extend(of_miner(miner, reading.now, limits));
    }
    found
}

fn of_miner(miner: &Miner, now: Timestamp, limits: &AlertsConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    let age = |at: Timestamp| (now.millis() - at.millis()).max(0) as f64 / 1000.0;
    // What a silent miner told last says nothing of now.
    let mut silent = true;
    if let Some(newest) = miner.newest {
        let most = limits.miner_silent.as_secs_f64();
        silent = age(newest) > most;
        found.push(Finding {
            summary: format!(
                "the miner told nothing for {:.0} min; is it running, and can its page be reached?",
                age(newest) / 60.0
            ),
            ..above("miner_silent", Severity::Critical, age(newest), most)
        });
    }
    if silent {
        return found;
    }
    if let (Some((shares, since)), Some(hashrate)) = (miner.shares, miner.hashrate) {
        let counted = age(since);
        let flat = shares == 0 && hashrate > 0.0;
        // A counter that was watched for less time than that says nothing yet.
        let long = counted >= limits.shares_flat.as_secs_f64();
        found.push(Finding {
            summary: "the miner has a hashrate, but the pool takes no share of it; look at its connection to the pool and its settings".to_owned(),
            value: shares as f64,
            ..holds("shares_flat", Severity::Critical, flat && long)
        });
    }
    if let Some((recent, day)) = miner.means {
        let least = day * limits.hashrate_low;
        found.push(Finding {
            summary: format!("the hashrate is {recent:.1}, and was {day:.1} over the last day"),
            ..below("hashrate_low", Severity::Warning, recent, least)
        });
    }
    if let Some(celsius) = miner.temperature {
        found.push(Finding {
            summary: format!("the GPU has {celsius:.0} °C; look at its fans and its power limit"),
            ..above(
                "temperature",
                Severity::Warning,
                celsius,
                limits.temperature,
            )
        });
    }
    if let Some(last) = miner.last_earning {
        let most = limits.earnings_stopped.as_secs_f64();
        let hours = Duration::from_secs_f64(age(last)).as_secs() / 3600;
        found.push(Finding {
            summary: format!(
                "the miner earned nothing for {hours} hours, and did in the week before"
            ),
            ..above("earnings_stopped", Severity::Warning, age(last), most)
        });
    }
    found
}

/// Wrong above the threshold, right again a tenth below it.
fn above(name: &'static str, severity: Severity, value: f64, threshold: f64) -> Finding {
    let level = if value > threshold {
        Level::Bad
    } else if value > threshold * 0.9 {
        Level::Between
    } else {
        Level::Good
    };
    finding(name, severity, level, value, threshold)
}

/// Wrong below the threshold, right again a tenth above it.
fn below(name: &'static str, severity: Severity, value: f64, threshold: f64) -> Finding {
    let level = if value < threshold {
        Level::Bad
    } else if value < threshold * 1.1 {
        Level::Between
    } else {
        Level::Good
    };
    finding(name, severity, level, value, threshold)
}

/// Wrong where it holds.
fn holds(name: &'static str, severity: Severity, holds: bool) -> Finding {
    let level = if holds { Level::Bad } else { Level::Good };
    finding(name, severity, level, f64::from(holds), 0.0)
}

fn finding(
    name: &'static str,
    severity: Severity,
    level: Level,
    value: f64,
    threshold: f64,
) -> Finding {
    Finding {
        key: (name, None),
        severity,
        level,
        summary: String::new(),
        value,
        threshold,
        at_once: false,
    }
}
