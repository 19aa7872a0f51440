//! Who is asking: API keys, what they may do, and the cache that spares most requests a look at the file.

mod cache;
mod issue;
mod key;
mod login;
mod scope;

pub(crate) use cache::KeyCache;
pub(crate) use issue::rotate_within;
pub use issue::{IssuedKey, KeyRequest, issue, keep, rotate};
pub use key::{KeyHash, PlainKey};
pub(crate) use login::{Challenges, LoginError};
pub use scope::{Scope, Scopes};

use crate::model::{Timestamp, Wallet};

/// A key as the store keeps it: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// `key_…`
    pub id: String,
    /// What is kept of the key.
    pub hash: KeyHash,
    /// The first characters of the key, so that its owner recognises it.
    pub start: String,
    /// Whose key it is; an admin's belongs to no wallet.
    pub wallet: Option<Wallet>,
    /// What its owner called it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused by itself; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// From when on it is refused as it was revoked, or another took its place; that may be to come.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used: Option<Timestamp>,
    /// Whether a wallet login made it: such a key is short-lived, counts against no limit, and is deleted at its end.
    pub login: bool,
}

impl KeyRecord {
    /// Whether the key opens anything at `now`.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.ends_at().is_none_or(|at| at > now)
    }

    /// From when on it opens nothing, as far as is known; `None` is never.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        let ends = self.expires_at.into_iter().chain(self.revoked_at);
        ends.min()
    }

    /// Whether it was revoked, or another took its place, at `now`.
    #[must_use]
    pub fn is_revoked(&self, now: Timestamp) -> bool {
        self.revoked_at.is_some_and(|at| at <= now)
    }

    /// The key as its owner may see it in a list.
    #[must_use]
    pub fn shown(&self, now: Timestamp) -> serde_json::Value {
        // What has no maps can always be one.
        serde_json::to_value(self.view(now)).unwrap_or_default()
    }

    /// The same as it is sent.
    pub(crate) fn view(&self, now: Timestamp) -> impl serde::Serialize {
        #[derive(serde::Serialize)]
        struct View<'a> {
            id: &'a str,
            start: &'a str,
            wallet_address: Option<Wallet>,
            name: &'a str,
            scopes: Scopes,
            is_active: bool,
            created_at: Timestamp,
            expires_at: Option<Timestamp>,
            last_used: Option<Timestamp>,
        }
        View {
            id: &self.id,
            start: &self.start,
            wallet_address: self.wallet,
            name: &self.name,
            scopes: self.scopes,
            is_active: self.is_active(now),
            created_at: self.created_at,
            expires_at: self.ends_at(),
            last_used: self.last_used,
        }
    }

    /// Whether its time has run out at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Who a request comes from, once its key was checked.
///
/// A host's own routes find it in their [`Caller`](crate::Caller).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key that was used.
    pub key_id: String,
    /// Whose key it is; `None` for an admin's.
    pub wallet: Option<Wallet>,
    /// What it may do.
    pub scopes: Scopes,
    /// When the key runs out.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Whether this is an admin, who may do all that a key may.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(Scope::Admin)
    }

    /// Whether it may act for `wallet`.
    #[must_use]
    pub fn owns(&self, wallet: &Wallet) -> bool {
        self.is_admin() || self.wallet.as_ref() == Some(wallet)
    }
}

impl From<&KeyRecord> for Principal {
    fn from(record: &KeyRecord) -> Self {
        Self {
            key_id: record.id.clone(),
            wallet: record.wallet,
            scopes: record.scopes,
            expires_at: record.ends_at(),
        }
    }
}
