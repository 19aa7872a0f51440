//! Scopes: what an API key may do.

use std::fmt;
use std::str::FromStr;

use crate::model::ParseError;

/// One permission; [`Scopes`] is a set of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Scope {
    /// Spend the wallet's credits on chat.
    Chat = 1,
    /// Read the wallet's data.
    Read = 2,
    /// Push telemetry for the wallet.
    Miner = 4,
    /// Manage the wallet's keys.
    Keys = 8,
    /// Read the metrics and alerts of the server.
    Metrics = 16,
    /// Everything, for every wallet.
    Admin = 32,
}

impl Scope {
    /// Every scope with its name, in the order they are written.
    const ALL: [(Self, &str); 6] = [
        (Self::Chat, "chat"),
        (Self::Read, "read"),
        (Self::Miner, "miner"),
        (Self::Keys, "keys"),
        (Self::Metrics, "metrics"),
        (Self::Admin, "admin"),
    ];

    /// The scope's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::ALL[(self as u8).trailing_zeros() as usize].1
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Scopes(u8);

impl Scopes {
    /// For a key that is made without naming any: chat and read.
    pub const DEFAULT: Self = Self(Scope::Chat as u8 | Scope::Read as u8);
    /// For a key of the R3MES backend: all that its keys could do there.
    pub const IMPORTED: Self = Self(Self::DEFAULT.0 | Scope::Miner as u8);
    /// For a wallet login: everything but admin.
    pub const LOGIN: Self = Self(Self::IMPORTED.0 | Scope::Keys as u8);
    /// For the first key.
    pub const ADMIN: Self = Self(Scope::Admin as u8);

    /// Reads names.
    ///
    /// # Errors
    /// Which scopes there are, in words for the client.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        let mut set = 0;
        for name in names {
            let known = Scope::ALL.iter().find(|(_, known)| *known == name);
            let (scope, _) = known.ok_or("may hold chat, read, miner, keys, metrics and admin")?;
            set |= *scope as u8;
        }
        if set == 0 {
            return Err(
                "must hold at least one of chat, read, miner, keys, metrics and admin".into(),
            );
        }
        Ok(Self(set))
    }

    /// Whether `scope` is in the set.
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// Whether every scope of `other` is in this set too; an admin's set covers all.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.contains(Scope::Admin) || other.0 & !self.0 == 0
    }

    /// The names, in order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let held = Scope::ALL
            .iter()
            .filter(move |(scope, _)| self.contains(*scope));
        held.map(|(_, name)| *name)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

/// Reads what `Display` writes: names with commas between them.
impl FromStr for Scopes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text.split(','))
    }
}

impl TryFrom<Vec<String>> for Scopes {
    type Error = ParseError;

    fn try_from(names: Vec<String>) -> Result<Self, ParseError> {
        Self::parse(names.iter().map(String::as_str))
    }
}

impl serde::Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scopes_are_parsed_in_any_order_and_written_in_one() {
        let scopes = Scopes::parse("read,chat".split(',')).unwrap();
        assert_eq!(scopes, Scopes::DEFAULT);
        assert_eq!(scopes.to_string(), "chat,read");
        assert!(Scopes::parse(["root"]).is_err());
        assert!(Scopes::parse([]).is_err());
    }

    #[test]
    fn a_set_covers_only_what_it_holds_and_admin_covers_all() {
        let some = Scopes::parse(["chat", "keys"]).unwrap();
        assert!(some.covers(Scopes::parse(["chat"]).unwrap()));
        assert!(!some.covers(Scopes::DEFAULT));
        assert!(!some.covers(Scopes::ADMIN));
        assert!(Scopes::ADMIN.covers(some));
    }

    proptest! {
        #[test]
        fn every_set_round_trips_through_its_names(set in 1u8..64, turn in 0usize..5) {
            let scopes = Scopes(set);
            let mut names: Vec<&str> = scopes.names().collect();
            let by = turn % names.len();
            names.rotate_left(by);
            prop_assert_eq!(Scopes::parse(names.iter().copied()), Ok(scopes));
            prop_assert_eq!(scopes.to_string().parse(), Ok(scopes));
        }

        #[test]
        fn an_unknown_name_refuses_the_whole_set(name in any::<String>()) {
            let known = Scope::ALL.iter().any(|(_, known)| *known == name);
            prop_assert_eq!(Scopes::parse(["chat", &name]).is_ok(), known);
        }
    }
}
