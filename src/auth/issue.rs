//! New keys: the request, and the key with its record. `store::issue_key` stores one.

use std::sync::Arc;

use super::{KeyLimits, KeyRecord, PlainKey, Scopes, ShownKey, Spent};
use crate::model::{ParseError, Timestamp, Wallet, new_id_at};

/// A request for a new key, after its permissions were checked.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// The owner; `None` for an admin key.
    pub wallet: Option<Wallet>,
    /// A label.
    pub name: String,
    /// Its scopes.
    pub scopes: Scopes,
    /// Expiry; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Whether it is for a wallet login.
    pub login: bool,
    /// What it may use; `None` is all that its scopes and its wallet allow.
    pub limits: Option<Arc<KeyLimits>>,
}

impl KeyRequest {
    /// Checks a key's name.
    ///
    /// # Errors
    /// What is wrong, in words for the client.
    pub fn name(text: &str) -> Result<String, ParseError> {
        if text.chars().count() > 100 || text.chars().any(char::is_control) {
            return Err("must be at most 100 characters, none of them a control character".into());
        }
        Ok(text.to_owned())
    }

    /// The record of `key` made for this request.
    #[must_use]
    pub fn record(self, key: &PlainKey, now: Timestamp) -> KeyRecord {
        KeyRecord {
            id: new_id_at("key_", now),
            hash: key.hash(),
            start: key.start().to_owned(),
            wallet: self.wallet,
            name: self.name,
            scopes: self.scopes,
            created_at: now,
            expires_at: self.expires_at,
            revoked_at: None,
            last_used: None,
            login: self.login,
            limits: self.limits,
        }
    }
}

/// A new key with its record.
#[derive(Debug)]
pub struct IssuedKey {
    /// The key, in plain text only here.
    pub key: PlainKey,
    /// Its stored record.
    pub record: KeyRecord,
}

impl IssuedKey {
    /// The only response that contains the key.
    #[must_use]
    pub fn shown(&self, spent: Spent) -> ShownKey<'_> {
        ShownKey {
            api_key: Some(self.key.reveal()),
            message: Some("Keep this key: it is shown only now."),
            ..self.record.shown(self.record.created_at, spent)
        }
    }
}
