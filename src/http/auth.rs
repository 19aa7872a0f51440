//! Authentication and authorization: the owner of the key that was sent, and whether the route is for them.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::http::request::Parts;

use super::access_log::AccessLogGuard;
use super::context::single;
use super::route::{Auth, Route};
use super::{Result, limit, origin};
use crate::app::App;
use crate::auth::{CachedKey, KeyRecord, PlainKey, Principal, Scope};
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{Bucket, RateClass};
use crate::model::{Sample, Wallet};

/// The owner of the key that was sent, if any; a key has a rate of its own.
pub(super) async fn authenticate(
    app: &App,
    head: &Parts,
    class: RateClass,
    client: IpAddr,
    log_guard: &mut AccessLogGuard,
) -> Result<Option<Principal>> {
    let Some(text) = credentials(&head.headers)? else {
        // Only this process can have put it there: a command that answers its own requests.
        return Ok(head.extensions.get::<Principal>().cloned());
    };
    let found = find_key(app, text, client, log_guard).await;
    let key = found.inspect_err(|error| {
        if error.code.status() == 401 {
            app.metrics.table.auth_failures.inc();
        }
    })?;
    let principal = Principal::from(&key.record);
    log_guard.principal = Some(principal.clone());
    limit(app, log_guard, class, Bucket::Key(key.record.hash))?;
    Ok(Some(principal))
}

/// Checksum, hash, cache, store.
async fn find_key(
    app: &App,
    text: &str,
    client: IpAddr,
    log_guard: &mut AccessLogGuard,
) -> Result<Arc<CachedKey>> {
    let invalid = |detail| ApiError::new(ErrorCode::InvalidApiKey, detail);
    let malformed = "malformed API key: expected `r3mes_` and 49 characters with a valid checksum";
    let sent = PlainKey::parse(text).or_else(|| PlainKey::parse_imported(text));
    let sent = sent.ok_or_else(|| invalid(malformed))?;
    let (hash, keys, now) = (sent.hash(), &app.caches.keys, app.clock.latest());
    let key = match keys.get(&hash) {
        Some(key) => key,
        None => {
            // Counted before the look-up, so that guesses are limited before they cost a database read.
            limit(app, log_guard, RateClass::Failures, client.into())?;
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
            keys.insert(found?.ok_or_else(|| invalid("no such key"))?, generation)
        }
    };
    if key.record.is_revoked(now) {
        return Err(invalid("this key was revoked or replaced"));
    }
    // A login's token that lasts longer was made by a clock that was ahead.
    let longest = now.plus(app.config.auth.login_ttl + Sample::MAX_AHEAD);
    let outlasts = key.record.login && key.record.expires_at > Some(longest);
    if outlasts || !key.record.is_active(now) {
        let detail = "this key has expired";
        return Err(ApiError::new(ErrorCode::ExpiredApiKey, detail));
    }
    key.touch(app.clock.now());
    Ok(key)
}

/// The key as it was sent; `X-API-Key` wins. Credentials of a scheme other than Bearer are read as a malformed key.
fn credentials(headers: &HeaderMap) -> Result<Option<&str>> {
    if let Some(key) = single(headers, "X-API-Key")? {
        return Ok(Some(key.to_str().unwrap_or_default()));
    }
    let value = single(headers, "Authorization")?;
    Ok(value.map(|value| {
        let text = value.to_str().unwrap_or_default();
        match text.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => text,
        }
    }))
}

/// Why a request may not read public figures without a key, for an operator who did not expect it.
fn closed_reads(config: &Config, head: &Parts) -> Option<String> {
    let auth = &config.auth;
    let reason = match auth.public_reads {
        Some(true) => return None,
        Some(false) => "auth.public_reads is false",
        None if !auth.trusted_proxies.is_empty() => "auth.trusted_proxies is set",
        None if config.exposed().next().is_some() => "other machines can reach a listener",
        None => &format!(
            "a proxy forwarded this request (it has {})",
            origin::proxy_sign(head)?
        ),
    };
    let fix = "set auth.public_reads = true to open them";
    Some(format!(": public reads are closed, as {reason}; {fix}"))
}

