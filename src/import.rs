//! Imports a database of the R3MES backend: its accounts, balances and API keys, in one transaction. A second import adds
//! what is new, as the opening entry of a ledger and the id of a key identify what was imported before.

mod row;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Row;
use serde::Serialize;

use self::row::{RowError, account, is_pending, key, refused, wallet};
use crate::model::{Timestamp, Wallet};
use crate::store::{ImportSource, ImportTransaction, OpenError, SqliteStore, StoreError};

/// Every table of the backend. Accounts come first, so that they keep their age; no version of the backend ever wrote the
/// last three.
const TABLES: [&str; 6] = [
    "users",
    "credit_reservations",
    "api_keys",
    "mining_stats",
    "hashrate_history",
    "earnings_history",
];

/// The reference of a ledger entry that comes from a backend.
const ORIGIN: &str = "r3mes:";

/// A database of the R3MES backend at one moment; nothing in it or beside it is changed.
pub struct R3mesDatabase(ImportSource);

impl R3mesDatabase {
    /// Opens the file.
    ///
    /// # Errors
    /// Where there is none, or it has none of the backend's tables.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let source = ImportSource::open(path)?;
        let has_table = |table: &&str| source.has_table(table).unwrap_or(false);
        let refused = if source.is_ours(path) {
            "it is one of r3mes-edge; to use a copy run restore"
        } else if TABLES.iter().any(has_table) {
            return Ok(Self(source));
        } else {
            "none of the backend's tables can be read"
        };
        Err(OpenError::NotR3mes(path.to_owned(), refused))
    }

    /// Imports every row that is valid, in one transaction. `now` replaces times that a row lacks: of the creation of an
    /// account, of the revocation of a key.
    ///
    /// # Errors
    /// Where a file cannot be read or written; then nothing is imported. An invalid row is part of the report.
    pub async fn import_into(
        self,
        store: &SqliteStore,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        let work = move |transaction: &ImportTransaction<'_>| {
            let mut report = ImportReport::default();
            for table in TABLES {
                let counts = match self.0.has_table(table)? {
                    true => Some(report.import_table(&self.0, table, transaction, now)?),
                    false => None,
                };
                report.tables.insert(table, counts);
            }
            Ok(report)
        };
        store.import(work).await
    }
}

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
    /// Reservations that are pending; none is imported.
    pub pending_reservations: u64,
}

/// The rows of one table by outcome; the numbers add up to the table's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ImportCounts {
    /// Imported as they are.
    pub imported: u64,
    /// Imported with a change.
    pub changed: u64,
    /// Not imported.
    pub refused: u64,
    /// Imported before.
    pub existing: u64,
    /// Of no use here: reservations and history.
    pub skipped: u64,
}

/// A change or a refused row, for the operator to read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
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

impl ImportReport {
    fn import_table(
        &mut self,
        source: &ImportSource,
        table: &'static str,
        transaction: &ImportTransaction<'_>,
        now: Timestamp,
    ) -> Result<ImportCounts, StoreError> {
        let mut counts = ImportCounts::default();
        source.each_row(table, |row| {
            let mut notes = Vec::new();
            let imported = match table {
                "users" => import_account(row, transaction, now, &mut notes),
                "api_keys" => self.import_key(row, transaction, now),
                _ => {
                    // The backend lowers a balance when it confirms a reservation and not before, so every balance is
                    // right whatever becomes of its reservations.
                    self.pending_reservations += u64::from(is_pending(row));
                    counts.skipped += 1;
                    return Ok(());
                }
            };
            match imported {
                Ok(true) if notes.is_empty() => counts.imported += 1,
                Ok(true) => counts.changed += 1,
                Ok(false) => {
                    counts.existing += 1;
                    notes.clear();
                }
                Err(RowError::Refused(note)) => {
                    counts.refused += 1;
                    notes = vec![*note];
                }
                Err(RowError::Store(error)) => return Err(error),
            }
            for note in notes {
                self.notes.push(ImportNote {
                    table,
                    row: row.get(0).unwrap_or_default(),
                    wallet_address: wallet(row).ok(),
                    ..note
                });
            }
            Ok(())
        })?;
        Ok(counts)
    }

    fn import_key(
        &mut self,
        row: &Row<'_>,
        transaction: &ImportTransaction<'_>,
        now: Timestamp,
    ) -> Result<bool, RowError> {
        let (wallet, key) = key(row, now)?;
        let (account_is_new, key_is_new) = transaction.import_key(&wallet, &key)?;
        self.accounts_made += u64::from(account_is_new);
        Ok(key_is_new)
    }
}

/// Imports a row of `users`; returns whether anything is new.
fn import_account(
    row: &Row<'_>,
    transaction: &ImportTransaction<'_>,
    now: Timestamp,
    notes: &mut Vec<ImportNote>,
) -> Result<bool, RowError> {
    let (wallet, created_at, balance) = account(row, now, notes)?;
    match transaction.import_account(&wallet, created_at, balance, ORIGIN, now) {
        Err(StoreError::Conflict(reason)) => Err(refused("credits", reason)),
        imported => Ok(imported?),
    }
}
