//! What an operator can set, one struct per subject. Every setting has a default, so that no file is needed.
//!
//! The library reads no environment and no file: the command line hands the texts in, flags over environment over file.

mod alerts;
mod sections;
mod storage;
mod units;

pub use alerts::{AlertsConfig, WebhookKind};
pub use sections::{
    AdapterConfig, AuthConfig, ChainConfig, ChatConfig, InferenceConfig, InferenceKind,
    LimitsConfig, LogConfig, LogFormat, MinerConfig, MinerKind, RatesConfig,
};
pub use storage::BackupConfig;
pub use units::parse_duration;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::breaker;
use crate::model::{Credits, Retention};

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
    #[serde(deserialize_with = "sections::breaker")]
    pub breaker: breaker::Settings,
    /// How long samples and what was made from them are kept.
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
            retention: Retention::default(),
            backup: BackupConfig::default(),
            alerts: AlertsConfig::default(),
            log: LogConfig::default(),
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
        let alone = self.listen.ip().is_loopback() && self.auth.trusted_proxies.is_empty();
        self.auth.public_reads.unwrap_or(alone)
    }

    /// What a wallet login signs in to.
    #[must_use]
    pub fn public_name(&self) -> String {
        if self.auth.public_name.is_empty() {
            self.listen.to_string()
        } else {
            self.auth.public_name.clone()
        }
    }

    /// What reads well but makes no sense.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |fine: bool, what: &str| {
            if !fine {
                mistakes.push(what.to_owned());
            }
        };
        // What sizes a table or counts permits is bounded above too: a slip of the hand must not panic at the start.
        let sizes = [
            ("limits.connections", self.limits.connections),
            ("limits.per_address", self.limits.per_address),
            ("limits.in_flight", self.limits.in_flight),
            ("chat.in_flight", self.chat.in_flight),
            ("breaker.last_calls", self.breaker.last_calls),
        ];
        for (name, size) in sizes {
            check(
                (1..=1_000_000).contains(&size),
                &format!("{name} must be between 1 and 1000000"),
            );
        }
        check(
            !self.auth.public_name.contains(char::is_control),
            "auth.public_name must be one line",
        );
        check(
            self.auth.login_ttl >= Duration::from_secs(60),
            "auth.login_ttl must be at least 1min",
        );
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
        for (name, rate) in [
            ("failure_rate", self.breaker.failure_rate),
            ("slow_rate", self.breaker.slow_rate),
        ] {
            check(
                (0.0..=1.0).contains(&rate),
                &format!("breaker.{name} must be between 0 and 1"),
            );
        }
        check(
            self.miner.every >= Duration::from_secs(1),
            "miner.every must be at least 1s",
        );
        let Retention {
            raw,
            minutes,
            hours,
            days,
        } = self.retention;
        check(
            raw.is_none_or(|raw| raw >= Duration::from_secs(3600)),
            "retention.raw must be at least 1h",
        );
        // For ever is longer than any time.
        let rising = [raw, minutes, hours, days]
            .map(|kept| kept.unwrap_or(Duration::MAX))
            .is_sorted();
        check(
            rising,
            "retention: hours must not be kept for less time than minutes, nor minutes than raw samples, nor days than hours",
        );
        check(
            self.backup
                .every
                .is_none_or(|every| every >= Duration::from_secs(60)),
            "backup.every must be at least 1min",
        );
        check(self.backup.keep > 0, "backup.keep must be at least 1");
        for (name, share) in [
            ("error_rate", self.alerts.error_rate),
            ("pool_use", self.alerts.pool_use),
            ("hashrate_low", self.alerts.hashrate_low),
        ] {
            check(
                (0.0..=1.0).contains(&share),
                &format!("alerts.{name} must be between 0 and 1"),
            );
        }
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
            let plain = url.parse::<hyper::Uri>().is_ok_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            check(
                plain,
                &format!("{name} must be an http:// or https:// address with a host, not {url:?}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RateClass;
    use proptest::prelude::*;

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
    fn what_would_size_a_table_beyond_reason_is_refused() {
        for setting in [
            "LIMITS__CONNECTIONS",
            "LIMITS__IN_FLIGHT",
            "LIMITS__PER_ADDRESS",
            "CHAT__IN_FLIGHT",
            "BREAKER__LAST_CALLS",
        ] {
            for size in ["0", "9223372036854775807"] {
                assert!(
                    Config::read("", [(setting, size)]).is_err(),
                    "{setting} = {size}"
                );
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_all_at_once() {
        let file = "[chat]\nprice = 0\n[chain]\nrpc = \"ftp://x\"\n[log]\nlevel = \"loud\"";
        assert_eq!(Config::read(file, []).unwrap_err().len(), 3);
    }

    #[test]
    fn the_example_names_every_setting_and_its_default() {
        let example = include_str!("../examples/config.toml");
        let defaults = format!("{:#?}", Config::default());
        assert_eq!(
            format!("{:#?}", Config::read(example, []).unwrap()),
            defaults
        );
        // With what is commented out for want of a default, every field stands there.
        let whole: String = example
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
            .collect();
        let settings = defaults
            .lines()
            .filter_map(|line| line.trim().split_once(": "));
        for name in settings
            .map(|(name, _)| name)
            .filter(|name| !matches!(*name, "rates" | "count" | "per"))
        {
            let named = whole.lines().any(|line| {
                let section = line.trim_matches(['[', ']']).split('.').next() == Some(name);
                section
                    || line
                        .split_once(" =")
                        .is_some_and(|(setting, _)| setting == name)
                    || line.starts_with(&format!("[{name}]"))
            });
            assert!(named, "examples/config.toml does not name {name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>(), name in any::<String>(), value in any::<String>()) {
            let _ = Config::read(&text, []);
            let _ = Config::read("", [(name.as_str(), value.as_str())]);
        }

        #[test]
        fn a_changed_example_is_read_or_refused_with_a_reason(at in any::<prop::sample::Index>(), put in "([0-9-]{1,20}|[a-z_\\[\\]{}.\"'=#\n]{1,3}|\\PC)", section in "(limits|chat|rates|auth|chain|miner|breaker|log)", name in "[a-z_]{1,12}", value in "(-?[0-9]{1,20}|[0-9]{1,9}(ms|s|d|KiB|GiB|/min)|\\PC{0,6})") {
            let mut example = include_str!("../examples/config.toml").to_owned();
            let mut at = at.index(example.len());
            while !example.is_char_boundary(at) {
                at -= 1;
            }
            let setting = format!("{section}__{name}");
            let reading = |text: &str| [Config::read(text, []), Config::read(text, [(setting.as_str(), value.as_str())])];
            example.insert_str(at, &put);
            for read in reading(&example) {
                if let Err(mistakes) = read {
                    prop_assert!(mistakes.iter().any(|mistake| !mistake.is_empty()));
                }
            }
        }
    }
}
