//! What the clients of OpenAI's and Anthropic's APIs send, and browsers and proxies add.

use hyper::Method;
use r3mes_edge::routes::ROUTES;
use serde_json::json;

use crate::support::{Scripted, TestServer, Upstream, W1, config, config_with_inference};

const ORIGIN: &str = "https://app.example";

#[tokio::test]
async fn a_preflight_allows_the_headers_of_every_version_of_the_clients() {
    let mut config = config();
    config.auth.cors_origins = vec![ORIGIN.to_owned()];
    let server = TestServer::start(config).await;
    // OpenAI's and Anthropic's clients for JavaScript, from a page; browsers write the names in lower case.
    let requested = "authorization,content-type,x-api-key,anthropic-beta,anthropic-dangerous-direct-browser-access,\
                     anthropic-version,openai-beta,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,\
                     x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,\
                     x-stainless-runtime-version,x-stainless-timeout,X-Stainless-Helper-Method";
    for path in [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/models",
        "/chat",
    ] {
        let headers = [
            ("origin", ORIGIN),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", requested),
        ];
        let answer = server.anybody();
        let answer = answer.send(Method::OPTIONS, path, &headers, "").await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), ORIGIN);
        let allowed = answer.header("access-control-allow-headers").to_lowercase();
        let allowed: Vec<_> = allowed.split(", ").collect();
        for name in requested.split(',') {
            assert!(
                allowed.contains(&name.to_lowercase().as_str()),
                "{name} of {path}"
            );
        }
    }
    // No header of another kind, and nothing for a page of another origin.
    for (origin, requested) in [
        (ORIGIN, "x-admin, cookie"),
        ("https://evil.example", requested),
    ] {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", requested),
        ];
        let answer = server.anybody();
        let answer = answer
            .send(Method::OPTIONS, "/v1/messages", &headers, "")
            .await;
        let allowed = answer.header("access-control-allow-headers").to_lowercase();
        assert!(
            !allowed.contains("admin")
                && !allowed.contains("cookie")
                && !allowed.contains("stainless")
        );
    }
}

#[tokio::test]
async fn a_page_reads_the_request_id_and_the_cost_of_an_answer() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let mut config = config_with_inference("openai", &upstream);
    config.auth.cors_origins = vec![ORIGIN.to_owned()];
    let server = TestServer::start(config).await;
    let payer = server.payer(W1, 1).await;
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let headers = [
        ("origin", ORIGIN),
        ("x-stainless-lang", "js"),
        ("openai-beta", "x=v1"),
    ];
    let answer = payer
        .send(Method::POST, "/v1/chat/completions", &headers, body)
        .await;
    let exposed = answer
        .header("access-control-expose-headers")
        .to_lowercase();
    for name in [
        "x-request-id",
        "request-id",
        "x-credits-charged",
        "retry-after",
    ] {
        assert!(
            exposed.split(", ").any(|exposed| exposed == name),
            "{exposed}"
        );
    }
    answer.expect(200);
    // No header of a client reaches the inference server.
    let seen = &upstream.seen("/v1/chat/completions")[0];
    for name in ["origin", "x-stainless-lang", "openai-beta", "x-api-key"] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn proxies_are_asked_not_to_buffer_streams_alone() {
    let upstream = Upstream::inference(|seen| match seen.body.contains("\"stream\":true") {
        true => Scripted::words(&["hello"]),
        false => Scripted::completion("hello"),
    })
    .await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let payer = server.payer(W1, 3).await;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    for (path, body, has_header) in [
        ("/chat", json!({ "message": "hi" }), true),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "stream": true }),
            true,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages }),
            false,
        ),
    ] {
        let (status, headers, _) = payer.open(Method::POST, path, &[], body.to_string()).await;
        let header = headers
            .get("x-accel-buffering")
            .map(|value| value.as_bytes());
        assert_eq!(
            (status, header),
            (200, has_header.then_some(&b"no"[..])),
            "{path} {body}"
        );
    }
}

