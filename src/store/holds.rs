//! The hold table: which part of each balance is promised to requests that still run. It lives in memory only, so a crash
//! leaves no hold; a store that one process alone changes keeps its holds here and publishes every commit to it.
//!
//! An account's entry has the committed balance, assigned by each commit, and the sum of its holds. What is available is
//! the difference. An entry is loaded by a read outside the lock; commits publish their values whether or not there is an
//! entry, so a value that was read before a commit never replaces the one that it published.

mod hold;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

pub use self::hold::{Account, Hold, HoldOwner, HoldRequest, OperationId, Spending};
use super::{Result, StoreError};
use crate::model::{Credits, Wallet};

/// The holds of a store that one process alone changes, in an [`Arc`]. `tests/it/memory_store.rs` is such a store.
///
/// - [`Repository::hold`](super::Repository::hold) is [`Self::hold`], with a read of one committed balance, or of what was
///   spent. A debit by an admin holds first, too.
/// - [`Repository::charge`](super::Repository::charge) calls [`Self::begin_charge`] before anything else, and then hands hold
///   and charge to what writes them, which goes on if the caller is dropped. A commit ends with [`Self::publish`] (values and
///   charged holds), what was definitely not written with [`Self::charge_failed`] and the hold returned in
///   [`NotWritten`](super::NotWritten). While the outcome of a COMMIT is unknown neither is called, and
///   [`Self::set_fault`] refuses new holds.
/// - Every other commit that changes a balance or spending (a grant, an earning, a refund) publishes it, without holds.
/// - [`Self::publish`] is called before the caller of the change is answered, in the order of the commits: by the one thread
///   that commits, or under the lock under which it commits.
/// - A hold that is dropped is released here; nothing else is to be done.
///
/// ```
/// # use std::sync::Arc;
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::{Account, HoldRequest, HoldTable, OperationId, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let (five, two, three) = (Credits::parse("5")?, Credits::parse("2")?, Credits::parse("3")?);
/// let table = Arc::new(HoldTable::default());
/// let request = HoldRequest { operation: OperationId::new(), wallet, amount: five, limit: None };
/// let mut hold = table.hold(request, async |_| Ok(five)).await?;
/// assert_eq!(table.held(), (1, five));
/// table.begin_charge(&mut hold);
/// // Here the store commits an entry of -2; then:
/// table.publish([(Account::Wallet(wallet), three)], [hold]);
/// assert_eq!(table.held(), (0, Credits::ZERO));
/// let again = HoldRequest { operation: OperationId::new(), amount: two, ..request };
/// // The balance is known by now.
/// let hold = table.hold(again, async |_| Err(StoreError::UserNotFound)).await?;
/// drop(hold);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct HoldTable {
    inner: Mutex<Inner>,
    /// Notified when charges ended or a fault began.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    accounts: HashMap<Account, Entry>,
    holds: usize,
    held: i64,
    /// The number of the next charge.
    next_charge: u64,
    /// How often unused entries were removed: what was read before that may be older than a commit.
    sweeps: u64,
    fault: Option<StoreError>,
}

#[derive(Default)]
struct Entry {
    /// The committed balance, or the amount spent.
    value: i64,
    held: i64,
    holds: usize,
    charges: BTreeSet<u64>,
}

/// What became of an attempt to hold.
enum Attempt {
    Held(Hold),
    NotLoaded(Account),
    /// It may fit when the charges under way have ended.
    Charging(OwnedNotified),
}

impl HoldTable {
    /// Holds at a time: each has room in the writer's queue for its charge.
    pub const MAX_HOLDS: usize = 4096;
    /// Entries in all; those without holds are removed when there are more.
    const MAX_ENTRIES: usize = 4 * Self::MAX_HOLDS;

    /// Holds an amount; `read` reads the committed value of an account: the balance, or the amount spent. Waits while charges
    /// of the same account are under way whose end may make the amount available.
    ///
    /// # Errors
    /// [`StoreError::Insufficient`], [`StoreError::LimitReached`]; [`StoreError::Busy`] with [`Self::MAX_HOLDS`] holds; the
    /// fault of the storage, if it has one; and those of `read`.
    pub async fn hold<F: Future<Output = Result<Credits>>>(
        self: &Arc<Self>,
        request: HoldRequest,
        read: impl Fn(Account) -> F,
    ) -> Result<Hold> {
        let arrival = self.lock().next_charge;
        loop {
            match self.attempt(&request, arrival)? {
                Attempt::Held(hold) => return Ok(hold),
                Attempt::NotLoaded(account) => {
                    let sweeps = self.lock().sweeps;
                    let value = read(account).await?;
                    self.insert(account, value, sweeps);
                }
                Attempt::Charging(changed) => changed.await,
            }
        }
    }

