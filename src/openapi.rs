//! The HTTP contract as OpenAPI 3.1, for `GET /openapi.json`.
//!
//! What follows from a route's row (path, method, who may call it, the refusals that come with a key, a body, a rate) is
//! made from [`ROUTES`]; what the row cannot know stands in `told`, one exhaustive match. The schemas are in
//! `openapi/components.json`, as they are served.

mod told;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::auth::Scope;
use crate::error::ErrorCode;
use crate::limits::RateClass;
use crate::routes::{ALIASES, Auth, BodyClass, ROUTES, Route};
use told::{Told, told};

/// The whole document, as it is served.
///
/// ```
/// let document = r3mes_edge::openapi::document();
/// assert!(document.starts_with(b"{\n  \"openapi\": \"3.1.0\""));
/// ```
#[must_use]
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| format!("{:#}\n", build()).into());
    DOCUMENT.clone()
}

fn build() -> Value {
    let mut paths = json!({});
    for route in ROUTES {
        paths[route.path][route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    for alias in ALIASES {
        let route = &ROUTES[alias.id as usize];
        let mut operation = operation(route);
        operation["operationId"] = format!("{}Alias", operation_id(route)).into();
        paths[alias.path][route.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "r3mes-edge",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HEAD answers wherever GET does. Unknown query parameters of reads and unknown members of bodies are refused. \
                            Public reads need no key where the server is set so; by default while every listener is loopback, no proxy is trusted and none passed the request on.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": components(),
    })
}

/// The file compiled in, with the codes. Were it no JSON, the tests would find `null` here.
fn components() -> Value {
    let mut components: Value =
        serde_json::from_str(include_str!("openapi/components.json")).unwrap_or_default();
    components["schemas"]["ErrorCode"] = json!({ "enum": names(ErrorCode::ALL) });
    components
}

fn operation(route: &Route) -> Value {
    let told = told(route.id);
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": told.summary,
        "description": who(route.auth),
        "security": security(route.auth),
    });
    let in_path = [
        ("{wallet}", "Wallet"),
        ("{id}", "KeyId"),
        ("{name}", "BreakerName"),
    ];
    let in_path = in_path
        .into_iter()
        .find(|(part, _)| route.path.contains(part))
        .map(|(_, name)| name);
    let parameters: Vec<Value> = in_path
        .iter()
        .chain(told.parameters.unwrap_or_default())
        .chain(if told.once {
            &["IdempotencyKey"][..]
        } else {
            &[]
        })
        .map(|name| reference("parameters", name))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if !told.request.is_empty() {
        operation["requestBody"] =
            json!({ "required": !told.body_optional, "content": content(told.request) });
    }
    operation["responses"] = responses(route, &told);
    operation
}

fn operation_id(route: &Route) -> String {
    let mut id = format!("{:?}", route.id);
    id[..1].make_ascii_lowercase();
    id
}

fn who(auth: Auth) -> String {
    let scoped = |scope: Scope| format!("Needs a key with the scope `{}`", scope.as_str());
    match auth {
        Auth::Open => "Open to anybody.".to_owned(),
        Auth::Public => "Open where public reads are on; else needs a key with the scope `read`, of this wallet where the path names one.".to_owned(),
        Auth::PublicElseAdmin => "Open where public reads are on; else needs an admin's key.".to_owned(),
        Auth::AnyKey => "Needs a key.".to_owned(),
        Auth::Key(scope) => scoped(scope) + ".",
        Auth::Own(scope) => scoped(scope) + ", of this wallet.",
        Auth::Chat => scoped(Scope::Chat) + ".",
        Auth::Admin => "Needs an admin's key.".to_owned(),
    }
}

/// The names in the arrays are roles (OpenAPI 3.1, Security Requirement Object).
fn security(auth: Auth) -> Value {
    let keys = |roles: &[&str]| {
        [
            json!({ "ApiKeyAuth": roles }),
            json!({ "BearerAuth": roles }),
        ]
    };
    let optional = |roles: &[&str]| {
        let [header, bearer] = keys(roles);
        json!([{}, header, bearer])
    };
    match auth {
        Auth::Open => json!([]),
        Auth::Public => optional(&[Scope::Read.as_str()]),
        Auth::PublicElseAdmin => optional(&[Scope::Admin.as_str()]),
        Auth::AnyKey => json!(keys(&[])),
        Auth::Key(scope) | Auth::Own(scope) => json!(keys(&[scope.as_str()])),
        Auth::Chat => json!(keys(&[Scope::Chat.as_str()])),
        Auth::Admin => json!(keys(&[Scope::Admin.as_str()])),
    }
}

