use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::Timestamp;

/// How grave it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Severity {
    /// Somebody should look at it soon.
    Warning,
    /// Users or money feel it now.
    Critical,
}

impl Severity {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What a rule makes of the figures of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Good,
    /// Neither wrong enough to begin nor right enough to end (hysteresis).
    Between,
    Bad,
}

/// Which alert: the rule, and where it watches several things, which of them.
pub(crate) type Key = (&'static str, Option<String>);

/// One rule's word on one moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Finding {
    pub(crate) key: Key,
    pub(crate) severity: Severity,
    pub(crate) level: Level,
    /// What is wrong and what to do.
    pub(crate) summary: String,
    pub(crate) value: f64,
    pub(crate) threshold: f64,
    /// Said as soon as it is so, and not only once it was so for a while.
    pub(crate) at_once: bool,
}

/// An incident as clients and webhooks see it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) value: f64,
    pub(crate) threshold: f64,
    pub(crate) since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_at: Option<Timestamp>,
}

enum Phase {
    /// Wrong, but not for long enough.
    Pending(Instant),
    /// Told; since when it has been right again, if it is.
    Firing(Option<Instant>),
}

struct Entry {
    alert: Alert,
    phase: Phase,
}

/// The incidents that are open and those that were lately. Knows no clock: the time is handed in.
#[derive(Default)]
pub(crate) struct IncidentTracker {
    open: BTreeMap<Key, Entry>,
    recent: VecDeque<Alert>,
}

impl IncidentTracker {
    /// Resolved incidents that are kept.
    const RECENT: usize = 50;

    /// Takes the findings of one moment; what began and what ended by them. A rule without a finding has nothing to
    /// complain of.
    pub(crate) fn update(
        &mut self,
        findings: &[Finding],
        now: Instant,
        time: Timestamp,
        confirm: Duration,
    ) -> Vec<Alert> {
        let mut changes = Vec::new();
        for finding in findings {
            if finding.level == Level::Bad {
                self.open
                    .entry(finding.key.clone())
                    .or_insert_with(|| Entry {
                        alert: Alert {
                            name: finding.key.0,
                            subject: finding.key.1.clone(),
                            severity: finding.severity,
                            summary: String::new(),
                            value: 0.0,
                            threshold: 0.0,
                            since: time,
                            resolved_at: None,
                        },
                        phase: Phase::Pending(now),
                    });
            }
        }
        let mut over = Vec::new();
        for (key, entry) in &mut self.open {
            let finding = findings.iter().find(|finding| finding.key == *key);
            if let Some(finding) = finding.filter(|finding| finding.level != Level::Good) {
                entry.alert.summary.clone_from(&finding.summary);
                entry.alert.value = finding.value;
                entry.alert.threshold = finding.threshold;
            }
            let level = finding.map_or(Level::Good, |finding| finding.level);
            let at_once = finding.is_none_or(|finding| finding.at_once);
            let long = |since: Instant| at_once || now.saturating_duration_since(since) >= confirm;
            match (&mut entry.phase, level) {
                (Phase::Pending(since), Level::Bad) => {
                    if long(*since) {
                        entry.phase = Phase::Firing(None);
                        changes.push(entry.alert.clone());
                    }
                }
                (Phase::Pending(_), Level::Good) => over.push(key.clone()),
                (Phase::Pending(_), Level::Between) => {}
                (Phase::Firing(right), Level::Good) => {
                    if long(*right.get_or_insert(now)) {
                        entry.alert.resolved_at = Some(time);
                        changes.push(entry.alert.clone());
                        over.push(key.clone());
                    }
                }
                (Phase::Firing(right), Level::Between | Level::Bad) => *right = None,
            }
        }
        for key in over {
            if let Some(entry) = self.open.remove(&key)
                && entry.alert.resolved_at.is_some()
            {
                self.recent.push_front(entry.alert);
                self.recent.truncate(Self::RECENT);
            }
        }
        changes
    }

    /// What is wrong now.
    pub(crate) fn firing(&self) -> Vec<Alert> {
        let firing = self.open.values();
        firing
            .filter(|entry| matches!(entry.phase, Phase::Firing(_)))
            .map(|entry| entry.alert.clone())
            .collect()
    }

    /// What was wrong, the last first.
    pub(crate) fn recent(&self) -> Vec<Alert> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIRM: Duration = Duration::from_secs(60);

    fn finding(level: Level, at_once: bool) -> Finding {
        Finding {
            key: ("test", None),
            severity: Severity::Warning,
            level,
            summary: "something".to_owned(),
            value: 2.0,
            threshold: 1.0,
            at_once,
        }
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Good), Just(Level::Between), Just(Level::Bad)]
    }

    #[test]
    fn what_is_wrong_for_a_minute_is_told_once_and_its_end_after_a_minute() {
        let (mut book, begin) = (IncidentTracker::default(), Instant::now());
        let mut told = Vec::new();
        let mut at = |second: u64, level| {
            let now = begin + Duration::from_secs(second);
            let time = Timestamp::from_millis(second as i64 * 1000);
            for change in book.update(&[finding(level, false)], now, time, CONFIRM) {
                told.push((second, change.resolved_at.is_some()));
            }
        };
        at(0, Level::Bad);
        at(59, Level::Bad);
        at(60, Level::Bad);
        at(70, Level::Good);
        at(90, Level::Between);
        at(100, Level::Good);
        at(159, Level::Good);
        at(160, Level::Good);
        at(161, Level::Good);
        assert_eq!(told, [(60, false), (160, true)]);
        assert_eq!(book.recent()[0].since, Timestamp::from_millis(0));
    }

    proptest! {
        #[test]
        fn beginnings_and_ends_alternate_and_none_comes_before_it_is_confirmed(steps in prop::collection::vec((1u64..50, level()), 1..200), at_once in any::<bool>()) {
            let (mut book, begin) = (IncidentTracker::default(), Instant::now());
            let (mut second, mut firing) = (0, false);
            // Since when it has been wrong without a good moment, and good without another.
            let (mut bad_since, mut good_since) = (None, None);
            for (pause, level) in steps {
                second += pause;
                match level {
                    Level::Bad => {
                        bad_since.get_or_insert(second);
                        good_since = None;
                    }
                    Level::Between => good_since = None,
                    Level::Good => {
                        good_since.get_or_insert(second);
                        if !firing {
                            bad_since = None;
                        }
                    }
                }
                let now = begin + Duration::from_secs(second);
                let time = Timestamp::from_millis(second as i64 * 1000);
                let changes = book.update(&[finding(level, at_once)], now, time, CONFIRM);
                prop_assert!(changes.len() <= 1);
                let long = |since: Option<u64>| since.is_some_and(|since| at_once || second - since >= 60);
                let expected = if firing {
                    (level == Level::Good && long(good_since)).then_some(true)
                } else {
                    (level == Level::Bad && long(bad_since)).then_some(false)
                };
                prop_assert_eq!(changes.first().map(|change| change.resolved_at.is_some()), expected);
                match expected {
                    Some(true) => (firing, bad_since, good_since) = (false, None, None),
                    Some(false) => firing = true,
                    None => {}
                }
                prop_assert_eq!(book.firing().len(), usize::from(firing));
            }
        }
    }
}
