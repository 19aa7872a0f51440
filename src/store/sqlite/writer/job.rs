//! One write, and how a group of them is committed: in one transaction, each in a savepoint of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::row::execute;
use super::Priority;
use crate::store::{Change, Observers, Result, StoreError};

/// Runs a group in one transaction. An error is the whole group's; a job's own failure is only its own. A job that is
/// alone needs no savepoint, for which SQLite would copy every page that it changes.
pub(super) fn commit(c: &Connection, group: &mut [Box<dyn Job>]) -> Result<()> {
    let alone = group.len() == 1;
    let mut run = || {
        execute(c, "BEGIN IMMEDIATE", [])?;
        for job in &mut *group {
            if !alone {
                execute(c, "SAVEPOINT job", [])?;
            }
            let done = job.run(c);
            // A full disk or an I/O error may have rolled back everything, earlier jobs included.
            if c.is_autocommit() {
                let rolled_back = "the transaction was rolled back".to_owned();
                return done.and(Err(StoreError::Unavailable(rolled_back)));
            }
            match (done, alone) {
                (Ok(()), true) => {}
                (Err(_), true) => return execute(c, "ROLLBACK", []).map(drop).map_err(Into::into),
                (Ok(()), false) => drop(execute(c, "RELEASE job", [])?),
                (Err(_), false) => {
                    execute(c, "ROLLBACK TO job", [])?;
                    execute(c, "RELEASE job", [])?;
                }
            }
        }
        execute(c, "COMMIT", [])?;
        Ok(())
    };
    let outcome = run();
    if outcome.is_err() && !c.is_autocommit() {
        // If this fails too, so will the next BEGIN, which reports it.
        let _ = execute(c, "ROLLBACK", []);
    }
    outcome
}

/// A write whose result type is hidden, so that one queue holds all.
pub(super) trait Job: Send {
    fn priority(&self) -> Priority;
    /// Does the work; an error is rolled back.
    fn run(&mut self, c: &Connection) -> Result<()>;
    /// Its error.
    fn failure(&self) -> Option<&StoreError>;
    /// Notifies the observers, then the caller; `committed` is the result of the group.
    fn answer(self: Box<Self>, committed: &Result<()>, observers: &Observers);
}

pub(super) struct Typed<F, T> {
    pub(super) priority: Priority,
    pub(super) work: Option<F>,
    pub(super) outcome: Option<Result<T>>,
    /// The change for observers.
    pub(super) change: fn(&T) -> Option<Change>,
    pub(super) reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Typed<F, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn priority(&self) -> Priority {
        self.priority
    }

    fn run(&mut self, c: &Connection) -> Result<()> {
        let panicked = || StoreError::Internal("a write panicked".to_owned());
        let outcome = match self.work.take() {
            Some(work) => {
                catch_unwind(AssertUnwindSafe(|| work(c))).unwrap_or_else(|_| Err(panicked()))
            }
            None => Err(StoreError::Internal("a write was run twice".to_owned())),
        };
        let done = outcome.as_ref().map(drop).map_err(Clone::clone);
        self.outcome = Some(outcome);
        done
    }

    fn failure(&self) -> Option<&StoreError> {
        self.outcome.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>, committed: &Result<()>, observers: &Observers) {
        let not_run = || Err(StoreError::Internal("a write was not run".to_owned()));
        let answer = match committed {
            Ok(()) => self.outcome.unwrap_or_else(not_run),
            Err(error) => Err(error.clone()),
        };
        if let Some(change) = answer.as_ref().ok().and_then(self.change) {
            observers.each(|observer| observer.changed(&change));
        }
        // The caller may have been dropped; the work is done anyway.
        let _ = self.reply.send(answer);
    }
}
