//! The document against the routes, and every answer that a test gets against the document.

mod requests;
mod schema;
mod table;
mod v1;

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};

use hyper::Method;
use r3mes_edge::routes::{ROUTES, Route, RouteMatch, find};
use serde_json::{Value, json};

use crate::chain::{config_with_chain, documented};
use crate::login::{WALLET, challenge, signed};
use crate::support::{
    Answer, Caller, Scripted, TestServer, Upstream, W1, config, config_with_inference,
};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(r3mes_edge::openapi::DOCUMENT).unwrap());

/// Holds an answer against the document: its status, its type, its headers, and every member of its JSON. What no route
/// answers (404, 405) is not in it.
#[track_caller]
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap();
    let RouteMatch::Route(route, _) = find(method.as_str(), path) else {
        return;
    };
    let operation = &DOCUMENT["paths"][route.path][route.method.to_ascii_lowercase()];
    let what = format!("{method} {} {}", route.path, answer.status);
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{what} is not documented");
    let response = schema::resolve(&DOCUMENT, response);
    for (name, header) in response["headers"].as_object().unwrap() {
        let header = schema::resolve(&DOCUMENT, header);
        let sent = answer.headers.contains_key(name);
        assert!(sent || header["required"] != true, "{what} without {name}");
    }
    // Headers for caches and clients are sent only where they are documented.
    for name in [
        "Age",
        "ETag",
        "Idempotency-Replayed",
        "Retry-After",
        "WWW-Authenticate",
        "X-Cache",
    ] {
        let documented = !response["headers"][name].is_null();
        let sent = answer.headers.contains_key(name);
        assert!(documented || !sent, "{what} with {name}");
    }
    if answer.status == 304 {
        assert!(answer.body.is_empty());
        return;
    }
    let media_type = answer.header("content-type").split(';').next().unwrap();
    let media = &response["content"][media_type];
    assert!(media.is_object(), "{what} with the type {media_type}");
    if *method == Method::HEAD {
        return;
    }
    if media_type.ends_with("json") {
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let violations = schema::violations(&DOCUMENT, &media["schema"], &body);
        assert!(violations.is_empty(), "{what}: {violations:?} in {body}");
        // Which codes a status has is in prose.
        if media_type == "application/problem+json" {
            let code = format!("`{}`", body["code"].as_str().unwrap());
            let codes = response["description"].as_str().unwrap();
            assert!(codes.contains(&code), "{what}: {code} is not documented");
        }
    }
    if answer.status < 400 {
        let mut seen = SEEN.lock().unwrap();
        seen.insert((route.method, route.path, answer.status));
    }
}

/// The documented successes that were seen.
static SEEN: Mutex<BTreeSet<(&str, &str, u16)>> = Mutex::new(BTreeSet::new());

#[tokio::test]
async fn the_served_document_names_every_route_and_no_other() {
    let server = TestServer::start(config()).await;
    let answer = server.anybody().get("/openapi.json").await;
    let tag = answer.header("etag").to_owned();
    assert_eq!(answer.expect(200), *DOCUMENT);
    let unchanged = [("if-none-match", tag.as_str())];
    let again = server.anybody();
    let again = again.send(Method::GET, "/openapi.json", &unchanged, "");
    again.await.expect(304);
    let named = DOCUMENT["paths"].as_object().unwrap().iter();
    let named = named.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let routes = all_paths().map(|(route, path)| format!("{} {path}", route.method));
    assert_eq!(
        named.collect::<BTreeSet<_>>(),
        routes.collect::<BTreeSet<_>>()
    );
}

/// Every path of every route: first their own, then the aliases.
fn all_paths() -> impl Iterator<Item = (&'static Route, &'static str)> {
    let aliases = ROUTES
        .iter()
        .filter_map(|route| Some((route, route.alias?)));
    let own = ROUTES.iter().map(|route| (route, route.path));
    own.chain(aliases)
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(to)) = members.get("$ref") {
                found.insert(to.clone());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let mut named = BTreeSet::new();
    references(&DOCUMENT, &mut named);
    for kind in ["schemas", "parameters", "headers", "responses"] {
        for name in DOCUMENT["components"][kind].as_object().unwrap().keys() {
            let used = named.remove(&format!("#/components/{kind}/{name}"));
            assert!(used, "{kind}/{name} is not used");
        }
    }
    assert_eq!(named, BTreeSet::new(), "these lead nowhere");
}

/// The required members that their schema does not describe.
fn undescribed(value: &Value, found: &mut Vec<String>) {
    let required = value["required"].as_array().into_iter().flatten();
    let missing = required.filter(|name| value["properties"][name.as_str().unwrap()].is_null());
    found.extend(missing.map(|name| format!("{name} of {value}")));
    match value {
        Value::Object(members) => members.values().for_each(|value| undescribed(value, found)),
        Value::Array(items) => items.iter().for_each(|value| undescribed(value, found)),
        _ => {}
    }
}

