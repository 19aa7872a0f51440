use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::super::ballast::Ballast;
use super::super::{sql, storage_error};
use super::job::Job;
use crate::store::{InstanceLock, StoreError};

/// What the thread does about a fault of the storage.
///
/// From the first write that meets one, common writes are refused at once and those that end a reservation are still
/// tried. Now and then it is looked whether a write can be done again; nobody has to ask for that.
pub(in super::super) struct Faults {
    ballast: Ballast,
    lock: Arc<InstanceLock>,
    since: Option<Instant>,
    not_before: Instant,
}

impl Faults {
    /// Between two looks.
    pub(super) const PAUSE: Duration = Duration::from_millis(100);
    /// For a lock that another program holds. All writes wait behind the one that does.
    pub(super) const PATIENCE: Duration = Duration::from_secs(1);
    /// The same once it is known to be held.
    const IMPATIENCE: Duration = Duration::from_millis(20);

    pub(in super::super) fn new(
        connection: &Connection,
        ballast: Ballast,
        lock: Arc<InstanceLock>,
    ) -> rusqlite::Result<Self> {
        connection.busy_timeout(Self::PATIENCE)?;
        Ok(Self {
            ballast,
            lock,
            since: None,
            not_before: Instant::now(),
        })
    }

    /// Refuses what must not be written or acknowledged, as the file has lost its name.
    pub(super) fn check_file(&self) -> Result<(), StoreError> {
        match self.lock.fault() {
            None => Ok(()),
            Some(fault) => Err(StoreError::Unavailable(fault.to_string())),
        }
    }

    /// A write met `fault`. Where the next one meets it too this is true, and it stands until [`Faults::are_over`] says
    /// otherwise.
    pub(super) fn met(&mut self, connection: &Connection, fault: &StoreError) -> bool {
        // What else is written than pages says "I/O error" where there is no room.
        let full = *fault == StoreError::Full || self.ballast.disk_is_full();
        match fault {
            _ if full && self.ballast.give_up() => {
                log::warn!("the ballast was given up: its room is for what ends reservations");
                // What is in the log goes to its place, so that the log can be written from its start again.
                let _ = connection.query_row(sql::COPY_LOG, [], |_| Ok(()));
            }
            // A damaged page is not kept as it was read: it may be read better the next time.
            StoreError::Damaged(_) => {
                let _ = connection.execute_batch(sql::FORGET_PAGES);
            }
            _ => {}
        }
        if self.since.is_some() {
            return true;
        }
        let _ = connection.busy_timeout(Self::IMPATIENCE);
        let stands = !self.can_write(connection);
        if stands {
            log::error!("storage fault, rejecting writes: {fault}");
            self.since = Some(Instant::now());
        } else {
            let _ = connection.busy_timeout(Self::PATIENCE);
        }
        stands
    }

    /// Whether a write can be done, where it is time to look; without a fault it can.
    pub(super) fn are_over(&mut self, connection: &Connection) -> bool {
        let Some(since) = self.since else {
            self.ballast.keep();
            return true;
        };
        if Instant::now() < self.not_before {
            return false;
        }
        let over = self.can_write(connection);
        if over {
            log::warn!("writes are taken again, after {:?}", since.elapsed());
            self.since = None;
            let _ = connection.busy_timeout(Self::PATIENCE);
        }
        over
    }

    fn can_write(&mut self, connection: &Connection) -> bool {
        if !self.ballast.regain() {
            return self.looked(false);
        }
        let written = self
            .check_file()
            .and_then(|()| write(connection).map_err(storage_error));
        if written == Err(StoreError::Full) {
            self.ballast.give_up();
        }
        self.looked(written.is_ok())
    }

    /// Counted from the end, so that this does not keep a slow disk busy.
    fn looked(&mut self, can_write: bool) -> bool {
        self.not_before = Instant::now() + Self::PAUSE;
        can_write
    }
}

/// A write that goes all the way to the disk and changes nothing.
fn write(connection: &Connection) -> rusqlite::Result<()> {
    let attempt = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let version: i64 = attempt.pragma_query_value(None, "user_version", |row| row.get(0))?;
    attempt.pragma_update(None, "user_version", version)?;
    attempt.commit()
}

/// The fault of the storage that a group of writes met.
pub(super) fn of(committed: &Result<(), StoreError>, group: &[Box<dyn Job>]) -> Option<StoreError> {
    match committed {
        // What one of them met and the others did not.
        Ok(()) => group.iter().find_map(|job| {
            let own =
                |failure: &StoreError| matches!(failure, StoreError::Full | StoreError::Damaged(_));
            job.failure().filter(own)
        }),
        Err(fault @ (StoreError::Unavailable(_) | StoreError::Full | StoreError::Damaged(_))) => {
            Some(fault.clone())
        }
        Err(_) => None,
    }
}
