use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::signature::hazmat::PrehashSigner;
use k256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{TestServer, W1, config};

/// The wallet of the test key of 32 bytes 0x07.
pub(crate) const WALLET: &str = "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm";

/// What a wallet sends after signing `message` (ADR-036), with the key of the fixture.
pub(crate) fn signed(message: &str) -> Value {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let data = STANDARD.encode(message);
    let document = format!(
        r#"{{"account_number":"0","chain_id":"","fee":{{"amount":[],"gas":"0"}},"memo":"","msgs":[{{"type":"sign/MsgSignData","value":{{"data":"{data}","signer":"{WALLET}"}}}}],"sequence":"0"}}"#
    );
    let signature: Signature = key.sign_prehash(&Sha256::digest(document)).unwrap();
    json!({
        "wallet_address": WALLET,
        "message": message,
        "pub_key": STANDARD.encode(key.verifying_key().to_sec1_point(true).as_bytes()),
        "signature": STANDARD.encode(signature.to_bytes()),
    })
}

pub(crate) async fn challenge(server: &TestServer) -> String {
    let made = server
        .anybody()
        .post("/login/challenge", &json!({ "wallet_address": WALLET }))
        .await
        .expect(200);
    made["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_wallet_that_signs_gets_an_account_and_a_key_for_an_hour() {
    let mut config = config();
    config.auth.public_name = "edge.example".to_owned();
    let server = TestServer::start(config).await;
    let message = challenge(&server).await;
    assert!(
        message.starts_with("Sign in to edge.example\n") && message.contains(WALLET),
        "{message}"
    );
    let answer = server
        .anybody()
        .post("/login", &signed(&message))
        .await
        .expect(200);
    assert_eq!(
        (&answer["token_type"], &answer["expires_in"]),
        (&json!("bearer"), &json!(3600))
    );
    assert_eq!(
        (
            &answer["user"]["wallet_address"],
            &answer["user"]["credits"]
        ),
        (&json!(WALLET), &json!(0))
    );
    let caller = server.with_key(answer["access_token"].as_str().unwrap());
    let me = caller.get("/auth/me").await.expect(200);
    assert_eq!(
        me["key"]["scopes"],
        json!(["chat", "read", "miner", "keys"])
    );
    caller
        .post("/api/keys", &json!({"scopes":["admin"]}))
        .await
        .refused(403, "forbidden");
    server.clock.advance(Duration::from_secs(3600));
    caller.get("/auth/me").await.refused(401, "expired_api_key");
    assert_eq!(server.store.purge(server.clock.now()).await, Ok(1));
    caller.get("/auth/me").await.refused(401, "expired_api_key");
}

#[tokio::test]
async fn logins_do_not_count_among_a_wallets_keys() {
    let server = TestServer::start(config()).await;
    for _ in 0..12 {
        let message = challenge(&server).await;
        server
            .anybody()
            .post("/login", &signed(&message))
            .await
            .expect(200);
    }
    server.caller(WALLET, &["read"]).await;
}

#[tokio::test]
async fn of_ten_logins_at_once_with_one_challenge_one_succeeds() {
    let server = TestServer::start(config()).await;
    let body = signed(&challenge(&server).await);
    let logins: Vec<_> = (0..10)
        .map(|_| {
            let (anybody, body) = (server.anybody(), body.clone());
            tokio::spawn(async move { anybody.post("/login", &body).await })
        })
        .collect();
    let mut succeeded = 0;
    for login in logins {
        let answer = login.await.unwrap();
        if answer.status == 200 {
            succeeded += 1;
        } else {
            answer.refused(401, "invalid_signature");
        }
    }
    assert_eq!(succeeded, 1);
}

#[tokio::test]
async fn a_foreign_challenge_or_an_invalid_signature_is_refused() {
    let server = TestServer::start(config()).await;
    let anybody = server.anybody();
    let message = challenge(&server).await;
    let body = signed(&message);
    let changed = |field: &str, value: Value| {
        let mut body = body.clone();
        body[field] = value;
        body
    };
    let other = TestServer::start(config()).await;
    other
        .anybody()
        .post("/login", &body)
        .await
        .refused(401, "invalid_signature");
    for wrong in [
        changed("wallet_address", json!(W1)),
        changed("message", json!("hello")),
        changed("message", json!(message.replace("Nonce: ", "Nonce: 0"))),
        changed("signature", signed("hello")["signature"].clone()),
        changed("signature", json!("not base64")),
        changed("pub_key", json!("AAAA")),
        signed("hello"),
    ] {
        anybody
            .post("/login", &wrong)
            .await
            .refused(401, "invalid_signature");
    }
    anybody
        .post("/login", &json!({"wallet_address": WALLET}))
        .await
        .refused(400, "invalid_request");
    anybody
        .post("/login/challenge", &json!({"wallet_address": "x"}))
        .await
        .refused(400, "invalid_wallet_address");
    server.clock.advance(Duration::from_secs(300));
    anybody
        .post("/login", &body)
        .await
        .refused(401, "invalid_signature");
    let form = [("content-type", "text/plain")];
    let late = anybody
        .send(hyper::Method::POST, "/login", &form, body.to_string())
        .await;
    late.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_login_makes_no_key_that_outlasts_it_and_does_not_prolong_itself() {
    let server = TestServer::start(config()).await;
    let body = signed(&challenge(&server).await);
    let login = server.anybody().post("/login", &body).await.expect(200);
    let caller = server.with_key(login["access_token"].as_str().unwrap());
    let me = caller.get("/auth/me").await.expect(200);
    let (id, end) = (me["key"]["id"].as_str().unwrap(), &me["key"]["expires_at"]);
    server.clock.advance(Duration::from_secs(60));

    let made = caller.post("/api/keys", &json!({})).await.expect(201);
    assert_eq!(&made["expires_at"], end);
    let lasting = json!({ "expires_days": 1 });
    let refused = caller.post("/api/keys", &lasting).await;
    refused.refused(403, "forbidden");
    let path = format!("/api/keys/{id}/rotate");
    let rotated = caller.post(&path, &json!({})).await.expect(201);
    assert_eq!(&rotated["expires_at"], end);

    // It may list and revoke its wallet's keys.
    let caller = server.with_key(rotated["api_key"].as_str().unwrap());
    let lasting = server.caller(WALLET, &["read"]).await;
    let lasting_id = &lasting.get("/auth/me").await.expect(200)["key"]["id"];
    let path = format!("/api/keys/{}", lasting_id.as_str().unwrap());
    let rotated = caller.post(&format!("{path}/rotate"), &json!({})).await;
    rotated.refused(403, "forbidden");
    caller.delete(&path).await.expect(200);
    lasting
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
}
