//! Why a verb of the storage failed. The texts of the first variants are fit for a client; the others are for the log.

use std::time::Duration;

use crate::model::Credits;

/// Why a verb did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No account has this wallet.
    #[error("no account has this wallet address")]
    UserNotFound,
    /// No key has this id, or it belongs to another wallet.
    #[error("no key has this id")]
    KeyNotFound,
    /// What is stored already does not allow it; the sentence is fit for the client.
    #[error("{0}")]
    Conflict(String),
    /// The balance would go below zero.
    #[error("{needed} credits are needed, the wallet has {balance}")]
    Insufficient {
        /// What was asked for.
        needed: Credits,
        /// What there is.
        balance: Credits,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// It was done before under this idempotency key and its answer was not stored; the ledger entry or key that it made,
    /// if any.
    #[error("it was done before, and its answer was not stored")]
    AlreadyIssued(Option<String>),
    /// The scope of the idempotency key has as many answers stored as it may; nothing was done.
    #[error("no further answers can be stored in this idempotency scope")]
    IdempotencyFull {
        /// How long until the oldest of them expires.
        retry_after: Duration,
    },
    /// One answer cannot hold it; ask for less, or more coarsely.
    #[error("this is more than one answer can hold")]
    TooMuch,
    /// The queue is full; nothing was done.
    #[error("the write queue is full")]
    Busy,
    /// The storage could not be used: I/O error, another program's lock, closed. For the log only.
    #[error("the storage cannot be used: {0}")]
    Unavailable(String),
    /// The disk is full.
    #[error("the disk is full: make room where the database is")]
    Full,
    /// The file is not what was written: only a backup helps. For the log only.
    #[error(
        "the database is damaged ({0}): stop the server and put the newest good copy in its place with restore"
    )]
    Damaged(String),
    /// A bug of this program. For the log only.
    #[error("internal: {0}")]
    Internal(String),
}
