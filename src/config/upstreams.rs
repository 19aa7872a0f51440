//! The sections of the upstreams: inference servers and their adapters, the chain, the miner.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sections::{COUNT, TIMEOUT};
use super::validate::{LABEL, is_label, is_name, wrong_address, wrong_base, wrong_inference_base};
use crate::model::section::section;
use crate::model::{Wallet, units};

/// What an inference server speaks, in its [`InferenceConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InferenceKind {
    /// `POST /v1/chat/completions`: llama.cpp, Ollama, vLLM and others.
    OpenAi,
    /// `POST /chat` of an R3MES serving node.
    R3mes,
}

section! {
    /// One inference server.
    InferenceConfig {
        /// Its name in health, metrics and log.
        name: String = String::new(), where |name| is_name(name) => "must be letters, digits, dots, dashes or underscores";
        /// What it speaks.
        kind: InferenceKind = InferenceKind::OpenAi;
        /// `http://host:port` or `https://host:port`, without the `/v1` of OpenAI's API.
        url: String = String::new(), check |url| wrong_inference_base(url);
        /// The model to ask for; where empty, the first that `/v1/models` names.
        model: String = String::new(), where |name| name.is_empty() || is_label(name) => LABEL;
        /// Chats in flight at it; where not set, as many as llama.cpp says it has slots, else `chat.in_flight`.
        in_flight: Option<usize> = None, where |slots| slots.is_none_or(|slots| COUNT.contains(&slots)) => "must be from 1 to 1000000";
        /// The adapters it serves; where empty, the default adapter.
        adapters: Vec<String> = Vec::new(), each is_label => LABEL;
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// A file whose first line is its Bearer token; read at start.
        api_key_file: Option<PathBuf> = None;
    }
}

impl InferenceConfig {
    /// A server of a kind at `url`, with the default of all else.
    #[must_use]
    pub fn new(name: &str, kind: InferenceKind, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            url: url.to_owned(),
            ..Self::default()
        }
    }
}

/// How a message without an adapter finds one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdapterConfig {
    /// A message that holds one of these words goes to this adapter.
    pub keywords: Vec<String>,
}

section! {
    /// The chain.
    ChainConfig {
        /// The CometBFT RPC, `http://host:port`; where not set, discovery tries the conventional one.
        rpc: Option<String> = None, check |url| url.as_deref().and_then(wrong_base);
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// For one answer of the chain.
        timeout: Duration as "units::duration" = Duration::from_secs(2), in TIMEOUT;
        /// How old an answer may be that is served while the chain is down.
        stale_if_error: Duration as "units::duration" = Duration::from_secs(3600);
        /// How old the newest block may be before the chain counts as halted.
        max_block_age: Duration as "units::duration" = Duration::from_secs(60), in TIMEOUT;
    }
}

/// What a miner's statistics page looks like, in its [`MinerConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MinerKind {
    /// `/stats` of the R3MES miner engine.
    R3mes,
    /// `/2/summary` of XMRig and of miners with the same summary, in hashes a second, or of xmrig-proxy, in kilohashes.
    Xmrig,
}

section! {
    /// The miner on this machine.
    MinerConfig {
        /// Its statistics page, without a path the usual one of its kind; where not set, discovery tries the conventional one.
        url: Option<String> = None, check |url| url.as_deref().and_then(wrong_address);
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// What the page looks like.
        kind: MinerKind = MinerKind::R3mes;
        /// Whose miner it is; without a wallet nothing can be recorded.
        wallet: Option<Wallet> = None;
        /// Its name among the wallet's miners.
        worker: String = "local".to_owned(),
            where |name| is_name(name) && name.len() <= 64 => "must be 1 to 64 letters, digits, dots, dashes or underscores";
        /// How often the page is polled.
        every: Duration as "units::duration" = Duration::from_secs(10), in Duration::from_secs(1)..;
        /// A file whose first line is the page's Bearer token.
        token_file: Option<PathBuf> = None;
    }
}
