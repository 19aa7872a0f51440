use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::KeyHash;
use crate::model::Credits;

/// What a commit changed, for those who keep or count what they were told before; a [`StoreObserver`] hears of it.
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
        /// Whether a wallet told its first sample ever or got its account by it.
        first: bool,
    },
    /// The key with this hash is no longer what it was.
    Key(KeyHash),
}

/// Told of what the storage does, as it does it; must return at once.
pub trait StoreObserver: Send + Sync {
    /// A group of `jobs` was committed (or failed to) in `took`.
    fn committed(&self, jobs: usize, took: Duration, ok: bool);
    /// A read took `took`, waiting for a connection included.
    fn read(&self, took: Duration);
    /// This was changed. Told after the commit and before the verb that changed it returns, so that whoever hears of the
    /// change finds no answer from before it.
    fn changed(&self, change: &Change);
}

/// Those who are told; a storage has one of these. An observer that is dropped is told no more.
#[derive(Default)]
pub struct Observers(RwLock<Vec<Weak<dyn StoreObserver>>>);

impl Observers {
    /// Tells one more from now on.
    pub fn add(&self, observer: Weak<dyn StoreObserver>) {
        let mut observers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| observer.strong_count() > 0);
        observers.push(observer);
    }

    /// Tells them all. One that panics keeps neither the others from hearing nor the storage from going on.
    pub fn each(&self, tell: impl Fn(&dyn StoreObserver)) {
        let observers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter().filter_map(Weak::upgrade) {
            if catch_unwind(AssertUnwindSafe(|| tell(&*observer))).is_err() {
                log::error!("an observer of the storage panicked");
            }
        }
    }
}
