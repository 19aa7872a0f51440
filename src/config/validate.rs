//! Values that have the right type and still make no sense: combinations that contradict each other, and what the rules
//! of single keys in their sections need.

use hyper::Uri;
use hyper::http::uri::Authority;
use ipnet::IpNet;

use super::{AdapterConfig, Config, ConfigError, InferenceConfig, InferenceKind, Origin, Proxy};
use crate::model::{Credits, Price};

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
                let unread = || {
                    const UNREAD: &str = "must be empty: an R3MES node gets the text alone";
                    let is_unread = node.kind == InferenceKind::R3mes && !node.pass.is_empty();
                    is_unread.then(|| ("pass".to_owned(), UNREAD.to_owned()))
                };
                let (key, message) = node.invalid().or_else(unread)?;
                Some((format!("inference[{at}].{key}"), message))
            })
        };
        let in_adapter = || self.adapters.iter().find_map(wrong_adapter);
        let unserved = || self.unserved_default();
        let unpriced = || {
            let adapter = self.unpriced()?;
            let message = format!(
                "is by tokens, which an R3MES node does not count: give {adapter} a number of credits for each request"
            );
            Some((format!("adapters.{adapter}.price"), message))
        };
        let invalid = self.invalid().or_else(in_node).or_else(in_adapter);
        let doubled = || self.doubled_alias();
        match invalid.or_else(unserved).or_else(unpriced).or_else(doubled) {
            Some((key, message)) => Err(ConfigError::new(Origin::Default, &key, message)),
            None => Ok(()),
        }
    }
}

impl Config {
    /// The default adapter has to be one of those that are served, or every message that names none would fail.
    fn unserved_default(&self) -> Option<(String, String)> {
        let default = &self.chat.default_adapter;
        let served =
            |node: &InferenceConfig| node.adapters.is_empty() || node.adapters.contains(default);
        if self.inference.is_empty() || self.inference.iter().any(served) {
            return None;
        }
        let names = self.inference.iter().flat_map(|node| &node.adapters);
        let names: Vec<_> = names.map(String::as_str).collect();
        let message = format!(
            "no inference server serves {default:?}: name one of {}, or add it to the adapters of a server",
            names.join(", ")
        );
        Some(("chat.default_adapter".to_owned(), message))
    }

    /// An alias that is the name of something else too.
    fn doubled_alias(&self) -> Option<(String, String)> {
        let mut names = self.adapter_names();
        let aliases = self.adapters.iter().flat_map(|(name, adapter)| {
            let aliases = adapter.aliases.iter().enumerate();
            aliases.map(move |(at, alias)| (format!("adapters.{name}.aliases[{at}]"), alias))
        });
        let mut doubled = aliases.filter(|(_, alias)| !names.insert((*alias).clone()));
        let (key, alias) = doubled.next()?;
        Some((
            key,
            format!("{alias:?} is the name of an adapter or another alias; choose another"),
        ))
    }

    /// An adapter with a price by tokens at a server that counts none.
    fn unpriced(&self) -> Option<&str> {
        let nodes = self
            .inference
            .iter()
            .filter(|node| node.kind == InferenceKind::R3mes);
        let default = &self.chat.default_adapter;
        let served = nodes.flat_map(|node| match node.adapters.is_empty() {
            true => std::slice::from_ref(default),
            false => &node.adapters,
        });
        let mut by_tokens = served.filter(|adapter| self.terms(adapter).price.is_by_tokens());
        by_tokens.next().map(String::as_str)
    }
}

/// What is wrong with an adapter: its name, or a word that would be in every message or none.
fn wrong_adapter((name, adapter): (&String, &AdapterConfig)) -> Option<(String, String)> {
    if !is_label(name) {
        return Some(("adapters".to_owned(), format!("{name:?}: {LABEL}")));
    }
    for (key, texts) in [
        ("keywords", &adapter.keywords),
        ("aliases", &adapter.aliases),
    ] {
        if let Some(at) = texts.iter().position(|text| !is_label(text)) {
            return Some((format!("adapters.{name}.{key}[{at}]"), LABEL.to_owned()));
        }
    }
    let (key, message) = adapter.invalid()?;
    Some((format!("adapters.{name}.{key}"), message))
}

/// What [`is_label`] asks for.
pub(super) const LABEL: &str = "must be a text of one line, not empty, without spaces around it";

/// Whether a name can be shown and compared as it is.
pub(super) fn is_label(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.contains(char::is_control)
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

/// What is wrong with a price.
pub(super) fn wrong_price(price: &Price) -> Option<String> {
    let amounts = [
        price.request,
        price.prompt,
        price.cached_prompt,
        price.completion,
    ];
    let is_negative = amounts.iter().any(|amount| *amount < Credits::ZERO);
    is_negative.then(|| "must not be negative".to_owned())
}

/// What is wrong with the address of a page, and its right form, without the password that it may hold.
pub(super) fn wrong_address(text: &str) -> Option<String> {
    const CREDENTIALS: &str =
        "must be without user and password, which are not sent; a key is read from a file";
    let url: Uri = text.parse().ok().unwrap_or_default();
    let (Some("http" | "https"), Some(_)) = (url.scheme_str(), url.host()) else {
        return Some(HTTP_URL.to_owned());
    };
    let authority = url.authority().map_or("", Authority::as_str);
    let address = authority.rsplit('@').next().unwrap_or_default();
    let has_port = address.len() > url.host().map_or(0, str::len);
    if has_port && !matches!(url.port_u16(), Some(1..)) {
        return Some("must have a port from 1 to 65535, or none".to_owned());
    }
    // The parser drops a fragment.
    let page = || {
        format!(
            "{}{}",
            base(&url),
            url.query()
                .map_or(String::new(), |query| format!("?{query}"))
        )
    };
    if authority.contains('@') {
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
mod tests;
