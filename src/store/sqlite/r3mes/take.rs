//! Keeping what was read.

use rusqlite::{Connection, OptionalExtension, params};

use super::read::{ORIGIN, Record};
use super::{ImportNote, Imported, R3mesRow, Refused};
use crate::model::{Credits, Sample, Timestamp, Wallet};
use crate::store::sqlite::history::{DAY, HOUR, MINUTE, start};
use crate::store::sqlite::{accounts, credits_at, keys, sql, storage_error, telemetry, wallet_at};
use crate::store::{Earning, StoreError};

/// What became of a row that can be kept.
type Kept = Result<Outcome, Refused>;

#[derive(Clone, Copy)]
enum Outcome {
    Taken,
    ThereAlready,
    Skipped,
    /// Known when all samples are recorded.
    Later,
}

impl Outcome {
    const fn of(new: bool) -> Self {
        if new { Self::Taken } else { Self::ThereAlready }
    }
}

pub(super) fn take(
    c: &Connection,
    rows: Vec<R3mesRow>,
    now: Timestamp,
) -> Result<Imported, StoreError> {
    let mut page = Page {
        c,
        now,
        known: None,
        samples: Vec::new(),
        imported: Imported::default(),
    };
    for row in rows {
        let kept = match row.record {
            Ok(record) => page.keep(record)?,
            Err(refused) => Err(refused),
        };
        let imported = &mut page.imported;
        let mut note = |outcome, field, reason: String, old, new| {
            imported.notes.push(ImportNote {
                table: row.table.as_str(),
                row: row.id,
                wallet_address: row.wallet,
                outcome,
                field,
                reason,
                old,
                new,
            });
        };
        match kept {
            Ok(Outcome::Taken) if row.changes.is_empty() => imported.taken += 1,
            Ok(Outcome::Taken) => {
                for change in row.changes {
                    let (why, new) = (change.why.to_owned(), Some(change.new));
                    note("changed", change.field, why, change.old, new);
                }
                imported.changed += 1;
            }
            Ok(Outcome::ThereAlready) => imported.there_already += 1,
            Ok(Outcome::Skipped) => imported.skipped += 1,
            Ok(Outcome::Later) => {}
            Err(Refused { field, why }) => {
                note("refused", field, why, None, None);
                imported.refused += 1;
            }
        }
    }
    if !page.samples.is_empty() {
        let new = telemetry::record(c, &page.samples, now)?.new;
        page.imported.taken += new as u64;
        page.imported.there_already += (page.samples.len() - new) as u64;
    }
    Ok(page.imported)
}

/// Rows that are kept in one transaction.
struct Page<'c> {
    c: &'c Connection,
    now: Timestamp,
    /// The wallet of the last row, which has an account by now.
    known: Option<Wallet>,
    samples: Vec<Sample>,
    imported: Imported,
}

