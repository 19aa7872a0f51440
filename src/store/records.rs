//! What the storage is given and gives back.

mod miners;
mod once;

pub use miners::{
    Counted, Earning, EarningsDay, HashratePoint, LeaderboardRow, MinerStats, Recorded, Resolution,
    Totals,
};
pub use once::{Done, Kept, Once};

use super::FileFault;
use crate::model::{Credits, Timestamp, Wallet};

/// An account.
///
/// ```
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::store::{Done, StoreError};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// // Nobody is no account with nothing in it.
/// assert_eq!(store.user(wallet).await?, None);
/// let Done::New(user) = store.create_user(wallet, now, None).await? else {
///     return Err("without a `Once` nothing is answered again".into());
/// };
/// assert_eq!((user.wallet_address, user.credits.micro()), (wallet, 0));
/// let again = store.create_user(wallet, now, None).await;
/// assert!(matches!(again, Err(StoreError::Conflict(_))));
/// // A page of all accounts; the last of it leads to the next.
/// let page = store.users(None, 50).await?;
/// assert_eq!(page, [user]);
/// assert!(store.users(Some(wallet), 50).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct User {
    /// Whose it is.
    pub wallet_address: Wallet,
    /// The balance.
    pub credits: Credits,
    /// Whether a miner of this wallet ever told a sample.
    pub is_miner: bool,
    /// When one last did.
    pub last_mining_at: Option<Timestamp>,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// One movement of credits.
///
/// ```
/// use r3mes_edge::model::{Credits, Wallet};
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// let (five, two) = (Credits::parse("5")?, Credits::parse("2")?);
/// store.grant(wallet, five, "welcome".to_owned(), now, None).await?;
/// let chat = store.reserve(wallet, two, now).await?;
/// store.note_reservations(vec![(chat, "in=12 out=80".to_owned())]).await?;
/// store.settle(chat, now).await?;
///
/// // A page, the newest first; the last of it leads to the next.
/// let (balance, page) = store.ledger(wallet, None, 1).await?.ok_or("an account")?;
/// assert_eq!((balance, page[0].amount), (Credits::parse("3")?, two.negated()));
/// assert_eq!(page[0].note.as_deref(), Some("in=12 out=80"));
/// let (_, older) = store.ledger(wallet, Some(page[0].id), 50).await?.ok_or("an account")?;
/// assert_eq!((older.len(), older[0].reason.as_str()), (1, "welcome"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LedgerEntry {
    /// `led_…`, rising with time.
    #[serde(serialize_with = "entry_id")]
    pub id: i64,
    /// What was added; negative where it was taken.
    pub amount: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// Why.
    pub reason: String,
    /// What it belongs to: for a refund, the entry it gives back.
    pub reference: Option<String>,
    /// What became known of it: for a chat, its tokens.
    pub note: Option<String>,
    /// When.
    pub created_at: Timestamp,
}

impl LedgerEntry {
    /// Reasons of entries that the server itself writes, now or in a version to come: by them reports tell what was earned
    /// and spent, so nobody else gives them.
    pub const RESERVED_REASONS: [&str; 6] = [
        "chat",
        "chat_refund",
        "deposit",
        "mining",
        "opening",
        "refund",
    ];

    /// Checks a reason that somebody gives.
    ///
    /// # Errors
    /// A sentence that says what is wrong, fit for the client.
    ///
    /// # Example
    /// ```
    /// use r3mes_edge::store::LedgerEntry;
    ///
    /// assert_eq!(LedgerEntry::reason("welcome")?, "welcome");
    /// assert!(LedgerEntry::reason("").is_err() && LedgerEntry::reason("two\nlines").is_err());
    /// assert!(LedgerEntry::reason("mining").is_err());
    /// # Ok::<_, &str>(())
    /// ```
    pub fn reason(text: &str) -> Result<String, &'static str> {
        if !(1..=200).contains(&text.chars().count()) || text.chars().any(char::is_control) {
            return Err("must be 1 to 200 characters, none of them a control character");
        }
        let given = text.trim();
        if Self::RESERVED_REASONS
            .iter()
            .any(|reserved| given.eq_ignore_ascii_case(reserved))
        {
            return Err(
                "must not be chat, chat_refund, deposit, mining, opening or refund, which the server writes itself",
            );
        }
        Ok(text.to_owned())
    }
}

