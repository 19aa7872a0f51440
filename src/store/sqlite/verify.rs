//! Verifies the whole ledger, in short steps.
//!
//! Each step is a separate read, so that the write-ahead log can be truncated in between. Values that must agree are read
//! in one statement: a wallet's balance and its entries, the totals and all balances, a reservation and its entries. So the
//! result is correct under concurrent writes.

use std::time::{Duration, Instant};

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, Row, params};

use super::accounts::{OPEN, REFUNDED, SETTLED};
use super::row::{one, pair};
use super::sql;
use crate::model::Credits;
use crate::store::{LedgerReport, ledger_id};

/// The progress of a verification, and its findings so far.
pub(super) struct LedgerVerifier {
    next: Next,
    pub(super) report: LedgerReport,
}

#[derive(Clone)]
enum Next {
    /// Wallets after this one.
    Wallets(String),
    Totals,
    /// Reservations after this one.
    Reservations(i64),
}

impl LedgerVerifier {
    /// Rows of a step at most.
    const ROWS: i64 = 1000;
    /// A step ends at the first row after this time.
    const TIME: Duration = Duration::from_millis(50);
    /// Errors in a report at most.
    const MAX_ERRORS: usize = 100;

    pub(super) fn new() -> Self {
        Self {
            next: Next::Wallets(String::new()),
            report: LedgerReport::default(),
        }
    }

    /// Does the next step; `true` when everything is checked.
    pub(super) fn step(&mut self, c: &Connection) -> rusqlite::Result<bool> {
        self.next = match self.next.clone() {
            Next::Wallets(after) => {
                let statement = sql::SELECT_USERS_AFTER;
                let last = self.check_rows(c, statement, after, Self::check_wallet)?;
                last.map_or(Next::Totals, Next::Wallets)
            }
            Next::Totals => {
                self.check_totals(c)?;
                Next::Reservations(0)
            }
            Next::Reservations(after) => {
                let statement = sql::SELECT_RESERVATIONS_AFTER;
                match self.check_rows(c, statement, after, Self::check_reservation)? {
                    Some(last) => Next::Reservations(last),
                    None => return Ok(true),
                }
            }
        };
        Ok(false)
    }

    /// Checks the rows with a first column after `after`; returns the last of them, if there may be more.
    fn check_rows<K: FromSql + ToSql>(
        &mut self,
        c: &Connection,
        statement: &str,
        after: K,
        check: fn(&mut Self, &Row<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Option<K>> {
        let began = Instant::now();
        let mut select = c.prepare_cached(statement)?;
        let mut rows = select.query(params![after, Self::ROWS])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            check(self, row)?;
            seen += 1;
            if seen == Self::ROWS || began.elapsed() > Self::TIME {
                return row.get(0).map(Some);
            }
        }
        Ok(None)
    }

    fn check_wallet(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (balance, sum): (Credits, Credits) = (row.get(1)?, row.get(2)?);
        self.report.wallets += 1;
        self.report.entries += row.get::<_, i64>(3)?;
        if balance != sum {
            let wallet: String = row.get(0)?;
            self.error(format!(
                "{wallet}: the balance is {balance}, its entries add up to {sum}"
            ));
        }
        Ok(())
    }

    fn check_totals(&mut self, c: &Connection) -> rusqlite::Result<()> {
        let (sum, total): (Credits, Credits) = one(c, sql::SELECT_SUM_AND_TOTAL, [], pair)?;
        if total != sum {
            self.error(format!(
                "the total of all balances is {sum}, the totals row has {total}"
            ));
        }
        Ok(())
    }

    fn check_reservation(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (id, wallet, amount, state): (i64, String, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let entry: (String, i64) = (row.get(4)?, row.get(5)?);
        let refund: Option<(String, i64)> = match row.get(6)? {
            Some(to) => Some((to, row.get(7)?)),
            None => None,
        };
        let is_whole = refund.map(|refund| refund == (wallet.clone(), amount));
        let error = match (state, is_whole) {
            _ if entry != (wallet, -amount) => {
                "the reservation differs from the entry that took it"
            }
            (OPEN, None) => {
                self.report.open_reservations += 1;
                return Ok(());
            }
            (SETTLED, None) | (REFUNDED, Some(true)) => return Ok(()),
            (REFUNDED, Some(false)) => "the refund differs from what was reserved",
            (REFUNDED, None) => "refunded without an entry that gives the credits back",
            (OPEN | SETTLED, Some(_)) => "refunded although it is not closed as refunded",
            _ => "its state is unknown",
        };
        self.error(format!("{}: {error}", ledger_id(id)));
        Ok(())
    }

    fn error(&mut self, error: String) {
        if self.report.mistakes.len() < Self::MAX_ERRORS {
            self.report.mistakes.push(error);
        }
    }
}

/// Verifies the whole ledger in one go, on a connection that no other task needs.
pub(super) fn verify(c: &Connection) -> rusqlite::Result<LedgerReport> {
    let mut verifier = LedgerVerifier::new();
    while !verifier.step(c)? {}
    Ok(verifier.report)
}
