//! The rules of alerts, one row each: name, severity, whether it needs confirmation over time, condition, summary. A new
//! alert is a new row, and where it needs one a new value in the [`Snapshot`].
//!
//! A condition is bad, fine or unknown. An incident begins while it is bad and ends while it is fine; what is unknown, as its
//! source is silent or another alert explains it, begins and ends none.

use super::snapshot::{Snapshot, Window};
use super::tracker::{Alert, Finding, Severity};
use crate::config::AlertsConfig;
use crate::metrics::{SLOW_ANSWERS, SLOW_CHATS, STORAGE_ERRORS, Share, UPSTREAM_ERRORS};

/// Requests below which a share of errors means nothing.
const ENOUGH: u64 = 50;
/// The share of slow ones above which a 99th percentile is too high.
const SLOW: f64 = 0.01;
/// Slow ones below which a percentile means nothing.
const ENOUGH_SLOW: u64 = 3;
/// The share of hours that have to be mined for earnings to be expected.
const MINED: f64 = 0.75;

/// Whether something is wrong, the value and the threshold.
type Condition = (bool, f64, f64);

const FINE: Condition = (false, 0.0, 0.0);

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

/// One rule: what is bad, and what is unknown.
type Rule = fn(&Snapshot, &Window, &AlertsConfig) -> Vec<Finding>;

/// Declares the table. The first line names what conditions and summaries refer to. `?` in a condition makes it unknown. The
/// rows with `each` are of several things: they list those that are bad, with what is wrong with each.
macro_rules! rules {
    (
        |$now:ident, $window:ident, $limits:ident, $value:ident|
        $($name:literal, $severity:ident, $immediate:ident: $condition:expr, $summary:literal $(, $argument:expr)*;)*
        $(each $each:literal, $severe:ident, $at_once:ident: $list:expr;)*
    ) => {
        /// Every alert, with its severity.
        pub(super) const ALL: &[(&str, Severity)] =
            &[$(($name, Severity::$severity),)* $(($each, Severity::$severe),)*];

        #[allow(unused_variables)]
        const RULES: &[Rule] = &[$(|$now, $window, $limits| {
            let condition = || -> Option<Condition> { Some($condition) };
            let alert = Alert { name: $name, severity: Severity::$severity, since: $now.time, ..Alert::default() };
            let finding = |is_known, alert| vec![Finding { immediate: $immediate, is_known, alert }];
            match condition() {
                None => finding(false, alert),
                Some((false, ..)) => Vec::new(),
                Some((true, $value, threshold)) => {
                    let summary = format!($summary $(, $argument)*);
                    finding(true, Alert { summary, value: $value, threshold, ..alert })
                }
            }
        },)* $(|$now, $window, $limits| {
            let bad = $list.map(|(subject, summary)| {
                let (subject, severity, since) = (Some(subject), Severity::$severe, $now.time);
                let alert = Alert { name: $each, subject, severity, summary, value: 1.0, since, ..Alert::default() };
                Finding { immediate: $at_once, is_known: true, alert }
            });
            bad.collect()
        },)*];
    };
}

