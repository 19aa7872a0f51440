//! What an operator can set, one struct per subject. Every setting has a default, so that no file is needed.
//!
//! The library reads no environment and no file: the command line hands the texts in, flags over environment over file.
//!
//! With the feature `toml` a configuration can be read from such texts ([`Config`] has `read` then), and there are `Loader`,
//! `Origin`, `Origins` and `ConfigError`. Made in code, printed and compared it can be without.

mod alerts;
mod listen;
#[cfg(feature = "toml")]
mod load;
mod print;
mod proxies;
mod risks;
mod sections;
mod storage;
mod units;
mod upstreams;
mod validate;

pub use alerts::{AlertsConfig, WebhookKind};
pub use listen::Listen;
#[cfg(feature = "toml")]
pub use load::{ConfigError, Loader, Origin, Origins};
pub use print::{Change, Line, Section};
pub use proxies::{Peer, Proxy};
pub use risks::Risk;
pub use sections::{AuthConfig, ChatConfig, LimitsConfig, LogConfig, LogFormat, RatesConfig};
pub use storage::BackupConfig;
pub use units::parse_duration;
pub use upstreams::{
    AdapterConfig, ChainConfig, InferenceConfig, InferenceKind, MinerConfig, MinerKind,
};
pub use validate::ValidationError;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::breaker;
use crate::model::Retention;

/// Everything that can be set.
///
/// ```
/// use r3mes_edge::Config;
///
/// let mut config = Config::default();
/// config.listen = vec!["127.0.0.1:0".parse()?, "[::]:8000".parse()?];
/// config.discover = false;
/// config.validate()?;
/// // The second can be reached from elsewhere, so figures want a key.
/// assert_eq!(config.exposed().count(), 1);
/// assert!(!config.public_reads());
/// assert_eq!(config.public_name(), "127.0.0.1:0");
/// config.limits.in_flight = 0;
/// assert_eq!(config.validate().unwrap_err().key, "limits.in_flight");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where to listen.
    #[serde(deserialize_with = "listen::one_or_more")]
    pub listen: Vec<Listen>,
    /// The database file.
    pub database: PathBuf,
    /// Whether to look for upstreams at their conventional local addresses where none is set.
    pub discover: bool,
    /// Sizes and times.
    pub limits: LimitsConfig,
    /// Rates by class.
    pub rates: RatesConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// Paid chat.
    pub chat: ChatConfig,
    /// The inference servers.
    pub inference: Vec<InferenceConfig>,
    /// How a message without an adapter finds one.
    pub adapters: BTreeMap<String, AdapterConfig>,
    /// The chain.
    pub chain: ChainConfig,
    /// The miner on this machine.
    pub miner: MinerConfig,
    /// When an upstream is given a rest.
    #[serde(with = "sections::Breaker")]
    pub breaker: breaker::Settings,
    /// How long samples and what was made from them are kept.
    #[serde(with = "storage::Kept")]
    pub retention: Retention,
    /// Copies by schedule.
    pub backup: BackupConfig,
    /// From when on something is wrong, and who is told.
    pub alerts: AlertsConfig,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))],
            database: PathBuf::from("r3mes-edge.db"),
            discover: true,
            limits: LimitsConfig::default(),
            rates: RatesConfig::default(),
            auth: AuthConfig::default(),
            chat: ChatConfig::default(),
            inference: Vec::new(),
            adapters: BTreeMap::new(),
            chain: ChainConfig::default(),
            miner: MinerConfig::default(),
            breaker: breaker::Settings::default(),
            retention: Retention::default(),
            backup: BackupConfig::default(),
            alerts: AlertsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// Reads a configuration file's text and lays environment-like settings over it: names as in the file, nested ones
    /// joined by `__` (`RATES__CHAT`), letters in any case. A [`Loader`] knows where each setting comes from as well. With
    /// the feature `toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    ///
    /// # Example
    /// ```
    /// use r3mes_edge::Config;
    ///
    /// let file = "listen = \"127.0.0.1:9000\"\n[rates]\nchat = \"20/min\"";
    /// let environment = [("LISTEN", "127.0.0.1:9001"), ("CHAT__PRICE", "0.5")];
    /// let config = Config::read(file, environment)?;
    /// assert_eq!((config.listen[0].to_string(), config.chat.price.to_string()), ("127.0.0.1:9001".to_owned(), "0.5".to_owned()));
    /// let error = Config::read("[chat]\nprize = 0", []).unwrap_err();
    /// assert_eq!(error.to_string(), "configuration:2:1: chat.prize: unknown key; did you mean chat.price?");
    /// # Ok::<_, r3mes_edge::config::ConfigError>(())
    /// ```
    #[cfg(feature = "toml")]
    pub fn read<'a>(
        file: &str,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        let mut loader = Loader::default();
        loader.file("configuration", file)?;
        for (name, value) in settings {
            loader.set(name, value.as_ref(), name)?;
        }
        loader.finish().map(|(config, _)| config)
    }

    /// The adapters a client may ask for, in order.
    #[must_use]
    pub fn adapter_names(&self) -> BTreeSet<String> {
        let served = self.inference.iter().flat_map(|node| node.adapters.iter());
        let named = self.adapters.keys();
        served
            .chain(named)
            .chain([&self.chat.default_adapter])
            .cloned()
            .collect()
    }

    /// The listeners that other machines reach.
    pub fn exposed(&self) -> impl Iterator<Item = &Listen> {
        self.listen.iter().filter(|place| !place.is_local())
    }

    /// Whether strangers may read public figures: as `auth.public_reads` says, behind proxies too; where it is not set, only
    /// while no listener can be reached from other machines and no proxy is trusted, and then not in a request that a proxy
    /// passed on.
    #[must_use]
    pub fn public_reads(&self) -> bool {
        let alone = self.exposed().next().is_none() && self.auth.trusted_proxies.is_empty();
        self.auth.public_reads.unwrap_or(alone)
    }

    /// What a wallet login signs in to.
    #[must_use]
    pub fn public_name(&self) -> String {
        if !self.auth.public_name.is_empty() {
            return self.auth.public_name.clone();
        }
        // A socket's path is nothing to tell a stranger.
        let address = self.listen.iter().find_map(Listen::address);
        address.map_or_else(|| "localhost".to_owned(), |address| address.to_string())
    }
}

#[cfg(all(test, feature = "toml"))]
mod tests;
