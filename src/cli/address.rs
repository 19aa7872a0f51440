//! Addresses of servers: where one listens, how this machine reaches it, and where its page is opened.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use r3mes_edge::Config;
use r3mes_edge::config::Listen;

/// The address under which a local client reaches a server that listens there; stored in the lock file.
pub(super) fn local_address(listen: &Listen) -> String {
    let Some(mut address) = listen.address() else {
        return listen.to_string();
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// The same of all listeners: addresses before sockets, which not every client can use.
pub(super) fn local_addresses(listeners: &[Listen]) -> impl Iterator<Item = String> {
    let mut listeners: Vec<_> = listeners.iter().collect();
    listeners.sort_by_key(|listen| listen.address().is_none());
    listeners.into_iter().map(local_address)
}

/// The path of the Unix socket in an address, if it is one.
pub(super) fn socket_path(address: &str) -> Option<&Path> {
    address.strip_prefix("unix:").map(Path::new)
}

/// Where the page of a server is, for a browser; none of one that listens on a Unix socket only.
pub(super) fn page(address: &str) -> Option<String> {
    socket_path(address)
        .is_none()
        .then(|| format!("{address}/"))
}

/// `Open http://127.0.0.1:8000/`, the first line of a server that runs there.
pub(super) fn open_line(address: &str) -> String {
    match (page(address), socket_path(address)) {
        (Some(page), _) if cfg!(feature = "page") => format!("Open {page}"),
        (Some(page), _) => format!("Requests go to {page} (built without the page)"),
        (None, socket) => format!(
            "No browser opens its Unix socket {}: add an address to listen, or put a proxy before it",
            socket.unwrap_or(Path::new("")).display()
        ),
    }
}

/// The same of a server that does not run yet.
pub(super) fn will_open_line(config: &Config) -> String {
    let address = local_addresses(&config.listen).next().unwrap_or_default();
    match address.ends_with(":0") && socket_path(&address).is_none() {
        true => "Open the address that the server prints when it starts: its port is any free one"
            .to_owned(),
        false if page(&address).is_some() => format!("{} once it serves", open_line(&address)),
        false => open_line(&address),
    }
}

/// Whether a server of this configuration may be reached at an address; one with port 0 at any of its own.
pub(super) fn is_configured(config: &Config, address: &str) -> bool {
    let any = |listen: &Listen| listen.address().is_some_and(|address| address.port() == 0);
    let mut addresses = local_addresses(&config.listen);
    config.listen.iter().any(any) || addresses.any(|own| own == address)
}
