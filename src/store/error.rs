//! Errors of the storage. The texts of the first variants may be shown to a client; the others are for the log.

use std::time::Duration;

use crate::model::Credits;

/// An error of a [`Repository`](super::Repository) method.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No account has this wallet.
    #[error("no account has this wallet address")]
    UserNotFound,
    /// No key has this id, or it belongs to another wallet.
    #[error("no key has this id")]
    KeyNotFound,
    /// It conflicts with the stored state; the text may be shown to the client.
    #[error("{0}")]
    Conflict(String),
    /// The balance would go below zero, or below what is held.
    #[error("{needed} credits are needed, {balance} are available")]
    Insufficient {
        /// The amount requested.
        needed: Credits,
        /// The amount available.
        balance: Credits,
    },
    /// The keys of this limit would spend more than it allows in its period.
    #[error("{needed} credits are needed, the limit of the key leaves {available}")]
    LimitReached {
        /// The amount requested.
        needed: Credits,
        /// The amount that the limit leaves.
        available: Credits,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// It was done before with this idempotency key and its response was not stored; the ledger entry or key that it
    /// created, if any.
    #[error(
        "this Idempotency-Key was used before{}; the answer is not stored",
        .0.as_ref().map_or_else(String::new, |id| format!(" and made {id}"))
    )]
    AlreadyIssued(Option<String>),
    /// The scope of the idempotency key has the maximum number of stored responses; nothing was done.
    #[error("too many Idempotency-Keys of this wallet or admin are stored for this route")]
    IdempotencyFull {
        /// Time until the oldest of them expires.
        retry_after: Duration,
    },
    /// Too large for one response; request less, or a coarser resolution.
    #[error("too much for one answer; ask for less")]
    TooMuch,
    /// The queue is full; nothing was done.
    #[error("write queue full; retry shortly")]
    Busy,
    /// The storage could not be used: I/O error, another program's lock, closed. For the log only.
    #[error("the storage cannot be used: {0}")]
    Unavailable(String),
    /// The disk is full.
    #[error("the disk is full: free space on the database's file system")]
    Full,
    /// The file is damaged: only a backup helps. For the log only.
    #[error("the database is damaged ({0}): stop the server and restore the newest good backup")]
    Damaged(String),
    /// A bug of this program. For the log only.
    #[error("internal: {0}")]
    Internal(String),
}
