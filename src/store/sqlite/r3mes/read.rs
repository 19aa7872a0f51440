//! What a row of the R3MES backend says. SQLite lets any kind of value stand in any column, so nothing is believed.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::{Change, R3mesRow, R3mesTable, Refused};
use crate::auth::{KeyHash, KeyRecord, KeyRequest, PlainKey, Scopes};
use crate::model::{Credits, HashrateUnit, Sample, Timestamp, Wallet, count, figure, percentage};
use crate::store::Earning;

/// What a row asks for.
pub(super) enum Record {
    Account(Wallet, Timestamp, Credits),
    Key(Box<KeyRecord>),
    Sample(Box<Sample>),
    Earning(Earning),
    Reservation { pending: bool },
}

/// What our ledger calls things that come from there.
pub(super) const ORIGIN: &str = "r3mes:";

pub(super) fn row(table: R3mesTable, row: &Row<'_>, now: Timestamp) -> rusqlite::Result<R3mesRow> {
    let mut changes = Vec::new();
    let record = match table {
        R3mesTable::Users => account(row, now, &mut changes),
        R3mesTable::CreditReservations => Ok(reservation(row)),
        R3mesTable::ApiKeys => key(row, now),
        R3mesTable::MiningStats => sample(row, true, now),
        R3mesTable::HashrateHistory => sample(row, false, now),
        R3mesTable::EarningsHistory => earning(row, now, &mut changes),
    };
    Ok(R3mesRow {
        table,
        id: row.get(0)?,
        wallet: wallet(row).ok(),
        record,
        changes,
    })
}

/// Where the amount is none that an account can have, but says that there is nothing to have, the account begins with 0.
/// An amount that cannot be told, or is too much, is refused: nobody but the operator knows what it should be.
fn account(row: &Row<'_>, now: Timestamp, changes: &mut Vec<Change>) -> Result<Record, Refused> {
    const FIELD: &str = "credits";
    const NEGATIVE: &str = "a balance is never negative";
    let wallet = wallet(row)?;
    let nothing = match value(row, FIELD) {
        ValueRef::Null => Some(("there is no number", None)),
        ValueRef::Real(number) if number < 0.0 => Some((NEGATIVE, Some(number.to_string()))),
        ValueRef::Integer(number) if number < 0 => Some((NEGATIVE, Some(number.to_string()))),
        _ => None,
    };
    let credits = match nothing {
        Some((why, old)) => {
            let new = Credits::ZERO.to_string();
            changes.push(Change {
                field: FIELD,
                why,
                old,
                new,
            });
            Credits::ZERO
        }
        None => amount(row, FIELD, changes)?,
    };
    let created_at = match time(row, "created_at") {
        Ok(Some(time)) => time,
        // The balance must not be lost over a date.
        _ => {
            changes.push(Change {
                field: "created_at",
                why: "there is no time",
                old: None,
                new: now.to_string(),
            });
            now
        }
    };
    Ok(Record::Account(wallet, created_at, credits))
}

/// The backend lowers a balance when it confirms a reservation and not before, so the balance as it stands is right
/// whatever has become of its reservations.
fn reservation(row: &Row<'_>) -> Record {
    Record::Reservation {
        pending: matches!(value(row, "status"), ValueRef::Text(b"pending")),
    }
}

/// The older generation holds keys in plain text, which are hashed at once; of the newer one's the SHA-256 is all there is.
fn key(row: &Row<'_>, now: Timestamp) -> Result<Record, Refused> {
    let wallet = wallet(row)?;
    let (sha256, hash, start) = match text(row, "api_key") {
        Ok(Some(plain)) => {
            let plain = zeroize::Zeroizing::new(plain);
            let why = "is none of an R3MES backend (r3mes_ and 43 of base64url)";
            let key =
                PlainKey::parse_imported(&plain).ok_or_else(|| Refused::new("api_key", why))?;
            (key.sha256(), key.hash(), key.start().to_owned())
        }
        _ => {
            let hash = text(row, "api_key_hash")?.and_then(|hex| sha256(&hex));
            let why = "is no SHA-256 in hexadecimal digits";
            let hash = hash.ok_or_else(|| Refused::new("api_key_hash", why))?;
            (hash, hash, PlainKey::PREFIX.to_owned())
        }
    };
    let created_at = required(time(row, "created_at")?, "created_at")?;
    let name = text(row, "name")?.unwrap_or_default();
    let active = matches!(value(row, "is_active"), ValueRef::Integer(active) if active != 0);
    Ok(Record::Key(Box::new(KeyRecord {
        id: sha256.imported_id(created_at),
        hash,
        start,
        wallet: Some(wallet),
        name: KeyRequest::name(&name).map_err(|what| Refused::new("name", what))?,
        scopes: Scopes::IMPORTED,
        created_at,
        expires_at: time(row, "expires_at")?,
        revoked_at: (!active).then_some(now),
        last_used: time(row, "last_used")?,
        login: false,
    })))
}

