//! The whole ledger, read beside whoever writes.

use std::path::Path;

use rusqlite::params;

use super::accounts::{self, entry_in};
use super::{OpenError, SqliteReader, count, sql, wallet_at};
use crate::model::Wallet;
use crate::store::{ExportedEntry, StoreError};

/// The ledger as it was when this was made, the oldest entry first, in short reads: whoever writes is not kept waiting, and
/// the log can be emptied meanwhile.
pub struct LedgerExport {
    reader: SqliteReader,
    wallet: Option<Wallet>,
    /// Entries after this one, up to that one, as ids rise with time and no entry is ever changed.
    after: i64,
    last: i64,
}

impl LedgerExport {
    /// Entries of a read at most.
    const ROWS: usize = 1000;

    /// Opens `database` to be read, beside a running server too; of `wallet` only where it is given.
    ///
    /// # Errors
    /// Where it is no database of ours or cannot be read, or holds no account of `wallet`.
    pub fn open(database: &Path, wallet: Option<Wallet>) -> Result<Self, OpenError> {
        let mut reader = SqliteReader::of_any_version(database)?;
        let last = reader.read(|c| {
            if let Some(wallet) = &wallet
                && accounts::balance(c, wallet)?.is_none()
            {
                return Err(OpenError::Storage(StoreError::UserNotFound));
            }
            Ok(c.query_row(sql::SELECT_LAST_ENTRY, [], |row| row.get(0))?)
        })?;
        Ok(Self {
            reader,
            wallet,
            after: 0,
            last,
        })
    }

    /// How much of the ledger was read, in thousandths.
    #[must_use]
    pub fn done(&self) -> u64 {
        u64::try_from(self.after * 1000 / self.last.max(1)).unwrap_or_default()
    }

    /// The next entries, at most a thousand; none at the end.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn page(&mut self) -> Result<Vec<ExportedEntry>, OpenError> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(ExportedEntry {
                wallet_address: wallet_at(row, 7)?,
                entry: entry_in(row)?,
            })
        };
        let bounds = (self.after, self.last, count(Self::ROWS));
        let wallet = &self.wallet;
        let rows = self.reader.read(|c| {
            Ok(match wallet {
                None => c
                    .prepare_cached(sql::SELECT_ENTRIES)?
                    .query_map(params![bounds.0, bounds.1, bounds.2], read)?
                    .collect::<rusqlite::Result<Vec<_>>>()?,
                Some(wallet) => c
                    .prepare_cached(sql::SELECT_ENTRIES_OF_WALLET)?
                    .query_map(params![bounds.0, bounds.1, bounds.2, wallet.as_str()], read)?
                    .collect::<rusqlite::Result<Vec<_>>>()?,
            })
        })?;
        if let Some(last) = rows.last() {
            self.after = last.entry.id;
        }
        Ok(rows)
    }
}
