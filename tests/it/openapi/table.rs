//! What the document says of a route because of its row in the table: who may call it, what its path holds, and the
//! refusals that a key, a body or a rate brings. Everything else of an operation is written by hand in the file.

use std::collections::{BTreeMap, BTreeSet};

use r3mes_edge::auth::Scope;
use r3mes_edge::error::ErrorCode as E;
use r3mes_edge::routes::{Auth, BodyClass, Route};
use serde_json::{Value, json};

/// Updates an operation from its route.
pub(super) fn update(operation: &mut Value, route: &Route) {
    operation["description"] = who(route.auth).into();
    operation["security"] = security(route.auth);
    let names = [
        ("{wallet}", "Wallet"),
        ("models/{id}", "ModelId"),
        ("keys/{id}", "KeyId"),
        ("backups/{name}", "BackupName"),
        ("{name}", "BreakerName"),
    ];
    let in_path = names
        .into_iter()
        .find(|(part, _)| route.path.contains(part));
    if let Some((_, name)) = in_path {
        let parameter = reference("parameters", name);
        let mut all = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if !all.contains(&parameter) {
            all.insert(0, parameter);
        }
        operation["parameters"] = all.into();
    }
    let responses = operation["responses"].as_object_mut().unwrap();
    for status in implied(route).map(E::status) {
        responses.insert(status.to_string(), Value::Null);
    }
    let prefix = prefix(route);
    for (status, response) in responses {
        let status: u16 = status.parse().unwrap();
        if status >= 400 {
            *response = reference("responses", &format!("{prefix}{}", name(status)));
        }
    }
}

/// How the names of its error responses begin: those of Anthropic's API have a shape of their own.
fn prefix(route: &Route) -> &'static str {
    match route.path.starts_with("/v1/messages") {
        true => "Anthropic",
        false => "",
    }
}

/// Updates the components from the table of errors: one response for each status.
pub(super) fn update_components(components: &mut Value) {
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for code in E::ALL {
        by_status
            .entry(code.status())
            .or_default()
            .push(code.as_str());
        // One name may stand for two statuses.
        if !names.contains(&code.as_str()) {
            names.push(code.as_str());
        }
    }
    // A method that no route has belongs to no operation.
    by_status.remove(&E::MethodNotAllowed.status());
    components["schemas"]["ErrorCode"] = json!({ "enum": names });
    components["responses"] = json!({});
    for (status, codes) in by_status {
        components["responses"][name(status)] = problem(status, &codes);
    }
}

/// Updates the components of Anthropic's API: the error responses that its operations have.
pub(super) fn update_anthropic(document: &mut Value) {
    let operations = document["paths"].as_object().unwrap().iter();
    let operations = operations.filter(|(path, _)| path.starts_with("/v1/messages"));
    let statuses: BTreeSet<u16> = operations
        .flat_map(|(_, item)| item["post"]["responses"].as_object().unwrap().keys())
        .map(|status| status.parse().unwrap())
        .filter(|status| *status >= 400)
        .collect();
    let responses = &mut document["components"]["responses"];
    for status in statuses {
        let mut response = responses[name(status)].clone();
        response["headers"]["request-id"] = reference("headers", "AnthropicRequestId");
        let schema = reference("schemas", "AnthropicError");
        response["content"] = json!({ "application/json": { "schema": schema } });
        responses[format!("Anthropic{}", name(status))] = response;
    }
}

/// The status's name in RFC 9110, as a component is called.
fn name(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        401 => "Unauthorized",
        402 => "PaymentRequired",
        403 => "Forbidden",
        404 => "NotFound",
        408 => "RequestTimeout",
        409 => "Conflict",
        413 => "ContentTooLarge",
        415 => "UnsupportedMediaType",
        421 => "MisdirectedRequest",
        422 => "UnprocessableContent",
        429 => "TooManyRequests",
        500 => "InternalServerError",
        501 => "NotImplemented",
        502 => "BadGateway",
        503 => "ServiceUnavailable",
        504 => "GatewayTimeout",
        status => panic!("{status} needs a name here"),
    }
}

