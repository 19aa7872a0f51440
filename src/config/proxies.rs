//! The peer at the other end of a connection, and the proxies whose `X-Forwarded-For` is trusted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::ParseError;

/// The other end of a connection, which may be a [`Proxy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A client at this address.
    Address(IpAddr),
    /// A program on this machine, through a Unix socket.
    Unix,
}

impl Peer {
    /// The address that rates and limits go by; a Unix socket's peer is on this machine.
    #[must_use]
    pub fn address(self) -> IpAddr {
        match self {
            Self::Address(address) => address.to_canonical(),
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// A proxy whose `X-Forwarded-For` is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// One at an address of this network.
    Network(IpNet),
    /// Every peer of a Unix socket.
    Unix,
}

impl Proxy {
    /// Whether this peer is one.
    #[must_use]
    pub fn is(&self, peer: Peer) -> bool {
        match (self, peer) {
            (Self::Network(network), Peer::Address(_)) => network.contains(&peer.address()),
            (Self::Unix, Peer::Unix) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl FromStr for Proxy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        // Of a connection from IPv4 to an IPv6 socket, too, the address is compared as IPv4's.
        let address = |address: IpAddr| IpNet::from(address.to_canonical());
        let network = text.parse().or_else(|_| text.parse().map(address));
        let network: IpNet = network.map_err(|_| {
            format!("invalid proxy {text:?}; use 127.0.0.1, 10.0.0.0/8, or unix for Unix sockets")
        })?;
        let whole = network.trunc();
        if whole != network {
            let address = network.addr();
            return Err(format!(
                "{text:?} is an address in a network; use {address} for that alone, or {whole} for all of it"
            )
            .into());
        }
        if network.addr().to_canonical().is_ipv4() != network.addr().is_ipv4() {
            return Err(format!(
                "{text:?} is a network of IPv4 addresses; write it as one, 10.0.0.0/8"
            )
            .into());
        }
        Ok(Self::Network(network))
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_address_a_network_or_the_peer_of_a_unix_socket() {
        let local = Peer::Address(Ipv4Addr::LOCALHOST.into());
        let is = |text: &str, peer| text.parse::<Proxy>().unwrap().is(peer);
        assert!(is("127.0.0.1", local) && is("127.0.0.0/8", local) && is("unix", Peer::Unix));
        assert!(is(
            "127.0.0.1",
            Peer::Address("::ffff:127.0.0.1".parse().unwrap())
        ));
        assert!(is("::ffff:127.0.0.1", local));
        // The address that a Unix socket's rates go by makes its peer no proxy.
        assert!(!is("127.0.0.1", Peer::Unix) && !is("unix", local) && !is("127.0.0.2", local));
        for text in [
            "",
            "unix:/run/edge.sock",
            "localhost",
            "127.0.0.1:80",
            "10.0.0.0/33",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
        for (text, right) in [
            (
                "10.0.0.5/8",
                "use 10.0.0.5 for that alone, or 10.0.0.0/8 for all of it",
            ),
            (
                "fd00::1/8",
                "use fd00::1 for that alone, or fd00::/8 for all of it",
            ),
        ] {
            let error = text.parse::<Proxy>().unwrap_err().to_string();
            assert!(error.ends_with(right), "{error}");
        }
    }
}
