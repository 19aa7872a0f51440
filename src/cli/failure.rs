//! Why a command fails, and the exit code of it.

use std::fmt::Display;

use r3mes_edge::StartError;
use r3mes_edge::config::ConfigError;
use r3mes_edge::store::{LockError, OpenError, StoreError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) enum Failure {
    /// It did not work.
    Failed(String),
    /// Wrong arguments.
    Usage(String),
    /// It does not exist.
    NotFound(String),
    /// The current state does not allow it.
    Conflict(String),
    /// The storage or the server cannot be used now.
    Unavailable(String),
    Config(#[from] ConfigError),
    Database(#[from] OpenError),
    Start(#[from] StartError),
    #[error("unexpected response: {0}")]
    Response(#[from] serde_json::Error),
    /// The reader of stdout is gone.
    #[error("standard output is closed")]
    ReaderClosed,
}

impl Failure {
    /// The exit code.
    pub(super) const fn code(&self) -> u8 {
        use OpenError::{Locked, Missing, Older, Storage};
        use StoreError::{Busy, Full, Unavailable, UserNotFound};
        match self {
            Self::ReaderClosed => 0,
            Self::Usage(_) | Self::Config(_) | Self::Start(StartError::Config(_)) => 2,
            Self::NotFound(_) | Self::Database(Missing(_) | Storage(UserNotFound)) => 3,
            Self::Conflict(_) | Self::Database(Locked(LockError::Held(_)) | Older(..)) => 4,
            Self::Unavailable(_) | Self::Database(Storage(Busy | Full | Unavailable(_))) => 5,
            Self::Failed(_) | Self::Database(_) | Self::Start(_) | Self::Response(_) => 1,
        }
    }
}

/// Errors without an exit code of their own.
pub(super) fn failed(error: impl Display) -> Failure {
    Failure::Failed(error.to_string())
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Database(error.into())
    }
}
