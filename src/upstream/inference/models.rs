//! Which models a server has and which endpoints it serves, by its own lists and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use super::Node;
use super::api::Api;
use crate::config::InferenceKind;
use crate::upstream::{UpstreamError, unreadable};

/// What is known of a server's models and endpoints.
#[derive(Debug, Default)]
pub(super) struct Models {
    state: Mutex<State>,
    /// Held while the list is read, so that requests that wait for it share one read.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    models: Vec<Model>,
    /// When they were last asked for, with an answer or without.
    asked_at: Option<Instant>,
    /// Whether it serves each endpoint, and since when that is known.
    endpoints: [Option<(bool, Instant)>; Api::ALL.len()],
    /// Of several models those that it refused an endpoint for, which it may serve for others.
    refused: BTreeMap<(String, Api), Instant>,
    /// Whether the endpoints were probed since the server was last away.
    is_probed: bool,
}

/// A model of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Model {
    pub(super) name: String,
    kind: Kind,
}

/// What a model is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Chat,
    Embeddings,
    Rerank,
}

impl Model {
    /// A model of this name, which says what kind it is.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::of_name(name),
        }
    }

    /// Whether it may answer requests of an endpoint. A chat model may embed and rank too (llama.cpp, Ollama, vLLM), which
    /// only its server knows.
    pub(super) fn may_serve(&self, api: Api) -> bool {
        match api {
            Api::Embeddings => self.kind != Kind::Rerank,
            Api::Rerank => true,
            _ => self.kind == Kind::Chat,
        }
    }

    /// Whether it is made for it.
    pub(super) fn is_made_for(&self, api: Api) -> bool {
        self.kind
            == match api {
                Api::Embeddings => Kind::Embeddings,
                Api::Rerank => Kind::Rerank,
                _ => Kind::Chat,
            }
    }
}

impl Kind {
    /// By the families of embedding and rank models. No list of OpenAI's form says it: llama.cpp claims `completion` for each
    /// model, Ollama, vLLM and LocalAI name no abilities. The publisher before a `/` does not count: nomic-ai has chat models too.
    fn of_name(name: &str) -> Self {
        const EMBED: [&str; 7] = ["bge", "nomic", "e5", "gte", "minilm", "mxbai", "paraphrase"];
        let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
        let mut words = name.split(|c: char| !c.is_alphanumeric());
        if words.clone().any(|word| word.starts_with("rerank")) {
            return Self::Rerank;
        }
        let embeds =
            |word: &str| EMBED.contains(&word) || (word.starts_with("embed") && word != "embedded");
        match words.any(embeds) {
            true => Self::Embeddings,
            false => Self::Chat,
        }
    }

    /// By what an entry of the list says beside its name, where it does: LM Studio's `type`, `capabilities` as Ollama has them.
    fn of_entry(name: &str, entry: &Value) -> Self {
        let capabilities = entry["capabilities"].as_array();
        let can = |word| capabilities.is_some_and(|all| all.iter().any(|can| can == word));
        match entry["type"].as_str() {
            Some("embeddings" | "embedding") => Self::Embeddings,
            Some("rerank" | "reranker") => Self::Rerank,
            Some("llm" | "vlm") => Self::Chat,
            _ if can("embedding") && !can("completion") => Self::Embeddings,
            _ => Self::of_name(name),
        }
    }
}

/// Names of a server at most, and characters of one.
const MAX_MODELS: usize = 256;
const MAX_NAME: usize = 200;

/// The models in an answer to `GET /v1/models`, in its order. An entry without a usable name is left out, as is a model that
/// Ollama does not run itself but on the operator's account at ollama.com; the list does not tell which server wrote it.
pub(super) fn parse(body: &[u8]) -> Result<Vec<Model>, UpstreamError> {
    let list: Value = serde_json::from_slice(body).map_err(unreadable)?;
    let entries = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    let mut seen = BTreeSet::new();
    let models = entries.iter().filter_map(|entry| {
        let name = entry["id"].as_str()?;
        let is_usable = (1..=MAX_NAME).contains(&name.chars().count())
            && !name.chars().any(char::is_control)
            && !name.ends_with("-cloud")
            && !name.ends_with(":cloud");
        (is_usable && seen.insert(name)).then(|| Model {
            name: name.to_owned(),
            kind: Kind::of_entry(name, entry),
        })
    });
    let models: Vec<_> = models.take(MAX_MODELS).collect();
    match models.is_empty() {
        true => Err(unreadable("/v1/models names no model that can be served")),
        false => Ok(models),
    }
}

