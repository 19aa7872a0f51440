//! Accounts as they are shown and listed, and whether they are blocked.

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute, first};
use super::{audit, sql};
use crate::model::{Timestamp, Wallet};
use crate::store::{Actor, ListedUser, Result, StoreError, User, UserQuery, UserSort};

pub(super) fn user(c: &Connection, wallet: &Wallet) -> Result<User> {
    first(c, sql::SELECT_USER, [wallet], user_in)?.ok_or(StoreError::UserNotFound)
}

/// Blocks an account, or unblocks it.
pub(super) fn set_blocked(
    c: &Connection,
    wallet: &Wallet,
    blocked: bool,
    actor: &Actor,
) -> Result<User> {
    if execute(c, sql::SET_BLOCKED, params![wallet, blocked])? > 0 {
        let action = if blocked {
            "users.block"
        } else {
            "users.unblock"
        };
        audit::record(c, actor, action, wallet.as_str(), None, None)?;
    }
    user(c, wallet)
}

pub(super) fn users(c: &Connection, query: &UserQuery) -> rusqlite::Result<Vec<ListedUser>> {
    let (value, after) = match &query.after {
        Some((value, wallet)) => (*value, wallet.as_str()),
        None => (i64::MAX, ""),
    };
    let (limit, part) = (count(query.limit), &query.search);
    let read = |row: &Row<'_>| {
        Ok(ListedUser {
            user: user_in(row)?,
            last_used_at: row.get(5)?,
        })
    };
    let sorted_by = match query.sort {
        UserSort::Address => {
            let values = params![after, limit, part];
            return all(c, sql::SELECT_USERS, values, read);
        }
        UserSort::Created => 1,
        UserSort::Balance => 2,
        UserSort::LastUsed => 3,
    };
    let values = params![after, limit, part, value, sorted_by];
    all(c, sql::SELECT_USERS_BY_VALUE, values, read)
}

fn user_in(row: &Row<'_>) -> rusqlite::Result<User> {
    let last_mining_at: Option<Timestamp> = row.get(3)?;
    Ok(User {
        wallet_address: row.get(0)?,
        credits: row.get(1)?,
        is_miner: last_mining_at.is_some(),
        last_mining_at,
        created_at: row.get(2)?,
        blocked: row.get(4)?,
    })
}
