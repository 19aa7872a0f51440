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
    /// A failure is remembered for this long, in which no caller computes again.
    pub failure_ttl: Duration,
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

/// The cache, of values and of errors.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V, E> {
    slots: Mutex<LruCache<K, Arc<Slot<V, E>>>>,
    served: [AtomicU64; 3],
}

/// Locked by the caller that computes, while the others wait.
type Slot<V, E> = tokio::sync::Mutex<Stored<V, E>>;

#[derive(Debug)]
struct Stored<V, E> {
    value: Option<(V, Instant)>,
    /// The failure of the last computation.
    failure: Option<(E, Instant)>,
}

impl<K: Hash + Eq, V: Clone, E: Clone> Cache<K, V, E> {
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
    pub async fn get<F>(
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
                failure: None,
            }))
        }));
        let mut stored = slot.lock().await;
        let read = |stored: &Stored<V, E>, source, max_age| {
            let (value, stored_at) = stored.value.as_ref()?;
            let age = now().saturating_duration_since(*stored_at);
            (age < max_age).then(|| self.serve(value.clone(), age, source))
        };
        if let Some(hit) = read(&stored, Source::Hit, policy.ttl) {
            return Ok(hit);
        }
        // Callers that waited for a failed computation, or come soon after it, do not repeat it one after the other.
        if let Some((error, at)) = &stored.failure
            && (*at >= asked_at || now().saturating_duration_since(*at) < policy.failure_ttl)
        {
            let stale = read(&stored, Source::Stale, policy.stale_if_error);
            return stale.ok_or_else(|| error.clone());
        }
        // Boxed, so that a hit does not pay for the size of the computation's future.
        match Box::pin(compute()).await {
            Ok(value) => {
                stored.value = Some((value.clone(), now()));
                stored.failure = None;
                Ok(self.serve(value, Duration::ZERO, Source::Miss))
            }
            Err(error) => {
                stored.failure = Some((error.clone(), now()));
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

    fn slots(&self) -> MutexGuard<'_, LruCache<K, Arc<Slot<V, E>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