/// Refuses a caller without permission for the route.
pub(super) fn authorize(
    config: &Config,
    head: &Parts,
    route: &Route,
    path_param: &str,
    principal: Option<&Principal>,
) -> Result<()> {
    let mut hint = String::new();
    if matches!(route.auth, Auth::Public | Auth::PublicElseMetrics) {
        match closed_reads(config, head) {
            None => return Ok(()),
            Some(reason) => hint = reason,
        }
    }
    let scope = match route.auth {
        Auth::Open => return Ok(()),
        Auth::Chat if principal.is_none() => return Ok(()),
        Auth::AnyKey => None,
        Auth::Chat => Some(Scope::Chat),
        Auth::Public => Some(Scope::Read),
        Auth::PublicElseMetrics => Some(Scope::Metrics),
        Auth::Admin => Some(Scope::Admin),
        Auth::Key(scope) | Auth::Own(scope) => Some(scope),
    };
    let Some(principal) = principal else {
        let detail = format!("send a key as X-API-Key or Authorization: Bearer{hint}");
        return Err(ApiError::new(ErrorCode::MissingCredentials, detail));
    };
    if principal.is_admin() {
        return Ok(());
    }
    if let Some(scope) = scope.filter(|scope| !principal.scopes.contains(*scope)) {
        let detail = format!("this needs a key with the scope {}", scope.as_str());
        return Err(ApiError::forbidden(detail));
    }
    let of_wallet = matches!(route.auth, Auth::Public | Auth::Own(_));
    let own = principal.wallet.as_ref().map(Wallet::as_str);
    if of_wallet && route.path.contains("{wallet}") && own != Some(path_param) {
        return Err(ApiError::other_wallet());
    }
    Ok(())
}

/// Whether a query contains a key, by the name of a parameter or the prefix of a value. Not percent-decoded: no client
/// encodes letters or underscores.
pub(super) fn holds_key(query: &str) -> bool {
    const NAMES: &str = "api_key apikey api-key x-api-key access_token token key";
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
    query.contains(PlainKey::PREFIX)
        || names.any(|name| {
            NAMES
                .split(' ')
                .any(|known| known.eq_ignore_ascii_case(name))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn a_key_in_a_query_is_detected_by_its_name_or_its_prefix() {
        for query in ["api_key=x", "a=b&Token=x", "q=r3mes_abc", "KEY"] {
            assert!(holds_key(query), "{query}");
        }
        assert!(!holds_key("limit=5&cursor=key_01J"));
    }

    proptest! {
        #[test]
        fn a_key_is_detected_at_every_position(before in "[a-z=&%]{0,6}", after in any::<String>(), name in "(api_key|apikey|api-key|x-api-key|access_token|token|key)", upper in any::<u16>()) {
            let shout = |(at, one): (usize, char)| if upper >> at & 1 == 1 { one.to_ascii_uppercase() } else { one };
            let name: String = name.chars().enumerate().map(shout).collect();
            let named = format!("{before}&{name}={after}");
            prop_assert!(holds_key(&named));
            let looks = format!("{before}r3mes_{after}");
            prop_assert!(holds_key(&looks));
            holds_key(&after);
        }

        #[test]
        fn a_query_without_a_key_passes(pairs in prop::collection::vec("(limit|days|cursor|keys|tokens)=[a-z0-9_]{0,4}", 0..4)) {
            prop_assert!(!holds_key(&pairs.join("&")));
        }

        #[test]
        fn no_header_makes_the_search_for_credentials_panic(value in prop::collection::vec(any::<u8>(), 0..40), scheme in "(Bearer |bearer  |Basic |)") {
            let value = [scheme.as_bytes(), &value].concat();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in ["authorization", "x-api-key"] {
                    let mut headers = HeaderMap::new();
                    headers.insert(name, value.clone());
                    let _ = credentials(&headers);
                }
            }
        }
    }
}
