use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::storage_error;
use super::Room;
use crate::store::{Change, Observers, StoreError};

/// Runs a group in one transaction. An error is the whole group's; a job's own failure is only its own. A job that is
/// alone needs no savepoint, for which SQLite would copy every page that it changes.
pub(super) fn commit(
    connection: &Connection,
    group: &mut [Box<dyn Job>],
) -> Result<(), StoreError> {
    let outcome = (|| {
        run(connection, "BEGIN IMMEDIATE")?;
        let alone = group.len() == 1;
        for job in &mut *group {
            if !alone {
                run(connection, "SAVEPOINT job")?;
            }
            let done = job.run(connection);
            // A full disk or an I/O error may have rolled back everything, earlier jobs included.
            if connection.is_autocommit() {
                return Err(job.failure().unwrap_or_else(|| {
                    StoreError::Unavailable("the transaction was rolled back".to_owned())
                }));
            }
            if alone {
                if !done {
                    return run(connection, "ROLLBACK");
                }
                continue;
            }
            if !done {
                run(connection, "ROLLBACK TO job")?;
            }
            run(connection, "RELEASE job")?;
        }
        run(connection, "COMMIT")
    })();
    if outcome.is_err() && !connection.is_autocommit() {
        // Nothing more can be done where even this fails; the next BEGIN will say so.
        let _ = run(connection, "ROLLBACK");
    }
    outcome
}

pub(super) fn run(connection: &Connection, statement: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached(statement)
        .and_then(|mut prepared| prepared.execute([]))
        .map(drop)
        .map_err(storage_error)
}

/// A write whose result type is hidden, so that one queue holds all.
pub(super) trait Job: Send {
    /// How urgent it is.
    fn room(&self) -> Room;
    /// Does the work; whether it is to be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// What went wrong in it.
    fn failure(&self) -> Option<StoreError>;
    /// Tells the observers what changed, then the caller; `committed` is how the whole group ended.
    fn answer(self: Box<Self>, committed: &Result<(), StoreError>, observers: &Observers);
}

pub(super) struct Typed<F, T> {
    pub(super) room: Room,
    pub(super) work: Option<F>,
    pub(super) outcome: Option<Result<T, StoreError>>,
    /// What its outcome changed, for those who observe.
    pub(super) change: fn(&T) -> Option<Change>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Typed<F, T>
where
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn room(&self) -> Room {
        self.room
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else {
            return false;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(StoreError::Internal("a write panicked".to_owned())));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn failure(&self) -> Option<StoreError> {
        self.outcome
            .as_ref()
            .and_then(|outcome| outcome.as_ref().err().cloned())
    }

    fn answer(self: Box<Self>, committed: &Result<(), StoreError>, observers: &Observers) {
        let answer = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(StoreError::Internal("a write was not run".to_owned())),
            (Err(error), _) => Err(error.clone()),
        };
        if let Some(change) = answer.as_ref().ok().and_then(self.change) {
            observers.each(|observer| observer.changed(&change));
        }
        // The caller may have left; its work is done all the same.
        let _ = self.reply.send(answer);
    }
}
