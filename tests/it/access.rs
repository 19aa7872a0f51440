//! What is refused before it has a route, and what clients may ask for by headers.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::limits::{Rate, RateClass};
use serde_json::json;

use crate::support::{Caller, Process, TestServer, W1, W2, config, eventually};

fn a_few(config: &mut Config, classes: &[RateClass]) {
    let count = NonZeroU32::new(3).unwrap();
    let per = Duration::from_secs(3600);
    for class in classes {
        config.rates.set(*class, Some(Rate { count, per }));
    }
}

async fn send(caller: &Caller, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    caller.send(method, path, headers, "").await.status
}

/// D5 of the faults found from outside.
#[tokio::test]
async fn a_page_of_another_origin_cannot_use_up_the_rates_of_the_operator() {
    let mut config = config();
    config.auth.cors_origins = vec!["https://app.example".to_owned()];
    a_few(
        &mut config,
        &[RateClass::Read, RateClass::Page, RateClass::Health],
    );
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    let loads: [&[(&str, &str)]; 5] = [
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "image"),
        ],
        &[
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-mode", "no-cors"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ],
        &[("sec-fetch-site", "Cross-Site")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://evil.example"),
        ],
    ];
    for path in ["/leaderboard", "/livez", "/", "/page.js", "/nothing"] {
        for headers in loads {
            assert_eq!(
                send(&caller, "GET", path, headers).await,
                403,
                "{path} {headers:?}"
            );
        }
    }
    let preflight = [
        ("origin", "https://evil.example"),
        ("access-control-request-method", "GET"),
    ];
    for _ in 0..5 {
        assert_eq!(
            send(&caller, "OPTIONS", "/leaderboard", &preflight).await,
            204
        );
    }
    let form = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(send(&caller, "POST", "/login", &form).await, 403);
    // A link is followed; the page itself, the address bar and pages of an allowed origin are served.
    assert_eq!(send(&caller, "GET", "/", &form).await, 200);
    assert_eq!(
        send(
            &caller,
            "GET",
            "/page.js",
            &[("sec-fetch-site", "same-origin")]
        )
        .await,
        200
    );
    assert_eq!(
        send(&caller, "GET", "/livez", &[("sec-fetch-site", "none")]).await,
        200
    );
    let allowed = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "cors"),
        ("origin", "https://app.example"),
    ];
    assert_eq!(send(&caller, "GET", "/leaderboard", &allowed).await, 200);
    // The page has a rate of its own.
    assert_eq!(send(&caller, "GET", "/page.css", &[]).await, 200);
    assert_eq!(send(&caller, "GET", "/", &[]).await, 429);
    assert_eq!(send(&caller, "GET", "/leaderboard", &[]).await, 200);
}

