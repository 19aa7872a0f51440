//! What an operator can set, one struct per subject. Every setting has a default, so that no file is needed.
//!
//! The library reads no environment and no file: the command line hands the texts in, flags over environment over file.

mod units;

pub use units::parse_duration;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::breaker;
use crate::limits::{Rate, RateClass};
use crate::model::{Credits, Wallet};

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
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
    #[serde(deserialize_with = "breaker_settings")]
    pub breaker: breaker::Settings,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
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
            log: LogConfig::default(),
        }
    }
}

/// Sizes and times of the HTTP side.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections open at once; further ones wait unaccepted.
    pub connections: usize,
    /// Requests worked on at once; a further one is refused with 503.
    pub in_flight: usize,
    /// Bytes of a request's body.
    #[serde(deserialize_with = "units::size")]
    pub body: usize,
    /// Bytes of a body of samples.
    #[serde(deserialize_with = "units::size")]
    pub telemetry_body: usize,
    /// Bytes of a chat's body.
    #[serde(deserialize_with = "units::size")]
    pub chat_body: usize,
    /// For the whole request head, and for the pause between requests on one connection.
    #[serde(deserialize_with = "units::duration")]
    pub header_timeout: Duration,
    /// For the whole body.
    #[serde(deserialize_with = "units::duration")]
    pub body_timeout: Duration,
    /// For the answer to anything but chat.
    #[serde(deserialize_with = "units::duration")]
    pub request_timeout: Duration,
    /// For what is under way when the server is told to stop.
    #[serde(deserialize_with = "units::duration")]
    pub shutdown_grace: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 1024,
            in_flight: 512,
            body: 64 << 10,
            telemetry_body: 1 << 20,
            chat_body: 256 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// Rates by class; `None` is "off".
#[derive(Clone, Debug)]
pub struct RatesConfig([Option<Rate>; RateClass::ALL.len()]);

impl RatesConfig {
    /// The rate of a class.
    #[must_use]
    pub fn get(&self, class: RateClass) -> Option<Rate> {
        self.0[class as usize]
    }

    /// Sets the rate of a class; `None` turns it off.
    pub fn set(&mut self, class: RateClass, rate: Option<Rate>) {
        self.0[class as usize] = rate;
    }

    /// No limits at all.
    #[must_use]
    pub const fn off() -> Self {
        Self([None; RateClass::ALL.len()])
    }
}

impl Default for RatesConfig {
    fn default() -> Self {
        Self(RateClass::ALL.map(|class| {
            units::parse_rate(match class {
                RateClass::Auth => "5/min",
                RateClass::Chat => "10/min",
                RateClass::Write => "60/min",
                RateClass::Telemetry | RateClass::Health => "600/min",
                RateClass::Read => "300/min",
                RateClass::Failures => "20/min",
            })
            .unwrap_or_default()
        }))
    }
}

impl<'de> Deserialize<'de> for RatesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut rates = Self::default();
        for (name, text) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let Some(class) = RateClass::ALL
                .into_iter()
                .find(|class| class.as_str() == name)
            else {
                let known = RateClass::ALL.map(RateClass::as_str).join(", ");
                return Err(serde::de::Error::custom(format!(
                    "unknown rate {name:?}; known are {known}"
                )));
            };
            let rate = units::parse_rate(&text)
                .map_err(|what| serde::de::Error::custom(format!("{name}: {what}")))?;
            rates.set(class, rate);
        }
        Ok(rates)
    }
}

/// Who may do what.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether strangers may read public figures; where not set, only while the listener is loopback.
    pub public_reads: Option<bool>,
    /// Active keys of one wallet at most.
    pub max_keys_per_wallet: usize,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            public_reads: None,
            max_keys_per_wallet: 10,
        }
    }
}

/// Paid chat.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatConfig {
    /// What one chat costs.
    pub price: Credits,
    /// Characters of a message at most.
    pub max_message: usize,
    /// The adapter of a message that names none and fits no keyword.
    pub default_adapter: String,
    /// Chats at one inference server at once.
    pub in_flight: usize,
    /// Chats that may wait for a place there.
    pub queue: usize,
    /// Until the first text.
    #[serde(deserialize_with = "units::duration")]
    pub first_text_timeout: Duration,
    /// Between two texts.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            price: Credits::from_micro(1_000_000),
            max_message: 10_000,
            default_adapter: "general".to_owned(),
            in_flight: 4,
            queue: 16,
            first_text_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What an inference server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InferenceKind {
    /// `POST /v1/chat/completions`: llama.cpp, Ollama, vLLM and others.
    OpenAi,
    /// `POST /chat` of an R3MES serving node.
    R3mes,
}

