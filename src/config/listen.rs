//! Where to listen: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/r3mes-edge/edge.sock`. A list of them may be written as one
//! text with commas, as an environment variable can.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::ParseError;

/// One address to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// An address and a port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket: only this machine reaches it, and of its users only the server's own and its group.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let address = self.address();
        address.is_none_or(|address| address.ip().to_canonical().is_loopback())
    }

    /// The address, where it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// What is wrong with the folder of a Unix socket, if something is: a user who may write there can replace the socket
    /// with his own, and read the keys that are sent to it.
    #[must_use]
    pub fn open_folder(&self) -> Option<String> {
        let Self::Unix(path) = self else {
            return None;
        };
        let folder = path.parent()?;
        // Others may write there, and delete what is not theirs. A missing folder is an error when the socket is bound.
        let is_open = std::fs::metadata(folder).ok()?.mode() & 0o1002 == 0o002;
        let what = format!("everybody may write to {}", folder.display());
        is_open.then(|| format!("{self}: {what}, and replace the socket"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const USE: &str = "127.0.0.1:8000, [::1]:8000 or unix:/run/r3mes-edge/edge.sock";
        let Some(path) = text.strip_prefix("unix:") else {
            let address = text.parse().map(Self::Tcp);
            return address.map_err(|_| format!("invalid address {text:?}; use {USE}").into());
        };
        // A command runs in any folder, and must find the server's socket.
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(format!("{text:?} is not the whole path of a file; use {USE}").into());
        }
        if path.contains(char::is_control) {
            return Err(format!("{text:?} has a control character; use {USE}").into());
        }
        // Neither too long nor with a zero byte.
        std::os::unix::net::SocketAddr::from_pathname(path)
            .map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self::Unix(path.into()))
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Two addresses of which only one can be bound, and what to do.
pub(super) fn repeated(listen: &[Listen]) -> Option<String> {
    let mut pairs = listen.iter().enumerate().flat_map(|(at, one)| {
        let others = &listen[at + 1..];
        others.iter().map(move |other| (one, other))
    });
    let (one, other) = pairs.find(|(one, other)| is_same_place(one, other))?;
    Some(format!(
        "{one} and {other} are the same place; name it once"
    ))
}

fn is_same_place(one: &Listen, other: &Listen) -> bool {
    let (Some(one), Some(other)) = (one.address(), other.address()) else {
        return one == other;
    };
    let (a, b) = (one.ip(), other.ip());
    let is_covered = a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
    // Port 0 is another one each time.
    one.port() == other.port()
        && one.port() != 0
        && (is_covered || a.to_canonical() == b.to_canonical())
}

/// Reads one text, in which commas separate several addresses, or an array.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Listen>, D::Error> {
    let texts = match Value::deserialize(from)? {
        Value::String(texts) => texts.split(',').map(Value::from).collect(),
        Value::Array(texts) => texts,
        _ => Vec::from([Value::Null]),
    };
    let read = |text: &Value| match text.as_str() {
        Some(text) => text.trim().parse(),
        None => Err("must be a text like \"127.0.0.1:8000\", or an array of them".into()),
    };
    let listeners: Result<_, ParseError> = texts.iter().map(read).collect();
    listeners.map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use proptest::prelude::*;

    fn read(value: &str) -> Result<Vec<String>, String> {
        let config = Config::read(&format!("listen = {value}"), []);
        let config = config.map_err(|error| error.to_string())?;
        Ok(config.listen.iter().map(Listen::to_string).collect())
    }

    #[test]
    fn one_address_or_several_are_read_from_the_file_and_from_the_environment() {
        let all = ["127.0.0.1:8000", "[::1]:8000", "unix:/run/edge.sock"];
        assert_eq!(read("\"[::1]:8000\"").unwrap(), ["[::1]:8000"]);
        assert_eq!(read(&format!("{all:?}")).unwrap(), all);
        for setting in [all.join(", "), format!("{all:?}")] {
            let config = Config::read("listen = \"10.0.0.1:1\"", [("LISTEN", &*setting)]).unwrap();
            let read: Vec<_> = config.listen.iter().map(Listen::to_string).collect();
            assert_eq!(read, all, "{setting}");
        }
    }

    #[test]
    fn a_place_that_is_named_twice_is_refused() {
        for twice in [
            ["127.0.0.1:8000", "127.0.0.1:8000"],
            ["0.0.0.0:8000", "127.0.0.1:8000"],
            ["[::1]:8000", "[::]:8000"],
            ["[::ffff:127.0.0.1]:8000", "127.0.0.1:8000"],
            ["unix:/run/edge.sock", "unix:/run/edge.sock"],
        ] {
            let error = read(&format!("{twice:?}")).unwrap_err();
            assert!(
                error.contains("are the same place; name it once"),
                "{error}"
            );
        }
        for two in [
            ["127.0.0.1:8000", "127.0.0.1:8001"],
            ["127.0.0.1:8000", "127.0.0.2:8000"],
            ["127.0.0.1:0", "127.0.0.1:0"],
            ["0.0.0.0:8000", "[::]:8000"],
            ["unix:/run/a.sock", "unix:/run/b.sock"],
        ] {
            assert!(read(&format!("{two:?}")).is_ok(), "{two:?}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_a_valid_example() {
        let long = format!("\"unix:/{}\"", "x".repeat(200));
        for (value, part) in [
            ("\"localhost:8000\"", "invalid address"),
            ("\"127.0.0.1\"", "127.0.0.1:8000"),
            ("8000", "array"),
            ("[]", "listen: must name an address"),
            ("[\"127.0.0.1:8000\", \"unix:edge.sock\"]", "whole path"),
            ("\"unix:/run/\"", "whole path"),
            ("\"unix:@edge\"", "whole path"),
            ("\"unix:/run/a\\nb\"", "control character"),
            ("\"/run/edge.sock\"", "unix:/run"),
            (long.as_str(), "SUN_LEN"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_address_reads_back_as_written(text in "(unix:/?|)[0-9a-f.:/\\[\\] ]{0,30}|\\PC{0,20}") {
            if let Ok(listen) = text.parse::<Listen>() {
                prop_assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen));
            }
        }
    }
}
