//! What an operator can set, one struct per subject. Every setting has a default, so that no file is needed.
//!
//! The library reads no environment and no file: the command line hands the texts in, flags over environment over file.
//!
//! With the feature `toml` a configuration can be read from such texts ([`Config`] has `read` then), and there are `Reader`,
//! `Origin`, `Origins`, `Mistake` and `Mistakes`. Made in code, printed and compared it can be without.

mod alerts;
mod listen;
#[cfg(feature = "toml")]
mod mistake;
mod print;
mod proxies;
#[cfg(feature = "toml")]
mod reader;
mod risks;
mod sections;
mod sense;
mod storage;
mod units;
mod upstreams;
#[cfg(feature = "toml")]
mod value;

pub use alerts::{AlertsConfig, WebhookKind};
pub use listen::Listen;
#[cfg(feature = "toml")]
pub use mistake::{Mistake, Mistakes, Origin};
pub use print::{Change, Line, Section};
pub use proxies::{Peer, Proxy};
#[cfg(feature = "toml")]
pub use reader::{Origins, Reader};
pub use risks::Risk;
pub use sections::{AuthConfig, ChatConfig, LimitsConfig, LogConfig, LogFormat, RatesConfig};
pub use storage::BackupConfig;
pub use units::parse_duration;
pub use upstreams::{
    AdapterConfig, ChainConfig, InferenceConfig, InferenceKind, MinerConfig, MinerKind,
};

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
/// assert!(config.mistakes().is_empty());
/// // The second can be reached from elsewhere, so figures want a key.
/// assert_eq!(config.exposed().count(), 1);
/// assert!(!config.public_reads());
/// assert_eq!(config.public_name(), "127.0.0.1:0");
/// // What makes no sense is told all at once, each with its setting.
/// config.limits.in_flight = 0;
/// config.chat.default_adapter.clear();
/// config.log.level = "loud".to_owned();
/// let told = config.mistakes().join("\n");
/// assert!(told.contains("limits.in_flight") && told.contains("log.level"));
/// # Ok::<_, String>(())
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
    /// joined by `__` (`RATES__CHAT`), letters in any case. [`Reader`] tells where each setting comes from as well. With the
    /// feature `toml`.
    ///
    /// # Errors
    /// Every mistake that was found, each with its place.
    ///
    /// # Example
    /// ```
    /// use r3mes_edge::Config;
    ///
    /// let file = "listen = \"127.0.0.1:9000\"\n[rates]\nchat = \"20/min\"";
    /// let environment = [("LISTEN", "127.0.0.1:9001"), ("CHAT__PRICE", "0.5")];
    /// let config = Config::read(file, environment).map_err(|mistakes| mistakes.to_string())?;
    /// assert_eq!((config.listen[0].to_string(), config.chat.price.to_string()), ("127.0.0.1:9001".to_owned(), "0.5".to_owned()));
    /// // Every mistake is told at once.
    /// let mistakes = Config::read("[chat]\nprice = 0\nmax_message = 0", []).unwrap_err();
    /// assert_eq!(mistakes.count(), 2);
    /// # Ok::<_, String>(())
    /// ```
    #[cfg(feature = "toml")]
    pub fn read<'a>(
        file: &str,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Mistakes> {
        let mut reader = Reader::default().file("configuration", file);
        for (name, value) in settings {
            reader = reader.set(name, value.as_ref(), name);
        }
        reader.finish().map(|(config, _)| config)
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

    /// What is of the right type but makes no sense, a sentence each. Read from a file it is refused; whoever makes a
    /// configuration in code looks here before a server is started with it.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let senseless = self.senseless().into_iter();
        senseless.map(|senseless| senseless.what).collect()
    }
}

