//! Observers of the storage: a server counts changes, and invalidates its caches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::KeyHash;
use crate::model::{Credits, Wallet};

/// What a commit changed, for observers that cache or count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// There is a new account.
    Account,
    /// Credits were granted, or debited if negative.
    Granted(Credits),
    /// An earning was recorded and granted.
    Earned(Credits),
    /// Samples were stored.
    Samples {
        /// Those that were new.
        new: usize,
        /// Whether it was the first sample of a wallet or created its account.
        first: bool,
    },
    /// The key with this hash was changed.
    Key(KeyHash),
    /// The account of this wallet was blocked or unblocked.
    Blocked(Wallet),
    /// Anything: notifications of changes elsewhere were lost.
    All,
}

/// Which process made a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This one, through this store.
    Here,
    /// Another one that shares the data.
    Elsewhere,
}

/// Notified of the storage's work; must not block.
pub trait StoreObserver: Send + Sync {
    /// A group of `jobs` was committed (or failed to) in `took`.
    fn committed(&self, jobs: usize, took: Duration, ok: bool);
    /// A read took `took`, waiting for a connection included.
    fn read(&self, took: Duration);
    /// A change was committed: to be counted where it was made, and to invalidate what is cached everywhere. For one made
    /// here it is called after the commit and before the method returns, so that no cached response from before the change
    /// is sent after it; for one made elsewhere as soon as reads in this process find it, not before.
    fn changed(&self, change: &Change, origin: Origin);
}

/// The observers of a storage; dropped ones are removed.
#[derive(Default)]
pub struct Observers(RwLock<Vec<Weak<dyn StoreObserver>>>);

impl Observers {
    /// Adds an observer.
    pub fn add(&self, observer: Weak<dyn StoreObserver>) {
        let mut observers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| observer.strong_count() > 0);
        observers.push(observer);
    }

    /// Notifies all; a panic in one affects neither the others nor the storage.
    pub fn each(&self, notify: impl Fn(&dyn StoreObserver)) {
        let observers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter().filter_map(Weak::upgrade) {
            if catch_unwind(AssertUnwindSafe(|| notify(&*observer))).is_err() {
                log::error!("an observer of the storage panicked");
            }
        }
    }
}
