//! Who is notified of what the storage does: a server counts, and drops what it cached.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::KeyHash;
use crate::model::Credits;

/// What a commit changed, for observers that cache or count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// There is a new account.
    Account,
    /// Credits were given, or where negative, taken.
    Granted(Credits),
    /// An earning was counted and given.
    Earned(Credits),
    /// Samples were stored.
    Samples {
        /// Those that were not there before.
        new: usize,
        /// Whether it was the first sample of a wallet or made its account.
        first: bool,
    },
    /// The key with this hash is no longer what it was.
    Key(KeyHash),
}

/// Notified of what the storage does, as it does it; must return at once.
pub trait StoreObserver: Send + Sync {
    /// A group of `jobs` was committed (or failed to) in `took`.
    fn committed(&self, jobs: usize, took: Duration, ok: bool);
    /// A read took `took`, waiting for a connection included.
    fn read(&self, took: Duration);
    /// This was changed. Called after the commit and before the verb that changed it returns, so that no answer from before
    /// the change is given after it.
    fn changed(&self, change: &Change);
}

/// The observers of a storage. One that is dropped is notified no more.
#[derive(Default)]
pub struct Observers(RwLock<Vec<Weak<dyn StoreObserver>>>);

impl Observers {
    /// Notifies one more from now on.
    pub fn add(&self, observer: Weak<dyn StoreObserver>) {
        let mut observers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| observer.strong_count() > 0);
        observers.push(observer);
    }

    /// Notifies them all. One that panics stops neither the others nor the storage.
    pub fn each(&self, notify: impl Fn(&dyn StoreObserver)) {
        let observers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter().filter_map(Weak::upgrade) {
            if catch_unwind(AssertUnwindSafe(|| notify(&*observer))).is_err() {
                log::error!("an observer of the storage panicked");
            }
        }
    }
}