impl Models {
    /// How long an endpoint that a server refused is not asked again: it may have been started anew meanwhile.
    const NOT_SERVED: Duration = Duration::from_secs(600);

    /// Whether what a server did not have at that time is asked for again.
    pub(super) fn is_due(missing: Instant, now: Instant) -> bool {
        missing + Self::NOT_SERVED <= now
    }

    /// Replaces the list.
    pub(super) fn set(&self, models: Vec<Model>) {
        let mut state = self.lock();
        let names: BTreeSet<_> = models.iter().map(|model| &*model.name).collect();
        state.refused.retain(|(name, _), _| names.contains(&**name));
        state.models = models;
    }

    /// How many there are; 0 until the list is read.
    pub(super) fn count(&self) -> usize {
        self.lock().models.len()
    }

    fn was_asked_within(&self, age: Duration, now: Instant) -> bool {
        let asked_at = self.lock().asked_at;
        asked_at.is_some_and(|at| at.checked_add(age).is_none_or(|until| until > now))
    }

    pub(super) fn find(&self, name: &str) -> Option<Model> {
        let state = self.lock();
        state
            .models
            .iter()
            .find(|model| model.name == name)
            .cloned()
    }

    /// The first that is made for an endpoint, else the first that may serve it.
    pub(super) fn first_for(&self, api: Api) -> Option<Model> {
        let state = self.lock();
        let may_serve = state.models.iter().filter(|model| model.may_serve(api));
        may_serve
            .min_by_key(|model| !model.is_made_for(api))
            .cloned()
    }

    /// Records whether the server serves an endpoint.
    pub(super) fn set_endpoint(&self, api: Api, is_served: bool, now: Instant) {
        self.lock().endpoints[api as usize] = Some((is_served, now));
    }

    /// Records that the server refused an endpoint for a model: where it has others (llama-swap, LM Studio), for that one alone,
    /// so that no request for one model keeps clients from another.
    pub(super) fn set_refused(&self, model: &str, api: Api, now: Instant) {
        let mut state = self.lock();
        if state.models.len() < 2 {
            state.endpoints[api as usize] = Some((false, now));
        } else if state.models.iter().any(|listed| listed.name == model) {
            state.refused.insert((model.to_owned(), api), now);
        }
    }

    /// Whether it serves an endpoint for a model, or may. One that served nothing so far gets chats all the same: what it answers
    /// them is for the operator to read.
    pub(super) fn may_serve(&self, model: &str, api: Api, now: Instant) -> bool {
        let state = self.lock();
        let serves_any = state.endpoints.iter().flatten().any(|(served, _)| *served);
        let refused = match state.endpoints[api as usize] {
            Some((false, at)) => Some(at),
            _ => state.refused.get(&(model.to_owned(), api)).copied(),
        };
        refused.is_none_or(|at| Self::is_due(at, now))
            || (api == Api::ChatCompletions && !serves_any)
    }

    /// The endpoints that it serves, as far as is known.
    pub(super) fn endpoints(&self) -> Vec<Api> {
        let state = self.lock();
        let served = |api: &Api| matches!(state.endpoints[*api as usize], Some((true, _)));
        Api::ALL.into_iter().filter(served).collect()
    }

    pub(super) fn is_probed(&self) -> bool {
        self.lock().is_probed
    }

    pub(super) fn set_probed(&self, is_probed: bool) {
        self.lock().is_probed = is_probed;
    }

    fn forget_endpoints(&self) {
        let mut state = self.lock();
        state.endpoints = Default::default();
        state.refused.clear();
        state.is_probed = false;
    }

