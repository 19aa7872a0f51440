//! Accounts and money. `credits` is never assigned: [`post_up_to`] moves it and writes the ledger entry in one breath.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{count, credits_at, maybe_time_at, sql, storage_error, time_at, wallet_at};
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
    let mut insert = c.prepare_cached(sql::INSERT_USER).map_err(storage_error)?;
    insert
        .execute(params![wallet.as_str(), now.millis()])
        .map(|rows| rows == 1)
        .map_err(storage_error)
}

pub(super) fn user(c: &Connection, wallet: &Wallet) -> rusqlite::Result<Option<User>> {
    c.prepare_cached(sql::SELECT_USER)?
        .query_row([wallet.as_str()], |row| user_in(row, *wallet))
        .optional()
}

pub(super) fn users(
    c: &Connection,
    after: Option<&Wallet>,
    limit: usize,
) -> rusqlite::Result<Vec<User>> {
    let after = after.map_or("", Wallet::as_str);
    c.prepare_cached(sql::SELECT_USERS)?
        .query_map(params![after, count(limit)], |row| {
            user_in(row, wallet_at(row, 0)?)
        })?
        .collect()
}

fn user_in(row: &Row<'_>, wallet_address: Wallet) -> rusqlite::Result<User> {
    let last_mining_at = maybe_time_at(row, 3)?;
    Ok(User {
        wallet_address,
        credits: credits_at(row, 1)?,
        is_miner: last_mining_at.is_some(),
        last_mining_at,
        created_at: time_at(row, 2)?,
    })
}

pub(super) fn balance(c: &Connection, wallet: &Wallet) -> rusqlite::Result<Option<Credits>> {
    c.prepare_cached(sql::SELECT_BALANCE)?
        .query_row([wallet.as_str()], |row| credits_at(row, 0))
        .optional()
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
    let moved = c
        .prepare_cached(sql::MOVE_CREDITS)
        .and_then(|mut update| update.execute(params![wallet.as_str(), amount.micro(), most]))
        .map_err(storage_error)?;
    let after = match balance(c, wallet).map_err(storage_error)? {
        Some(after) if moved > 0 => after,
        Some(balance) if amount.micro() < 0 => {
            return Err(StoreError::Insufficient {
                needed: amount.negated(),
                balance,
            });
        }
        Some(_) => {
            let detail = "the balance would be more than a wallet can hold";
            return Err(StoreError::Conflict(detail.to_owned()));
        }
        None => return Err(StoreError::UserNotFound),
    };
    let mut insert = c.prepare_cached(sql::INSERT_ENTRY).map_err(storage_error)?;
    let values = params![
        wallet.as_str(),
        amount.micro(),
        after.micro(),
        reason,
        reference,
        now.millis()
    ];
    let id = insert.insert(values).map_err(storage_error)?;
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
) -> rusqlite::Result<Option<(Credits, Vec<LedgerEntry>)>> {
    // One transaction, so that the balance belongs to the entries.
    let c = c.unchecked_transaction()?;
    let Some(balance) = balance(&c, wallet)? else {
        return Ok(None);
    };
    let mut select = c.prepare_cached(sql::SELECT_LEDGER)?;
    let entries = select.query_map(
        params![wallet.as_str(), before.unwrap_or(i64::MAX), count(limit)],
        entry_in,
    )?;
    Ok(Some((balance, entries.collect::<Result<_, _>>()?)))
}

/// The entry in the first seven columns.
pub(super) fn entry_in(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    Ok(LedgerEntry {
        id: row.get(0)?,
        amount: credits_at(row, 1)?,
        balance: credits_at(row, 2)?,
        reason: row.get(3)?,
        reference: row.get(4)?,
        note: row.get(5)?,
        created_at: time_at(row, 6)?,
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
    let mut insert = c
        .prepare_cached(sql::INSERT_RESERVATION)
        .map_err(storage_error)?;
    insert
        .execute(params![
            entry.id,
            wallet.as_str(),
            price.micro(),
            now.millis()
        ])
        .map_err(storage_error)?;
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
    let mut update = c
        .prepare_cached(sql::NOTE_RESERVATION)
        .map_err(storage_error)?;
    update
        .execute(params![reservation, note])
        .map(drop)
        .map_err(storage_error)
}

fn state_of(c: &Connection, reservation: i64) -> Result<(Wallet, Credits, i64), StoreError> {
    let read = |row: &Row<'_>| Ok((wallet_at(row, 0)?, credits_at(row, 1)?, row.get(2)?));
    c.prepare_cached(sql::SELECT_RESERVATION)
        .and_then(|mut select| select.query_row([reservation], read))
        .map_err(storage_error)
}

fn close(
    c: &Connection,
    reservation: i64,
    state: i64,
    refund: Option<i64>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut update = c
        .prepare_cached(sql::CLOSE_RESERVATION)
        .map_err(storage_error)?;
    update
        .execute(params![reservation, state, now.millis(), refund])
        .map(drop)
        .map_err(storage_error)
}

/// Refunds at most `limit` open reservations; how many.
pub(super) fn refund_open(
    c: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let open = {
        let mut select = c
            .prepare_cached(sql::SELECT_OPEN_RESERVATIONS)
            .map_err(storage_error)?;
        let rows = select
            .query_map([count(limit)], |row| row.get::<_, i64>(0))
            .map_err(storage_error)?;
        rows.collect::<Result<Vec<_>, _>>().map_err(storage_error)?
    };
    for reservation in &open {
        refund(c, *reservation, now)?;
    }
    Ok(open.len())
}