#[cfg(all(test, feature = "toml"))]
mod tests {
    use super::*;
    use crate::limits::RateClass;
    use crate::model::Credits;
    use proptest::prelude::*;
    use std::time::Duration;

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
        assert_eq!(config.listen, ["127.0.0.1:9001".parse().unwrap()]);
        assert_eq!(config.chat.price, Credits::from_micro(250_000));
        assert_eq!((config.chat.queue, config.chat.in_flight), (7, 4));
        assert_eq!(config.chat.idle_timeout, Duration::from_secs(5));
        assert_eq!(config.rates.get(RateClass::Chat), None);
        assert_eq!(config.rates.get(RateClass::Auth).unwrap().count.get(), 5);
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_line() {
        for (file, told) in [
            (
                "\n[chat]\nprize = 1",
                "3:1: chat.prize is not known; did you mean chat.price?",
            ),
            (
                "[rates]\nchat = \"ten\"",
                "2:1: rates.chat is wrong: \"ten\" is no rate",
            ),
            (
                "[rates]\nchats = \"1/min\"",
                "2:1: rates.chats is not known; did you mean rates.chat?",
            ),
            (
                "[limits]\n  body = \"64 elephants\"",
                "2:3: limits.body is wrong: \"64 elephants\" is no size",
            ),
            (
                "[miner]\nwallet = \"remes1x\"",
                "2:1: miner.wallet is wrong",
            ),
            (
                "[chatt]\nprice = 1\nqueue = 2",
                "1:2: chatt is not known; did you mean chat?",
            ),
            ("chat = 5", "1:1: chat must be a section, not 5"),
            (
                "chat.price.high = 5",
                "1:12: chat.price.high must be a number",
            ),
            (
                "[chat]\nqueue = \"many\"",
                "2:1: chat.queue must be a whole number that is not negative, not the text \"many\"",
            ),
            (
                "[log]\nformat = \"jsn\"",
                "2:1: log.format must be auto or text or json, not \"jsn\"",
            ),
            ("[miner]\nkind = 1", "2:1: miner.kind must be a text, not 1"),
            ("discover = \"yes\"", "1:1: discover must be true or false"),
            (
                "[chat]\nprice = 1\n[log]\nlevel = \"loud\"",
                "4:1: log.level must be error,",
            ),
            (
                "[[inference]]\nname = \"a\"\n\n[[inference]]\nnam = \"b\"\nkind = \"r3mes\"\nurl = \"http://b\"",
                "5:1: inference[1].nam is not known; did you mean inference[1].name?",
            ),
            ("[chat]\nprice = ", "2:9: this is not TOML"),
            (
                "[adapters.a]\nkeywords = [1]",
                "2:1: adapters.a.keywords must be a text, not 1",
            ),
        ] {
            let mistakes = Config::read(file, []).unwrap_err().to_string();
            let told = format!("configuration:{told}");
            assert!(mistakes.contains(&told), "{mistakes}");
        }
    }

