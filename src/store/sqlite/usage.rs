//! What was used, and what the keys of a limit spent; written with the charge of each request.

use rusqlite::{Connection, params};

use super::row::{execute, first, one, value};
use super::sql;
use crate::model::{Credits, Timestamp};
use crate::store::{Account, HoldRequest, LostRequest, Spending, Tokens};

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

/// Days since 1970, in UTC.
pub(super) const fn day(at: Timestamp) -> i64 {
    at.millis().div_euclid(24 * 60 * 60 * 1000)
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
