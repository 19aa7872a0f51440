//! Read-only access to a database: acquires no lock, changes or creates no file, and does not block a server that writes
//! to it.

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, Row, params};

use super::accounts::{self, entry_in};
use super::connections::{self, OpenError};
use super::read_pool::ReadPool;
use super::row::{all, count, value, wallet_at};
use super::stable_read::{Mode, StableReader, read_async};
use super::writer::Writer;
use super::{SqliteStore, sql};
use crate::model::Wallet;
use crate::store::{ExportedEntry, Observers, StoreError, real_path};

impl SqliteStore {
    /// Opens `database` read-only and runs `query`; runs it again if another process wrote meanwhile, as the result may then
    /// mix two states. Every write is refused.
    ///
    /// # Errors
    /// If the file is not an r3mes-edge database, has another version, cannot be read or does not stop changing;
    /// and what `query` fails with.
    pub async fn read_only<T, E: From<OpenError>>(
        database: &Path,
        query: impl AsyncFn(Arc<Self>) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = &real_path(database);
        read_async(path, |mode| Self::open_read_only(path, mode), query).await
    }

    fn open_read_only(path: &Path, mode: Mode) -> Result<Arc<Self>, OpenError> {
        connections::check_version(&mode.open(path)?, path)?;
        let observers = Arc::new(Observers::default());
        Ok(Arc::new(Self {
            path: path.to_owned(),
            read_pool: ReadPool::new(mode.manager(path), None, Arc::clone(&observers))?,
            writer: Writer::closed(Arc::clone(&observers)),
            has_imported_keys: false.into(),
            backing_up: tokio::sync::Mutex::default(),
            expired_at: AtomicI64::new(i64::MIN),
            lock: Mutex::default(),
            observers,
        }))
    }
}

fn last_entry(c: &Connection) -> rusqlite::Result<i64> {
    c.query_row(sql::SELECT_LAST_ENTRY, [], value)
}

/// The ledger as it was when this was created, oldest entry first. Read in short transactions, so that it neither blocks
/// writes nor keeps the log from being emptied.
pub struct LedgerExport {
    reader: StableReader,
    wallet: Option<Wallet>,
    /// Entries after this one, up to that one, as ids rise with time and no entry is ever changed.
    after: i64,
    last: i64,
}

impl LedgerExport {
    /// Entries of a read at most.
    const ROWS: usize = 1000;

    /// Opens `database` for reading, also while a server runs; only entries of `wallet` if given.
    ///
    /// # Errors
    /// If the file is not an r3mes-edge database, cannot be read, or has no account for `wallet`.
    pub fn open(database: &Path, wallet: Option<Wallet>) -> Result<Self, OpenError> {
        let database = &real_path(database);
        let mut reader = StableReader::open(database)?;
        reader.read(|c| connections::check_version(c, database))?;
        if let Some(wallet) = &wallet
            && reader
                .read(|c| Ok(accounts::balance(c, wallet)?))?
                .is_none()
        {
            return Err(StoreError::UserNotFound.into());
        }
        Ok(Self {
            last: reader.read(|c| Ok(last_entry(c)?))?,
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
            None => Ok(all(c, sql::SELECT_ENTRIES, [after, last, rows], read)?),
            Some(wallet) => {
                let values = params![after, last, rows, wallet.as_str()];
                Ok(all(c, sql::SELECT_ENTRIES_OF_WALLET, values, read)?)
            }
        })?;
        if let Some(last) = page.last() {
            self.after = last.entry.id;
        }
        Ok(page)
    }
}
