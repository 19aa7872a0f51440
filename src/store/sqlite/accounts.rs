//! Accounts and money. `credits` is never assigned: [`post`] moves it and writes the ledger entry in the same call.

use rusqlite::{Connection, Row, params};

use super::row::{all, count, execute, first, one, pair, value};
use super::usage::{self, Used, key_number, spend};
use super::{audit, idempotency, sql};
use crate::model::{Credits, Timestamp, Tokens, Wallet};
use crate::store::{
    Account, Actor, Charge, ChargeDetail, Charged, ChargedAnswer, ExportedEntry, HoldRequest,
    LedgerEntry, LostRequest, OperationId, Result, StoreError, Usage, UsageQuery, User, ledger_id,
};

/// No balance grows beyond this many micro-credits (ten thousand million credits), so that no sum can overflow.
const MAX_BALANCE: i64 = 10_000_000_000_000_000;

/// The reason of an entry that reverses a charge.
pub(super) const REFUND: &str = "chat_refund";

pub(super) fn create(c: &Connection, wallet: &Wallet, actor: &Actor) -> Result<User> {
    if !ensure(c, wallet, actor.at)? {
        return Err(StoreError::Conflict(
            "an account with this wallet address exists already".to_owned(),
        ));
    }
    audit::record(c, actor, "users.create", wallet.as_str(), None, None)?;
    Ok(User {
        wallet_address: *wallet,
        credits: Credits::ZERO,
        is_miner: false,
        last_mining_at: None,
        created_at: actor.at,
        blocked: false,
    })
}

/// Makes the account if there is none; whether it is new.
pub(super) fn ensure(c: &Connection, wallet: &Wallet, now: Timestamp) -> Result<bool> {
    let values = params![wallet, now];
    Ok(execute(c, sql::INSERT_USER, values)? == 1)
}

/// The id of an account and its balance.
fn account(c: &Connection, wallet: &Wallet) -> Result<(i64, Credits)> {
    first(c, sql::SELECT_ACCOUNT, [wallet], pair)?.ok_or(StoreError::UserNotFound)
}

pub(super) fn balance(c: &Connection, wallet: &Wallet) -> Result<Credits> {
    account(c, wallet).map(|(_, balance)| balance)
}

/// The entries after one, oldest first: ids rise with time, and no entry is ever changed.
pub(super) fn export(
    c: &Connection,
    wallet: Option<&Wallet>,
    after: Option<i64>,
    limit: usize,
) -> Result<Vec<ExportedEntry>> {
    let (after, limit) = (after.unwrap_or(0), count(limit));
    let read = |row: &Row<'_>| {
        Ok(ExportedEntry {
            wallet_address: row.get(13)?,
            entry: entry_in(row)?,
        })
    };
    let Some(wallet) = wallet else {
        return Ok(all(c, sql::SELECT_ENTRIES, [after, limit], read)?);
    };
    balance(c, wallet)?;
    let page = params![after, limit, wallet];
    Ok(all(c, sql::SELECT_ENTRIES_OF_WALLET, page, read)?)
}

/// The committed value that holds draw on.
pub(super) fn value_of(c: &Connection, account: &Account) -> Result<Credits> {
    match account {
        Account::Wallet(wallet) => balance(c, wallet),
        Account::Spending(of) => Ok(usage::spent(c, of)?),
    }
}

/// A movement of credits.
pub(super) struct Movement<'a> {
    pub(super) amount: Credits,
    pub(super) reason: &'a str,
    pub(super) reference: Option<String>,
    pub(super) operation: OperationId,
    /// Of a charge: the number of the key, and the charge.
    pub(super) paid: Option<(Option<i64>, &'a Charge)>,
}

impl<'a> Movement<'a> {
    /// One of its own operation, without a reference.
    pub(super) fn new(amount: Credits, reason: &'a str) -> Self {
        Self {
            amount,
            reason,
            reference: None,
            operation: OperationId::new(),
            paid: None,
        }
    }
}

