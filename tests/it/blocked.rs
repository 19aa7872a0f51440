//! A blocked wallet keeps its credits, and can neither log in nor pay nor make keys.

use hyper::Method;
use r3mes_edge::store::Change;
use serde_json::{Value, json};

use crate::chat::{held_inference, whole};
use crate::faults::Faults;
use crate::login::{WALLET, challenge, signed};
use crate::support::{
    Caller, Process, Scripted, TestServer, Upstream, W1, W2, config, config_with_inference, edge,
    next_text, wallet,
};

async fn set(server: &TestServer, of: &str, action: &str) -> Value {
    let path = format!("/users/{of}/{action}");
    server.admin().post(&path, &Value::Null).await.expect(200)
}

/// Each way to pay, with a key of the wallet or, for it, with an admin's.
async fn pay(caller: &Caller) -> Vec<u16> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let mut statuses = Vec::new();
    for (path, body) in [
        ("/chat", json!({ "message": "hi" })),
        ("/v1/chat/completions", json!({ "messages": messages })),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "stream": true }),
        ),
    ] {
        let headers = [("x-wallet-address", WALLET)];
        let (status, _, body) = caller
            .open(Method::POST, path, &headers, body.to_string())
            .await;
        let body = whole(body).await.unwrap();
        if status == 403 {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["code"], "account_blocked", "{path}");
        }
        statuses.push(status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_wallet_keeps_its_credits_and_cannot_log_in_or_pay_or_make_keys() {
    let upstream = Upstream::inference(|seen| match seen.body.contains("\"stream\":true") {
        true => Scripted::words(&["hello"]),
        false => Scripted::completion("hello"),
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let admin = server.admin();
    let scopes = ["chat", "read", "keys", "miner"];
    let own = server.caller(WALLET, &scopes).await;
    let other = server.payer(W2, 1).await;
    let grant = json!({ "amount": 10, "reason": "test" });
    let credits = format!("/users/{WALLET}/credits");
    admin.post(&credits, &grant).await.expect(200);
    // Its key is cached now.
    assert_eq!(pay(&own).await, [200; 3]);
    assert_eq!(pay(&admin).await, [200; 3]);
    let id = own.get("/auth/me").await.expect(200)["key"]["id"].clone();
    let rotate = format!("/api/keys/{}/rotate", id.as_str().unwrap());
    let account = format!("/users/{WALLET}");
    let is_blocked = async || {
        let shown = own.get(&account).await.expect(200);
        let listed = admin.get("/users").await.expect(200);
        let mut users = listed["users"].as_array().unwrap().iter();
        let of_it = users.find(|user| user["wallet_address"] == WALLET).unwrap();
        for (name, value) in shown.as_object().unwrap() {
            assert_eq!(of_it[name], *value, "{name}");
        }
        shown["blocked"].clone()
    };
    assert_eq!(is_blocked().await, false);

    let blocked = set(&server, WALLET, "block").await;
    assert_eq!(
        (&blocked["blocked"], &blocked["credits"]),
        (&json!(true), &json!(4))
    );
    assert_eq!(pay(&own).await, [403; 3]);
    assert_eq!(pay(&admin).await, [403; 3]);
    for path in ["/api/keys", "/api-keys/create", &rotate] {
        let made = own.post(path, &json!({})).await;
        made.refused(403, "account_blocked");
    }
    let message = challenge(&server).await;
    let login = async |message: &str| server.anybody().post("/login", &signed(message)).await;
    login(&message).await.refused(403, "account_blocked");
    // Reads, telemetry and the admin's changes go on; others are not concerned.
    assert_eq!(is_blocked().await, true);
    for path in [
        "/auth/me",
        "/usage",
        "/v1/models",
        &format!("{account}/ledger"),
    ] {
        own.get(path).await.expect(200);
    }
    own.post("/miner/stats", &json!({ "hashrate": 1 }))
        .await
        .expect(201);
    admin.post(&credits, &grant).await.expect(200);
    let earning = json!({ "wallet_address": WALLET, "earnings": 1, "source_id": "block-1" });
    admin.post("/miner/earnings", &earning).await.expect(201);
    let key = json!({ "wallet_address": WALLET });
    admin.post("/api/keys", &key).await.expect(201);
    assert_eq!(
        other
            .post("/chat", &json!({ "message": "hi" }))
            .await
            .status,
        200
    );

    let unblocked = set(&server, WALLET, "unblock").await;
    assert_eq!(
        (&unblocked["blocked"], &unblocked["credits"]),
        (&json!(false), &json!(15))
    );
    assert_eq!(pay(&own).await, [200; 3]);
    assert_eq!(pay(&admin).await, [200; 3]);
    own.post("/api/keys", &json!({})).await.expect(201);
    login(&challenge(&server).await).await.expect(200);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn only_an_admin_blocks_a_wallet_that_is_there_and_each_change_is_one_audit_entry() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let own = server.caller(W1, &["chat", "read", "keys", "miner"]).await;
    for action in ["block", "unblock"] {
        let path = format!("/users/{W1}/{action}");
        own.post(&path, &Value::Null)
            .await
            .refused(403, "forbidden");
        let anybody = server.anybody().post(&path, &Value::Null).await;
        anybody.refused(401, "missing_credentials");
        let unknown = format!("/users/{W2}/{action}");
        let unknown = admin.post(&unknown, &Value::Null).await;
        unknown.refused(404, "user_not_found");
        let wrong = admin
            .post(&format!("/users/W1/{action}"), &Value::Null)
            .await;
        wrong.refused(400, "invalid_wallet_address");
        let more = admin.post(&format!("{path}?for=1d"), &Value::Null).await;
        more.refused(400, "invalid_request");
    }
    let mut expected = Vec::new();
    for action in ["unblock", "block", "block", "unblock", "unblock", "block"] {
        let user = set(&server, W1, action).await;
        let blocked = json!(action == "block");
        assert_eq!(user["blocked"], blocked);
        if expected.last() != Some(&action) && (action == "block" || !expected.is_empty()) {
            expected.push(action);
        }
    }
    let trail = admin.get("/admin/audit").await.expect(200);
    let entries = trail["entries"].as_array().unwrap().iter().rev();
    let made = entries.filter_map(|entry| {
        let action = entry["action"].as_str().unwrap().strip_prefix("users.")?;
        assert_eq!(entry["target"], W1);
        Some(action)
    });
    assert_eq!(made.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_is_answered_when_its_wallet_is_blocked_is_given_and_charged() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = caller.clone();
    let asking = tokio::spawn(async move { asking.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one");
    let (status, _, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "one");
    set(&server, W1, "block").await;
    let refused = caller.post("/chat", &json!({ "message": "hi" })).await;
    refused.refused(403, "account_blocked");
    frames.send_word(" two");
    frames.send_done();
    assert_eq!(whole(body).await.unwrap(), " two\n");
    assert_eq!(server.balance(W1).await.to_string(), "2");
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_follows_the_answer_to_a_block_is_accepted_however_many_ask_meanwhile() {
    // No inference server is configured.
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["chat"]).await;
    let status = async |caller: &Caller| caller.chat("hi").await.0;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let caller = caller.clone();
        asking.spawn(async move {
            loop {
                let status = status(&caller).await;
                assert!(matches!(status, 403 | 503), "{status}");
            }
        });
    }
    for _ in 0..50 {
        for (action, expected) in [("block", 403), ("unblock", 503)] {
            set(&server, W1, action).await;
            for _ in 0..4 {
                assert_eq!(status(&caller).await, expected, "after {action}");
            }
        }
    }
    assert!(asking.try_join_next().is_none());
    asking.shutdown().await;
}

#[tokio::test]
async fn a_wallet_that_another_process_blocked_cannot_pay_from_its_notification_on() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let caller = server.caller(W1, &["chat"]).await;
    // No inference server is configured.
    let chat = async || caller.post("/chat", &json!({ "message": "hi" })).await;
    for (blocked, status, code) in [(1, 403, "account_blocked"), (0, 503, "inference_disabled")] {
        chat().await;
        let file = rusqlite::Connection::open(server.database()).unwrap();
        file.execute("UPDATE users SET blocked = ?1", [blocked])
            .unwrap();
        faults.changed_elsewhere(Change::Blocked {
            wallet: wallet(W1),
            blocked: blocked == 1,
        });
        chat().await.refused(status, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_blocks_a_wallet_of_a_running_server_and_in_the_file_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let run = |arguments: &[&str]| {
        let (code, out) = edge(&database, arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}");
        out
    };
    let server = Process::serve(&database, "");
    let key = run(&["keys", "create", "--wallet", W1]);
    let chat = async |server: &Process| {
        let caller = server.admin().with_key(key.trim());
        let body = json!({ "message": "hi" });
        let (_, _, answer) = caller
            .open(Method::POST, "/chat", &[], body.to_string())
            .await;
        let answer: Value = serde_json::from_str(&whole(answer).await.unwrap()).unwrap();
        answer["code"].clone()
    };
    assert_eq!(chat(&server).await, "inference_disabled");
    let shown = run(&["users", "block", W1]);
    assert!(
        shown.contains(W1) && shown.contains("\nblocked         true\n"),
        "{shown}"
    );
    assert_eq!(chat(&server).await, "account_blocked");
    let listed = run(&["users", "list"]);
    assert!(listed.trim_end().ends_with("  blocked"), "{listed}");
    let listed: Value = serde_json::from_str(&run(&["users", "list", "--json"])).unwrap();
    assert_eq!(listed["users"][0]["blocked"], true);
    run(&["users", "unblock", W1]);
    assert_eq!(chat(&server).await, "inference_disabled");
    assert_eq!(server.terminate(), Some(0));
    let json = run(&["users", "block", W1, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["blocked"], true);
    assert_eq!(edge(&database, &["users", "block", W2]).0, 3);
    let server = Process::serve(&database, "");
    assert_eq!(chat(&server).await, "account_blocked");
    let shown = run(&["users", "unblock", W1]);
    assert!(shown.contains("\nblocked         false\n"), "{shown}");
    assert_eq!(chat(&server).await, "inference_disabled");
    assert_eq!(server.terminate(), Some(0));
}
