//! Taking over a whole database of the R3MES backend: `read` makes records of its rows, `take` keeps them.
//!
//! A row becomes exactly one of taken, changed, refused, there already or skipped. What tells that a row is there already
//! stands with the data itself: the reference of a ledger entry, the id of a key or an earning, the moment of a sample. So
//! it does not matter how often a database is taken over, and where an earlier time was cut short.

mod read;
mod take;

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use self::read::Record;
use super::stable_read::StableReader;
use super::writer::Room;
use super::{OpenError, SqliteStore, count, open, sql, storage_error};
use crate::model::{Timestamp, Wallet};
use crate::store::{StoreError, real_path};

/// The tables of an [`R3mesDatabase`] that are taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum R3mesTable {
    /// Accounts and balances.
    Users,
    /// What chats were going to cost. Of the balance nothing is missing for those that are pending, so none is taken over.
    CreditReservations,
    /// Keys, in plain text or as their SHA-256.
    ApiKeys,
    /// What miners told.
    MiningStats,
    /// Their hashrate once more, and sometimes on its own.
    HashrateHistory,
    /// What they earned. The balance has it already.
    EarningsHistory,
}

impl R3mesTable {
    /// Every table, in the order in which they are taken over: accounts first, so that they keep their age.
    pub const ALL: [Self; 6] = [
        Self::Users,
        Self::CreditReservations,
        Self::ApiKeys,
        Self::MiningStats,
        Self::HashrateHistory,
        Self::EarningsHistory,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::CreditReservations => "credit_reservations",
            Self::ApiKeys => "api_keys",
            Self::MiningStats => "mining_stats",
            Self::HashrateHistory => "hashrate_history",
            Self::EarningsHistory => "earnings_history",
        }
    }
}

/// A database of the R3MES backend as it is at one moment, opened to be read; nothing in it or beside it is changed.
pub struct R3mesDatabase(Connection);

impl R3mesDatabase {
    /// Opens the file.
    ///
    /// # Errors
    /// Where there is none, or it has none of the tables.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |why| OpenError::NotR3mes(path.to_owned(), why);
        let this = Self(StableReader::open(&real_path(path))?.into_connection());
        // All pages are read from one moment: a backend that still runs must not move credits in between.
        let begun = this.0.execute_batch("BEGIN");
        let tables = begun.and_then(|()| {
            let found = R3mesTable::ALL.map(|table| this.has(table));
            found
                .into_iter()
                .try_fold(false, |some, found| Ok(some | found?))
        });
        match tables {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                Err(refused("it is no SQLite database"))
            }
            Err(error) => Err(error.into()),
            Ok(_) if open::version(&this.0, path).is_ok() => Err(refused(
                "it is one of r3mes-edge; restore puts a copy in its place",
            )),
            Ok(false) => Err(refused("it has none of its tables")),
            Ok(true) => Ok(this),
        }
    }

    fn has(&self, table: R3mesTable) -> rusqlite::Result<bool> {
        self.0
            .prepare_cached(sql::SELECT_TABLE)?
            .query_row([table.as_str()], |_| Ok(()))
            .optional()
            .map(|found| found.is_some())
    }

    /// How many rows a table has; `None` where there is no such table.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn rows(&self, table: R3mesTable) -> Result<Option<u64>, StoreError> {
        let counted = || {
            if !self.has(table)? {
                return Ok(None);
            }
            let statement = sql::count_r3mes(table.as_str());
            let rows: i64 = self.0.query_row(&statement, [], |row| row.get(0))?;
            Ok(Some(rows.unsigned_abs()))
        };
        counted().map_err(storage_error)
    }

    /// At most `limit` rows of a table from the row `from` on, in the order of their ids. `now` stands where a row does not
    /// say when an account was made or a key was revoked; samples and earnings that claim to be later are refused.
    ///
    /// # Errors
    /// Where there is no such table, or it cannot be read.
    pub fn page(
        &self,
        table: R3mesTable,
        from: i64,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<R3mesRow>, StoreError> {
        let read = || {
            let mut select = self.0.prepare_cached(&sql::select_r3mes(table.as_str()))?;
            select
                .query_map(params![from, count(limit)], |row| {
                    read::row(table, row, now)
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(storage_error)
    }
}

/// A row that was read, for [`SqliteStore::import`].
pub struct R3mesRow {
    table: R3mesTable,
    id: i64,
    wallet: Option<Wallet>,
    record: Result<Record, Refused>,
    changes: Vec<Change>,
}

impl R3mesRow {
    /// Its id, or where it has none its rowid.
    #[must_use]
    pub const fn id(&self) -> i64 {
        self.id
    }
}

/// Why a row is not taken. The sentence never holds what stands in the row.
struct Refused {
    field: &'static str,
    why: String,
}

impl Refused {
    fn new(field: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { field, why }
    }
}

/// What is not taken as it stands there.
struct Change {
    field: &'static str,
    why: &'static str,
    old: Option<String>,
    new: String,
}

/// What there is to say of a row that was not simply taken, for the operator to read.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ImportNote {
    /// Where it stands.
    pub table: &'static str,
    /// Its id, or where it has none its rowid.
    pub row: i64,
    /// Whose it is, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<Wallet>,
    /// `changed` or `refused`.
    pub outcome: &'static str,
    /// Which of its columns.
    pub field: &'static str,
    /// What is wrong with it; never what stands there.
    pub reason: String,
    /// The number that stands there; `None` where it is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What was taken instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// What became of some rows; the numbers add up to theirs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Taken as they are.
    pub taken: u64,
    /// Taken, but not as they are.
    pub changed: u64,
    /// Not taken.
    pub refused: u64,
    /// Taken before, or told by another row.
    pub there_already: u64,
    /// Rows that say nothing that is kept: reservations.
    pub skipped: u64,
    /// How many of these are pending.
    pub pending_reservations: u64,
    /// Accounts made for wallets that were in no row of `users`.
    pub accounts_made: u64,
    /// A note of each change and each row refused.
    pub notes: Vec<ImportNote>,
}

impl SqliteStore {
    /// Takes over rows of one table of an [`R3mesDatabase`] in one transaction: all of them, or, where it fails, none. Rows
    /// that were taken over before are told, not taken again.
    ///
    /// # Errors
    /// Where the storage fails; what is wrong with a row only refuses that row.
    pub async fn import(
        &self,
        rows: Vec<R3mesRow>,
        now: Timestamp,
    ) -> Result<Imported, StoreError> {
        let keys = rows.iter().any(|row| row.table == R3mesTable::ApiKeys);
        let work = move |c: &Connection| take::take(c, rows, now);
        let imported = self.writer.write(Room::Common, work).await?;
        if keys {
            self.has_imported_keys.store(true, Ordering::Release);
        }
        Ok(imported)
    }
}
