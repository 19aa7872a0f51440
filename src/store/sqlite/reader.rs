use std::path::Path;

use rusqlite::Connection;

use super::open::{self, OpenError};
use super::{accounts, keys, sql, stable_read::StableReader, verify::LedgerVerifier};
use crate::auth::{KeyHash, KeyRecord};
use crate::model::Wallet;
use crate::store::{LedgerReport, User, real_path};

/// A database that is only read: no lock is taken, nothing in the file or beside it is changed or made, and whoever writes
/// it meanwhile is not kept waiting.
pub struct SqliteReader(StableReader);

impl SqliteReader {
    /// Opens `database`.
    ///
    /// # Errors
    /// Where it is no database of ours, of another version than this program's, or cannot be read.
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        let database = &real_path(database);
        let mut reader = Self(StableReader::open(database)?);
        reader.read(|c| open::current(c, database))?;
        Ok(reader)
    }

    /// The same, also of an older version.
    pub(super) fn of_any_version(database: &Path) -> Result<Self, OpenError> {
        let database = &real_path(database);
        let mut reader = Self(StableReader::open(database)?);
        reader.read(|c| open::version(c, database).map(drop))?;
        Ok(reader)
    }

    /// One short read.
    pub(super) fn read<T>(
        &mut self,
        query: impl FnMut(&Connection) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        self.0.read(query)
    }

    /// [`Repository::user`](crate::Repository::user)
    ///
    /// # Errors
    /// Where the file cannot be read, as with all that follow.
    pub fn user(&mut self, wallet: &Wallet) -> Result<Option<User>, OpenError> {
        self.read(|c| Ok(accounts::user(c, wallet)?))
    }

    /// [`Repository::users`](crate::Repository::users)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn users(&mut self, after: Option<&Wallet>, limit: usize) -> Result<Vec<User>, OpenError> {
        self.read(|c| Ok(accounts::users(c, after, limit)?))
    }

    /// [`Repository::key`](crate::Repository::key)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key(&mut self, id: &str) -> Result<Option<KeyRecord>, OpenError> {
        self.read(|c| Ok(keys::by_id(c, id)?))
    }

    /// [`Repository::key_by_hash`](crate::Repository::key_by_hash)
    ///
    /// # Errors
    /// As [`SqliteReader::user`].
    pub fn key_by_hash(&mut self, hash: &KeyHash) -> Result<Option<KeyRecord>, OpenError> {
        self.read(|c| Ok(keys::by_hash(c, hash)?))
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
        self.read(|c| Ok(keys::list(c, wallet, before, limit)?))
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
        let last = |c: &Connection| c.query_row(sql::SELECT_LAST_ENTRY, [], |row| row.get(0));
        let last = self.read(|c| Ok(last(c)?))?;
        let mut walk = LedgerVerifier::new();
        loop {
            done(walk.done(last));
            walk = match self.read(|c| Ok(walk.clone().step(c)?))?.ended() {
                Ok(report) => return Ok(report),
                Err(walk) => walk,
            };
        }
    }
}
