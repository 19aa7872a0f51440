//! The command line on the real binary, beside a server and without one.

mod accounts;
mod admin_key;
mod demo;
mod environment;
mod export;
mod outputs;
mod reading;
mod remote;
mod status;
mod table;

use serde_json::json;

use crate::chat::whole;
use crate::support::{
    Caller, Process, Scripted, TestServer, Upstream, W1, config, edge, eventually,
};

#[tokio::test]
async fn the_command_line_makes_and_revokes_keys_without_a_server() {
    let server = TestServer::start(config()).await;
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let (code, key) = edge(
        &database,
        &[
            "keys",
            "create",
            "--wallet",
            W1,
            "--scopes",
            "read",
            "--expires",
            "90d",
        ],
    );
    assert_eq!((code, key.trim().len()), (0, 55), "{key}");
    let (_, listed) = edge(&database, &["keys", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed["keys"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["keys"][0]["start"], key[..10]);
    let (code, shown) = edge(&database, &["keys", "show", &id, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &shown), (0, &listed["keys"][0]));
    assert_eq!(edge(&database, &["keys", "show", "key_nothing"]).0, 3);
    assert_eq!(edge(&database, &["keys", "show", "../x"]).0, 2);
    let (code, rotated) = edge(&database, &["keys", "rotate", &id, "--grace", "1h"]);
    assert_eq!((code, rotated.trim().len()), (0, 55), "{rotated}");
    assert_ne!(rotated, key);
    assert_eq!(edge(&database, &["keys", "revoke", &id]).0, 0);
    assert_eq!(edge(&database, &["keys", "rotate", &id]).0, 4);
    assert_eq!(edge(&database, &["keys", "revoke", "key_nothing"]).0, 3);
    assert_eq!(
        edge(&database, &["keys", "create", "--wallet", "remes1x"]).0,
        2
    );
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
    let nowhere = folder.path().join("nowhere.db");
    assert_eq!(edge(&nowhere, &["keys", "list"]).0, 3);
    assert!(!nowhere.exists() && !folder.path().join("nowhere.db.lock").exists());
}

#[tokio::test]
async fn a_key_that_the_command_line_revokes_beside_a_server_is_refused_on_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let (code, key) = edge(
        &database,
        &["keys", "create", "--wallet", W1, "--scopes", "read"],
    );
    assert_eq!(code, 0);
    let caller = Caller::new(&server.address, Some(key.trim()));
    let me = caller.get("/auth/me").await.expect(200);
    let id = me["key"]["id"].as_str().unwrap();
    let (code, rotated) = edge(&database, &["keys", "rotate", id, "--grace", "1h"]);
    assert_eq!(code, 0);
    let (code, shown) = edge(&database, &["keys", "show", id]);
    assert_eq!(code, 0);
    assert!(shown.contains(&format!("id              {id}\n")) && !shown.contains(key.trim()));
    assert_eq!(edge(&database, &["keys", "show", "key_nothing"]).0, 3);
    let rotated = Caller::new(&server.address, Some(rotated.trim()));
    rotated.get("/auth/me").await.expect(200);
    caller.get("/auth/me").await.expect(200);
    assert_eq!(edge(&database, &["keys", "revoke", id]).0, 0);
    caller.get("/auth/me").await.refused(401, "invalid_api_key");
    let (_, listed) = edge(&database, &["keys", "list", "--wallet", W1, "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let active = |at: usize| listed["keys"][at]["is_active"].as_bool().unwrap();
    assert_eq!(
        (active(0), active(1)),
        (true, false),
        "newest first: {listed}"
    );
    assert_eq!(edge(&database, &["keys", "revoke", "key_nothing"]).0, 3);
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn ledger_verify_detects_a_tampered_backup() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 3).await;
    let folder = server.shutdown().await;
    let backup = folder.path().join("backup.db");
    std::fs::copy(folder.path().join("edge.db"), &backup).unwrap();
    let (code, output) = edge(&backup, &["ledger", "verify"]);
    assert_eq!(
        (code, output.as_str()),
        (
            0,
            "the ledger adds up: 1 wallet, 1 entry since the last check; --full checks all of them\n"
        )
    );
    let tampered = rusqlite::Connection::open(&backup).unwrap();
    let changed = tampered.execute("UPDATE users SET credits = credits + 1", []);
    assert_eq!(changed, Ok(1));
    drop(tampered);
    for arguments in [&["ledger", "verify"][..], &["ledger", "verify", "--full"]] {
        let (code, output) = edge(&backup, arguments);
        assert_eq!(code, 1);
        assert!(
            output.contains(&format!(
                "{W1}: the balance is 3.000001, its newest entry has 3"
            )),
            "{output}"
        );
        let verdict = output.lines().last().unwrap();
        assert!(
            verdict.starts_with("the ledger does NOT add up: "),
            "{output}"
        );
    }
}

#[tokio::test]
async fn each_request_is_one_log_line_with_its_durations_and_never_the_prompt() {
    let upstream = Upstream::inference(|_| Scripted::words(&["some ", "words"])).await;
    let folder = tempfile::tempdir().unwrap();
    let node = format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"\n",
        upstream.url()
    );
    let server = Process::serve(&folder.path().join("edge.db"), &node);
    let admin = server.admin();
    server.grant(W1, 1).await;
    let made = admin
        .post("/api/keys", &json!({ "wallet_address": W1 }))
        .await;
    let made = made.expect(201);
    let caller = Caller::new(&server.address, made["api_key"].as_str());
    let (_, _, body) = caller.chat("my \n secret \u{1b}[31m prompt").await;
    whole(body).await.unwrap();
    let line = eventually("the chat is logged", async || {
        caller.get("/livez").await.expect(200);
        let log = server.log();
        log.into_iter()
            .find(|line| line.contains(" POST /chat 200 "))
    })
    .await;
    for field in [
        "INFO",
        " ms=",
        " upstream_ms=",
        " bytes=11",
        " request_id=req_",
        " key_id=key_",
    ] {
        assert!(line.contains(field), "{field} in {line}");
    }
    // Enough to recognise, too little to copy.
    assert!(line.contains(" wallet=remes1jrtx…mshm"), "{line}");
    let all = server.log().join("\n");
    assert!(!all.contains("secret") && !all.contains('\u{1b}'), "{all}");
    assert_eq!(server.terminate(), Some(0));
}
