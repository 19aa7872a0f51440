//! Clients that chat and read their responses to the end.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::clients::Client;
use super::fault_injection::Fault;
use super::ledger_model::Kind;
use super::surroundings::{TALE, reply};
use crate::support::{Answer, next_text};

/// A text in every chat that must not appear in the log.
pub(super) const PRIVATE: &str = "between you and me";

/// The form of a chat request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text,
    Events,
}

impl Form {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Text => "/chat",
            Self::Events => "/v1/chat/completions",
        }
    }

    pub(super) fn body(self, message: &str) -> String {
        let message = format!("{message}, {PRIVATE}");
        match self {
            Self::Text => json!({ "message": message }),
            Self::Events => {
                let messages = json!([{ "role": "user", "content": message }]);
                json!({ "stream": true, "messages": messages })
            }
        }
        .to_string()
    }
}

impl Client {
    /// Pays for its chats, and is granted credits when its balance is empty.
    pub(super) async fn chat(mut self) {
        let whose = self.number % self.model.accounts.len();
        while self.go_on().await {
            let status = match self.random.below(5) {
                0 => self.complete().await,
                1 => self.stream(Form::Text, TALE).await,
                2 => self.stream(Form::Events, "how are you").await,
                _ => self.stream(Form::Text, "how are you").await,
            };
            if status == 402 {
                let id = format!("more-{}-{}", self.name, self.turn);
                let admin = self.admin.clone();
                self.give(&admin, whose, &id).await;
            }
        }
    }

    /// A completion that is not streamed, and its replay, which must be free.
    async fn complete(&self) -> u16 {
        let id = format!("{}-{}", self.name, self.turn);
        let header = [("idempotency-key", id.as_str())];
        let message = format!("how are you, {PRIVATE}");
        let messages = json!([{ "role": "user", "content": message }]);
        let body = json!({ "messages": messages }).to_string();
        let path = "/v1/chat/completions";
        let ask = |expected| {
            let asked = (Method::POST, path);
            self.ask(
                &self.caller,
                Kind::Chat,
                asked,
                &header,
                body.clone(),
                expected,
            )
        };
        let Some(first) = ask(&[200, 402]).await else {
            return 0;
        };
        if first.status == 200 {
            self.account().paid.fetch_add(1, Ordering::SeqCst);
            if let Some(again) = ask(&[200]).await {
                self.compare(&id, &first, &again);
            }
        }
        first.status
    }

    /// A replay is identical and free: an answer that came was stored with its charge.
    fn compare(&self, id: &str, first: &Answer, again: &Answer) {
        if again.header("idempotency-replayed") != "true" {
            self.account().paid.fetch_add(1, Ordering::SeqCst);
            self.model.violation(format!("{id} was not stored"));
        } else if again.body != first.body {
            self.model.violation(format!("{id} was answered otherwise"));
        }
    }

    /// Reads a stream; returns the status.
    async fn stream(&self, form: Form, message: &str) -> u16 {
        let (began, path) = (Instant::now(), form.path());
        self.model.count(Kind::Chat);
        let opened = self
            .caller
            .try_open(Method::POST, path, &[], form.body(message))
            .await;
        let Some((status, headers, mut body)) = opened else {
            self.model.violation(format!("{path} was not answered"));
            return 0;
        };
        if status != 200 {
            let (head, asked) = ((status, headers), (&Method::POST, path));
            self.whole(Kind::Chat, asked, began, head, body, &[402])
                .await;
            return status;
        }
        let first = next_text(&mut body).await;
        self.model.took(Kind::Chat, began.elapsed());
        match first {
            Some(Ok(text)) => {
                self.account().paid.fetch_add(1, Ordering::SeqCst);
                self.hear(form, message, began, text, body).await;
            }
            Some(Err(_)) => {
                self.account().perhaps_paid.fetch_add(1, Ordering::SeqCst);
                self.cut_short(path, began);
            }
            None => self.model.violation(format!("{path} ended without a text")),
        }
        status
    }

    async fn hear(
        &self,
        form: Form,
        message: &str,
        began: Instant,
        mut text: String,
        mut body: Incoming,
    ) {
        let path = form.path();
        loop {
            match next_text(&mut body).await {
                Some(Ok(more)) => text += &more,
                Some(Err(_)) => {
                    self.model.holds_no_secret(path, text.as_bytes());
                    return self.cut_short(path, began);
                }
                None => break,
            }
        }
        self.model.holds_no_secret(path, text.as_bytes());
        let said = match form {
            Form::Text => text.strip_suffix('\n').map(str::to_owned),
            Form::Events => text
                .strip_suffix("data: [DONE]\n\n")
                .map(|events| events.split_terminator("\n\n").map(word).collect()),
        };
        if said.as_deref() != Some(&*reply(message)) {
            let end = text.chars().rev().take(80).collect::<Vec<_>>();
            let end: String = end.into_iter().rev().collect();
            self.model
                .violation(format!("{path} ended cleanly with {end:?}"));
        }
    }

    /// A stream that was aborted: a violation unless the model had a fault, or its charge could not be written.
    fn cut_short(&self, path: &str, began: Instant) {
        self.model.cut.fetch_add(1, Ordering::Relaxed);
        self.model.refused(200, "cut");
        let explained = self.model.faults.was(began, |fault| {
            fault.is_of_the_model() || fault == Fault::DiskRefuses
        });
        if !explained {
            self.model.violation(format!("{path} broke off"));
        }
    }
}

/// The text in an event of a stream.
fn word(event: &str) -> String {
    let data = event.strip_prefix("data: ").unwrap_or_default();
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let word = event["choices"][0]["delta"]["content"].as_str();
    word.unwrap_or_default().to_owned()
}
