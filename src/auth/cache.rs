//! The keys in use, so that a known key costs no read of the database.
//!
//! The storage notifies of every change, so the cache is exact: a record is inserted with the generation of its look-up, and
//! refused if any key was dropped meanwhile; it is dropped after the commit that changes it and before the response.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{KeyHash, KeyRecord};
use crate::model::{Timestamp, Wallet};

/// A bounded LRU of keys by hash.
#[derive(Debug)]
pub(crate) struct KeyCache {
    entries: Mutex<LruCache<KeyHash, Arc<CachedKey>>>,
    generation: AtomicU64,
}

/// A record with the time of its last use.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(crate) record: KeyRecord,
    /// Whether the account of its wallet is blocked.
    pub(crate) is_blocked: bool,
    last_seen: AtomicI64,
    written: AtomicI64,
}

impl CachedKey {
    /// Records a use.
    pub(crate) fn touch(&self, now: Timestamp) {
        // Read first: a store would invalidate the cache line of the other workers at every request.
        if self.last_seen.load(Ordering::Relaxed) != now.millis() {
            self.last_seen.store(now.millis(), Ordering::Relaxed);
        }
    }
}

impl KeyCache {
    pub(crate) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            entries: Mutex::new(LruCache::sparse(capacity)),
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, hash: &KeyHash) -> Option<Arc<CachedKey>> {
        self.lock().get(hash).map(Arc::clone)
    }

    /// The generation for a look-up; read it before the look-up.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Stores a record that was looked up under `generation`, unless a key was dropped since.
    pub(crate) fn insert(
        &self,
        record: KeyRecord,
        is_blocked: bool,
        generation: u64,
    ) -> Arc<CachedKey> {
        let (hash, written) = (record.hash, record.last_used);
        let key = Arc::new(CachedKey {
            record,
            is_blocked,
            last_seen: AtomicI64::new(0),
            written: AtomicI64::new(written.map_or(0, Timestamp::millis)),
        });
        let mut entries = self.lock();
        if self.generation() == generation {
            entries.put(hash, Arc::clone(&key));
        }
        key
    }

    pub(crate) fn drop_key(&self, hash: &KeyHash) {
        let mut entries = self.lock();
        self.generation.fetch_add(1, Ordering::SeqCst);
        entries.pop(hash);
    }

    /// Drops the keys of a wallet.
    pub(crate) fn drop_wallet(&self, wallet: &Wallet) {
        let mut entries = self.lock();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let own = entries
            .iter()
            .filter(|(_, key)| key.record.wallet.as_ref() == Some(wallet));
        let own: Vec<_> = own.map(|(hash, _)| *hash).collect();
        for hash in own {
            entries.pop(&hash);
        }
    }

    pub(crate) fn clear(&self) {
        let mut entries = self.lock();
        self.generation.fetch_add(1, Ordering::SeqCst);
        entries.clear();
    }

    /// The keys used in another minute than is stored, with that minute; they count as written from now on.
    pub(crate) fn take_touched(&self) -> Vec<(String, Timestamp)> {
        let entries = self.lock();
        let touched = entries.iter().filter_map(|(_, key)| {
            let seen = key.last_seen.load(Ordering::Relaxed);
            let minute = seen - seen.rem_euclid(60_000);
            let other = key.written.swap(minute, Ordering::Relaxed) != minute && seen != 0;
            other.then(|| (key.record.id.clone(), Timestamp::from_millis(minute)))
        });
        touched.collect()
    }

    /// The number of wallets seen in a period.
    pub(crate) fn active_wallets(&self, period: &Range<Timestamp>) -> usize {
        let entries = self.lock();
        let seen = entries.iter().filter_map(|(_, key)| {
            let seen = Timestamp::from_millis(key.last_seen.load(Ordering::Relaxed));
            key.record.wallet.filter(|_| period.contains(&seen))
        });
        seen.collect::<HashSet<_>>().len()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<KeyHash, Arc<CachedKey>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{PlainKey, Scopes};
    use nonzero_ext::nonzero;

    fn record() -> KeyRecord {
        let key = PlainKey::generate().unwrap();
        KeyRecord {
            id: "key_1".to_owned(),
            hash: key.hash(),
            start: key.start().to_owned(),
            wallet: None,
            name: String::new(),
            scopes: Scopes::DEFAULT,
            created_at: Timestamp::from_millis(0),
            expires_at: None,
            revoked_at: None,
            last_used: None,
            login: false,
            limits: None,
        }
    }

    #[test]
    fn a_record_looked_up_before_a_drop_does_not_come_back() {
        let (cache, record) = (KeyCache::new(nonzero!(2usize)), record());
        let before = cache.generation();
        cache.drop_key(&record.hash);
        cache.insert(record.clone(), false, before);
        assert!(cache.get(&record.hash).is_none());
        cache.insert(record.clone(), false, cache.generation());
        assert!(cache.get(&record.hash).is_some());
    }

    #[test]
    fn the_keys_of_a_wallet_are_dropped_and_none_looked_up_before_comes_back() {
        let [own, other] = [
            "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm",
            "remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx",
        ]
        .map(|wallet| Wallet::parse(wallet).unwrap());
        let cache = KeyCache::new(nonzero!(9usize));
        let of = |wallet| KeyRecord { wallet, ..record() };
        let keys = [of(Some(own)), of(Some(own)), of(Some(other)), of(None)];
        let before = cache.generation();
        let are_cached = || keys.each_ref().map(|key| cache.get(&key.hash).is_some());
        for key in &keys {
            cache.insert(key.clone(), false, before);
        }
        assert_eq!(are_cached(), [true; 4]);
        cache.drop_wallet(&own);
        assert_eq!(are_cached(), [false, false, true, true]);
        cache.insert(keys[0].clone(), false, before);
        assert_eq!(are_cached(), [false, false, true, true]);
    }

    #[test]
    fn a_use_is_written_once_a_minute() {
        let (cache, record) = (KeyCache::new(nonzero!(2usize)), record());
        let key = cache.insert(record, false, 0);
        assert!(cache.take_touched().is_empty());
        key.touch(Timestamp::from_millis(125_000));
        assert_eq!(
            cache.take_touched(),
            [("key_1".to_owned(), Timestamp::from_millis(120_000))]
        );
        key.touch(Timestamp::from_millis(179_000));
        assert!(cache.take_touched().is_empty());
    }
}
