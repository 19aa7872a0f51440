//! Authentication and authorization: the owner of the key that was sent, and whether the route is for them.

use std::net::IpAddr;
use std::time::Duration;

use hyper::http::request::Parts;

use super::access_log::AccessLogGuard;
use super::context::single;
use super::route::{Auth, Route};
use super::{AuthError, Result, api_key, is_anthropic, limit, origin};
use crate::app::App;
use crate::auth::{PlainKey, Principal, Scope};
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{Bucket, ConcurrencyPermit, RateClass};
use crate::model::Wallet;

/// The caller of a request, and where its key has limits, a paid one's place among those that may run.
pub(super) type Authenticated = (Option<Principal>, Option<ConcurrencyPermit<i64>>);

/// The owner of the key that was sent, if any; a key has a rate of its own.
pub(super) async fn authenticate(
    app: &App,
    head: &Parts,
    class: RateClass,
    client: IpAddr,
    log_guard: &mut AccessLogGuard,
) -> Result<Authenticated> {
    let Some(text) = credentials(head)? else {
        // Only this process can have put it there: a command that answers its own requests.
        return Ok((head.extensions.get::<Principal>().cloned(), None));
    };
    let key = api_key::find(app, text, client, &mut log_guard.rate).await?;
    let principal = Principal::from(&*key);
    log_guard.principal = Some(principal.clone());
    // Before the rate, which a request that cannot run does not count against.
    let permit = match class {
        RateClass::Chat => concurrency_permit(app, &principal)?,
        _ => None,
    };
    limit(
        app,
        &mut log_guard.rate,
        class,
        Bucket::Key(key.record.hash),
    )?;
    Ok((Some(principal), permit))
}

/// A place among the paid requests that may run at a time by the limits of a key, if it has such a limit.
fn concurrency_permit(app: &App, principal: &Principal) -> Result<Option<ConcurrencyPermit<i64>>> {
    let limits = principal.limits.as_ref();
    let Some((id, most)) = limits.and_then(|limits| Some((limits.id, limits.max_concurrency?)))
    else {
        return Ok(None);
    };
    match app.key_requests.try_acquire(id, most as usize) {
        Some((permit, _)) => Ok(Some(permit)),
        None => {
            let detail = format!(
                "{most} paid requests of this key run, as many as its limits allow; retry when one has ended"
            );
            let error = ApiError::new(ErrorCode::ConcurrencyLimited, detail);
            Err(error.retry_after(Duration::from_secs(1)))
        }
    }
}

/// The key as it was sent. An empty header is none, and so is a credential that is no key beside one that is: clients send
/// both headers, one of them with what another server wants. Credentials of a scheme other than Bearer are read as a
/// malformed key.
fn credentials(head: &Parts) -> Result<Option<&str>> {
    let text = |name| -> Result<Option<&str>> {
        let value = single(&head.headers, name)?;
        let text = value.map(|value| value.to_str().unwrap_or("?").trim());
        Ok(text.filter(|text| !text.is_empty()))
    };
    let own = text("X-API-Key")?;
    let bearer = text("Authorization")?.map(|text| match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
        _ if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    });
    let bearer = bearer.filter(|text| !text.is_empty());
    let (Some(first), Some(second)) = (own, bearer) else {
        return Ok(own.or(bearer));
    };
    let is_key = |text| PlainKey::parse(text).is_some() || PlainKey::parse_imported(text).is_some();
    match (is_key(first), is_key(second)) {
        (false, true) => Ok(Some(second)),
        // Anthropic's clients send a token of the environment beside the key that they were given.
        (true, true) if first != second && !is_anthropic(head.uri.path()) => {
            let detail = "X-API-Key and Authorization hold different keys; send one of them";
            Err(ApiError::new(ErrorCode::InvalidRequest, detail))
        }
        _ => Ok(Some(first)),
    }
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
        return Err(AuthError::MissingScope(scope).into());
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

    fn head<'a>(path: &str, headers: impl IntoIterator<Item = (&'a str, HeaderValue)>) -> Parts {
        let mut request = hyper::Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_header_that_is_empty_or_no_key_is_ignored_beside_one_that_is() {
        let [one, two] = [(); 2].map(|()| PlainKey::generate().unwrap().reveal().to_owned());
        let sent = |path: &str, own: &str, bearer: &str| {
            let own = HeaderValue::from_str(own).unwrap();
            let bearer = HeaderValue::from_str(bearer).unwrap();
            let head = head(path, [("x-api-key", own), ("authorization", bearer)]);
            let found = credentials(&head).map(|found| found.map(str::to_owned));
            found.map_err(|error| error.code)
        };
        let bearer = format!("Bearer {two}");
        for empty in ["", " ", "none", "sk-123"] {
            assert_eq!(
                sent("/chat", empty, &bearer),
                Ok(Some(two.clone())),
                "{empty}"
            );
            assert_eq!(sent("/chat", &one, empty), Ok(Some(one.clone())), "{empty}");
            assert_eq!(
                sent("/chat", &one, &format!("Bearer {empty}")),
                Ok(Some(one.clone()))
            );
        }
        assert_eq!(sent("/chat", "", "Bearer"), Ok(None));
        assert_eq!(
            sent("/chat", "no", "Bearer nor this"),
            Ok(Some("no".to_owned()))
        );
        assert_eq!(sent("/chat", &two, &bearer), Ok(Some(two.clone())));
        let refused = sent("/v1/chat/completions", &one, &bearer);
        assert_eq!(refused, Err(ErrorCode::InvalidRequest));
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            assert_eq!(sent(path, &one, &bearer), Ok(Some(one.clone())));
        }
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
                for names in [&["authorization"][..], &["x-api-key"], &["authorization", "x-api-key"]] {
                    let _ = credentials(&head("/chat", names.iter().map(|name| (*name, value.clone()))));
                }
            }
        }
    }
}