/// A ledger entry with whose it is, as a [`LedgerExport`](super::LedgerExport) gives it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ExportedEntry {
    /// Whose credits moved.
    pub wallet_address: Wallet,
    /// How.
    #[serde(flatten)]
    pub entry: LedgerEntry,
}

/// What became of credits that were given or taken, as it is answered.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Granted {
    /// The balance after it.
    pub credits: Credits,
    /// What the ledger says of it.
    pub entry: LedgerEntry,
}

impl From<&LedgerEntry> for Granted {
    fn from(entry: &LedgerEntry) -> Self {
        Self {
            credits: entry.balance,
            entry: entry.clone(),
        }
    }
}

/// The identifier of a ledger entry as clients read it: sorted as texts, they are in the order of their entries.
///
/// ```
/// use r3mes_edge::store::{ledger_id, parse_ledger_id};
///
/// let id = ledger_id(42);
/// assert_eq!(id, "led_0000000000000042");
/// assert_eq!(parse_ledger_id(&id), Some(42));
/// // There is one spelling.
/// assert_eq!(parse_ledger_id("led_42"), None);
/// ```
#[must_use]
pub fn ledger_id(id: i64) -> String {
    format!("led_{id:016}")
}

/// Reads what [`ledger_id`] wrote.
#[must_use]
pub fn parse_ledger_id(text: &str) -> Option<i64> {
    let digits = text.strip_prefix("led_")?;
    let shape = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| shape)
}

fn entry_id<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&ledger_id(*id))
}

/// What checking the whole ledger found.
///
/// ```
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// store.create_user(wallet, now, None).await?;
/// let report = store.verify_ledger().await?;
/// assert_eq!((report.wallets, report.entries), (1, 0));
/// assert!(report.mistakes.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LedgerReport {
    /// Wallets looked at.
    pub wallets: i64,
    /// Entries looked at.
    pub entries: i64,
    /// Reservations that are open.
    pub open_reservations: i64,
    /// What does not add up, a sentence each, at most a hundred; empty where all is well.
    pub mistakes: Vec<String>,
}

/// A copy of everything.
///
/// ```
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::store::verify_backup;
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// store.create_user(wallet, now, None).await?;
/// // Beside the original, while others write; it was verified before it got its name.
/// let made = store.back_up(None, now).await?;
/// assert_eq!(made.ledger.wallets, 1);
/// assert_eq!(verify_backup(&folder.path().join(&made.file))?, made.ledger);
/// assert_eq!(store.last_backup(None, now).await?, Some(now));
/// // The schedule's end of it.
/// store.thin_out_backups(None, 7, now).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Backup {
    /// Its name, without the folder.
    pub file: String,
    /// Where it is, from the root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// What is in it.
    pub ledger: LedgerReport,
}

/// What the storage is doing, for metrics and health.
///
/// ```
/// use r3mes_edge::model::Wallet;
/// use r3mes_edge::{Clock, Repository, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = SqliteStore::open(&folder.path().join("edge.db"), true)?;
/// let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
/// let now = Clock::default().now();
///
/// store.create_user(wallet, now, None).await?;
/// let gauges = store.gauges();
/// assert!(gauges.queue_depth < gauges.queue_capacity && gauges.pool_in_use <= gauges.pool_size);
/// assert!(gauges.file_bytes + gauges.wal_bytes > 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreGauges {
    /// Writes waiting.
    pub queue_depth: usize,
    /// Writes that may wait.
    pub queue_capacity: usize,
    /// Reading connections in use.
    pub pool_in_use: usize,
    /// Reading connections.
    pub pool_size: usize,
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Bytes free on the database's file system, where that can be told.
    pub disk_free_bytes: Option<u64>,
    /// What is wrong with the database's files, for which it takes no writes.
    pub file_fault: Option<FileFault>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ledger_ids_sort_as_text_and_read_back() {
        assert_eq!(parse_ledger_id(&ledger_id(42)), Some(42));
        assert!(ledger_id(9) < ledger_id(10));
        for text in [
            "led_",
            "led_42",
            "42",
            "led_+000000000000042",
            "led_000000000000004x",
        ] {
            assert_eq!(parse_ledger_id(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_ledger_id_has_one_spelling(id in 0i64..10_000_000_000_000_000, text in "(led_)?[0-9+a ]{14,18}|\\PC{0,24}") {
            prop_assert_eq!(parse_ledger_id(&ledger_id(id)), Some(id));
            if let Some(read) = parse_ledger_id(&text) {
                prop_assert_eq!(ledger_id(read), text);
            }
        }
    }
}
