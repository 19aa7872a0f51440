//! Counts concurrent uses by key: connections by address, requests by idempotency key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The counts by key; a key without a permit has no entry.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimiter<K: Hash + Eq>(Mutex<HashMap<K, usize>>);

/// One use; dropped, it is no longer counted.
#[derive(Debug)]
pub(crate) struct ConcurrencyPermit<K: Hash + Eq> {
    limiter: Arc<ConcurrencyLimiter<K>>,
    key: K,
}

impl<K: Hash + Eq> Default for ConcurrencyLimiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone> ConcurrencyLimiter<K> {
    /// Counts one more and returns the count, unless the key has `most` already.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        key: K,
        most: usize,
    ) -> Option<(ConcurrencyPermit<K>, usize)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        let limiter = Arc::clone(self);
        Some((ConcurrencyPermit { limiter, key }, *count))
    }
}

impl<K: Hash + Eq> Drop for ConcurrencyPermit<K> {
    fn drop(&mut self) {
        let table = &self.limiter.0;
        let mut counts = table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_at_most_its_number_of_permits_and_reuses_returned_ones() {
        let limiter = Arc::new(ConcurrencyLimiter::default());
        let acquire = |key| limiter.try_acquire(key, 2);
        let (first, second) = (acquire(1).unwrap(), acquire(1).unwrap());
        assert_eq!((first.1, second.1), (1, 2));
        assert!(acquire(1).is_none());
        let other = acquire(2).unwrap();
        drop(first);
        let third = acquire(1).unwrap();
        drop((second, third, other));
        assert!(limiter.0.lock().unwrap().is_empty());
    }
}
