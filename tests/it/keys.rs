use std::time::Duration;

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::limits::RateClass;
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use crate::support::{Caller, TestServer, W1, W2, config, config_with_rate, edge};

#[tokio::test]
async fn a_key_is_shown_once_and_limited_to_its_scopes() {
    let server = TestServer::start(config()).await;
    let body = json!({"wallet_address":W1,"name":"laptop","scopes":["read"],"expires_days":30});
    let made = server.admin().post("/api/keys", &body).await.expect(201);
    let key = made["api_key"].as_str().unwrap();
    assert_eq!((key.len(), &key[..6]), (55, "r3mes_"));
    let caller = server.with_key(key);
    let me = caller.get("/auth/me").await.expect(200);
    assert_eq!(
        (&me["wallet_address"], &me["credits"]),
        (&json!(W1), &json!(0))
    );
    assert_eq!(me["key"]["expires_at"], made["expires_at"]);
    let bearer = [("authorization", format!("bearer {key}"))];
    let bearer: Vec<_> = bearer
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    server
        .anybody()
        .send(Method::GET, "/auth/me", &bearer, "")
        .await
        .expect(200);

    caller
        .post("/miner/stats", &json!({"hashrate":1}))
        .await
        .refused(403, "forbidden");
    caller
        .post("/api/keys", &json!({}))
        .await
        .refused(403, "forbidden");
    caller
        .get(&format!("/users/{W2}/ledger"))
        .await
        .refused(403, "forbidden");
    caller
        .post(
            &format!("/users/{W1}/credits"),
            &json!({"amount":1,"reason":"me"}),
        )
        .await
        .refused(403, "forbidden");

    let listed = server
        .admin()
        .get(&format!("/api/keys?wallet_address={W1}"))
        .await;
    assert!(!String::from_utf8_lossy(&listed.body).contains(key));
    let listed = listed.expect(200);
    assert_eq!(
        (&listed["keys"][0]["start"], &listed["keys"][0]["is_active"]),
        (&json!(key[..10]), &json!(true))
    );
}

#[tokio::test]
async fn a_wallet_makes_keys_for_itself_with_no_more_than_it_has() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read", "keys"]).await;
    let made = caller
        .post("/api/keys", &json!({"scopes":["read"]}))
        .await
        .expect(201);
    assert_eq!(made["wallet_address"], W1);
    for body in [
        json!({"scopes":["chat"]}),
        json!({"scopes":["admin"]}),
        json!({"wallet_address":W2,"scopes":["read"]}),
    ] {
        caller
            .post("/api/keys", &body)
            .await
            .refused(403, "forbidden");
    }
    let other = server.caller(W2, &["read"]).await;
    let theirs = server
        .admin()
        .get(&format!("/api/keys?wallet={W2}"))
        .await
        .expect(200);
    let id = theirs["keys"][0]["id"].as_str().unwrap();
    caller
        .delete(&format!("/api/keys/{id}"))
        .await
        .refused(404, "not_found");
    other.get("/auth/me").await.expect(200);
}

#[tokio::test]
async fn every_invalid_field_of_a_key_request_is_named() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    for (body, pointer) in [
        (json!({}), "/wallet_address"),
        (json!({"wallet_address":W1,"scopes":[]}), "/scopes"),
        (json!({"wallet_address":W1,"scopes":["root"]}), "/scopes"),
        (json!({"wallet_address":W1,"scopes":"read"}), "/scopes"),
        (
            json!({"wallet_address":W1,"expires_days":0}),
            "/expires_days",
        ),
        (
            json!({"wallet_address":W1,"expires_days":366}),
            "/expires_days",
        ),
        (json!({"wallet_address":W1,"name":"line\nbreak"}), "/name"),
        (json!({"wallet_address":W1,"color":"red"}), "/color"),
    ] {
        let refused = admin
            .post("/api/keys", &body)
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
    admin
        .post("/api/keys", &json!({"wallet_address":"remes1x"}))
        .await
        .refused(400, "invalid_wallet_address");
}

