//! Accounts and money. `credits` is never assigned: [`post_up_to`] moves it and writes the ledger entry in the same call.

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute, first, one, value};
use super::sql;
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::{LedgerEntry, StoreError, User, ledger_id};

/// No balance grows beyond this many micro-credits (ten thousand million credits), so that no sum can overflow. What comes
/// back to it was part of it before, and does so even where others filled it meanwhile.
pub(super) const MAX_BALANCE: i64 = 10_000_000_000_000_000;

pub(super) fn create(c: &Connection, wallet: &Wallet, now: Timestamp) -> Result<User, StoreError> {
    if !ensure(c, wallet, now)? {
        return Err(StoreError::Conflict(
            "an account with this wallet address exists already".to_owned(),
        ));
    }
    Ok(User {
        wallet_address: *wallet,
        credits: Credits::ZERO,
        is_miner: false,
        last_mining_at: None,
        created_at: now,
    })
}

/// Makes the account if there is none; whether it is new.
pub(super) fn ensure(c: &Connection, wallet: &Wallet, now: Timestamp) -> Result<bool, StoreError> {
    let values = params![wallet, now];
    Ok(execute(c, sql::INSERT_USER, values)? == 1)
}

pub(super) fn user(c: &Connection, wallet: &Wallet) -> Result<User, StoreError> {
    first(c, sql::SELECT_USER, [wallet], user_in)?.ok_or(StoreError::UserNotFound)
}

pub(super) fn users(
    c: &Connection,
    after: Option<&Wallet>,
    limit: usize,
) -> rusqlite::Result<Vec<User>> {
    let after = after.map_or("", Wallet::as_str);
    all(c, sql::SELECT_USERS, params![after, count(limit)], user_in)
}

fn user_in(row: &Row<'_>) -> rusqlite::Result<User> {
    let last_mining_at: Option<Timestamp> = row.get(3)?;
    Ok(User {
        wallet_address: row.get(0)?,
        credits: row.get(1)?,
        is_miner: last_mining_at.is_some(),
        last_mining_at,
        created_at: row.get(2)?,
    })
}

pub(super) fn balance(c: &Connection, wallet: &Wallet) -> Result<Credits, StoreError> {
    first(c, sql::SELECT_BALANCE, [wallet], value)?.ok_or(StoreError::UserNotFound)
}

/// Moves credits, where the wallet can give or hold them.
pub(super) fn post(
    c: &Connection,
    wallet: &Wallet,
    amount: Credits,
    reason: &str,
    reference: Option<String>,
    now: Timestamp,
) -> Result<LedgerEntry, StoreError> {
    let most = match amount.micro() {
        ..0 => i64::MAX,
        _ => MAX_BALANCE,
    };
    post_up_to(c, wallet, amount, reason, reference, most, now)
}

/// Moves credits and writes the entry that says so: the only statement pair that touches a balance.
fn post_up_to(
    c: &Connection,
    wallet: &Wallet,
    amount: Credits,
    reason: &str,
    reference: Option<String>,
    most: i64,
    now: Timestamp,
) -> Result<LedgerEntry, StoreError> {
    // Asked for afterwards: RETURNING makes a table of its own for its row, which takes longer.
    let values = params![wallet, amount, most];
    let moved = execute(c, sql::MOVE_CREDITS, values)?;
    let after = match balance(c, wallet)? {
        after if moved > 0 => after,
        balance if amount.micro() < 0 => {
            return Err(StoreError::Insufficient {
                needed: amount.negated(),
                balance,
            });
        }
        _ => {
            let detail = "the balance would be more than a wallet can hold";
            return Err(StoreError::Conflict(detail.to_owned()));
        }
    };
    let values = params![wallet, amount, after, reason, reference, now];
    let id = c.prepare_cached(sql::INSERT_ENTRY)?.insert(values)?;
    Ok(LedgerEntry {
        id,
        amount,
        balance: after,
        reason: reason.to_owned(),
        reference,
        note: None,
        created_at: now,
    })
}

