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
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::sync::{Arc, Weak};
/// use std::time::Duration;
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::store::{Change, StoreObserver};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// #[derive(Default)]
/// struct Accounts(AtomicUsize);
///
/// impl StoreObserver for Accounts {
///     fn committed(&self, _: usize, _: Duration, _: bool) {}
///     fn read(&self, _: Duration) {}
///     fn changed(&self, change: &Change) {
///         if matches!(change, Change::Account) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let accounts = Arc::new(Accounts::default());
/// let observer: Weak<Accounts> = Arc::downgrade(&accounts);
/// store.observe(observer);
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// store.create_user(wallet, Clock::default().now(), None).await?;
/// assert_eq!(accounts.0.load(Ordering::Relaxed), 1);
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// use std::cell::Cell;
/// use std::sync::{Arc, Weak};
/// use std::time::Duration;
/// use r3mes_edge::store::{Change, Observers, StoreObserver};
///
/// struct Page;
///
/// impl StoreObserver for Page {
///     fn committed(&self, _: usize, _: Duration, _: bool) {}
///     fn read(&self, _: Duration) {}
///     fn changed(&self, _: &Change) {}
/// }
///
/// let observers = Observers::default();
/// let page = Arc::new(Page);
/// let watching: Weak<Page> = Arc::downgrade(&page);
/// observers.add(watching);
/// let told = Cell::new(0);
/// let tell = || {
///     observers.each(|observer| {
///         observer.changed(&Change::Account);
///         told.set(told.get() + 1);
///     });
/// };
/// tell();
/// drop(page);
/// tell();
/// assert_eq!(told.get(), 1);
/// ```
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
