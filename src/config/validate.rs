//! Values that have the right type and still make no sense: sizes of 0, addresses without a host, combinations that
//! contradict each other.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::Config;
use crate::model::{Credits, Retention};

/// A setting, or a combination of settings, that makes no sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValidationError {
    /// The setting or section, as `chat.price`.
    pub key: String,
    /// What it must be.
    pub message: String,
}

impl ValidationError {
    pub(super) fn new(key: &str, message: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for ValidationError {}

impl Config {
    /// Checks what the types of the settings cannot. A configuration that was read from a text has passed this; call it for
    /// one that was made in code before a server is started with it.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn validate(&self) -> Result<(), ValidationError> {
        let check = |valid: bool, key: &str, message: &str| match valid {
            true => Ok(()),
            false => Err(ValidationError::new(key, message)),
        };
        self.validate_access()?;
        check(!self.listen.is_empty(), "listen", "must name an address")?;
        // Whatever sizes a table or counts permits has an upper bound: tokio panics on a semaphore that is too large.
        for (key, size) in [
            ("limits.connections", self.limits.connections),
            ("limits.per_address", self.limits.per_address),
            ("limits.in_flight", self.limits.in_flight),
            ("chat.in_flight", self.chat.in_flight),
            ("breaker.last_calls", self.breaker.last_calls),
        ] {
            let valid = (1..=1_000_000).contains(&size);
            check(valid, key, "must be between 1 and 1000000")?;
        }
        let failures = self.breaker.consecutive_failures as usize;
        for (key, count) in [
            ("chat.max_message", self.chat.max_message),
            ("breaker.consecutive_failures", failures),
            ("backup.keep", self.backup.keep),
        ] {
            check(count > 0, key, "must be at least 1")?;
        }
        for (key, share) in [
            ("breaker.failure_rate", self.breaker.failure_rate),
            ("breaker.slow_rate", self.breaker.slow_rate),
            ("alerts.error_rate", self.alerts.error_rate),
            ("alerts.pool_use", self.alerts.pool_use),
            ("alerts.hashrate_low", self.alerts.hashrate_low),
        ] {
            let valid = (0.0..=1.0).contains(&share);
            check(valid, key, "must be between 0 and 1")?;
        }
        for (key, time, seconds, text) in [
            ("auth.login_ttl", Some(self.auth.login_ttl), 60, "1min"),
            ("miner.every", Some(self.miner.every), 1, "1s"),
            ("retention.raw", self.retention.raw, 3600, "1h"),
            ("backup.every", self.backup.every, 60, "1min"),
        ] {
            let valid = time.is_none_or(|time| time >= Duration::from_secs(seconds));
            check(valid, key, &format!("must be at least {text}"))?;
        }
        let finite = self.alerts.temperature.is_finite();
        check(finite, "alerts.temperature", "must be a finite number")?;
        let one_line = !self.auth.public_name.contains(char::is_control);
        check(one_line, "auth.public_name", "must be one line")?;
        let priced = self.chat.price > Credits::ZERO;
        check(priced, "chat.price", "must be more than 0")?;
        let level = self.log.level.parse::<log::LevelFilter>().is_ok();
        let levels = "must be error, warn, info, debug or trace";
        check(level, "log.level", levels)?;
        self.validate_upstreams()?;
        let Retention {
            raw,
            minutes,
            hours,
            days,
        } = self.retention;
        let rising = [raw, minutes, hours, days]
            .map(|kept| kept.unwrap_or(Duration::MAX))
            .is_sorted();
        let message = "raw samples, minutes, hours and days must each be kept at least as long as the one before";
        check(rising, "retention", message)
    }

    fn validate_upstreams(&self) -> Result<(), ValidationError> {
        let nodes = || self.inference.iter().enumerate();
        let urls = nodes().map(|(at, node)| (format!("inference[{at}].url"), &node.url));
        let chain = self.chain.rpc.iter();
        let miner = self.miner.url.iter();
        for (key, url) in urls
            .chain(chain.map(|url| ("chain.rpc".to_owned(), url)))
            .chain(miner.map(|url| ("miner.url".to_owned(), url)))
        {
            let valid = url.parse::<hyper::Uri>().is_ok_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            if !valid {
                let message = "must be an http:// or https:// address with a host";
                return Err(ValidationError::new(
                    &key,
                    format!("{message}, not {url:?}"),
                ));
            }
        }
        let mut names = BTreeSet::from(["chain", "miner"]);
        for (at, node) in nodes() {
            let (key, name) = (format!("inference[{at}].name"), node.name.as_str());
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if name.is_empty() || !name.bytes().all(plain) {
                let message = "must be letters, digits, dots, dashes or underscores";
                return Err(ValidationError::new(
                    &key,
                    format!("{message}, not {name:?}"),
                ));
            }
            if !names.insert(name) {
                return Err(ValidationError::new(
                    &key,
                    format!("duplicate name {name:?}"),
                ));
            }
        }
        Ok(())
    }
}
