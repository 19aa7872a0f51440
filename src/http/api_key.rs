//! The key with a given text: checksum, hash, cache, store; what is no valid key counts against its sender's address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Result, limit};
use crate::app::App;
use crate::auth::{CachedKey, KeyRecord, PlainKey, Principal, Scope};
use crate::error::{ApiError, ErrorCode};
use crate::limits::{Decision, RateClass, seconds_up};
use crate::model::Sample;
use crate::store::StoreError;

/// Why [`EdgeServer::authenticate`](crate::EdgeServer::authenticate) refuses a key. The texts are for its sender.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Not the form of a key, or mistyped: nothing was looked up.
    #[error("malformed API key: expected `r3mes_` and 49 characters with a valid checksum")]
    Malformed,
    /// There is no such key.
    #[error("no such key")]
    Unknown,
    /// It was revoked or replaced.
    #[error("this key was revoked or replaced")]
    Revoked,
    /// It has expired.
    #[error("this key has expired")]
    Expired,
    /// It is valid, but lacks this scope.
    #[error("this needs a key with the scope {}", .0.as_str())]
    MissingScope(Scope),
    /// The account of its wallet is blocked, and may not pay.
    #[error("the account of this wallet is blocked; ask the operator")]
    Blocked,
    /// This address sent too many keys that are not valid, by the rate `failures` of the configuration.
    #[error("too many requests of the class failures; retry in {} s", seconds_up(*.retry_after).max(1))]
    RateLimited {
        /// When the next may be sent.
        retry_after: Duration,
    },
    /// The storage could not tell; the key may be valid.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let text = error.to_string();
        match error {
            AuthError::Malformed | AuthError::Unknown | AuthError::Revoked => {
                Self::new(ErrorCode::InvalidApiKey, text)
            }
            AuthError::Expired => Self::new(ErrorCode::ExpiredApiKey, text),
            AuthError::MissingScope(_) => Self::forbidden(text),
            AuthError::Blocked => Self::new(ErrorCode::AccountBlocked, text),
            AuthError::RateLimited { retry_after } => {
                Self::new(ErrorCode::RateLimited, text).retry_after(retry_after)
            }
            AuthError::Store(error) => error.into(),
        }
    }
}

/// The owner of a key, if it has the scope.
pub(crate) async fn authenticate(
    app: &App,
    text: &str,
    scope: Option<Scope>,
    client: IpAddr,
) -> Result<Principal, AuthError> {
    let key = find(app, text.trim(), client, &mut None).await?;
    let principal = Principal::from(&*key);
    match scope {
        Some(scope) if !principal.is_admin() && !principal.scopes.contains(scope) => {
            Err(AuthError::MissingScope(scope))
        }
        Some(Scope::Chat) if principal.is_blocked => Err(AuthError::Blocked),
        _ => Ok(principal),
    }
}

/// The key with this text, if it is valid now; `shown` is the budget of failures where it is spent.
pub(super) async fn find(
    app: &App,
    text: &str,
    client: IpAddr,
    shown: &mut Option<Decision>,
) -> Result<Arc<CachedKey>, AuthError> {
    let invalid = |error| {
        app.metrics.table.auth_failures.inc();
        error
    };
    let sent = PlainKey::parse(text).or_else(|| PlainKey::parse_imported(text));
    let sent = sent.ok_or_else(|| invalid(AuthError::Malformed))?;
    let (hash, keys, now) = (sent.hash(), &app.caches.keys, app.clock.latest());
    let key = match keys.get(&hash) {
        Some(key) => key,
        None => {
            // Counted before the look-up, so that guesses are limited before they cost a database read.
            limit(app, shown, RateClass::Failures, client.into()).map_err(|error| {
                AuthError::RateLimited {
                    retry_after: error.retry_after.unwrap_or_default(),
                }
            })?;
            app.metrics.table.key_lookups.inc();
            let generation = keys.generation();
            let found = match app.store.key_by_hash(hash).await {
                Ok(None) if text.len() < PlainKey::LENGTH => {
                    let start = sent.start().to_owned();
                    app.store.adopt_key(sent.sha256(), hash, start).await
                }
                found => found,
            };
            // Neither a storage error nor a valid key is a guess.
            let valid =
                |key: &Option<KeyRecord>| key.as_ref().is_some_and(|key| key.is_active(now));
            if found.as_ref().map_or(true, valid) {
                app.limits().uncount(RateClass::Failures, client);
            }
            let record = found?.ok_or_else(|| invalid(AuthError::Unknown))?;
            let is_blocked = match record.wallet {
                Some(wallet) => app.store.user(wallet).await?.blocked,
                None => false,
            };
            keys.insert(record, is_blocked, generation)
        }
    };
    if key.record.is_revoked(now) {
        return Err(invalid(AuthError::Revoked));
    }
    // A login's token that lasts longer was made by a clock that was ahead.
    let longest = now.plus(app.config.auth.login_ttl + Sample::MAX_AHEAD);
    let outlasts = key.record.login && key.record.expires_at > Some(longest);
    if outlasts || !key.record.is_active(now) {
        return Err(invalid(AuthError::Expired));
    }
    key.touch(app.clock.now());
    Ok(key)
}
