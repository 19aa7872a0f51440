//! What was used, by day, key or model.

use std::ops::Range;

use crate::model::{Credits, Timestamp, Wallet};

/// What the rows of the usage are grouped by.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageBy {
    /// The UTC day.
    #[default]
    Day,
    /// The API key.
    Key,
    /// The model, by the name of its adapter.
    Model,
}

/// What the requests of a group have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub enum UsageGroup {
    /// Their UTC day, by its start; written as its date, `2026-11-24`.
    #[serde(rename = "day", serialize_with = "date")]
    Day(Timestamp),
    /// Their key, which may be deleted meanwhile; `None` for requests without one.
    #[serde(rename = "key_id")]
    Key(Option<String>),
    /// Their adapter.
    #[serde(rename = "model")]
    Model(String),
}

fn date<S: serde::Serializer>(day: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&day.date())
}

/// A group of requests and what they used: sums, which end at the largest integer.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Usage {
    /// Which.
    #[serde(flatten)]
    pub group: UsageGroup,
    /// Requests that were answered, free ones among them.
    pub requests: i64,
    /// Requests that a model worked on and that were not paid, as their client left; their tokens are not known.
    pub lost: i64,
    /// Tokens of the prompts.
    pub prompt_tokens: i64,
    /// Those of them that came from a cache.
    pub cached_tokens: i64,
    /// Tokens of the answers.
    pub completion_tokens: i64,
    /// What was charged.
    pub credits: Credits,
}

/// Which usage is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageQuery {
    /// Of this wallet, or of all.
    pub wallet: Option<Wallet>,
    /// The UTC days of these times, without that of the end.
    pub period: Range<Timestamp>,
    /// How it is grouped.
    pub by: UsageBy,
    /// Only groups after this one.
    pub after: Option<UsageGroup>,
    /// So many groups at most.
    pub limit: usize,
}