#[test]
fn every_required_member_is_described() {
    let mut found = Vec::new();
    undescribed(&DOCUMENT, &mut found);
    assert_eq!(found, Vec::<String>::new());
}

/// The schemas of which a generator of clients makes a type that nothing fits, or none at all.
fn untyped(value: &Value, at: &str, found: &mut Vec<String>) {
    let is = |kind| schema::is_type(&value["type"], kind);
    let has = |names: &[&str]| names.iter().any(|name| !value[*name].is_null());
    if is("array") && !has(&["items"]) {
        found.push(format!("{at} has no items"));
    }
    // openapi-python-client has no name for the items of an array that may be null.
    if is("array") && value["type"].is_array() && !value["items"]["properties"].is_null() {
        found.push(format!("{at} has items without a name"));
    }
    if is("object") && !has(&["properties", "additionalProperties"]) {
        found.push(format!("{at} has no members"));
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                untyped(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                untyped(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_schema_has_the_name_of_a_type_that_every_generated_client_has() {
    for name in ["Client", "AuthenticatedClient", "File", "Response", "Unset"] {
        assert_eq!(
            DOCUMENT["components"]["schemas"][name],
            Value::Null,
            "{name}"
        );
    }
}

#[test]
fn every_array_has_items_and_every_object_says_what_it_may_hold() {
    let mut found = Vec::new();
    untyped(&DOCUMENT, "", &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_error_of_an_operation_is_a_reference() {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    for (path, operation) in paths.flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().values();
        operations.map(move |operation| (path, operation))
    }) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let is_error = status.parse::<u16>().unwrap() >= 400;
            assert_eq!(response["$ref"].is_string(), is_error, "{path} {status}");
        }
    }
    for (name, response) in DOCUMENT["components"]["responses"].as_object().unwrap() {
        for media in response["content"].as_object().unwrap().values() {
            assert!(media["schema"]["$ref"].is_string(), "{name}");
        }
    }
}

/// What follows from the tables of routes and errors, in the document as it is checked in.
#[test]
fn the_document_follows_the_tables_of_routes_and_errors() {
    let mut updated = DOCUMENT.clone();
    updated["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    table::update_components(&mut updated["components"]);
    let mut paths = json!({});
    let mut ids = BTreeSet::new();
    for (route, path) in all_paths() {
        let method = route.method.to_ascii_lowercase();
        let mut operation = updated["paths"][path][&method].clone();
        table::update(&mut operation, route);
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} names two operations");
        paths[path][method] = operation;
    }
    updated["paths"] = paths;
    table::update_anthropic(&mut updated);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi.json");
        std::fs::write(file, format!("{updated:#}\n")).unwrap();
    } else {
        let how =
            "src/openapi.json is out of date: run UPDATE_OPENAPI=1 cargo test --test it openapi";
        assert!(updated == *DOCUMENT, "{how}");
    }
}

#[test]
fn request_bodies_are_closed_and_every_operation_names_its_scopes() {
    for route in ROUTES {
        let operation = &DOCUMENT["paths"][route.path][route.method.to_ascii_lowercase()];
        let reads = route.body != r3mes_edge::routes::BodyClass::None;
        assert_eq!(
            operation["requestBody"].is_object(),
            reads,
            "{}",
            route.path
        );
        assert!(!operation["summary"].as_str().unwrap().is_empty());
        assert!(operation["security"].is_array());
    }
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        if name.ends_with("Request") || ["Sample", "WalletOnly"].contains(&name.as_str()) {
            // Inference servers may pass further members on.
            let open =
                v1::APIS.iter().any(|api| api.request == name) || name == "CountTokensRequest";
            assert_eq!(schema["additionalProperties"], open, "{name}");
        }
    }
}

