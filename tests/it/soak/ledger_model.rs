//! The records of the clients: acknowledged writes, latencies, errors and violations.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use r3mes_edge::error::ErrorCode;
use serde_json::Value;

use super::fault_injection::FaultSchedule;
use super::surroundings::SECRET;
use crate::support::Answer;

/// What is asked for, as the table counts it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Sample,
    Batch,
    Read,
    Public,
    Chain,
    Ledger,
    Key,
    Grant,
    Chat,
    /// By a client that disconnects or reads slowly.
    Left,
    Wrong,
}

impl Kind {
    pub(super) const ALL: [(Self, &'static str); 11] = [
        (Self::Sample, "samples"),
        (Self::Batch, "batches"),
        (Self::Read, "reads"),
        (Self::Public, "public"),
        (Self::Chain, "chain"),
        (Self::Ledger, "ledger"),
        (Self::Key, "keys"),
        (Self::Grant, "grants"),
        (Self::Chat, "chats"),
        (Self::Left, "left"),
        (Self::Wrong, "wrong"),
    ];

    const fn timed(self) -> Option<Timed> {
        match self {
            Self::Read | Self::Public | Self::Ledger => Some(Timed::Read),
            Self::Sample | Self::Batch | Self::Grant => Some(Timed::Write),
            Self::Chat => Some(Timed::FirstText),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timed {
    Read,
    Write,
    FirstText,
}

/// Microseconds each took.
#[derive(Default)]
pub(super) struct Times(Vec<u32>);

impl Times {
    /// Median and 99th percentile in milliseconds, as the table has them.
    pub(super) fn text(&mut self) -> String {
        self.0.sort_unstable();
        let at = |share: f64| {
            let rank = (self.0.len() as f64 * share) as usize;
            let time = self.0.get(rank.min(self.0.len().saturating_sub(1)));
            f64::from(time.copied().unwrap_or_default()) / 1000.0
        };
        format!("{:.1} / {:.1}", at(0.5), at(0.99))
    }
}

/// What happened since the last line of the table.
#[derive(Default)]
pub(super) struct Span {
    pub(super) asked: BTreeMap<Kind, u64>,
    pub(super) times: BTreeMap<Timed, Times>,
    /// By status and code.
    pub(super) refused: BTreeMap<String, u64>,
    /// The faults.
    pub(super) faults: Vec<String>,
}

/// A wallet, by the writes acknowledged to its client.
pub(super) struct Account {
    pub(super) wallet: String,
    pub(super) key: String,
    /// Credits.
    pub(super) granted: AtomicI64,
    /// Chats whose first text came, at one credit each: they are charged, whatever ended them.
    pub(super) paid: AtomicI64,
    /// Chats whose client left, or whose stream broke off, before a text came: they may be charged.
    pub(super) perhaps_paid: AtomicI64,
}

/// The samples of one miner, each of a moment of its own.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) wallet: String,
    /// From when on their moments are counted.
    pub(super) from: i64,
    pub(super) acknowledged: Mutex<Samples>,
}

/// A number of samples, distinguished by the sum of their moments.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Samples {
    pub(super) count: i64,
    pub(super) sum: i64,
    /// The newest's moment.
    pub(super) newest: i64,
}

impl Samples {
    /// The moments of the next ones: as close to now as each can have its own.
    pub(super) fn next(&self, count: i64, now: i64) -> std::ops::Range<i64> {
        let first = (now - count).max(self.newest + 1);
        first..first + count
    }

    pub(super) fn add(&mut self, moments: std::ops::Range<i64>) {
        self.count += moments.end - moments.start;
        self.newest = moments.end - 1;
        self.sum += moments.sum::<i64>();
    }
}

pub(super) struct LedgerModel {
    pub(super) faults: FaultSchedule,
    pub(super) accounts: Vec<Account>,
    pub(super) workers: Vec<Worker>,
    /// Since the last row of the table.
    pub(super) span: Mutex<Span>,
    /// Over the whole run: writes by what was wrong, refusals, requests.
    pub(super) writes: Mutex<BTreeMap<String, Times>>,
    pub(super) refused: Mutex<BTreeMap<String, u64>>,
    pub(super) asked: AtomicU64,
    pub(super) cut: AtomicU64,
    violations: Mutex<Vec<String>>,
    stop: AtomicBool,
    began: Instant,
}

impl LedgerModel {
    pub(super) fn new(accounts: Vec<Account>, workers: Vec<Worker>) -> Self {
        Self {
            faults: FaultSchedule::default(),
            accounts,
            workers,
            span: Mutex::default(),
            writes: Mutex::default(),
            refused: Mutex::default(),
            asked: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            violations: Mutex::default(),
            stop: AtomicBool::new(false),
            began: Instant::now(),
        }
    }

    /// Records a violation. The run continues: one violation may explain another.
    pub(super) fn violation(&self, what: impl std::fmt::Display) {
        const MOST: usize = 50;
        let at = self.began.elapsed().as_secs_f64();
        let mut violations = self.violations.lock().unwrap();
        if violations.len() < MOST {
            let violation = format!("{at:.1} s, {}: {what}", self.faults.now());
            println!("VIOLATION {violation}");
            violations.push(violation);
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(super) fn count(&self, kind: Kind) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut span = self.span.lock().unwrap();
        *span.asked.entry(kind).or_default() += 1;
    }

    pub(super) fn took(&self, kind: Kind, time: Duration) {
        let Some(timed) = kind.timed() else {
            return;
        };
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut span = self.span.lock().unwrap();
        span.times.entry(timed).or_default().0.push(micros);
        drop(span);
        if timed == Timed::Write {
            let mut writes = self.writes.lock().unwrap();
            writes.entry(self.faults.now()).or_default().0.push(micros);
        }
    }

    pub(super) fn refused(&self, status: u16, code: &str) {
        let name = format!("{status} {code}");
        let mut span = self.span.lock().unwrap();
        *span.refused.entry(name.clone()).or_default() += 1;
        drop(span);
        *self.refused.lock().unwrap().entry(name).or_default() += 1;
    }

    /// Holds a whole answer against the contract, and against what this client may expect: one of these statuses, or a
    /// refusal that something outside explains. Whether it was one of the statuses.
    pub(super) fn note(
        &self,
        method: &Method,
        path: &str,
        began: Instant,
        answer: &Answer,
        expected: &[u16],
    ) -> bool {
        let shaped = catch_unwind(AssertUnwindSafe(|| {
            answer.check_shape(*method == Method::HEAD);
            crate::openapi::check(method, path, answer);
        }));
        if shaped.is_err() {
            let body = String::from_utf8_lossy(&answer.body);
            let status = answer.status;
            self.violation(format!(
                "{method} {path} is no answer of ours: {status} {body}"
            ));
        }
        self.holds_no_secret(path, &answer.body);
        let as_expected = expected.contains(&answer.status);
        if answer.status < 400 {
            if !as_expected {
                self.violation(format!("{method} {path} was answered {}", answer.status));
            }
            return as_expected;
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let code = body["code"].as_str().unwrap_or_default();
        self.refused(answer.status, code);
        let named = ErrorCode::ALL
            .iter()
            .any(|known| (known.as_str(), known.status()) == (code, answer.status));
        // A fault of the server is never what a client expects, but from `/readyz`.
        let explained = self.faults.explains(method, path, code, began);
        if !named || !(as_expected || explained) {
            let took = began.elapsed();
            self.violation(format!(
                "{method} {path} was refused after {took:?}: {} {body}",
                answer.status
            ));
        }
        as_expected
    }

    /// No response to a client contains the internal text of an upstream.
    pub(super) fn holds_no_secret(&self, path: &str, body: &[u8]) {
        let leaked = body
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes());
        if leaked {
            self.violation(format!("{path} shows the text of an upstream"));
        }
    }
}
