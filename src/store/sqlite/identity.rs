//! Which database a file is, and whether the write-ahead log beside it is its own: a log is replayed over the file that is
//! there, and SQLite does not check that it is the one the log was written for.

use std::path::Path;

use rusqlite::Connection;

use super::connections::OpenError;
use super::row::{execute, one};
use super::{read_only, sql};
use crate::store::StoreError;
use crate::store::lock::with_suffix;

/// The row of the table `identity`.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) database: String,
    log: i64,
    before: i64,
    open_at: Option<String>,
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Identity> {
    one(c, sql::SELECT_IDENTITY, [], |row| {
        Ok(Identity {
            database: row.get(0)?,
            log: row.get(1)?,
            before: row.get(2)?,
            open_at: row.get(3)?,
        })
    })
}

/// Refuses a file beside the log of another state or another database, and a file that was moved or copied from where it is in
/// use without its log. `c` is a connection that has not read anything yet, and that does not checkpoint when it is closed.
pub(super) fn check(c: &Connection, path: &Path) -> Result<(), OpenError> {
    let log = with_suffix(path, "-wal");
    let length = std::fs::metadata(&log).map(|file| file.len()).ok();
    // A file that cannot be read is refused for that by what reads it next.
    let Ok(file) = read_only::open_without_log(path).and_then(|c| read(&c)) else {
        return Ok(());
    };
    match (length, file.open_at) {
        (None, Some(place)) if Path::new(&place) != path => {
            return Err(OpenError::LogMissing(path.to_owned(), place.into()));
        }
        (None, Some(_)) => log::warn!(
            "{} was deleted after a crash: commits that were only in it are lost, unless another program had written them into the database",
            log.display()
        ),
        (None | Some(0), _) => {}
        (Some(_), _) => match read(c) {
            Ok(now) if [now.log, now.before].contains(&file.log) => {}
            Ok(_) => return Err(OpenError::OtherLog(path.to_owned(), log)),
            Err(error) => {
                return Err(match StoreError::from(error) {
                    // The file alone could be read.
                    StoreError::Damaged(_) | StoreError::Internal(_) => {
                        OpenError::OtherLog(path.to_owned(), log)
                    }
                    error => error.into(),
                });
            }
        },
    }
    Ok(())
}

/// Gives the log, which is new, a number.
pub(super) fn begin_log(c: &Connection) -> rusqlite::Result<usize> {
    execute(c, sql::BEGIN_LOG, [])
}

/// Notes in the file that it is open at `path`, or not any more, and empties the log into it.
pub(super) fn set_open_at(c: &Connection, path: Option<&Path>) -> rusqlite::Result<()> {
    let place = path.map(Path::to_string_lossy);
    execute(c, sql::SET_OPEN_AT, [place])?;
    // Not where another program reads it; what the row states of the log holds all the same.
    c.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(()))
}