/// One successful call of every route; [`check`] validates each response.
async fn call_all() {
    let chain = Upstream::start(documented).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let (admin, anybody) = (server.admin(), server.anybody());
    let message = challenge(&server).await;
    let login = anybody.post("/login", &signed(&message)).await.expect(200);
    let owner = server.with_key(login["access_token"].as_str().unwrap());
    let made = owner
        .post("/api/keys", &json!({ "name": "rig" }))
        .await
        .expect(201);
    let id = made["id"].as_str().unwrap();
    admin
        .post("/users", &json!({ "wallet_address": W1 }))
        .await
        .expect(201);
    let (rotate, none) = (format!("/api/keys/{id}/rotate"), json!({}));
    let new = owner.post(&rotate, &none).await.expect(201);
    let new = new["id"].as_str().unwrap();
    owner.get(&format!("/api/keys/{new}")).await.expect(200);
    owner.delete(&format!("/api/keys/{new}")).await.expect(200);
    let named = json!({ "api_key_id": new, "wallet_address": WALLET });
    owner.post("/api-keys/revoke", &named).await.expect(200);
    let deleted = owner.send(Method::DELETE, "/api-keys/delete", &[], named.to_string());
    deleted.await.expect(200);
    for action in ["block", "unblock"] {
        let path = format!("/users/{WALLET}/{action}");
        admin.post(&path, &none).await.expect(200);
    }
    let credits = format!("/users/{WALLET}/credits");
    for amount in [10.5, -0.25] {
        let grant = json!({ "amount": amount, "reason": "welcome", "reference": "invoice 7" });
        admin.post(&credits, &grant).await.expect(200);
    }
    get_all(&server, &owner, W1).await;
    let full = json!({
        "worker": "rig-1", "hashrate": 42.5, "hashrate_unit": "H/s", "gpu_temperature": 67, "blocks_found": 1,
        "uptime_percentage": 99.5, "uptime_seconds": 60, "network_difficulty": 1e6, "power_watts": 250,
        "accepted": 3, "rejected": 0, "loss": 0.5, "recorded_at": server.clock.now().to_string(),
    });
    owner.post("/miner/stats", &full).await.expect(201);
    owner
        .post("/miner/stats", &json!([{ "hashrate": 1 }]))
        .await
        .expect(201);
    let earning = json!({ "wallet_address": WALLET, "earnings": 2.5, "source_id": "block-1" });
    for status in [201, 200] {
        admin.post("/miner/earnings", &earning).await.expect(status);
    }
    get_all(&server, &owner, WALLET).await;
    let csv = [("accept", "text/csv")];
    let history = format!("/miner/hashrate/{WALLET}?hours=1&resolution=raw");
    owner
        .send(Method::GET, &history, &csv, "")
        .await
        .expect(200);
    let accept = [("accept", "application/openmetrics-text")];
    admin
        .send(Method::GET, "/metrics", &accept, "")
        .await
        .expect(200);
    admin.get("/alerts").await.expect(200);
    let made = admin.post("/admin/backup", &json!(null)).await.expect(201);
    let name = made["file"].as_str().unwrap();
    let verify = format!("/admin/backups/{name}/verify");
    admin.post(&verify, &json!(null)).await.expect(200);
    let accept = "/admin/clock/accept";
    admin.post(accept, &json!(null)).await.expect(200);
    let leaderboard = anybody.get("/leaderboard").await;
    let unchanged = [("if-none-match", leaderboard.header("etag"))];
    for path in ["/leaderboard", "/network/stats", "/chain/status", "/blocks"] {
        anybody.send(Method::HEAD, path, &[], "").await.expect(200);
    }
    let again = anybody.send(Method::GET, "/leaderboard", &unchanged, "");
    again.await.expect(304);

    let upstream = Upstream::inference(|_| Scripted::words(&["hello"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let payer = server.payer(W1, 1).await;
    payer.get("/v1/models/general").await.expect(200);
    let message = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let counted = payer.post("/v1/messages/count_tokens", &message).await;
    counted.expect(200);
    v1::call_all().await;
    let (breaker, reset) = ("/admin/breakers/node", json!({ "state": "reset" }));
    server.admin().post(breaker, &reset).await.expect(200);
    let asked = payer.post("/chat", &json!({ "message": "hi" })).await;
    assert_eq!(asked.status, 200);
    let again = payer.post("/chat", &json!({ "message": "hi" })).await;
    again.refused(402, "insufficient_credits");
    get_all(&server, &payer, W1).await;
}

/// Every GET, called by an admin, by the owner of this wallet and without a key.
async fn get_all(server: &TestServer, owner: &Caller, wallet: &str) {
    let plain = |route: &&Route| route.method == "GET" && !route.path.contains("{id}");
    for route in ROUTES.iter().filter(plain) {
        let path = route.path.replace("{wallet}", wallet);
        for caller in [&server.admin(), owner, &server.anybody()] {
            let status = caller.get(&path).await.status;
            assert!(matches!(status, 200 | 401 | 403 | 503), "{path} {status}");
        }
    }
}

#[tokio::test]
async fn every_documented_success_is_what_the_server_answers() {
    call_all().await;
    let seen = SEEN.lock().unwrap().clone();
    for route in ROUTES {
        let operation = &DOCUMENT["paths"][route.path][route.method.to_ascii_lowercase()];
        for status in operation["responses"].as_object().unwrap().keys() {
            let status: u16 = status.parse().unwrap();
            let called = (route.method, route.path, status);
            assert!(
                status >= 300 || seen.contains(&called),
                "{} {status}",
                route.path
            );
        }
    }
}
