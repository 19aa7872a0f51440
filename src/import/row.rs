//! Parses the rows of an R3MES backend. SQLite stores any type of value in any column, so every value is validated.

use rusqlite::Row;
use rusqlite::types::FromSql;

use super::ImportNote;
use crate::auth::{KeyHash, KeyRecord, KeyRequest, PlainKey, Scopes};
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::StoreError;

/// Why a row is not imported: it is invalid, or the import fails.
pub(super) enum RowError {
    Refused(Box<ImportNote>),
    Store(StoreError),
}

impl From<StoreError> for RowError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Refuses a row; the reason must not hold the value.
pub(super) fn refused(field: &'static str, reason: impl Into<String>) -> RowError {
    RowError::Refused(Box::new(ImportNote {
        outcome: "refused",
        field,
        reason: reason.into(),
        ..ImportNote::default()
    }))
}

/// The account of a row in `users`. A balance that is missing or negative becomes 0, as there is nothing to pay out;
/// another invalid one is refused, as only the operator knows what it should be.
pub(super) fn account(
    row: &Row<'_>,
    now: Timestamp,
    notes: &mut Vec<ImportNote>,
) -> Result<(Wallet, Timestamp, Credits), RowError> {
    let wallet = wallet(row)?;
    let number: Option<f64> = column(row, "credits")?;
    let (balance, reason) = match number {
        None => (Credits::ZERO, Some("there is no number")),
        Some(number) if number < 0.0 => (Credits::ZERO, Some("a balance is never negative")),
        Some(number) => {
            let parsed = Credits::from_float(number);
            let (balance, exact) = parsed.map_err(|reason| refused("credits", reason))?;
            (
                balance,
                (!exact).then_some("has more than 6 decimal places"),
            )
        }
    };
    let mut changed = |field, reason: &str, old: Option<f64>, new: String| {
        notes.push(ImportNote {
            outcome: "changed",
            field,
            reason: reason.to_owned(),
            old: old.map(|number| number.to_string()),
            new: Some(new),
            ..ImportNote::default()
        });
    };
    if let Some(reason) = reason {
        changed("credits", reason, number, balance.to_string());
    }
    // The balance must not be lost over a date.
    let created_at = time(row, "created_at").ok().flatten();
    if created_at.is_none() {
        changed("created_at", "there is no time", None, now.to_string());
    }
    Ok((wallet, created_at.unwrap_or(now), balance))
}

/// The key of a row in `api_keys`. Older backends stored plain keys, which are hashed at once, newer ones their SHA-256.
pub(super) fn key(row: &Row<'_>, now: Timestamp) -> Result<(Wallet, KeyRecord), RowError> {
    let wallet = wallet(row)?;
    let (sha256, hash, start) = if let Ok(Some(plain)) = column(row, "api_key") {
        let plain = zeroize::Zeroizing::<String>::new(plain);
        let reason = "is not a key of the R3MES backend (r3mes_ and 43 characters of base64url)";
        let key = PlainKey::parse_imported(&plain).ok_or_else(|| refused("api_key", reason))?;
        (key.sha256(), key.hash(), key.start().to_owned())
    } else {
        let hex: Option<String> = column(row, "api_key_hash")?;
        let hash = hex.and_then(|hex| KeyHash::from_hex(&hex));
        let reason = "is not a SHA-256 in hexadecimal digits";
        let hash = hash.ok_or_else(|| refused("api_key_hash", reason))?;
        (hash, hash, PlainKey::PREFIX.to_owned())
    };
    let created_at = time(row, "created_at")?.ok_or_else(|| refused("created_at", "is missing"))?;
    let name: String = column(row, "name")?.unwrap_or_default();
    let is_active = column(row, "is_active").ok().flatten().unwrap_or(false);
    let key = KeyRecord {
        id: sha256.imported_id(created_at),
        hash,
        start,
        wallet: Some(wallet),
        name: KeyRequest::name(&name).map_err(|reason| refused("name", reason))?,
        scopes: Scopes::IMPORTED,
        created_at,
        expires_at: time(row, "expires_at")?,
        revoked_at: (!is_active).then_some(now),
        last_used: time(row, "last_used")?,
        login: false,
    };
    Ok((wallet, key))
}

/// Whether a row in `credit_reservations` is pending.
pub(super) fn is_pending(row: &Row<'_>) -> bool {
    let status: Option<String> = column(row, "status").ok().flatten();
    status.is_some_and(|status| status == "pending")
}

pub(super) fn wallet(row: &Row<'_>) -> Result<Wallet, RowError> {
    const FIELD: &str = "wallet_address";
    let text: Option<String> = column(row, FIELD)?;
    let text = text.ok_or_else(|| refused(FIELD, "is missing"))?;
    Wallet::parse(&text).map_err(|reason| refused(FIELD, reason))
}

/// A time in UTC, unless it names its zone.
fn time(row: &Row<'_>, field: &'static str) -> Result<Option<Timestamp>, RowError> {
    let Some(text) = column::<String>(row, field)? else {
        return Ok(None);
    };
    let time = Timestamp::parse(&text).or_else(|_| Timestamp::parse_naive(&text));
    time.map(Some).map_err(|reason| refused(field, reason))
}

/// A column's value; `None` for NULL, and where there is no such column, as older tables have fewer.
fn column<T: FromSql>(row: &Row<'_>, field: &'static str) -> Result<Option<T>, RowError> {
    match row.get(field) {
        Ok(value) => Ok(value),
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        Err(_) => Err(refused(field, "has a value of the wrong type")),
    }
}
