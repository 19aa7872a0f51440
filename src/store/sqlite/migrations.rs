//! How a file of another version gets this program's schema, and goes back to an older one.
//!
//! The server is stopped for it, so a step does only what takes as long with a large file as with a small one; what takes
//! longer is left for later (`rest`), beside whoever reads and writes. So is the verification of the copy that is made
//! before (`before`). With a small file all of it is done at once.

mod before;
mod rest;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::open::{self, OpenError, SCHEMA_VERSION};
use super::{check, sql, stable_read};
use crate::store::{InstanceLock, LockError, StoreError, real_path};

pub(super) use self::before::verify_aside;
pub(super) use self::rest::{go_on, waits};

/// The way from the version below to this one, and back.
struct Step {
    version: i64,
    up: Way,
    down: Way,
}

/// One direction of a step.
struct Way {
    /// The tables of the version that is left of which the other version has others; those that refer to others first.
    tables: &'static [&'static str],
    /// What is done at once. The tables have the version that is left behind their names meanwhile (`workers_1`), and
    /// keep that name for as long as they wait for the rest; what is not needed for it is dropped.
    statements: &'static str,
    /// What is left for later, part by part: a statement that finds the next piece, and after an empty line those that
    /// bring it along, with the values that were found.
    rest: &'static [&'static str],
}

/// Every step, in order, the first to version 2.
const STEPS: [Step; 1] = [Step {
    version: 2,
    up: Way {
        tables: &["hashrate_history", "mining_stats", "workers"],
        statements: include_str!("migrations/2_up.sql"),
        rest: &[include_str!("migrations/2_up_samples.sql")],
    },
    down: Way {
        tables: &[
            "late_minutes",
            "hashrate_history",
            "mining_stats",
            "workers",
        ],
        statements: include_str!("migrations/2_down.sql"),
        rest: &[
            include_str!("migrations/2_down_samples.sql"),
            include_str!("migrations/2_down_late.sql"),
            include_str!("migrations/2_down_history.sql"),
        ],
    },
}];

impl Step {
    /// Takes a file up to this step's version, or down from it; the rest is left. Returns the tables that it made.
    fn take(&self, c: &Connection, up: bool) -> rusqlite::Result<Vec<&'static str>> {
        let below = self.version - 1;
        let (way, from, back, to) = if up {
            (&self.up, below, &self.down, self.version)
        } else {
            (&self.down, self.version, &self.up, below)
        };
        for table in way.tables {
            c.execute_batch(&sql::rename_table(table, &rest::waiting(table, from)))?;
        }
        let mut made = Vec::new();
        for table in back.tables {
            let waiting = rest::waiting(table, to);
            if rest::is_there(c, &waiting)? {
                // Not everything of the way here had come along: what waits is gone on with.
                c.execute_batch(&sql::rename_table(&waiting, table))?;
            } else {
                made.push(*table);
            }
        }
        c.execute_batch(way.statements)?;
        Ok(made)
    }
}

/// Bytes of a file with which everything is done at once; it takes some tenths of a second.
const SMALL: i64 = 16 << 20;

/// What [`migrate_database`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migrated {
    /// The version that was found.
    pub from: i64,
    /// The version that it has now, or would have.
    pub to: i64,
    /// The copy of what it was before; none where there was nothing to do, or nothing was to be changed.
    pub backup: Option<PathBuf>,
    /// Whether something is left, for which nothing has to be stopped: the copy is to be verified, older samples are to
    /// come along. A server of this program does it by itself. For an older one's, [`migrate_database`] once more does.
    pub unfinished: bool,
}

impl std::fmt::Display for Migrated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            from,
            to,
            backup,
            unfinished,
        } = self;
        match backup {
            Some(backup) if from == to => write!(
                f,
                "the database has version {to}, and all of it; the copy from before is good: {}",
                backup.display()
            ),
            Some(backup) => write!(
                f,
                "the database was migrated from version {from} to {to}; {} holds what it was",
                backup.display()
            ),
            None if from == to => write!(
                f,
                "the database has version {to}; nothing is left to be done"
            ),
            None => write!(
                f,
                "the database can be migrated from version {from} to {to}"
            ),
        }?;
        if !unfinished {
            return Ok(());
        }
        f.write_str("\nThe server can be started. Beside it older samples come along, and the copy is verified: ")?;
        if *to == SCHEMA_VERSION {
            f.write_str("it does that by itself")
        } else {
            write!(
                f,
                "run `r3mes-edge db migrate --to {to}` of this version once more while it runs"
            )
        }
    }
}

/// Brings a database that no server has to version `to`, by default this program's. With a large file
/// [something is left](Migrated::unfinished) then; called once more with the same `to` this does it, also beside a server
/// of that older version. A `dry_run` does the same but for what would be left, and keeps nothing of it.
///
/// # Errors
/// Where a server has it, it is no database of ours or newer than this program, there is no such version, or a step fails:
/// then it is as it was.
pub fn migrate_database(
    database: &Path,
    to: Option<i64>,
    dry_run: bool,
) -> Result<Migrated, OpenError> {
    let database = &real_path(database);
    let to = to.unwrap_or(SCHEMA_VERSION);
    let is_there = || stable_read::read(database, |c| Ok(open::version(c, database)? == to));
    match open::lock(database, false) {
        // Who serves knows nothing of what is left.
        Err(OpenError::Locked(LockError::Held(_)))
            if !dry_run && to < SCHEMA_VERSION && is_there()? =>
        {
            finish(&open::connect(database)?, database, to, false)
        }
        Err(error) => Err(error),
        Ok(lock) => {
            let mut connection = open::connect(database)?;
            if open::version(&connection, database)? == to && !dry_run {
                return finish(&connection, database, to, true);
            }
            migrate(&mut connection, &lock, database, to, dry_run, SMALL)
        }
    }
}

