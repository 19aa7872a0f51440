use serde_json::json;

use super::Target;
use crate::login::{challenge, signed};
use crate::support::{TestServer, W1, W2};

/// A valid request for each parser that meets a client's bytes.
pub(super) async fn targets(server: &TestServer) -> Vec<Target> {
    let payer = server.payer(W1, 1_000_000).await;
    let owner = server.caller(W2, &["chat", "read", "miner", "keys"]).await;
    let plain = "Host: localhost\r\nContent-Type: application/json\r\n".to_owned();
    let with = |key: &str, more: &str| format!("{plain}X-API-Key: {key}\r\n{more}");
    let (admin, payer, owner) = (
        server.admin(),
        payer.key().to_owned(),
        owner.key().to_owned(),
    );
    let admin = admin.key();
    let get =
        |path: &str, headers: String, valid: &[u8]| Target::new("GET", path, headers, "", valid);
    let mut targets = vec![
        Target {
            exact: true,
            ..get("/auth/me", with("@", ""), payer.as_bytes())
        },
        Target {
            exact: true,
            ..get(
                "/auth/me",
                format!("{plain}Authorization: Bearer @\r\n"),
                payer.as_bytes(),
            )
        },
        get(
            "/auth/me",
            with(&payer, "Authorization: @\r\n"),
            b"Basic dXNlcjpwYXNz",
        ),
        Target {
            exact: true,
            ..get("/users/@", with(admin, ""), W1.as_bytes())
        },
        get("/miner/stats/@", with(admin, ""), W1.as_bytes()),
        get("/livez", "Host: @\r\n".to_owned(), b"localhost:8000"),
        get(
            "/livez",
            format!("{plain}Origin: @\r\n"),
            b"http://localhost:8000",
        ),
        get(
            "/livez",
            format!("{plain}X-Forwarded-For: @\r\n"),
            b"198.51.100.1, [2001:db8::1]:443, 203.0.113.7, 127.0.0.1",
        ),
        get(
            "/livez",
            format!("{plain}X-Request-Id: @\r\n"),
            b"request-1",
        ),
        get(
            "/leaderboard",
            with(admin, "If-None-Match: @\r\n"),
            b"W/\"0123456789abcdef\", \"x\", *",
        ),
        get(
            "/metrics",
            with(admin, "Accept: @\r\n"),
            b"application/openmetrics-text; version=1.0.0, text/plain;q=0.5",
        ),
        get(
            &format!("/users/{W1}/ledger?@"),
            with(&payer, ""),
            b"limit=5&cursor=led_0000000000000001",
        ),
        get(
            &format!("/miner/hashrate/{W1}?@"),
            with(admin, ""),
            b"hours=24&resolution=1h",
        ),
        get(
            &format!("/miner/earnings/{W1}?@"),
            with(admin, ""),
            b"days=7",
        ),
        get("/system/version?@", plain.clone(), b"version=1.2.3"),
        get("/leaderboard?@", with(admin, ""), b"limit=10&period=week"),
        get(
            "/api/keys?@",
            with(&owner, ""),
            b"limit=10&cursor=key_01KAVWX6Q8000000000000000A",
        ),
        get(
            "/@",
            with(admin, ""),
            format!("users/{W1}/ledger?limit=5").as_bytes(),
        ),
        Target::new(
            "DELETE",
            "/api/keys/@",
            with(&owner, ""),
            "",
            b"key_01KAVWX6Q8000000000000000A",
        ),
    ];
    let credits = format!("/users/{W1}/credits");
    let grant = r#"{"amount":1.25,"reason":"welcome"}"#;
    targets.push(Target::new(
        "POST",
        &credits,
        with(admin, ""),
        r#"{"amount":@,"reason":"a"}"#,
        b"12.345678",
    ));
    targets.push(Target::new(
        "POST",
        &credits,
        with(admin, "Idempotency-Key: @\r\n"),
        grant,
        b"\"8e03978e-40d5-43dd-bc93\"",
    ));
    let login = signed(&challenge(server).await).to_string();
    let sample = json!({
        "worker": "rig-1", "hashrate": 42.5, "hashrate_unit": "H/s", "gpu_temperature": 67, "blocks_found": 1,
        "uptime_percentage": 99.5, "uptime_seconds": 60, "network_difficulty": 1e6, "power_watts": 250,
        "accepted": 3, "rejected": 0, "loss": 0.5, "recorded_at": server.clock.now().to_string(),
    });
    let (sample, several) = (
        sample.to_string(),
        json!([sample, { "hashrate": 1 }]).to_string(),
    );
    let lines = format!("{sample}\n{{\"hashrate\":1}}\r\n\n{sample}\n");
    let wallet = format!(r#"{{"wallet_address":"{W1}"}}"#);
    let revoke =
        format!(r#"{{"api_key_id":"key_01KAVWX6Q8000000000000000A","wallet_address":"{W2}"}}"#);
    let key = format!(
        r#"{{"wallet_address":"{W2}","name":"rig","scopes":["chat","read"],"expires_days":30}}"#
    );
    let earning = format!(
        r#"{{"wallet_address":"{W1}","earnings":2.5,"source_id":"block-1","recorded_at":1795500000}}"#
    );
    let chat =
        format!(r#"{{"message":"Hello w\u00f6rld","adapter":"general","wallet_address":"{W1}"}}"#);
    let completion = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true},"temperature":0.5,"n":1}"#.to_owned();
    for (method, path, key, body) in [
        ("POST", "/login/challenge", None, &wallet),
        ("POST", "/login", None, &login),
        ("POST", "/api/keys", Some(&*owner), &key),
        ("POST", "/api-keys/revoke", Some(&owner), &revoke),
        ("DELETE", "/api-keys/delete", Some(&owner), &revoke),
        (
            "POST",
            "/api/keys/key_01KAVWX6Q8000000000000000A/rotate",
            Some(&owner),
            &r#"{"grace_seconds":60}"#.to_owned(),
        ),
        ("POST", "/users", Some(admin), &wallet),
        ("POST", &credits, Some(admin), &grant.to_owned()),
        ("POST", "/miner/stats", Some(&owner), &sample),
        ("POST", "/miner/stats", Some(&owner), &several),
        ("POST", "/miner/stats", Some(&owner), &lines),
        ("POST", "/miner/earnings", Some(admin), &earning),
        ("POST", "/chat", Some(&payer), &chat),
        ("POST", "/v1/chat/completions", Some(&payer), &completion),
    ] {
        let headers = key.map_or_else(|| plain.clone(), |key| with(key, ""));
        targets.push(Target::new(method, path, headers, "@", body.as_bytes()));
    }
    let message = r#"{"message":"hello"}"#;
    targets.push(Target::new(
        "POST",
        "/chat",
        with(&payer, "X-Wallet-Address: @\r\n"),
        message,
        W1.as_bytes(),
    ));
    targets.push(Target::new(
        "POST",
        "/chat",
        with(&payer, "X-Adapter: @\r\n"),
        message,
        b"general",
    ));
    targets
}
