//! Answers that are worth keeping: a bounded LRU with a time to live, one flight per key, and generations.
//!
//! A value is stored only if no invalidation happened between the start of its computation and its end; without that, a
//! reader that looked just before a commit could put the old answer back after it.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// How long an answer may be used.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Fresh for this long.
    pub ttl: Duration,
    /// While it cannot be computed anew, an answer of at most this age is served instead of the error (RFC 5861,
    /// `stale-if-error`).
    pub stale_if_error: Duration,
}

/// Where an answer came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// From the cache, fresh.
    Hit,
    /// Computed now.
    Miss,
    /// From the cache, too old, because it could not be computed.
    Stale,
}

impl Source {
    /// The word of the `X-Cache` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
        }
    }
}

/// An answer with its history, as [`Cache::get`] gives it.
#[derive(Clone, Debug)]
pub struct Cached<V> {
    /// The answer.
    pub value: V,
    /// How old it is.
    pub age: Duration,
    /// Where it came from.
    pub source: Source,
}

/// What the cache did so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers served fresh from the cache.
    pub hits: AtomicU64,
    /// Answers computed.
    pub misses: AtomicU64,
    /// Old answers served because no new one could be had.
    pub stale: AtomicU64,
}

/// By key, the turn that its callers take; in it, when the last computation failed.
type Flights<K> = Mutex<HashMap<K, Arc<tokio::sync::Mutex<Option<Instant>>>>>;

