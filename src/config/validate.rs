//! Values that have the right type and still make no sense: out of range, addresses without a host, combinations that
//! contradict each other, access that is open to everybody.

use std::collections::BTreeSet;
use std::time::Duration;

use super::print::join;
use super::{Config, ConfigError, Origin, Proxy};

fn check(valid: bool, key: &str, message: &str) -> Result<(), ConfigError> {
    match valid {
        true => Ok(()),
        false => Err(ConfigError::new(Origin::Default, key, message)),
    }
}

impl Config {
    /// Checks what the types cannot. A configuration that was read from a text has passed this; call it for one that was
    /// made in code before a server is started with it.
    ///
    /// # Errors
    /// The first key whose value makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_access()?;
        for (section, invalid) in [
            ("", self.invalid()),
            ("limits", self.limits.invalid()),
            ("rates", self.rates.invalid()),
            ("auth", self.auth.invalid()),
            ("chat", self.chat.invalid()),
            ("chain", self.chain.invalid()),
            ("miner", self.miner.invalid()),
            ("breaker", self.breaker.invalid()),
            ("retention", self.retention.invalid()),
            ("backup", self.backup.invalid()),
            ("alerts", self.alerts.invalid()),
            ("log", self.log.invalid()),
        ] {
            if let Some((key, message)) = invalid {
                check(false, &join(section, key), &message)?;
            }
        }
        let stored = self.retention;
        let rising = [stored.raw, stored.minutes, stored.hours, stored.days]
            .is_sorted_by_key(|time| time.unwrap_or(Duration::MAX));
        let message = "raw samples, minutes, hours and days must each be kept at least as long as the one before";
        check(rising, "retention", message)?;
        self.validate_upstreams()
    }

    fn validate_upstreams(&self) -> Result<(), ConfigError> {
        let url = |key: &str, text: &str| {
            let url = text.parse::<hyper::Uri>().ok();
            let is_http = |url: &hyper::Uri| matches!(url.scheme_str(), Some("http" | "https"));
            let valid = url.is_some_and(|url| is_http(&url) && url.host().is_some());
            let message =
                format!("must be an http:// or https:// address with a host, not {text:?}");
            check(valid, key, &message)
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let mut names = BTreeSet::from(["chain", "miner"]);
        for (at, node) in self.inference.iter().enumerate() {
            let (key, name) = (format!("inference[{at}].name"), node.name.as_str());
            let valid = !name.is_empty() && name.bytes().all(plain) && names.insert(name);
            let message = format!(
                "must be letters, digits, dots, dashes or underscores, and a name of its own, not {name:?}"
            );
            check(valid, &key, &message)?;
            url(&format!("inference[{at}].url"), &node.url)?;
        }
        let chain = self.chain.rpc.iter().map(|text| ("chain.rpc", text));
        let miner = self.miner.url.iter().map(|text| ("miner.url", text));
        chain
            .chain(miner)
            .try_for_each(|(key, text)| url(key, text))
    }

    /// Refuses values that open the server to everybody; checked at every start, also of a configuration made in code.
    pub(crate) fn validate_access(&self) -> Result<(), ConfigError> {
        let auth = &self.auth;
        for proxy in &auth.trusted_proxies {
            let message = format!(
                "{proxy}: everybody in there could choose the address that limits go by; name the proxies' own addresses"
            );
            check(!is_wide(proxy), "auth.trusted_proxies", &message)?;
        }
        for origin in &auth.cors_origins {
            let message = format!(
                "{origin:?}: name each origin as browsers do, \"https://app.example\"; a wildcard or \"null\" would let every page call this server"
            );
            check(is_origin(origin), "auth.cors_origins", &message)?;
        }
        for host in &auth.hosts {
            let message = format!(
                "{host:?}: name each host, \"edge.example\", without scheme, port or wildcard; one that lets in any name lets in a page whose name was made to point here (DNS rebinding)"
            );
            check(is_host(host), "auth.hosts", &message)?;
        }
        Ok(())
    }
}

/// Wider than any network that one operator has: 10.0.0.0/8 and fc00::/7 are the widest private ones.
fn is_wide(proxy: &Proxy) -> bool {
    match proxy {
        Proxy::Network(network) => {
            network.prefix_len() < if network.addr().is_ipv4() { 8 } else { 7 }
        }
        Proxy::Unix => false,
    }
}

/// Whether a browser writes an origin like this; no other text would ever match one.
fn is_origin(text: &str) -> bool {
    let plain = |part: &str, more: &[u8]| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b);
        !part.is_empty() && part.bytes().all(known)
    };
    text.split_once("://").is_some_and(|(scheme, authority)| {
        let default_port = [("https", ":443"), ("http", ":80")];
        let has = |(name, port): (&str, &str)| scheme == name && authority.ends_with(port);
        plain(scheme, b"+.-") && plain(authority, b"._-:[]") && !default_port.into_iter().any(has)
    })
}

fn is_host(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let ipv6 = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match ipv6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(known) && !text.starts_with('.'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(auth: &str) -> Result<Config, String> {
        Config::read(auth, []).map_err(|error| error.to_string())
    }

    #[test]
    fn proxy_networks_wider_than_any_private_one_are_refused() {
        for network in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3"] {
            let refused = read(&format!("auth.trusted_proxies = [\"{network}\"]")).unwrap_err();
            assert!(refused.contains(network), "{refused}");
            assert!(refused.contains("proxies' own addresses"), "{refused}");
        }
        read("auth.trusted_proxies = [\"10.0.0.0/8\", \"fc00::/7\", \"127.0.0.1\", \"unix\"]")
            .unwrap();
    }

    #[test]
    fn origins_and_hosts_that_match_everything_or_nothing_are_refused() {
        for origin in [
            "*",
            "null",
            "app.example",
            "https://*.app.example",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "",
        ] {
            let refused = read(&format!("auth.cors_origins = [\"{origin}\"]")).unwrap_err();
            assert!(refused.contains("auth.cors_origins"), "{origin}: {refused}");
        }
        for host in [
            "*",
            "*.edge.example",
            ".edge.example",
            "https://edge.example",
            "edge.example:443",
            "[::1",
            "",
        ] {
            let refused = read(&format!("auth.hosts = [\"{host}\"]")).unwrap_err();
            assert!(refused.contains("auth.hosts"), "{host}: {refused}");
        }
        read("auth.cors_origins = [\"https://app.example\", \"http://[::1]:3000\", \"moz-extension://0a-1b\"]").unwrap();
        read("auth.hosts = [\"edge.example\", \"203.0.113.7\", \"[2001:db8::1]\"]").unwrap();
    }
}
