//! Which endpoints a server has: probed by a request to each, at the start and after it was away.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Node;
use super::api::Api;
use super::refusal::{Meaning, Refusal, is_no_endpoint};
use crate::config::InferenceKind;
use crate::upstream::UpstreamError;

impl Node {
    /// The endpoints that it serves, as far as is known.
    pub(crate) fn endpoints(&self) -> Vec<&'static str> {
        let endpoints = match self.config.kind {
            InferenceKind::R3mes => vec![Api::ChatCompletions],
            InferenceKind::OpenAi => self.models.endpoints(),
        };
        endpoints.into_iter().map(Api::name).collect()
    }

    /// Reads its list, and probes its endpoints the first time and after it was away.
    pub(crate) async fn refresh(self: Arc<Self>) {
        if self.config.kind == InferenceKind::R3mes || !self.at.is_present() {
            return;
        }
        match self.read_models().await {
            Err(UpstreamError::Connect(_)) => self.forget_endpoints(),
            _ if !self.models.is_probed() => self.probe_endpoints().await,
            _ => {}
        }
    }

    /// What an error instead of an answer means, which may say that there is no such endpoint.
    pub(crate) fn meaning_of(&self, error: UpstreamError, api: Api) -> UpstreamError {
        match &error {
            UpstreamError::Reported(answer)
                if api != Api::ChatCompletions && is_no_endpoint(answer.as_bytes()) =>
            {
                let now = self.clock.instant();
                self.models.set_endpoint(api, false, now);
                UpstreamError::NotServed
            }
            _ => error,
        }
    }

    /// Finds out which endpoints it serves, by a request to each that names no model, which costs no inference.
    pub(super) async fn probe_endpoints(self: &Arc<Self>) {
        let mut probes = JoinSet::new();
        for api in Api::ALL {
            let node = Arc::clone(self);
            probes.spawn(async move { (api, node.probe_endpoint(api).await) });
        }
        let mut is_probed = true;
        for (api, probed) in probes.join_all().await {
            match probed {
                Ok(Some(is_served)) => {
                    let now = self.clock.instant();
                    self.models.set_endpoint(api, is_served, now);
                }
                Ok(None) => {}
                Err(_) => is_probed = false,
            }
        }
        self.models.set_probed(is_probed);
    }

    /// Whether it serves an endpoint, where its answer shows it.
    ///
    /// # Errors
    /// It is away, or still loading.
    async fn probe_endpoint(&self, api: Api) -> Result<Option<bool>, UpstreamError> {
        let request = self.at.request(api.path(), Some("{}".to_owned()))?;
        let answer = match self.at.client.fetch_any(request, Self::PROBE_TIMEOUT).await {
            Ok(answer) => answer,
            Err(error @ UpstreamError::Connect(_)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let (status, body) = (answer.status().as_u16(), answer.into_body());
        if status == 200 && is_no_endpoint(&body) {
            return Ok(Some(false));
        }
        // A model without a name is not found by Ollama, which says so with 404.
        let refusal = Refusal::read(status, None, self.clock.now(), &body);
        match refusal.meaning {
            Meaning::Loading(_) => Err(UpstreamError::Refused(refusal)),
            Meaning::NotServed => Ok(Some(false)),
            // Of a proxy before it, or for any path.
            Meaning::Credentials | Meaning::Redirect => Ok(None),
            Meaning::Server if status > 500 => Ok(None),
            _ => Ok(Some(true)),
        }
    }
}
