//! A database that is only read: no lock is acquired, nothing in the file or beside it is changed or made, and whoever
//! writes it meanwhile does not wait.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::accounts::{self, entry_in};
use super::connections::{self, OpenError};
use super::row::{all, count, value, wallet_at};
use super::{keys, sql, stable_read::StableReader, verify::LedgerVerifier};
use crate::auth::{KeyHash, KeyRecord};
use crate::model::Wallet;
use crate::store::{ExportedEntry, LedgerReport, StoreError, User, real_path};

/// An open database of which nothing can be changed.
pub struct SqliteReader(StableReader);

impl SqliteReader {
    /// Opens `database`, beside a running server too.
    ///
    /// # Errors
    /// Where it is no database of ours, of another version than this program's, or cannot be read.
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        let database = &real_path(database);
        let mut reader = StableReader::open(database)?;
        reader.read(|c| connections::check_version(c, database))?;
        Ok(Self(reader))
    }

    /// One short read.
    fn read<T>(
        &mut self,
        mut query: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, OpenError> {
        self.0.read(|c| Ok(query(c)?))
    }

    /// [`Repository::user`](crate::Repository::user)
    ///
    /// # Errors
    /// Where the file cannot be read, as with all that follow.
    pub fn user(&mut self, wallet: &Wallet) -> Result<Option<User>, OpenError> {
        self.read(|c| accounts::user(c, wallet))
    }

    /// [`Repository::users`](crate::Repository::users)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn users(&mut self, after: Option<&Wallet>, limit: usize) -> Result<Vec<User>, OpenError> {
        self.read(|c| accounts::users(c, after, limit))
    }

    /// [`Repository::key`](crate::Repository::key)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key(&mut self, id: &str) -> Result<Option<KeyRecord>, OpenError> {
        self.read(|c| keys::by_id(c, id))
    }

    /// [`Repository::key_by_hash`](crate::Repository::key_by_hash)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key_by_hash(&mut self, hash: &KeyHash) -> Result<Option<KeyRecord>, OpenError> {
        self.read(|c| keys::by_hash(c, hash))
    }

    /// [`Repository::keys`](crate::Repository::keys)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn keys(
        &mut self,
        wallet: Option<&Wallet>,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, OpenError> {
        self.read(|c| keys::list(c, wallet, before, limit))
    }

    /// [`Repository::verify_ledger`](crate::Repository::verify_ledger); `progress` is called before each step with the
    /// thousandths that are done.
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn verify_ledger(
        &mut self,
        mut progress: impl FnMut(u64),
    ) -> Result<LedgerReport, OpenError> {
        let last = self.read(last_entry)?;
        let mut verifier = LedgerVerifier::new();
        loop {
            progress(verifier.progress(last));
            verifier = match self.read(|c| verifier.clone().step(c))?.finish() {
                Ok(report) => return Ok(report),
                Err(verifier) => verifier,
            };
        }
    }
}

fn last_entry(c: &Connection) -> rusqlite::Result<i64> {
    c.query_row(sql::SELECT_LAST_ENTRY, [], value)
}

/// The ledger as it was when this was made, the oldest entry first, in short reads: whoever writes does not wait, and the
/// log can be emptied meanwhile.
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
        let mut reader = SqliteReader::open(database)?;
        if let Some(wallet) = &wallet
            && reader.read(|c| accounts::balance(c, wallet))?.is_none()
        {
            return Err(StoreError::UserNotFound.into());
        }
        Ok(Self {
            last: reader.read(last_entry)?,
            reader,
            wallet,
            after: 0,
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
        let read = |row: &Row<'_>| {
            Ok(ExportedEntry {
                wallet_address: wallet_at(row, 7)?,
                entry: entry_in(row)?,
            })
        };
        let (after, last, rows) = (self.after, self.last, count(Self::ROWS));
        let page = self.reader.read(|c| match &self.wallet {
            None => all(c, sql::SELECT_ENTRIES, [after, last, rows], read),
            Some(wallet) => {
                let values = params![after, last, rows, wallet.as_str()];
                all(c, sql::SELECT_ENTRIES_OF_WALLET, values, read)
            }
        })?;
        if let Some(last) = page.last() {
            self.after = last.entry.id;
        }
        Ok(page)
    }
}
