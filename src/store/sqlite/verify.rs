//! Verifies the ledger in short steps: of each wallet every balance is the one before it plus the amount, and the newest is
//! the wallet's; ids have no gaps, and what was charged and earned is what the entries say.
//!
//! Each step is a read of its own, so that the write-ahead log can be truncated in between, and entries written meanwhile
//! change nothing, as values that must agree are read in one statement.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};

use super::row::{execute, first, one, pair, value};
use super::sql;
use crate::model::Credits;
use crate::store::{LedgerReport, ledger_id};

/// Which part of the ledger is verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// The entries since the last verification, and every balance against the newest entry.
    New,
    /// Everything.
    Full,
}

/// The progress of a verification, and its findings so far.
pub(super) struct LedgerVerifier {
    next: Next,
    scope: Scope,
    /// The newest entry when the verification began.
    last: i64,
    /// By the ids of their accounts, of those from `block` on.
    wallets: HashMap<i64, Sums>,
    block: i64,
    block_size: i64,
    pub(super) report: LedgerReport,
}

#[derive(Clone, Copy)]
enum Next {
    Begin,
    /// Entries after this one.
    Entries(i64),
    /// Accounts after this one.
    Accounts(i64),
    Totals,
    Done,
}

/// What the entries of a wallet add up to so far.
#[derive(Clone, Copy, Default)]
struct Sums {
    balance: i64,
    charged: i64,
    mined: i64,
}

impl LedgerVerifier {
    /// Rows of a step at most.
    const ROWS: i64 = 10_000;
    /// A step ends at the first row after this time.
    const TIME: Duration = Duration::from_millis(50);
    /// Errors in a report at most.
    const MAX_ERRORS: usize = 100;
    /// Accounts of one walk through the ledger: with more it is walked again, so that memory is bounded.
    const BLOCK: i64 = 250_000;

    pub(super) fn new(scope: Scope) -> Self {
        Self {
            next: Next::Begin,
            scope,
            last: 0,
            wallets: HashMap::new(),
            block: 0,
            block_size: Self::BLOCK,
            report: LedgerReport::default(),
        }
    }

    /// Does the next step; `true` when everything is checked.
    pub(super) fn step(&mut self, c: &Connection) -> rusqlite::Result<bool> {
        self.next = match self.next {
            Next::Begin => Next::Entries(self.first_entry(c)?),
            Next::Entries(after) => match self.walk(c, after)? {
                Some(last) => Next::Entries(last),
                None => Next::Accounts(self.block),
            },
            Next::Accounts(after) => match self.check_accounts(c, after)? {
                Some(last) if last < self.block + self.block_size || self.scope == Scope::New => {
                    Next::Accounts(last)
                }
                Some(last) => {
                    self.check_others();
                    self.block = last;
                    Next::Entries(0)
                }
                None => {
                    self.check_others();
                    Next::Totals
                }
            },
            Next::Totals => {
                self.check_totals(c)?;
                Next::Done
            }
            Next::Done => return Ok(true),
        };
        Ok(matches!(self.next, Next::Done))
    }

    /// The newest entry that is verified, to be remembered if the report has no error.
    pub(super) fn verified(&self) -> Option<i64> {
        self.report.mistakes.is_empty().then_some(self.last)
    }

    /// The entry after which to begin.
    fn first_entry(&mut self, c: &Connection) -> rusqlite::Result<i64> {
        // Before the newest entry, as another verification may remember a later one in between.
        let verified: i64 = one(c, sql::SELECT_VERIFIED, [], value)?;
        self.last = one(c, sql::SELECT_LAST_ENTRY, [], value)?;
        if verified > self.last {
            self.error("entries that were verified before are missing".to_owned());
        }
        Ok(match self.scope {
            Scope::Full => 0,
            Scope::New => verified.clamp(0, self.last),
        })
    }