fn responses(route: &Route, told: &Told) -> Value {
    let mut responses = BTreeMap::new();
    for (status, media) in told.success {
        let mut headers = headers(*status, told.tag, told.cached);
        if told.once {
            headers["Idempotency-Replayed"] = reference("headers", "IdempotencyReplayed");
        }
        let description = match status {
            201 => "Done and on the disk.",
            _ => "Here it is.",
        };
        responses.insert(
            *status,
            json!({ "description": description, "headers": headers, "content": content(media) }),
        );
    }
    if told.tag || told.cached {
        let headers = headers(304, told.tag, told.cached);
        responses.insert(
            304,
            json!({ "description": "Still what If-None-Match names.", "headers": headers }),
        );
    }
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    let codes = implied(route, told);
    // In the order of the table, each once.
    for code in ErrorCode::ALL.iter().filter(|code| codes.contains(code)) {
        by_status.entry(code.status()).or_default().push(*code);
    }
    for (status, codes) in by_status {
        let names = names(&codes);
        let description = names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let schema = json!({ "allOf": [
            reference("schemas", "Problem"),
            { "properties": { "status": { "const": status }, "code": { "enum": names } } },
        ] });
        let mut headers = headers(status, false, false);
        if codes.contains(&ErrorCode::IdempotencyRunning) {
            headers["Retry-After"] = reference("headers", "RetryAfterInProgress");
        }
        responses.insert(
            status,
            json!({
                "description": description,
                "headers": headers,
                "content": { "application/problem+json": { "schema": schema } },
            }),
        );
    }
    json!(responses)
}

/// The refusals of a route: those that its row brings with it, and its handler's.
fn implied(route: &Route, told: &Told) -> Vec<ErrorCode> {
    use ErrorCode as E;
    let mut codes = told.errors.to_vec();
    codes.extend([E::KeyInQuery, E::RateLimited, E::Internal, E::Overloaded]);
    // A Host or an Origin that may not be, headers that stand there twice.
    codes.extend([E::InvalidRequest, E::Forbidden, E::WrongHost]);
    if told.once {
        codes.extend([E::IdempotencyReused, E::IdempotencyFull, E::AlreadyIssued]);
    }
    if route.rate != RateClass::Health {
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
        codes.extend([E::InvalidJson, E::RequestTimeout, E::BodyTooLarge]);
        // With a key, a body of any type is read as JSON.
        if matches!(route.auth, Auth::Open | Auth::Chat) {
            codes.push(E::UnsupportedMediaType);
        }
    }
    codes
}

fn headers(status: u16, tag: bool, cached: bool) -> Value {
    let mut headers = json!({
        "X-Request-Id": reference("headers", "RequestId"),
        "RateLimit": reference("headers", "RateLimit"),
        "RateLimit-Policy": reference("headers", "RateLimitPolicy"),
    });
    let mut add = |name: &str, component: &str| headers[name] = reference("headers", component);
    if matches!(status, 429 | 503) {
        add("Retry-After", "RetryAfter");
    }
    if status == 401 {
        add("WWW-Authenticate", "WwwAuthenticate");
    }
    if tag || cached {
        add("ETag", "ETag");
        add("Cache-Control", "CacheControl");
    }
    if cached {
        add("Age", "Age");
        add("X-Cache", "XCache");
    }
    headers
}

fn content(media: &[(&str, &str)]) -> Value {
    let one = |(media_type, schema): &(&str, &str)| {
        let schema = json!({ "schema": reference("schemas", schema) });
        ((*media_type).to_owned(), schema)
    };
    Value::Object(media.iter().map(one).collect())
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// The codes as clients read them; one name may stand for two statuses.
fn names(codes: &[ErrorCode]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for code in codes {
        if !names.contains(&code.as_str()) {
            names.push(code.as_str());
        }
    }
    names
}
