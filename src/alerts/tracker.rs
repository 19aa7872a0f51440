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

/// The rule, and where it watches several things, which of them.
type Key = (&'static str, Option<String>);

/// What a rule found in one snapshot: that something is wrong, or that this is unknown.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Finding {
    /// Begins without confirmation over time.
    pub(crate) immediate: bool,
    /// Else no incident begins or ends.
    pub(crate) is_known: bool,
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
    /// Since when it is to begin, or while it is firing, to end.
    since: Option<Instant>,
}

/// The incidents that are open and the recent ones. It has no clock: the time is passed in.
#[derive(Default)]
pub(crate) struct IncidentTracker {
    open: BTreeMap<Key, Incident>,
    recent: VecDeque<Alert>,
    /// Messages to deliver, in order; at most two of each key.
    pub(crate) outbox: Vec<Alert>,
}

impl IncidentTracker {
    /// How many resolved incidents stay.
    const RECENT: usize = 50;

    /// Applies the findings of one moment, of which what is fine has none; returns the incidents that began and ended.
    pub(crate) fn update(
        &mut self,
        findings: &[Finding],
        now: Instant,
        time: Timestamp,
        confirm: Duration,
    ) -> Vec<Alert> {
        for Finding { alert, .. } in findings.iter().filter(|finding| finding.is_known) {
            let begin = || Incident {
                alert: alert.clone(),
                is_firing: false,
                since: None,
            };
            self.open.entry(alert.key()).or_insert_with(begin);
        }
        let mut changes = Vec::new();
        self.open.retain(|key, incident| {
            let finding = findings.iter().find(|f| f.alert.key() == *key);
            if finding.is_some_and(|finding| !finding.is_known) {
                incident.since = None;
                return incident.is_firing;
            }
            if let Some(finding) = finding {
                let since = incident.alert.since;
                incident.alert.clone_from(&finding.alert);
                incident.alert.since = since;
            }
            if finding.is_some() == incident.is_firing {
                incident.since = None;
                return incident.is_firing;
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

    /// Whether this alert fires, of whatever subject.
    pub(crate) fn is_firing(&self, name: &str) -> bool {
        let mut open = self.open.values();
        open.any(|incident| incident.is_firing && incident.alert.name == name)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIRM: Duration = Duration::from_secs(60);

    fn finding(second: u64, immediate: bool) -> Finding {
        let alert = Alert {
            name: "test",
            summary: "something".to_owned(),
            value: 2.0,
            threshold: 1.0,
            since: Timestamp::from_millis(second as i64 * 1000),
            ..Alert::default()
        };
        Finding {
            immediate,
            is_known: true,
            alert,
        }
    }

    /// The findings of a moment when something is wrong, or not.
    fn findings(second: u64, bad: bool, immediate: bool) -> Vec<Finding> {
        let found = bad.then(|| finding(second, immediate));
        found.into_iter().collect()
    }

    #[test]
    fn an_incident_begins_after_a_bad_minute_and_ends_after_a_good_one() {
        let (mut tracker, begin) = (IncidentTracker::default(), Instant::now());
        let mut changes = Vec::new();
        let mut at = |second: u64, bad| {
            let now = begin + Duration::from_secs(second);
            let time = Timestamp::from_millis(second as i64 * 1000);
            for change in tracker.update(&findings(second, bad, false), now, time, CONFIRM) {
                changes.push((second, change.resolved_at.is_some()));
            }
        };
        at(0, true);
        at(59, true);
        at(60, true);
        at(70, false);
        at(90, true);
        at(100, false);
        at(159, false);
        at(160, false);
        at(161, false);
        assert_eq!(changes, [(60, false), (160, true)]);
        assert_eq!(tracker.recent()[0].since, Timestamp::from_millis(0));
    }

    #[test]
    fn what_is_unknown_begins_and_ends_no_incident() {
        let (mut tracker, begin) = (IncidentTracker::default(), Instant::now());
        let mut at = |second: u64, state: Option<bool>| {
            let now = begin + Duration::from_secs(second);
            let mut found = findings(second, state != Some(false), false);
            for finding in &mut found {
                finding.is_known = state.is_some();
            }
            tracker.update(&found, now, Timestamp::from_millis(0), CONFIRM);
            tracker.is_firing("test")
        };
        assert!(!at(0, None) && !at(70, None));
        // A bad minute with a gap in it is none.
        assert!(!at(80, Some(true)) && !at(110, None) && !at(145, Some(true)));
        assert!(at(205, Some(true)));
        assert!(at(300, None) && at(900, None));
        assert!(at(905, Some(false)) && at(930, None) && at(970, Some(false)));
        assert!(!at(1030, Some(false)));
    }

    #[test]
    fn each_incident_has_two_messages_unless_the_next_began_before_they_were_delivered() {
        let mut tracker = IncidentTracker::default();
        let beginning = |second| finding(second, false).alert;
        let end = |second| Alert {
            resolved_at: Some(Timestamp::from_millis(second as i64 * 1000 + 1000)),
            ..beginning(second)
        };
        tracker.enqueue(beginning(1));
        tracker.enqueue(end(1));
        // Both are delivered, in their order, although it is over already.
        for message in [beginning(1), end(1)] {
            assert_eq!(tracker.outbox.remove(0), message);
        }
        assert!(tracker.outbox.is_empty());
        for second in [10, 20] {
            tracker.enqueue(beginning(second));
            tracker.enqueue(end(second));
        }
        tracker.enqueue(beginning(30));
        assert_eq!(tracker.outbox, [beginning(30)]);
    }

    proptest! {
        #[test]
        fn beginnings_and_ends_alternate_and_none_comes_before_it_is_confirmed(steps in prop::collection::vec((1u64..50, any::<bool>()), 1..200), immediate in any::<bool>()) {
            let (mut tracker, begin) = (IncidentTracker::default(), Instant::now());
            let (mut second, mut firing) = (0, false);
            // Since when it has been wrong without a good moment, and good without another.
            let (mut bad_since, mut good_since) = (None, None);
            for (pause, bad) in steps {
                second += pause;
                if bad {
                    bad_since.get_or_insert(second);
                    good_since = None;
                } else {
                    good_since.get_or_insert(second);
                    bad_since = None;
                }
                let now = begin + Duration::from_secs(second);
                let time = Timestamp::from_millis(second as i64 * 1000);
                let changes = tracker.update(&findings(second, bad, immediate), now, time, CONFIRM);
                prop_assert!(changes.len() <= 1);
                let long = |since: Option<u64>| since.is_some_and(|since| second - since >= 60);
                let expected = if firing {
                    (!bad && long(good_since)).then_some(true)
                } else {
                    (bad && (immediate || long(bad_since))).then_some(false)
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
