//! Accounts: making and listing them, their credits and their ledger.

use serde::{Deserialize, Serialize};

use super::{Context, PageQuery, Result, cursor, cut_page, page_size};
use crate::error::{ApiError, ErrorCode};
use crate::http::response::{self, json};
use crate::model::{Credits, InputError, Wallet, exact_credits};
use crate::store::{
    Granted, LedgerEntry, StoreError, StoredResponse, User, ledger_id, parse_ledger_id,
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

#[derive(Serialize)]
struct Users {
    users: Vec<User>,
    next_cursor: Option<Wallet>,
}

pub(crate) async fn list(ctx: Context) -> Result {
    let query: PageQuery = ctx.query()?;
    let limit = page_size(query.limit);
    let after = cursor(query.cursor, |text| Wallet::parse(text).ok())?;
    let mut users = ctx.app.store.users(after, limit + 1).await?;
    let next_cursor = cut_page(&mut users, limit, |user| user.wallet_address);
    let now = ctx.app.clock.now();
    let users = users.into_iter().map(|user| user.seen_at(now)).collect();
    json(&Users { users, next_cursor })
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

pub(crate) async fn ledger(ctx: Context) -> Result {
    let wallet_address = ctx.wallet()?;
    let query: PageQuery = ctx.query()?;
    let limit = page_size(query.limit);
    let before = cursor(query.cursor, parse_ledger_id)?;
    let ledger = ctx.app.store.ledger(wallet_address, before, limit + 1);
    let (credits, mut entries) = ledger.await?;
    let next_cursor = cut_page(&mut entries, limit, |entry| ledger_id(entry.id));
    json(&Ledger {
        wallet_address,
        credits,
        entries,
        next_cursor,
    })
}