/// One inference server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceConfig {
    /// Its name in health, metrics and log.
    pub name: String,
    /// What it speaks.
    pub kind: InferenceKind,
    /// `http://host:port`
    pub url: String,
    /// The model to ask for; where empty, the first that `/v1/models` names.
    #[serde(default)]
    pub model: String,
    /// The adapters it serves; where empty, the default adapter.
    #[serde(default)]
    pub adapters: Vec<String>,
}

/// How a message without an adapter finds one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// A message that holds one of these words goes to this adapter.
    pub keywords: Vec<String>,
}

/// The chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChainConfig {
    /// The CometBFT RPC, `http://host:port`; where not set, the conventional one is looked for.
    pub rpc: Option<String>,
    /// For one answer of the chain.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// How old an answer may be that is served while the chain is down.
    #[serde(deserialize_with = "units::duration")]
    pub stale_if_error: Duration,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            rpc: None,
            timeout: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(3600),
        }
    }
}

/// What a miner's statistics page looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MinerKind {
    /// `/stats` of the R3MES miner engine.
    R3mes,
    /// `/2/summary` of XMRig.
    Xmrig,
}

/// The miner on this machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinerConfig {
    /// Its statistics page; where not set, the conventional one is looked for.
    pub url: Option<String>,
    /// What the page looks like.
    pub kind: MinerKind,
    /// Whose miner it is; without a wallet nothing can be recorded.
    pub wallet: Option<Wallet>,
    /// Its name among the wallet's miners.
    pub worker: String,
    /// How often it is asked.
    #[serde(deserialize_with = "units::duration")]
    pub every: Duration,
    /// A file whose first line is the page's Bearer token.
    pub token_file: Option<PathBuf>,
}

impl Default for MinerConfig {
    fn default() -> Self {
        Self {
            url: None,
            kind: MinerKind::R3mes,
            wallet: None,
            worker: "local".to_owned(),
            every: Duration::from_secs(10),
            token_file: None,
        }
    }
}

/// What is logged.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
        }
    }
}

impl Config {
    /// Reads a configuration file's text and lays environment-like settings over it: names as in the file, nested ones
    /// joined by `__` (`RATES__CHAT`), letters in any case.
    ///
    /// # Errors
    /// Every mistake that was found, a line each, with its place in the file where it has one.
    pub fn read<'a>(
        file: &str,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<String>> {
        let complaint = |error: toml::de::Error| vec![error.to_string().trim_end().to_owned()];
        let settings: Vec<_> = settings.into_iter().collect();
        let config: Self = if settings.is_empty() {
            toml::from_str(file).map_err(complaint)?
        } else {
            // Read once as it is, so that mistakes in the file are told with their line.
            toml::from_str::<Self>(file).map_err(complaint)?;
            let mut table: toml::Table = toml::from_str(file).map_err(complaint)?;
            for (name, value) in settings {
                overlay(&mut table, &name.to_ascii_lowercase(), value)?;
            }
            table.try_into().map_err(complaint)?
        };
        let mistakes = config.mistakes();
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(mistakes)
        }
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

    /// Whether strangers may read public figures.
    #[must_use]
    pub fn public_reads(&self) -> bool {
        self.auth
            .public_reads
            .unwrap_or_else(|| self.listen.ip().is_loopback())
    }

    /// What reads well but makes no sense.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |fine: bool, what: &str| {
            if !fine {
                mistakes.push(what.to_owned());
            }
        };
        check(
            self.limits.connections > 0,
            "limits.connections must be at least 1",
        );
        check(
            self.limits.in_flight > 0,
            "limits.in_flight must be at least 1",
        );
        check(self.chat.in_flight > 0, "chat.in_flight must be at least 1");
        check(
            self.chat.price > Credits::ZERO,
            "chat.price must be more than 0",
        );
        check(
            self.chat.max_message > 0,
            "chat.max_message must be at least 1",
        );
        check(
            self.breaker.consecutive_failures > 0,
            "breaker.consecutive_failures must be at least 1",
        );
        check(
            self.breaker.last_calls > 0,
            "breaker.last_calls must be at least 1",
        );
        check(
            (0.0..=1.0).contains(&self.breaker.failure_rate),
            "breaker.failure_rate must be between 0 and 1",
        );
        check(
            self.miner.every >= Duration::from_secs(1),
            "miner.every must be at least 1s",
        );
        check(
            self.log.level.parse::<log::LevelFilter>().is_ok(),
            "log.level must be error, warn, info, debug or trace",
        );
        let urls = self
            .inference
            .iter()
            .map(|node| (format!("inference {:?}: url", node.name), &node.url));
        let chain = self
            .chain
            .rpc
            .iter()
            .map(|url| ("chain.rpc".to_owned(), url));
        let miner = self
            .miner
            .url
            .iter()
            .map(|url| ("miner.url".to_owned(), url));
        for (name, url) in urls.chain(chain).chain(miner) {
            let plain = url
                .parse::<hyper::Uri>()
                .is_ok_and(|url| url.scheme_str() == Some("http") && url.host().is_some());
            check(
                plain,
                &format!(
                    "{name} must be an http:// address with a host (https is not supported yet), not {url:?}"
                ),
            );
        }
        let mut names = BTreeSet::from(["chain", "miner"]);
        for node in &self.inference {
            let fine = !node.name.is_empty()
                && node
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            check(
                fine,
                &format!(
                    "inference name {:?} must be letters, digits, dots, dashes or underscores",
                    node.name
                ),
            );
            check(
                names.insert(&node.name),
                &format!("inference name {:?} is taken", node.name),
            );
        }
        mistakes
    }
}

