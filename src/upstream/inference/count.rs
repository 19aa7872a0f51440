//! How many tokens a prompt has, by the server that is to answer it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::SERVER;
use serde_json::Value;

use super::api::Api;
use super::models::Models;
use super::refusal::{Meaning, Refusal};
use super::{InferenceRequest, Node, Prompt, openai};
use crate::config::InferenceKind;
use crate::upstream::UpstreamError;

/// Where servers count the prompts of an API, and the member of their answer. All of them render the template as for an answer:
/// llama.cpp with the whole request, vLLM and SGLang with its messages, tools and `chat_template_kwargs`.
const ROUTES: [(Api, &str, &str); 4] = [
    (
        Api::ChatCompletions,
        "/v1/chat/completions/input_tokens",
        "input_tokens",
    ),
    (Api::ChatCompletions, "/tokenize", "count"),
    (Api::Messages, "/v1/messages/count_tokens", "input_tokens"),
    (Api::Responses, "/v1/responses/input_tokens", "input_tokens"),
];

/// What else a template of vLLM or SGLang may read; their count may be too low for a request with one of these.
const NOT_COUNTED: [&str; 4] = ["reasoning_effort", "documents", "thinking", "output_config"];

/// How many tokens a prompt has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    pub(crate) tokens: i64,
    /// Whether it has no more than these.
    pub(crate) is_whole: bool,
}

/// Since when it is known of each route that a server does not have it.
#[derive(Debug, Default)]
pub(super) struct MissingRoutes(Mutex<[Option<Instant>; ROUTES.len()]>);

impl MissingRoutes {
    /// Those that it may have, for the prompts of an API.
    fn others(
        &self,
        api: Api,
        now: Instant,
    ) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
        let missing = *self.lock();
        let is_due = move |at| Models::is_due(at, now);
        let routes = ROUTES.into_iter().enumerate();
        let others =
            routes.filter(move |(at, (of, ..))| *of == api && missing[*at].is_none_or(is_due));
        others.map(|(at, (_, path, member))| (at, path, member))
    }

    /// The server is away, and may come back as another.
    pub(super) fn forget(&self) {
        *self.lock() = Default::default();
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Instant>; ROUTES.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// For the count of a prompt, waiting for a slot included.
    pub(crate) const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Whether it can count the tokens of an API's prompts, as far as is known.
    pub(crate) fn can_count(&self, api: Api) -> bool {
        self.config.kind == InferenceKind::OpenAi
            && (self.missing_counts.others(api, self.clock.instant()))
                .next()
                .is_some()
    }

    /// How many tokens the prompt of a request has; `None` where the server cannot count, which is remembered for a while.
    pub(crate) async fn count_prompt(
        &self,
        request: &InferenceRequest,
    ) -> Result<Option<Count>, UpstreamError> {
        let api = request.format.api();
        let model = self.find_model(&request.name, api).await?;
        let body = openai::request_body(request, &model, false, &self.config.pass);
        let has_other = match &request.prompt {
            Prompt::Message(_) => false,
            Prompt::Request(asked, _) => NOT_COUNTED.iter().any(|name| asked.has_member(name)),
        };
        let now = self.clock.instant();
        for (at, path, member) in self.missing_counts.others(api, now) {
            let sent = self.at.request(path, Some(body.clone()))?;
            let answer = self.at.client.fetch_any(sent, Self::COUNT_TIMEOUT).await?;
            // The others have no such path, or are not llama.cpp.
            let is_llama = path.ends_with("/input_tokens")
                || (answer.headers().get(SERVER)).is_some_and(|server| server == "llama.cpp");
            let (status, body) = (answer.status(), answer.into_body());
            if !status.is_success() {
                let mut refusal = Refusal::read(status.as_u16(), None, self.clock.now(), &body);
                if refusal.meaning != Meaning::NotServed {
                    self.at.redact(&mut refusal.words);
                    return Err(UpstreamError::Refused(refusal));
                }
            } else if let Some(tokens) = read_count(&body, member) {
                let is_whole = is_llama || !has_other;
                return Ok(Some(Count { tokens, is_whole }));
            }
            self.missing_counts.lock()[at] = Some(now);
        }
        let name = self.at.breaker.name();
        let path = api.path();
        log::info!(
            "inference {name}: it counts no tokens of {path}: prompts are bounded by their bytes"
        );
        Ok(None)
    }
}

/// The count in an answer. Some servers answer every path, with an error or without what was asked for.
fn read_count(body: &[u8], member: &str) -> Option<i64> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    answer.get(member)?.as_i64().filter(|tokens| *tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_above_0_in_the_member_of_its_server() {
        let count = |body: &str, member| read_count(body.as_bytes(), member);
        let llama = r#"{"input_tokens":11,"object":"response.input_tokens"}"#;
        let vllm = r#"{"count":11,"max_model_len":8192,"tokens":[1,2]}"#;
        assert_eq!(count(llama, ROUTES[0].2), Some(11));
        assert_eq!(count(vllm, ROUTES[1].2), Some(11));
        for none in [
            "",
            "7",
            "{}",
            r#"{"tokens":[]}"#,
            r#"{"error":"Unexpected endpoint or method"}"#,
            r#"{"count":0}"#,
            r#"{"count":-4}"#,
            r#"{"count":4.5}"#,
            r#"{"count":"4"}"#,
            r#"{"count":[1,2]}"#,
            r#"{"count":99999999999999999999}"#,
        ] {
            assert_eq!(count(none, "count"), None, "{none}");
        }
    }
}
