//! Authentication: API keys, their scopes, the cache of keys in use, and wallet login.
//!
//! Nothing here knows HTTP or the storage; `http` reads the headers, [`store`](crate::store) holds the records.

mod cache;
mod issue;
mod key;
mod limits;
mod login;
mod scope;

pub(crate) use cache::{CachedKey, KeyCache};
pub use issue::{IssuedKey, KeyRequest};
pub use key::{KeyHash, PlainKey};
pub use limits::{KeyLimits, Spent};
pub(crate) use login::{Challenges, LoginError, SignedChallenge};
pub use scope::{Scope, Scopes};

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Timestamp, Wallet};

/// A key as it is stored: its hash, never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// `key_…`
    pub id: String,
    /// The hash that the key is looked up by.
    pub hash: KeyHash,
    /// The first characters of the key, for its owner to recognise it by.
    pub start: String,
    /// The owner; an admin key belongs to no wallet.
    pub wallet: Option<Wallet>,
    /// The label its owner gave it.
    pub name: String,
    /// Its scopes.
    pub scopes: Scopes,
    /// Creation time.
    pub created_at: Timestamp,
    /// Expiry, by the wall clock; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Revocation or replacement; it may lie in the future.
    pub revoked_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used: Option<Timestamp>,
    /// Made by a wallet login: short-lived, outside the limit of keys per wallet, and deleted when it expires.
    pub login: bool,
    /// What it may use; `None` is all that its scopes and its wallet allow.
    pub limits: Option<Arc<KeyLimits>>,
}

impl KeyRecord {
    /// How long a replaced key may stay valid.
    pub const MAX_GRACE: Duration = Duration::from_secs(30 * 86_400);

    /// Whether the key is accepted at `now`.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now) && !self.is_revoked(now)
    }

    /// Whether it was revoked or replaced. A time further ahead than a replaced key lasts is that of a clock that was ahead.
    #[must_use]
    pub fn is_revoked(&self, now: Timestamp) -> bool {
        let grace_ends = now.plus(Self::MAX_GRACE);
        self.revoked_at
            .is_some_and(|at| at <= now || at > grace_ends)
    }

    /// The earlier of expiry and revocation; `None` is never.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.expires_at.into_iter().chain(self.revoked_at).min()
    }

    /// The key as its owner sees it.
    #[must_use]
    pub fn shown(&self, now: Timestamp, spent: Spent) -> ShownKey<'_> {
        ShownKey {
            id: &self.id,
            api_key: None,
            start: &self.start,
            wallet_address: self.wallet,
            name: &self.name,
            scopes: self.scopes,
            limits: self.limits.as_deref(),
            spent,
            is_active: self.is_active(now),
            created_at: self.created_at,
            expires_at: self.ends_at(),
            last_used: self.last_used,
            message: None,
        }
    }
}

/// A key as clients read it in JSON. Not a JSON value, which would not hold the digits of an amount.
#[derive(serde::Serialize)]
pub struct ShownKey<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    start: &'a str,
    wallet_address: Option<Wallet>,
    name: &'a str,
    scopes: Scopes,
    limits: Option<&'a KeyLimits>,
    #[serde(flatten)]
    spent: Spent,
    is_active: bool,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// The authenticated caller of a request. The handlers of an embedding program find it in their
/// [`Caller`](crate::Caller).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Principal {
    /// The key that was used.
    #[serde(rename = "id")]
    pub key_id: String,
    /// The key's owner; `None` for an admin key.
    #[serde(skip)]
    pub wallet: Option<Wallet>,
    /// Its scopes.
    pub scopes: Scopes,
    /// When the key ends.
    pub expires_at: Option<Timestamp>,
    /// Whether the account of its wallet is blocked: the key reads, but neither pays nor makes keys.
    #[serde(skip)]
    pub is_blocked: bool,
    /// What it may use; `None` is all.
    #[serde(skip)]
    pub limits: Option<Arc<KeyLimits>>,
}

impl Principal {
    /// The admin that a command with access to the database acts as, by the id that the audit trail has of it.
    pub(crate) fn local_admin(id: String) -> Self {
        Self {
            key_id: id,
            wallet: None,
            scopes: Scopes::ADMIN,
            expires_at: None,
            is_blocked: false,
            limits: None,
        }
    }

    /// Whether this is an admin, with all permissions.
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

impl From<&CachedKey> for Principal {
    fn from(
        CachedKey {
            record, is_blocked, ..
        }: &CachedKey,
    ) -> Self {
        Self {
            key_id: record.id.clone(),
            wallet: record.wallet,
            scopes: record.scopes,
            expires_at: record.ends_at(),
            is_blocked: *is_blocked,
            limits: record.limits.clone(),
        }
    }
}
