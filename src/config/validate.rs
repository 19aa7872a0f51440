//! Values that have the right type and still make no sense: combinations that contradict each other, and what the rules
//! of single keys in their sections need.

use ipnet::IpNet;

use super::{Config, ConfigError, Origin, Proxy};

pub(super) const HTTP_URL: &str = "must be an http:// or https:// address with a host";

impl Config {
    /// Checks what the types cannot. A configuration that was read from a text has passed this; call it for one that was
    /// made in code before a server is started with it.
    ///
    /// # Errors
    /// The first key whose value makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut nodes = self.inference.iter().enumerate();
        let in_node = || {
            nodes.find_map(|(at, node)| {
                let (key, message) = node.invalid()?;
                Some((format!("inference[{at}].{key}"), message))
            })
        };
        match self.invalid().or_else(in_node) {
            Some((key, message)) => Err(ConfigError::new(Origin::Default, &key, message)),
            None => Ok(()),
        }
    }
}

/// Whether no network that one operator has is wider: 10.0.0.0/8 and fc00::/7 are the widest private ones.
pub(super) fn is_narrow(proxy: &Proxy) -> bool {
    match proxy {
        Proxy::Network(IpNet::V4(network)) => network.prefix_len() >= 8,
        Proxy::Network(IpNet::V6(network)) => network.prefix_len() >= 7,
        Proxy::Unix => true,
    }
}

/// Whether a browser writes an origin like this; no other text would ever match one.
pub(super) fn is_origin(text: &str) -> bool {
    let (scheme, authority) = text.split_once("://").unwrap_or_default();
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    is_made_of(scheme, "+.-")
        && is_made_of(authority, "._-:[]")
        && text.to_ascii_lowercase() == text
        && !authority.ends_with(default_port)
}

pub(super) fn is_host(text: &str) -> bool {
    let address = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_made_of(text, "._-") && !text.starts_with('.'),
    }
}

/// Whether a name needs no quotes in labels and log lines.
pub(super) fn is_name(text: &str) -> bool {
    is_made_of(text, "._-")
}

pub(super) fn is_http(text: &str) -> bool {
    text.parse::<hyper::Uri>()
        .is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some())
}

/// Whether a text is letters, digits and these other characters, and not empty.
fn is_made_of(text: &str, others: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.chars().all(known)
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
