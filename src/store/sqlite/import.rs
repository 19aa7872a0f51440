//! The SQL of an import: reading the tables of another program's database, and writing accounts and keys into ours. The
//! `import` module maps the rows of the one to the other.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, Row, params};

use super::read_only::ReadOnly;
use super::row::{credits_at, first};
use super::{OpenError, SqliteStore, accounts, connections, keys, sql};
use crate::auth::KeyRecord;
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::{Result, StoreError};

/// A database of another program, opened read-only: nothing in it or beside it is changed.
pub(crate) struct ImportSource(ReadOnly);

impl ImportSource {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = ReadOnly::open_any(path)?;
        // One snapshot for all tables: a backend that still runs must not move credits in between.
        connection.execute_batch("BEGIN")?;
        Ok(Self(connection))
    }

    /// Whether r3mes-edge wrote it.
    pub(crate) fn is_ours(&self, path: &Path) -> bool {
        !matches!(
            connections::check_version(&self.0, path),
            Err(OpenError::Foreign(_) | OpenError::Storage(_))
        )
    }

    pub(crate) fn has_table(&self, table: &str) -> Result<bool> {
        let mut select = self.0.prepare_cached(sql::SELECT_TABLE)?;
        Ok(select.exists([table])?)
    }

    /// Calls `each` with every row of a table, by rowid. The first column is the rowid, the others are the table's.
    pub(crate) fn each_row(
        &self,
        table: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut select = self.0.prepare(&sql::select_for_import(table))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            each(row)?;
        }
        Ok(())
    }
}

/// The transaction of an import.
pub(crate) struct ImportTransaction<'c>(&'c Connection);

impl ImportTransaction<'_> {
    /// Creates an account with a balance, which is the ledger entry `opening` with this reference; returns whether
    /// anything is new. [`StoreError::Conflict`] where another balance was imported before.
    pub(crate) fn import_account(
        &self,
        wallet: &Wallet,
        created_at: Timestamp,
        balance: Credits,
        reference: &str,
        now: Timestamp,
    ) -> Result<bool> {
        const REASON: &str = "opening";
        let account_is_new = accounts::ensure(self.0, wallet, created_at)?;
        let values = params![wallet.as_str(), REASON, reference];
        let before = first(self.0, sql::SELECT_OPENING, values, |row| {
            credits_at(row, 0)
        })?;
        match before {
            Some(before) if before != balance => Err(StoreError::Conflict(format!(
                "was imported before as {before}, which is not changed"
            ))),
            None if balance > Credits::ZERO => {
                let reference = Some(reference.to_owned());
                accounts::post(self.0, wallet, balance, REASON, reference, now)?;
                Ok(true)
            }
            _ => Ok(account_is_new),
        }
    }

    /// Stores a key; returns whether its account and the key itself are new.
    pub(crate) fn import_key(&self, wallet: &Wallet, key: &KeyRecord) -> Result<(bool, bool)> {
        let account_is_new = accounts::ensure(self.0, wallet, key.created_at)?;
        Ok((account_is_new, keys::import(self.0, key)?))
    }
}

impl SqliteStore {
    /// Runs an import as one transaction: where it fails nothing of it is stored.
    pub(crate) async fn import<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImportTransaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let work = move |c: &Connection| work(&ImportTransaction(c));
        let imported = self.write(work).await?;
        self.has_imported_keys.store(true, Ordering::Release);
        Ok(imported)
    }
}
