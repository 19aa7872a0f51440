//! What billing holds between requests: writes that are still due, and idempotency keys whose request is in flight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::limits::{ConcurrencyLimiter, ConcurrencyPermit};

/// How a reservation is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settlement {
    Settle,
    Refund,
}

/// Writes that are still due.
#[derive(Debug)]
pub(crate) struct PendingQueue<T> {
    items: Mutex<Vec<T>>,
    pushed: Notify,
}

impl<T> Default for PendingQueue<T> {
    fn default() -> Self {
        Self {
            items: Mutex::default(),
            pushed: Notify::default(),
        }
    }
}

impl<T> PendingQueue<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: T) {
        self.lock().push(item);
        self.pushed.notify_one();
    }

    pub(crate) async fn wait_non_empty(&self) {
        while self.len() == 0 {
            self.pushed.notified().await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// The requests with an `Idempotency-Key` that are in flight. In memory only: a crash leaves nothing in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlightKeys {
    keys: Arc<ConcurrencyLimiter<[u8; 32]>>,
    scopes: Arc<ConcurrencyLimiter<String>>,
}

/// One of them; dropped, it is no longer in flight.
pub(crate) type InFlightGuard = (ConcurrencyPermit<[u8; 32]>, ConcurrencyPermit<String>);

impl InFlightKeys {
    /// Adds one and returns how many of its scope are in flight; `None` where the same key is in flight already.
    pub(crate) fn enter(&self, scope: &str, key: [u8; 32]) -> Option<(InFlightGuard, usize)> {
        let (key, _) = self.keys.try_acquire(key, 1)?;
        let (scope, count) = self.scopes.try_acquire(scope.to_owned(), usize::MAX)?;
        Some(((key, scope), count))
    }
}
