//! Incidents: a condition becomes one after it held for a while, and ends after it was gone for a while. Each has at most two
//! messages, for its beginning and its end.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::Timestamp;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Severity {
    /// The operator should act soon.
    #[default]
    Warning,
    /// It costs users or money now.
    Critical,
}

/// A rule's verdict on one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Good,
    /// Neither bad enough to begin nor good enough to end (hysteresis).
    Between,
    Bad,
}

/// The rule, and where it watches several things, which of them.
type Key = (&'static str, Option<String>);

/// What one rule found in one snapshot.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// Begins without confirmation over time.
    pub(crate) immediate: bool,
    /// As it would be if it began now.
    pub(crate) alert: Alert,
}

/// An incident as clients and webhooks see it.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) severity: Severity,
    /// What is wrong and what to do.
    pub(crate) summary: String,
    pub(crate) value: f64,
    pub(crate) threshold: f64,
    pub(crate) since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_at: Option<Timestamp>,
}

impl Alert {
    fn key(&self) -> Key {
        (self.name, self.subject.clone())
    }
}

struct Incident {
    alert: Alert,
    is_firing: bool,
    /// Since when it has been bad, or while it is firing, good again.
    since: Option<Instant>,
}

/// The incidents that are open and the recent ones. It has no clock: the time is passed in.
#[derive(Default)]
pub(crate) struct IncidentTracker {
    open: BTreeMap<Key, Incident>,
    recent: VecDeque<Alert>,
    /// Messages to deliver, in order; at most two of each key.
    outbox: Vec<Alert>,
}

impl IncidentTracker {
    /// How many resolved incidents stay.
    const RECENT: usize = 50;

    /// Applies the findings of one moment; returns the incidents that began and ended. A key without a finding is good.
    pub(crate) fn update(
        &mut self,
        findings: &[Finding],
        now: Instant,
        time: Timestamp,
        confirm: Duration,
    ) -> Vec<Alert> {
        for finding in findings.iter().filter(|f| f.level == Level::Bad) {
            let begin = || Incident {
                alert: finding.alert.clone(),
                is_firing: false,
                since: Some(now),
            };
            self.open.entry(finding.alert.key()).or_insert_with(begin);
        }
        let mut changes = Vec::new();
        self.open.retain(|key, incident| {
            let finding = findings.iter().find(|f| f.alert.key() == *key);
            let level = finding.map_or(Level::Good, |finding| finding.level);
            if let Some(finding) = finding.filter(|_| level != Level::Good) {
                let since = incident.alert.since;
                incident.alert.clone_from(&finding.alert);
                incident.alert.since = since;
            }
            match (incident.is_firing, level) {
                (false, Level::Good) => return false,
                (false, Level::Between) => return true,
                (true, Level::Between | Level::Bad) => {
                    incident.since = None;
                    return true;
                }
                (false, Level::Bad) | (true, Level::Good) => {}
            }
            let since = *incident.since.get_or_insert(now);
            let immediate = !incident.is_firing && finding.is_some_and(|f| f.immediate);
            if now.saturating_duration_since(since) < confirm && !immediate {
                return true;
            }
            if incident.is_firing {
                incident.alert.resolved_at = Some(time);
                self.recent.push_front(incident.alert.clone());
            }
            changes.push(incident.alert.clone());
            incident.since = None;
            incident.is_firing = !incident.is_firing;
            incident.is_firing
        });
        self.recent.truncate(Self::RECENT);
        changes
    }

    pub(crate) fn firing(&self) -> Vec<Alert> {
        let firing = self.open.values().filter(|incident| incident.is_firing);
        firing.map(|incident| incident.alert.clone()).collect()
    }

    /// Resolved incidents, the last first.
    pub(crate) fn recent(&self) -> Vec<Alert> {
        self.recent.iter().cloned().collect()
    }

    /// Queues the message of a beginning or an end.
    pub(crate) fn enqueue(&mut self, alert: Alert) {
        // A beginning replaces what was not delivered of the incident before it.
        if alert.resolved_at.is_none() {
            self.outbox.retain(|queued| queued.key() != alert.key());
        }
        self.outbox.push(alert);
    }

    /// The next message to deliver.
    pub(crate) fn next_message(&self) -> Option<Alert> {
        self.outbox.first().cloned()
    }

    /// Records that a message was delivered.
    pub(crate) fn delivered(&mut self, alert: &Alert) {
        self.outbox.retain(|queued| queued != alert);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIRM: Duration = Duration::from_secs(60);

    fn finding(second: u64, level: Level, immediate: bool) -> Finding {
        let alert = Alert {
            name: "test",
            subject: None,
            severity: Severity::Warning,
            summary: "something".to_owned(),
            value: 2.0,
            threshold: 1.0,
            since: Timestamp::from_millis(second as i64 * 1000),
            resolved_at: None,
        };
        Finding {
            level,
            immediate,
            alert,
        }
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Good), Just(Level::Between), Just(Level::Bad)]
    }

    #[test]
    fn an_incident_begins_after_a_bad_minute_and_ends_after_a_good_one() {
        let (mut tracker, begin) = (IncidentTracker::default(), Instant::now());
        let mut changes = Vec::new();
        let mut at = |second: u64, level| {
            let now = begin + Duration::from_secs(second);
            let time = Timestamp::from_millis(second as i64 * 1000);
            for change in tracker.update(&[finding(second, level, false)], now, time, CONFIRM) {
                changes.push((second, change.resolved_at.is_some()));
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
        assert_eq!(changes, [(60, false), (160, true)]);
        assert_eq!(tracker.recent()[0].since, Timestamp::from_millis(0));
    }

    #[test]
    fn each_incident_has_two_messages_unless_the_next_began_before_they_were_delivered() {
        let mut tracker = IncidentTracker::default();
        let beginning = |second| finding(second, Level::Bad, false).alert;
        let end = |second| Alert {
            resolved_at: Some(Timestamp::from_millis(second as i64 * 1000 + 1000)),
            ..beginning(second)
        };
        tracker.enqueue(beginning(1));
        tracker.enqueue(end(1));
        // Both are delivered, in their order, although it is over already.
        for message in [beginning(1), end(1)] {
            assert_eq!(tracker.next_message(), Some(message.clone()));
            tracker.delivered(&message);
        }
        assert_eq!(tracker.next_message(), None);
        for second in [10, 20] {
            tracker.enqueue(beginning(second));
            tracker.enqueue(end(second));
        }
        tracker.enqueue(beginning(30));
        assert_eq!(tracker.next_message(), Some(beginning(30)));
    }

    proptest! {
        #[test]
        fn beginnings_and_ends_alternate_and_none_comes_before_it_is_confirmed(steps in prop::collection::vec((1u64..50, level()), 1..200), immediate in any::<bool>()) {
            let (mut tracker, begin) = (IncidentTracker::default(), Instant::now());
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
                let changes = tracker.update(&[finding(second, level, immediate)], now, time, CONFIRM);
                prop_assert!(changes.len() <= 1);
                let long = |since: Option<u64>| since.is_some_and(|since| second - since >= 60);
                let expected = if firing {
                    (level == Level::Good && long(good_since)).then_some(true)
                } else {
                    (level == Level::Bad && (immediate || long(bad_since))).then_some(false)
                };
                prop_assert_eq!(changes.first().map(|change| change.resolved_at.is_some()), expected);
                match expected {
                    Some(true) => (firing, bad_since, good_since) = (false, None, None),
                    Some(false) => firing = true,
                    None => {}
                }
                prop_assert_eq!(tracker.firing().len(), usize::from(firing));
            }
        }
    }
}
