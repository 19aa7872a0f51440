//! Freshness, single flight and invalidation of the cache.

use super::*;
use nonzero_ext::nonzero;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::AtomicU32;

const POLICY: Policy = Policy {
    ttl: Duration::from_secs(300),
    stale_if_error: Duration::from_secs(3600),
    failure_ttl: Duration::ZERO,
};

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

async fn answer(
    cache: &Cache<u8, u32, String>,
    now: Instant,
    value: Result<u32, &str>,
) -> Result<(u32, Source), String> {
    let cached = cache
        .get(1, POLICY, || now, || async { value.map_err(str::to_owned) })
        .await?;
    Ok((cached.value, cached.source))
}

#[test]
fn a_value_is_fresh_for_its_ttl_then_stale_only_if_computing_fails() {
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
            answer(&cache, after(3602), Ok(3)).await,
            Ok((3, Source::Miss))
        );
    });
}

#[test]
fn concurrent_misses_share_one_computation() {
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
    });
}

#[test]
fn callers_that_waited_for_a_failure_get_the_stale_value_without_computing() {
    block_on(async {
        let cache = Arc::new(Cache::new(nonzero!(4usize)));
        let start = Instant::now();
        let later = start + Duration::from_secs(301);
        answer(&cache, start, Ok(1)).await.unwrap();
        let computed = Arc::new(AtomicU32::new(0));
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let (cache, computed) = (Arc::clone(&cache), Arc::clone(&computed));
                tokio::spawn(async move {
                    let compute = || async {
                        computed.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        Err("down".to_owned())
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
        assert_eq!(computed.load(Ordering::SeqCst), 1);
        // The next caller, which did not wait, computes again.
        assert_eq!(
            answer(&cache, later + Duration::from_secs(1), Ok(2)).await,
            Ok((2, Source::Miss))
        );
    });
}

#[test]
fn callers_that_waited_for_a_failure_share_it_where_nothing_is_stored() {
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
                        Err::<u32, _>("down")
                    };
                    let got = cache.get(1, POLICY, Instant::now, compute).await;
                    got.map(|cached| cached.value)
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Err("down"));
        }
        assert_eq!(computed.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_failure_is_remembered_for_its_time_and_a_value_ends_it() {
    block_on(async {
        let (cache, start) = (Cache::new(nonzero!(4usize)), Instant::now());
        let policy = Policy {
            ttl: Duration::from_secs(1),
            failure_ttl: Duration::from_secs(5),
            ..POLICY
        };
        let get = async |second, value: Result<u32, &'static str>| {
            let now = start + Duration::from_secs(second);
            let got = cache.get(1, policy, || now, || async { value }).await;
            got.map(|cached| (cached.value, cached.source))
        };
        assert_eq!(get(0, Err("down")).await, Err("down"));
        assert_eq!(get(4, Ok(1)).await, Err("down"));
        assert_eq!(get(5, Ok(1)).await, Ok((1, Source::Miss)));
        assert_eq!(get(6, Err("broken")).await, Ok((1, Source::Stale)));
        assert_eq!(get(10, Ok(2)).await, Ok((1, Source::Stale)));
        assert_eq!(get(11, Ok(3)).await, Ok((3, Source::Miss)));
        assert_eq!(get(12, Ok(4)).await, Ok((4, Source::Miss)));
    });
}

#[test]
fn a_computation_that_began_before_an_invalidation_is_not_stored() {
    block_on(async {
        let cache = Cache::new(nonzero!(4usize));
        let old = cache
            .get(1, POLICY, Instant::now, || async {
                cache.invalidate(&1);
                Ok(1)
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
fn a_cancelled_computation_passes_to_the_next_caller() {
    block_on(async {
        let cache = Arc::new(Cache::<u8, u32, String>::new(nonzero!(4usize)));
        let leader = {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let _ = cache
                    .get(
                        1,
                        POLICY,
                        Instant::now,
                        std::future::pending::<Result<u32, String>>,
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
    fn it_never_exceeds_its_capacity_nor_serves_an_invalidated_value(steps in prop::collection::vec((0u8..8, any::<bool>()), 0..100)) {
        block_on(async {
            let cache: Cache<u8, usize, ()> = Cache::new(nonzero!(4usize));
            let mut truth = HashMap::new();
            for (version, (key, write)) in steps.into_iter().enumerate() {
                if write {
                    truth.insert(key, version);
                    cache.invalidate(&key);
                }
                let current = truth.get(&key).copied().unwrap_or_default();
                let got = cache.get(key, POLICY, Instant::now, || async { Ok::<_, ()>(current) }).await.unwrap();
                assert_eq!(got.value, current);
                assert!(cache.slots().len() <= 4);
            }
        });
    }
}
