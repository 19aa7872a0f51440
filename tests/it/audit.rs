//! The audit trail: one entry for each administrative change, none for what changed nothing.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};

use crate::import::{NEWER, backend, old_key, sha256};
use crate::login::{WALLET, challenge, signed};
use crate::support::{
    Caller, Process, Scripted, TestServer, Upstream, W1, W2, config, config_with_inference, edge,
};

/// The whole trail, newest first.
async fn trail(admin: &Caller) -> Vec<Value> {
    let page = admin.get("/admin/audit?limit=500").await.expect(200);
    assert_eq!(page["next_cursor"], Value::Null);
    page["entries"].as_array().unwrap().clone()
}

/// What the newest entry states, and how many there are.
struct Trail {
    admin: Caller,
    entries: usize,
}

impl Trail {
    async fn of(admin: Caller) -> Self {
        let entries = trail(&admin).await.len();
        Self { admin, entries }
    }

    /// There is one new entry, which states these.
    async fn gained(
        &mut self,
        actor: &str,
        action: &str,
        target: &str,
        amount: Value,
        reason: Value,
    ) {
        let entries = trail(&self.admin).await;
        self.entries += 1;
        assert_eq!(entries.len(), self.entries, "{action}");
        let newest = &entries[0];
        let expected = json!({
            "id": newest["id"], "created_at": newest["created_at"], "actor": actor, "address": "127.0.0.1",
            "action": action, "target": target, "amount": amount, "reason": reason,
        });
        assert_eq!(*newest, expected);
    }

    /// There is none.
    async fn unchanged(&self, why: &str) {
        assert_eq!(trail(&self.admin).await.len(), self.entries, "{why}");
    }
}

fn text<'a>(of: &'a Value, member: &str) -> &'a str {
    of[member].as_str().unwrap()
}

/// The id of a caller's key.
async fn key_id(caller: &Caller) -> String {
    let me = caller.get("/auth/me").await.expect(200);
    text(&me["key"], "id").to_owned()
}

async fn with_breaker() -> (TestServer, Upstream) {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    (server, upstream)
}

