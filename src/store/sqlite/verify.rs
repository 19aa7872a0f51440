//! Verifies the ledger in short steps: of each wallet every balance is the one before it plus the amount, and the newest is
//! the wallet's; ids have no gaps and are as many as the totals row counts; each row of the usage is the sum of its charges, and
//! each earning is that of a ledger entry.
//!
//! Each step is a read of its own, so that the write-ahead log can be truncated in between, and entries written meanwhile
//! change nothing: what must agree is read while one statement is open, and so from one state of the file.

mod sums;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};

use self::sums::{Sums, add_used};
use super::row::{execute, first, one, pair, value};
use super::{accounts, sql};
use crate::model::Credits;
use crate::store::{LedgerReport, ledger_id, parse_ledger_id};

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
    /// The newest entry when the verification began, and the newest account after that.
    last: i64,
    last_account: i64,
    /// By the ids of their accounts, of those from `block` on.
    wallets: HashMap<i64, Sums>,
    block: i64,
    block_size: i64,
    hasher: RandomState,
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

impl LedgerVerifier {
    /// Rows of a step at most.
    const ROWS: i64 = 10_000;
    /// A step ends at the first row after this time.
    const TIME: Duration = Duration::from_millis(50);
    /// Errors in a report at most.
    const MAX_ERRORS: usize = 100;
    /// Accounts of one walk through the ledger: with more it is walked again, so that memory is bounded (16 MB).
    const BLOCK: i64 = 200_000;

