//! A bounded LRU of responses with a time to live and one computation per key at a time.
//!
//! Each key has a slot that its callers share. An invalidation removes the slot, so that a value whose computation
//! started before it is returned only to callers that were waiting before it too.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// How long a value may be used.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Fresh for this long.
    pub ttl: Duration,
    /// While computing fails, a value younger than this is served instead of the error (RFC 5861, `stale-if-error`).
    pub stale_if_error: Duration,
}

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// From the cache, fresh.
    Hit,
    /// Computed now.
    Miss,
    /// From the cache, expired, because computing failed.
    Stale,
}

impl Source {
    /// The value of the `X-Cache` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
        }
    }
}

/// A value with its age and source.
#[derive(Clone, Debug)]
pub struct Cached<V> {
    /// The value.
    pub value: V,
    /// Its age.
    pub age: Duration,
    /// Where it came from.
    pub source: Source,
}

/// The cache.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V> {
    slots: Mutex<LruCache<K, Arc<Slot<V>>>>,
    served: [AtomicU64; 3],
}

/// Locked by the caller that computes, while the others wait.
type Slot<V> = tokio::sync::Mutex<Stored<V>>;

#[derive(Debug)]
struct Stored<V> {
    value: Option<(V, Instant)>,
    /// The last failure to compute it.
    failed_at: Option<Instant>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// An empty cache of at most `capacity` values.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            slots: Mutex::new(LruCache::sparse(capacity)),
            served: Default::default(),
        }
    }

    /// The value for `key`, from the cache or from `compute`. Of many callers that miss at once, one computes and the
    /// others wait for it; a caller that is dropped while computing passes the computation on to the next.
    ///
    /// # Errors
    /// Those of `compute`, if no value younger than `stale_if_error` is stored.
    pub async fn get<E, F>(
        &self,
        key: K,
        policy: Policy,
        now: impl Fn() -> Instant,
        compute: impl FnOnce() -> F,
    ) -> Result<Cached<V>, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let asked_at = now();
        let slot = Arc::clone(self.slots().get_or_insert(key, || {
            Arc::new(Slot::new(Stored {
                value: None,
                failed_at: None,
            }))
        }));
        let mut stored = slot.lock().await;
        let read = |stored: &Stored<V>, source, max_age| {
            let (value, stored_at) = stored.value.as_ref()?;
            let age = now().saturating_duration_since(*stored_at);
            (age < max_age).then(|| self.serve(value.clone(), age, source))
        };
        if let Some(hit) = read(&stored, Source::Hit, policy.ttl) {
            return Ok(hit);
        }
        // Callers that waited for a failed computation get the stale value instead of retrying one after the other.
        if stored.failed_at.is_some_and(|at| at >= asked_at)
            && let Some(stale) = read(&stored, Source::Stale, policy.stale_if_error)
        {
            return Ok(stale);
        }
        // Boxed, so that a hit does not pay for the size of the computation's future.
        match Box::pin(compute()).await {
            Ok(value) => {
                stored.value = Some((value.clone(), now()));
                Ok(self.serve(value, Duration::ZERO, Source::Miss))
            }
            Err(error) => {
                stored.failed_at = Some(now());
                read(&stored, Source::Stale, policy.stale_if_error).ok_or(error)
            }
        }
    }

    /// Drops the value for `key` and the one being computed for it. Call it between the commit that changed it and the
    /// response to that change.
    pub fn invalidate(&self, key: &K) {
        self.slots().pop(key);
    }

    /// How many values came from each source since the start.
    #[must_use]
    pub fn counts(&self) -> [(Source, u64); 3] {
        [Source::Hit, Source::Miss, Source::Stale]
            .map(|source| (source, self.served[source as usize].load(Ordering::Relaxed)))
    }

    fn serve(&self, value: V, age: Duration, source: Source) -> Cached<V> {
        self.served[source as usize].fetch_add(1, Ordering::Relaxed);
        Cached { value, age, source }
    }

    fn slots(&self) -> MutexGuard<'_, LruCache<K, Arc<Slot<V>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
