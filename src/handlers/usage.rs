//! What was used and what it cost, by day, key or model.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Context, Format, PageSize, Result, cursor, cut_page, page_size, table};
use crate::error::ApiError;
use crate::model::{Timestamp, Wallet, csv_field};
use crate::store::{Usage, UsageBy, UsageGroup, UsageQuery};

const DAY: Duration = Duration::from_secs(86_400);

/// Days of one answer at most.
const MAX_DAYS: u32 = 366;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    by: Option<UsageBy>,
    wallet: Option<Wallet>,
    limit: Option<PageSize>,
    cursor: Option<String>,
    format: Option<Format>,
}

#[derive(Serialize)]
struct Report {
    wallet_address: Option<Wallet>,
    from: Timestamp,
    to: Timestamp,
    by: UsageBy,
    usage: Vec<Usage>,
    next_cursor: Option<String>,
}

pub(crate) async fn get(ctx: Context) -> Result {
    let query: Query = ctx.query()?;
    let wallet = ctx.named_or_own(query.wallet)?;
    let by = query.by.unwrap_or_default();
    let (from, to) = period(query.from, query.to, ctx.app.clock.now())?;
    let limit = page_size(query.limit);
    let asked = UsageQuery {
        wallet,
        period: from..to,
        by,
        after: cursor(query.cursor, |text| group_after(by, text))?,
        limit: limit + 1,
    };
    let mut usage = ctx.app.store.usage(asked).await?;
    let next_cursor = cut_page(&mut usage, limit, |last| cursor_of(&last.group));
    let next = next_cursor.as_ref().map(|cursor| {
        let wallet = query
            .wallet
            .map_or_else(String::new, |wallet| format!("&wallet={wallet}"));
        let by = name_of(by);
        let format = Format::parameter(query.format);
        format!("/usage?from={from}&to={to}&by={by}{wallet}&limit={limit}&cursor={cursor}{format}")
    });
    let report = Report {
        wallet_address: wallet,
        from,
        to,
        by,
        usage,
        next_cursor,
    };
    let csv = |report: &Report| csv(&report.usage, by);
    table(&ctx, query.format, &report, csv, next)
}

/// The whole UTC days that a period touches, by the starts of the first and of the one after the last. Without an end it ends
/// with today, without a start it has 30 days.
fn period(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp)> {
    let end = match to {
        Some(to) if to == to.day() => to,
        other => other.unwrap_or(now).day().plus(DAY),
    };
    let start = from.map_or_else(|| end.minus(DAY * 30), Timestamp::day);
    if start >= end || from.zip(to).is_some_and(|(from, to)| from >= to) {
        let detail = match to {
            Some(_) => "must be before to",
            None => "must not be after today",
        };
        return Err(ApiError::parameter("from", detail));
    }
    if start.plus(DAY * MAX_DAYS) < end {
        let detail = format!("and to must be at most {MAX_DAYS} days apart");
        return Err(ApiError::parameter("from", &detail));
    }
    Ok((start, end))
}

const fn name_of(by: UsageBy) -> &'static str {
    match by {
        UsageBy::Day => "day",
        UsageBy::Key => "key",
        UsageBy::Model => "model",
    }
}

/// Of requests without a key; the id of a key begins with `key_`.
const NO_KEY: &str = "none";

/// A group as a cursor.
fn cursor_of(group: &UsageGroup) -> String {
    match group {
        UsageGroup::Day(day) => day.date(),
        UsageGroup::Key(id) => id.clone().unwrap_or_else(|| NO_KEY.to_owned()),
        // It may hold any character.
        UsageGroup::Model(name) => BASE64_URL_SAFE_NO_PAD.encode(name),
    }
}

/// Reads what [`cursor_of`] writes.
fn group_after(by: UsageBy, text: &str) -> Option<UsageGroup> {
    let group = match by {
        UsageBy::Day => UsageGroup::Day(Timestamp::parse(&format!("{text}T00:00:00Z")).ok()?),
        UsageBy::Key if text == NO_KEY => UsageGroup::Key(None),
        UsageBy::Key => UsageGroup::Key(text.starts_with("key_").then(|| text.to_owned())),
        UsageBy::Model => {
            let name = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            UsageGroup::Model(String::from_utf8(name).ok()?)
        }
    };
    Some(group).filter(|group| cursor_of(group) == text)
}

fn csv(usage: &[Usage], by: UsageBy) -> String {
    let first = match by {
        UsageBy::Day => "day",
        UsageBy::Key => "key_id",
        UsageBy::Model => "model",
    };
    let mut text =
        format!("{first},requests,lost,prompt_tokens,cached_tokens,completion_tokens,credits\r\n");
    for used in usage {
        let group = match &used.group {
            UsageGroup::Day(day) => day.date(),
            UsageGroup::Key(id) => id.clone().unwrap_or_default(),
            UsageGroup::Model(name) => csv_field(name),
        };
        let (requests, lost, credits) = (used.requests, used.lost, used.credits);
        let (prompt, cached) = (used.prompt_tokens, used.cached_tokens);
        let completion = used.completion_tokens;
        let _ = write!(
            text,
            "{group},{requests},{lost},{prompt},{cached},{completion},{credits}\r\n"
        );
    }
    text
}
