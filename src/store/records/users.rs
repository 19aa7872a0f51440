//! The list of accounts.

use super::User;
use crate::model::{Timestamp, Wallet};

/// An account as it is listed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ListedUser {
    /// The account.
    #[serde(flatten)]
    pub user: User,
    /// The newest use of any of its keys, to the minute; those that are deleted since included.
    pub last_used_at: Option<Timestamp>,
}

/// The order of a list of accounts; those with the same value are in the order of their addresses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserSort {
    /// By the address alone.
    #[default]
    Address,
    /// The newest first.
    Created,
    /// The largest balance first.
    Balance,
    /// The most recently used first, those never used last.
    LastUsed,
}

impl UserSort {
    /// The name in a query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Created => "created",
            Self::Balance => "balance",
            Self::LastUsed => "last_used",
        }
    }

    /// The value that an account is sorted by, the largest first: unix milliseconds, or micro-credits.
    #[must_use]
    pub fn value(self, listed: &ListedUser) -> i64 {
        match self {
            Self::Address => 0,
            Self::Created => listed.user.created_at.millis(),
            Self::Balance => listed.user.credits.micro(),
            Self::LastUsed => listed.last_used_at.map_or(Self::NEVER, Timestamp::millis),
        }
    }

    /// The value of an account that was never used.
    const NEVER: i64 = -1;
}

/// Which accounts are listed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct UserQuery {
    /// A part of the address; empty for all.
    pub search: String,
    /// The order.
    pub sort: UserSort,
    /// [`UserSort::value`] and address of the last account of the page before; `None` starts at the first.
    pub after: Option<(i64, Wallet)>,
    /// Accounts at most.
    pub limit: usize,
}
