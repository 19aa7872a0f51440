//! The two ends of an import: the other database, which is only read, and the transaction that writes into ours. The
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
        let mut select = self
            .0
            .prepare(&sql::select_for_import(table))
            .map_err(storage_error)?;
        let mut rows = select.query([]).map_err(storage_error)?;
        while let Some(row) = rows.next().map_err(storage_error)? {
            each(row)?;
        }
        Ok(())
    }
}

/// The transaction of an import.
pub(crate) struct ImportTransaction<'c> {
    connection: &'c Connection,
    now: Timestamp,
}

impl ImportTransaction<'_> {
    /// Creates an account, unless it exists; returns whether it is new.
    pub(crate) fn ensure_account(
        &self,
        wallet: &Wallet,
        created_at: Timestamp,
    ) -> Result<bool, StoreError> {
        accounts::ensure(self.connection, wallet, created_at)
    }

    /// Creates an account whose balance is the ledger entry `opening` with this reference; returns whether anything
    /// changed. [`StoreError::Conflict`] where it was opened with another balance, or nobody can hold as much.
    pub(crate) fn open_account(
        &self,
        wallet: &Wallet,
        created_at: Timestamp,
        balance: Credits,
        reference: &str,
    ) -> Result<bool, StoreError> {
        const REASON: &str = "opening";
        let c = self.connection;
        let created = accounts::ensure(c, wallet, created_at)?;
        // A key may have created the account, with a later date.
        let dated_back = c
            .prepare_cached(sql::AGE_ACCOUNT)
            .and_then(|mut update| update.execute(params![wallet.as_str(), created_at.millis()]))
            .map_err(storage_error)?;
        let opened = c
            .prepare_cached(sql::SELECT_OPENING)
            .and_then(|mut select| {
                let values = params![wallet.as_str(), REASON, reference];
                let opened = select.query_row(values, |row| credits_at(row, 0));
                opened.optional()
            })
            .map_err(storage_error)?;
        match opened {
            Some(before) if before != balance => {
                return Err(StoreError::Conflict(format!(
                    "was imported before as {before}, which is not changed"
                )));
            }
            None if balance > Credits::ZERO => {
                self.check_total(balance)?;
                let reference = Some(reference.to_owned());
                accounts::post(c, wallet, balance, REASON, reference, self.now)?;
            }
            _ => return Ok(created || dated_back > 0),
        }
        Ok(true)
    }

    /// The sum over all wallets must stay countable.
    fn check_total(&self, more: Credits) -> Result<(), StoreError> {
        let total: i64 = self
            .connection
            .prepare_cached(sql::SELECT_TOTALS)
            .and_then(|mut select| select.query_row([], |row| row.get(1)))
            .map_err(storage_error)?;
        match total.checked_add(more.micro()) {
            Some(_) => Ok(()),
            None => Err(StoreError::Conflict(
                "the sum of all balances would overflow".to_owned(),
            )),
        }
    }

    /// Stores a key, unless it exists; returns whether it is new.
    pub(crate) fn store_key(&self, key: &KeyRecord) -> Result<bool, StoreError> {
        keys::import(self.connection, key)
    }
}

impl SqliteStore {
    /// Runs an import as one transaction: where it fails nothing of it is stored.
    pub(crate) async fn import<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl FnOnce(&ImportTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = move |connection: &Connection| work(&ImportTransaction { connection, now });
        let imported = self.writer.write(Room::Common, work).await?;
        self.has_imported_keys.store(true, Ordering::Release);
        Ok(imported)
    }
}
