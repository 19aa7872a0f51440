//! The rules of alerts, one row each: name, severity, whether it needs confirmation over time, condition, summary. A new
//! alert is a new row, and where it needs one a new value in the [`Snapshot`].

use std::time::Duration;

use super::tracker::{Alert, Finding, Severity};
use crate::config::AlertsConfig;
use crate::metrics::{AlertCounts, ERRORS, SLOW_ANSWERS, SLOW_CHATS};
use crate::model::Timestamp;
use crate::store::StoreGauges;

/// The values that rules compare, at one moment.
pub(crate) struct Snapshot {
    pub(crate) time: Timestamp,
    /// Counts since the start.
    pub(crate) counts: AlertCounts,
    pub(crate) store: StoreGauges,
    pub(crate) is_ready: bool,
    pub(crate) ledger_errors: usize,
    /// The breakers that are not closed, and whether an operator opened them.
    pub(crate) open_breakers: Vec<(String, bool)>,
    pub(crate) is_chain_halted: bool,
    /// By how many milliseconds the wall clock jumped, while that is in question.
    pub(crate) clock_jump: Option<i64>,
    /// Where this process makes backups by a schedule: how often, and when the last was made.
    pub(crate) backup: Option<(Duration, Timestamp)>,
    pub(crate) miner: Option<Miner>,
}

/// The figures of the wallet in `[miner]`.
#[derive(Default)]
pub(crate) struct Miner {
    pub(crate) newest: Option<Timestamp>,
    /// The sum of its miners' last samples.
    pub(crate) hashrate: Option<f64>,
    /// The mean of the last quarter of an hour, and of the last day.
    pub(crate) means: Option<(f64, f64)>,
    pub(crate) temperature: Option<f64>,
    /// Shares that the pool accepted, and since when they were counted.
    pub(crate) shares: Option<(i64, Timestamp)>,
    pub(crate) last_earning: Option<Timestamp>,
}

impl Snapshot {
    fn age(&self, time: Timestamp) -> f64 {
        (self.time.millis() - time.millis()).max(0) as f64 / 1000.0
    }

    /// The age of the miner's newest sample.
    fn silence(&self) -> Option<f64> {
        let newest = self.miner.as_ref()?.newest?;
        Some(self.age(newest))
    }

    /// The miner while it is not silent: its last samples describe no other time.
    fn live_miner(&self, limits: &AlertsConfig) -> Option<&Miner> {
        let live = self.silence()? <= limits.miner_silent.as_secs_f64();
        self.miner.as_ref().filter(|_| live)
    }
}

/// Requests below which a share of errors means nothing.
const ENOUGH: u64 = 50;
/// The share of slow ones above which a 99th percentile is too high.
const SLOW: f64 = 0.01;

/// Whether something is wrong, the value and the threshold.
type Condition = (bool, f64, f64);

fn above(value: f64, threshold: f64) -> Condition {
    (value > threshold, value, threshold)
}

fn below(value: f64, threshold: f64) -> Condition {
    (value < threshold, value, threshold)
}

fn holds(bad: bool, value: f64) -> Condition {
    (bad, value, 0.0)
}

/// Seconds that the clock may be set by unnoticed.
const CLOCK_STEP: f64 = 300.0;

const CONFIRMED: bool = false;
const IMMEDIATE: bool = true;

/// One rule; `None` where nothing is wrong, or nothing is known.
type Rule = fn(&Snapshot, &AlertCounts, &AlertsConfig) -> Option<Finding>;

/// Declares the table. The first line names what conditions and summaries refer to.
macro_rules! rules {
    (
        |$now:ident, $window:ident, $limits:ident, $value:ident|
        $($name:literal, $severity:ident, $immediate:ident: $condition:expr, $summary:literal $(, $argument:expr)*;)*
    ) => {
        #[allow(unused_variables)]
        const RULES: &[Rule] = &[$(|$now, $window, $limits| {
            let (bad, $value, threshold): Condition = $condition;
            let summary = format!($summary $(, $argument)*);
            let (severity, value, since) = (Severity::$severity, $value, $now.time);
            let alert = Alert { name: $name, severity, summary, value, threshold, since, ..Alert::default() };
            bad.then_some(Finding { immediate: $immediate, alert })
        }),*];
    };
}

