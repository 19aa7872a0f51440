//! Values that have the right type and still make no sense: combinations that contradict each other, and what the rules
//! of single keys in their sections need.

use hyper::Uri;
use ipnet::IpNet;

use super::{Config, ConfigError, Origin, Proxy};

const HTTP_URL: &str = "must be an http:// or https:// address with a host";

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

/// What is wrong with the address of a page, and its right form, without the password that it may hold.
pub(super) fn wrong_address(text: &str) -> Option<String> {
    const CREDENTIALS: &str =
        "must be without user and password, which are not sent; a key is read from a file";
    let url: Uri = text.parse().ok().unwrap_or_default();
    let (Some("http" | "https"), Some(_)) = (url.scheme_str(), url.host()) else {
        return Some(HTTP_URL.to_owned());
    };
    // The parser drops a fragment.
    let page = || {
        format!(
            "{}{}",
            base(&url),
            url.query()
                .map_or(String::new(), |query| format!("?{query}"))
        )
    };
    if url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Some(format!("{CREDENTIALS}: {:?}", page()));
    }
    text.contains('#')
        .then(|| format!("must be without a fragment: {:?}", page()))
}

/// The same for an address that paths are added to.
pub(super) fn wrong_base(text: &str) -> Option<String> {
    let url: Uri = text.parse().ok().unwrap_or_default();
    wrong_address(text).or_else(|| {
        let wrong = || format!("must be without a query: {:?}", base(&url));
        url.query().map(|_| wrong())
    })
}

/// The same for an inference server, to whose address `/v1/chat/completions` is added.
pub(super) fn wrong_inference_base(text: &str) -> Option<String> {
    const ADDED: [&str; 3] = ["/v1", "/v1/chat/completions", "/v1/models"];
    wrong_base(text).or_else(|| {
        let base = text.trim_end_matches('/');
        let base = ADDED.iter().find_map(|added| base.strip_suffix(added))?;
        Some(format!("must be without /v1, which is added: {base:?}"))
    })
}

/// Scheme, host, port and path of an address.
fn base(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let host = url.host().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!(
        "{scheme}://{host}{port}{}",
        url.path().trim_end_matches('/')
    )
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

    #[test]
    fn an_address_that_would_not_be_used_as_written_is_refused_with_its_right_form() {
        let inference = |url: &str| format!("[[inference]]\nname = \"node\"\nurl = \"{url}\"");
        let chain = |url: &str| format!("chain.rpc = \"{url}\"");
        let miner = |url: &str| format!("miner.url = \"{url}\"");
        for (config, key, right) in [
            (
                inference("http://h:1/v1"),
                "inference[0].url",
                "\"http://h:1\"",
            ),
            (
                inference("http://h:1/v1/"),
                "inference[0].url",
                "\"http://h:1\"",
            ),
            (
                inference("http://h/openai/v1"),
                "inference[0].url",
                "\"http://h/openai\"",
            ),
            (
                inference("https://h/v1/chat/completions"),
                "inference[0].url",
                "\"https://h\"",
            ),
            (
                inference("http://user:secret@[::1]:8/x"),
                "inference[0].url",
                "\"http://[::1]:8/x\"",
            ),
            (
                inference("http://secret@h"),
                "inference[0].url",
                "\"http://h\"",
            ),
            (
                inference("http://h:1?key=secret"),
                "inference[0].url",
                "\"http://h:1\"",
            ),
            (
                inference("http://h:1/#secret"),
                "inference[0].url",
                "\"http://h:1\"",
            ),
            (
                chain("http://h:1/?key=secret"),
                "chain.rpc",
                "\"http://h:1\"",
            ),
            (chain("http://u:secret@h:1"), "chain.rpc", "\"http://h:1\""),
            (
                miner("http://u:secret@h/stats?a=1"),
                "miner.url",
                "\"http://h/stats?a=1\"",
            ),
            (
                miner("http://h/stats#secret"),
                "miner.url",
                "\"http://h/stats\"",
            ),
        ] {
            let refused = read(&config).unwrap_err();
            assert!(
                refused.contains(&format!("{key}: must be without")),
                "{refused}"
            );
            assert!(refused.ends_with(right), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        for url in [
            "",
            "h:8080",
            "ftp://h",
            "http://",
            "http://user:secret@",
            "http://u:secret word@h",
        ] {
            let refused = read(&inference(url)).unwrap_err();
            assert!(refused.contains(HTTP_URL), "{url}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        for url in [
            "http://h:1",
            "http://[::1]:11434/",
            "https://h/openai",
            "http://h/v1/gateway",
        ] {
            read(&inference(url)).unwrap();
        }
        read(&miner("http://h/stats?a=1")).unwrap();
    }
}
