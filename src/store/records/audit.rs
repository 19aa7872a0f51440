//! The audit trail: who changed what.

use std::net::IpAddr;

use super::number_after;
use crate::model::{Credits, Timestamp};

/// Who makes an administrative change, from where and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// The id of the key that asks for it, or as [`Actor::local`] writes it.
    pub id: String,
    /// The client's address; `None` for a process that works on the storage itself.
    pub address: Option<IpAddr>,
    /// When.
    pub at: Timestamp,
}

impl Actor {
    /// This process, `local:` and its user id: a command on the file, or a host with its own storage.
    #[must_use]
    pub fn local(at: Timestamp) -> Self {
        Self {
            id: format!("local:{}", rustix::process::getuid().as_raw()),
            address: None,
            at,
        }
    }
}

/// An administrative change; stored for two years, never changed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct AuditEntry {
    /// `aud_…`, rising with time.
    #[serde(serialize_with = "serialize_id")]
    pub id: i64,
    /// When.
    pub created_at: Timestamp,
    /// The id of the key that asked for it, or `local:` and the user id of a process that worked on the file itself.
    pub actor: String,
    /// The client's address; `None` for such a process.
    pub address: Option<String>,
    /// What was done, as the command line names it: `credits.grant`.
    pub action: String,
    /// To what: a wallet, a key's id, a file's name, an upstream.
    pub target: String,
    /// The credits that it added; negative for a debit.
    pub amount: Option<Credits>,
    /// Why, where that was stated: a grant's reason, an earning's `source_id`; of a rotation, the new key.
    pub reason: Option<String>,
}

/// The identifier of an audit entry as clients read it.
#[must_use]
pub fn audit_id(id: i64) -> String {
    format!("aud_{id:016}")
}

/// Parses an identifier written by [`audit_id`].
#[must_use]
pub fn parse_audit_id(text: &str) -> Option<i64> {
    number_after("aud_", text)
}

fn serialize_id<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&audit_id(*id))
}
