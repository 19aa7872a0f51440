//! How the writer handles storage faults: from the first failed write on, normal writes are refused immediately; those
//! that end a reservation are still tried. Periodic probes detect the recovery, without any request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::super::ballast::Ballast;
use super::super::sql;
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
    /// Waiting time for another program's lock; all other writes wait behind it.
    pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
    /// The same while the lock is known to be held.
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

    /// An error if the file was deleted or replaced, so that nothing may be written or acknowledged.
    pub(super) fn check_file(&self) -> Result<()> {
        match self.lock.fault() {
            None => Ok(()),
            Some(fault) => Err(StoreError::Unavailable(fault.to_owned())),
        }
    }

    /// Records that a write failed with `fault`; returns whether it persists, so that writes are refused until
    /// [`StorageHealth::recovered`].
    pub(super) fn record_failure(&mut self, c: &Connection, fault: &StoreError) -> bool {
        // Writes other than of pages fail with "I/O error" on a full disk.
        let full = *fault == StoreError::Full || self.ballast.disk_is_full();
        if full && self.ballast.give_up() {
            log::warn!("the ballast was given up: its space is for what ends reservations");
            // A checkpoint, so that the log can be reused from its start.
            let _ = c.query_row(sql::CHECKPOINT, [], |_| Ok(()));
        } else if let StoreError::Damaged(_) = fault {
            // A damaged page is not cached: the next read may succeed.
            let _ = c.execute_batch(sql::FORGET_PAGES);
        }
        if self.failing_since.is_none() {
            let _ = c.busy_timeout(Self::PROBE_TIMEOUT);
            if self.can_write(c) {
                return false;
            }
            log::error!("storage fault, rejecting writes: {fault}");
            self.failing_since = Some(Instant::now());
        }
        true
    }

    /// Whether writes work, by a probe if one is due; without a fault they do.
    pub(super) fn recovered(&mut self, c: &Connection) -> bool {
        let Some(since) = self.failing_since else {
            self.ballast.keep();
            return true;
        };
        if Instant::now() < self.next_probe || !self.can_write(c) {
            return false;
        }
        let lasted = since.elapsed();
        log::warn!("storage recovered, accepting writes again after {lasted:?}");
        self.failing_since = None;
        true
    }

    fn can_write(&mut self, c: &Connection) -> bool {
        let written = match self.ballast.regain() {
            true => self.check_file().and_then(|()| Ok(probe(c)?)),
            false => Err(StoreError::Full),
        };
        match written {
            Ok(()) => drop(c.busy_timeout(Self::BUSY_TIMEOUT)),
            Err(StoreError::Full) => drop(self.ballast.give_up()),
            Err(_) => {}
        }
        // Counted from the end of the probe, so that probes do not keep a slow disk busy.
        self.next_probe = Instant::now() + Self::PROBE_INTERVAL;
        written.is_ok()
    }
}

/// A synced write that changes nothing.
fn probe(c: &Connection) -> rusqlite::Result<()> {
    let attempt = Transaction::new_unchecked(c, TransactionBehavior::Immediate)?;
    let version: i64 = attempt.pragma_query_value(None, "user_version", |row| row.get(0))?;
    attempt.pragma_update(None, "user_version", version)?;
    attempt.commit()
}

/// The storage fault of a group of writes, or of a single one among them.
pub(super) fn fault_of<T>(committed: &Result<Vec<Result<T>>>) -> Option<StoreError> {
    use StoreError::{Damaged, Full, Unavailable};
    let fault = match committed {
        Ok(outcomes) => {
            let mut failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
            failures.find(|failure| matches!(failure, Full | Damaged(_)))
        }
        Err(fault) => {
            Some(fault).filter(|fault| matches!(fault, Unavailable(_) | Full | Damaged(_)))
        }
    };
    fault.cloned()
}
