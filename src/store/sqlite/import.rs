//! Imports a database of the R3MES backend: its accounts, balances and API keys, in one transaction. A second import adds
//! what is new, as the opening entry of a ledger and the id of a key identify what was imported before.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::accounts::{self, Movement, Values};
use super::read_only::ReadOnly;
use super::row::{first, value};
use super::writer::Written;
use super::{OpenError, SqliteStore, audit, connections, keys, sql};
use crate::auth::{KeyHash, KeyRecord, KeyRequest, PlainKey, Scopes};
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::{Account, Actor, StoreError};

/// The tables that are imported; accounts come first, so that they keep their age.
const TABLES: [&str; 2] = ["users", "api_keys"];

/// What an import did.
#[derive(Debug, Default, Serialize)]
pub struct ImportReport {
    /// A note of each change and each row refused.
    #[serde(rename = "rows")]
    pub notes: Vec<ImportNote>,
    /// The counts of every table; `None` where the backend has no such table.
    pub tables: BTreeMap<&'static str, Option<ImportCounts>>,
    /// Accounts created for keys of wallets without a row in `users`.
    pub accounts_made: u64,
}

impl ImportReport {
    /// Whether anything was new.
    fn has_changes(&self) -> bool {
        let mut tables = self.tables.values().flatten();
        self.accounts_made > 0 || tables.any(|table| table.imported + table.changed > 0)
    }
}

/// The rows of one table by outcome; the numbers add up to the table's.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ImportCounts {
    /// Imported as they are.
    pub imported: u64,
    /// Imported with a change.
    pub changed: u64,
    /// Not imported.
    pub refused: u64,
    /// Imported before.
    pub existing: u64,
}

