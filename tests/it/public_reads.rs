//! Who may read public figures without a key: by setting, by listeners, by signs of a proxy.

use r3mes_edge::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, W1, config};

const PATHS: [&str; 3] = ["/network/stats", "/leaderboard", "/alerts"];

/// What every kind of proxy leaves in the requests that it passes on, one a line.
const PROXIED: &[&str] = &[
    "Via: 1.1 proxy",
    "Forwarded: for=203.0.113.7",
    "X-Forwarded-For: 203.0.113.7",
    "x-forwarded-for:",
    "X-Forwarded-Host: edge.example",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Server: proxy",
    "X-Forwarded-Prefix: /edge",
    "X-Forwarded-Client-Cert: By=spiffe",
    "X-Forwarded: for=203.0.113.7",
    "X-Real-IP: 203.0.113.7",
    "X-Original-For: 203.0.113.7",
    "X-Original-Host: edge.example",
    "X-Client-IP: 203.0.113.7",
    "X-Cluster-Client-IP: 203.0.113.7",
    "X-Envoy-External-Address: 203.0.113.7",
    "X-Azure-ClientIP: 203.0.113.7",
    "True-Client-IP: 203.0.113.7",
    "CF-Connecting-IP: 203.0.113.7",
    "CDN-Loop: cloudflare",
    "Fastly-Client-IP: 203.0.113.7",
    "Fly-Client-IP: 203.0.113.7",
    "Front-End-Https: on",
];

/// The status of a read on a connection of its own, and the detail of a refusal.
async fn read(server: &TestServer, path: &str, version: &str, header: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.base.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let header = match header {
        "" => String::new(),
        line => format!("{line}\r\n"),
    };
    let request = format!(
        "GET {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let detail = body["detail"].as_str().unwrap_or_default();
    (status, detail.to_owned())
}

async fn start(auth: &str) -> TestServer {
    let mut config = config();
    config.auth = Config::read(&format!("[auth]\n{auth}"), []).unwrap().auth;
    TestServer::start(config).await
}

#[tokio::test]
async fn by_default_a_direct_read_is_open_and_a_proxied_one_needs_a_key() {
    let server = start("").await;
    for path in PATHS {
        assert_eq!(read(&server, path, "1.1", "").await.0, 200, "{path}");
        let (status, detail) = read(&server, path, "1.0", "").await;
        assert_eq!(status, 401, "{path} over HTTP/1.0");
        assert!(detail.contains("HTTP/1.0"), "{detail}");
    }
    for header in PROXIED {
        let (status, detail) = read(&server, PATHS[0], "1.1", header).await;
        assert_eq!(status, 401, "{header}");
        let name = header.split(':').next().unwrap().to_ascii_lowercase();
        let expected =
            format!("public reads are closed, as a proxy forwarded this request (it has {name})");
        assert!(detail.contains(&expected), "{detail}");
        assert!(detail.contains("auth.public_reads = true"), "{detail}");
    }
    // What clients send by themselves is no sign of a proxy.
    let own = "X-Request-Id: r1\r\nUser-Agent: curl\r\nAccept: */*\r\nX-Stainless-OS: Linux";
    assert_eq!(read(&server, PATHS[0], "1.1", own).await.0, 200);
}

#[tokio::test]
async fn configured_public_reads_apply_behind_a_proxy_too() {
    for (auth, status) in [
        ("public_reads = true", 200),
        (
            "public_reads = true\ntrusted_proxies = [\"127.0.0.1\"]",
            200,
        ),
        ("public_reads = false", 401),
        (
            "public_reads = false\ntrusted_proxies = [\"127.0.0.1\"]",
            401,
        ),
    ] {
        let server = start(auth).await;
        for path in PATHS {
            for (version, header) in [("1.1", ""), ("1.0", ""), ("1.1", PROXIED[2])] {
                let answer = read(&server, path, version, header).await;
                assert_eq!(answer.0, status, "{auth}, {path}, {version}, {header}");
                assert!(status == 200 || answer.1.contains("auth.public_reads is false"));
            }
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_closes_public_reads_for_direct_requests_too() {
    let server = start("trusted_proxies = [\"192.0.2.1\"]").await;
    let (status, detail) = read(&server, PATHS[0], "1.1", "").await;
    assert_eq!(status, 401);
    assert!(detail.contains("auth.trusted_proxies"), "{detail}");
}

#[tokio::test]
async fn a_key_for_metrics_reads_them_and_the_alerts_where_public_reads_are_closed() {
    let server = start("public_reads = false").await;
    let (scraper, reader) = (
        server.caller(W1, &["metrics"]).await,
        server.caller(W1, &["read"]).await,
    );
    for path in ["/metrics", "/alerts"] {
        let answer = server.anybody().get(path).await;
        answer.refused(401, "missing_credentials");
        let detail = reader.get(path).await.refused(403, "forbidden");
        assert!(detail["detail"].as_str().unwrap().ends_with("metrics"));
        assert_eq!(scraper.get(path).await.status, 200);
        assert_eq!(server.admin().get(path).await.status, 200);
    }
    for path in [
        "/network/stats",
        &format!("/users/{W1}"),
        "/admin/audit",
        "/api/keys",
    ] {
        scraper.get(path).await.refused(403, "forbidden");
    }
    let more = json!({ "wallet_address": W1, "scopes": ["read"] });
    let made = scraper.post("/api/keys", &more).await;
    made.refused(403, "forbidden");
}