/// Moves credits and writes the entry that says so: the only statements that touch a balance. Returns the entry's id and
/// the balance after it.
pub(super) fn post(
    c: &Connection,
    user: i64,
    movement: Movement<'_>,
    now: Timestamp,
) -> Result<(i64, Credits)> {
    let amount = movement.amount;
    // What comes back was part of the balance before.
    let is_bounded = amount > Credits::ZERO && movement.reason != REFUND;
    if is_bounded && !one::<bool>(c, sql::SELECT_TOTAL_FITS, [amount], value)? {
        let detail = "the total of all balances would be more than can be counted";
        return Err(StoreError::Conflict(detail.to_owned()));
    }
    let most = if is_bounded { MAX_BALANCE } else { i64::MAX };
    let moved = execute(c, sql::MOVE_CREDITS, params![user, amount, most])?;
    // Asked for afterwards: RETURNING makes a table of its own for its row, which takes longer.
    let balance: Credits = one(c, sql::SELECT_CREDITS, [user], value)?;
    if moved == 0 {
        return Err(match amount.micro() {
            ..0 => StoreError::Insufficient {
                needed: amount.negated(),
                balance,
            },
            _ => {
                let detail = "the balance would be more than a wallet can hold";
                StoreError::Conflict(detail.to_owned())
            }
        });
    }
    let key = movement.paid.and_then(|(key, _)| key);
    let charge = movement.paid.map(|(_, charge)| charge);
    let tokens = charge.and_then(|charge| charge.tokens);
    let values = params![
        user,
        amount,
        balance,
        movement.reason,
        movement.reference,
        movement.operation.as_bytes(),
        now,
        key,
        charge.map(|charge| &charge.adapter),
        tokens.map(|tokens| tokens.prompt),
        tokens.map(|tokens| tokens.cached),
        tokens.map(|tokens| tokens.completion),
        charge.and_then(|charge| charge.estimated),
    ];
    let id = c.prepare_cached(sql::INSERT_ENTRY)?.insert(values)?;
    Ok((id, balance))
}

/// Moves credits for other reasons than a chat; returns the entry, and whether the account is new.
pub(super) fn grant(
    c: &Connection,
    wallet: &Wallet,
    movement: Movement<'_>,
    now: Timestamp,
) -> Result<(LedgerEntry, bool)> {
    // A debit of a wallet that is not there makes no account.
    let new = movement.amount.micro() > 0 && ensure(c, wallet, now)?;
    let (user, _) = account(c, wallet)?;
    let (amount, reason) = (movement.amount, movement.reason.to_owned());
    let reference = movement.reference.clone();
    let (id, balance) = post(c, user, movement, now)?;
    let entry = LedgerEntry {
        id,
        amount,
        balance,
        reason,
        reference,
        detail: None,
        created_at: now,
    };
    Ok((entry, new))
}

/// The values that a charge or its refund leaves.
pub(super) type Values = Vec<(Account, Credits)>;

/// Charges a request whose amount is held, and stores its usage, the spending of its key and its answer.
pub(super) fn charge(
    c: &Connection,
    request: &HoldRequest,
    charge: Charge,
    now: Timestamp,
) -> Result<(Charged, Values)> {
    let (user, balance) = account(c, &request.wallet)?;
    // A hold of a sound file always suffices.
    let amount = charge.amount.min(request.amount).min(balance);
    if amount < charge.amount {
        log::error!(
            "{}: {amount} instead of {} credits were charged, which is all that {} has",
            request.operation,
            charge.amount,
            request.wallet.short()
        );
    }
    let key = match &charge.key_id {
        Some(key) => Some(key_number(c, key)?),
        None => None,
    };
    let (mut entry, mut values) = (None, Values::new());
    if amount > Credits::ZERO {
        let movement = Movement {
            operation: request.operation,
            paid: Some((key, &charge)),
            ..Movement::new(amount.negated(), "chat")
        };
        let (id, balance) = post(c, user, movement, now)?;
        entry = Some(id);
        values.push((Account::Wallet(request.wallet), balance));
    }
    let used = Used {
        user,
        day: usage::day(now),
        key: key.unwrap_or(0),
        adapter: charge.adapter,
        tokens: charge.tokens.unwrap_or_default(),
    };
    used.add(c, 1, amount)?;
    values.extend(spend(c, request, amount)?);
    if let Some((once, answer)) = charge.answer {
        idempotency::store(c, &once, &ChargedAnswer { entry, answer }, now)?;
    }
    let charged = Charged {
        entry,
        amount,
        request: *request,
    };
    Ok((charged, values))
}