#[tokio::test]
async fn a_revoked_key_is_refused_on_the_next_request() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read", "keys"]).await;
    let me = caller.get("/auth/me").await.expect(200);
    let id = me["key"]["id"].as_str().unwrap().to_owned();
    let revoked = caller.delete(&format!("/api/keys/{id}")).await.expect(200);
    assert_eq!(revoked["is_active"], false);
    caller.get("/auth/me").await.refused(401, "invalid_api_key");
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .await
        .expect(200);
    server
        .admin()
        .delete("/api/keys/key_nothing")
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn a_key_that_runs_out_is_refused_to_the_second() {
    let server = TestServer::start(config()).await;
    let body = json!({"wallet_address":W1,"scopes":["read"],"expires_days":1});
    let made = server.admin().post("/api/keys", &body).await.expect(201);
    let caller = server.with_key(made["api_key"].as_str().unwrap());
    server.clock.advance(Duration::from_secs(86_400 - 60));
    caller.get("/auth/me").await.expect(200);
    server.clock.advance(Duration::from_secs(60));
    caller.get("/auth/me").await.refused(401, "expired_api_key");
}

#[tokio::test]
async fn invalid_keys_are_refused_each_with_its_error_code() {
    let server = TestServer::start(config()).await;
    let anybody = server.anybody();
    anybody
        .get("/auth/me")
        .await
        .refused(401, "missing_credentials");
    for wrong in ["r3mes_", "x", &format!("r3mes_{}", "0".repeat(49))] {
        server
            .with_key(wrong)
            .get("/auth/me")
            .await
            .refused(401, "invalid_api_key");
    }
    let unknown = r3mes_edge::auth::PlainKey::generate().unwrap();
    server
        .with_key(unknown.reveal())
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    let basic = [("authorization", "Basic dXNlcjpwYXNz")];
    anybody
        .send(Method::GET, "/auth/me", &basic, "")
        .await
        .refused(401, "invalid_api_key");
    let key = server.caller(W1, &["read"]).await.key().to_owned();
    anybody
        .get(&format!("/auth/me?api_key={key}"))
        .await
        .refused(400, "key_in_query");
}

#[tokio::test]
async fn guessing_keys_is_limited_and_never_locks_out_a_key_that_is_known() {
    let server = TestServer::start(config_with_rate(RateClass::Failures)).await;
    let caller = server.caller(W1, &["read"]).await;
    caller.get("/auth/me").await.expect(200);
    let guess = || async {
        let guess = r3mes_edge::auth::PlainKey::generate().unwrap();
        server.with_key(guess.reveal()).get("/auth/me").await
    };
    for _ in 0..20 {
        guess().await.refused(401, "invalid_api_key");
    }
    let refused = guess().await;
    let headers = (
        refused.header("ratelimit-policy"),
        refused.header("ratelimit"),
    );
    assert_eq!(headers.0, "\"failures\";q=20;w=60");
    assert!(headers.1.starts_with("\"failures\";r=0;"), "{headers:?}");
    refused.refused(429, "rate_limited");
    caller.get("/auth/me").await.expect(200);
}

#[tokio::test]
async fn many_keys_of_one_address_are_no_guesses_where_each_opens_something() {
    let server = TestServer::start(config_with_rate(RateClass::Failures)).await;
    let admin = server.admin();
    let mut revoked = Vec::new();
    for n in 0..50 {
        let wallet = crate::import::address(n);
        let body = json!({ "wallet_address": wallet });
        let made = admin.post("/api/keys", &body).await.expect(201);
        let caller = server.with_key(made["api_key"].as_str().unwrap());
        caller.get("/auth/me").await.expect(200);
        let id = made["id"].as_str().unwrap();
        admin.delete(&format!("/api/keys/{id}")).await.expect(200);
        revoked.push(caller);
    }
    // A revoked key counts as a guess.
    for caller in &revoked[..20] {
        let answer = caller.get("/auth/me").await;
        answer.refused(401, "invalid_api_key");
    }
    let answer = revoked[20].get("/auth/me").await;
    answer.refused(429, "rate_limited");
}

