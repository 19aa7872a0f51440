//! Requests that take effect only the first time they come (`Idempotency-Key`), and the answers stored of them.

/// A request that is done only the first time it comes (`Idempotency-Key`). Its answer is stored in the transaction of its
/// effect, for a day.
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::{Actor, IdempotentRequest, LedgerEntry, Outcome, StoreError, StoredResponse, ledger_id};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let asked = |request| IdempotentRequest {
///     key: [7; 32],
///     scope: "admin of the host".to_owned(),
///     request: [request; 32],
///     answer: |(entry, _): &(LedgerEntry, bool)| StoredResponse {
///         status: 200,
///         answer: Some(entry.balance.to_string()),
///         reference: Some(ledger_id(entry.id)),
///     },
/// };
/// let grant = async |request| {
///     let (five, why) = (Credits::from_micro(5_000_000), "welcome".to_owned());
///     store.grant(wallet, five, why, None, Actor::local(now), Some(asked(request))).await
/// };
/// assert!(matches!(grant(1).await?, Outcome::New(_)));
/// // A repeated request gets the first answer; nothing moves.
/// assert!(matches!(grant(1).await?, Outcome::Replayed(stored) if stored.answer.as_deref() == Some("5")));
/// let stored = store.stored_response([7; 32], [1; 32], now).await?;
/// assert_eq!(stored.map(|stored| stored.status), Some(200));
/// // Another request under the same key is refused.
/// assert_eq!(grant(2).await, Err(StoreError::KeyReused));
/// let user = store.user(wallet).await?;
/// assert_eq!(user.credits.to_string(), "5");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct IdempotentRequest<T> {
    /// Hash of scope and idempotency key.
    pub key: [u8; 32],
    /// The owner of the key and the route. Each scope has at most 20,000 responses: then [`StoreError::IdempotencyFull`],
    /// before anything is changed. Above 64 MiB in a scope, or 1 GiB in all, a response is stored without its body.
    ///
    /// [`StoreError::IdempotencyFull`]: crate::store::StoreError::IdempotencyFull
    pub scope: String,
    /// Hash of the request.
    pub request: [u8; 32],
    /// Creates the stored response of a success.
    pub answer: fn(&T) -> StoredResponse,
}

/// The outcome of an [`IdempotentRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It was executed now.
    New(T),
    /// It was executed before, with this response.
    Replayed(StoredResponse),
}

impl<T> Outcome<T> {
    /// The result, if it was executed now.
    pub const fn as_new(&self) -> Option<&T> {
        match self {
            Self::New(result) => Some(result),
            Self::Replayed(_) => None,
        }
    }
}

/// A response stored for an idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredResponse {
    /// Its status.
    pub status: u16,
    /// Its body, in JSON; `None` if it contains a secret, or did not fit.
    pub answer: Option<String>,
    /// The created ledger entry or key, if the body is not stored.
    pub reference: Option<String>,
}
