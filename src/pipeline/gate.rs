//! Who asks, and may they?

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use super::origin;
use crate::app::App;
use crate::auth::{PlainKey, Principal, Scope};
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{Bucket, Decision, RateClass};
use crate::routes::{Auth, Route};
use crate::store::StoreError;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A key that was sent and opens something.
pub(super) struct AuthenticatedKey {
    pub(super) principal: Principal,
    pub(super) bucket: Bucket,
}

/// Header, checksum, hash, cache, store. `None` where no key was sent; `refused_by` is the rate that was in the way.
pub(super) async fn authenticate(
    app: &App,
    headers: &HeaderMap,
    client: IpAddr,
    refused_by: &mut Option<Decision>,
) -> Result<Option<AuthenticatedKey>, ApiError> {
    let Some(text) = credentials(headers)? else {
        return Ok(None);
    };
    let refused = |code, detail| {
        app.metrics.table.auth_failures.inc();
        Err(ApiError::new(code, detail))
    };
    let text = text.to_str().unwrap_or_default();
    let ours = PlainKey::parse(text);
    let imported = || PlainKey::parse_imported(text).filter(|_| app.store.has_imported_keys());
    let is_ours = ours.is_some();
    let Some(sent) = ours.or_else(imported) else {
        return refused(
            ErrorCode::InvalidApiKey,
            "malformed API key: expected `r3mes_` and 49 characters with a valid checksum",
        );
    };
    let hash = sent.hash();
    let known = app.caches.keys.get(&hash);
    let looked_up = known.is_none();
    let key = match known {
        Some(key) => key,
        None => {
            // Counted before the look-up, so that guessing costs the guesser and not the file.
            if let Some(verdict) = app
                .limits
                .check(RateClass::Failures, client)
                .filter(|verdict| verdict.retry_after.is_some())
            {
                app.metrics.limited(RateClass::Failures);
                return Err((&*refused_by.insert(verdict)).into());
            }
            app.metrics.table.key_lookups.inc();
            let generation = app.caches.keys.generation();
            let looked_up = async {
                let found = app.store.key_by_hash(hash).await?;
                if found.is_some() || is_ours {
                    return Ok(found);
                }
                let start = sent.start().to_owned();
                app.store.adopt_key(sent.sha256(), hash, start).await
            };
            // What the storage could not say is no failure of the client's.
            let give_back = |_: &StoreError| app.limits.give_back(RateClass::Failures, client);
            match looked_up.await.inspect_err(give_back)? {
                Some(record) => app.caches.keys.insert(record, generation),
                None => return refused(ErrorCode::InvalidApiKey, "no such key"),
            }
        }
    };
    let now = app.clock.now();
    if key.record.is_revoked(now) {
        let detail = "this key was revoked, or another took its place";
        return refused(ErrorCode::InvalidApiKey, detail);
    }
    if key.record.is_expired(now) {
        return refused(ErrorCode::ExpiredApiKey, "this key has expired");
    }
    if looked_up {
        // It was no guess: whoever comes with many keys after a restart is not kept out with the twenty-first.
        app.limits.give_back(RateClass::Failures, client);
    }
    key.touch(now);
    Ok(Some(AuthenticatedKey {
        principal: Principal::from(&key.record),
        bucket: Bucket::from(&hash),
    }))
}

/// The key as it was sent; `X-API-Key` wins.
fn credentials(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut keys = headers.get_all(&X_API_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(_), Some(_)) => {
            return Err(ApiError::parameter(
                "X-API-Key",
                "is a duplicate header; send it once",
            ));
        }
        (Some(key), None) => return Ok(Some(key.clone())),
        (None, _) => {}
    }
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let (scheme, key) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(HeaderValue::from_str(key.trim()).ok());
    }
    // Another scheme: credentials, but none that open anything here.
    Ok(Some(value.clone()))
}

/// Whether a request may read public figures without a key.
///
/// # Errors
/// Why it may not, for the operator who did not expect it.
fn public_reads(config: &Config, head: &Parts) -> Result<(), String> {
    let reason = match config.auth.public_reads {
        Some(true) => return Ok(()),
        Some(false) => return Err("auth.public_reads is false".to_owned()),
        None if !config.auth.trusted_proxies.is_empty() => {
            "while auth.trusted_proxies is set".to_owned()
        }
        None if config.exposed().next().is_some() => {
            "while a listener can be reached from other machines".to_owned()
        }
        None => match origin::proxy_sign(head) {
            None => return Ok(()),
            Some(sign) => format!("for proxied requests (this one has {sign})"),
        },
    };
    Err(format!(
        "public reads are closed {reason}; set auth.public_reads = true if everybody may read"
    ))
}

