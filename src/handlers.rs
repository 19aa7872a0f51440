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

use hyper::StatusCode;
use hyper::header::LINK;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::http::{Context, Result, response};
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

/// The format of a table, by its name in the query; without one `Accept` decides.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Csv,
    Json,
}

impl Format {
    /// Of the parameters of a page, what the next one needs of it.
    const fn parameter(of: Option<Self>) -> &'static str {
        match of {
            Some(Self::Csv) => "&format=csv",
            Some(Self::Json) => "&format=json",
            None => "",
        }
    }
}

/// A table as JSON, or as the CSV that `csv` makes of it; `next` is the path of its next page.
fn table<T: Serialize>(
    ctx: &Context,
    format: Option<Format>,
    whole: &T,
    csv: impl FnOnce(&T) -> String,
    next: Option<String>,
) -> Result {
    let is_csv = match format {
        Some(format) => format == Format::Csv,
        None => ctx.prefers("text/csv", "application/json"),
    };
    let mut response = match is_csv {
        true => response::bytes(StatusCode::OK, "text/csv; charset=utf-8", csv(whole).into()),
        false => response::json(whole)?,
    };
    if let Some(next) = next {
        let link = format!("<{next}>; rel=\"next\"");
        response::set(response.headers_mut(), LINK, link);
    }
    Ok(response::by_accept(response))
}