/// Sets `a__b = value` in a table. The value is read as TOML where it is a number, a boolean or an array, else as a text.
fn overlay(table: &mut toml::Table, name: &str, value: &str) -> Result<(), Vec<String>> {
    let (mut table, mut rest) = (table, name);
    while let Some((section, inner)) = rest.split_once("__") {
        let entry = table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry
            .as_table_mut()
            .ok_or_else(|| vec![format!("{name}: {section} is no section")])?;
        rest = inner;
    }
    let literal = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"));
    let scalar = literal.filter(|value| {
        value.is_integer() || value.is_float() || value.is_bool() || value.is_array()
    });
    table.insert(
        rest.to_owned(),
        scalar.unwrap_or_else(|| toml::Value::String(value.to_owned())),
    );
    Ok(())
}

fn breaker_settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<breaker::Settings, D::Error> {
    #[derive(Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Written {
        consecutive_failures: u32,
        failure_rate: f64,
        last_calls: usize,
        #[serde(deserialize_with = "units::duration")]
        open: Duration,
        #[serde(deserialize_with = "units::duration")]
        max_open: Duration,
    }
    impl Default for Written {
        fn default() -> Self {
            let breaker::Settings {
                consecutive_failures,
                failure_rate,
                last_calls,
                open,
                max_open,
            } = breaker::Settings::default();
            Self {
                consecutive_failures,
                failure_rate,
                last_calls,
                open,
                max_open,
            }
        }
    }
    let Written {
        consecutive_failures,
        failure_rate,
        last_calls,
        open,
        max_open,
    } = Written::deserialize(deserializer)?;
    Ok(breaker::Settings {
        consecutive_failures,
        failure_rate,
        last_calls,
        open,
        max_open,
    })
}

impl<'de> Deserialize<'de> for Wallet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
        let file = "listen = \"127.0.0.1:9000\"\n[chat]\nprice = 0.25\nqueue = 3\n[rates]\nchat = \"20/min\"";
        let settings = [
            ("LISTEN", "127.0.0.1:9001"),
            ("RATES__CHAT", "off"),
            ("CHAT__IDLE_TIMEOUT", "5s"),
            ("CHAT__QUEUE", "7"),
        ];
        let config = Config::read(file, settings).unwrap();
        assert_eq!(config.listen.port(), 9001);
        assert_eq!(config.chat.price, Credits::from_micro(250_000));
        assert_eq!((config.chat.queue, config.chat.in_flight), (7, 4));
        assert_eq!(config.chat.idle_timeout, Duration::from_secs(5));
        assert_eq!(config.rates.get(RateClass::Chat), None);
        assert_eq!(config.rates.get(RateClass::Auth).unwrap().count.get(), 5);
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_line() {
        for (file, told) in [
            ("\n[chat]\nprize = 1", "line 3"),
            ("[rates]\nchat = \"ten\"", "ten"),
            ("[rates]\nchats = \"1/min\"", "chats"),
            ("[limits]\nbody = \"64 elephants\"", "line 2"),
            ("[miner]\nwallet = \"remes1x\"", "line 2"),
        ] {
            let mistakes = Config::read(file, []).unwrap_err().join("\n");
            assert!(mistakes.contains(told), "{mistakes}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_all_at_once() {
        let file = "[chat]\nprice = 0\n[chain]\nrpc = \"ftp://x\"\n[log]\nlevel = \"loud\"";
        assert_eq!(Config::read(file, []).unwrap_err().len(), 3);
    }
}