/// What does not stand there is absent, and not 0; only the hashrate must be there, as everywhere.
fn sample(row: &Row<'_>, whole: bool, now: Timestamp) -> Result<Record, Refused> {
    let wallet = wallet(row)?;
    let at = passed(row, now)?;
    let hashrate = required(number(row, "hashrate", figure)?, "hashrate")?;
    let mut sample = Sample::new(wallet, at, hashrate, HashrateUnit::GradientsPerHour);
    if whole {
        sample.gpu_temperature = number(row, "gpu_temperature", figure)?;
        sample.blocks_found = whole_number(row, "blocks_found")?;
        sample.uptime_percentage = number(row, "uptime_percentage", percentage)?;
        sample.network_difficulty = number(row, "network_difficulty", figure)?;
    }
    Ok(Record::Sample(Box::new(sample)))
}

fn earning(row: &Row<'_>, now: Timestamp, changes: &mut Vec<Change>) -> Result<Record, Refused> {
    Ok(Record::Earning(Earning {
        wallet: wallet(row)?,
        earnings: positive(row, "earnings", changes)?,
        source_id: format!("{ORIGIN}{}", row.get::<_, i64>(0).unwrap_or_default()),
        recorded_at: passed(row, now)?,
    }))
}

/// The value in a column; NULL where there is no such column, as older tables have fewer.
fn value<'a>(row: &'a Row<'_>, column: &str) -> ValueRef<'a> {
    row.get_ref(column).unwrap_or(ValueRef::Null)
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Refused> {
    value.ok_or_else(|| Refused::new(field, "is missing"))
}

fn text(row: &Row<'_>, field: &'static str) -> Result<Option<String>, Refused> {
    match value(row, field) {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Refused::new(field, "is not UTF-8")),
        },
        _ => Err(Refused::new(field, "is no text")),
    }
}

fn wallet(row: &Row<'_>) -> Result<Wallet, Refused> {
    const FIELD: &str = "wallet_address";
    let text = required(text(row, FIELD)?, FIELD)?;
    Wallet::parse(&text).map_err(|what| Refused::new(FIELD, what))
}

fn time(row: &Row<'_>, field: &'static str) -> Result<Option<Timestamp>, Refused> {
    let Some(text) = text(row, field)? else {
        return Ok(None);
    };
    // One that names its zone after all is not taken for another moment.
    let zoned = text
        .get(10..)
        .is_some_and(|rest| rest.contains(['+', '-', 'Z', 'z', '[']));
    let parsed = if zoned {
        Timestamp::parse(&text)
    } else {
        Timestamp::parse_naive(&text)
    };
    parsed.map(Some).map_err(|what| Refused::new(field, what))
}

/// When something happened; a miner's clock may run ahead a little.
fn passed(row: &Row<'_>, now: Timestamp) -> Result<Timestamp, Refused> {
    const FIELD: &str = "recorded_at";
    let at = required(time(row, FIELD)?, FIELD)?;
    if at > now.plus(Sample::MAX_AHEAD) {
        return Err(Refused::new(
            FIELD,
            "is more than 5 minutes ahead of this machine's clock",
        ));
    }
    Ok(at)
}

fn number(
    row: &Row<'_>,
    field: &'static str,
    within: fn(f64) -> Result<f64, &'static str>,
) -> Result<Option<f64>, Refused> {
    let number = match value(row, field) {
        ValueRef::Null => return Ok(None),
        ValueRef::Real(number) => number,
        ValueRef::Integer(number) => number as f64,
        ValueRef::Text(_) | ValueRef::Blob(_) => return Err(Refused::new(field, "is no number")),
    };
    within(number)
        .map(Some)
        .map_err(|what| Refused::new(field, what))
}

fn whole_number(row: &Row<'_>, field: &'static str) -> Result<Option<i64>, Refused> {
    match value(row, field) {
        ValueRef::Integer(number) => count(number)
            .map(Some)
            .map_err(|what| Refused::new(field, what)),
        // SQLite turns a whole float into an integer wherever the column is declared as one.
        ValueRef::Real(_) => Err(Refused::new(field, "must be a whole number")),
        ValueRef::Null => Ok(None),
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(Refused::new(field, "is no number")),
    }
}

/// An amount of credits; where it has more than six places, what it is rounded to.
fn amount(
    row: &Row<'_>,
    field: &'static str,
    changes: &mut Vec<Change>,
) -> Result<Credits, Refused> {
    let refused = |what| Refused::new(field, what);
    match value(row, field) {
        ValueRef::Null => Err(refused("is missing")),
        ValueRef::Integer(number) => Credits::parse(&number.to_string()).map_err(refused),
        ValueRef::Real(number) => {
            let (amount, same) = Credits::from_float(number).map_err(refused)?;
            if !same {
                changes.push(Change {
                    field,
                    why: "has more than 6 decimal places",
                    old: Some(number.to_string()),
                    new: amount.to_string(),
                });
            }
            Ok(amount)
        }
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(refused("is no number")),
    }
}

fn positive(
    row: &Row<'_>,
    field: &'static str,
    changes: &mut Vec<Change>,
) -> Result<Credits, Refused> {
    match amount(row, field, changes)? {
        amount if amount > Credits::ZERO => Ok(amount),
        _ => Err(Refused::new(
            field,
            "must be more than 0, and no less than a millionth",
        )),
    }
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
