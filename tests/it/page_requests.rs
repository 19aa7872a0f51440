//! What the operator's page needs of the routes beside their answers: its origin, the models with their prices, what is
//! available.

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::model::Credits;
use r3mes_edge::store::{HoldRequest, OperationId};
use serde_json::{Value, json};

use crate::support::{
    Scripted, TestServer, Upstream, W1, W2, config, config_with_inference, wallet,
};

fn behind_a_proxy() -> Config {
    let mut config = config();
    let auth = "[auth]\nhosts = [\"edge.example\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    config.auth = Config::read(auth, []).unwrap().auth;
    config
}

#[tokio::test]
async fn a_browser_writes_from_a_page_of_the_own_host_only() {
    let server = TestServer::start(behind_a_proxy()).await;
    let path = format!("/users/{W1}/credits");
    let grant = json!({ "amount": 1, "reason": "test" }).to_string();
    let own = server.base.clone();
    let own_host = own.strip_prefix("http://").unwrap();
    let port = own_host.split(':').nth(1).unwrap();
    let local = format!("http://localhost:{port}");
    let mut granted = 0;
    // Origin, Host, Sec-Fetch-Site, whether it is accepted.
    for (origin, host, site, accepted) in [
        (&*own, own_host, "same-origin", true),
        (&*own, own_host, "", true),
        ("https://edge.example", "edge.example", "same-origin", true),
        ("https://EDGE.example", "edge.EXAMPLE", "", true),
        ("https://edge.example:8443", "edge.example:8443", "", true),
        // A proxy adds the port of the scheme, or leaves another one out.
        ("https://edge.example", "edge.example:443", "", true),
        ("http://edge.example", "edge.example:80", "", true),
        (
            "https://edge.example:8443",
            "edge.example",
            "same-origin",
            true,
        ),
        (
            "https://edge.example:8443",
            "edge.example",
            "same-site",
            false,
        ),
        ("https://edge.example:8443", "edge.example", "", false),
        (
            "https://edge.example:8443",
            "edge.example:8444",
            "same-origin",
            false,
        ),
        (
            "https://edge.example",
            "edge.example:8443",
            "same-origin",
            false,
        ),
        ("http://edge.example", "edge.example:443", "", false),
        (&*local, own_host, "same-site", false),
        (&*local, own_host, "", false),
        ("https://evil.example", "edge.example", "cross-site", false),
        ("https://evil.example", "edge.example", "same-origin", false),
        ("https://evil.example", "edge.example", "", false),
        (
            "https://edge.example.evil.example",
            "edge.example",
            "",
            false,
        ),
        (
            "https://edge.example@evil.example",
            "edge.example",
            "",
            false,
        ),
        (
            "https://evil.example/edge.example",
            "edge.example",
            "",
            false,
        ),
        ("null", "edge.example", "same-origin", false),
        ("edge.example", "edge.example", "", false),
        ("file://edge.example", "edge.example", "", false),
        ("", "edge.example", "", false),
    ] {
        let mut headers = vec![("origin", origin), ("host", host)];
        if !site.is_empty() {
            headers.extend([
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ]);
        }
        let answer = server
            .admin()
            .send(Method::POST, &path, &headers, grant.clone())
            .await;
        let expected = if accepted { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{headers:?}");
        granted += i64::from(accepted);
    }
    assert_eq!(server.balance(W1).await.micro(), granted * 1_000_000);
}

#[tokio::test]
async fn the_page_below_a_path_prefix_of_a_proxy_may_do_all_that_its_key_may() {
    let server = TestServer::start(behind_a_proxy()).await;
    // The proxy has taken /node from the path, as handle_path of Caddy does.
    let headers = [
        ("host", "edge.example"),
        ("origin", "https://edge.example"),
        ("referer", "https://edge.example/node/"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-dest", "empty"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "edge.example"),
        ("x-forwarded-prefix", "/node"),
    ];
    let admin = server.admin();
    let send = async |method: Method, path: &str, body: Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        admin.send(method, path, &headers, body).await
    };
    let account = json!({ "wallet_address": W1 });
    send(Method::POST, "/users", account.clone())
        .await
        .expect(201);
    let grant = json!({ "amount": 2, "reason": "test" });
    let credits = format!("/users/{W1}/credits");
    send(Method::POST, &credits, grant).await.expect(200);
    let key = send(Method::POST, "/api/keys", account).await.expect(201);
    let key = format!("/api/keys/{}", key["id"].as_str().unwrap());
    let rotate = format!("{key}/rotate");
    let rotated = send(Method::POST, &rotate, Value::Null).await.expect(201);
    let rotated = format!("/api/keys/{}", rotated["id"].as_str().unwrap());
    send(Method::DELETE, &rotated, Value::Null)
        .await
        .expect(200);
    for action in ["block", "unblock"] {
        let path = format!("/users/{W1}/{action}");
        send(Method::POST, &path, Value::Null).await.expect(200);
    }
    let made = send(Method::POST, "/admin/backup", Value::Null)
        .await
        .expect(201);
    let verify = format!("/admin/backups/{}/verify", made["file"].as_str().unwrap());
    send(Method::POST, &verify, Value::Null).await.expect(200);
    for path in [
        "/users?sort=balance",
        "/admin/backups",
        "/admin/audit",
        "/v1/models",
        "/usage",
        "/network/stats",
    ] {
        send(Method::GET, path, Value::Null).await.expect(200);
    }
    let path = format!("/users/{W1}/ledger?format=csv");
    assert_eq!(send(Method::GET, &path, Value::Null).await.status, 200);
}

#[tokio::test]
async fn an_admin_sees_every_model_with_its_price() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let mut config = config_with_inference("openai", &upstream);
    let priced = "[adapters.general]\naliases = [\"gpt-4o-mini\"]\n[adapters.general.price]\nprompt = 0.4\ncompletion = 1.6\n";
    config.adapters = Config::read(priced, []).unwrap().adapters;
    let server = TestServer::start(config).await;
    let price = json!({ "request": 0, "prompt": 0.4, "cached_prompt": 0.4, "completion": 1.6 });
    // A model of the server itself has the usual price.
    let usual = json!({ "request": 1, "prompt": 0, "cached_prompt": 0, "completion": 0 });
    let body = json!({ "wallet_address": W1, "models": ["general"] });
    let limited = server.admin().post("/api/keys", &body).await.expect(201);
    let limited = server.with_key(limited["api_key"].as_str().unwrap());
    for (caller, count) in [(server.admin(), 3), (limited, 2)] {
        let models = caller.get("/v1/models").await.expect(200);
        let found = models["data"].as_array().unwrap().iter();
        let found: Vec<_> = found
            .map(|model| (model["id"].as_str().unwrap(), &model["price"]))
            .collect();
        let all = [
            ("general", &price),
            ("gpt-4o-mini", &price),
            ("tiny", &usual),
        ];
        assert_eq!(found, all[..count]);
    }
    let one = server
        .admin()
        .get("/v1/models/gpt-4o-mini")
        .await
        .expect(200);
    assert_eq!(one["price"], price);
}

