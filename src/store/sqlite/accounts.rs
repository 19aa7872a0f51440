//! Accounts and money. `credits` is never assigned: [`post`] moves it and writes the ledger entry in one breath.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{count, credits_at, maybe_time_at, sql, storage_error, time_at, unreadable, wallet_at};
use crate::model::{Credits, Timestamp, Wallet};
use crate::store::{LedgerEntry, LedgerReport, StoreError, User, ledger_id};

/// No balance grows beyond this many micro-credits (ten thousand million credits), so that no sum can overflow.
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
    let read = |row: &Row<'_>| {
        let last_mining_at = maybe_time_at(row, 3)?;
        Ok(User {
            wallet_address: wallet_at(row, 0)?,
            credits: credits_at(row, 1)?,
            is_miner: last_mining_at.is_some(),
            last_mining_at,
            created_at: time_at(row, 2)?,
        })
    };
    c.prepare_cached(sql::SELECT_USER)?
        .query_row([wallet.as_str()], read)
        .optional()
}

pub(super) fn balance(c: &Connection, wallet: &Wallet) -> rusqlite::Result<Option<Credits>> {
    c.prepare_cached(sql::SELECT_BALANCE)?
        .query_row([wallet.as_str()], |row| credits_at(row, 0))
        .optional()
}

/// Moves credits and writes the entry that says so: the only statement pair that touches a balance.
pub(super) fn post(
    c: &Connection,
    wallet: &Wallet,
    amount: Credits,
    reason: &str,
    reference: Option<String>,
    now: Timestamp,
) -> Result<LedgerEntry, StoreError> {
    let moved = c
        .prepare_cached(sql::MOVE_CREDITS)
        .and_then(|mut update| {
            let row = update.query_row(
                params![wallet.as_str(), amount.micro(), MAX_BALANCE],
                |row| credits_at(row, 0),
            );
            row.optional()
        })
        .map_err(storage_error)?;
    let Some(after) = moved else {
        return Err(match balance(c, wallet).map_err(storage_error)? {
            None => StoreError::UserNotFound,
            Some(balance) if amount.micro() < 0 => StoreError::Insufficient {
                needed: amount.negated(),
                balance,
            },
            Some(_) => {
                StoreError::Conflict("the balance would be more than a wallet can hold".to_owned())
            }
        });
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
    let id = insert
        .query_row(values, |row| row.get(0))
        .map_err(storage_error)?;
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
    let read = |row: &Row<'_>| {
        Ok(LedgerEntry {
            id: row.get(0)?,
            amount: credits_at(row, 1)?,
            balance: credits_at(row, 2)?,
            reason: row.get(3)?,
            reference: row.get(4)?,
            note: row.get(5)?,
            created_at: time_at(row, 6)?,
        })
    };
    let mut select = c.prepare_cached(sql::SELECT_LEDGER)?;
    let entries = select.query_map(
        params![wallet.as_str(), before.unwrap_or(i64::MAX), count(limit)],
        read,
    )?;
    Ok(Some((balance, entries.collect::<Result<_, _>>()?)))
}

const OPEN: i64 = 0;
const SETTLED: i64 = 1;
const REFUNDED: i64 = 2;

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
            let entry = post(
                c,
                &wallet,
                amount,
                "refund",
                Some(ledger_id(reservation)),
                now,
            )?;
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

pub(super) fn verify(c: &Connection) -> rusqlite::Result<LedgerReport> {
    const STEP: i64 = 1000;
    const MISTAKES: usize = 100;
    // In short reads, as a long one would keep the log from being emptied. Each wallet is right in itself whenever it is
    // read; only the total needs one moment for all.
    let mut report = LedgerReport {
        wallets: 0,
        entries: 0,
        open_reservations: 0,
        mistakes: Vec::new(),
    };
    let mut after = String::new();
    loop {
        let mut select = c.prepare_cached(sql::SELECT_USERS_AFTER)?;
        let mut rows = select.query(params![after, STEP])?;
        let mut step = 0;
        while let Some(row) = rows.next()? {
            step += 1;
            let (wallet, credits, entries_sum) = (
                row.get::<_, String>(0)?,
                credits_at(row, 1)?,
                credits_at(row, 2)?,
            );
            report.wallets += 1;
            report.entries += row.get::<_, i64>(3)?;
            if credits != entries_sum && report.mistakes.len() < MISTAKES {
                report.mistakes.push(format!(
                    "{wallet}: the balance is {credits}, its entries add up to {entries_sum}"
                ));
            }
            after = wallet;
        }
        if step < STEP {
            break;
        }
    }
    let (sum, total) = c
        .prepare_cached(sql::SELECT_SUM_AND_TOTAL)?
        .query_row([], |row| Ok((credits_at(row, 0)?, credits_at(row, 1)?)))?;
    if total != sum {
        report.mistakes.push(format!(
            "the total of all balances is {sum}, the totals row says {total}"
        ));
    }
    let mut after = 0;
    loop {
        let mut select = c.prepare_cached(sql::SELECT_RESERVATIONS_AFTER)?;
        let mut rows = select.query(params![after, STEP])?;
        let mut step = 0;
        while let Some(row) = rows.next()? {
            step += 1;
            after = row.get::<_, i64>(0)?;
            if let Err(mistake) = check_reservation(row, &mut report.open_reservations)?
                && report.mistakes.len() < MISTAKES
            {
                report
                    .mistakes
                    .push(format!("{}: {mistake}", ledger_id(after)));
            }
        }
        if step < STEP {
            return Ok(report);
        }
    }
}

fn check_reservation(row: &Row<'_>, open: &mut i64) -> rusqlite::Result<Result<(), &'static str>> {
    let (wallet, amount, state) = (
        row.get::<_, String>(1)?,
        row.get::<_, i64>(2)?,
        row.get::<_, i64>(3)?,
    );
    if row.get::<_, String>(4)? != wallet || row.get::<_, i64>(5)? != -amount {
        return Ok(Err("the reservation differs from the entry that took it"));
    }
    let refund = match (
        row.get::<_, Option<String>>(6)?,
        row.get::<_, Option<i64>>(7)?,
    ) {
        (Some(to), Some(refunded)) => Some(to == wallet && refunded == amount),
        _ => None,
    };
    Ok(match (state, refund) {
        (OPEN, None) => {
            *open += 1;
            Ok(())
        }
        (SETTLED, None) | (REFUNDED, Some(true)) => Ok(()),
        (REFUNDED, Some(false)) => Err("the refund differs from what was reserved"),
        (REFUNDED, None) => Err("refunded without an entry that gives the credits back"),
        (OPEN | SETTLED, Some(_)) => Err("refunded although it is not closed as refunded"),
        _ => return Err(unreadable(3, "a reservation's state")),
    })
}