/// A change or a refused row, for the operator to read.
#[derive(Debug, Default, Serialize)]
pub struct ImportNote {
    /// The table.
    pub table: &'static str,
    /// The rowid, which is the id where the table has one.
    pub row: i64,
    /// The wallet, where the row has a valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<Wallet>,
    /// `changed` or `refused`.
    pub outcome: &'static str,
    /// The column.
    pub field: &'static str,
    /// What is wrong with it; never its value.
    pub reason: String,
    /// The number in the row; `None` where it is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What was imported instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// Why a row is not imported: a field is invalid, for a reason that does not hold its value; or the import fails.
enum RowError {
    Refused(&'static str, String),
    Store(StoreError),
}

impl<E: Into<StoreError>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

fn refused(field: &'static str, reason: impl Into<String>) -> RowError {
    RowError::Refused(field, reason.into())
}

impl SqliteStore {
    /// Imports every valid row of a database of the R3MES backend in one transaction; nothing in it or beside it is
    /// changed. The time of `actor` replaces those that a row lacks: of the creation of an account, of the revocation of a key.
    ///
    /// # Errors
    /// Where the file is not one of a backend, or a file cannot be read or written; then nothing is imported. An invalid
    /// row is part of the report.
    pub async fn import_r3mes(&self, file: &Path, actor: Actor) -> Result<ImportReport, OpenError> {
        let source = ReadOnly::open_any(file)?;
        // One snapshot for all tables: a backend that still runs must not move credits in between.
        source.execute_batch("BEGIN")?;
        let refused = |reason| Err(OpenError::NotR3mes(file.to_owned(), reason));
        match connections::check_version(&source, file) {
            Err(OpenError::Foreign(_) | OpenError::Storage(_)) => {}
            _ => return refused("it is one of r3mes-edge; to use a copy run restore"),
        }
        let has_table = |table| has_table(&source, table).unwrap_or(false);
        if !TABLES.into_iter().any(has_table) {
            return refused("none of the backend's tables can be read");
        }
        let name = file.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let import = move |c: &Connection| {
            let mut values = Vec::new();
            let report = import(&source, c, actor.at, &mut values)?;
            if report.has_changes() {
                audit::record(c, &actor, "db.import", &name, None, None)?;
            }
            let written = Written {
                values,
                ..Written::default()
            };
            Ok((report, written))
        };
        Ok(self.writer.write(1, import).await?)
    }
}

fn has_table(source: &Connection, table: &str) -> rusqlite::Result<bool> {
    source.prepare(sql::SELECT_TABLE)?.exists([table])
}

/// Imports every table; adds the balances that it leaves to `values`.
fn import(
    source: &Connection,
    c: &Connection,
    now: Timestamp,
    values: &mut Values,
) -> Result<ImportReport, StoreError> {
    let mut report = ImportReport::default();
    for table in TABLES {
        if !has_table(source, table)? {
            report.tables.insert(table, None);
            continue;
        }
        let mut counts = ImportCounts::default();
        let mut select = source.prepare(&sql::select_for_import(table))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut notes = Vec::new();
            let imported = match table {
                "users" => import_account(row, c, now, &mut notes, values),
                _ => import_key(row, c, now, &mut report.accounts_made),
            };
            let count = match imported {
                Ok(true) if notes.is_empty() => &mut counts.imported,
                Ok(true) => &mut counts.changed,
                Ok(false) => {
                    notes.clear();
                    &mut counts.existing
                }
                Err(RowError::Refused(field, reason)) => {
                    notes = vec![ImportNote {
                        outcome: "refused",
                        field,
                        reason,
                        ..ImportNote::default()
                    }];
                    &mut counts.refused
                }
                Err(RowError::Store(error)) => return Err(error),
            };
            *count += 1;
            for note in &mut notes {
                note.table = table;
                note.row = row.get(0).unwrap_or_default();
                note.wallet_address = wallet(row).ok();
            }
            report.notes.extend(notes);
        }
        report.tables.insert(table, Some(counts));
    }
    Ok(report)
}

/// Imports a row of `users`, whose balance becomes a ledger entry; returns whether anything is new. A balance that is
/// missing or negative becomes 0, as there is nothing to pay out; another invalid one is refused, as only the operator
/// knows what it should be. The backend lowers a balance when it confirms a reservation and not before, so every balance is
/// right whatever becomes of its reservations.
fn import_account(
    row: &Row<'_>,
    c: &Connection,
    now: Timestamp,
    notes: &mut Vec<ImportNote>,
    values: &mut Values,
) -> Result<bool, RowError> {
    let wallet = wallet(row)?;
    let number: Option<f64> = column(row, "credits")?;
    let (balance, problem) = match number {
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
    if let Some(problem) = problem {
        changed("credits", problem, number, balance.to_string());
    }
    // The balance must not be lost over a date.
    let created_at = time(row, "created_at").ok().flatten().unwrap_or_else(|| {
        changed("created_at", "there is no time", None, now.to_string());
        now
    });
    let account_is_new = accounts::ensure(c, &wallet, created_at)?;
    let (reason, reference) = ("opening", "r3mes:");
    let opening = params![wallet, reason, reference];
    match first(c, sql::SELECT_OPENING, opening, value::<Credits>)? {
        Some(before) if before != balance => Err(refused(
            "credits",
            format!("was imported before as {before}, which is not changed"),
        )),
        None if balance > Credits::ZERO => {
            let movement = Movement {
                reference: Some(reference.to_owned()),
                ..Movement::new(balance, reason)
            };
            match accounts::grant(c, &wallet, movement, now) {
                Ok((entry, _)) => {
                    values.push((Account::Wallet(wallet), entry.balance));
                    Ok(true)
                }
                Err(StoreError::Conflict(reason)) => Err(refused("credits", reason)),
                Err(error) => Err(error.into()),
            }
        }
        _ => Ok(account_is_new),
    }
}

/// Imports a row of `api_keys`; returns whether it is new. Older backends stored plain keys, which are hashed at once, newer
/// ones their SHA-256.
fn import_key(
    row: &Row<'_>,
    c: &Connection,
    now: Timestamp,
    accounts_made: &mut u64,
) -> Result<bool, RowError> {
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
        limits: None,
    };
    *accounts_made += u64::from(accounts::ensure(c, &wallet, created_at)?);
    Ok(keys::insert(c, &key, true)?)
}

fn wallet(row: &Row<'_>) -> Result<Wallet, RowError> {
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

/// A column's value; `None` for NULL, and where there is no such column, as older tables have fewer. SQLite stores any type
/// of value in any column.
fn column<T: FromSql>(row: &Row<'_>, field: &'static str) -> Result<Option<T>, RowError> {
    match row.get(field) {
        Ok(value) => Ok(value),
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        Err(_) => Err(refused(field, "has a value of the wrong type")),
    }
}
