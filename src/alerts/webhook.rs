//! Posts an alert to the webhook, as JSON, for Slack, for Discord, or for ntfy.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Uri};
use serde_json::json;
use zeroize::Zeroizing;

use super::tracker::{Alert, Severity};
use crate::config::WebhookKind;
use crate::model::Timestamp;
use crate::upstream::{HttpClient, first_line, unusable};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Posts one alert to the address in `file`. The error never holds the address, which is a secret.
pub(super) async fn deliver(
    file: &Path,
    kind: WebhookKind,
    alert: &Alert,
    node: &str,
    at: Timestamp,
) -> Result<(), String> {
    // Read each time, so that a new address needs no restart; it is a line of a local file.
    let address = address(file).map_err(|what| format!("webhook_file {what}"))?;
    let request = message(&address, kind, alert, node, at)?;
    // A new one each time: messages are rare, and most servers have none to send.
    let client = HttpClient::new(&address, None).map_err(|(_, what)| what)?;
    let answer = client.fetch(request, TIMEOUT).await;
    answer.map(drop).map_err(|error| error.to_string())
}

/// The address in the first line of a file. The error does not hold it.
pub(super) fn address(file: &Path) -> Result<Zeroizing<String>, String> {
    let address = first_line(file).map_err(|error| unusable(file, &error))?;
    match address.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(address),
        _ => Err(format!(
            "{}: its first line must be the webhook's http:// or https:// address",
            file.display()
        )),
    }
}

fn message(
    address: &str,
    kind: WebhookKind,
    alert: &Alert,
    node: &str,
    at: Timestamp,
) -> Result<Request<Full<Bytes>>, String> {
    let resolved = alert.resolved_at.is_some();
    let (status, was, tag) = match resolved {
        true => ("resolved", "it was ", "white_check_mark"),
        false => ("firing", "", "warning"),
    };
    let subject = alert.subject.as_ref().map(|name| format!(" {name}"));
    let subject = subject.unwrap_or_default();
    let title = format!("{node}: {}{subject} {status}", alert.name);
    let line = format!("{title}: {was}{}", alert.summary);
    let mut request = Request::post(address);
    let mut content_type = "application/json";
    let body = match kind {
        WebhookKind::Slack => json!({ "text": line }).to_string(),
        WebhookKind::Discord => json!({ "content": line }).to_string(),
        WebhookKind::Json => json!({
            "status": status, "name": alert.name, "subject": alert.subject, "severity": alert.severity,
            "summary": alert.summary, "value": alert.value, "threshold": alert.threshold,
            "since": alert.since, "at": at, "node": node,
        })
        .to_string(),
        WebhookKind::Ntfy => {
            let urgent = !resolved && alert.severity == Severity::Critical;
            let priority = if urgent { "5" } else { "3" };
            content_type = "text/plain; charset=utf-8";
            request = request.header("Title", title).header("Priority", priority).header("Tags", tag);
            alert.summary.clone()
        }
    };
    let request = request.header(CONTENT_TYPE, content_type).body(body.into());
    request.map_err(|_| "the first line of webhook_file is not an address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_repeat_the_address() {
        let since = Timestamp::from_millis(1);
        let alert = Alert {
            name: "test",
            subject: None,
            severity: Severity::Critical,
            summary: "something".to_owned(),
            value: 2.0,
            threshold: 1.0,
            since,
            resolved_at: None,
        };
        let address = "http://a b/secret";
        let refused = message(address, WebhookKind::Json, &alert, "node", since);
        assert!(!refused.unwrap_err().contains("secret"));
    }
}