rules! {
    |now, window, limits, value|
    "response_time", Warning, CONFIRMED: above(window[SLOW_ANSWERS].of_at_least(1)?, SLOW),
        "{} of {} answers that wait for no model took longer than {:?}; check the slow reads in the log and the machine's load", window[SLOW_ANSWERS].part, window[SLOW_ANSWERS].all, limits.response_time;
    "gateway_overhead", Warning, CONFIRMED: above(window[SLOW_CHATS].of_at_least(1)?, SLOW),
        "{} of {} chats waited longer than {:?} for this server, apart from their model; is the disk slow, or the machine busy?", window[SLOW_CHATS].part, window[SLOW_CHATS].all, limits.overhead_p99;
    "error_rate", Critical, CONFIRMED: above(window[ERRORS].of_at_least(ENOUGH)?, limits.error_rate),
        "{} of {} requests failed by a fault on this side; the log names each", window[ERRORS].part, window[ERRORS].all;
    "pool_use", Warning, CONFIRMED: above(now.store.pool_in_use as f64 / now.store.pool_size.max(1) as f64, limits.pool_use),
        "{} of {} read connections are in use; reads will soon wait", now.store.pool_in_use, now.store.pool_size;
    "storage_unavailable", Critical, CONFIRMED: holds(!now.is_ready && now.store.file_fault.is_none(), 1.0),
        "the storage rejects writes; is the disk full, or broken?";
    "database_file", Critical, IMMEDIATE: holds(now.store.file_fault.is_some(), 1.0),
        "storage fault, rejecting writes: {}", now.store.file_fault.unwrap_or_default();
    "disk_free", Critical, CONFIRMED: below(now.store.disk_free_bytes? as f64, limits.disk_free as f64),
        "{} MiB are free where the database is; free some before writes fail", value as u64 >> 20;
    "wal_size", Warning, CONFIRMED: above(now.store.wal_bytes? as f64, limits.wal as f64),
        "the write-ahead log has {} MiB; does another program hold the database open?", value as u64 >> 20;
    "ledger_mismatch", Critical, IMMEDIATE: holds(now.ledger_errors > 0, now.ledger_errors as f64),
        "the ledger does not add up; run r3mes-edge ledger verify, keep the file, and restore a good backup";
    "chain_halted", Critical, IMMEDIATE: holds(now.is_chain_halted, 1.0),
        "the chain answers but makes no new blocks";
    "clock_jump", Warning, IMMEDIATE: (true, now.clock_jump? as f64 / 1000.0, CLOCK_STEP),
        "the clock was set {}; nothing expires by it until it has held for an hour: set it right, or run r3mes-edge db accept-clock if it is", clock_change(value);
    "backup_age", Warning, CONFIRMED: now.backup.map(|(every, last)| above(now.age(last), (2 * every).as_secs_f64()))?,
        "the last backup of the database is {:.0} hours old; the log has the reason", (value / 3600.0).floor();
    "miner_silent", Critical, CONFIRMED: above(now.silence()?, limits.miner_silent.as_secs_f64()),
        "the miner sent no sample for {:.0} min; is it running, and can its page be reached?", value / 60.0;
    "shares_flat", Critical, CONFIRMED: shares_flat(now, limits)?,
        "the miner has a hashrate, but the pool accepts no share; check its connection to the pool and its settings";
    "hashrate_low", Warning, CONFIRMED: now.live_miner(limits)?.means.map(|(recent, day)| below(recent, day * limits.hashrate_low))?,
        "the hashrate is {value:.1}, far below its mean of the last day";
    "temperature", Warning, CONFIRMED: above(now.live_miner(limits)?.temperature?, limits.temperature),
        "the GPU has {value:.0} °C; check its fans and its power limit";
    "earnings_stopped", Warning, CONFIRMED: above(now.age(now.live_miner(limits)?.last_earning?), limits.earnings_stopped.as_secs_f64()),
        "the miner earned nothing for {:.0} hours, and did in the week before", (value / 3600.0).floor();
}

/// A change of the clock, in seconds, in words.
fn clock_change(seconds: f64) -> String {
    let way = if seconds < 0.0 { "back" } else { "ahead" };
    let minutes = seconds.abs() / 60.0;
    match minutes {
        ..120.0 => format!("{way} by {minutes:.0} minutes"),
        ..2880.0 => format!("{way} by {:.0} hours", minutes / 60.0),
        _ => format!("{way} by {:.0} days", minutes / 1440.0),
    }
}

fn shares_flat(now: &Snapshot, limits: &AlertsConfig) -> Option<Condition> {
    let miner = now.live_miner(limits)?;
    let (shares, since) = miner.shares?;
    let flat = shares == 0 && miner.hashrate? > 0.0;
    // A counter that was watched for less time proves nothing yet.
    let long = now.age(since) >= limits.shares_flat.as_secs_f64();
    Some(holds(flat && long, shares as f64))
}

/// Evaluates every rule; `window` is what was counted in the last five minutes.
pub(super) fn evaluate(
    now: &Snapshot,
    window: &AlertCounts,
    limits: &AlertsConfig,
) -> Vec<Finding> {
    // The one rule over several things.
    let breakers = now.open_breakers.iter().map(|(name, forced)| {
        let why = match forced {
            true => "an operator took it out of use",
            false => "its calls failed; is it running?",
        };
        let alert = Alert {
            name: "breaker_open",
            subject: Some(name.clone()),
            severity: Severity::Critical,
            summary: format!("{name} gets no calls: {why}"),
            value: 1.0,
            since: now.time,
            ..Alert::default()
        };
        Finding {
            immediate: IMMEDIATE,
            alert,
        }
    });
    let rules = RULES.iter();
    let rules = rules.filter_map(|rule| rule(now, window, limits));
    rules.chain(breakers).collect()
}
