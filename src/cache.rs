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
    /// While computing fails, a value of at most this age is served instead of the error (RFC 5861, `stale-if-error`).
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

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values served fresh from the cache.
    pub hits: AtomicU64,
    /// Values computed.
    pub misses: AtomicU64,
    /// Expired values served because computing failed.
    pub stale: AtomicU64,
}

/// The cache.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V> {
    slots: Mutex<LruCache<K, Arc<Slot<V>>>>,
    counts: Counts,
}

#[derive(Debug)]
struct Slot<V> {
    value: Mutex<Option<(V, Instant)>>,
    /// Held by the caller that computes; contains the time of the last failure.
    flight: tokio::sync::Mutex<Option<Instant>>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// An empty cache of at most `capacity` values.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            slots: Mutex::new(LruCache::sparse(capacity)),
            counts: Counts::default(),
        }
    }

    /// The value for `key`, from the cache or from `compute`. Of many callers that miss at once, one computes and the
    /// others wait for it; a caller that is dropped while computing passes the computation on to the next.
    ///
    /// # Errors
    /// Those of `compute`, if no value of at most `stale_if_error` is stored.
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
        let started = now();
        let slot = Arc::clone(lock(&self.slots).get_or_insert(key, Slot::empty));
        let fresh = |now| self.count(slot.read(Source::Hit, now, |age| age < policy.ttl)?);
        let stale =
            |now| self.count(slot.read(Source::Stale, now, |age| age <= policy.stale_if_error)?);
        if let Some(hit) = fresh(started) {
            return Ok(hit);
        }
        let mut failed = slot.flight.lock().await;
        if let Some(hit) = fresh(now()) {
            return Ok(hit);
        }
        // Callers that waited for a failed computation get the stale value instead of retrying one after the other.
        if failed.is_some_and(|at| at >= started)
            && let Some(stale) = stale(now())
        {
            return Ok(stale);
        }
        // Boxed, so that a hit does not pay for the size of the computation's future.
        match Box::pin(compute()).await {
            Ok(value) => {
                self.counts.misses.fetch_add(1, Ordering::Relaxed);
                *lock(&slot.value) = Some((value.clone(), now()));
                Ok(Cached {
                    value,
                    age: Duration::ZERO,
                    source: Source::Miss,
                })
            }
            Err(error) => {
                *failed = Some(now());
                stale(now()).ok_or(error)
            }
        }
    }

    /// Drops the value for `key` and the one being computed for it. Call it between the commit that changed it and the
    /// response to that change.
    pub fn invalidate(&self, key: &K) {
        lock(&self.slots).pop(key);
    }

    /// Totals since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn count(&self, cached: Cached<V>) -> Option<Cached<V>> {
        let count = match cached.source {
            Source::Stale => &self.counts.stale,
            _ => &self.counts.hits,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(cached)
    }
}

impl<V: Clone> Slot<V> {
    fn empty() -> Arc<Self> {
        Arc::new(Self {
            value: Mutex::new(None),
            flight: tokio::sync::Mutex::new(None),
        })
    }

    fn read(
        &self,
        source: Source,
        now: Instant,
        usable: impl FnOnce(Duration) -> bool,
    ) -> Option<Cached<V>> {
        let stored = lock(&self.value);
        let (value, at) = stored.as_ref()?;
        let age = now.saturating_duration_since(*at);
        usable(age).then(|| Cached {
            value: value.clone(),
            age,
            source,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
