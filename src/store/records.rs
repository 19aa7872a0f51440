//! The arguments and results of the storage's methods.

mod audit;
mod charge;
mod idempotency;
mod miners;
mod usage;
mod users;

pub use audit::{Actor, AuditEntry, audit_id, parse_audit_id};
pub use charge::{Charge, Charged, ChargedAnswer, Estimated, LostRequest, NotWritten};
pub use idempotency::{IdempotentRequest, Outcome, StoredResponse};
pub use miners::*;
pub use usage::{Usage, UsageBy, UsageGroup, UsageQuery};
pub use users::{ListedUser, UserQuery, UserSort};

use crate::model::{Credits, Timestamp, Wallet, csv_field};

/// An account.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct User {
    /// The wallet.
    pub wallet_address: Wallet,
    /// The balance.
    pub credits: Credits,
    /// Whether a miner of this wallet ever reported a sample.
    pub is_miner: bool,
    /// When one last did.
    pub last_mining_at: Option<Timestamp>,
    /// When the account was created.
    pub created_at: Timestamp,
    /// Whether it is blocked: it keeps its credits, but cannot log in, pay or make keys.
    pub blocked: bool,
}

impl User {
    /// Without a last sample that is from the future.
    #[must_use]
    pub fn seen_at(mut self, now: Timestamp) -> Self {
        self.last_mining_at = self.last_mining_at.filter(|at| *at <= latest_sample(now));
        self
    }
}

/// One movement of credits.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LedgerEntry {
    /// `led_…`, rising with time.
    #[serde(serialize_with = "entry_id")]
    pub id: i64,
    /// The amount added; negative for a debit.
    pub amount: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// Why.
    pub reason: String,
    /// The entry or event it belongs to: for a refund, the entry that is refunded; for an earning, its `source_id`; for a grant
    /// or debit, what its admin gave.
    pub reference: Option<String>,
    /// Of a charge: what was used.
    pub detail: Option<ChargeDetail>,
    /// When.
    pub created_at: Timestamp,
}

impl LedgerEntry {
    /// The names of the fields of [`Self::csv_record`].
    pub const CSV_HEADER: &str = "id,wallet_address,amount,balance,reason,reference,adapter,prompt_tokens,cached_tokens,completion_tokens,estimated,request_id,key_id,created_at";

    /// As a record of CSV (RFC 4180), without its line break.
    #[must_use]
    pub fn csv_record(&self, wallet_address: Wallet) -> String {
        let number = |tokens: Option<i64>| tokens.map_or_else(String::new, |n| n.to_string());
        let of_charge = |detail: &ChargeDetail| {
            format!(
                "{},{},{},{},{},{},{}",
                csv_field(&detail.adapter),
                number(detail.prompt_tokens),
                number(detail.cached_tokens),
                number(detail.completion_tokens),
                detail.estimated.map_or("", Estimated::as_str),
                detail.request_id,
                detail.key_id.as_deref().unwrap_or_default()
            )
        };
        let detail = self.detail.as_ref().map(of_charge);
        format!(
            "{},{wallet_address},{},{},{},{},{},{}",
            ledger_id(self.id),
            self.amount,
            self.balance,
            csv_field(&self.reason),
            csv_field(self.reference.as_deref().unwrap_or_default()),
            detail.as_deref().unwrap_or(",,,,,,"),
            self.created_at
        )
    }

    /// Reasons that only the server uses, now or in a later version: reports classify earnings and spending by them, so
    /// clients may not.
    pub const RESERVED_REASONS: [&str; 6] = [
        "chat",
        "chat_refund",
        "deposit",
        "mining",
        "opening",
        "refund",
    ];

    /// Validates a reference from a client.
    ///
    /// # Errors
    /// An error text for the client.
    pub fn reference(text: &str) -> Result<String, &'static str> {
        if !(1..=200).contains(&text.chars().count()) || text.chars().any(char::is_control) {
            return Err("must be 1 to 200 characters, none of them a control character");
        }
        Ok(text.to_owned())
    }

    /// Validates a reason from a client.
    ///
    /// # Errors
    /// An error text for the client.
    pub fn reason(text: &str) -> Result<String, &'static str> {
        Self::reference(text)?;
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

/// What a charge paid for.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ChargeDetail {
    /// The adapter that answered.
    pub adapter: String,
    /// Tokens of the prompt, if the model's server reported them.
    pub prompt_tokens: Option<i64>,
    /// Those of them that came from its cache.
    pub cached_tokens: Option<i64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i64>,
    /// Why they are an estimate; null where the model's server reported them.
    pub estimated: Option<Estimated>,
    /// The request, as the server names it.
    pub request_id: String,
    /// The key that paid.
    pub key_id: Option<String>,
}

/// A ledger entry with its wallet, as [`Repository::export_ledger`](super::Repository::export_ledger) returns it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ExportedEntry {
    /// The account.
    pub wallet_address: Wallet,
    /// How.
    #[serde(flatten)]
    pub entry: LedgerEntry,
}

/// The response to a grant or debit.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Granted {
    /// The balance after it.
    pub credits: Credits,
    /// Its ledger entry.
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
#[must_use]
pub fn ledger_id(id: i64) -> String {
    format!("led_{id:016}")
}

/// Parses an identifier written by [`ledger_id`].
#[must_use]
pub fn parse_ledger_id(text: &str) -> Option<i64> {
    number_after("led_", text)
}

/// The number of an identifier with this prefix.
fn number_after(prefix: &str, text: &str) -> Option<i64> {
    let digits = text.strip_prefix(prefix)?;
    let shape = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| shape)
}

fn entry_id<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&ledger_id(*id))
}

/// The result of a check of the whole ledger.
#[derive(Clone, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct LedgerReport {
    /// Wallets checked.
    pub wallets: i64,
    /// Entries checked.
    pub entries: i64,
    /// Errors, a sentence each, at most a hundred; empty if the ledger is consistent.
    pub mistakes: Vec<String>,
}

/// A backup of the database.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Backup {
    /// Its name, without the folder.
    pub file: String,
    /// Its absolute path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its contents.
    pub ledger: LedgerReport,
}

/// The backups in a folder.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BackupList {
    /// The folder's absolute path, where the store has one.
    pub folder: Option<String>,
    /// The newest first.
    pub backups: Vec<BackupFile>,
}

/// A backup in a folder.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BackupFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was made, by its name.
    pub created_at: Timestamp,
}

/// The load of the storage, for metrics and health.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreGauges {
    /// Writes waiting.
    pub queue_depth: usize,
    /// Writes that may wait.
    pub queue_capacity: usize,
    /// Holds of requests that run.
    pub holds: usize,
    /// Their sum.
    pub held: Credits,
    /// Reading connections in use.
    pub pool_in_use: usize,
    /// Reading connections.
    pub pool_size: usize,
    /// Bytes of the database file, if there is one.
    pub file_bytes: Option<u64>,
    /// Bytes of the write-ahead log, if there is one.
    pub wal_bytes: Option<u64>,
    /// Free bytes on the database's file system, if known.
    pub disk_free_bytes: Option<u64>,
    /// The file fault because of which writes are rejected, if any.
    pub file_fault: Option<&'static str>,
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