impl Page<'_> {
    fn keep(&mut self, record: Record) -> Result<Kept, StoreError> {
        match record {
            Record::Account(wallet, created_at, credits) => {
                self.open_account(&wallet, created_at, credits)
            }
            Record::Key(key) => {
                if let Some(wallet) = key.wallet {
                    self.ensure(wallet, key.created_at)?;
                }
                let new = keys::import(self.c, std::slice::from_ref(&*key))?;
                Ok(Ok(Outcome::of(new == [true])))
            }
            Record::Sample(sample) => {
                self.ensure(sample.wallet, sample.recorded_at)?;
                if self.is_cut(&sample).map_err(storage_error)? {
                    return Ok(Ok(Outcome::ThereAlready));
                }
                self.samples.push(*sample);
                Ok(Ok(Outcome::Later))
            }
            Record::Earning(earning) => self.note_earning(&earning),
            Record::Reservation { pending } => {
                self.imported.pending_reservations += u64::from(pending);
                Ok(Ok(Outcome::Skipped))
            }
        }
    }

    /// Makes the account of a wallet that no row of `users` had.
    fn ensure(&mut self, wallet: Wallet, at: Timestamp) -> Result<(), StoreError> {
        if self.known != Some(wallet) {
            self.imported.accounts_made += u64::from(accounts::ensure(self.c, &wallet, at)?);
            self.known = Some(wallet);
        }
        Ok(())
    }

    fn open_account(
        &self,
        wallet: &Wallet,
        created_at: Timestamp,
        credits: Credits,
    ) -> Result<Kept, StoreError> {
        const REASON: &str = "opening";
        let made = accounts::ensure(self.c, wallet, created_at)?;
        // It may have been made for a key or a sample, which is younger.
        let older = self
            .c
            .prepare_cached(sql::AGE_ACCOUNT)
            .and_then(|mut update| update.execute(params![wallet.as_str(), created_at.millis()]))
            .map_err(storage_error)?;
        let opened = self
            .c
            .prepare_cached(sql::SELECT_OPENING)
            .and_then(|mut select| {
                let opened = select.query_row(params![wallet.as_str(), REASON, ORIGIN], |row| {
                    credits_at(row, 0)
                });
                opened.optional()
            })
            .map_err(storage_error)?;
        let posted = match opened {
            Some(before) if before == credits => false,
            Some(before) => return Ok(Err(other("credits", before))),
            None if credits == Credits::ZERO => false,
            None => {
                if let Err(why) = self.post(wallet, credits, REASON, ORIGIN.to_owned())? {
                    return Ok(Err(Refused::new("credits", why)));
                }
                true
            }
        };
        Ok(Ok(Outcome::of(made || older > 0 || posted)))
    }

    /// Moves credits, unless there would be more than a wallet or the sum over all can hold.
    fn post(
        &self,
        wallet: &Wallet,
        amount: Credits,
        reason: &str,
        reference: String,
    ) -> Result<Result<(), String>, StoreError> {
        let total: i64 = self
            .c
            .prepare_cached(sql::SELECT_TOTALS)
            .and_then(|mut select| select.query_row([], |row| row.get(1)))
            .map_err(storage_error)?;
        if total.checked_add(amount.micro()).is_none() {
            let why = "there would be more credits in all than can be counted";
            return Ok(Err(why.to_owned()));
        }
        match accounts::post(self.c, wallet, amount, reason, Some(reference), self.now) {
            Ok(_) => Ok(Ok(())),
            Err(StoreError::Conflict(why)) => Ok(Err(why)),
            Err(error) => Err(error),
        }
    }

    /// Whether a sample's time was rolled up, and what it was rolled up from deleted since: it was there, or it comes too
    /// late to be told apart. Each is deleted up to where the next coarser time begins, so that nothing is left of it in
    /// this one.
    fn is_cut(&self, sample: &Sample) -> rusqlite::Result<bool> {
        let at = sample.recorded_at.millis();
        let known = self
            .c
            .prepare_cached(sql::SELECT_WORKER)?
            .query_row(params![sample.wallet.as_str(), sample.worker], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        match known {
            Some((worker, rolled_until)) if at < rolled_until => {
                let times = [MINUTE, HOUR, DAY].map(|length| start(at, length));
                self.c
                    .prepare_cached(sql::SELECT_IS_CUT)?
                    .query_row(params![worker, times[0], times[1], times[2]], |row| {
                        row.get(0)
                    })
            }
            _ => Ok(false),
        }
    }

    /// Counts an earning whose credits the balance has already.
    fn note_earning(&mut self, earning: &Earning) -> Result<Kept, StoreError> {
        const FIELD: &str = "earnings";
        self.ensure(earning.wallet, earning.recorded_at)?;
        let (wallet, micro) = (earning.wallet.as_str(), earning.earnings.micro());
        let written = || {
            let before = self
                .c
                .prepare_cached(sql::SELECT_EARNING)?
                .query_row([&earning.source_id], |row| {
                    Ok((wallet_at(row, 0)?, credits_at(row, 1)?))
                })
                .optional()?;
            match before {
                Some((whose, before)) if (whose, before) == (earning.wallet, earning.earnings) => {
                    return Ok(Ok(Outcome::ThereAlready));
                }
                Some((_, before)) => return Ok(Err(other(FIELD, before))),
                None => {}
            }
            let earned: i64 = self
                .c
                .prepare_cached(sql::SELECT_TOTAL_EARNINGS)?
                .query_row([wallet], |row| row.get(0))?;
            if earned.saturating_add(micro) > accounts::MAX_BALANCE {
                let why = "the wallet would have earned more than can be counted";
                return Ok(Err(Refused::new(FIELD, why)));
            }
            let at = earning.recorded_at.millis();
            self.c
                .prepare_cached(sql::INSERT_EARNING)?
                .execute(params![earning.source_id, wallet, micro, at])?;
            self.c
                .prepare_cached(sql::ADD_EARNINGS)?
                .execute(params![wallet, micro])?;
            Ok(Ok(Outcome::Taken))
        };
        written().map_err(storage_error)
    }
}

/// Under this name something else was taken before: from a database that has changed since, or from another one.
fn other(field: &'static str, before: Credits) -> Refused {
    let why = format!("was taken before as {before}, of this wallet or another, and stays so");
    Refused::new(field, why)
}
