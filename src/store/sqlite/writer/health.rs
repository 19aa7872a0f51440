//! What the writer does about a fault of the storage.
//!
//! From the first write that meets one, normal writes are refused at once and those that end a reservation are still
//! tried. Now and then it is probed whether a write can be done again; no request is needed for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::super::ballast::Ballast;
use super::super::sql;
use super::job::Job;
use crate::store::{InstanceLock, Result, StoreError};

pub(in super::super) struct StorageHealth {
    ballast: Ballast,
    lock: Arc<InstanceLock>,
    failing_since: Option<Instant>,
    next_probe: Instant,
}

impl StorageHealth {
    /// Between two probes.
    pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(100);
    /// For a lock that another program holds. All writes wait behind the one that does.
    pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
    /// The same while it is known to be held.
    const PROBE_TIMEOUT: Duration = Duration::from_millis(20);

    pub(in super::super) fn new(
        c: &Connection,
        ballast: Ballast,
        lock: Arc<InstanceLock>,
    ) -> rusqlite::Result<Self> {
        c.busy_timeout(Self::BUSY_TIMEOUT)?;
        Ok(Self {
            ballast,
            lock,
            failing_since: None,
            next_probe: Instant::now(),
        })
    }

    /// Refuses what must not be written or acknowledged, as the file has lost its name.
    pub(super) fn check_file(&self) -> Result<()> {
        match self.lock.fault() {
            None => Ok(()),
            Some(fault) => Err(StoreError::Unavailable(fault.to_string())),
        }
    }

    /// A write met `fault`; whether the next one does too, so that writes are refused until [`StorageHealth::recovered`].
    pub(super) fn record_failure(&mut self, c: &Connection, fault: &StoreError) -> bool {
        // What is written besides pages fails with "I/O error" on a full disk.
        let full = *fault == StoreError::Full || self.ballast.disk_is_full();
        if full && self.ballast.give_up() {
            log::warn!("the ballast was given up: its space is for what ends reservations");
            // What is in the log goes to its place, so that the log can be written from its start again.
            let _ = c.query_row(sql::CHECKPOINT, [], |_| Ok(()));
        } else if let StoreError::Damaged(_) = fault {
            // A damaged page is not cached: it may be read better the next time.
            let _ = c.execute_batch(sql::FORGET_PAGES);
        }
        if self.failing_since.is_some() {
            return true;
        }
        let _ = c.busy_timeout(Self::PROBE_TIMEOUT);
        if self.can_write(c) {
            let _ = c.busy_timeout(Self::BUSY_TIMEOUT);
            return false;
        }
        log::error!("storage fault, rejecting writes: {fault}");
        self.failing_since = Some(Instant::now());
        true
    }

    /// Whether a write can be done, where it is time to probe; without a fault it can.
    pub(super) fn recovered(&mut self, c: &Connection) -> bool {
        let Some(since) = self.failing_since else {
            self.ballast.keep();
            return true;
        };
        if Instant::now() < self.next_probe || !self.can_write(c) {
            return false;
        }
        log::warn!(
            "storage recovered, accepting writes again after {:?}",
            since.elapsed()
        );
        self.failing_since = None;
        let _ = c.busy_timeout(Self::BUSY_TIMEOUT);
        true
    }

    fn can_write(&mut self, c: &Connection) -> bool {
        let written = match self.ballast.regain() {
            true => self.check_file().and_then(|()| Ok(probe(c)?)),
            false => Err(StoreError::Unavailable(
                "no space for the ballast".to_owned(),
            )),
        };
        if written == Err(StoreError::Full) {
            self.ballast.give_up();
        }
        // Counted from the end, so that this does not keep a slow disk busy.
        self.next_probe = Instant::now() + Self::PROBE_INTERVAL;
        written.is_ok()
    }
}

/// A write that goes all the way to the disk and changes nothing.
fn probe(c: &Connection) -> rusqlite::Result<()> {
    let attempt = Transaction::new_unchecked(c, TransactionBehavior::Immediate)?;
    let version: i64 = attempt.pragma_query_value(None, "user_version", |row| row.get(0))?;
    attempt.pragma_update(None, "user_version", version)?;
    attempt.commit()
}

/// The fault of the storage that a group of writes met, or that one of them met and the others did not.
pub(super) fn fault_of(committed: &Result<()>, group: &[Box<dyn Job>]) -> Option<StoreError> {
    use StoreError::{Damaged, Full, Unavailable};
    match committed {
        Ok(()) => {
            let mut failures = group.iter().filter_map(|job| job.failure());
            failures
                .find(|failure| matches!(failure, Full | Damaged(_)))
                .cloned()
        }
        Err(fault @ (Unavailable(_) | Full | Damaged(_))) => Some(fault.clone()),
        Err(_) => None,
    }
}
