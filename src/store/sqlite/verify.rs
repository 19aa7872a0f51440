//! Whether the whole ledger adds up, looked at in short steps.
//!
//! Each step is a read of its own, so that no reader holds the write-ahead log for the time of the whole walk. What must
//! agree is read in one statement: a wallet's balance with its entries, the totals with all balances, a reservation with
//! its entries. So every answer is right while others write.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};

use super::accounts::{OPEN, REFUNDED, SETTLED};
use super::{credits_at, sql, unreadable};
use crate::store::{LedgerReport, ledger_id};

/// A walk over the ledger: how far it is, and what it found so far.
#[derive(Clone)]
pub(super) struct LedgerVerifier {
    place: Place,
    report: LedgerReport,
}

#[derive(Clone)]
enum Place {
    /// Wallets after this one.
    Wallets(String),
    Totals,
    /// Reservations after this one.
    Reservations(i64),
    End,
}

impl LedgerVerifier {
    /// Rows of a step at most.
    const ROWS: i64 = 1000;
    /// After this time a step ends with the row it is at.
    const TIME: Duration = Duration::from_millis(50);
    /// Mistakes in a report at most.
    const MISTAKES: usize = 100;

    pub(super) fn new() -> Self {
        Self {
            place: Place::Wallets(String::new()),
            report: LedgerReport {
                wallets: 0,
                entries: 0,
                open_reservations: 0,
                mistakes: Vec::new(),
            },
        }
    }

    /// The report, once the walk is at its end.
    pub(super) fn ended(self) -> Result<LedgerReport, Self> {
        match self.place {
            Place::End => Ok(self.report),
            _ => Err(self),
        }
    }

    /// How much of it is done, in thousandths, where `last` is the newest entry: first each entry is added up, then each is
    /// looked at for a reservation.
    pub(super) fn done(&self, last: i64) -> u64 {
        let seen = match self.place {
            Place::Wallets(_) | Place::Totals => self.report.entries.min(last),
            Place::Reservations(after) => last + after.min(last),
            Place::End => 2 * last,
        };
        u64::try_from(seen * 500 / last.max(1)).unwrap_or_default()
    }

    /// Goes on by one step.
    pub(super) fn step(mut self, c: &Connection) -> rusqlite::Result<Self> {
        self.place = match self.place {
            Place::Wallets(ref after) => {
                let after = after.clone();
                self.wallets(c, after)?
            }
            Place::Totals => self.totals(c)?,
            Place::Reservations(after) => self.reservations(c, after)?,
            Place::End => Place::End,
        };
        Ok(self)
    }

    fn wallets(&mut self, c: &Connection, mut after: String) -> rusqlite::Result<Place> {
        let began = Instant::now();
        let mut select = c.prepare_cached(sql::SELECT_USERS_AFTER)?;
        let mut rows = select.query(params![after, Self::ROWS])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            let (balance, sum) = (credits_at(row, 1)?, credits_at(row, 2)?);
            after = row.get(0)?;
            self.report.wallets += 1;
            self.report.entries += row.get::<_, i64>(3)?;
            if balance != sum {
                self.mistake(format!(
                    "{after}: the balance is {balance}, its entries add up to {sum}"
                ));
            }
            if seen == Self::ROWS || began.elapsed() > Self::TIME {
                return Ok(Place::Wallets(after));
            }
        }
        Ok(Place::Totals)
    }

    fn totals(&mut self, c: &Connection) -> rusqlite::Result<Place> {
        let (sum, total) = c
            .prepare_cached(sql::SELECT_SUM_AND_TOTAL)?
            .query_row([], |row| Ok((credits_at(row, 0)?, credits_at(row, 1)?)))?;
        if total != sum {
            self.mistake(format!(
                "the total of all balances is {sum}, the totals row says {total}"
            ));
        }
        Ok(Place::Reservations(0))
    }

    fn reservations(&mut self, c: &Connection, mut after: i64) -> rusqlite::Result<Place> {
        let began = Instant::now();
        let mut select = c.prepare_cached(sql::SELECT_RESERVATIONS_AFTER)?;
        let mut rows = select.query(params![after, Self::ROWS])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            after = row.get(0)?;
            match mistake_in(row)? {
                None => self.report.open_reservations += i64::from(row.get::<_, i64>(3)? == OPEN),
                Some(mistake) => self.mistake(format!("{}: {mistake}", ledger_id(after))),
            }
            if seen == Self::ROWS || began.elapsed() > Self::TIME {
                return Ok(Place::Reservations(after));
            }
        }
        Ok(Place::End)
    }

    fn mistake(&mut self, mistake: String) {
        if self.report.mistakes.len() < Self::MISTAKES {
            self.report.mistakes.push(mistake);
        }
    }
}

/// The whole walk at once, where nobody waits for the connection.
pub(super) fn verify(c: &Connection) -> rusqlite::Result<LedgerReport> {
    let mut walk = LedgerVerifier::new();
    loop {
        walk = match walk.step(c)?.ended() {
            Ok(report) => return Ok(report),
            Err(walk) => walk,
        };
    }
}

/// What is wrong with a reservation and the entries that belong to it.
fn mistake_in(row: &Row<'_>) -> rusqlite::Result<Option<&'static str>> {
    let (wallet, amount, state) = (
        row.get::<_, String>(1)?,
        row.get::<_, i64>(2)?,
        row.get::<_, i64>(3)?,
    );
    if row.get::<_, String>(4)? != wallet || row.get::<_, i64>(5)? != -amount {
        return Ok(Some("the reservation differs from the entry that took it"));
    }
    let refund = match (
        row.get::<_, Option<String>>(6)?,
        row.get::<_, Option<i64>>(7)?,
    ) {
        (Some(to), Some(refunded)) => Some(to == wallet && refunded == amount),
        _ => None,
    };
    Ok(match (state, refund) {
        (OPEN | SETTLED, None) | (REFUNDED, Some(true)) => None,
        (REFUNDED, Some(false)) => Some("the refund differs from what was reserved"),
        (REFUNDED, None) => Some("refunded without an entry that gives the credits back"),
        (OPEN | SETTLED, Some(_)) => Some("refunded although it is not closed as refunded"),
        _ => return Err(unreadable(3, "a reservation's state")),
    })
}
