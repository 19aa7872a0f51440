use hyper::StatusCode;

use super::page_limit;
use crate::app::App;
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Credits, Fields, Wallet, text};
use crate::store::{
    Done, Granted, Kept, LedgerEntry, StoreError, User, ledger_id, parse_ledger_id,
};

pub(super) async fn create(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet =
        Fields::parse(call.text()?, "", &["wallet_address"])?.required_wallet("wallet_address")?;
    if !call.principal()?.owns(&wallet) {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "this key belongs to another wallet",
        ));
    }
    let answer = |user: &User| Kept {
        status: 201,
        answer: serde_json::to_string(user).ok(),
        reference: None,
    };
    match app
        .store
        .create_user(wallet, app.clock.now(), call.once(None, answer)?)
        .await?
    {
        Done::New(user) => Reply::given(answer(&user)),
        Done::Again(kept) => Reply::again(kept),
    }
}

pub(super) async fn list(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let parameters = call.parameters(&["limit", "cursor"])?;
    let limit = page_limit(&parameters)?;
    let read = |cursor| {
        Wallet::parse(cursor).map_err(|_| {
            ApiError::parameter("cursor", "must be the next_cursor of an earlier page")
        })
    };
    let after = parameters.get("cursor").map(read).transpose()?;
    let mut users = app.store.users(after, limit + 1).await?;
    let more = users.len() > limit;
    users.truncate(limit);
    let last = users.last().filter(|_| more);
    let next_cursor = last.map(|user| user.wallet_address);
    Reply::json(
        StatusCode::OK,
        &object! { users: users, next_cursor: next_cursor },
    )
}

pub(super) async fn get(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let user = app
        .store
        .user(call.wallet()?)
        .await?
        .ok_or(StoreError::UserNotFound)?;
    Reply::json(StatusCode::OK, &user)
}

pub(super) async fn grant(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet = call.wallet()?;
    let fields = Fields::parse(call.text()?, "", &["amount", "reason"])?;
    let amount = fields.required("amount", |value| Credits::parse(value.get()))?;
    if amount == Credits::ZERO {
        return Err(fields.refused("amount", "must not be 0").into());
    }
    let reason = fields.required("reason", |value| LedgerEntry::reason(&text(value)?))?;
    let answer = |(entry, _): &(LedgerEntry, bool)| Kept {
        status: 200,
        answer: serde_json::to_string(&Granted::from(entry)).ok(),
        reference: Some(ledger_id(entry.id)),
    };
    let granted = app
        .store
        .grant(
            wallet,
            amount,
            reason,
            app.clock.now(),
            call.once(None, answer)?,
        )
        .await;
    let granted = granted.map_err(|error| match error {
        // A client that cannot pay gets 402; an admin who would take too much is told that it does not fit.
        StoreError::Insufficient { balance, .. } => ApiError::new(
            ErrorCode::Conflict,
            format!("the wallet has {balance} credits; its balance cannot go below zero"),
        ),
        other => other.into(),
    })?;
    match granted {
        Done::New(granted) => Reply::given(answer(&granted)),
        Done::Again(kept) => Reply::again(kept),
    }
}

pub(super) async fn ledger(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet = call.wallet()?;
    let parameters = call.parameters(&["limit", "cursor"])?;
    let limit = page_limit(&parameters)?;
    let read = |cursor| {
        parse_ledger_id(cursor).ok_or_else(|| {
            ApiError::parameter("cursor", "must be the next_cursor of an earlier page")
        })
    };
    let before = parameters.get("cursor").map(read).transpose()?;
    let (credits, mut entries) = app
        .store
        .ledger(wallet, before, limit + 1)
        .await?
        .ok_or(StoreError::UserNotFound)?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = if more {
        entries.last().map(|entry| ledger_id(entry.id))
    } else {
        None
    };
    let body = object! { wallet_address: wallet, credits: credits, entries: entries, next_cursor: next_cursor };
    Reply::json(StatusCode::OK, &body)
}
