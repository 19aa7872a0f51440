//! Where to listen: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/r3mes-edge/edge.sock`.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One place to listen on.
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
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The address, where it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// What is wrong with the folder of a Unix socket, if something is: who may write there may put a socket of his own in
    /// this one's place, and read the keys that are sent to it.
    #[must_use]
    pub fn open_folder(&self) -> Option<String> {
        const OTHERS_MAY_WRITE: u32 = 0o002;
        const ONLY_OWNERS_DELETE: u32 = 0o1000;
        let Self::Unix(path) = self else {
            return None;
        };
        let folder = path.parent()?;
        // One that is not there is told when the socket is bound.
        let mode = std::fs::metadata(folder).ok()?.mode();
        let open = mode & OTHERS_MAY_WRITE != 0 && mode & ONLY_OWNERS_DELETE == 0;
        open.then(|| {
            format!(
                "{self}: everybody may write to {}, and put another socket in its place",
                folder.display()
            )
        })
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
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("unix:") else {
            let address = text.parse().map(Self::Tcp);
            return address.map_err(|_| {
                format!(
                    "invalid address {text:?}; use 127.0.0.1:8000, [::1]:8000 or unix:/run/r3mes-edge/edge.sock"
                )
            });
        };
        // A command is run in any folder, and must find what the server says.
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(format!(
                "{text:?} names no file by its whole path; write it as unix:/run/r3mes-edge/edge.sock"
            ));
        }
        let path = Path::new(path);
        if std::os::unix::net::SocketAddr::from_pathname(path).is_err() {
            return Err(format!(
                "{text:?} is too long: a Unix socket's path may have {} bytes, this one has {}",
                longest_path(),
                path.as_os_str().as_bytes().len()
            ));
        }
        Ok(Self::Unix(path.to_owned()))
    }
}

/// What the system takes, in bytes.
fn longest_path() -> usize {
    let fits =
        |length: &usize| std::os::unix::net::SocketAddr::from_pathname("x".repeat(*length)).is_ok();
    (1..).take_while(fits).last().unwrap_or_default()
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// One text, which may name several places with commas between, as the environment can; or an array.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Listen>, D::Error> {
    struct Places;

    impl<'de> Visitor<'de> for Places {
        type Value = Vec<Listen>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text like \"127.0.0.1:8000\" or \"unix:/run/r3mes-edge/edge.sock\", or an array of them")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let places = text.split(',').map(|place| place.trim().parse());
            places.collect::<Result<_, String>>().map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
            let mut places = Vec::new();
            while let Some(place) = array.next_element()? {
                places.push(place);
            }
            Ok(places)
        }
    }

    deserializer.deserialize_any(Places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use proptest::prelude::*;

    fn read(value: &str) -> Result<Vec<String>, String> {
        let config = Config::read(&format!("listen = {value}"), []);
        let config = config.map_err(|mistakes| mistakes.to_string())?;
        Ok(config.listen.iter().map(Listen::to_string).collect())
    }

    #[test]
    fn one_place_or_several_are_read_from_the_file_and_from_the_environment() {
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
    fn what_is_no_place_is_told_with_what_would_be_one() {
        let long = format!("\"unix:/{}\"", "x".repeat(200));
        for (value, told) in [
            ("\"localhost:8000\"", "invalid address"),
            ("\"127.0.0.1\"", "127.0.0.1:8000"),
            ("8000", "array"),
            ("[]", "listen: must name an address"),
            ("[\"127.0.0.1:8000\", \"unix:edge.sock\"]", "whole path"),
            ("\"unix:/run/\"", "whole path"),
            ("\"unix:@edge\"", "whole path"),
            ("\"/run/edge.sock\"", "unix:/run"),
            (long.as_str(), "bytes, this one has 201"),
        ] {
            let mistake = read(value).unwrap_err();
            assert!(mistake.contains(told), "{value}: {mistake}");
        }
    }

    #[test]
    fn the_longest_path_that_is_taken_can_be_bound() {
        let fits = format!("unix:/{}", "x".repeat(longest_path() - 1));
        assert!(fits.parse::<Listen>().is_ok());
        assert!(format!("{fits}x").parse::<Listen>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_stood(text in "(unix:/?|)[0-9a-f.:/\\[\\] ]{0,30}|\\PC{0,20}") {
            if let Ok(place) = text.parse::<Listen>() {
                prop_assert_eq!(place.to_string().parse::<Listen>(), Ok(place));
            }
        }
    }
}