/// D6 of the faults found from outside.
#[tokio::test]
async fn requests_without_a_route_share_a_rate_of_their_own() {
    let refusals: [(&str, &str, &[(&str, &str)], u16); 5] = [
        ("GET", "/nothing", &[], 404),
        ("PUT", "/users", &[], 405),
        ("GET", "/livez", &[("host", "evil.example")], 421),
        ("GET", "/livez", &[("origin", "https://evil.example")], 403),
        ("GET", "/livez", &[("sec-fetch-site", "cross-site")], 403),
    ];
    for (method, path, headers, status) in refusals {
        let mut config = config();
        a_few(&mut config, &[RateClass::Refused]);
        let server = TestServer::start(config).await;
        let caller = server.anybody();
        for _ in 0..3 {
            assert_eq!(send(&caller, method, path, headers).await, status);
        }
        for (method, path, headers, _) in refusals {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = caller.send(method, path, headers, "").await;
            assert_eq!(answer.header("ratelimit-policy"), "\"refused\";q=3;w=3600");
            answer.refused(429, "rate_limited");
        }
        // No other request counts against it.
        for path in ["/livez", "/leaderboard", &format!("/users/{W1}")] {
            let status = send(&caller, "GET", path, &[]).await;
            assert!(matches!(status, 200 | 404), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn what_anyone_can_make_the_server_refuse_is_not_in_the_usual_log() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    let anybody = Caller::new(&server.address, None);
    let reader = server.admin();
    let made = reader
        .post("/api/keys", &json!({ "wallet_address": W1 }))
        .await;
    let made = made.expect(201);
    let key = Caller::new(&server.address, made["api_key"].as_str());
    let user = format!("/users/{W2}");
    for (caller, method, path, headers, status) in [
        (&anybody, "GET", "/nothing", &[][..], 404),
        (&anybody, "DELETE", "/users", &[], 405),
        (&anybody, "GET", "/livez", &[("host", "evil.example")], 421),
        (
            &anybody,
            "POST",
            "/login",
            &[("origin", "https://evil.example")],
            403,
        ),
        (&key, "GET", "/admin/audit", &[], 403),
        (&key, "POST", "/admin/backup", &[], 403),
        (&anybody, "GET", &user, &[], 404),
        (&anybody, "GET", "/leaderboard?top=5", &[], 400),
        (&anybody, "GET", "/leaderboard?key=x", &[], 400),
        (&anybody, "POST", "/users", &[], 401),
    ] {
        assert_eq!(
            send(caller, method, path, headers).await,
            status,
            "{method} {path}"
        );
    }
    reader
        .post("/users", &json!({ "wallet_address": W2 }))
        .await
        .expect(201);
    eventually("what changed something is", async || {
        let log = server.log();
        log.into_iter()
            .find(|line| line.contains(" POST /users 201 "))
    })
    .await;
    let is_refusal = |line: &String| {
        let refusals = [" 400 ", " 401 ", " 403 ", " 404 ", " 405 ", " 421 "];
        refusals.iter().any(|status| line.contains(status))
    };
    let lines: Vec<_> = server.log().into_iter().filter(is_refusal).collect();
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn an_answer_repeats_only_the_start_and_end_of_what_is_long_in_its_request() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let long = "%22".repeat(15_000);
    let (quotes, name) = ("\"".repeat(20_000), "x".repeat(20_000));
    for answer in [
        admin.get(&format!("/livez?{long}=1")).await,
        admin.get(&format!("/chain/status?{long}=1")).await,
        admin.get(&format!("/leaderboard?{long}=1")).await,
        admin.get(&format!("/leaderboard?limit={long}")).await,
        admin.get(&format!("/users/{long}")).await,
        admin
            .post(
                "/users",
                &json!({ "wallet_address": W1, quotes.as_str(): 1 }),
            )
            .await,
        admin
            .post("/users", &json!({ "wallet_address": quotes }))
            .await,
        admin
            .post(
                "/v1/chat/completions",
                &json!({ "messages": [], name.as_str(): 1 }),
            )
            .await,
        admin
            .post(
                "/api/keys",
                &json!({ "wallet_address": W1, "scopes": [name] }),
            )
            .await,
    ] {
        if answer.status == 200 {
            continue;
        }
        assert!(answer.body.len() < 8_192, "{} bytes", answer.body.len());
    }
    let refused = admin.get(&format!("/chain/status?{long}=1")).await;
    let refused = refused.refused(400, "invalid_request");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.ends_with(" is an unknown parameter"), "{detail}");
}

/// D15 of the faults found from outside.
#[tokio::test]
async fn every_line_of_if_none_match_counts_as_one_list() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let answer = caller.get("/openapi.json").await;
    let tag = answer.header("etag").to_owned();
    for (lines, status) in [
        (vec![tag.as_str()], 304),
        (vec!["\"other\"", &tag], 304),
        (
            vec!["\"other\"", "W/\"more\"", &format!("\"x\", W/{tag}")],
            304,
        ),
        (vec!["\"other\"", "\"more\""], 200),
    ] {
        let headers: Vec<_> = lines.iter().map(|line| ("if-none-match", *line)).collect();
        let answer = send(&caller, "GET", "/openapi.json", &headers).await;
        assert_eq!(answer, status, "{lines:?}");
    }
}

#[tokio::test]
async fn two_lines_of_credentials_are_refused_instead_of_one_being_chosen() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let bearer = format!("Bearer {}", admin.key());
    let caller = server.anybody();
    for headers in [
        [
            ("authorization", bearer.as_str()),
            ("authorization", &bearer),
        ],
        [("authorization", "Bearer x"), ("authorization", &bearer)],
        [("x-api-key", admin.key()), ("x-api-key", "x")],
    ] {
        let answer = caller.send(Method::GET, "/auth/me", &headers, "").await;
        answer.refused(400, "invalid_request");
    }
    let one = [("authorization", bearer.as_str())];
    assert_eq!(send(&caller, "GET", "/auth/me", &one).await, 200);
}

#[tokio::test]
async fn accept_chooses_a_format_by_its_qualities() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read", "miner"]).await;
    caller
        .post("/miner/stats", &json!({ "hashrate": 1 }))
        .await
        .expect(201);
    let hashrate = format!("/miner/hashrate/{W1}");
    let (json, csv) = ("application/json", "text/csv");
    let (plain, open) = ("text/plain", "application/openmetrics-text");
    for (path, accept, expected) in [
        (hashrate.as_str(), "", json),
        (&hashrate, "*/*", json),
        (&hashrate, "text/csv", csv),
        (&hashrate, "Text/CSV; charset=utf-8", csv),
        (&hashrate, "text/csv;q=0", json),
        (&hashrate, "text/csv;q=0, */*", json),
        (&hashrate, "text/csv;q=0.4, application/json;q=0.5", json),
        (&hashrate, "application/json;q=0.4, text/csv ; q = 0.5", csv),
        (&hashrate, "text/*", csv),
        (&hashrate, "text/csv, */*;q=0.1", csv),
        (&hashrate, "text/csvx", json),
        ("/metrics", "", plain),
        ("/metrics", "*/*", plain),
        ("/metrics", "Application/OpenMetrics-Text", open),
        (
            "/metrics",
            "application/openmetrics-text;q=0,text/plain",
            plain,
        ),
        ("/metrics", "text/plain;version=0.0.4;q=1,*/*;q=0.1", plain),
        (
            "/metrics",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;q=0.2,*/*;q=0.1",
            open,
        ),
    ] {
        let headers: &[_] = if accept.is_empty() {
            &[]
        } else {
            &[("accept", accept)]
        };
        let answer = caller.send(Method::GET, path, headers, "").await;
        assert!(
            answer.header("content-type").starts_with(expected),
            "{path} {accept:?}"
        );
        assert_eq!(
            (answer.status, answer.header("vary")),
            (200, "Accept"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_differs_by_origin_says_so_to_caches_also_where_none_was_sent() {
    let mut config = config();
    let server = TestServer::start(config.clone()).await;
    let answer = server.anybody().get("/openapi.json").await;
    assert_eq!(answer.header("vary"), "");
    config.auth.cors_origins = vec!["https://app.example".to_owned()];
    let server = TestServer::start(config).await;
    for path in ["/openapi.json", "/leaderboard", "/nothing"] {
        let answer = server.anybody().get(path).await;
        assert_eq!(answer.header("vary"), "Origin", "{path}");
    }
    let answer = server.anybody().get("/metrics").await;
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept", "Origin"]);
}
