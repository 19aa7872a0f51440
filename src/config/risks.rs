//! What can be set and should not be: settings that open a door nobody means to open are refused, those that some mean and
//! others do not are told.

use super::{Config, Proxy, ValidationError};

/// Something that is allowed, and may not be meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Risk {
    /// What is so.
    pub what: String,
    /// What to do where it is not meant.
    pub advice: &'static str,
    /// Whether hardly anybody means it.
    pub grave: bool,
}

impl Config {
    /// Refuses settings that open the server to anybody; checked at every start, also of a configuration made in code.
    pub(crate) fn validate_access(&self) -> Result<(), ValidationError> {
        let auth = &self.auth;
        if let Some(proxy) = auth.trusted_proxies.iter().find(|proxy| is_wide(proxy)) {
            let why = "everybody in there could choose the address that limits go by; name the proxies' own addresses";
            let message = format!("{proxy}: {why}");
            return Err(ValidationError::new("auth.trusted_proxies", message));
        }
        if let Some(origin) = auth.cors_origins.iter().find(|origin| !is_origin(origin)) {
            let why = "name each origin as browsers do, \"https://app.example\"; a wildcard or \"null\" would let the pages of everybody call this server";
            let message = format!("{origin:?}: {why}");
            return Err(ValidationError::new("auth.cors_origins", message));
        }
        if let Some(host) = auth.hosts.iter().find(|host| !is_host(host)) {
            let why = "name each host, \"edge.example\", without scheme, port or wildcard; one that lets in any name lets in a page whose name was made to point here (DNS rebinding)";
            let message = format!("{host:?}: {why}");
            return Err(ValidationError::new("auth.hosts", message));
        }
        Ok(())
    }

    /// What is worth a word at the start.
    #[must_use]
    pub fn risks(&self) -> Vec<Risk> {
        let mut risks = Vec::new();
        let forced = self.auth.public_reads == Some(true);
        for place in self.exposed() {
            risks.push(Risk {
                what: format!(
                    "{place} can be reached from other machines: keys go over the network unencrypted{}",
                    if forced { ", and reads need no key" } else { "" }
                ),
                advice: "listen on 127.0.0.1 or a Unix socket behind a TLS proxy",
                grave: forced,
            });
        }
        let proxied = !self.auth.trusted_proxies.is_empty();
        if proxied && forced {
            risks.push(Risk {
                what: "auth.public_reads is true behind a proxy: whoever reaches the proxy reads every wallet's figures without a key".to_owned(),
                advice: "remove it or set it to false if that is not meant",
                grave: false,
            });
        }
        if proxied && self.auth.hosts.is_empty() {
            risks.push(Risk {
                what: "auth.hosts is empty: a proxy that passes its own name on as Host is answered 421".to_owned(),
                advice: "name there what clients call the proxy",
                grave: false,
            });
        }
        if self.auth.public_name.is_empty() && (proxied || self.exposed().next().is_some()) {
            risks.push(Risk {
                what: format!(
                    "auth.public_name is empty: who logs in with a wallet signs in to {}, which many servers call themselves",
                    self.public_name()
                ),
                advice: "set it to the name that people know the server by",
                grave: false,
            });
        }
        risks
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

/// Whether a browser writes an origin so: anything else would never be met, or by everybody.
fn is_origin(text: &str) -> bool {
    let plain = |part: &str, more: &[u8]| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b);
        !part.is_empty() && part.bytes().all(known)
    };
    let usual_port = |scheme| match scheme {
        "https" => text.ends_with(":443"),
        "http" => text.ends_with(":80"),
        _ => false,
    };
    text.split_once("://").is_some_and(|(scheme, authority)| {
        plain(scheme, b"+.-") && plain(authority, b"._-:[]") && !usual_port(scheme)
    })
}

fn is_host(text: &str) -> bool {
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            text.bytes().all(known) && !text.is_empty() && !text.starts_with('.')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(auth: &str) -> Result<Config, String> {
        Config::read(auth, []).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn proxies_that_are_half_the_world_are_refused() {
        for network in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3"] {
            let refused = read(&format!("auth.trusted_proxies = [\"{network}\"]")).unwrap_err();
            assert!(refused.contains(network), "{refused}");
            assert!(refused.contains("proxies' own addresses"), "{refused}");
        }
        read("auth.trusted_proxies = [\"10.0.0.0/8\", \"fc00::/7\", \"127.0.0.1\", \"unix\"]")
            .unwrap();
    }

    #[test]
    fn origins_and_hosts_that_would_be_anybodys_or_nobodys_are_refused() {
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

    #[test]
    fn what_may_not_be_meant_is_told() {
        let told = |text: &str| {
            let risks = read(text).unwrap().risks();
            risks
                .iter()
                .map(|risk| risk.what.clone())
                .collect::<Vec<_>>()
                .join("\n")
        };
        for quiet in [
            "",
            "auth.public_reads = true",
            "listen = [\"127.0.0.1:1\", \"[::1]:1\", \"unix:/run/edge.sock\"]",
            "auth = { trusted_proxies = [\"unix\"], hosts = [\"edge.example\"], public_name = \"edge.example\" }",
        ] {
            assert_eq!(told(quiet), "", "{quiet}");
        }
        for (text, part) in [
            (
                "listen = [\"127.0.0.1:1\", \"0.0.0.0:2\"]",
                "0.0.0.0:2 can be reached",
            ),
            (
                "listen = \"10.0.0.1:1\"\nauth.public_reads = true",
                "reads need no key",
            ),
            (
                "auth = { public_reads = true, trusted_proxies = [\"unix\"] }",
                "public_reads is true behind",
            ),
            ("auth.trusted_proxies = [\"unix\"]", "auth.hosts is empty"),
            (
                "auth.trusted_proxies = [\"unix\"]",
                "signs in to 127.0.0.1:8000",
            ),
        ] {
            assert!(told(text).contains(part), "{text}: {}", told(text));
        }
    }
}
