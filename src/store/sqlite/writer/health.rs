//! How the writer handles storage faults: from the first failed write on, writes are refused immediately. Periodic probes
//! detect the recovery, without any request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::super::sql;
use crate::store::{InstanceLock, Result, StoreError};

pub(in super::super) struct StorageHealth {
    lock: Arc<InstanceLock>,
    failing_since: Option<Instant>,
    next_probe: Instant,
    #[cfg(test)]
    pub(super) faults: Arc<Faults>,
}

/// Faults that a test causes.
#[cfg(test)]
#[derive(Default)]
pub(in super::super) struct Faults {
    /// What the next COMMITs do instead.
    pub(in super::super) commits: std::sync::Mutex<std::collections::VecDeque<Commit>>,
    /// Whether probes fail.
    pub(in super::super) lasting: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
pub(in super::super) type Commit = Box<dyn FnOnce(Transaction<'_>) -> rusqlite::Result<()> + Send>;

impl StorageHealth {
    /// Between two probes.
    pub(super) const PROBE_INTERVAL: Duration =
        Duration::from_millis(if cfg!(test) { 1 } else { 100 });
    /// Waiting time for another program's lock; all other writes wait behind it.
    pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
    /// The same while the lock is known to be held.
    const PROBE_TIMEOUT: Duration = Duration::from_millis(20);

    pub(in super::super) fn new(c: &Connection, lock: Arc<InstanceLock>) -> rusqlite::Result<Self> {
        c.busy_timeout(Self::BUSY_TIMEOUT)?;
        Ok(Self {
            lock,
            failing_since: None,
            next_probe: Instant::now(),
            #[cfg(test)]
            faults: Arc::default(),
        })
    }

    /// An error if the file was deleted or replaced, so that nothing may be written or acknowledged.
    pub(super) fn check_file(&self) -> Result<()> {
        match self.lock.fault() {
            None => Ok(()),
            Some(fault) => Err(StoreError::Unavailable(fault.to_owned())),
        }
    }

    /// Commits; an error does not mean that it did not happen.
    pub(super) fn commit(&self, transaction: Transaction<'_>) -> rusqlite::Result<()> {
        #[cfg(test)]
        {
            let commit = self.faults.commits.lock().unwrap().pop_front();
            if let Some(commit) = commit {
                return commit(transaction);
            }
        }
        transaction.commit()
    }

    /// Records that a write failed with `fault`; returns whether it persists, so that writes are refused until
    /// [`StorageHealth::recovered`].
    pub(super) fn record_failure(&mut self, c: &Connection, fault: &StoreError) -> bool {
        if let StoreError::Damaged(_) = fault {
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

    /// Whether a probe can write.
    pub(super) fn can_write(&mut self, c: &Connection) -> bool {
        let written = self.check_file().and_then(|()| Ok(probe(c)?));
        #[cfg(test)]
        let written = match self
            .faults
            .lasting
            .load(std::sync::atomic::Ordering::SeqCst)
        {
            true => Err(StoreError::Full),
            false => written,
        };
        if written.is_ok() {
            let _ = c.busy_timeout(Self::BUSY_TIMEOUT);
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

/// The storage fault of a job in a group that was committed.
pub(super) fn fault_of<T>(outcomes: &[Result<T>]) -> Option<StoreError> {
    let mut failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let fault =
        failures.find(|failure| matches!(failure, StoreError::Full | StoreError::Damaged(_)));
    fault.cloned()
}

/// Whether the storage failed, and not what was asked of it.
pub(super) const fn is_fault(error: &StoreError) -> bool {
    use StoreError::{Damaged, Full, Unavailable};
    matches!(error, Unavailable(_) | Full | Damaged(_))
}