/// Does what is left of a migration to version `to`, which the file has; `alone` says whether there is no server.
fn finish(
    connection: &Connection,
    database: &Path,
    to: i64,
    alone: bool,
) -> Result<Migrated, OpenError> {
    connection.pragma_update(None, "foreign_keys", false)?;
    loop {
        let began = Instant::now();
        let piece =
            rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let more = rest::go_on(&piece)?;
        piece.commit()?;
        if !more {
            break;
        }
        if !alone {
            // Locks are given to whoever asks at the right moment: the server is to have as many of those.
            std::thread::sleep(began.elapsed().max(Duration::from_millis(2)));
        }
    }
    let mut verified = None;
    for copy in before::unverified(database) {
        verified = Some(before::verify(&copy)?);
    }
    if alone {
        give_back_pages(connection)?;
    }
    Ok(Migrated {
        from: to,
        to,
        backup: verified,
        unfinished: false,
    })
}

/// Brings a file of an older version to this program's. Call it under the instance lock.
pub(super) fn bring_along(
    connection: &mut Connection,
    lock: &InstanceLock,
    database: &Path,
) -> Result<(), OpenError> {
    // What it is, if it is fresh or none of ours, is told by who shapes it.
    if let Ok(1..SCHEMA_VERSION) = open::version(connection, database) {
        let done = migrate(connection, lock, database, SCHEMA_VERSION, false, SMALL)?;
        log::info!("{}", done.to_string().replace('\n', ". "));
    }
    Ok(())
}

/// The same on a connection to it, under its lock; `small` is the size up to which nothing is left for later.
fn migrate(
    connection: &mut Connection,
    lock: &InstanceLock,
    database: &Path,
    to: i64,
    dry_run: bool,
    small: i64,
) -> Result<Migrated, OpenError> {
    open::version(connection, database)?;
    if !(1..=SCHEMA_VERSION).contains(&to) {
        let text = format!("there is no version {to}; there are 1 to {SCHEMA_VERSION}");
        return Err(OpenError::Storage(StoreError::Conflict(text)));
    }
    // What refers to a table that is made anew must not be looked at before all of it is there.
    connection.pragma_update(None, "foreign_keys", false)?;
    if !dry_run {
        // With nothing in the log the file alone is the database, and can be copied as it is.
        connection.busy_timeout(before::PATIENCE)?;
        connection.query_row(sql::EMPTY_LOG, [], |_| Ok(()))?;
        connection.busy_timeout(open::PATIENCE)?;
    }
    // From here on nobody else writes: the copy is what the file was.
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = open::version(&change, database)?;
    let number = |statement| change.query_row(statement, [], |row| row.get::<_, i64>(0));
    let at_once = number(sql::PAGES)? * number(sql::PAGE_SIZE)? <= small;
    if dry_run {
        take(&change, database, (from, to), at_once)?;
        change.rollback()?;
        return Ok(Migrated {
            from,
            to,
            backup: None,
            unfinished: false,
        });
    }
    let mut backup = before::copy(database, lock, from)?;
    let changed = || {
        if at_once {
            backup = before::verify(&backup)?;
        }
        take(&change, database, (from, to), at_once)?;
        Ok(change.commit()?)
    };
    // The file is as it was, and needs no copy; whoever tries again makes another.
    changed().inspect_err(|_: &OpenError| drop(std::fs::remove_file(&backup)))?;
    if at_once {
        give_back_pages(connection)?;
    }
    Ok(Migrated {
        from,
        to,
        backup: Some(backup),
        unfinished: !at_once,
    })
}

/// Takes every step from a version to another, and the rest of them too where it is to be done at once.
fn take(
    change: &Connection,
    database: &Path,
    (from, to): (i64, i64),
    at_once: bool,
) -> Result<(), OpenError> {
    let up = from < to;
    let (lowest, highest) = if up { (from, to) } else { (to, from) };
    let mut due: Vec<&Step> = STEPS.iter().collect();
    due.retain(|step| (lowest + 1..=highest).contains(&step.version));
    if !up {
        due.reverse();
    }
    for step in due {
        let made = step.take(change, up)?;
        let now = if up { step.version } else { step.version - 1 };
        change.pragma_update(None, "user_version", now)?;
        while at_once && rest::go_on(change)? {}
        // What waits, or waited, refers to what it referred to before.
        for table in made {
            if let Some(text) = check::broken_references_of(change, table)?.pop() {
                return Err(OpenError::Damaged(database.to_owned(), text));
            }
        }
    }
    match check::missing(change, to)?.pop() {
        Some(text) => Err(OpenError::Damaged(database.to_owned(), text)),
        None => Ok(()),
    }
}

/// Lets a file that was made before version 2 give free pages back, which takes writing it anew once.
fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    let now: i64 = connection.query_row(sql::AUTO_VACUUM, [], |row| row.get(0))?;
    if now == INCREMENTAL {
        return Ok(());
    }
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    if let Err(error) = connection.execute_batch(sql::VACUUM) {
        log::warn!("the file keeps its free pages, as it was not written anew: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