/// Whether the caller may call the route.
pub(super) fn authorize(
    config: &Config,
    head: &Parts,
    route: &Route,
    part: &str,
    principal: Option<&Principal>,
) -> Result<(), ApiError> {
    let is_public = matches!(route.auth, Auth::Public | Auth::PublicElseAdmin);
    let closed = match is_public.then(|| public_reads(config, head)) {
        Some(Ok(())) => return Ok(()),
        Some(Err(reason)) => Some(reason),
        None => None,
    };
    let missing = || {
        let mut detail = "send a key as X-API-Key or Authorization: Bearer".to_owned();
        if let Some(reason) = &closed {
            detail += &format!(": {reason}");
        }
        ApiError::new(ErrorCode::MissingCredentials, detail)
    };
    let forbidden = |detail: String| Err(ApiError::new(ErrorCode::Forbidden, detail));
    let needs = |scope: Scope| -> Result<&Principal, ApiError> {
        let principal = principal.ok_or_else(missing)?;
        if principal.is_admin() || principal.scopes.contains(scope) {
            return Ok(principal);
        }
        Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("this needs a key with the scope {}", scope.as_str()),
        ))
    };
    let of_the_wallet = |principal: &Principal| {
        let named = route.path.contains("{wallet}");
        let own = principal.is_admin()
            || principal
                .wallet
                .is_some_and(|wallet| wallet.as_str() == part);
        if named && !own {
            forbidden("this key belongs to another wallet".to_owned())
        } else {
            Ok(())
        }
    };
    match route.auth {
        Auth::Open => Ok(()),
        Auth::Public | Auth::Own(Scope::Read) => of_the_wallet(needs(Scope::Read)?),
        Auth::Own(scope) => of_the_wallet(needs(scope)?),
        Auth::PublicElseAdmin | Auth::Admin => needs(Scope::Admin).map(drop),
        Auth::Key(scope) => needs(scope).map(drop),
        Auth::AnyKey => principal.map(drop).ok_or_else(missing),
        Auth::Chat if principal.is_none() => Ok(()),
        Auth::Chat => needs(Scope::Chat).map(drop),
    }
}

/// Whether a query holds a key, by its name or its look, percent-encoded or not.
pub(super) fn holds_key(query: &str) -> bool {
    const NAMES: [&str; 7] = [
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
        "access_token",
        "token",
        "key",
    ];
    let query = decoded(query);
    let named = |pair: &str| {
        NAMES.iter().any(|name| {
            pair.split('=')
                .next()
                .is_some_and(|given| given.eq_ignore_ascii_case(name))
        })
    };
    query.contains(PlainKey::PREFIX) || query.split('&').any(named)
}

/// With `%XX` replaced by what it stands for (RFC 3986, 2.1); what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_in_a_query_is_noticed_by_its_name_or_its_look() {
        for query in [
            "api_key=x",
            "a=b&Token=x",
            "q=r3mes_abc",
            "KEY",
            "api%5Fkey=x",
            "q=%723mes_abc",
        ] {
            assert!(holds_key(query), "{query}");
        }
        assert!(!holds_key("limit=5&cursor=key_01J"));
    }

    proptest! {
        #[test]
        fn a_key_is_noticed_wherever_it_stands(before in "[a-z=&%]{0,6}", after in any::<String>(), name in "(api_key|apikey|api-key|x-api-key|access_token|token|key)", upper in any::<u16>()) {
            let shout = |(at, one): (usize, char)| if upper >> at & 1 == 1 { one.to_ascii_uppercase() } else { one };
            let name: String = name.chars().enumerate().map(shout).collect();
            let named = format!("{before}&{name}={after}");
            prop_assert!(holds_key(&named));
            let looks = format!("{before}r3mes_{after}");
            prop_assert!(holds_key(&looks));
            holds_key(&after);
        }

        #[test]
        fn a_query_without_one_is_let_through(pairs in prop::collection::vec("(limit|days|cursor|keys|tokens)=[a-z0-9_]{0,4}", 0..4)) {
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
