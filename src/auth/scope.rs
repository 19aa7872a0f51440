use std::fmt;

/// One thing a key may do; [`Scopes`] is a set of them.
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
    /// Everything, for every wallet.
    Admin = 16,
}

impl Scope {
    /// Every scope, in the order they are written.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Read, Self::Miner, Self::Keys, Self::Admin];

    /// The scope's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Read => "read",
            Self::Miner => "miner",
            Self::Keys => "keys",
            Self::Admin => "admin",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u8);

impl Scopes {
    /// What a key gets when nobody says otherwise.
    pub const DEFAULT: Self = Self(Scope::Chat as u8 | Scope::Read as u8);
    /// What a key of the R3MES backend gets: all that its keys could do there.
    pub const IMPORTED: Self = Self(Scope::Chat as u8 | Scope::Read as u8 | Scope::Miner as u8);
    /// What a wallet login gets: everything but admin.
    pub const LOGIN: Self =
        Self(Scope::Chat as u8 | Scope::Read as u8 | Scope::Miner as u8 | Scope::Keys as u8);
    /// What the first key gets.
    pub const ADMIN: Self = Self(Scope::Admin as u8);

    /// Reads names, one by one.
    ///
    /// # Errors
    /// A sentence that names the known scopes.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'static str> {
        let mut set = 0;
        for name in names {
            let known = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
            set |= known.ok_or("may hold chat, read, miner, keys and admin")? as u8;
        }
        if set == 0 {
            return Err("must hold at least one of chat, read, miner, keys and admin");
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
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
            .map(Scope::as_str)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
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
    fn scopes_are_read_and_written_in_one_order() {
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
        fn every_set_is_read_back_from_its_names_in_any_order(set in 1u8..32, turn in 0usize..5) {
            let scopes = Scopes(set);
            let mut names: Vec<&str> = scopes.names().collect();
            let by = turn % names.len();
            names.rotate_left(by);
            prop_assert_eq!(Scopes::parse(names.iter().copied()), Ok(scopes));
            prop_assert_eq!(Scopes::parse(scopes.to_string().split(',')), Ok(scopes));
        }

        #[test]
        fn a_name_that_is_none_refuses_the_whole_set(name in any::<String>()) {
            let known = Scope::ALL.iter().any(|scope| scope.as_str() == name);
            prop_assert_eq!(Scopes::parse(["chat", &name]).is_ok(), known);
        }
    }
}
