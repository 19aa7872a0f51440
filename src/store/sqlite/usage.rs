//! What was used, and what the keys of a limit spent; written with the charge of each request.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::row::{execute, first, one, value};
use super::sql;
use crate::model::{Credits, Timestamp, Tokens};
use crate::store::{
    Account, HoldRequest, LostRequest, Spending, Usage, UsageBy, UsageGroup, UsageQuery,
};

/// A row of the usage.
pub(super) struct Used {
    pub(super) user: i64,
    pub(super) day: i64,
    pub(super) key: i64,
    pub(super) adapter: String,
    pub(super) tokens: Tokens,
}

impl Used {
    /// Adds requests of these tokens, or takes them back.
    pub(super) fn add(
        &self,
        c: &Connection,
        requests: i64,
        charged: Credits,
    ) -> rusqlite::Result<()> {
        let Tokens {
            prompt,
            cached,
            completion,
        } = self.tokens;
        let values = params![
            self.user,
            self.day,
            self.key,
            self.adapter,
            requests,
            charged,
            requests.saturating_mul(prompt),
            requests.saturating_mul(cached),
            requests.saturating_mul(completion),
        ];
        execute(c, sql::ADD_USAGE, values)?;
        Ok(())
    }
}

/// Milliseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Days since 1970, in UTC.
pub(super) const fn day(at: Timestamp) -> i64 {
    at.millis().div_euclid(DAY)
}

/// Counts a request of an account that a model worked on and that is not paid.
pub(super) fn count_lost(
    c: &Connection,
    user: i64,
    lost: &LostRequest,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let key = match &lost.key_id {
        Some(key) => key_number(c, key)?,
        None => 0,
    };
    let values = params![user, day(now), key, lost.adapter];
    execute(c, sql::ADD_LOST, values).map(drop)
}

/// Adds to what the keys of a limit spent.
pub(super) fn spend(
    c: &Connection,
    request: &HoldRequest,
    amount: Credits,
) -> rusqlite::Result<Option<(Account, Credits)>> {
    let Some((spending, _)) = request.limit else {
        return Ok(None);
    };
    let values = params![spending.row, spending.period, amount];
    execute(c, sql::ADD_SPENDING, values)?;
    Ok(Some((Account::Spending(spending), spent(c, &spending)?)))
}

/// What the keys of a limit spent in the period.
pub(super) fn spent(c: &Connection, of: &Spending) -> rusqlite::Result<Credits> {
    one(c, sql::SELECT_SPENT, [of.row, of.period], value)
}

/// The number of a key in the ledger.
pub(super) fn key_number(c: &Connection, key: &str) -> rusqlite::Result<i64> {
    match first(c, sql::SELECT_KEY_NUMBER, [key], value)? {
        Some(number) => Ok(number),
        None => c.prepare_cached(sql::INSERT_KEY_NUMBER)?.insert([key]),
    }
}

/// The first groups of the usage of an account, or of all, in their order. No more of them are in memory than are asked for,
/// however many there are.
pub(super) fn list(
    c: &Connection,
    user: Option<i64>,
    query: &UsageQuery,
) -> rusqlite::Result<Vec<Usage>> {
    let mut groups: BTreeMap<UsageGroup, [i64; 6]> = BTreeMap::new();
    let days = (day(query.period.start), day(query.period.end));
    let mut statement = match user {
        Some(_) => c.prepare_cached(sql::SELECT_USED_BY_USER)?,
        None => c.prepare_cached(sql::SELECT_USED)?,
    };
    let mut rows = match user {
        Some(user) => statement.query((days.0, days.1, user))?,
        None => statement.query(days)?,
    };
    while let Some(row) = rows.next()? {
        let group = match query.by {
            UsageBy::Day => {
                let day: i64 = row.get(0)?;
                UsageGroup::Day(Timestamp::from_millis(day.saturating_mul(DAY)))
            }
            UsageBy::Key => UsageGroup::Key(row.get(1)?),
            UsageBy::Model => UsageGroup::Model(row.get(2)?),
        };
        if query.after.as_ref().is_some_and(|after| group <= *after) {
            continue;
        }
        let sums = groups.entry(group).or_default();
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = sum.saturating_add(row.get(at + 3)?);
        }
        if groups.len() > query.limit {
            groups.pop_last();
            // The rows are in the order of their days.
            if query.by == UsageBy::Day {
                break;
            }
        }
    }
    let usage = |(group, sums)| {
        let [
            requests,
            lost,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            charged,
        ] = sums;
        Usage {
            group,
            requests,
            lost,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            credits: Credits::from_micro(charged),
        }
    };
    Ok(groups.into_iter().map(usage).collect())
}
