//! The SQL of an import: reading the tables of another program's database, and writing accounts and keys into ours. The
//! `import` module maps the rows of the one to the other.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::stable_read::StableReader;
use super::writer::Room;
use super::{OpenError, SqliteStore, accounts, credits_at, keys, open, sql, storage_error};
use crate::auth::KeyRecord;
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::{StoreError, real_path};

/// A database of another program, opened read-only: nothing in it or beside it is changed.
pub(crate) struct ImportSource(Connection);

impl ImportSource {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = StableReader::open(&real_path(path))?.into_connection();
        // One snapshot for all tables: a backend that still runs must not move credits in between.
        connection.execute_batch("BEGIN")?;
        Ok(Self(connection))
    }

    /// Whether r3mes-edge wrote it.
    pub(crate) fn is_ours(&self, path: &Path) -> bool {
        open::version(&self.0, path).is_ok()
    }

    pub(crate) fn has_table(&self, table: &str) -> Result<bool, StoreError> {
        self.0
            .prepare_cached(sql::SELECT_TABLE)
            .and_then(|mut select| select.exists([table]))
            .map_err(storage_error)
    }

    /// Calls `each` with every row of a table, by rowid. The first column is the rowid, the others are the table's.
    pub(crate) fn each_row(
        &self,
        table: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let select = sql::select_for_import(table);
        let mut select = self.0.prepare(&select).map_err(storage_error)?;
        let mut rows = select.query([]).map_err(storage_error)?;
        while let Some(row) = rows.next().map_err(storage_error)? {
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
    ) -> Result<bool, StoreError> {
        const REASON: &str = "opening";
        let account_is_new = accounts::ensure(self.0, wallet, created_at)?;
        let values = params![wallet.as_str(), REASON, reference];
        let before = self
            .0
            .prepare_cached(sql::SELECT_OPENING)
            .and_then(|mut select| {
                select
                    .query_row(values, |row| credits_at(row, 0))
                    .optional()
            })
            .map_err(storage_error)?;
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
    pub(crate) fn import_key(
        &self,
        wallet: &Wallet,
        key: &KeyRecord,
    ) -> Result<(bool, bool), StoreError> {
        let account_is_new = accounts::ensure(self.0, wallet, key.created_at)?;
        Ok((account_is_new, keys::import(self.0, key)?))
    }
}

impl SqliteStore {
    /// Runs an import as one transaction: where it fails nothing of it is stored.
    pub(crate) async fn import<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImportTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = move |connection: &Connection| work(&ImportTransaction(connection));
        let imported = self.writer.write(Room::Common, work).await?;
        self.has_imported_keys.store(true, Ordering::Release);
        Ok(imported)
    }
}
