//! The faults, their times, and the errors that they explain.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hyper::Method;

use crate::simulation::Random;

/// Something outside the server that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Nothing listens where the model was.
    ModelDown,
    /// The model does not answer, or sends each word slowly.
    ModelSlow,
    /// The model breaks off, before its first word or after it.
    ModelCut,
    /// The model answers with errors or invalid responses.
    ModelRubbish,
    /// Nothing listens where the chain was.
    ChainDown,
    /// Another process loads the disk.
    DiskBusy,
    /// No file can be written to beyond its first bytes.
    DiskRefuses,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::ModelDown,
        Self::ModelSlow,
        Self::ModelCut,
        Self::ModelRubbish,
        Self::ChainDown,
        Self::DiskBusy,
        Self::DiskRefuses,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ModelDown => "model down",
            Self::ModelSlow => "model slow",
            Self::ModelCut => "model cut",
            Self::ModelRubbish => "model rubbish",
            Self::ChainDown => "chain down",
            Self::DiskBusy => "disk busy",
            Self::DiskRefuses => "disk refuses",
        }
    }

    pub(super) const fn is_of_the_model(self) -> bool {
        matches!(
            self,
            Self::ModelDown | Self::ModelSlow | Self::ModelCut | Self::ModelRubbish
        )
    }

    /// The refusals with 5xx that it is the reason of.
    const fn codes(self) -> &'static [&'static str] {
        match self {
            Self::ModelDown | Self::ModelCut | Self::ChainDown => {
                &["upstream_bad_response", "circuit_open"]
            }
            Self::ModelSlow => &["upstream_timeout", "overloaded", "circuit_open"],
            // One of its answers is a 429.
            Self::ModelRubbish => &["upstream_bad_response", "overloaded", "circuit_open"],
            Self::DiskBusy => &["overloaded"],
            Self::DiskRefuses => &["storage_unavailable"],
        }
    }

    /// Whether it affects this kind of request. Reads succeed while writes fail.
    fn concerns(self, method: &Method, path: &str) -> bool {
        match self {
            Self::ChainDown => matches!(path, "/chain/status" | "/blocks"),
            Self::DiskBusy => true,
            Self::DiskRefuses => *method != Method::GET || path == "/readyz",
            _ => matches!(path, "/chat" | "/v1/chat/completions"),
        }
    }
}

/// A fault from its beginning until the server has recovered.
struct FaultPeriod {
    fault: Fault,
    over: Option<Instant>,
}

/// The faults so far.
#[derive(Default)]
pub(super) struct FaultSchedule(Mutex<Vec<FaultPeriod>>);

impl FaultSchedule {
    pub(super) fn begin(&self, fault: Fault) {
        self.0
            .lock()
            .unwrap()
            .push(FaultPeriod { fault, over: None });
    }

    /// Marks every current fault as over.
    pub(super) fn clear_up(&self) {
        for period in self.0.lock().unwrap().iter_mut() {
            period.over = period.over.or_else(|| Some(Instant::now()));
        }
    }

    /// The current faults as a text.
    pub(super) fn now(&self) -> String {
        let periods = self.0.lock().unwrap();
        let now = periods.iter().filter(|period| period.over.is_none());
        let names: Vec<_> = now.map(|period| period.fault.name()).collect();
        match names.is_empty() {
            true => "calm".to_owned(),
            false => names.join(" + "),
        }
    }

    /// Whether a fault that matches was active at `began` or since.
    pub(super) fn was(&self, began: Instant, is: impl Fn(Fault) -> bool) -> bool {
        let periods = self.0.lock().unwrap();
        periods
            .iter()
            .any(|period| period.over.is_none_or(|over| over >= began) && is(period.fault))
    }

    /// Whether a fault explains an error with this code of a request that began then.
    pub(super) fn explains(&self, method: &Method, path: &str, code: &str, began: Instant) -> bool {
        let path = path.split('?').next().unwrap();
        self.was(began, |fault| {
            fault.codes().contains(&code) && fault.concerns(method, path)
        })
    }

    /// Whether a fault explains a logged error.
    pub(super) fn explains_line(&self, line: &str, began: Instant) -> bool {
        const STORAGE: [&str; 5] = [
            "storage fault, rejecting writes",
            // A copy was made as the fault began.
            "not in the audit trail: ",
            "a group of ",
            " were not charged: ",
            " is not reversed yet: ",
        ];
        self.was(began, |fault| {
            let refused = fault.codes().iter().any(|code| {
                // As the pipeline writes it, behind the request's id.
                line.contains(&format!(" {code}: "))
            });
            let is_storage = STORAGE.iter().any(|words| line.contains(words));
            refused || (fault == Fault::DiskRefuses && is_storage)
        })
    }
}

/// What goes wrong next: each fault once in every seven turns, in an order of its own; from the second seven on sometimes
/// with another one.
pub(super) struct FaultPlan {
    random: Random,
    coming: Vec<Fault>,
    turns: usize,
}

impl FaultPlan {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            coming: Vec::new(),
            turns: 0,
        }
    }

    pub(super) fn next(&mut self) -> Vec<Fault> {
        if self.coming.is_empty() {
            let mut left = Fault::ALL.to_vec();
            while !left.is_empty() {
                let at = self.random.below(left.len() as u64) as usize;
                self.coming.push(left.swap_remove(at));
            }
        }
        self.turns += 1;
        let mut faults: Vec<_> = self.coming.pop().into_iter().collect();
        let another = Fault::ALL[self.random.below(Fault::ALL.len() as u64) as usize];
        let fits = faults.iter().all(|fault| {
            *fault != another && !(fault.is_of_the_model() && another.is_of_the_model())
        });
        if self.turns > Fault::ALL.len() && fits && self.random.below(3) == 0 {
            faults.push(another);
        }
        faults
    }

    /// Between half of `about` and one and a half.
    pub(super) fn time(&mut self, about: Duration) -> Duration {
        about / 2 + Duration::from_micros(self.random.below(about.as_micros() as u64))
    }
}
