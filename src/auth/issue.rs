use super::{KeyRecord, PlainKey, Scopes};
use crate::model::{Ids, Timestamp, Wallet};
use crate::store::{Once, Repository, StoreError};

/// A key that somebody asked for and may have; [`issue`] makes it.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// Whose it will be; `None` for an admin's.
    pub wallet: Option<Wallet>,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it runs out; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Whether it is for a wallet login.
    pub login: bool,
}

impl KeyRequest {
    /// Checks a key's name.
    ///
    /// # Errors
    /// A sentence that says what is wrong, fit for the client.
    pub fn name(text: &str) -> Result<String, &'static str> {
        if text.chars().count() > 100 || text.chars().any(char::is_control) {
            return Err("must be at most 100 characters, none of them a control character");
        }
        Ok(text.to_owned())
    }
}

/// A new key with its record, as [`issue`] and [`rotate`] give it.
#[derive(Debug)]
pub struct IssuedKey {
    /// The key, which is nowhere else.
    pub key: PlainKey,
    /// What is kept of it.
    pub record: KeyRecord,
    /// Whether the wallet's account was made for it.
    pub new_account: bool,
}

impl IssuedKey {
    /// The one answer that shows the key.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.record.id,
            "api_key": self.key.reveal(),
            "start": self.record.start,
            "wallet_address": self.record.wallet,
            "name": self.record.name,
            "scopes": self.record.scopes,
            "created_at": self.record.created_at,
            "expires_at": self.record.expires_at,
            "message": "Keep this key: it is shown only now.",
        })
    }
}

/// Makes a key and keeps its hash. The wallet may then have at most `max_active` active keys. Asked for again under the same
/// `once`, it is not made again, nor shown.
///
/// # Errors
/// [`StoreError::Conflict`] where the wallet has too many keys already, [`StoreError::AlreadyIssued`] where `once` knows it,
/// or what else the storage says.
pub async fn issue(
    store: &dyn Repository,
    ids: &Ids,
    request: KeyRequest,
    max_active: usize,
    now: Timestamp,
    once: Option<Once<KeyRecord>>,
) -> Result<IssuedKey, StoreError> {
    let key = PlainKey::generate()
        .map_err(|error| StoreError::Internal(format!("no random bytes: {error}")))?;
    let (record, new_account) = keep(store, ids, &key, request, max_active, now, once).await?;
    Ok(IssuedKey {
        key,
        record,
        new_account,
    })
}

/// Makes a key in the place of another, with the same owner, name, scopes and lifetime. The old one is refused from
/// `until` on. Also returns the old key as it is then.
///
/// # Errors
/// [`StoreError::Conflict`] where the old key is not active any more, or what else the storage says.
pub async fn rotate(
    store: &dyn Repository,
    ids: &Ids,
    old: &KeyRecord,
    until: Timestamp,
    max_active: usize,
    now: Timestamp,
) -> Result<(IssuedKey, KeyRecord), StoreError> {
    rotate_within(store, ids, old, until, None, max_active, now).await
}

/// The same, but the new key ends at `ends_by` at the latest.
pub(crate) async fn rotate_within(
    store: &dyn Repository,
    ids: &Ids,
    old: &KeyRecord,
    until: Timestamp,
    ends_by: Option<Timestamp>,
    max_active: usize,
    now: Timestamp,
) -> Result<(IssuedKey, KeyRecord), StoreError> {
    let key = PlainKey::generate()
        .map_err(|error| StoreError::Internal(format!("no random bytes: {error}")))?;
    let renewed = |expires_at: Timestamp| {
        let lifetime = expires_at.millis() - old.created_at.millis();
        Timestamp::from_millis(now.millis() + lifetime)
    };
    let record = KeyRecord {
        id: ids.make("key_", now),
        hash: key.hash(),
        start: key.start().to_owned(),
        created_at: now,
        expires_at: old.expires_at.map(renewed).into_iter().chain(ends_by).min(),
        revoked_at: None,
        last_used: None,
        ..old.clone()
    };
    let retired = store
        .rotate_key(old.id.clone(), record.clone(), until, max_active)
        .await?;
    Ok((
        IssuedKey {
            key,
            record,
            new_account: false,
        },
        retired,
    ))
}

/// Keeps the hash of a key that exists already, as the admin key file's does.
///
/// # Errors
/// As [`issue`].
pub async fn keep(
    store: &dyn Repository,
    ids: &Ids,
    key: &PlainKey,
    request: KeyRequest,
    max_active: usize,
    now: Timestamp,
    once: Option<Once<KeyRecord>>,
) -> Result<(KeyRecord, bool), StoreError> {
    let record = KeyRecord {
        id: ids.make("key_", now),
        hash: key.hash(),
        start: key.start().to_owned(),
        wallet: request.wallet,
        name: request.name,
        scopes: request.scopes,
        created_at: now,
        expires_at: request.expires_at,
        revoked_at: None,
        last_used: None,
        login: request.login,
    };
    let new_account = store.create_key(record.clone(), max_active, once).await?;
    Ok((record, new_account))
}
