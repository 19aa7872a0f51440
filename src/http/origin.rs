//! Where a request comes from: the client behind trusted proxies, its Host, and the page that sent it.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, HeaderName, HeaderValue,
    ORIGIN,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Uri, Version};

use super::Result;
use super::context::single;
use crate::config::{Config, Listen, Peer};
use crate::error::{ApiError, ErrorCode};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that proxies, load balancers and CDNs add to the requests they pass on.
const PROXY_HEADERS: &str = "cdn-loop client-ip forwarded front-end-https max-forwards proxy-connection \
    surrogate-capability true-client-ip via x-client-ip x-cluster-client-ip x-originating-ip x-remote-addr x-remote-ip \
    x-rewrite-url x-scheme";
const PROXY_HEADER_PREFIXES: &str =
    "cf- fastly- fly- x-arr- x-azure- x-envoy- x-forwarded x-original- x-real-";

/// The sign that a proxy forwarded a request; then a local peer proves nothing. HTTP/1.0 is one too: `proxy_pass` of older
/// nginx uses it by default, without any header, and no client of today does.
pub(super) fn proxy_sign(head: &Parts) -> Option<&str> {
    if head.version < Version::HTTP_11 {
        return Some("HTTP/1.0");
    }
    let mut names = head.headers.keys().map(HeaderName::as_str);
    names.find(|name| {
        let mut prefixes = PROXY_HEADER_PREFIXES.split(' ');
        PROXY_HEADERS.split(' ').any(|known| known == *name)
            || prefixes.any(|prefix| name.starts_with(prefix))
    })
}

/// The client's address: the peer's, unless the peer is a trusted proxy; then the right-most address of
/// `X-Forwarded-For` that is not a trusted proxy. The client can forge everything left of that.
pub(super) fn client_address(config: &Config, peer: Peer, headers: &HeaderMap) -> IpAddr {
    let mut nearest = peer;
    let lists = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    // By bytes: what the client wrote on the left may be in any encoding.
    let mut hops = lists.flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','));
    while config.auth.trusts(nearest) {
        // An invalid address ends the chain: the proxy that forwarded it is the nearest that is known.
        let hop = hops.next().and_then(|hop| std::str::from_utf8(hop).ok());
        match hop.and_then(|hop| hop_address(hop.trim())) {
            Some(hop) => nearest = Peer::Address(hop),
            None => break,
        }
    }
    nearest.address()
}

/// An address as proxies write it: bare, in brackets, with a port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    bare.unwrap_or(text).parse().ok().or_else(with_port)
}