rules! {
    |now, window, limits, value|
    "response_time", Warning, CONFIRMED: slow(window, SLOW_ANSWERS)?,
        "{} of {} answers that wait for no model took longer than {:?}; check the slow reads in the log and the machine's load", window.counts[SLOW_ANSWERS].part, window.counts[SLOW_ANSWERS].all, limits.response_time;
    "gateway_overhead", Warning, CONFIRMED: slow(window, SLOW_CHATS)?,
        "{} of {} chats waited longer than {:?} for this server, apart from their model; is the disk slow, or the machine busy?", window.counts[SLOW_CHATS].part, window.counts[SLOW_CHATS].all, limits.overhead_p99;
    "error_rate", Critical, CONFIRMED: error_rate(window, limits)?,
        "{} of {} requests failed by a fault on this side; the log names each", window.errors().part, window.errors().all;
    "pool_use", Warning, CONFIRMED: above(now.store.pool_in_use as f64 / now.store.pool_size.max(1) as f64, limits.pool_use),
        "{} of {} read connections are in use; reads will soon wait", now.store.pool_in_use, now.store.pool_size;
    "storage_unavailable", Critical, CONFIRMED: match now.is_ready {
            true => FINE,
            // Another alert explains it.
            false if now.store.file_fault.is_some() || now.is_disk_full(limits) => None::<Condition>?,
            false => holds(true, 1.0),
        },
        "the storage rejects writes; is the disk full, or broken?";
    "database_file", Critical, IMMEDIATE: holds(now.store.file_fault.is_some(), 1.0),
        "storage fault, rejecting writes: {}", now.store.file_fault.unwrap_or_default();
    "disk_free", Critical, CONFIRMED: below(now.store.disk_free_bytes? as f64, limits.disk_free as f64),
        "{} MiB are free where the database is; free some{}", value as u64 >> 20, if now.is_ready { " before writes fail" } else { ": writes fail" };
    "wal_size", Warning, CONFIRMED: above(now.store.wal_bytes.unwrap_or_default() as f64, limits.wal as f64),
        "the write-ahead log has {} MiB; does another program hold the database open?", value as u64 >> 20;
    "ledger_mismatch", Critical, IMMEDIATE: holds(now.ledger_errors > 0, now.ledger_errors as f64),
        "the ledger does not add up; run r3mes-edge ledger verify, keep the file, and restore a good backup";
    "chain_halted", Critical, IMMEDIATE: holds(now.is_chain_halted, 1.0),
        "the chain answers but makes no new blocks";
    "clock_jump", Warning, IMMEDIATE: match now.clock_jump {
            None => FINE,
            Some(millis) => (true, millis as f64 / 1000.0, CLOCK_STEP),
        },
        "the clock was set {}; nothing expires by it until it has held for an hour: set it right, or run r3mes-edge db accept-clock if it is", clock_change(value);
    "backup_age", Warning, CONFIRMED: match now.backup {
            None => FINE,
            // A copy of it does not verify either.
            Some(_) if now.ledger_errors > 0 => None::<Condition>?,
            Some((every, last)) => above(now.age(last), (2 * every).as_secs_f64()),
        },
        "the last backup of the database is {:.0} hours old; the log has the reason", (value / 3600.0).floor();
    "miner_silent", Critical, CONFIRMED: above(now.silence()?, limits.miner_silent.as_secs_f64()),
        "the miner sent no sample for {:.0} {}; is it running, and can its page be reached?", if value < 120.0 { value } else { value / 60.0 }, if value < 120.0 { "s" } else { "min" };
    "shares_flat", Critical, CONFIRMED: shares_flat(now, limits)?,
        "the miner has a hashrate, but the pool accepts no share; check its connection to the pool and its settings";
    "hashrate_low", Warning, CONFIRMED: now.hashrates(limits).map(|(recent, day)| below(recent, day * limits.hashrate_low))?,
        "the hashrate is {value:.1}, far below its mean of the last day";
    "temperature", Warning, CONFIRMED: above(now.live_miner(limits)?.temperature?, limits.temperature),
        "the GPU has {value:.0} °C; check its fans and its power limit";
    "earnings_stopped", Warning, CONFIRMED: earnings_stopped(now, limits)?,
        "the miner earned nothing for {:.0} hours, and did in the week before", (value / 3600.0).floor();
    each "breaker_open", Critical, IMMEDIATE: now.unused_upstreams();
    each "upstream_failing", Warning, CONFIRMED: now.failing_upstreams(limits);
    each "inference_refused", Critical, CONFIRMED: now.misconfigured.iter().map(|name| (name.clone(), format!("{name} refuses what it is asked; see its last failure in /health, and check its key, address and model")));
    each "no_usage", Warning, CONFIRMED: now.without_usage.iter().map(|name| (name.clone(), format!("{name} reports no usage, so the tokens of its answers are estimated; is it up to date, and does nothing before it remove stream_options or usage?")));
}

/// Bad above a limit, if there are enough to judge by; fine at or below it, also where nothing was counted.
fn share(share: Share, limit: f64, is_enough: bool, is_explained: bool) -> Option<Condition> {
    let rate = share.rate();
    let is_known = if rate > limit {
        is_enough
    } else {
        !is_explained
    };
    is_known.then(|| above(rate, limit))
}

fn slow(window: &Window, which: usize) -> Option<Condition> {
    let slow = window.counts[which];
    share(
        slow,
        SLOW,
        slow.part >= ENOUGH_SLOW,
        window.explained[which],
    )
}

fn error_rate(window: &Window, limits: &AlertsConfig) -> Option<Condition> {
    let (errors, explained) = (window.errors(), window.explained);
    let is_explained = explained[STORAGE_ERRORS] || explained[UPSTREAM_ERRORS];
    share(
        errors,
        limits.error_rate,
        errors.all >= ENOUGH,
        is_explained,
    )
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
    // Unknown where the miner reports none, or none any more.
    let shares = miner
        .shares
        .filter(|shares| now.age(shares.until) <= limits.miner_silent.as_secs_f64())?;
    if shares.accepted > 0 {
        return Some(FINE);
    }
    // Without a hashrate none are expected, and a counter that was watched for less time proves nothing yet.
    let since = shares.since.max(miner.hashing_since?);
    (now.age(since) >= limits.shares_flat.as_secs_f64()).then_some(holds(true, 0.0))
}

fn earnings_stopped(now: &Snapshot, limits: &AlertsConfig) -> Option<Condition> {
    let (miner, period) = (
        now.live_miner(limits)?,
        limits.earnings_stopped.as_secs_f64(),
    );
    let (bad, value, threshold) = above(now.age(miner.last_earning?), period);
    // Another alert explains it, or it did not mine.
    let explained = now.is_chain_halted || shares_flat(now, limits).is_some_and(|(flat, ..)| flat);
    let expected = miner.mined_hours as f64 >= (period / 3600.0).floor() * MINED;
    (!bad || expected && !explained).then_some((bad, value, threshold))
}

/// Evaluates every rule; `window` is what was counted in the last five minutes.
pub(super) fn evaluate(now: &Snapshot, window: &Window, limits: &AlertsConfig) -> Vec<Finding> {
    let rules = RULES.iter();
    rules.flat_map(|rule| rule(now, window, limits)).collect()
}
