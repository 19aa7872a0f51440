use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Peer, Proxy, units};
use crate::breaker::Settings;
use crate::limits::{Rate, RateClass};
use crate::model::Credits;

/// Sizes and times of the HTTP side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Connections open at once; further ones wait unaccepted.
    pub connections: usize,
    /// Connections open at once from one client address; a further one is closed. Trusted proxies are not counted.
    pub per_address: usize,
    /// Requests worked on at once; a further one is refused with 503.
    pub in_flight: usize,
    /// Bytes of a request's body.
    #[serde(with = "units::size")]
    pub body: usize,
    /// Bytes of a body of samples.
    #[serde(with = "units::size")]
    pub telemetry_body: usize,
    /// Bytes of a chat's body.
    #[serde(with = "units::size")]
    pub chat_body: usize,
    /// Bytes of a body of OpenAI's API, where conversations and pictures come along.
    #[serde(with = "units::size")]
    pub v1_body: usize,
    /// For the whole request head, and for the pause between requests on one connection.
    #[serde(with = "units::duration")]
    pub header_timeout: Duration,
    /// For the whole body.
    #[serde(with = "units::duration")]
    pub body_timeout: Duration,
    /// For a client to take something of its answer.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// For the answer to anything but chat.
    #[serde(with = "units::duration")]
    pub request_timeout: Duration,
    /// For what is under way when the server is told to stop.
    #[serde(with = "units::duration")]
    pub shutdown_grace: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_address: 128,
            in_flight: 512,
            body: 64 << 10,
            telemetry_body: 1 << 20,
            chat_body: 256 << 10,
            v1_body: 2 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// Rates by class; `None` is "off".
///
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

const CLASSES: [&str; RateClass::ALL.len()] = {
    let mut names = [""; RateClass::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = RateClass::ALL[at].as_str();
        at += 1;
    }
    names
};

/// A rate as a text; so an error of one is at its own key.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct RateText(Option<Rate>);

impl TryFrom<String> for RateText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        units::parse_rate(&text).map(Self)
    }
}

impl<'de> Deserialize<'de> for RatesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut rates = Self::default();
        for (name, RateText(rate)) in BTreeMap::<String, RateText>::deserialize(deserializer)? {
            let class = RateClass::ALL
                .into_iter()
                .find(|class| class.as_str() == name);
            let class = class.ok_or_else(|| D::Error::unknown_field(&name, &CLASSES))?;
            rates.set(class, rate);
        }
        Ok(rates)
    }
}

impl Serialize for RatesConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for class in RateClass::ALL {
            let text = units::rate_text(self.get(class));
            let text = text.ok_or_else(|| S::Error::custom("a rate is by s, min or h"))?;
            map.serialize_entry(class.as_str(), &text)?;
        }
        map.end()
    }
}

/// Who may do what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AuthConfig {
    /// Whether strangers may read public figures, behind proxies too; where not set, only while every listener is loopback
    /// or a Unix socket and no proxy is trusted, and only in requests that no proxy passed on.
    pub public_reads: Option<bool>,
    /// Names this server answers to, besides its address and `localhost`.
    pub hosts: Vec<String>,
    /// Origins whose pages may call this server, as browsers write them: `https://app.example`.
    pub cors_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Proxy>,
    /// What a wallet login signs in to, for the person who signs; where empty, the address listened on.
    pub public_name: String,
    /// How long the key of a wallet login is valid.
    #[serde(with = "units::duration")]
    pub login_ttl: Duration,
    /// Active keys of one wallet at most.
    pub max_keys_per_wallet: usize,
}

impl AuthConfig {
    /// Whether this peer's `X-Forwarded-For` is believed.
    #[must_use]
    pub fn trusts(&self, peer: Peer) -> bool {
        self.trusted_proxies.iter().any(|proxy| proxy.is(peer))
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            public_reads: None,
            hosts: Vec::new(),
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            public_name: String::new(),
            login_ttl: Duration::from_secs(3600),
            max_keys_per_wallet: 10,
        }
    }
}

/// Paid chat.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChatConfig {
    /// What one chat costs, whatever its length.
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
    #[serde(with = "units::duration")]
    pub first_text_timeout: Duration,
    /// For an answer that is not streamed.
    #[serde(with = "units::duration")]
    pub answer_timeout: Duration,
    /// Between two texts.
    #[serde(with = "units::duration")]
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
            answer_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What is logged by the program `r3mes-edge`. The library takes whatever logger its host installed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

/// How a line of the log is written, in [`LogConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How [`Settings`] is written.
#[derive(Serialize, Deserialize)]
#[serde(
    remote = "Settings",
    default = "Settings::default",
    deny_unknown_fields
)]
pub(super) struct Breaker {
    consecutive_failures: u32,
    failure_rate: f64,
    slow_rate: f64,
    #[serde(with = "units::duration_or_off")]
    slow: Option<Duration>,
    last_calls: usize,
    #[serde(with = "units::duration")]
    open: Duration,
    #[serde(with = "units::duration")]
    max_open: Duration,
}
