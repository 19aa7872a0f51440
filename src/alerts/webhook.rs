//! Tells a webhook of alerts: the beginning and the end of each incident, until it was heard, never in a request's way.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;

use super::book::{Alert, Key, Severity};
use crate::config::WebhookKind;
use crate::model::Timestamp;
use crate::upstream::HttpClient;

/// What waits to be told, by alert. Bounded: by the number of alerts there can be, and two for each.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<Key, VecDeque<Alert>>,
    told: BTreeMap<Key, Instant>,
}

impl Outbox {
    /// A new incident of an alert is told this long after its last message at the earliest.
    const PAUSE: Duration = Duration::from_secs(60);

    pub(super) fn put(&mut self, alert: Alert) {
        let key = (alert.name, alert.subject.clone());
        let waiting = self.waiting.entry(key).or_default();
        waiting.push_back(alert);
        if waiting.len() > 2 {
            // Of an incident that began and ended before anybody could be told, nobody needs to hear.
            waiting.drain(..2);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next to tell, if there is one.
    pub(super) fn next(&self, now: Instant) -> Option<(Key, Alert)> {
        let due = |key: &Key, alert: &Alert| {
            let told = self.told.get(key);
            alert.resolved_at.is_some()
                || told.is_none_or(|told| now.saturating_duration_since(*told) >= Self::PAUSE)
        };
        let fronts = self
            .waiting
            .iter()
            .filter_map(|(key, waiting)| Some((key, waiting.front()?)));
        let mut due = fronts.filter(|(key, alert)| due(key, alert));
        due.next().map(|(key, alert)| (key.clone(), alert.clone()))
    }

    /// It was heard.
    pub(super) fn heard(&mut self, key: &Key, alert: &Alert, now: Instant) {
        self.told.insert(key.clone(), now);
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.retain(|other| {
                (other.since, other.resolved_at) != (alert.since, alert.resolved_at)
            });
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }
}

/// Tells one alert to the address in `file`. The error never holds the address, which is a secret.
pub(super) async fn tell(
    client: &HttpClient,
    file: &Path,
    kind: WebhookKind,
    alert: &Alert,
    node: &str,
    at: Timestamp,
) -> Result<(), String> {
    let address = address(file).await?;
    let request = message(&address, kind, alert, node, at)?;
    match client
        .fetch(request, Duration::from_secs(10), 64 << 10)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Read each time, so that a new address needs no restart.
async fn address(file: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    let text = read.await.map_err(|error| error.to_string())?;
    let text = text.map(zeroize::Zeroizing::new);
    let text = text.map_err(|error| format!("webhook_file {}: {error}", file.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}

fn message(
    address: &str,
    kind: WebhookKind,
    alert: &Alert,
    node: &str,
    at: Timestamp,
) -> Result<Request<Full<Bytes>>, String> {
    let resolved = alert.resolved_at.is_some();
    let status = if resolved { "resolved" } else { "firing" };
    let subject = alert.subject.as_ref().map(|subject| format!(" {subject}"));
    let name = format!("{}{}", alert.name, subject.unwrap_or_default());
    let title = format!("{node}: {name} {status}");
    let line = match resolved {
        false => format!("{title}: {}", alert.summary),
        true => format!("{title}: it was {}", alert.summary),
    };
    let json = |body: serde_json::Value| {
        (
            HeaderValue::from_static("application/json"),
            body.to_string(),
        )
    };
    let (media_type, body) = match kind {
        WebhookKind::Json => json(json!({
            "status": status, "name": alert.name, "subject": alert.subject, "severity": alert.severity,
            "summary": alert.summary, "value": alert.value, "threshold": alert.threshold,
            "since": alert.since, "at": at, "node": node,
        })),
        WebhookKind::Slack => json(json!({ "text": line })),
        WebhookKind::Discord => json(json!({ "content": line })),
        WebhookKind::Ntfy => (
            HeaderValue::from_static("text/plain; charset=utf-8"),
            alert.summary.clone(),
        ),
    };
    let mut request = Request::post(address).header(CONTENT_TYPE, media_type);
    if kind == WebhookKind::Ntfy {
        let urgent = !resolved && alert.severity == Severity::Critical;
        request = request
            .header("Title", title)
            .header("Priority", if urgent { "5" } else { "3" })
            .header(
                "Tags",
                if resolved {
                    "white_check_mark"
                } else {
                    "warning"
                },
            );
    }
    request
        .body(Full::from(body))
        .map_err(|_| "the first line of webhook_file is no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(since: i64, resolved: Option<i64>) -> Alert {
        Alert {
            name: "test",
            subject: None,
            severity: Severity::Critical,
            summary: "something".to_owned(),
            value: 2.0,
            threshold: 1.0,
            since: Timestamp::from_millis(since),
            resolved_at: resolved.map(Timestamp::from_millis),
        }
    }

    #[test]
    fn each_incident_is_told_with_its_end_and_one_that_came_and_went_unheard_is_left_out() {
        let (mut outbox, begin) = (Outbox::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        outbox.put(alert(1, None));
        let (key, first) = outbox.next(begin).unwrap();
        outbox.heard(&key, &first, begin);
        assert!(outbox.next(after(100)).is_none());
        outbox.put(alert(1, Some(2)));
        let (_, end) = outbox.next(after(1)).unwrap();
        outbox.heard(&key, &end, after(1));
        for incident in [10, 20] {
            outbox.put(alert(incident, None));
            // Too soon after the last message, and then over before it may be told.
            assert!(outbox.next(after(30)).is_none());
            outbox.put(alert(incident, Some(incident + 1)));
        }
        outbox.put(alert(30, None));
        assert_eq!(outbox.next(after(61)).unwrap().1, alert(30, None));
    }

    #[test]
    fn an_address_that_is_none_is_not_repeated() {
        let alert = alert(1, None);
        let told = message(
            "http://a b/secret",
            WebhookKind::Json,
            &alert,
            "node",
            alert.since,
        );
        assert!(!told.unwrap_err().contains("secret"));
    }
}
