//! Imports a database of the R3MES backend: its accounts, balances and API keys, in one transaction. A second import adds
//! what is new, as the opening entry of a ledger and the id of a key identify what was imported before.

mod row;

use std::path::Path;

use rusqlite::Row;
use serde::Serialize;

use self::row::{RowError, account, is_pending, key, wallet};
use crate::model::{Timestamp, Wallet};
use crate::store::{ImportSource, ImportTransaction, OpenError, SqliteStore, StoreError};

/// Every table of the backend. Accounts come first, so that they keep their age. No version of the backend ever wrote
/// the last three.
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
    /// Where there is none, or it has none of the tables.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |why| OpenError::NotR3mes(path.to_owned(), why);
        let source = ImportSource::open(path)?;
        let tables = TABLES.iter().map(|table| source.has_table(table));
        match tables.collect::<Result<Vec<_>, _>>() {
            Err(StoreError::Damaged(_)) => Err(refused("not an SQLite database, or damaged")),
            Err(error) => Err(OpenError::Storage(error)),
            Ok(_) if source.is_ours(path) => Err(refused(
                "it is a database of r3mes-edge; to use a copy run restore",
            )),
            Ok(found) if !found.contains(&true) => {
                Err(refused("it has none of the backend's tables"))
            }
            Ok(_) => Ok(Self(source)),
        }
    }

    /// Imports every row that is valid, in one transaction. `now` is when accounts were created and keys revoked whose
    /// rows do not say.
    ///
    /// # Errors
    /// Where a file cannot be read or written; then nothing is imported. An invalid row is part of the report.
    pub async fn import_into(
        self,
        store: &SqliteStore,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        store
            .import(now, move |transaction| {
                import_rows(&self.0, transaction, now)
            })
            .await
    }
}

/// What an import did.
#[derive(Debug, Default)]
pub struct ImportReport {
    /// A note of each row that was changed or refused.
    pub notes: Vec<ImportNote>,
    /// The name and the counts of every table, `None` where the backend has no such table.
    pub tables: Vec<(&'static str, Option<ImportCounts>)>,
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

/// A row that was changed or refused, for the operator to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImportNote {
    /// The table.
    pub table: &'static str,
    /// Its rowid, which is the id where the table has one.
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

impl std::fmt::Display for ImportNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.table, self.row)?;
        if let Some(wallet) = self.wallet_address {
            write!(f, " {wallet}")?;
        }
        write!(f, ": {}: {}: {}", self.outcome, self.field, self.reason)?;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, ": {old} becomes {new}"),
            (None, Some(new)) => write!(f, ": it becomes {new}"),
            _ => Ok(()),
        }
    }
}

/// A value that is not imported as it is.
struct FieldChange {
    field: &'static str,
    reason: &'static str,
    old: Option<String>,
    new: String,
}

enum Outcome {
    Imported,
    Existing,
    Skipped,
}

impl Outcome {
    const fn of(changed: bool) -> Self {
        if changed {
            Self::Imported
        } else {
            Self::Existing
        }
    }
}

fn import_rows(
    source: &ImportSource,
    transaction: &ImportTransaction<'_>,
    now: Timestamp,
) -> Result<ImportReport, StoreError> {
    let mut report = ImportReport::default();
    for table in TABLES {
        if !source.has_table(table)? {
            report.tables.push((table, None));
            continue;
        }
        let mut counts = ImportCounts::default();
        source.each_row(table, |row| {
            let mut changes = Vec::new();
            let outcome = import_row(table, row, transaction, now, &mut report, &mut changes);
            let mut note = ImportNote {
                table,
                row: row.get(0).unwrap_or_default(),
                wallet_address: wallet(row).ok(),
                outcome: "changed",
                field: "",
                reason: String::new(),
                old: None,
                new: None,
            };
            match outcome {
                Ok(Outcome::Imported) if changes.is_empty() => counts.imported += 1,
                Ok(Outcome::Imported) => {
                    counts.changed += 1;
                    report
                        .notes
                        .extend(changes.into_iter().map(|change| ImportNote {
                            field: change.field,
                            reason: change.reason.to_owned(),
                            old: change.old,
                            new: Some(change.new),
                            ..note.clone()
                        }));
                }
                Ok(Outcome::Existing) => counts.existing += 1,
                Ok(Outcome::Skipped) => counts.skipped += 1,
                Err(RowError::Refused { field, reason }) => {
                    counts.refused += 1;
                    (note.outcome, note.field, note.reason) = ("refused", field, reason);
                    report.notes.push(note);
                }
                Err(RowError::Store(error)) => return Err(error),
            }
            Ok(())
        })?;
        report.tables.push((table, Some(counts)));
    }
    Ok(report)
}

fn import_row(
    table: &str,
    row: &Row<'_>,
    transaction: &ImportTransaction<'_>,
    now: Timestamp,
    report: &mut ImportReport,
    changes: &mut Vec<FieldChange>,
) -> Result<Outcome, RowError> {
    match table {
        "users" => {
            let (wallet, created_at, balance) = account(row, now, changes)?;
            let opened = transaction.open_account(&wallet, created_at, balance, ORIGIN);
            match opened {
                Err(StoreError::Conflict(reason)) => Err(RowError::refused("credits", reason)),
                opened => Ok(Outcome::of(opened?)),
            }
        }
        "api_keys" => {
            let (wallet, key) = key(row, now)?;
            let created = transaction.ensure_account(&wallet, key.created_at)?;
            report.accounts_made += u64::from(created);
            Ok(Outcome::of(transaction.store_key(&key)?))
        }
        "credit_reservations" => {
            // The backend lowers a balance when it confirms a reservation and not before, so every balance is right
            // whatever becomes of its reservations.
            report.pending_reservations += u64::from(is_pending(row));
            Ok(Outcome::Skipped)
        }
        _ => Ok(Outcome::Skipped),
    }
}
