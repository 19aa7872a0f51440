//! What is done once, however often it is asked for.

/// A request that is to be done once, however often it comes (`Idempotency-Key`). Its answer is kept in the transaction of
/// its effect, for a day.
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::store::{Done, LedgerEntry, Once, StoreError};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let once = |request| Once {
///     key: [7; 32],
///     principal: "key_of_the_host".to_owned(),
///     request: [request; 32],
///     answer: |(entry, _): &(LedgerEntry, bool)| (200, Some(entry.balance.to_string())),
/// };
/// let grant = async |request| {
///     let (five, why) = (Credits::from_micro(5_000_000), "welcome".to_owned());
///     store.grant(wallet, five, why, now, Some(once(request))).await
/// };
/// assert!(matches!(grant(1).await?, Done::New(_)));
/// // Asked again, it is answered again; nothing moves.
/// assert!(matches!(grant(1).await?, Done::Again(kept) if kept.answer.as_deref() == Some("5")));
/// let kept = store.kept([7; 32], [1; 32], now).await?;
/// assert_eq!(kept.map(|kept| kept.status), Some(200));
/// // Another request under the same key is a mistake of whoever asks.
/// assert_eq!(grant(2).await, Err(StoreError::KeyReused));
/// let user = store.user(wallet).await?.ok_or("an account")?;
/// assert_eq!(user.credits.to_string(), "5");
/// # Ok(())
/// # }
/// ```
pub struct Once<T> {
    /// Hash of principal, route and idempotency key.
    pub key: [u8; 32],
    /// Who asks: each has room for a thousand answers, of which the oldest gives way.
    pub principal: String,
    /// Hash of what is asked for.
    pub request: [u8; 32],
    /// The status and the body of the answer, at most [`Once::MOST_BYTES`] of it; no body where it must not be kept.
    pub answer: fn(&T) -> (u16, Option<String>),
}

impl<T> Once<T> {
    /// Bytes of an answer that is kept, at most.
    pub const MOST_BYTES: usize = 64 << 10;
}

/// What came of a request that is to be done [`Once`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done<T> {
    /// It was done now.
    New(T),
    /// It was done before; this was the answer.
    Again(Kept),
}

/// An answer that was kept for an idempotency key; [`Once`] shows one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its status.
    pub status: u16,
    /// Its body, unless that held a secret.
    pub answer: Option<String>,
}
