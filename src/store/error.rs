use std::time::Duration;

use crate::model::Credits;

/// Why a verb did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// No account has this wallet.
    UserNotFound,
    /// No key has this id, or it belongs to another wallet.
    KeyNotFound,
    /// What is there already does not allow it; the sentence is fit for the client.
    Conflict(String),
    /// The balance would go below zero.
    Insufficient {
        /// What was asked for.
        needed: Credits,
        /// What there is.
        balance: Credits,
    },
    /// The idempotency key was used for another request.
    KeyReused,
    /// It was done before under this idempotency key and its answer was not stored; the ledger entry or key that it made,
    /// if any.
    AlreadyIssued(Option<String>),
    /// The scope of the idempotency key has as many answers stored as it may; nothing was done.
    IdempotencyFull {
        /// How long until the oldest of them expires.
        retry_after: Duration,
    },
    /// One answer cannot hold it; ask for less, or more coarsely.
    TooMuch,
    /// More is queued than the storage takes on; nothing was done.
    Busy,
    /// The storage could not be used: I/O error, locked by a stranger, closed. For the log only.
    Unavailable(String),
    /// There is no room on the disk.
    Full,
    /// The file is not what was written: only a copy helps. For the log only.
    Damaged(String),
    /// A mistake of ours. For the log only.
    Internal(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UserNotFound => f.write_str("no account has this wallet address"),
            Self::KeyNotFound => f.write_str("no key has this id"),
            Self::Conflict(what) => f.write_str(what),
            Self::Insufficient { needed, balance } => {
                write!(f, "{needed} credits are needed, the wallet has {balance}")
            }
            Self::KeyReused => f.write_str("the idempotency key was used for another request"),
            Self::AlreadyIssued(_) => {
                f.write_str("it was done before, and its answer was not stored")
            }
            Self::IdempotencyFull { .. } => {
                f.write_str("no further answers can be stored in this idempotency scope")
            }
            Self::TooMuch => f.write_str("this is more than one answer can hold"),
            Self::Busy => f.write_str("the write queue is full"),
            Self::Unavailable(what) => write!(f, "the storage cannot be used: {what}"),
            Self::Full => f.write_str("the disk is full: make room where the database is"),
            Self::Damaged(what) => write!(
                f,
                "the database is damaged ({what}): stop the server and put the newest good copy in its place with restore"
            ),
            Self::Internal(what) => write!(f, "internal: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}
