//! An amount that is promised to one request, and what it is drawn on.

use std::fmt;
use std::sync::Arc;

use crate::auth::KeyLimits;
use crate::model::{Credits, Timestamp, Wallet, id_text};

/// Identifies a movement of credits in the ledger; made by the server, never by a client, so that after a COMMIT that
/// returned an error the file itself shows whether it happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OperationId(uuid::Uuid);

impl OperationId {
    /// A new one, later than all before.
    #[expect(clippy::new_without_default, reason = "each is another")]
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// From its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// Its 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// As clients read it: `req_…`.
impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&id_text("req_", self.0))
    }
}

/// The row that counts what the keys of one limit spent in one period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Spending {
    /// The row; several keys may share it.
    pub row: i64,
    /// The start of the period, in unix milliseconds.
    pub period: i64,
}

impl Spending {
    /// Where a request that begins now counts against the limits of its key, and what they allow there; `None` where they
    /// allow any amount.
    #[must_use]
    pub fn of(limits: &KeyLimits, now: Timestamp) -> Option<(Self, Credits)> {
        let (most, period) = limits.credit()?;
        let spending = Self {
            row: limits.id,
            period: period.start(now).millis(),
        };
        Some((spending, most))
    }
}

/// What holds draw on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Account {
    /// A balance: it falls to 0.
    Wallet(Wallet),
    /// Spending: it rises to its limit.
    Spending(Spending),
}

/// An amount to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldRequest {
    /// Identifies its charge in the ledger.
    pub operation: OperationId,
    /// The wallet that pays.
    pub wallet: Wallet,
    /// At most this is charged.
    pub amount: Credits,
    /// The limit of the key, with what it allows.
    pub limit: Option<(Spending, Credits)>,
}

impl HoldRequest {
    pub(super) fn accounts(&self) -> impl Iterator<Item = Account> + use<> {
        let spending = self.limit.map(|(spending, _)| Account::Spending(spending));
        std::iter::once(Account::Wallet(self.wallet)).chain(spending)
    }
}

/// An amount that is promised to one request. It ends with its charge, by [`Hold::release`], or dropped.
#[must_use = "a hold that is dropped is released"]
pub struct Hold {
    pub(super) request: HoldRequest,
    /// The number of its charge, while that is under way.
    pub(super) charge: Option<u64>,
    pub(super) owner: Option<Arc<dyn HoldOwner>>,
}

/// The place where holds live.
pub trait HoldOwner: Send + Sync {
    /// Ends a hold that is dropped; must not block. Where an owner other than a [`HoldTable`](super::HoldTable) made it, also
    /// one that was charged, for which there is nothing left to do.
    fn release(&self, hold: &Hold);
}

impl Hold {
    /// A hold that lives with `owner`; [`HoldTable`](super::HoldTable) makes its own.
    pub fn new(request: HoldRequest, owner: Arc<dyn HoldOwner>) -> Self {
        Self {
            request,
            charge: None,
            owner: Some(owner),
        }
    }

    /// What was held.
    pub const fn request(&self) -> &HoldRequest {
        &self.request
    }

    /// Ends it without a charge.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.release(self);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.request)
    }
}