#[tokio::test]
async fn six_key_creations_at_once_make_five_keys() {
    let mut config = config();
    config.rates = Config::default().rates;
    let server = TestServer::start(config).await;
    let admin = server.admin();
    let creations: Vec<_> = (0..6)
        .map(|_| {
            let admin = admin.clone();
            tokio::spawn(
                async move { admin.post("/api/keys", &json!({"wallet_address":W1})).await },
            )
        })
        .collect();
    let (mut made, mut limited) = (0, 0);
    for creation in creations {
        let answer = creation.await.unwrap();
        assert_eq!(answer.header("ratelimit-policy"), "\"auth\";q=5;w=60");
        if answer.status == 429 {
            let wait: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=12).contains(&wait), "{wait}");
            answer.refused(429, "rate_limited");
            limited += 1;
        } else {
            answer.expect(201);
            made += 1;
        }
    }
    assert_eq!((made, limited), (5, 1));
}

#[tokio::test]
async fn a_wallet_has_ten_active_keys_at_most() {
    let server = TestServer::start(config()).await;
    for _ in 0..10 {
        server.caller(W1, &["read"]).await;
    }
    let admin = server.admin();
    admin
        .post("/api/keys", &json!({"wallet_address":W1}))
        .await
        .refused(409, "conflict");
    let keys = admin
        .get(&format!("/api/keys?wallet_address={W1}&limit=4"))
        .await
        .expect(200);
    let id = keys["keys"][0]["id"].as_str().unwrap();
    admin.delete(&format!("/api/keys/{id}")).await.expect(200);
    admin
        .post("/api/keys", &json!({"wallet_address":W1}))
        .await
        .expect(201);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin
            .get(&format!("/api/keys?wallet_address={W1}&limit=4{cursor}"))
            .await
            .expect(200);
        seen.extend(
            page["keys"]
                .as_array()
                .unwrap()
                .iter()
                .map(|key| key["id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 11);
    assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
}

#[tokio::test]
async fn the_last_use_of_a_key_is_known_to_the_minute() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read"]).await;
    server.clock.advance(Duration::from_secs(86_400));
    caller.get("/auth/me").await.expect(200);
    let used = server.clock.now().millis();
    let folder = server.shutdown().await;
    let (_, listed) = edge(
        &folder.path().join("edge.db"),
        &["keys", "list", "--wallet", W1, "--json"],
    );
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let noted = Timestamp::parse(listed["keys"][0]["last_used"].as_str().unwrap())
        .unwrap()
        .millis();
    assert_eq!(noted % 60_000, 0);
    assert!(
        (0..=60_000).contains(&(used - noted)),
        "used at {used}, noted {noted}"
    );
}

#[tokio::test]
async fn a_rotated_key_goes_on_for_its_grace_and_the_new_one_can_do_the_same() {
    let server = TestServer::start(config()).await;
    let old = server.caller(W1, &["read", "keys"]).await;
    let id = old.get("/auth/me").await.expect(200)["key"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let rotate = format!("/api/keys/{id}/rotate");
    let made = old
        .post(&rotate, &json!({"grace_seconds":60}))
        .await
        .expect(201);
    let new = server.with_key(made["api_key"].as_str().unwrap());
    assert_eq!(
        new.get("/auth/me").await.expect(200)["key"]["scopes"],
        json!(["read", "keys"])
    );
    server.clock.advance(Duration::from_secs(58));
    old.get("/auth/me").await.expect(200);
    server.clock.advance(Duration::from_secs(2));
    old.get("/auth/me").await.refused(401, "invalid_api_key");
    new.post(&rotate, &json!({})).await.refused(409, "conflict");

    let id = made["id"].as_str().unwrap();
    let newest = new
        .send(Method::POST, &format!("/api/keys/{id}/rotate"), &[], "")
        .await
        .expect(201);
    new.get("/auth/me").await.refused(401, "invalid_api_key");
    server
        .with_key(newest["api_key"].as_str().unwrap())
        .get("/auth/me")
        .await
        .expect(200);
}

#[tokio::test]
async fn a_rotation_that_is_asked_for_again_makes_a_key_with_the_same_life() {
    const DAY: i64 = 86_400_000;
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    for days in [None, Some(3)] {
        let body = json!({ "wallet_address": W1, "expires_days": days });
        let made = admin.post("/api/keys", &body).await.expect(201);
        let (id, old) = (
            made["id"].as_str().unwrap(),
            made["api_key"].as_str().unwrap(),
        );
        server.clock.advance(Duration::from_secs(3600));
        // As if the first answer was lost.
        for _ in 0..2 {
            let path = format!("/api/keys/{id}/rotate");
            let body = json!({ "grace_seconds": 100 });
            let new = admin.post(&path, &body).await.expect(201);
            let time = |name: &str| {
                new[name]
                    .as_str()
                    .map(|text| Timestamp::parse(text).unwrap())
            };
            let life = |ends: Timestamp| ends.millis() - time("created_at").unwrap().millis();
            assert_eq!(time("expires_at").map(life), days.map(|days| days * DAY));
        }
        // The first response names the expiry of the old key, which holds.
        let shown = server.with_key(old).get("/auth/me").await.expect(200);
        assert!(shown["key"]["expires_at"].is_string(), "{shown}");
        server.clock.advance(Duration::from_secs(100));
        let ended = server.with_key(old).get("/auth/me").await;
        ended.refused(401, "invalid_api_key");
    }
}

#[tokio::test]
async fn rotation_with_a_grace_makes_at_most_twice_as_many_keys_as_a_wallet_may_have() {
    let mut config = config();
    config.auth.max_keys_per_wallet = 2;
    let server = TestServer::start(config).await;
    let admin = server.admin();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let body = json!({ "wallet_address": W1 });
        ids.push(admin.post("/api/keys", &body).await.expect(201)["id"].clone());
    }
    let rotate = async |id: &Value, grace: u64| {
        let path = format!("/api/keys/{}/rotate", id.as_str().unwrap());
        admin.post(&path, &json!({ "grace_seconds": grace })).await
    };
    // Every key, once.
    for id in &mut ids {
        *id = rotate(id, 60).await.expect(201)["id"].clone();
    }
    rotate(&ids[0], 60).await.refused(409, "conflict");
    ids[0] = rotate(&ids[0], 0).await.expect(201)["id"].clone();
    server.clock.advance(Duration::from_secs(60));
    rotate(&ids[0], 60).await.expect(201);
}

#[tokio::test]
async fn rotation_widens_nothing_and_reaches_no_other_wallet() {
    let server = TestServer::start(config()).await;
    let chat = server.caller(W1, &["chat"]).await;
    let keys = server.caller(W1, &["keys"]).await;
    let stranger = server.caller(W2, &["chat", "keys"]).await;
    let id = chat.get("/auth/me").await.expect(200)["key"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let rotate = format!("/api/keys/{id}/rotate");
    keys.post(&rotate, &json!({}))
        .await
        .refused(403, "forbidden");
    stranger
        .post(&rotate, &json!({}))
        .await
        .refused(404, "not_found");
    server
        .admin()
        .post(&rotate, &json!({"grace_seconds":-1}))
        .await
        .refused(400, "invalid_request");
    chat.get("/auth/me").await.expect(200);
    server.admin().post(&rotate, &json!({})).await.expect(201);
    chat.get("/auth/me").await.refused(401, "invalid_api_key");
}

#[tokio::test]
async fn the_r3mes_backends_own_paths_do_the_same() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read", "keys"]).await;
    let made = caller
        .post(
            "/api-keys/create",
            &json!({"wallet_address":W1,"name":"sdk","scopes":["read"]}),
        )
        .await
        .expect(201);
    let listed = caller
        .get(&format!("/api-keys/list/{W1}"))
        .await
        .expect(200);
    assert_eq!(listed["keys"][0]["name"], "sdk");
    caller
        .get(&format!("/api-keys/list/{W1}?wallet_address="))
        .await
        .refused(400, "invalid_wallet_address");
    caller
        .get(&format!("/api-keys/list/{W2}"))
        .await
        .refused(403, "forbidden");
    let named = |wallet: &str| json!({"api_key_id": made["id"], "wallet_address": wallet});
    caller
        .post("/api-keys/revoke", &named(W2))
        .await
        .refused(403, "forbidden");
    server
        .admin()
        .post("/api-keys/revoke", &named(W2))
        .await
        .refused(404, "not_found");
    caller
        .post(
            "/api-keys/revoke",
            &json!({"api_key_id": 7, "wallet_address": W1}),
        )
        .await
        .refused(400, "invalid_request");
    let made_key = server.with_key(made["api_key"].as_str().unwrap());
    made_key.get("/auth/me").await.expect(200);
    caller
        .send(
            Method::DELETE,
            "/api-keys/delete",
            &[],
            named(W1).to_string(),
        )
        .await
        .expect(200);
    made_key
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    caller
        .post("/api-keys/revoke", &named(W1))
        .await
        .expect(200);
    server
        .anybody()
        .get(&format!("/user/info/{W1}"))
        .await
        .expect(200);
    server.anybody().get("/ping").await.expect(200);
}

const DAY: Duration = Duration::from_secs(86_400);

/// A caller with a new key of a wallet that ends after so many days, and its id.
async fn ending(server: &TestServer, scopes: &[&str], days: u32) -> (Caller, String) {
    let wallet = (scopes != ["admin"]).then_some(W1);
    let body = json!({ "wallet_address": wallet, "scopes": scopes, "expires_days": days });
    let made = server.admin().post("/api/keys", &body).await.expect(201);
    let id = made["id"].as_str().unwrap().to_owned();
    (server.with_key(made["api_key"].as_str().unwrap()), id)
}

async fn end_of(caller: &Caller) -> Value {
    caller.get("/auth/me").await.expect(200)["key"]["expires_at"].clone()
}

#[tokio::test]
async fn a_key_that_ends_makes_none_that_outlasts_it_on_any_path() {
    let server = TestServer::start(config()).await;
    for scopes in [&["read", "keys"][..], &["admin"]] {
        let (caller, _) = ending(&server, scopes, 2).await;
        let end = end_of(&caller).await;
        server.clock.advance(Duration::from_secs(3600));
        for path in ["/api/keys", "/api-keys/create"] {
            let ask = async |days: Value| {
                let body =
                    json!({ "wallet_address": W1, "scopes": ["read"], "expires_days": days });
                caller.post(path, &body).await
            };
            assert_eq!(ask(Value::Null).await.expect(201)["expires_at"], end);
            let sooner = ask(json!(1)).await.expect(201);
            assert!(sooner["expires_at"].as_str() < end.as_str(), "{sooner}");
            for later in [2, 3, 365] {
                let refused = ask(json!(later)).await.refused(403, "forbidden");
                assert_eq!(refused["error"]["param"], "expires_days");
                let detail = refused["detail"].as_str().unwrap();
                assert!(detail.contains(end.as_str().unwrap()), "{detail}");
            }
        }
    }
    // No key outlasts the key that made it.
    server.clock.advance(2 * DAY);
    let made = server.admin().get("/api/keys?limit=500").await.expect(200);
    let active = made["keys"].as_array().unwrap().iter();
    assert_eq!(active.filter(|key| key["is_active"] == true).count(), 1);
}

#[tokio::test]
async fn rotation_goes_no_further_than_the_key_that_asks_for_it() {
    let server = TestServer::start(config()).await;
    let rotate = async |caller: &Caller, id: &str| {
        let path = format!("/api/keys/{id}/rotate");
        caller.post(&path, &json!({ "grace_seconds": 60 })).await
    };
    // Rotating itself repeatedly never extends its first expiry.
    let (mut caller, mut id) = ending(&server, &["read", "keys"], 1).await;
    let end = end_of(&caller).await;
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(3600));
        let made = rotate(&caller, &id).await.expect(201);
        assert_eq!(made["expires_at"], end);
        caller = server.with_key(made["api_key"].as_str().unwrap());
        id = made["id"].as_str().unwrap().to_owned();
    }
    // A key that lasts longer is not silently shortened, but left unchanged.
    for days in [Value::Null, json!(30)] {
        let body = json!({ "wallet_address": W1, "scopes": ["read"], "expires_days": days });
        let lasting = server.admin().post("/api/keys", &body).await.expect(201);
        let lasting_id = lasting["id"].as_str().unwrap();
        let refused = rotate(&caller, lasting_id).await.refused(403, "forbidden");
        assert!(
            refused["detail"]
                .as_str()
                .unwrap()
                .contains(end.as_str().unwrap())
        );
        let key = server.with_key(lasting["api_key"].as_str().unwrap());
        assert_eq!(end_of(&key).await, lasting["expires_at"]);
        // Revoking it is allowed.
        let path = format!("/api/keys/{lasting_id}");
        caller.delete(&path).await.expect(200);
    }
}