    fn attempt(self: &Arc<Self>, request: &HoldRequest, arrival: u64) -> Result<Attempt> {
        let mut inner = self.lock();
        if let Some(fault) = &inner.fault {
            return Err(fault.clone());
        }
        for account in request.accounts() {
            let Some(entry) = inner.accounts.get(&account) else {
                return Ok(Attempt::NotLoaded(account));
            };
            let Err(refusal) = entry.check(account, request) else {
                continue;
            };
            return match entry.charges.first() {
                // Created under the lock, so that no notification is missed.
                Some(first) if *first < arrival => {
                    let changed = Arc::clone(&self.changed).notified_owned();
                    Ok(Attempt::Charging(changed))
                }
                _ => Err(refusal),
            };
        }
        if inner.holds >= Self::MAX_HOLDS {
            return Err(StoreError::Busy);
        }
        let owner: Arc<dyn HoldOwner> = Arc::<Self>::clone(self);
        let hold = Hold::new(*request, owner);
        inner.holds += 1;
        inner.held += request.amount.micro();
        for account in request.accounts() {
            let entry = inner.accounts.entry(account).or_default();
            entry.held += request.amount.micro();
            entry.holds += 1;
        }
        Ok(Attempt::Held(hold))
    }

    /// Adds an entry that was read, unless a commit has published a newer value meanwhile.
    fn insert(&self, account: Account, value: Credits, sweeps: u64) {
        let mut inner = self.lock();
        if inner.sweeps == sweeps && !inner.accounts.contains_key(&account) {
            inner.set(account, value);
        }
    }

    /// Marks a hold as being charged: a request that does not find enough meanwhile waits for the result.
    pub fn begin_charge(&self, hold: &mut Hold) {
        let mut inner = self.lock();
        let number = inner.next_charge;
        inner.next_charge += 1;
        hold.charge = Some(number);
        for account in hold.request.accounts() {
            if let Some(entry) = inner.accounts.get_mut(&account) {
                entry.charges.insert(number);
            }
        }
    }

    /// Undoes [`Self::begin_charge`] after a charge that was definitely not written; the hold goes on.
    pub fn charge_failed(&self, hold: &mut Hold) {
        self.lock().end_charge(hold);
        self.changed.notify_waiters();
    }

    /// Publishes a commit, before any of its jobs is answered: assigns the committed values and ends the holds that were
    /// charged, in one step. Called in the order of the commits.
    pub fn publish(
        &self,
        values: impl IntoIterator<Item = (Account, Credits)>,
        ended: impl IntoIterator<Item = Hold>,
    ) {
        let mut inner = self.lock();
        for (account, value) in values {
            inner.set(account, value);
        }
        let mut any = false;
        for mut hold in ended {
            hold.owner = None;
            inner.end(&hold);
            any = true;
        }
        drop(inner);
        if any {
            self.changed.notify_waiters();
        }
    }

    /// The accounts that have entries, to be read anew after a COMMIT with an unknown outcome.
    pub fn accounts(&self) -> Vec<Account> {
        self.lock().accounts.keys().copied().collect()
    }

    /// Refuses new holds with this error, until it is `None`; those that wait for charges are refused at once.
    pub fn set_fault(&self, fault: Option<StoreError>) {
        self.lock().fault = fault;
        self.changed.notify_waiters();
    }

    /// What is not held of a wallet's balance; `None` where neither a hold nor a commit of it is known, so that nothing is held.
    #[must_use]
    pub fn available(&self, wallet: &Wallet) -> Option<Credits> {
        let inner = self.lock();
        let entry = inner.accounts.get(&Account::Wallet(*wallet))?;
        let available = entry.value.saturating_sub(entry.held);
        Some(Credits::from_micro(available.max(0)))
    }

    /// How many holds there are, and their sum.
    pub fn held(&self) -> (usize, Credits) {
        let inner = self.lock();
        (inner.holds, Credits::from_micro(inner.held))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HoldOwner for HoldTable {
    fn release(&self, hold: &Hold) {
        let charging = hold.charge.is_some();
        self.lock().end(hold);
        if charging {
            self.changed.notify_waiters();
        }
    }
}

impl Entry {
    /// Whether an amount fits beside the holds.
    fn check(&self, account: Account, request: &HoldRequest) -> Result<()> {
        let available = match (account, request.limit) {
            (Account::Spending(_), Some((_, limit))) => limit
                .micro()
                .saturating_sub(self.value)
                .saturating_sub(self.held),
            _ => self.value.saturating_sub(self.held),
        };
        if request.amount.micro() <= available {
            return Ok(());
        }
        let (needed, balance) = (request.amount, Credits::from_micro(available.max(0)));
        Err(match account {
            Account::Wallet(_) => StoreError::Insufficient { needed, balance },
            Account::Spending(_) => StoreError::LimitReached {
                needed,
                available: balance,
            },
        })
    }
}

impl Inner {
    fn set(&mut self, account: Account, value: Credits) {
        if self.accounts.len() >= HoldTable::MAX_ENTRIES && !self.accounts.contains_key(&account) {
            self.accounts.retain(|_, entry| entry.holds > 0);
            self.sweeps += 1;
        }
        self.accounts.entry(account).or_default().value = value.micro();
    }

    fn end_charge(&mut self, hold: &Hold) {
        let Some(number) = hold.charge else { return };
        for account in hold.request.accounts() {
            if let Some(entry) = self.accounts.get_mut(&account) {
                entry.charges.remove(&number);
            }
        }
    }

    fn end(&mut self, hold: &Hold) {
        self.end_charge(hold);
        let amount = hold.request.amount.micro();
        self.holds -= 1;
        self.held -= amount;
        for account in hold.request.accounts() {
            if let Some(entry) = self.accounts.get_mut(&account) {
                entry.held -= amount;
                entry.holds -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