#[tokio::test]
async fn a_path_that_no_route_has_is_shown_which_one_was_meant() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    for (path, meant) in [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat//completions//", "/v1/chat/completions"),
        ("/V1/chat/completions", "/v1/chat/completions"),
        ("/v1/Messages", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models/general", "/v1/models/general"),
        ("/livez/", "/livez"),
        ("/LIVEZ", "/livez"),
        ("//metrics", "/metrics"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("//v1/messages?beta=true", "/v1/messages"),
        ("/v1//models?limit=5", "/v1/models"),
        ("/chat/completions", "/v1/chat/completions"),
        ("//embeddings/", "/v1/embeddings"),
        ("/models/Qwen", "/v1/models/Qwen"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages?beta=true", "/v1/messages"),
        ("/openai/v1/models", "/v1/models"),
        ("/users/x/ledger/", "/users/x/ledger"),
    ] {
        for caller in [&admin, &server.anybody()] {
            let answer = caller.get(path).await;
            let detail = format!("no route has this path; it is {meant}");
            // In both shapes of an error.
            assert_eq!(answer.expect(404)["error"]["message"], detail, "{path}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_below_v1_is_shown_what_there_is() {
    let server = TestServer::start(config()).await;
    for path in [
        "/v1",
        "/v1/",
        "/v1/audio/speech",
        "/v1/v1/audio/speech",
        "/v1/chat%2Fcompletions",
        "/v1/responses/resp_1",
    ] {
        for method in [Method::GET, Method::POST] {
            let answer = server.admin();
            let answer = answer.send(method, path, &[], "").await;
            let detail = answer.refused(404, "not_found")["detail"].to_string();
            for route in ROUTES.iter().filter(|route| route.path.starts_with("/v1/")) {
                assert!(detail.contains(route.path), "{path}: {detail}");
            }
        }
    }
    let elsewhere = server.admin().get("/api/chat").await;
    let detail = elsewhere.refused(404, "not_found")["detail"].to_string();
    assert!(!detail.contains("/v1"), "{detail}");
}

#[tokio::test]
async fn a_compressed_body_is_a_415_and_nothing_else() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    // The head of a gzip file; its text is never looked at.
    let body: &[u8] = &[0x1f, 0x8b, 8, 0, 0];
    for path in [
        "/users",
        "/chat",
        "/v1/chat/completions",
        "/v1/responses",
        "/miner/stats",
    ] {
        for coding in [
            "gzip",
            "GZIP",
            "br",
            "deflate",
            "zstd",
            "gzip, identity",
            "identity, gzip",
            "x",
        ] {
            let headers = [("content-encoding", coding)];
            let answer = admin.send(Method::POST, path, &headers, body).await;
            answer.refused(415, "unsupported_media_type");
        }
        let several = [
            ("content-encoding", "identity"),
            ("content-encoding", "gzip"),
        ];
        let answer = admin.send(Method::POST, path, &several, body).await;
        answer.refused(415, "unsupported_media_type");
    }
    // Anthropic's clients read their own shape.
    let headers = [("content-encoding", "gzip")];
    let answer = admin
        .send(Method::POST, "/v1/messages", &headers, body)
        .await;
    let body = answer.expect(415);
    assert_eq!(body["error"]["type"], "invalid_request_error");
    for coding in ["identity", "IDENTITY", ""] {
        let headers = [("content-encoding", coding)];
        let body = json!({ "wallet_address": "x" }).to_string();
        let answer = admin.send(Method::POST, "/users", &headers, body).await;
        answer.refused(400, "invalid_wallet_address");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_json_is_skipped() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let payer = server.payer(W1, 1).await;
    let text = "\u{feff}{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    let answer = payer
        .send(Method::POST, "/v1/chat/completions", &[], text)
        .await;
    answer.expect(200);
    let admin = server.admin();
    let made = format!("\u{feff}{{\"wallet_address\":\"{W1}\"}}");
    admin
        .send(Method::POST, "/users", &[], made)
        .await
        .refused(409, "conflict");
    let samples = format!("\u{feff}{{\"hashrate\":1,\"wallet_address\":\"{W1}\"}}\n");
    for media_type in ["application/json", "application/x-ndjson"] {
        let headers = [("content-type", media_type)];
        let answer = admin
            .send(Method::POST, "/miner/stats", &headers, samples.clone())
            .await;
        assert!(
            [200, 201, 409].contains(&answer.status),
            "{media_type} {}",
            answer.status
        );
    }
    // One is; UTF-16 and a mark within the text are not JSON.
    for body in [
        "\u{feff}\u{feff}{}".as_bytes(),
        b"\xff\xfe{\0}\0",
        "{\u{feff}}".as_bytes(),
    ] {
        let answer = admin.send(Method::POST, "/users", &[], body).await;
        answer.refused(400, "invalid_json");
    }
}

#[tokio::test]
async fn an_empty_or_foreign_credential_beside_a_key_is_ignored() {
    let server = TestServer::start(config()).await;
    let key = server.admin().key().to_owned();
    let bearer = format!("Bearer {key}");
    let shouted = format!("BEARER  {key}");
    let anybody = server.anybody();
    let ask = async |headers: &[(&str, &str)]| {
        anybody
            .send(Method::GET, "/auth/me", headers, "")
            .await
            .status
    };
    for headers in [
        [("x-api-key", ""), ("authorization", &*bearer)],
        [("x-api-key", "  "), ("authorization", &bearer)],
        [("x-api-key", ""), ("authorization", &shouted)],
        [
            ("x-api-key", "sk-no-key-required"),
            ("authorization", &bearer),
        ],
        [("x-api-key", "null"), ("authorization", &bearer)],
        [("x-api-key", &key), ("authorization", "")],
        [("x-api-key", &key), ("authorization", "Bearer")],
        [("x-api-key", &key), ("authorization", "Bearer null")],
        [("x-api-key", &key), ("authorization", "Basic dXNlcjpwYXNz")],
        [("x-api-key", &key), ("authorization", &bearer)],
    ] {
        assert_eq!(ask(&headers).await, 200, "{headers:?}");
    }
    for headers in [
        [("x-api-key", ""), ("authorization", "")],
        [("x-api-key", ""), ("authorization", "Bearer ")],
        [("api-key", &*key), ("x-goog-api-key", &key)],
    ] {
        assert_eq!(ask(&headers).await, 401, "{headers:?}");
    }
}

#[tokio::test]
async fn the_parameters_that_clients_add_below_v1_are_ignored() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let payer = server.payer(W1, 2).await;
    let plain = payer.get("/v1/models").await.expect(200);
    for query in [
        "limit=20",
        "limit=1000&after_id=x",
        "before_id=x",
        "api-version=2024-10-21",
        "beta=true",
        "",
    ] {
        let models = payer.get(&format!("/v1/models?{query}")).await.expect(200);
        assert_eq!(models["data"][0]["id"], plain["data"][0]["id"], "{query}");
        payer
            .get(&format!("/v1/models/general?{query}"))
            .await
            .expect(200);
    }
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    for query in ["api-version=2024-10-21", "beta=true"] {
        let path = format!("/v1/chat/completions?{query}");
        payer.post(&path, &body).await.expect(200);
    }
    // A key is refused there all the same.
    let path = format!("/v1/models?api_key={}", payer.key());
    payer.get(&path).await.refused(400, "key_in_query");
}