/// The error responses that follow from a route's row.
fn implied(route: &Route) -> impl Iterator<Item = E> {
    // A Host or an Origin that is not allowed, duplicate headers.
    let mut codes = vec![
        E::KeyInQuery,
        E::RateLimited,
        E::Internal,
        E::Overloaded,
        E::InvalidRequest,
        E::Forbidden,
        E::WrongHost,
    ];
    if !route.while_draining {
        codes.push(E::ShuttingDown);
    }
    if route.path.contains("{wallet}") {
        codes.push(E::InvalidWallet);
    }
    // A key has to be looked up.
    if route.auth != Auth::Open {
        codes.extend([
            E::MissingCredentials,
            E::InvalidApiKey,
            E::ExpiredApiKey,
            E::StorageUnavailable,
        ]);
    }
    if route.body != BodyClass::None {
        // A body with a Content-Encoding; without a key, one of another type than JSON too.
        codes.extend([
            E::InvalidJson,
            E::RequestTimeout,
            E::BodyTooLarge,
            E::UnsupportedMediaType,
        ]);
    }
    codes.into_iter()
}

fn problem(status: u16, codes: &[&str]) -> Value {
    let quoted: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let mut headers = json!({
        "X-Request-Id": reference("headers", "RequestId"),
        "RateLimit": reference("headers", "RateLimit"),
        "RateLimit-Policy": reference("headers", "RateLimitPolicy"),
    });
    if matches!(status, 429 | 503) {
        headers["Retry-After"] = reference("headers", "RetryAfter");
    }
    if status == 409 {
        headers["Retry-After"] = reference("headers", "RetryAfterInProgress");
    }
    if status == 401 {
        headers["WWW-Authenticate"] = reference("headers", "WwwAuthenticate");
    }
    // The reference alone: generators give up a narrower schema, and with it the type of the error.
    let schema = reference("schemas", "Problem");
    json!({
        "description": quoted.join(", "),
        "headers": headers,
        "content": { "application/problem+json": { "schema": schema } },
    })
}

fn who(auth: Auth) -> String {
    let scoped = |scope: Scope| format!("Needs a key with the scope `{}`", scope.as_str());
    match auth {
        Auth::Open => "Open to anybody.".to_owned(),
        Auth::Public => "Open where public reads are on; else needs a key with the scope `read`, of this wallet where the path names one.".to_owned(),
        Auth::PublicElseMetrics => "Open where public reads are on; else needs a key with the scope `metrics`.".to_owned(),
        Auth::AnyKey => "Needs a key.".to_owned(),
        Auth::Key(scope) => scoped(scope) + ".",
        Auth::Own(scope) => scoped(scope) + ", of this wallet.",
        Auth::Chat => scoped(Scope::Chat) + ".",
        Auth::Admin => "Needs an admin's key.".to_owned(),
    }
}

/// The names in the arrays are roles (OpenAPI 3.1, Security Requirement Object).
fn security(auth: Auth) -> Value {
    let keys = |roles: &[Scope]| {
        let roles: Vec<_> = roles.iter().map(|scope| scope.as_str()).collect();
        [
            json!({ "ApiKeyAuth": roles }),
            json!({ "BearerAuth": roles }),
        ]
    };
    let optional = |scope| {
        let [header, bearer] = keys(&[scope]);
        json!([{}, header, bearer])
    };
    match auth {
        Auth::Open => json!([]),
        Auth::Public => optional(Scope::Read),
        Auth::PublicElseMetrics => optional(Scope::Metrics),
        Auth::AnyKey => json!(keys(&[])),
        Auth::Key(scope) | Auth::Own(scope) => json!(keys(&[scope])),
        Auth::Chat => json!(keys(&[Scope::Chat])),
        Auth::Admin => json!(keys(&[Scope::Admin])),
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}
