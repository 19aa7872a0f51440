use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::open::{self, OpenError};
use super::{accounts, backup::log_of, keys, sql, verify::Walk};
use crate::auth::{KeyHash, KeyRecord};
use crate::model::Wallet;
use crate::store::{LedgerReport, User};

/// A database that is only read: no lock is taken, nothing in the file or beside it is changed or made, and whoever writes
/// it meanwhile is not kept waiting.
///
/// ```
/// use r3mes_edge::SqliteStore;
/// use r3mes_edge::store::SqliteReader;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("edge.db");
/// # drop(SqliteStore::open(&file, true)?);
/// let mut reader = SqliteReader::open(&file)?;
/// assert_eq!(reader.users(None, 10)?, []);
/// assert!(reader.verify_ledger()?.mistakes.is_empty());
/// let mut shown = Vec::new();
/// reader.verify_ledger_telling(|done| shown.push(done))?;
/// assert!(shown.is_sorted() && shown.iter().all(|done| *done <= 1000));
/// # Ok(())
/// # }
/// ```
pub struct SqliteReader {
    database: PathBuf,
    connection: Connection,
    /// Which of the log's files there were when the connection was opened.
    beside: [bool; 2],
}

impl SqliteReader {
    /// Opens `database`.
    ///
    /// # Errors
    /// Where it is no database of ours, of another version than this program's, or cannot be read.
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        let reader = Self::of_any_version(database)?;
        open::current(&reader.connection, database)?;
        Ok(reader)
    }

    /// The same, also of an older version.
    pub(super) fn of_any_version(database: &Path) -> Result<Self, OpenError> {
        let beside = beside(database);
        let connection = open::reading(database)?;
        open::version(&connection, database)?;
        Ok(Self {
            database: database.to_owned(),
            connection,
            beside,
        })
    }

    /// The connection, for one short read.
    pub(super) fn connection(&mut self) -> Result<&Connection, OpenError> {
        // How a file must be opened depends on whether somebody has it: a server that starts or ends meanwhile changes that.
        let beside = beside(&self.database);
        if beside != self.beside {
            self.connection = open::reading(&self.database)?;
            self.beside = beside;
        }
        Ok(&self.connection)
    }

    /// [`Repository::user`](crate::Repository::user)
    ///
    /// # Errors
    /// Where the file cannot be read, as with all that follow.
    pub fn user(&mut self, wallet: &Wallet) -> Result<Option<User>, OpenError> {
        Ok(accounts::user(self.connection()?, wallet)?)
    }

    /// [`Repository::users`](crate::Repository::users)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn users(&mut self, after: Option<&Wallet>, limit: usize) -> Result<Vec<User>, OpenError> {
        Ok(accounts::users(self.connection()?, after, limit)?)
    }

    /// [`Repository::key`](crate::Repository::key)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key(&mut self, id: &str) -> Result<Option<KeyRecord>, OpenError> {
        Ok(keys::by_id(self.connection()?, id)?)
    }

    /// [`Repository::key_by_hash`](crate::Repository::key_by_hash)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key_by_hash(&mut self, hash: &KeyHash) -> Result<Option<KeyRecord>, OpenError> {
        Ok(keys::by_hash(self.connection()?, hash)?)
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
        Ok(keys::list(self.connection()?, wallet, before, limit)?)
    }

    /// [`Repository::verify_ledger`](crate::Repository::verify_ledger)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn verify_ledger(&mut self) -> Result<LedgerReport, OpenError> {
        self.verify_ledger_telling(|_| {})
    }

    /// As [`SqliteReader::verify_ledger`]; `done` hears before each step how many thousandths are done.
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn verify_ledger_telling(
        &mut self,
        mut done: impl FnMut(u64),
    ) -> Result<LedgerReport, OpenError> {
        let select = sql::SELECT_LAST_ENTRY;
        let last = self.connection()?.query_row(select, [], |row| row.get(0))?;
        let mut walk = Walk::new();
        loop {
            done(walk.done(last));
            walk = match walk.step(self.connection()?)?.ended() {
                Ok(report) => return Ok(report),
                Err(walk) => walk,
            };
        }
    }
}

fn beside(database: &Path) -> [bool; 2] {
    ["-wal", "-shm"].map(|end| log_of(database, end).exists())
}