    #[test]
    fn a_mistake_of_the_environment_is_told_with_its_variable_and_hides_none_of_the_file() {
        let settings = [
            ("CHAT__PRIZE", "1"),
            ("LIMITS__BODY", "64"),
            ("CHAT__QUEUE", "-1"),
            ("CHAT", "1"),
            ("INFERENCE__0__URL", "http://x"),
            ("LOG__LEVEL", "loud"),
            ("LISTEN", "here"),
        ];
        let told = [
            "configuration:1:1: databas is not known; did you mean database?",
            "CHAT: chat must be a section, not 1",
            "CHAT__PRIZE: chat.prize is not known; did you mean chat.price?",
            "CHAT__QUEUE: chat.queue must be a whole number that is not negative, not -1",
            "INFERENCE__0__URL: inference must be a list, not a section",
            "LIMITS__BODY: limits.body is wrong: \"64\" is no size; write it as 512B, 64KiB or 1MiB",
            "LISTEN: listen is wrong: \"here\" is no place to listen on; write it as 127.0.0.1:8000, [::1]:8000 or unix:/run/r3mes-edge/edge.sock",
            "LOG__LEVEL: log.level must be error, warn, info, debug or trace",
        ];
        let mistakes = Config::read("databas = \"x\"", settings).unwrap_err();
        assert_eq!(mistakes.to_string(), told.join("\n"));
        // A file that is no TOML takes none of them away either.
        let mistakes = Config::read("databas = ", settings).unwrap_err();
        assert_eq!(mistakes.count(), 1 + settings.len());
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_a_mistake() {
        use std::os::unix::ffi::OsStrExt;
        let value = std::ffi::OsStr::from_bytes(b"\xff");
        let read = Reader::default().set("DATABASE", value, "R3MES_EDGE_DATABASE");
        let told = read.finish().unwrap_err().to_string();
        assert_eq!(told, "R3MES_EDGE_DATABASE: database is not UTF-8");
    }

    #[test]
    fn what_a_node_lacks_is_told_where_the_node_stands() {
        let file = "[chat]\n[[inference]]\n[[inference]]\nname = \"b\"\nkind = \"openai\"";
        let told = Config::read(file, []).unwrap_err().to_string();
        let told: Vec<_> = told.lines().collect();
        assert_eq!(
            told,
            [
                "configuration:2:1: inference[0].name is missing",
                "configuration:2:1: inference[0].kind is missing",
                "configuration:2:1: inference[0].url is missing",
                "configuration:3:1: inference[1].url is missing",
            ]
        );
    }

    #[test]
    fn every_setting_knows_where_it_comes_from() {
        let reader = Reader::default()
            .file("edge.toml", "[chat]\nprice = 2\nqueue = 3\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"")
            .set("CHAT__QUEUE", "4".as_ref(), "R3MES_EDGE_CHAT__QUEUE")
            .set("listen", "127.0.0.1:1".as_ref(), "--listen");
        let (config, origins) = reader.finish().unwrap();
        assert_eq!(
            (config.chat.queue, config.listen[0].to_string()),
            (4, "127.0.0.1:1".to_owned())
        );
        for (key, origin) in [
            ("chat.price", "edge.toml:2:1"),
            ("chat.queue", "R3MES_EDGE_CHAT__QUEUE"),
            ("listen", "--listen"),
            ("chat.in_flight", "default"),
            ("inference[0].url", "edge.toml:7:1"),
            ("inference[0].model", "default"),
        ] {
            assert_eq!(origins.of(key).to_string(), origin, "{key}");
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
        assert_eq!(Config::read(file, []).unwrap_err().count(), 3);
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

    /// Settings that stand in the example, and what is wrong with them.
    const PLANTED: [(&str, &str); 12] = [
        ("price = 1.0 ", "price = \"much\" "),
        ("price = 1.0 ", "prize = 1.0 "),
        ("queue = 16 ", "queue = -16 "),
        ("connections = 1024 ", "connections = 0 "),
        ("body = \"64KiB\"", "body = 64"),
        ("telemetry = \"600/min\"", "telemetry = \"600/fortnight\""),
        ("hosts = []", "hosts = [1]"),
        ("kind = \"r3mes\"   ", "kind = \"other\" "),
        ("days = \"forever\"", "days = \"ever\""),
        ("every = \"10s\"", "every = \"1ms\""),
        ("level = \"info\"", "level = 3"),
        ("[log]", "[logg]"),
    ];

    proptest! {
        #[test]
        fn as_many_mistakes_are_told_as_were_made(chosen in prop::sample::subsequence((0..PLANTED.len()).collect::<Vec<_>>(), 0..=PLANTED.len())) {
            let mut example = include_str!("../examples/config.toml").to_owned();
            let mut made = BTreeSet::new();
            for (right, wrong) in chosen.iter().map(|at| PLANTED[*at]) {
                // Not two in one place: a section that is not known has one mistake.
                let Some(at) = example.find(&format!("\n{right}")) else { continue };
                if right.starts_with("level") && chosen.contains(&11) { continue }
                example.replace_range(at + 1..at + 1 + right.len(), wrong);
                made.insert(example[..=at].matches('\n').count() + 1);
            }
            let told: BTreeSet<_> = match Config::read(&example, []) {
                Ok(_) => BTreeSet::new(),
                Err(mistakes) => {
                    prop_assert_eq!(mistakes.count(), made.len(), "{}", mistakes);
                    mistakes.iter().map(|mistake| match mistake.origin {
                        Origin::File { line, .. } => line,
                        _ => 0,
                    }).collect()
                }
            };
            prop_assert_eq!(told, made);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>(), name in any::<String>(), value in any::<String>()) {
            let _ = Config::read(&text, []);
            let _ = Config::read(&text, [(name.as_str(), value.as_str())]);
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
                    prop_assert!(mistakes.iter().all(|mistake| !mistake.what.is_empty()));
                }
            }
        }
    }
}
