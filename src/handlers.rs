//! What each route does, once its request is known to be allowed. A handler reads its parameters and body, asks the storage or
//! an upstream, and makes the response.

pub(crate) mod chain;
pub(crate) mod chat;
#[cfg(feature = "page")]
pub(crate) mod dashboard;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod miner;
pub(crate) mod network;
pub(crate) mod openai;
pub(crate) mod ops;
pub(crate) mod usage;
pub(crate) mod users;

use serde::Deserialize;

use crate::error::ApiError;
use crate::http::{Context, Result};
use crate::model::Whole;

/// The query of a list that is read page by page.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<PageSize>,
    cursor: Option<String>,
}

type PageSize = Whole<1, 500>;

fn page_size(limit: Option<PageSize>) -> usize {
    limit.map_or(50, PageSize::count)
}

/// Where a page of a list begins, read by `parse`.
fn cursor<T>(text: Option<String>, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
    let invalid = || ApiError::parameter("cursor", "must be the next_cursor of an earlier page");
    text.map(|text| parse(&text).ok_or_else(invalid))
        .transpose()
}

/// Cuts a list, which was read one item longer than a page, to the page; the cursor of the next page, if there is one.
fn cut_page<T, C>(items: &mut Vec<T>, limit: usize, cursor: impl FnOnce(&T) -> C) -> Option<C> {
    let more = items.len() > limit;
    items.truncate(limit);
    items.last().filter(|_| more).map(cursor)
}
