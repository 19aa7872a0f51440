//! What reads well but makes no sense.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Config;
use crate::model::{Credits, Retention};

/// A setting or a combination of settings that cannot be meant.
pub(crate) struct Senseless {
    /// The settings it is about; only a reader knows where they stand.
    #[cfg_attr(
        not(feature = "toml"),
        expect(dead_code, reason = "there is no reader")
    )]
    pub(super) keys: Vec<String>,
    /// A whole sentence.
    pub(crate) what: String,
}

impl Config {
    /// Everything that cannot be meant.
    pub(super) fn senseless(&self) -> Vec<Senseless> {
        let mut found = self.refused();
        let mut check = |fine: bool, key: &str, what: &str| {
            if !fine {
                found.push(Senseless {
                    keys: vec![key.to_owned()],
                    what: format!("{key} {what}"),
                });
            }
        };
        check(!self.listen.is_empty(), "listen", "names no place");
        // What sizes a table or counts permits is bounded above too: a slip of the hand must not panic at the start.
        for (key, size) in [
            ("limits.connections", self.limits.connections),
            ("limits.per_address", self.limits.per_address),
            ("limits.in_flight", self.limits.in_flight),
            ("chat.in_flight", self.chat.in_flight),
            ("breaker.last_calls", self.breaker.last_calls),
        ] {
            let fine = (1..=1_000_000).contains(&size);
            check(fine, key, "must be between 1 and 1000000");
        }
        for (key, count) in [
            ("chat.max_message", self.chat.max_message),
            (
                "breaker.consecutive_failures",
                self.breaker.consecutive_failures as usize,
            ),
            ("backup.keep", self.backup.keep),
        ] {
            check(count > 0, key, "must be at least 1");
        }
        for (key, share) in [
            ("breaker.failure_rate", self.breaker.failure_rate),
            ("breaker.slow_rate", self.breaker.slow_rate),
            ("alerts.error_rate", self.alerts.error_rate),
            ("alerts.pool_use", self.alerts.pool_use),
            ("alerts.hashrate_low", self.alerts.hashrate_low),
        ] {
            let fine = (0.0..=1.0).contains(&share);
            check(fine, key, "must be between 0 and 1");
        }
        for (key, time, least, told) in [
            ("auth.login_ttl", Some(self.auth.login_ttl), 60, "1min"),
            ("miner.every", Some(self.miner.every), 1, "1s"),
            ("retention.raw", self.retention.raw, 3600, "1h"),
            ("backup.every", self.backup.every, 60, "1min"),
        ] {
            let fine = time.is_none_or(|time| time >= Duration::from_secs(least));
            check(fine, key, &format!("must be at least {told}"));
        }
        let finite = self.alerts.temperature.is_finite();
        check(finite, "alerts.temperature", "must be a number");
        let one_line = !self.auth.public_name.contains(char::is_control);
        check(one_line, "auth.public_name", "must be one line");
        let price = self.chat.price;
        check(price > Credits::ZERO, "chat.price", "must be more than 0");
        check(
            self.log.level.parse::<log::LevelFilter>().is_ok(),
            "log.level",
            "must be error, warn, info, debug or trace",
        );
        let nodes = || self.inference.iter().enumerate();
        let urls = nodes().map(|(at, node)| (format!("inference[{at}].url"), &node.url));
        let chain = self.chain.rpc.iter();
        let miner = self.miner.url.iter();
        for (key, url) in urls
            .chain(chain.map(|url| ("chain.rpc".to_owned(), url)))
            .chain(miner.map(|url| ("miner.url".to_owned(), url)))
        {
            let plain = url.parse::<hyper::Uri>().is_ok_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            let what = format!("must be an http:// or https:// address with a host, not {url:?}");
            check(plain, &key, &what);
        }
        let mut names = BTreeSet::from(["chain", "miner"]);
        for (at, node) in nodes() {
            let (key, name) = (format!("inference[{at}].name"), &node.name);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            check(
                !name.is_empty() && name.bytes().all(plain),
                &key,
                &format!("must be letters, digits, dots, dashes or underscores, not {name:?}"),
            );
            check(names.insert(name), &key, &format!("is taken: {name:?}"));
        }
        let Retention {
            raw,
            minutes,
            hours,
            days,
        } = self.retention;
        // For ever is longer than any time.
        let rising = [raw, minutes, hours, days]
            .map(|kept| kept.unwrap_or(Duration::MAX))
            .is_sorted();
        if !rising {
            let keys = ["raw", "minutes", "hours", "days"];
            found.push(Senseless {
                keys: keys.map(|key| format!("retention.{key}")).to_vec(),
                what: "retention: hours must not be kept for less time than minutes, nor minutes than raw samples, nor days than hours".to_owned(),
            });
        }
        found
    }
}
