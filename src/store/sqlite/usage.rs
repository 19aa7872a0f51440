//! What was used, and what the keys of a limit spent; written with the charge of each request.

use rusqlite::{Connection, params};

use super::accounts::{account, value_of};
use super::row::{execute, first, value};
use super::{rollup, sql};
use crate::model::{Credits, Timestamp};
use crate::store::{Account, HoldRequest, LostRequest, Result, Tokens};

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

/// Counts a request that a model worked on and that is not paid.
pub(super) fn count_lost(c: &Connection, lost: &LostRequest, now: Timestamp) -> Result<()> {
    let (user, _) = account(c, &lost.wallet)?;
    let key = match &lost.key_id {
        Some(key) => key_number(c, key)?,
        None => 0,
    };
    let day = now.millis().div_euclid(rollup::DAY);
    execute(c, sql::ADD_LOST, params![user, day, key, lost.adapter])?;
    Ok(())
}

/// Adds to what the keys of a limit spent.
pub(super) fn spend(
    c: &Connection,
    request: &HoldRequest,
    amount: Credits,
) -> Result<Option<(Account, Credits)>> {
    let Some((spending, _)) = request.limit else {
        return Ok(None);
    };
    let values = params![spending.row, spending.period, amount];
    execute(c, sql::ADD_SPENDING, values)?;
    let account = Account::Spending(spending);
    Ok(Some((account, value_of(c, &account)?)))
}

/// The number of a key in the ledger.
pub(super) fn key_number(c: &Connection, key: &str) -> rusqlite::Result<i64> {
    match first(c, sql::SELECT_KEY_NUMBER, [key], value)? {
        Some(number) => Ok(number),
        None => c.prepare_cached(sql::INSERT_KEY_NUMBER)?.insert([key]),
    }
}
