use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::{OpenError, count, open, sql, storage_error};
use crate::auth::{KeyHash, KeyRecord, KeyRequest, PlainKey, Scopes};
use crate::model::{Timestamp, Wallet};
use crate::store::StoreError;

/// A database of the R3MES backend, opened to be read; nothing in it or beside it is changed.
pub struct R3mesDatabase(Connection);

/// A row that was read: its `id`, and the key in it or why it cannot be taken.
type Read = (i64, Result<KeyRecord, String>);

impl R3mesDatabase {
    /// Opens the file.
    ///
    /// # Errors
    /// Where there is none, or it is no database.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        open::reading(path).map(Self)
    }

    /// At most `limit` rows of its `api_keys` after the row `after`, in the order of their `id`. The older generation holds
    /// keys in plain text, which are hashed at once; of the newer one's the SHA-256 is all there is.
    ///
    /// # Errors
    /// Where it has no such table, or cannot be read.
    pub fn keys(&self, after: i64, limit: usize, now: Timestamp) -> Result<Vec<Read>, StoreError> {
        let read = || {
            let mut select = self.0.prepare(sql::SELECT_R3MES_KEYS)?;
            select
                .query_map(params![after, count(limit)], |row| {
                    Ok((row.get("id")?, key(row, now)))
                })?
                .collect::<rusqlite::Result<Vec<Read>>>()
        };
        read().map_err(storage_error)
    }
}

fn key(row: &Row<'_>, now: Timestamp) -> Result<KeyRecord, String> {
    let wallet = text(row, "wallet_address")?.ok_or("wallet_address is missing")?;
    let wallet = Wallet::parse(&wallet).map_err(|what| format!("wallet_address {what}"))?;
    let (sha256, hash, start) = match text(row, "api_key") {
        Ok(Some(plain)) => {
            let plain = zeroize::Zeroizing::new(plain);
            let key = PlainKey::parse_imported(&plain)
                .ok_or("api_key is none of an R3MES backend (r3mes_ and 43 of base64url)")?;
            (key.sha256(), key.hash(), key.start().to_owned())
        }
        _ => {
            let hash = text(row, "api_key_hash")?
                .and_then(|hex| sha256(&hex))
                .ok_or("api_key_hash is no SHA-256 in hexadecimal digits")?;
            (hash, hash, PlainKey::PREFIX.to_owned())
        }
    };
    let created_at = time(row, "created_at")?.ok_or("created_at is missing")?;
    let name = text(row, "name")?.unwrap_or_default();
    let active = matches!(row.get_ref("is_active"), Ok(ValueRef::Integer(active)) if active != 0);
    Ok(KeyRecord {
        id: sha256.imported_id(created_at),
        hash,
        start,
        wallet: Some(wallet),
        name: KeyRequest::name(&name).map_err(|what| format!("name {what}"))?,
        scopes: Scopes::IMPORTED,
        created_at,
        expires_at: time(row, "expires_at")?,
        revoked_at: (!active).then_some(now),
        last_used: time(row, "last_used")?,
        login: false,
    })
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

/// The text in a column; `None` where it is NULL. The sentence never holds what is there.
fn text(row: &Row<'_>, column: &str) -> Result<Option<String>, String> {
    match row.get_ref(column) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Text(text)) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(format!("{column} is not UTF-8")),
        },
        Ok(_) => Err(format!("{column} is no text")),
        Err(_) => Err(format!("there is no column {column}")),
    }
}

fn time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>, String> {
    text(row, column)?
        .map(|text| Timestamp::parse_naive(&text).map_err(|what| format!("{column} {what}")))
        .transpose()
}
