use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::units;
use crate::model::Wallet;

/// What an inference server speaks, in its [`InferenceConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InferenceKind {
    /// `POST /v1/chat/completions`: llama.cpp, Ollama, vLLM and others.
    OpenAi,
    /// `POST /chat` of an R3MES serving node.
    R3mes,
}

/// One inference server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InferenceConfig {
    /// Its name in health, metrics and log.
    pub name: String,
    /// What it speaks.
    pub kind: InferenceKind,
    /// `http://host:port` or `https://host:port`
    pub url: String,
    /// The model to ask for; where empty, the first that `/v1/models` names.
    #[serde(default)]
    pub model: String,
    /// The adapters it serves; where empty, the default adapter.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A file whose first line is shown to it as a Bearer token; read at the start.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
}

impl InferenceConfig {
    /// A server of a kind at `url`, with the default of all else.
    #[must_use]
    pub fn new(name: &str, kind: InferenceKind, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            url: url.to_owned(),
            model: String::new(),
            adapters: Vec::new(),
            ca_file: None,
            api_key_file: None,
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

/// The chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChainConfig {
    /// The CometBFT RPC, `http://host:port`; where not set, the conventional one is looked for.
    pub rpc: Option<String>,
    /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// For one answer of the chain.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// How old an answer may be that is served while the chain is down.
    #[serde(with = "units::duration")]
    pub stale_if_error: Duration,
    /// How old the newest block may be before the chain counts as halted.
    #[serde(with = "units::duration")]
    pub max_block_age: Duration,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            rpc: None,
            ca_file: None,
            timeout: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(3600),
            max_block_age: Duration::from_secs(60),
        }
    }
}

/// What a miner's statistics page looks like, in its [`MinerConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MinerKind {
    /// `/stats` of the R3MES miner engine.
    R3mes,
    /// `/2/summary` of XMRig.
    Xmrig,
}

/// The miner on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MinerConfig {
    /// Its statistics page; where not set, the conventional one is looked for.
    pub url: Option<String>,
    /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// What the page looks like.
    pub kind: MinerKind,
    /// Whose miner it is; without a wallet nothing can be recorded.
    pub wallet: Option<Wallet>,
    /// Its name among the wallet's miners.
    pub worker: String,
    /// How often it is asked.
    #[serde(with = "units::duration")]
    pub every: Duration,
    /// A file whose first line is the page's Bearer token.
    pub token_file: Option<PathBuf>,
}

impl Default for MinerConfig {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            kind: MinerKind::R3mes,
            wallet: None,
            worker: "local".to_owned(),
            every: Duration::from_secs(10),
            token_file: None,
        }
    }
}

impl<'de> Deserialize<'de> for Wallet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
