//! The values that rules compare, at one moment.

use std::time::Duration;

use crate::config::AlertsConfig;
use crate::metrics::{
    AlertCounts, OWN_ERRORS, SHARES, SLOW_ANSWERS, SLOW_CHATS, STORAGE_ERRORS, Share,
    UPSTREAM_ERRORS,
};
use crate::model::Timestamp;
use crate::store::{Shares, StoreGauges};

/// The breaker of the miner on this machine.
const MINER: &str = "miner";
/// Free bytes below which a write that fails has no space.
const FULL: u64 = 64 << 20;

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
    /// The chain and the miner where they give no usable answer by a fault that no breaker counts, and why; the miner only if it
    /// never gave one, as its silence is watched too.
    pub(crate) failing_upstreams: Vec<(String, String)>,
    /// The inference servers whose last call failed by something that the operator has to mend.
    pub(crate) misconfigured: Vec<String>,
    /// The inference servers of adapters priced by tokens whose last answer had no usage.
    pub(crate) without_usage: Vec<String>,
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
    /// When the newest sample came, or the server started if that was later.
    pub(crate) newest: Option<Timestamp>,
    /// Whether that was of a miner whose page this server does not read.
    pub(crate) sends: bool,
    /// Since when its hashrate has been above 0, without a pause; at most as long ago as is needed.
    pub(crate) hashing_since: Option<Timestamp>,
    /// The mean of the last quarter of an hour, and of the last day.
    pub(crate) means: Option<(f64, f64)>,
    pub(crate) temperature: Option<f64>,
    pub(crate) shares: Option<Shares>,
    pub(crate) last_earning: Option<Timestamp>,
    /// How many of the last hours it had a hashrate, of those without which no earnings are expected.
    pub(crate) mined_hours: u64,
}

impl Snapshot {
    pub(super) fn age(&self, time: Timestamp) -> f64 {
        (self.time.millis() - time.millis()).max(0) as f64 / 1000.0
    }

    /// The age of the miner's newest sample; unknown while an operator keeps it from being read.
    pub(super) fn silence(&self) -> Option<f64> {
        let forced = |(name, forced): &(String, bool)| *forced && name == MINER;
        let newest = self.miner.as_ref()?.newest?;
        (!self.open_breakers.iter().any(forced)).then(|| self.age(newest))
    }

    /// The miner while it is not silent: its last samples describe no other time.
    pub(super) fn live_miner(&self, limits: &AlertsConfig) -> Option<&Miner> {
        let live = self.silence()? <= limits.miner_silent.as_secs_f64();
        self.miner.as_ref().filter(|_| live)
    }

    /// The hashrate of the last quarter of an hour, and of the last day; unknown where a part of it is not read.
    pub(super) fn hashrates(&self, limits: &AlertsConfig) -> Option<(f64, f64)> {
        let mut unused = self.open_breakers.iter().map(|(name, _)| name);
        let is_whole = !unused.any(|name| name == MINER);
        self.live_miner(limits)?.means.filter(|_| is_whole)
    }

    /// Whether writes fail as there is no space, which `disk_free` reports.
    pub(super) fn is_disk_full(&self, limits: &AlertsConfig) -> bool {
        let free = self.store.disk_free_bytes;
        free.is_some_and(|free| free < FULL.min(limits.disk_free as u64))
    }

    /// The upstreams that get no calls, and why. A miner that does not answer is silent, which is an alert of its own,
    /// unless others of its wallet are not.
    pub(super) fn unused_upstreams(&self) -> impl Iterator<Item = (String, String)> {
        let is_watched = self.silence().is_some() && self.miner.as_ref().is_some_and(|m| !m.sends);
        let unused = move |(name, forced): &(String, bool)| *forced || name != MINER || !is_watched;
        let unused = (self.open_breakers.iter()).filter(move |breaker| unused(breaker));
        unused.map(|(name, forced)| {
            let why = match forced {
                true => "an operator took it out of use",
                false => "its calls failed; is it running?",
            };
            (name.clone(), format!("{name} gets no calls: {why}"))
        })
    }

    /// The upstreams that give no usable answer, by a wrong address or token for instance, which no breaker counts.
    pub(super) fn failing_upstreams(
        &self,
        limits: &AlertsConfig,
    ) -> impl Iterator<Item = (String, String)> {
        let silence = self.silence().unwrap_or_default();
        let is_silent = silence > limits.miner_silent.as_secs_f64();
        let failing = self.failing_upstreams.iter();
        // One cause, one alert.
        let failing = failing.filter(move |(name, _)| name != MINER || !is_silent);
        failing.map(|(name, reason)| {
            let summary = format!(
                "{name} gives no usable answer: {reason}; are its address, kind and token right? The log has the details"
            );
            (name.clone(), summary)
        })
    }

    /// The counts that other alerts explain: `active` says whether one is about to fire, or has not ended.
    pub(super) fn explained(&self, active: impl Fn(&str) -> bool) -> [bool; SHARES] {
        let storage = !self.is_ready || active("storage_unavailable") || active("database_file");
        let reads = storage || active("pool_use");
        let upstreams = ["breaker_open", "upstream_failing", "inference_refused"];
        let upstreams = upstreams.into_iter().any(&active);
        let mut explained = [false; SHARES];
        explained[STORAGE_ERRORS] = storage;
        explained[UPSTREAM_ERRORS] = upstreams;
        explained[SLOW_ANSWERS] = reads;
        explained[SLOW_CHATS] = reads || active("response_time");
        explained
    }
}

/// What was counted in the last five minutes.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) counts: AlertCounts,
    /// Which of them another alert explains: these are counted anew from its end on.
    pub(super) explained: [bool; SHARES],
}

impl Window {
    /// All requests, and those that failed by a fault on this side.
    pub(super) fn errors(&self) -> Share {
        let kinds = [OWN_ERRORS, STORAGE_ERRORS, UPSTREAM_ERRORS];
        Share {
            part: kinds.map(|kind| self.counts[kind].part).iter().sum(),
            all: self.counts[OWN_ERRORS].all,
        }
    }
}