/// Reverses a charge whose answer was not given, and forgets the answer.
pub(super) fn refund(
    c: &Connection,
    charged: &Charged,
    answer: Option<[u8; 32]>,
    now: Timestamp,
) -> Result<(Option<i64>, Values)> {
    let Some(entry) = charged.entry else {
        return Ok((None, Values::new()));
    };
    let used = one(c, sql::SELECT_CHARGE, [entry], |row| {
        let at: Timestamp = row.get(1)?;
        let used = Used {
            user: row.get(0)?,
            day: usage::day(at),
            key: row.get(2)?,
            adapter: row.get(3)?,
            tokens: Tokens {
                prompt: row.get(4)?,
                cached: row.get(5)?,
                completion: row.get(6)?,
            },
        };
        Ok(used)
    })?;
    let movement = Movement {
        reference: Some(ledger_id(entry)),
        operation: charged.request.operation,
        ..Movement::new(charged.amount, REFUND)
    };
    let (reversal, balance) = post(c, used.user, movement, now)?;
    used.add(c, -1, charged.amount.negated())?;
    let mut values = vec![(Account::Wallet(charged.request.wallet), balance)];
    values.extend(spend(c, &charged.request, charged.amount.negated())?);
    if let Some(key) = answer {
        execute(c, sql::DELETE_RESPONSE, [key])?;
    }
    Ok((Some(reversal), values))
}

/// Counts a request that is not paid.
pub(super) fn count_lost(c: &Connection, lost: &LostRequest, now: Timestamp) -> Result<()> {
    let (user, _) = account(c, &lost.wallet)?;
    Ok(usage::count_lost(c, user, lost, now)?)
}

/// What was used in a period.
pub(super) fn usage(c: &Connection, query: &UsageQuery) -> Result<Vec<Usage>> {
    let user = match &query.wallet {
        Some(wallet) => Some(account(c, wallet)?.0),
        None => None,
    };
    Ok(usage::list(c, user, query)?)
}

/// Whether the ledger has this operation as this entry.
pub(super) fn is_written(
    c: &Connection,
    entry: i64,
    operation: OperationId,
) -> rusqlite::Result<bool> {
    let found: Option<[u8; 16]> = first(c, sql::SELECT_OPERATION, [entry], value)?;
    Ok(found == Some(*operation.as_bytes()))
}

pub(super) fn ledger(
    c: &Connection,
    wallet: &Wallet,
    before: Option<i64>,
    limit: usize,
) -> Result<(Credits, Vec<LedgerEntry>)> {
    // One transaction, so that the balance belongs to the entries.
    let c = c.unchecked_transaction()?;
    let balance = balance(&c, wallet)?;
    let page = params![wallet, before.unwrap_or(i64::MAX), count(limit)];
    Ok((balance, all(&c, sql::SELECT_LEDGER, page, entry_in)?))
}

/// The entry in the first thirteen columns.
pub(super) fn entry_in(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let operation = OperationId::from_bytes(row.get(5)?);
    let detail = |adapter| -> rusqlite::Result<ChargeDetail> {
        Ok(ChargeDetail {
            adapter,
            prompt_tokens: row.get(9)?,
            cached_tokens: row.get(10)?,
            completion_tokens: row.get(11)?,
            estimated: row.get(12)?,
            request_id: operation.to_string(),
            key_id: row.get(7)?,
        })
    };
    let adapter: Option<String> = row.get(8)?;
    Ok(LedgerEntry {
        id: row.get(0)?,
        amount: row.get(1)?,
        balance: row.get(2)?,
        reason: row.get(3)?,
        reference: row.get(4)?,
        detail: adapter.map(detail).transpose()?,
        created_at: row.get(6)?,
    })
}

#[cfg(test)]
mod tests;