/// The cache.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V> {
    entries: Mutex<LruCache<K, Entry<V>>>,
    flights: Flights<K>,
    generation: AtomicU64,
    counts: Counts,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    stored: Instant,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    /// An empty cache of at most `capacity` answers.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            entries: Mutex::new(LruCache::sparse(capacity)),
            flights: Mutex::new(HashMap::new()),
            generation: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// The answer for `key`, from the cache or from `compute`. Of many callers that miss at once, one computes and the
    /// others wait for it; a caller that is dropped while computing hands the flight to the next. `now` tells the time
    /// and is asked again after each wait.
    ///
    /// # Errors
    /// What `compute` returned, where no answer of at most `stale_if_error` is kept.
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
        let joined = now();
        if let Some(hit) = self.fresh(&key, policy, joined) {
            return Ok(hit);
        }
        let flight = Flight::join(&self.flights, key.clone());
        let mut failed = flight.turn.lock().await;
        if let Some(hit) = self.fresh(&key, policy, now()) {
            return Ok(hit);
        }
        // Who waited for a computation that failed takes the old answer, and does not make the next one wait as long.
        if failed.is_some_and(|at| at >= joined)
            && let Some(stale) = self.stale(&key, policy, now())
        {
            return Ok(stale);
        }
        let generation = self.generation.load(Ordering::SeqCst);
        // In a box: an answer that is there pays nothing for the size of what would compute it.
        match Box::pin(compute()).await {
            Ok(value) => {
                self.counts.misses.fetch_add(1, Ordering::Relaxed);
                let mut entries = self.lock();
                // Compared under the lock that `invalidate` takes: it cannot slip in between the look and the store.
                if self.generation.load(Ordering::SeqCst) == generation {
                    entries.put(
                        key,
                        Entry {
                            value: value.clone(),
                            stored: now(),
                        },
                    );
                }
                Ok(Cached {
                    value,
                    age: Duration::ZERO,
                    source: Source::Miss,
                })
            }
            Err(error) => {
                *failed = Some(now());
                self.stale(&key, policy, now()).ok_or(error)
            }
        }
    }

    /// Drops the answer for `key`, and whatever is being computed from older data now. Call it after the commit that
    /// changed the answer and before that commit is told to anybody.
    pub fn invalidate(&self, key: &K) {
        let mut entries = self.lock();
        self.generation.fetch_add(1, Ordering::SeqCst);
        entries.pop(key);
    }

    /// What the cache did so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn fresh(&self, key: &K, policy: Policy, now: Instant) -> Option<Cached<V>> {
        let mut entries = self.lock();
        let entry = entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored);
        if age >= policy.ttl {
            return None;
        }
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
        Some(Cached {
            value: entry.value.clone(),
            age,
            source: Source::Hit,
        })
    }

    fn stale(&self, key: &K, policy: Policy, now: Instant) -> Option<Cached<V>> {
        let mut entries = self.lock();
        let entry = entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored);
        if age > policy.stale_if_error {
            return None;
        }
        self.counts.stale.fetch_add(1, Ordering::Relaxed);
        Some(Cached {
            value: entry.value.clone(),
            age,
            source: Source::Stale,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<K, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's share in the computation for a key; the last to leave removes it, so the table holds only what is in
/// the air.
struct Flight<'a, K: Hash + Eq> {
    flights: &'a Flights<K>,
    key: K,
    turn: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl<'a, K: Hash + Eq + Clone> Flight<'a, K> {
    fn join(flights: &'a Flights<K>, key: K) -> Self {
        let turn = Arc::clone(
            flights
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key.clone())
                .or_default(),
        );
        Self { flights, key, turn }
    }
}

impl<K: Hash + Eq> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the table's and our own.
        if Arc::strong_count(&self.turn) == 2 {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nonzero_ext::nonzero;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU32;

    const POLICY: Policy = Policy {
        ttl: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(3600),
    };

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    async fn answer(
        cache: &Cache<u8, u32>,
        now: Instant,
        value: Result<u32, &str>,
    ) -> Result<(u32, Source), String> {
        let cached = cache
            .get(1, POLICY, || now, || async { value.map_err(str::to_owned) })
            .await?;
        Ok((cached.value, cached.source))
    }

    #[test]
    fn a_value_is_fresh_for_its_time_then_stale_only_if_nothing_newer_can_be_had() {
        block_on(async {
            let (cache, start) = (Cache::new(nonzero!(4usize)), Instant::now());
            let after = |seconds| start + Duration::from_secs(seconds);
            assert_eq!(answer(&cache, start, Ok(1)).await, Ok((1, Source::Miss)));
            assert_eq!(
                answer(&cache, after(299), Ok(2)).await,
                Ok((1, Source::Hit))
            );
            assert_eq!(
                answer(&cache, after(300), Err("down")).await,
                Ok((1, Source::Stale))
            );
            assert_eq!(
                answer(&cache, after(3601), Err("down")).await,
                Err("down".to_owned())
            );
            assert_eq!(
                answer(&cache, after(3601), Ok(3)).await,
                Ok((3, Source::Miss))
            );
        });
    }

    #[test]
    fn a_hundred_callers_that_miss_at_once_compute_once() {
        block_on(async {
            let cache = Arc::new(Cache::new(nonzero!(4usize)));
            let computed = Arc::new(AtomicU32::new(0));
            let callers: Vec<_> = (0..100)
                .map(|_| {
                    let (cache, computed) = (Arc::clone(&cache), Arc::clone(&computed));
                    tokio::spawn(async move {
                        let compute = || async {
                            computed.fetch_add(1, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            Ok::<_, ()>(7)
                        };
                        cache
                            .get(1, POLICY, Instant::now, compute)
                            .await
                            .unwrap()
                            .value
                    })
                })
                .collect();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), 7);
            }
            assert_eq!(computed.load(Ordering::SeqCst), 1);
            assert!(cache.flights.lock().unwrap().is_empty());
        });
    }

    #[test]
    fn a_crowd_that_waited_for_a_failure_takes_the_old_answer_at_once() {
        block_on(async {
            let cache = Arc::new(Cache::new(nonzero!(4usize)));
            let start = Instant::now();
            let later = start + Duration::from_secs(301);
            answer(&cache, start, Ok(1)).await.unwrap();
            let asked = Arc::new(AtomicU32::new(0));
            let callers: Vec<_> = (0..100)
                .map(|_| {
                    let (cache, asked) = (Arc::clone(&cache), Arc::clone(&asked));
                    tokio::spawn(async move {
                        let compute = || async {
                            asked.fetch_add(1, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            Err::<u32, ()>(())
                        };
                        cache
                            .get(1, POLICY, || later, compute)
                            .await
                            .unwrap()
                            .source
                    })
                })
                .collect();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), Source::Stale);
            }
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            // The next one, who did not wait, asks again.
            assert_eq!(
                answer(&cache, later + Duration::from_secs(1), Ok(2)).await,
                Ok((2, Source::Miss))
            );
        });
    }

    #[test]
    fn an_answer_begun_before_an_invalidation_is_not_kept() {
        block_on(async {
            let cache = Cache::new(nonzero!(4usize));
            let old = cache
                .get(1, POLICY, Instant::now, || async {
                    cache.invalidate(&1);
                    Ok::<_, ()>(1)
                })
                .await;
            assert_eq!(old.unwrap().value, 1);
            assert_eq!(
                answer(&cache, Instant::now(), Ok(2)).await,
                Ok((2, Source::Miss))
            );
        });
    }

    #[test]
    fn a_leader_that_leaves_hands_the_flight_on() {
        block_on(async {
            let cache = Arc::new(Cache::<u8, u32>::new(nonzero!(4usize)));
            let leader = {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move {
                    let _ = cache
                        .get(
                            1,
                            POLICY,
                            Instant::now,
                            std::future::pending::<Result<u32, ()>>,
                        )
                        .await;
                })
            };
            tokio::task::yield_now().await;
            let follower = {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { answer(&cache, Instant::now(), Ok(2)).await })
            };
            tokio::task::yield_now().await;
            leader.abort();
            assert_eq!(follower.await.unwrap(), Ok((2, Source::Miss)));
        });
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_its_capacity_nor_serves_what_was_dropped(steps in prop::collection::vec((0u8..8, any::<bool>()), 0..100)) {
            block_on(async {
                let cache: Cache<u8, usize> = Cache::new(nonzero!(4usize));
                let mut truth = HashMap::new();
                for (version, (key, write)) in steps.into_iter().enumerate() {
                    if write {
                        truth.insert(key, version);
                        cache.invalidate(&key);
                    }
                    let current = truth.get(&key).copied().unwrap_or_default();
                    let got = cache.get(key, POLICY, Instant::now, || async { Ok::<_, ()>(current) }).await.unwrap();
                    assert_eq!(got.value, current);
                    assert!(cache.lock().len() <= 4);
                }
            });
        }
    }
}
