//! What a request is charged, and what becomes of its charge.

use super::super::{Hold, HoldRequest, StoreError};
use super::IdempotentRequest;
use crate::model::{Credits, Tokens, Wallet};

/// Why the tokens of a charge are estimated, by the bytes and pieces that were relayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimated {
    /// The answer broke off before the server reported them.
    Cut,
    /// The client left before.
    ClientLeft,
    /// The answer ended well, and the server reported none.
    NoUsage,
}

impl Estimated {
    /// As it is written in JSON and CSV.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::ClientLeft => "client_left",
            Self::NoUsage => "no_usage",
        }
    }
}

/// The charge of a request that ended.
#[derive(Clone)]
pub struct Charge {
    /// What is charged; never more than the hold. 0 writes no ledger entry.
    pub amount: Credits,
    /// The key that pays.
    pub key_id: Option<String>,
    /// The adapter that answered.
    pub adapter: String,
    /// What was used, if known.
    pub tokens: Option<Tokens>,
    /// Why the tokens are this server's own count; `None` where the model's server counted them.
    pub estimated: Option<Estimated>,
    /// The answer to store with it.
    pub answer: Option<(IdempotentRequest<ChargedAnswer>, String)>,
}

/// A charge and the answer that it paid for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChargedAnswer {
    /// The ledger entry; `None` where nothing was charged.
    pub entry: Option<i64>,
    /// The answer.
    pub answer: String,
}

/// A charge that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Charged {
    /// The ledger entry; `None` where nothing was charged.
    pub entry: Option<i64>,
    /// What was charged: less than asked only where the wallet has less than was held, which a sound file rules out.
    pub amount: Credits,
    /// The request whose hold it ended.
    pub request: HoldRequest,
}

/// A request that a model worked on and that nothing is charged for, as its client left before the end of a whole answer, or
/// before the first content of a streamed one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostRequest {
    /// The wallet whose credits were held.
    pub wallet: Wallet,
    /// The key of the request.
    pub key_id: Option<String>,
    /// The adapter that was asked.
    pub adapter: String,
}

/// A charge that was definitely not written: nothing changed, and the amount is still held.
#[derive(Debug)]
pub struct NotWritten {
    /// The hold, to try again with or to release; `None` if the store was closed meanwhile.
    pub hold: Option<Hold>,
    /// Why.
    pub error: StoreError,
}
