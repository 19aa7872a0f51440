//! The requests with an `Idempotency-Key` that are in flight.

use std::sync::Arc;

use crate::limits::{ConcurrencyLimiter, ConcurrencyPermit};

/// They are in memory only: a crash leaves nothing in flight.
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
