//! What an operator can set, one struct per subject. Every setting has a default, so that no file is needed.
//!
//! The library reads no environment and no file: the command line hands the texts in, flags over environment over file.
//!
//! Only with the feature `toml` can a configuration be read from such texts: `Config::read`, `Loader`, `Origins`.

mod error;
mod listen;
#[cfg(feature = "toml")]
mod load;
mod print;
mod proxies;
mod rates;
mod risks;
mod sections;
mod upstreams;
mod validate;

pub use crate::model::units::parse_duration;
pub use error::{ConfigError, Origin};
pub use listen::Listen;
#[cfg(feature = "toml")]
pub use load::{Loader, Origins};
pub use proxies::{Peer, Proxy};
pub use rates::RatesConfig;
pub use risks::Risk;
pub use sections::{
    AlertsConfig, AuthConfig, BackupConfig, ChatConfig, CompatConfig, LimitsConfig, LogConfig,
    LogFormat, MetricsConfig, WebhookKind,
};
pub use upstreams::{
    AdapterConfig, ChainConfig, InferenceConfig, InferenceKind, MinerConfig, MinerKind, Terms,
};

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::breaker;
use crate::model::Retention;
use crate::model::section::section;

section! {
    /// Everything that can be set.
    ///
    /// ```
    /// use r3mes_edge::Config;
    ///
    /// let mut config = Config::default();
    /// config.listen = vec!["127.0.0.1:0".parse()?, "[::]:8000".parse()?];
    /// config.discover = false;
    /// config.validate()?;
    /// // Other machines reach the second, so public reads need a key.
    /// assert_eq!(config.exposed().count(), 1);
    /// assert!(!config.public_reads());
    /// assert_eq!(config.public_name(), "127.0.0.1:0");
    /// config.limits.in_flight = 0;
    /// assert_eq!(config.validate().unwrap_err().key, "limits.in_flight");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    Config {
        /// Where to listen.
        #[serde(deserialize_with = "listen::one_or_more")]
        listen: Vec<Listen> = vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))],
            where |listen| !listen.is_empty() => "must name an address, \"127.0.0.1:8000\"",
            check |listen| listen::repeated(listen);
        /// The database file.
        database: PathBuf = PathBuf::from("r3mes-edge.db"),
            where |file| !file.as_os_str().is_empty() => "must name a file";
        /// Whether to discover upstreams at their conventional local addresses where none is set, and to ask inference
        /// servers which models and endpoints they have before a client needs to know.
        discover: bool = true;
        /// Sizes and times.
        limits: LimitsConfig = LimitsConfig::default(), section LimitsConfig::invalid;
        /// Rates by class.
        rates: RatesConfig = RatesConfig::default(), section RatesConfig::invalid;
        /// Who may do what.
        auth: AuthConfig = AuthConfig::default(), section AuthConfig::invalid;
        /// Paid chat.
        chat: ChatConfig = ChatConfig::default(), section ChatConfig::invalid;
        /// The inference servers.
        inference: Vec<InferenceConfig> = Vec::new(),
            where |nodes| have_own_names(nodes) => "each needs a name of its own, other than chain and miner";
        /// How a message without an adapter finds one.
        adapters: BTreeMap<String, AdapterConfig> = BTreeMap::new();
        /// The chain.
        chain: ChainConfig = ChainConfig::default(), section ChainConfig::invalid;
        /// The miner on this machine.
        miner: MinerConfig = MinerConfig::default(), section MinerConfig::invalid;
        /// When an upstream's circuit breaker opens, and for how long.
        breaker: breaker::Settings = breaker::Settings::default(), section breaker::Settings::invalid;
        /// How long samples and their rollups are stored.
        retention: Retention = Retention::default(),
            where |stored| [stored.raw, stored.minutes, stored.hours, stored.days].is_sorted_by_key(|time| time.unwrap_or(Duration::MAX))
                => "raw samples, minutes, hours and days must each be kept at least as long as the one before",
            section Retention::invalid;
        /// Scheduled backups.
        backup: BackupConfig = BackupConfig::default(), section BackupConfig::invalid;
        /// The thresholds of alerts, and the webhook they are sent to.
        alerts: AlertsConfig = AlertsConfig::default(), section AlertsConfig::invalid;
        /// What `GET /metrics` has.
        metrics: MetricsConfig = MetricsConfig::default(), section MetricsConfig::invalid;
        /// For clients of the R3MES backend.
        compat: CompatConfig = CompatConfig::default(), section CompatConfig::invalid;
        /// What is logged.
        log: LogConfig = LogConfig::default(), section LogConfig::invalid;
    }
}

impl Config {
    /// Reads a configuration file's text and environment-like settings over it: names as in the file, nested ones joined by
    /// `__` (`RATES__CHAT`), letters in any case. A [`Loader`] also reports where each setting comes from. With the feature
    /// `toml`.
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
    /// assert_eq!((config.listen[0].to_string(), config.chat.price.request.to_string()), ("127.0.0.1:9001".to_owned(), "0.5".to_owned()));
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

    /// The names a client may ask for: those of the adapters and their aliases, each with its adapter.
    #[must_use]
    pub fn adapters_by_name(&self) -> BTreeMap<String, String> {
        let aliases = self.adapters.iter().flat_map(|(adapter, config)| {
            let aliases = config.aliases.iter();
            aliases.map(|alias| (alias.clone(), adapter.clone()))
        });
        let own = self.adapter_names().into_iter();
        aliases
            .chain(own.map(|name| (name.clone(), name)))
            .collect()
    }

    /// The adapters a client may ask for, in order.
    #[must_use]
    pub fn adapter_names(&self) -> BTreeSet<String> {
        let served = self.inference.iter().flat_map(|node| &node.adapters);
        let named = self.adapters.keys().chain([&self.chat.default_adapter]);
        served.chain(named).cloned().collect()
    }

    /// The listeners that other machines reach.
    pub fn exposed(&self) -> impl Iterator<Item = &Listen> {
        self.listen.iter().filter(|listen| !listen.is_local())
    }

    /// Whether public figures need no key: by `auth.public_reads`, behind proxies too; where that is not set, only while no
    /// listener can be reached from other machines and no proxy is trusted, and then not in a request that a proxy passed on.
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
        // Not a socket's path, which clients need not know.
        let address = self.listen.iter().find_map(Listen::address);
        address.map_or_else(|| "localhost".to_owned(), |address| address.to_string())
    }
}

fn have_own_names(nodes: &[InferenceConfig]) -> bool {
    let mut names = BTreeSet::from(["chain", "miner"]);
    nodes.iter().all(|node| names.insert(&node.name))
}

#[cfg(all(test, feature = "toml"))]
mod tests;