/// Refuses a Host that is not configured. Otherwise a page whose name resolves to this address (DNS rebinding) would have the
/// same origin for a browser.
pub(super) fn check_host(config: &Config, head: &Parts) -> Result<()> {
    let sent = single(&head.headers, "Host")?;
    let host = match (head.uri.authority(), sent) {
        // In absolute form the target names the host (RFC 9112, 3.2.2).
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().unwrap_or_default(),
        (None, None) if head.version == Version::HTTP_10 => return Ok(()),
        (None, None) => return Err(ApiError::parameter("Host", "is required (RFC 9112)")),
    };
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let known = match hop_address(name) {
        // An address cannot be rebound; it must be one that is listened on.
        Some(address) => {
            let listeners = config.listen.iter().filter_map(Listen::address);
            let mut addresses = listeners.map(|listener| listener.ip().to_canonical());
            addresses.any(|own| own.is_unspecified() || own == address.to_canonical())
        }
        None => name.eq_ignore_ascii_case("localhost"),
    };
    let mut hosts = config.auth.hosts.iter();
    if known || hosts.any(|host| host.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let detail = "this server does not answer to that Host; add it to [auth] hosts if it should";
    Err(ApiError::new(ErrorCode::WrongHost, detail))
}

/// Refuses a request of a page of another origin. Returns the page's origin where it is an allowed one.
pub(super) fn check_origin(config: &Config, head: &Parts) -> Result<Option<HeaderValue>> {
    let Some(origin) = head.headers.get(ORIGIN) else {
        return Ok(None);
    };
    let text = origin.to_str().unwrap_or_default();
    let mut allowed = config.auth.cors_origins.iter();
    if allowed.any(|allowed| allowed == text) {
        return Ok(Some(origin.clone()));
    }
    // A preflight changes nothing; without the headers that allow it the browser goes no further.
    if is_own(text, head) || head.method == Method::OPTIONS {
        return Ok(None);
    }
    let detail = "pages of this origin may not call this server; see [auth] cors_origins";
    Err(ApiError::forbidden(detail))
}

/// Whether an origin is that of the server's own page: it has the host and the port of the request. A proxy may leave the port
/// out of `Host`; then the browser has to say that it is the same (no page can set `Sec-Fetch-Site`).
fn is_own(origin: &str, head: &Parts) -> bool {
    let origin: Option<Uri> = origin.parse().ok();
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host: Option<Authority> = host.and_then(|host| host.parse().ok());
    let (Some(origin), Some(host)) = (origin, host) else {
        return false;
    };
    let default = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let Some(page) = origin.authority() else {
        return false;
    };
    let [page_port, own_port] = [page, &host].map(Authority::port_u16);
    let is_same_port = page_port.unwrap_or(default) == own_port.unwrap_or(default);
    let is_left_out = own_port.is_none() && has(head, "sec-fetch-site", "same-origin");
    page.host().eq_ignore_ascii_case(host.host()) && (is_same_port || is_left_out)
}

/// Whether a header is this text, in any case.
fn has(head: &Parts, name: &str, value: &str) -> bool {
    let sent = head.headers.get(name);
    sent.is_some_and(|sent| sent.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
}

/// Refuses what a page of another origin makes a browser load, as an image or a frame, say; a link to this server is
/// followed. Browsers send `Origin` with few of these requests, but `Sec-Fetch-Site` with all (W3C, Fetch Metadata).
pub(super) fn check_site(head: &Parts) -> Result<()> {
    let is = |name: &str, value: &str| has(head, name, value);
    let is_foreign = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    let is_document =
        is("sec-fetch-dest", "document") || !head.headers.contains_key("sec-fetch-dest");
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let is_link = is_read && is("sec-fetch-mode", "navigate") && is_document;
    // A preflight changes nothing.
    if !is_foreign || is_link || head.method == Method::OPTIONS {
        return Ok(());
    }
    let detail = "pages of other origins may not load this; see [auth] cors_origins";
    Err(ApiError::forbidden(detail))
}

/// Lets a page of an allowed origin read the response.
pub(super) fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    const EXPOSED: HeaderValue = HeaderValue::from_static(
        "X-Request-Id, Request-Id, RateLimit, RateLimit-Policy, Retry-After, ETag, Age, X-Cache, Link, X-Credits-Charged, \
         Idempotency-Replayed",
    );
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Answers the preflight of an allowed origin, for these headers: those of this server, and those that the clients of model
/// servers add, whose names differ from version to version.
pub(super) fn allow_preflight(headers: &mut HeaderMap, requested: &[HeaderValue]) {
    const OWN: &str = "Content-Type, Authorization, X-API-Key, X-Request-Id, X-Wallet-Address, X-Adapter, Idempotency-Key";
    const OF_CLIENTS: [&str; 3] = ["x-stainless-", "anthropic-", "openai-"];
    let names = requested.iter().filter_map(|list| list.to_str().ok());
    let names = names.flat_map(|list| list.split(',')).map(str::trim);
    let is_of_client = |name: &&str| {
        let lower = name.to_ascii_lowercase();
        OF_CLIENTS.iter().any(|prefix| lower.starts_with(prefix))
    };
    let allowed: Vec<_> = std::iter::once(OWN)
        .chain(names.filter(is_of_client).take(32))
        .collect();
    if let Some(methods) = headers.get(ALLOW).cloned() {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    super::response::set(headers, ACCESS_CONTROL_ALLOW_HEADERS, allowed.join(", "));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

#[cfg(test)]
#[cfg(feature = "toml")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(text: &str) -> Config {
        Config::read(text, []).unwrap()
    }

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let forwarded: Vec<_> = forwarded.iter().map(|list| list.as_bytes()).collect();
        client_by_bytes(trusted, peer, &forwarded)
    }

    fn client_by_bytes(trusted: &str, peer: &str, forwarded: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for list in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(list).unwrap());
        }
        let config = config(&format!("[auth]\ntrusted_proxies = [{trusted}]"));
        let peer = peer.parse().map_or(Peer::Unix, Peer::Address);
        client_address(&config, peer, &headers).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_for_its_own_hop() {
        let local = "\"127.0.0.0/8\", \"10.0.0.1/32\"";
        assert_eq!(client("", "127.0.0.1", &["203.0.113.7"]), "127.0.0.1");
        assert_eq!(
            client(local, "198.51.100.1", &["203.0.113.7"]),
            "198.51.100.1"
        );
        assert_eq!(
            client(local, "127.0.0.1", &["1.2.3.4, 203.0.113.7, 10.0.0.1"]),
            "203.0.113.7"
        );
        assert_eq!(
            client(local, "127.0.0.1", &["1.2.3.4", "203.0.113.7:5555"]),
            "203.0.113.7"
        );
        assert_eq!(
            client(local, "127.0.0.1", &["1.2.3.4, unknown"]),
            "127.0.0.1"
        );
        assert_eq!(
            client(local, "127.0.0.1", &["[2001:db8::1]:80"]),
            "2001:db8::1"
        );
        assert_eq!(
            client(local, "::ffff:127.0.0.1", &["203.0.113.7"]),
            "203.0.113.7"
        );
        assert_eq!(client(local, "127.0.0.1", &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(client(local, "unix", &["203.0.113.7"]), "127.0.0.1");
        let socket = "\"unix\", \"10.0.0.1\"";
        assert_eq!(
            client(socket, "unix", &["1.2.3.4, 203.0.113.7, 10.0.0.1"]),
            "203.0.113.7"
        );
        assert_eq!(client(socket, "127.0.0.1", &["203.0.113.7"]), "127.0.0.1");
        assert_eq!(client(socket, "unix", &[]), "127.0.0.1");
    }

    #[test]
    fn what_a_client_forged_on_the_left_of_a_hop_changes_nothing_whatever_its_bytes() {
        for forged in [
            &b"\xff"[..],
            b"\xc3\xa4, \xe2\x98\x80",
            "ä, 1.2.3.4".as_bytes(),
            b"\"a,b\"",
        ] {
            let one = [forged, b", 203.0.113.7"].concat();
            for lists in [vec![&one[..]], vec![forged, b"203.0.113.7"]] {
                assert_eq!(
                    client_by_bytes("\"127.0.0.1\"", "127.0.0.1", &lists),
                    "203.0.113.7"
                );
            }
        }
        let last = client_by_bytes("\"127.0.0.1\"", "127.0.0.1", &[b"203.0.113.7, \xff"]);
        assert_eq!(last, "127.0.0.1");
        let mapped = client("\"127.0.0.1\"", "127.0.0.1", &["::ffff:203.0.113.7"]);
        assert_eq!(mapped, "203.0.113.7");
    }

    fn host_passes(listen: &str, hosts: &str, host: &str) -> bool {
        let config = config(&format!("listen = \"{listen}\"\n[auth]\nhosts = [{hosts}]"));
        let request = hyper::Request::get("/livez")
            .header(HOST, host)
            .body(())
            .unwrap();
        check_host(&config, &request.into_parts().0).is_ok()
    }

    #[test]
    fn only_configured_hosts_are_answered() {
        for host in ["127.0.0.1:8000", "127.0.0.1", "localhost:8000", "LOCALHOST"] {
            assert!(host_passes("127.0.0.1:8000", "", host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "localhost.",
            "[::1]",
        ] {
            assert!(!host_passes("127.0.0.1:8000", "", host), "{host}");
        }
        assert!(host_passes(
            "127.0.0.1:8000",
            "\"edge.example\"",
            "Edge.example:443"
        ));
        assert!(host_passes("[::]:8000", "", "10.0.0.1:8000"));
        let several = "127.0.0.1:8000, [::1]:8000, unix:/run/edge.sock";
        for host in ["127.0.0.1:8000", "[::1]:8000", "localhost"] {
            assert!(host_passes(several, "", host), "{host}");
        }
        // curl --unix-socket sends the host of its URL.
        assert!(host_passes("unix:/run/edge.sock", "", "localhost"));
        assert!(!host_passes("unix:/run/edge.sock", "", "127.0.0.1"));
        assert!(host_passes("[::1]:8000", "", "[::1]:8000"));
        assert!(!host_passes("0.0.0.0:8000", "", "evil.example"));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_readers_panic(forwarded in "[ -~]{0,60}", host in "[ -~]{0,40}") {
            let _ = client("\"127.0.0.1/32\"", "127.0.0.1", &[&forwarded]);
            let _ = host_passes("127.0.0.1:8000", "", &host);
        }
    }
}
