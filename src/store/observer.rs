//! Observers of the storage: a server counts changes, and invalidates its caches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::{KeyHash, KeyRecord};
use crate::model::{Credits, Wallet};

/// What a commit changed, for observers that cache, count or pass it on. No secret is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// There is a new account. One that begins with a sample or an earning is in that change only.
    Account(Wallet),
    /// An administrator granted credits.
    Granted(Movement),
    /// An administrator took credits.
    Taken(Movement),
    /// A paid request was charged; one of 0 credits is not reported.
    Charged(Movement),
    /// A charge was reversed, as its answer could not be given.
    Refunded(Movement),
    /// An earning was recorded and granted.
    Earned(Movement),
    /// Samples were stored.
    Samples {
        /// Those that were new.
        new: usize,
        /// Whether it was the first sample of a wallet or created its account.
        first: bool,
    },
    /// A key was made.
    KeyCreated(ChangedKey),
    /// A key was revoked, or replaced: then it may stay valid for a while.
    KeyRevoked(ChangedKey),
    /// An account was blocked or unblocked.
    Blocked {
        /// The account.
        wallet: Wallet,
        /// Whether it is blocked now.
        blocked: bool,
    },
    /// Anything: notifications of changes elsewhere were lost.
    All,
}

/// A movement of credits: an entry of the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Movement {
    /// The account.
    pub wallet: Wallet,
    /// As in the ledger: negative where the account has less after it.
    pub amount: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// The number of the entry, as in [`LedgerEntry::id`](super::LedgerEntry::id).
    pub entry: i64,
}

/// A key, by what it is known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedKey {
    /// `key_…`
    pub id: String,
    /// The owner; an admin key belongs to no wallet.
    pub wallet: Option<Wallet>,
    /// The hash that it is looked up by.
    pub hash: KeyHash,
}

impl From<&KeyRecord> for ChangedKey {
    fn from(key: &KeyRecord) -> Self {
        Self {
            id: key.id.clone(),
            wallet: key.wallet,
            hash: key.hash,
        }
    }
}

/// Which process made a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This one, through this store.
    Here,
    /// Another one that shares the data.
    Elsewhere,
}

/// Notified of the storage's work; must not block. Each method does nothing unless it is implemented.
///
/// ```
/// use std::sync::{Arc, Mutex, Weak};
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::{Actor, Change, Origin, StoreObserver};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// /// What each account has.
/// #[derive(Default)]
/// struct Balances(Mutex<Vec<(Wallet, Credits)>>);
///
/// impl StoreObserver for Balances {
///     fn changed(&self, change: &Change, _: Origin) {
///         if let Change::Granted(movement) | Change::Taken(movement) | Change::Charged(movement) = change {
///             self.0.lock().unwrap().push((movement.wallet, movement.balance));
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// // The store has a weak reference: the observer is removed when the host drops it.
/// let balances = Arc::new(Balances::default());
/// let weak: Weak<Balances> = Arc::downgrade(&balances);
/// store.observe(weak);
/// let wallet: Wallet = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm".parse()?;
/// let five: Credits = "5".parse()?;
/// let actor = Actor::local(Clock::default().now());
/// store.grant(wallet, five, "welcome".to_owned(), None, actor, None).await?;
/// assert_eq!(*balances.0.lock().unwrap(), [(wallet, five)]);
/// # Ok(())
/// # }
/// ```
#[allow(unused_variables, reason = "the names are documentation")]
pub trait StoreObserver: Send + Sync {
    /// A group of `jobs` was committed (or failed to) in `took`.
    fn committed(&self, jobs: usize, took: Duration, ok: bool) {}
    /// A read took `took`, waiting for a connection included.
    fn read(&self, took: Duration) {}
    /// A change was committed: to be counted where it was made, and to invalidate what is cached everywhere. For one made
    /// here it is called after the commit and before the method returns, so that no cached response from before the change
    /// is sent after it; for one made elsewhere as soon as reads in this process find it, not before.
    fn changed(&self, change: &Change, origin: Origin) {}
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