pub(super) fn grant(
    c: &Connection,
    wallet: &Wallet,
    amount: Credits,
    reason: &str,
    now: Timestamp,
) -> Result<(LedgerEntry, bool), StoreError> {
    // Taking from a wallet that is not there makes no account.
    let new = amount.micro() > 0 && ensure(c, wallet, now)?;
    Ok((post(c, wallet, amount, reason, None, now)?, new))
}

pub(super) fn ledger(
    c: &Connection,
    wallet: &Wallet,
    before: Option<i64>,
    limit: usize,
) -> Result<(Credits, Vec<LedgerEntry>), StoreError> {
    // One transaction, so that the balance belongs to the entries.
    let c = c.unchecked_transaction()?;
    let balance = balance(&c, wallet)?;
    let page = params![wallet, before.unwrap_or(i64::MAX), count(limit)];
    Ok((balance, all(&c, sql::SELECT_LEDGER, page, entry_in)?))
}

/// The entry in the first seven columns.
pub(super) fn entry_in(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    Ok(LedgerEntry {
        id: row.get(0)?,
        amount: row.get(1)?,
        balance: row.get(2)?,
        reason: row.get(3)?,
        reference: row.get(4)?,
        note: row.get(5)?,
        created_at: row.get(6)?,
    })
}

pub(super) const OPEN: i64 = 0;
pub(super) const SETTLED: i64 = 1;
pub(super) const REFUNDED: i64 = 2;

pub(super) fn reserve(
    c: &Connection,
    wallet: &Wallet,
    price: Credits,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let entry = post(c, wallet, price.negated(), "chat", None, now)?;
    let values = params![entry.id, wallet, price, now];
    execute(c, sql::INSERT_RESERVATION, values)?;
    Ok(entry.id)
}

pub(super) fn settle(c: &Connection, reservation: i64, now: Timestamp) -> Result<(), StoreError> {
    match state_of(c, reservation)? {
        (_, _, OPEN) => close(c, reservation, SETTLED, None, now),
        (_, _, SETTLED) => Ok(()),
        _ => Err(StoreError::Conflict(format!(
            "{} was refunded already",
            ledger_id(reservation)
        ))),
    }
}

pub(super) fn refund(c: &Connection, reservation: i64, now: Timestamp) -> Result<(), StoreError> {
    match state_of(c, reservation)? {
        (wallet, amount, OPEN) => {
            let reference = Some(ledger_id(reservation));
            let entry = post_up_to(c, &wallet, amount, "refund", reference, i64::MAX, now)?;
            close(c, reservation, REFUNDED, Some(entry.id), now)
        }
        (_, _, REFUNDED) => Ok(()),
        _ => Err(StoreError::Conflict(format!(
            "{} was settled already",
            ledger_id(reservation)
        ))),
    }
}

/// Notes what became known of a reservation.
pub(super) fn note(c: &Connection, reservation: i64, note: &str) -> Result<(), StoreError> {
    execute(c, sql::NOTE_RESERVATION, params![reservation, note])?;
    Ok(())
}

fn state_of(c: &Connection, reservation: i64) -> Result<(Wallet, Credits, i64), StoreError> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    Ok(one(c, sql::SELECT_RESERVATION, [reservation], read)?)
}

fn close(
    c: &Connection,
    reservation: i64,
    state: i64,
    refund: Option<i64>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let values = params![reservation, state, now, refund];
    execute(c, sql::CLOSE_RESERVATION, values)?;
    Ok(())
}

/// Refunds at most `limit` open reservations; how many.
pub(super) fn refund_open(
    c: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let open: Vec<i64> = all(c, sql::SELECT_OPEN_RESERVATIONS, [count(limit)], value)?;
    for reservation in &open {
        refund(c, *reservation, now)?;
    }
    Ok(open.len())
}