#[tokio::test]
async fn every_administrative_request_leaves_one_entry() {
    let (server, _upstream) = with_breaker().await;
    let admin = server.admin();
    let by = key_id(&admin).await;
    let mut trail = Trail::of(admin.clone()).await;
    let (none, credits) = (Value::Null, format!("/users/{W1}/credits"));

    let account = json!({ "wallet_address": W1 });
    admin.post("/users", &account).await.expect(201);
    trail
        .gained(&by, "users.create", W1, none.clone(), none.clone())
        .await;
    let grant = json!({ "amount": 2.5, "reason": "welcome" });
    admin.post(&credits, &grant).await.expect(200);
    trail
        .gained(&by, "credits.grant", W1, json!(2.5), json!("welcome"))
        .await;
    let take = json!({ "amount": -0.25, "reason": "a fee" });
    admin.post(&credits, &take).await.expect(200);
    trail
        .gained(&by, "credits.take", W1, json!(-0.25), json!("a fee"))
        .await;
    for action in ["block", "unblock"] {
        let path = format!("/users/{W1}/{action}");
        admin.post(&path, &none).await.expect(200);
        let action = format!("users.{action}");
        trail
            .gained(&by, &action, W1, none.clone(), none.clone())
            .await;
    }
    // It creates the account as well.
    let earning = json!({ "wallet_address": W2, "earnings": 3, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    trail
        .gained(&by, "earnings.record", W2, json!(3), json!("block-1"))
        .await;

    let key = json!({ "wallet_address": W1, "scopes": ["read", "keys"] });
    let made = admin.post("/api/keys", &key).await.expect(201);
    let (id, own) = (text(&made, "id"), server.with_key(text(&made, "api_key")));
    trail
        .gained(&by, "keys.create", id, none.clone(), none.clone())
        .await;
    // What a wallet's own key does for its wallet is an entry of that key.
    let second = own
        .post("/api/keys", &json!({ "scopes": ["keys"] }))
        .await
        .expect(201);
    let second_id = text(&second, "id");
    trail
        .gained(id, "keys.create", second_id, none.clone(), none.clone())
        .await;
    let rotated = own
        .post(&format!("/api/keys/{second_id}/rotate"), &json!({}))
        .await
        .expect(201);
    let third = text(&rotated, "id");
    let replaced = json!(format!("replaced by {third}"));
    trail
        .gained(id, "keys.rotate", second_id, none.clone(), replaced)
        .await;
    own.delete(&format!("/api/keys/{third}")).await.expect(200);
    trail
        .gained(id, "keys.revoke", third, none.clone(), none.clone())
        .await;
    let named = json!({ "api_key_id": id, "wallet_address": W1 });
    admin.post("/api-keys/revoke", &named).await.expect(200);
    trail
        .gained(&by, "keys.revoke", id, none.clone(), none.clone())
        .await;

    for state in ["open", "reset"] {
        let path = "/admin/breakers/node";
        admin
            .post(path, &json!({ "state": state }))
            .await
            .expect(200);
        let action = format!("breaker.{state}");
        trail
            .gained(&by, &action, "node", none.clone(), none.clone())
            .await;
    }
    let backup = admin.post("/admin/backup", &none).await.expect(201);
    trail
        .gained(
            &by,
            "backup.create",
            text(&backup, "file"),
            none.clone(),
            none.clone(),
        )
        .await;
}

#[tokio::test]
async fn a_request_that_is_refused_or_changes_nothing_leaves_no_entry() {
    let (server, _upstream) = with_breaker().await;
    let admin = server.admin();
    let payer = server.payer(W1, 1).await;
    let made = admin
        .post("/api/keys", &json!({ "wallet_address": W1 }))
        .await
        .expect(201);
    let key = format!("/api/keys/{}", text(&made, "id"));
    admin.delete(&key).await.expect(200);
    let earning = json!({ "wallet_address": W1, "earnings": 1, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    let trail = Trail::of(admin.clone()).await;

    let credits = format!("/users/{W1}/credits");
    let (rotate, breaker) = (format!("{key}/rotate"), "/admin/breakers/node");
    let other = json!({ "wallet_address": W2, "earnings": 1, "source_id": "block-1" });
    let requests = [
        (&admin, "/users", json!({ "wallet_address": W1 }), 409),
        (&payer, "/users", json!({ "wallet_address": W2 }), 403),
        (
            &payer,
            &credits,
            json!({ "amount": 1, "reason": "me" }),
            403,
        ),
        (
            &admin,
            &credits,
            json!({ "amount": 1, "reason": "chat" }),
            400,
        ),
        (
            &admin,
            &credits,
            json!({ "amount": -3, "reason": "too much" }),
            409,
        ),
        (
            &admin,
            &format!("/users/{W2}/credits"),
            json!({ "amount": -3, "reason": "unknown" }),
            404,
        ),
        (&admin, "/miner/earnings", earning, 200),
        (&admin, "/miner/earnings", other, 409),
        (&payer, "/api/keys", json!({}), 403),
        (&admin, &rotate, json!({}), 409),
        (&admin, "/api/keys/key_none/rotate", json!({}), 404),
        (&payer, breaker, json!({ "state": "open" }), 403),
        (&admin, breaker, json!({ "state": "half" }), 400),
        (
            &admin,
            "/admin/breakers/none",
            json!({ "state": "open" }),
            404,
        ),
        (&payer, "/admin/backup", Value::Null, 403),
        (
            &admin,
            "/miner/stats",
            json!({ "wallet_address": W2, "hashrate": 1 }),
            201,
        ),
    ];
    for (caller, path, body, status) in requests {
        caller.post(path, &body).await.expect(status);
        trail.unchanged(&format!("{path} {body}")).await;
    }
    // It is revoked already.
    admin.delete(&key).await.expect(200);
    admin.delete("/api/keys/key_none").await.expect(404);
    let (status, _, body) = payer.chat("hi").await;
    crate::chat::whole(body).await.unwrap();
    assert_eq!(status, 200);
    trail.unchanged("a chat and a repeated revocation").await;
}

#[tokio::test]
async fn a_login_and_a_logout_leave_no_entry() {
    let server = TestServer::start(config()).await;
    let trail = Trail::of(server.admin()).await;
    let message = challenge(&server).await;
    let login = server
        .anybody()
        .post("/login", &signed(&message))
        .await
        .expect(200);
    let owner = server.with_key(text(&login, "access_token"));
    let id = key_id(&owner).await;
    owner.delete(&format!("/api/keys/{id}")).await.expect(200);
    owner.get("/auth/me").await.refused(401, "invalid_api_key");
    trail.unchanged("the key of a login").await;
    assert!(
        server
            .store
            .user(crate::support::wallet(WALLET))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_replayed_request_leaves_no_second_entry() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let mut trail = Trail::of(admin.clone()).await;
    let credits = format!("/users/{W1}/credits");
    let requests = [
        ("/users", json!({ "wallet_address": W1 }), 201),
        (&credits, json!({ "amount": 5, "reason": "welcome" }), 200),
        (&credits, json!({ "amount": -5, "reason": "a fee" }), 200),
        (
            "/miner/earnings",
            json!({ "wallet_address": W1, "earnings": 1, "source_id": "b" }),
            201,
        ),
        ("/api/keys", json!({ "wallet_address": W1 }), 201),
    ];
    for (number, (path, body, status)) in requests.into_iter().enumerate() {
        let key = number.to_string();
        let headers = [("idempotency-key", key.as_str())];
        let send = async || {
            admin
                .send(Method::POST, path, &headers, body.to_string())
                .await
        };
        send().await.expect(status);
        trail.entries += 1;
        trail.unchanged(path).await;
        // A response with a key is not stored.
        let again = if path == "/api/keys" { 409 } else { status };
        send().await.expect(again);
        trail.unchanged(path).await;
    }
}

#[tokio::test]
async fn the_address_is_the_clients_behind_a_trusted_proxy() {
    let mut config = config();
    config.auth.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let server = TestServer::start(config).await;
    let admin = server.admin();
    let forwarded = [("x-forwarded-for", "192.0.2.1, 2001:db8::7")];
    let account = json!({ "wallet_address": W1 }).to_string();
    let created = admin.send(Method::POST, "/users", &forwarded, account);
    created.await.expect(201);
    assert_eq!(trail(&admin).await[0]["address"], "2001:db8::7");
}

#[tokio::test]
async fn the_trail_is_read_page_by_page_by_admins_only() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let payer = server.payer(W1, 3).await;
    payer.get("/admin/audit").await.refused(403, "forbidden");
    let anybody = server.anybody();
    anybody
        .get("/admin/audit")
        .await
        .refused(401, "missing_credentials");
    for query in [
        "cursor=led_0000000000000001",
        "cursor=1",
        "limit=0",
        "limit=501",
        "before=1",
    ] {
        let refused = admin.get(&format!("/admin/audit?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
    }
    let all = trail(&admin).await;
    // The server's admin key, the wallet's, the grant.
    assert_eq!(all.len(), 3);
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin
            .get(&format!("/admin/audit?limit=1{cursor}"))
            .await
            .expect(200);
        read.extend(page["entries"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(read, all);
    assert!(read.is_sorted_by_key(|entry| std::cmp::Reverse(text(entry, "id").to_owned())));
}

/// The trail as `audit list --json` prints it, oldest first.
fn listed(database: &Path) -> Vec<Value> {
    let (code, output) = edge(database, &["audit", "list", "--json"]);
    assert_eq!(code, 0);
    let listed: Value = serde_json::from_str(&output).unwrap();
    let mut entries = listed["entries"].as_array().unwrap().clone();
    entries.reverse();
    entries
}

/// Commands that make administrative changes; what the trail then has of each: actor, address, action, amount, reason.
fn changes_by_command(database: &Path) -> Vec<[Value; 5]> {
    let before = listed(database).len();
    let run = |arguments: &[&str]| {
        let (code, output) = edge(database, &[&["--json"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}");
        serde_json::from_str::<Value>(&output).unwrap()
    };
    run(&["users", "create", W1]);
    run(&["credits", "grant", W1, "2.5", "--reason", "welcome"]);
    run(&["credits", "take", W1, "0.5", "--reason", "a fee"]);
    let made = run(&["keys", "create", "--wallet", W1]);
    let (made, lasting) = (text(&made, "id"), ["--grace", "1h"]);
    let new = run(&[&["keys", "rotate", made][..], &lasting].concat());
    run(&["keys", "revoke", text(&new, "id")]);
    let backup = run(&["backup", "create"]);
    let backup = Path::new(text(&backup, "file")).file_name().unwrap();
    let entries = listed(database).split_off(before);
    let targets: Vec<_> = entries.iter().map(|entry| text(entry, "target")).collect();
    let expected = [
        W1,
        W1,
        W1,
        made,
        made,
        text(&new, "id"),
        backup.to_str().unwrap(),
    ];
    assert_eq!(targets, expected);
    assert_eq!(
        entries[4]["reason"],
        format!("replaced by {}", text(&new, "id"))
    );
    let members = ["actor", "address", "action", "amount", "reason"];
    let row = |entry: &Value| members.map(|member| entry[member].clone());
    entries.iter().map(row).collect()
}

#[test]
fn a_command_leaves_the_same_entries_on_the_file_as_through_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let local = format!("local:{}", rustix::process::getuid().as_raw());
    let mut both = ["file.db", "served.db"].map(|name| {
        let database = folder.path().join(name);
        let server = Process::serve(&database, "");
        let first = listed(&database);
        // The first key is made by the start itself.
        assert_eq!(first.len(), 1);
        assert_eq!(
            (&first[0]["actor"], &first[0]["address"]),
            (&json!(local), &Value::Null)
        );
        assert_eq!(first[0]["action"], "keys.create");
        let own = [first[0]["target"].clone(), json!("127.0.0.1")];
        if name == "served.db" {
            (own, changes_by_command(&database))
        } else {
            assert_eq!(server.terminate(), Some(0));
            ([json!(local), Value::Null], changes_by_command(&database))
        }
    });
    let actions =
        "users.create credits.grant credits.take keys.create keys.rotate keys.revoke backup.create";
    for (by, rows) in &mut both {
        assert!(
            rows.iter()
                .map(|row| row[2].as_str().unwrap())
                .eq(actions.split(' '))
        );
        assert!(rows.iter().all(|row| row[..2] == by[..]), "{by:?} {rows:?}");
        // It names a key.
        rows[4][4] = Value::Null;
    }
    let [(_, on_file), (_, through_server)] = both.map(|(by, rows)| {
        (
            by,
            rows.iter().map(|row| row[2..].to_vec()).collect::<Vec<_>>(),
        )
    });
    assert_eq!(on_file, through_server);
}

#[test]
fn a_restore_and_an_import_are_in_the_trail_of_the_database_they_made() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let local = format!("local:{}", rustix::process::getuid().as_raw());
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let backup = folder.path().join("first.backup");
    let name = backup.to_str().unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", name]).0, 0);
    let hash = sha256(&old_key(1));
    let row = (hash.as_str(), W1, None, true, "2026-01-02 03:04:05", None);
    let imported = backend(folder.path(), NEWER, &[row]);
    // The second import finds nothing new.
    for _ in 0..2 {
        assert_eq!(
            edge(&database, &["db", "import", imported.to_str().unwrap()]).0,
            0
        );
    }
    let actions = |database: &Path| -> Vec<String> {
        let entries = listed(database);
        assert!(
            entries
                .iter()
                .all(|entry| entry["actor"] == local && entry["address"].is_null())
        );
        let line = |entry: &Value| format!("{} {}", text(entry, "action"), text(entry, "target"));
        entries[1..].iter().map(line).collect()
    };
    let source = imported.file_name().unwrap().to_str().unwrap();
    let before = [
        "backup.create first.backup".to_owned(),
        format!("db.import {source}"),
    ];
    assert_eq!(actions(&database), before);
    // A restore that is refused changes no trail.
    assert_ne!(
        edge(&database, &["restore", imported.to_str().unwrap()]).0,
        0
    );
    assert_eq!(actions(&database), before);
    let unchanged = std::fs::read(&backup).unwrap();
    assert_eq!(edge(&database, &["restore", name]).0, 0);
    // The copy was made before its own entry.
    assert_eq!(actions(&database), ["backup.restore first.backup"]);
    assert_eq!(std::fs::read(&backup).unwrap(), unchanged);
    assert_eq!(edge(&database, &["db", "check"]).0, 0);
    let (_, lines) = edge(&database, &["audit", "list"]);
    assert!(
        lines.lines().count() == 3 && lines.contains(" backup.restore "),
        "{lines}"
    );
}

#[tokio::test]
async fn a_breaker_moves_though_its_entry_cannot_be_written_and_the_log_has_it() {
    let log = crate::secrets::captured_log();
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let faults = crate::faults::Faults::default();
    let server = faults
        .serve(config_with_inference("openai", &upstream))
        .await;
    faults.fail("record_action");
    let open = json!({ "state": "open" });
    let opened = server
        .admin()
        .post("/admin/breakers/node", &open)
        .await
        .expect(200);
    assert_eq!(opened["state"], "OPEN");
    let by = key_id(&server.admin()).await;
    let line = format!("not in the audit trail: breaker.open of node by {by} from 127.0.0.1: ");
    assert!(log.lock().unwrap().contains(&line));
}