    /// Checks the entries after `after`; returns the last of them, if there may be more.
    fn walk(&mut self, c: &Connection, after: i64) -> rusqlite::Result<Option<i64>> {
        let mut select = c.prepare_cached(sql::WALK_LEDGER)?;
        let mut rows = select.query([after, self.last, Self::ROWS])?;
        let (began, mut before) = (Instant::now(), after);
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if self.block == 0 && id != before + 1 {
                self.error(format!("{}: entries before it are missing", ledger_id(id)));
            }
            before = id;
            self.check_entry(c, row)?;
            if began.elapsed() > Self::TIME {
                return Ok(Some(id));
            }
        }
        if before == after && after < self.last {
            self.error(format!(
                "{}: entries after it are missing",
                ledger_id(after)
            ));
            return Ok(None);
        }
        Ok((before < self.last).then_some(before))
    }

    fn check_entry(&mut self, c: &Connection, row: &Row<'_>) -> rusqlite::Result<()> {
        let (id, user): (i64, i64) = pair(row)?;
        if !(self.block..self.block.saturating_add(self.block_size)).contains(&(user - 1))
            && self.scope == Scope::Full
        {
            return Ok(());
        }
        let (amount, balance): (i64, i64) = (row.get(2)?, row.get(3)?);
        let known = match (self.wallets.get(&user), self.scope) {
            (Some(sums), _) => *sums,
            (None, Scope::Full) => Sums::default(),
            (None, Scope::New) => Sums {
                balance: first(c, sql::SELECT_BALANCE_BEFORE, [user, id], value)?.unwrap_or(0),
                ..Sums::default()
            },
        };
        self.report.entries += 1;
        let expected = known.balance.saturating_add(amount);
        if balance != expected || balance < 0 {
            let [balance, expected] = [balance, expected].map(Credits::from_micro);
            self.error(format!(
                "{}: the balance is {balance}, the one before and the amount add up to {expected}",
                ledger_id(id)
            ));
        }
        let reason = row.get_ref(4)?.as_str()?;
        let of = |reasons: &[&str]| if reasons.contains(&reason) { amount } else { 0 };
        let sums = Sums {
            balance,
            charged: known.charged.saturating_sub(of(&["chat", "chat_refund"])),
            mined: known.mined.saturating_add(of(&["mining"])),
        };
        self.wallets.insert(user, sums);
        Ok(())
    }

    /// Checks the accounts after `after`; returns the last of them, if there may be more.
    fn check_accounts(&mut self, c: &Connection, after: i64) -> rusqlite::Result<Option<i64>> {
        let mut select = c.prepare_cached(sql::SELECT_BALANCES)?;
        let mut rows = select.query([after, Self::ROWS])?;
        let (began, mut seen) = (Instant::now(), 0);
        while let Some(row) = rows.next()? {
            let (user, wallet): (i64, String) = pair(row)?;
            if self.scope == Scope::Full && user > self.block + self.block_size {
                return Ok(Some(self.block + self.block_size));
            }
            let (credits, newest): (Credits, Credits) = (row.get(2)?, row.get(3)?);
            self.report.wallets += 1;
            if credits != newest {
                self.error(format!(
                    "{wallet}: the balance is {credits}, its newest entry has {newest}"
                ));
            }
            let sums = self.wallets.remove(&user).unwrap_or_default();
            if self.scope == Scope::Full {
                self.check_sums(c, user, &wallet, sums)?;
            }
            seen += 1;
            if seen == Self::ROWS || began.elapsed() > Self::TIME {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    /// Compares usage and earnings with the entries, those written since the walk included.
    fn check_sums(
        &mut self,
        c: &Connection,
        user: i64,
        wallet: &str,
        sums: Sums,
    ) -> rusqlite::Result<()> {
        let [usage, earnings, total, charged, mined] =
            one(c, sql::SELECT_SUMS, params![user, self.last], |row| {
                Ok([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ])
            })?;
        let (charged, mined) = (
            sums.charged.saturating_add(charged),
            sums.mined.saturating_add(mined),
        );
        for (what, found, expected) in [
            ("its usage", usage, charged),
            ("its earnings", earnings, mined),
            ("the total of its earnings", total, mined),
        ] {
            if found != expected {
                let [found, expected] = [found, expected].map(Credits::from_micro);
                self.error(format!(
                    "{wallet}: {what} is {found}, its entries add up to {expected}"
                ));
            }
        }
        Ok(())
    }

    /// Reports entries of accounts that are not there.
    fn check_others(&mut self) {
        for user in std::mem::take(&mut self.wallets).into_keys() {
            self.error(format!(
                "there are entries of account {user}, which is missing"
            ));
        }
    }

    fn check_totals(&mut self, c: &Connection) -> rusqlite::Result<()> {
        let (sum, total): (Credits, Credits) = one(c, sql::SELECT_SUM_AND_TOTAL, [], pair)?;
        if total != sum {
            self.error(format!(
                "the total of all balances is {sum}, the totals row has {total}"
            ));
        }
        if self.scope == Scope::Full {
            let (users, total): (i64, i64) = one(c, sql::SELECT_COUNT_AND_TOTAL, [], pair)?;
            if total != users {
                self.error(format!(
                    "there are {users} accounts, the totals row has {total}"
                ));
            }
        }
        Ok(())
    }

    fn error(&mut self, error: String) {
        if self.report.mistakes.len() < Self::MAX_ERRORS {
            self.report.mistakes.push(error);
        }
    }
}

/// Remembers the newest entry that is verified.
pub(super) fn remember(c: &Connection, entry: i64) -> rusqlite::Result<()> {
    execute(c, sql::SET_VERIFIED, [entry]).map(drop)
}

/// Verifies the whole ledger in one go, on a connection that no other task needs.
pub(super) fn verify(c: &Connection) -> rusqlite::Result<LedgerReport> {
    let mut verifier = LedgerVerifier::new(Scope::Full);
    while !verifier.step(c)? {}
    Ok(verifier.report)
}

#[cfg(test)]
mod tests;