    fn names(&self) -> Vec<String> {
        let state = self.lock();
        state
            .models
            .iter()
            .map(|model| model.name.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Whether it has an adapter or a model of this name; with an endpoint, whether it serves that for it, or may.
    pub(crate) fn serves(&self, name: &str, api: Option<Api>) -> bool {
        let has_name = || self.has_adapter(name) || self.own_model(name).as_deref() == Some(name);
        self.at.is_present() && has_name() && api.is_none_or(|api| self.may_serve(name, api))
    }

    /// Whether its model for this name is made for an endpoint.
    pub(crate) fn is_made_for(&self, name: &str, api: Api) -> bool {
        let model = self.model_for(name, api);
        model.is_some_and(|model| model.is_made_for(api))
    }

    /// Its model that clients mean by a name: Ollama's `qwen3` is `qwen3:latest`.
    pub(crate) fn own_model(&self, name: &str) -> Option<String> {
        if !self.has_own_names || !self.at.is_present() {
            return None;
        }
        let find = |name: &str| match self.finds_model() {
            true => self.models.find(name),
            false => Some(Model::named(name)).filter(|_| self.config.model == name),
        };
        let own = find(name).or_else(|| find(&format!("{name}:latest")));
        own.map(|own| own.name)
    }

    /// The models that clients may ask for by name: of a server without configured adapters those of its list, or the
    /// configured one.
    pub(crate) fn own_models(&self) -> Vec<String> {
        match (
            self.has_own_names && self.at.is_present(),
            &*self.config.model,
        ) {
            (false, _) => Vec::new(),
            (true, "") => self.models.names(),
            (true, model) => vec![model.to_owned()],
        }
    }

    fn has_adapter(&self, name: &str) -> bool {
        self.config.adapters.iter().any(|adapter| adapter == name)
    }

    /// Whether it finds out by its list which model to ask for.
    pub(super) fn finds_model(&self) -> bool {
        self.config.kind == InferenceKind::OpenAi && self.config.model.is_empty()
    }

    fn may_serve(&self, name: &str, api: Api) -> bool {
        match self.config.kind {
            InferenceKind::R3mes => api == Api::ChatCompletions,
            InferenceKind::OpenAi => {
                let is_unknown = self.finds_model() && self.models.count() == 0;
                let model = self.model_for(name, api).map(|model| model.name);
                let model = model.or_else(|| is_unknown.then(String::new));
                let now = self.clock.instant();
                model.is_some_and(|model| self.models.may_serve(&model, api, now))
            }
        }
    }

    /// The model to ask for: the configured one, its own of this name, or for an adapter the first that serves the endpoint.
    pub(super) fn model_for(&self, name: &str, api: Api) -> Option<Model> {
        let model = match &*self.config.model {
            "" => match self.models.find(name).filter(|_| self.has_own_names) {
                Some(own) => own,
                None if self.has_adapter(name) => self.models.first_for(api)?,
                None => return None,
            },
            model => Model::named(model),
        };
        Some(model).filter(|model| model.may_serve(api))
    }

    /// The same, read from its list where that is not known.
    pub(super) async fn find_model(&self, name: &str, api: Api) -> Result<String, UpstreamError> {
        if self.config.kind == InferenceKind::R3mes {
            return Ok(String::new());
        }
        if self.finds_model() && self.models.count() == 0 {
            self.read_models().await?;
        }
        let model = self.model_for(name, api);
        model
            .map(|model| model.name)
            .ok_or(UpstreamError::NotServed)
    }

    /// It is away, and may come back as another.
    pub(super) fn forget_endpoints(&self) {
        self.models.forget_endpoints();
        self.missing_counts.forget();
    }

    /// Reads its list.
    pub(super) async fn read_models(&self) -> Result<(), UpstreamError> {
        let body = self.at.get("/v1/models", Self::LOOKUP_TIMEOUT).await?;
        self.models.set(parse(&body)?);
        Ok(())
    }

    /// Reads its list unless that was tried so long ago, for a request that waits no longer than for one read.
    pub(crate) async fn read_models_after(&self, age: Duration) {
        let read = async {
            let _reading = self.models.reading.lock().await;
            let now = self.clock.instant();
            if self.models.was_asked_within(age, now) || self.refusal(now).is_some() {
                return;
            }
            self.models.lock().asked_at = Some(now);
            if let Err(error) = self.read_models().await {
                let name = self.at.breaker.name();
                // Clients may make it be read each second.
                log::debug!("inference {name}: its models were not read: {error}");
            }
        };
        if self.at.is_present() && self.finds_model() {
            let _ = timeout(Self::LOOKUP_TIMEOUT, read).await;
        }
    }
}

#[cfg(test)]
mod tests;