#[tokio::test]
async fn a_key_in_the_grace_of_its_rotation_makes_nothing_that_outlasts_the_grace() {
    let server = TestServer::start(config()).await;
    let old = server.caller(W1, &["read", "keys"]).await;
    let me = old.get("/auth/me").await.expect(200);
    let path = format!("/api/keys/{}/rotate", me["key"]["id"].as_str().unwrap());
    let grace = json!({ "grace_seconds": 3600 });
    server.admin().post(&path, &grace).await.expect(201);
    let end = end_of(&old).await;
    assert!(end.is_string());
    let made = old.post("/api/keys", &json!({ "scopes": ["read"] })).await;
    assert_eq!(made.expect(201)["expires_at"], end);
    let again = old.post(&path, &grace).await.expect(201);
    assert_eq!(again["expires_at"], end);
}

#[tokio::test]
async fn a_key_of_a_wallet_never_lists_shows_rotates_or_revokes_an_admin_key_of_that_wallet() {
    let server = TestServer::start(config()).await;
    let body = json!({ "wallet_address": W1, "scopes": ["admin"] });
    let mut admin_keys = Vec::new();
    for _ in 0..3 {
        admin_keys.push(server.admin().post("/api/keys", &body).await.expect(201));
        server.caller(W1, &["read"]).await;
    }
    let caller = server.caller(W1, &["chat", "read", "miner", "keys"]).await;
    for path in ["/api/keys", &format!("/api-keys/list/{W1}")] {
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = caller
                .get(&format!("{path}?limit=1{cursor}"))
                .await
                .expect(200);
            listed.extend(page["keys"].as_array().unwrap().clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(listed.len(), 4, "{listed:?}");
        let admins = listed
            .iter()
            .filter(|key| key["scopes"] == json!(["admin"]));
        assert_eq!(admins.count(), 0);
    }
    for key in &admin_keys {
        let id = key["id"].as_str().unwrap();
        let path = format!("/api/keys/{id}");
        let named = json!({ "api_key_id": id, "wallet_address": W1 });
        caller.get(&path).await.refused(404, "not_found");
        caller.delete(&path).await.refused(404, "not_found");
        let rotated = caller.post(&format!("{path}/rotate"), &json!({})).await;
        rotated.refused(404, "not_found");
        let revoked = caller.post("/api-keys/revoke", &named).await;
        revoked.refused(404, "not_found");
        let deleted = caller.send(Method::DELETE, "/api-keys/delete", &[], named.to_string());
        deleted.await.refused(404, "not_found");
        let admin = server.with_key(key["api_key"].as_str().unwrap());
        admin.get("/auth/me").await.expect(200);
        // An admin does all of it, by the alias too.
        server.admin().get(&path).await.expect(200);
        server
            .admin()
            .post("/api-keys/revoke", &named)
            .await
            .expect(200);
        admin.get("/auth/me").await.refused(401, "invalid_api_key");
    }
}
