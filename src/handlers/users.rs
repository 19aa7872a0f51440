//! Accounts: making and listing them, their credits and their ledger.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Context, Format, PageSize, Result, cursor, cut_page, page_size, table};
use crate::error::{ApiError, ErrorCode};
use crate::http::response::{self, json};
use crate::model::{Credits, InputError, Wallet, exact_credits};
use crate::store::{
    Granted, LedgerEntry, ListedUser, StoreError, StoredResponse, User, UserQuery, UserSort,
    ledger_id, parse_ledger_id,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRequest {
    wallet_address: Wallet,
}

pub(crate) async fn create(ctx: Context) -> Result {
    let wallet = ctx.json::<UserRequest>()?.wallet_address;
    ctx.check_owner(&wallet)?;
    let stored = |user: &User| StoredResponse {
        status: 201,
        answer: serde_json::to_string(user).ok(),
        reference: None,
    };
    let idempotency = ctx.idempotency(None, stored)?;
    let created = ctx.app.store.create_user(wallet, ctx.actor(), idempotency);
    let done = created.await?;
    response::idempotent(done, stored)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Read as it was written, where a number has lost its zeros.
    #[serde(rename = "search")]
    _search: Option<IgnoredAny>,
    #[serde(default)]
    sort: UserSort,
    limit: Option<PageSize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Users {
    users: Vec<ListedUser>,
    next_cursor: Option<String>,
}

pub(crate) async fn list(ctx: Context) -> Result {
    /// More than an address has.
    const LONGEST: usize = 64;
    let query: ListQuery = ctx.query()?;
    let (sort, limit) = (query.sort, page_size(query.limit));
    let search = ctx.text_parameter("search").unwrap_or_default();
    if !search.is_ascii() || search.len() > LONGEST {
        let detail =
            format!("must be a part of a wallet address: at most {LONGEST} characters of ASCII");
        return Err(ApiError::parameter("search", &detail));
    }
    let asked = UserQuery {
        // As addresses are.
        search: search.to_ascii_lowercase(),
        sort,
        after: cursor(query.cursor, |text| account_after(sort, text))?,
        limit: limit + 1,
    };
    let mut users = ctx.app.store.users(asked).await?;
    let of_last = |last: &ListedUser| cursor_of(sort, sort.value(last), last.user.wallet_address);
    let next_cursor = cut_page(&mut users, limit, of_last);
    let now = ctx.app.clock.now();
    for listed in &mut users {
        listed.user = listed.user.clone().seen_at(now);
    }
    json(&Users { users, next_cursor })
}

/// The last account of a page as a cursor.
fn cursor_of(sort: UserSort, value: i64, wallet: Wallet) -> String {
    match sort {
        UserSort::Address => wallet.to_string(),
        _ => format!("{value}.{wallet}"),
    }
}

/// Reads what [`cursor_of`] writes.
fn account_after(sort: UserSort, text: &str) -> Option<(i64, Wallet)> {
    let (value, wallet) = text.rsplit_once('.').unwrap_or(("0", text));
    let (value, wallet) = (value.parse().ok()?, Wallet::parse(wallet).ok()?);
    (cursor_of(sort, value, wallet) == text).then_some((value, wallet))
}

pub(crate) async fn get(ctx: Context) -> Result {
    let user = ctx.app.store.user(ctx.wallet()?).await?;
    json(&user.seen_at(ctx.app.clock.now()))
}

pub(crate) async fn block(ctx: Context) -> Result {
    set_blocked(ctx, true).await
}

pub(crate) async fn unblock(ctx: Context) -> Result {
    set_blocked(ctx, false).await
}

async fn set_blocked(ctx: Context, blocked: bool) -> Result {
    let (store, actor) = (&ctx.app.store, ctx.actor());
    let user = store.set_blocked(ctx.wallet()?, blocked, actor).await?;
    json(&user.seen_at(ctx.app.clock.now()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    #[serde(deserialize_with = "exact_credits")]
    amount: Credits,
    reason: String,
    reference: Option<String>,
}

pub(crate) async fn grant(ctx: Context) -> Result {
    let wallet = ctx.wallet()?;
    let GrantRequest {
        amount,
        reason,
        reference,
    } = ctx.json()?;
    if amount == Credits::ZERO {
        return Err(InputError::member("amount", "must not be 0").into());
    }
    let reason =
        LedgerEntry::reason(&reason).map_err(|detail| InputError::member("reason", detail))?;
    if let Some(reference) = &reference {
        LedgerEntry::reference(reference)
            .map_err(|detail| InputError::member("reference", detail))?;
    }
    let stored = |(entry, _): &(LedgerEntry, bool)| StoredResponse {
        status: 200,
        answer: serde_json::to_string(&Granted::from(entry)).ok(),
        reference: Some(ledger_id(entry.id)),
    };
    let idempotency = ctx.idempotency(None, stored)?;
    let (store, actor) = (&ctx.app.store, ctx.actor());
    let granted = store.grant(wallet, amount, reason, reference, actor, idempotency);
    let done = granted.await.map_err(|error| match error {
        // A client that cannot pay gets 402; an admin who would debit too much gets 409.
        StoreError::Insufficient { balance, .. } => ApiError::new(
            ErrorCode::Conflict,
            format!("{balance} credits of the wallet are available; no more can be taken"),
        ),
        other => other.into(),
    })?;
    response::idempotent(done, stored)
}

#[derive(Serialize)]
struct Ledger {
    wallet_address: Wallet,
    credits: Credits,
    entries: Vec<LedgerEntry>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerQuery {
    limit: Option<PageSize>,
    cursor: Option<String>,
    format: Option<Format>,
}

pub(crate) async fn ledger(ctx: Context) -> Result {
    let wallet_address = ctx.wallet()?;
    let query: LedgerQuery = ctx.query()?;
    let limit = page_size(query.limit);
    let before = cursor(query.cursor, parse_ledger_id)?;
    let ledger = ctx.app.store.ledger(wallet_address, before, limit + 1);
    let (credits, mut entries) = ledger.await?;
    let next_cursor = cut_page(&mut entries, limit, |entry| ledger_id(entry.id));
    let next = next_cursor.as_ref().map(|cursor| {
        let format = Format::parameter(query.format);
        format!("/users/{wallet_address}/ledger?limit={limit}&cursor={cursor}{format}")
    });
    let ledger = Ledger {
        wallet_address,
        credits,
        entries,
        next_cursor,
    };
    table(&ctx, query.format, &ledger, csv, next)
}

fn csv(ledger: &Ledger) -> String {
    let mut text = format!("{}\r\n", LedgerEntry::CSV_HEADER);
    for entry in &ledger.entries {
        text += &entry.csv_record(ledger.wallet_address);
        text += "\r\n";
    }
    text
}
