//! Issues and rotates API keys: generates the key, stores its record, hands both back.

use super::{Actor, IdempotentRequest, Repository, StoreError};
use crate::auth::{IssuedKey, KeyRecord, KeyRequest, PlainKey};
use crate::model::{Timestamp, new_id_at};

/// Creates a key and stores its hash. The wallet may then have at most `max_active` active keys. A repeated idempotency
/// key creates nothing.
///
/// # Errors
/// [`StoreError::Conflict`] if the wallet has too many keys, [`StoreError::AlreadyIssued`] for a repeated idempotency key, and
/// the errors of the storage.
pub async fn issue_key(
    store: &dyn Repository,
    request: KeyRequest,
    max_active: usize,
    actor: Actor,
    idempotency: Option<IdempotentRequest<KeyRecord>>,
) -> Result<IssuedKey, StoreError> {
    let key = generate()?;
    let record = request.record(&key, actor.at);
    let stored = store.create_key(record.clone(), max_active, actor, idempotency);
    stored.await?;
    Ok(IssuedKey { key, record })
}

/// Replaces a key by one with the same owner, name, scopes, limits and lifetime, which ends at `ends_by` at the latest. The old
/// key is refused from `until` on; its record is returned as well.
///
/// # Errors
/// [`StoreError::Conflict`] if the old key is not active, and the errors of the storage.
pub async fn rotate_key(
    store: &dyn Repository,
    old: &KeyRecord,
    until: Timestamp,
    ends_by: Option<Timestamp>,
    max_active: usize,
    actor: Actor,
) -> Result<(IssuedKey, KeyRecord), StoreError> {
    let (key, now) = (generate()?, actor.at);
    let renewed = |expires_at: Timestamp| {
        let lifetime = expires_at.millis() - old.created_at.millis();
        Timestamp::from_millis(now.millis() + lifetime)
    };
    let record = KeyRecord {
        id: new_id_at("key_", now),
        hash: key.hash(),
        start: key.start().to_owned(),
        created_at: now,
        expires_at: old.expires_at.map(renewed).into_iter().chain(ends_by).min(),
        revoked_at: None,
        last_used: None,
        ..old.clone()
    };
    let retired = store
        .rotate_key(old.id.clone(), record.clone(), until, max_active, actor)
        .await?;
    Ok((IssuedKey { key, record }, retired))
}

fn generate() -> Result<PlainKey, StoreError> {
    PlainKey::generate().map_err(|error| StoreError::Internal(format!("no random bytes: {error}")))
}
