//! Parses the rows of an R3MES backend. SQLite stores any type of value in any column, so every value is validated.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::FieldChange;
use crate::auth::{KeyHash, KeyRecord, KeyRequest, PlainKey, Scopes};
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::StoreError;

/// Why a row is not imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    /// The row is invalid; the reason never holds its value.
    #[error("{field}: {reason}")]
    Refused { field: &'static str, reason: String },
    /// The import fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RowError {
    pub(super) fn refused(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Refused {
            field,
            reason: reason.into(),
        }
    }
}

/// The account of a row in `users`. A balance that is missing or negative becomes 0, as there is nothing to pay out;
/// another invalid one is refused, as only the operator knows what it should be.
pub(super) fn account(
    row: &Row<'_>,
    now: Timestamp,
    changes: &mut Vec<FieldChange>,
) -> Result<(Wallet, Timestamp, Credits), RowError> {
    const FIELD: &str = "credits";
    let wallet = wallet(row)?;
    let number = match value(row, FIELD) {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number as f64),
        ValueRef::Real(number) => Some(number),
        ValueRef::Text(_) | ValueRef::Blob(_) => {
            return Err(RowError::refused(FIELD, "is no number"));
        }
    };
    let (balance, reason) = match number {
        None => (Credits::ZERO, Some("there is no number")),
        Some(number) if number < 0.0 => (Credits::ZERO, Some("a balance is never negative")),
        Some(number) => {
            let parsed = Credits::from_float(number);
            let (balance, exact) = parsed.map_err(|reason| RowError::refused(FIELD, reason))?;
            (
                balance,
                (!exact).then_some("has more than 6 decimal places"),
            )
        }
    };
    changes.extend(reason.map(|reason| FieldChange {
        field: FIELD,
        reason,
        old: number.map(|number| number.to_string()),
        new: balance.to_string(),
    }));
    let created_at = time(row, "created_at").ok().flatten();
    // The balance must not be lost over a date.
    let created_at = created_at.unwrap_or_else(|| {
        changes.push(FieldChange {
            field: "created_at",
            reason: "there is no time",
            old: None,
            new: now.to_string(),
        });
        now
    });
    Ok((wallet, created_at, balance))
}

/// The key of a row in `api_keys`. Older backends stored plain keys, which are hashed at once, newer ones their SHA-256.
pub(super) fn key(row: &Row<'_>, now: Timestamp) -> Result<(Wallet, KeyRecord), RowError> {
    let wallet = wallet(row)?;
    let (sha256, hash, start) = match text(row, "api_key") {
        Ok(Some(plain)) => {
            let plain = zeroize::Zeroizing::new(plain);
            let reason =
                "is not a key of the R3MES backend (r3mes_ and 43 characters of base64url)";
            let key = PlainKey::parse_imported(&plain)
                .ok_or_else(|| RowError::refused("api_key", reason))?;
            (key.sha256(), key.hash(), key.start().to_owned())
        }
        _ => {
            let hash = text(row, "api_key_hash")?.and_then(|hex| sha256(&hex));
            let reason = "is not a SHA-256 in hexadecimal digits";
            let hash = hash.ok_or_else(|| RowError::refused("api_key_hash", reason))?;
            (hash, hash, PlainKey::PREFIX.to_owned())
        }
    };
    let created_at =
        time(row, "created_at")?.ok_or_else(|| RowError::refused("created_at", "is missing"))?;
    let name = text(row, "name")?.unwrap_or_default();
    let active = matches!(value(row, "is_active"), ValueRef::Integer(active) if active != 0);
    let key = KeyRecord {
        id: sha256.imported_id(created_at),
        hash,
        start,
        wallet: Some(wallet),
        name: KeyRequest::name(&name).map_err(|reason| RowError::refused("name", reason))?,
        scopes: Scopes::IMPORTED,
        created_at,
        expires_at: time(row, "expires_at")?,
        revoked_at: (!active).then_some(now),
        last_used: time(row, "last_used")?,
        login: false,
    };
    Ok((wallet, key))
}

/// Whether a row in `credit_reservations` is pending.
pub(super) fn is_pending(row: &Row<'_>) -> bool {
    matches!(value(row, "status"), ValueRef::Text(b"pending"))
}

pub(super) fn wallet(row: &Row<'_>) -> Result<Wallet, RowError> {
    const FIELD: &str = "wallet_address";
    let text = text(row, FIELD)?.ok_or_else(|| RowError::refused(FIELD, "is missing"))?;
    Wallet::parse(&text).map_err(|reason| RowError::refused(FIELD, reason))
}

/// A column's value; NULL where the table has no such column, as older ones have fewer.
fn value<'a>(row: &'a Row<'_>, column: &str) -> ValueRef<'a> {
    row.get_ref(column).unwrap_or(ValueRef::Null)
}

fn text(row: &Row<'_>, field: &'static str) -> Result<Option<String>, RowError> {
    match value(row, field) {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(RowError::refused(field, "is not UTF-8")),
        },
        _ => Err(RowError::refused(field, "is no text")),
    }
}

/// A time in UTC, unless it names its zone.
fn time(row: &Row<'_>, field: &'static str) -> Result<Option<Timestamp>, RowError> {
    let Some(text) = text(row, field)? else {
        return Ok(None);
    };
    let zoned = text
        .get(10..)
        .is_some_and(|rest| rest.contains(['+', '-', 'Z', 'z', '[']));
    let parsed = if zoned {
        Timestamp::parse(&text)
    } else {
        Timestamp::parse_naive(&text)
    };
    parsed
        .map(Some)
        .map_err(|reason| RowError::refused(field, reason))
}

fn sha256(hex: &str) -> Option<KeyHash> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(KeyHash::from_bytes(bytes))
}