#[tokio::test]
async fn what_is_available_is_the_balance_without_what_is_held() {
    let server = TestServer::start(config()).await;
    let own = server.payer(W1, 5).await;
    let other = server.payer(W2, 1).await;
    let me = async || {
        let me = own.get("/auth/me").await.expect(200);
        [me["credits"].clone(), me["available"].clone()]
    };
    assert_eq!(me().await, [json!(5), json!(5)]);
    let hold = async |micro| {
        let request = HoldRequest {
            operation: OperationId::new(),
            wallet: wallet(W1),
            amount: Credits::from_micro(micro),
            limit: None,
        };
        server.store.hold(request).await.unwrap()
    };
    let first = hold(1_250_000).await;
    let second = hold(3_750_000).await;
    assert_eq!(me().await, [json!(5), json!(0)]);
    drop(second);
    assert_eq!(me().await, [json!(5), json!(3.75)]);
    server.grant_micro(W1, 1).await;
    assert_eq!(me().await, [json!(5.000001), json!(3.750001)]);
    drop(first);
    assert_eq!(me().await, [json!(5.000001), json!(5.000001)]);
    let me = other.get("/auth/me").await.expect(200);
    assert_eq!(me["available"], 1);
    let admin = server.admin().get("/auth/me").await.expect(200);
    assert_eq!([&admin["credits"], &admin["available"]], [0, 0]);
}