    pub(super) fn new(scope: Scope) -> Self {
        Self {
            next: Next::Begin,
            scope,
            last: 0,
            last_account: 0,
            wallets: HashMap::new(),
            block: 0,
            block_size: Self::BLOCK,
            hasher: RandomState::new(),
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
        let verified: i64 = first(c, sql::SELECT_VERIFIED, [], value)?.unwrap_or(0);
        (self.last, self.last_account) = one(c, sql::SELECT_LAST, [], pair)?;
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
        if !(1..=self.last_account).contains(&user) {
            if self.block == 0 {
                self.account_is_missing(user);
            }
            return Ok(());
        }
        let is_in_block = user > self.block && user - self.block <= self.block_size;
        let known = match (self.wallets.get(&user), self.scope) {
            (_, Scope::Full) if !is_in_block => return Ok(()),
            (Some(sums), _) => *sums,
            (None, Scope::Full) => Sums::default(),
            (None, Scope::New) => self.sums_before(c, user, id)?,
        };
        self.report.entries += 1;
        let mut sums = known;
        self.add(c, &mut sums, row)?;
        let expected = known.balance.saturating_add(row.get(2)?);
        let balance = sums.balance;
        if balance != expected || balance < 0 {
            let [balance, expected] = [balance, expected].map(Credits::from_micro);
            self.error(format!(
                "{}: the balance is {balance}, the one before and the amount add up to {expected}",
                ledger_id(id)
            ));
        }
        self.wallets.insert(user, sums);
        Ok(())
    }

    /// The sums of an account whose first new entry is `id`; they may be forgotten and read again, so that memory is bounded.
    fn sums_before(&mut self, c: &Connection, user: i64, id: i64) -> rusqlite::Result<Sums> {
        if self.wallets.len() as i64 >= Self::BLOCK {
            self.wallets.clear();
        }
        let (balance, exists): (i64, bool) = one(c, sql::SELECT_BALANCE_BEFORE, [user, id], pair)?;
        if !exists {
            self.account_is_missing(user);
        }
        Ok(Sums {
            balance,
            ..Sums::default()
        })
    }

    /// Adds an entry to the sums of its wallet.
    fn add(&mut self, c: &Connection, sums: &mut Sums, row: &Row<'_>) -> rusqlite::Result<()> {
        let (id, user, amount): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        sums.balance = row.get(3)?;
        if self.scope == Scope::New {
            return Ok(());
        }
        let charged = amount.saturating_neg();
        match row.get_ref(4)?.as_str()? {
            "mining" => {
                let source = row.get_ref(5)?.as_str_or_null()?.unwrap_or_default();
                sums.mined.add(&self.hasher, source, amount);
            }
            "chat" => add_used(&self.hasher, sums, charged, row, 6)?,
            accounts::REFUND => {
                // It takes back what was charged on that day.
                let reversed = row.get_ref(5)?.as_str_or_null()?.and_then(parse_ledger_id);
                let mut select = c.prepare_cached(sql::SELECT_REVERSED)?;
                let mut rows = select.query(params![reversed, id, user, amount])?;
                match rows.next()? {
                    Some(row) => add_used(&self.hasher, sums, charged, row, 0)?,
                    None => self.error(format!(
                        "{}: there is no charge of its wallet and amount that it reverses",
                        ledger_id(id)
                    )),
                }
            }
            _ => {}
        }
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
                self.check_sums(c, user, &wallet, sums, row.get(4)?)?;
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
        mut sums: Sums,
        total: i64,
    ) -> rusqlite::Result<()> {
        let mut since = c.prepare_cached(sql::SELECT_ENTRIES_SINCE)?;
        let mut since = since.query([user, self.last])?;
        while let Some(row) = since.next()? {
            self.add(c, &mut sums, row)?;
        }
        let mut found = Sums::default();
        let mut usage = c.prepare_cached(sql::SELECT_USAGE)?;
        let mut usage = usage.query([user])?;
        while let Some(row) = usage.next()? {
            let of: (i64, i64, &str) = (row.get(0)?, row.get(1)?, row.get_ref(2)?.as_str()?);
            found.charged.add(&self.hasher, of, row.get(3)?);
        }
        let mut earnings = c.prepare_cached(sql::SELECT_EARNINGS)?;
        let mut earnings = earnings.query([wallet])?;
        while let Some(row) = earnings.next()? {
            let source = row.get_ref(0)?.as_str()?;
            found.mined.add(&self.hasher, source, row.get(1)?);
        }
        for (what, found, expected) in [
            ("its usage", found.charged.sum, sums.charged.sum),
            ("its earnings", found.mined.sum, sums.mined.sum),
            ("the total of its earnings", total, sums.mined.sum),
        ] {
            if found != expected {
                let [found, expected] = [found, expected].map(Credits::from_micro);
                self.error(format!(
                    "{wallet}: {what} is {found}, its entries add up to {expected}"
                ));
            }
        }
        for (what, found, expected) in [
            (
                "its usage of a day, key and adapter",
                found.charged,
                sums.charged,
            ),
            ("one of its earnings", found.mined, sums.mined),
        ] {
            if found.sum == expected.sum && found != expected {
                self.error(format!("{wallet}: {what} differs from its entries"));
            }
        }
        Ok(())
    }

    /// Reports entries of accounts that are not there.
    fn check_others(&mut self) {
        let left = std::mem::take(&mut self.wallets);
        if self.scope == Scope::Full {
            left.into_keys()
                .for_each(|user| self.account_is_missing(user));
        }
    }

    fn check_totals(&mut self, c: &Connection) -> rusqlite::Result<()> {
        type Totals = (Option<i64>, Option<i64>);
        let (sum, entries, totals): (i128, i64, Totals) =
            one(c, sql::SELECT_SUM_AND_TOTALS, [], |row| {
                let (upper, lower): (i64, i64) = pair(row)?;
                let sum = (i128::from(upper) << 32) + i128::from(lower);
                Ok((sum, row.get(4)?, (row.get(2)?, row.get(3)?)))
            })?;
        let (Some(credits), Some(counted)) = totals else {
            self.error("the totals row is missing".to_owned());
            return Ok(());
        };
        if i128::from(credits) != sum {
            let sum = i64::try_from(sum).unwrap_or(i64::MAX);
            let [sum, credits] = [sum, credits].map(Credits::from_micro);
            self.error(format!(
                "the total of all balances is {sum}, the totals row has {credits}"
            ));
        }
        if counted != entries {
            self.error(format!(
                "the newest entry is {}, the totals row has {counted} entries",
                ledger_id(entries)
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

    fn account_is_missing(&mut self, user: i64) {
        let error = format!("there are entries of account {user}, which is missing");
        if self.report.mistakes.last() != Some(&error) {
            self.error(error);
        }
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
