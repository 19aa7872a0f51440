//! Proxies, host names and origins: where a request comes from.

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::limits::RateClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, W1, config};

fn config_with(auth: &str) -> Config {
    let mut config = config();
    config.auth = Config::read(&format!("[auth]\n{auth}"), []).unwrap().auth;
    config
}

#[tokio::test]
async fn a_host_name_that_is_not_configured_is_refused() {
    let server = TestServer::start(config_with("hosts = [\"edge.example\"]")).await;
    let caller = server.anybody();
    for host in ["evil.example", "evil.example:8000", "10.0.0.1"] {
        caller
            .send(Method::GET, "/livez", &[("host", host)], "")
            .await
            .refused(421, "wrong_host");
    }
    for host in [
        "localhost:8000",
        "127.0.0.1",
        "edge.example",
        "EDGE.example:443",
    ] {
        caller
            .send(Method::GET, "/livez", &[("host", host)], "")
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn a_foreign_origin_is_refused_and_an_allowed_one_may_read() {
    let server = TestServer::start(config_with("cors_origins = [\"https://app.example\"]")).await;
    let caller = server.caller(W1, &["read"]).await;
    let from = async |origin: &str| {
        caller
            .send(Method::GET, "/auth/me", &[("origin", origin)], "")
            .await
    };
    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "http://app.example",
    ] {
        let refused = from(origin).await;
        assert!(!refused.headers.contains_key("access-control-allow-origin"));
        refused.refused(403, "forbidden");
    }
    let allowed = from("https://app.example").await;
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(allowed.header("vary"), "Origin");
    allowed.expect(200);
    // Errors too, or the page could not show them.
    let wrong = caller
        .send(
            Method::GET,
            "/nothing",
            &[("origin", "https://app.example")],
            "",
        )
        .await;
    assert_eq!(
        wrong.header("access-control-allow-origin"),
        "https://app.example"
    );
    let own = from(&server.base).await;
    assert!(!own.headers.contains_key("access-control-allow-origin"));
    own.expect(200);
}

#[tokio::test]
async fn a_preflight_is_answered_and_allows_only_the_configured_origins() {
    let server = TestServer::start(config_with("cors_origins = [\"https://app.example\"]")).await;
    let ask = async |path: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
        ];
        server
            .anybody()
            .send(Method::OPTIONS, path, &headers, "")
            .await
    };
    let allowed = ask("/chat", "https://app.example").await;
    assert_eq!(
        (
            allowed.status,
            allowed.header("access-control-allow-methods")
        ),
        (204, "POST")
    );
    let headers = allowed.header("access-control-allow-headers");
    for name in [
        "Content-Type",
        "Authorization",
        "X-API-Key",
        "X-Request-Id",
        "X-Wallet-Address",
        "X-Adapter",
        "Idempotency-Key",
    ] {
        assert!(headers.contains(name), "{headers}");
    }
    let other = ask("/chat", "https://evil.example").await;
    assert_eq!(
        (other.status, other.header("access-control-allow-origin")),
        (204, "")
    );
    ask("/nothing", "https://app.example")
        .await
        .refused(404, "not_found");
    let plain = server
        .anybody()
        .send(Method::OPTIONS, "/api/keys", &[], "")
        .await;
    assert_eq!(
        (plain.status, plain.header("allow")),
        (204, "POST, GET, HEAD")
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_rate() {
    let mut config = config_with("trusted_proxies = [\"127.0.0.1/32\"]");
    config.rates.set(
        RateClass::Health,
        Config::default().rates.get(RateClass::Auth),
    );
    let server = TestServer::start(config).await;
    let from = async |client: &str| {
        server
            .anybody()
            .send(Method::GET, "/livez", &[("x-forwarded-for", client)], "")
            .await
    };
    for _ in 0..5 {
        from("203.0.113.7").await.expect(200);
    }
    // Entries that the client itself sent, on the left, are ignored.
    from("198.51.100.1, 203.0.113.7")
        .await
        .refused(429, "rate_limited");
    from("203.0.113.8").await.expect(200);
    // A server that trusts a proxy has no public reads, even without a forwarding header.
    server
        .anybody()
        .get("/network/stats")
        .await
        .refused(401, "missing_credentials");
}

#[tokio::test]
async fn without_a_trusted_proxy_a_forwarding_header_changes_no_rate() {
    let mut config = config();
    config.rates.set(
        RateClass::Health,
        Config::default().rates.get(RateClass::Auth),
    );
    let server = TestServer::start(config).await;
    for client in 1..=5 {
        let client = format!("203.0.113.{client}");
        server
            .anybody()
            .send(Method::GET, "/livez", &[("x-forwarded-for", &client)], "")
            .await
            .expect(200);
    }
    let sixth = server
        .anybody()
        .send(
            Method::GET,
            "/livez",
            &[("x-forwarded-for", "203.0.113.6")],
            "",
        )
        .await;
    sixth.refused(429, "rate_limited");
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let mut config = config();
    config.limits.per_address = 2;
    let server = TestServer::start(config).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let ask = async |stream: &mut TcpStream| {
        let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut buffer = [0; 1024];
        // A connection that the server closed fails the write or reads as ended.
        if stream.write_all(request.as_bytes()).await.is_err() {
            return 0;
        }
        stream.read(&mut buffer).await.unwrap_or(0)
    };
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut first).await > 0 && ask(&mut second).await > 0);
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut third).await, 0);
    assert!(ask(&mut first).await > 0);
}
