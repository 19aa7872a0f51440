//! A write, what it wrote and how it ended.

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::model::Credits;
use crate::store::{Account, Change, Hold, HoldTable, OperationId, Result, StoreError};

/// One write.
pub(super) struct Job {
    pub(super) work: Work,
    /// About how many rows it writes.
    pub(super) rows: usize,
    pub(super) end: End,
}

/// The end of a job.
pub(super) struct End {
    pub(super) reply: oneshot::Sender<Reply>,
    /// The hold that it charges.
    pub(super) hold: Option<Hold>,
}

/// Sent when the outcome is final; a hold that was not charged comes back.
pub(super) type Reply = Result<(), Refused>;

/// Why a job was not written, and its hold.
pub(super) type Refused = Box<(StoreError, Option<Hold>)>;

/// Changes the database; an error is rolled back.
pub(super) type Work = Box<dyn FnOnce(&Connection) -> Result<Written> + Send>;

/// What a job wrote.
#[derive(Default)]
pub(in super::super) struct Written {
    /// The changes, for observers.
    pub(in super::super) changes: Vec<Change>,
    /// The balances and spending after it.
    pub(in super::super) values: Vec<(Account, Credits)>,
    /// A ledger entry, by which the file itself shows whether its group was committed.
    pub(in super::super) entry: Option<(i64, OperationId)>,
}

impl End {
    pub(super) fn refuse(mut self, holds: &HoldTable, error: StoreError) {
        if let Some(hold) = &mut self.hold {
            holds.charge_failed(hold);
        }
        // Without a receiver the hold is released.
        let _ = self.reply.send(Err(Box::new((error, self.hold))));
    }
}

/// Why a group was not committed.
pub(super) enum Failure {
    /// Nothing of it is in the file.
    Definite(StoreError),
    /// COMMIT returned an error, or the file was found to be another one after it.
    Unknown(StoreError, Vec<Result<Written>>),
}

impl<E: Into<StoreError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Definite(error.into())
    }
}
