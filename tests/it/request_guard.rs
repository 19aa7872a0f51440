//! The parameters of a completion that are refused before any charge, and the nesting limit of bodies.

use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{Scripted, TestServer, Upstream, W1, config_with_inference};

const PATH: &str = "/v1/chat/completions";

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn parameters_that_multiply_work_and_remote_media_are_refused_without_a_charge() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let image = |url: &str| json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": url } }] }]);
    for (name, value, code, pointer) in [
        ("n_cmpl", json!(8), "unsupported_parameter", "/n_cmpl"),
        ("best_of", json!(4), "unsupported_parameter", "/best_of"),
        // LiteLLM: another server, another server's answer, a failure of our server that the client decides.
        (
            "api_base",
            json!("http://127.0.0.1:9"),
            "unsupported_parameter",
            "/api_base",
        ),
        (
            "mock_response",
            json!("hello"),
            "unsupported_parameter",
            "/mock_response",
        ),
        (
            "timeout",
            json!(0.0001),
            "unsupported_parameter",
            "/timeout",
        ),
        (
            "n_predict",
            json!(-1),
            "unsupported_parameter",
            "/n_predict",
        ),
        (
            "num_predict",
            json!(-1),
            "unsupported_parameter",
            "/num_predict",
        ),
        (
            "ignore_eos",
            json!(true),
            "unsupported_parameter",
            "/ignore_eos",
        ),
        ("id_slot", json!(0), "unsupported_parameter", "/id_slot"),
        ("lora", json!([]), "unsupported_parameter", "/lora"),
        (
            "chat_template",
            json!("x"),
            "unsupported_parameter",
            "/chat_template",
        ),
        (
            "custom_logit_processor",
            json!("x"),
            "unsupported_parameter",
            "/custom_logit_processor",
        ),
        ("Stream", json!(true), "unsupported_parameter", "/Stream"),
        (
            "messages",
            image("http://169.254.169.254/latest/"),
            "unsupported_media",
            "/messages/0/content/0/image_url/url",
        ),
        (
            "messages",
            image("file:///etc/passwd"),
            "unsupported_media",
            "/messages/0/content/0/image_url/url",
        ),
        ("tools", nested(32), "invalid_request", ""),
    ] {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
        body[name] = value;
        let refused = caller.post(PATH, &body).await.refused(400, code);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
        let param = pointer.trim_start_matches('/');
        let named = refused["error"]["param"].as_str().unwrap_or_default();
        assert_eq!(named, param, "{refused}");
    }
    for body in [
        r#"{"messages":[{"role":"user","content":"hi"}],"n_cmp\u006c":8}"#,
        r#"{"messages":[{"role":"user","content":"hi"}],"n_cmpl":null,"n_cmpl":8}"#,
    ] {
        assert_eq!(caller.send(Method::POST, PATH, &[], body).await.status, 400);
    }
    assert!(upstream.seen(PATH).is_empty());
    assert_eq!(server.balance(W1).await, Credits::from_micro(1_000_000));

    let body = json!({ "messages": image("data:image/png;base64,AAAA"), "best_of": null, "x": nested(31) });
    caller.post(PATH, &body).await.expect(200);
    assert_eq!(upstream.seen(PATH).len(), 1);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn every_json_body_may_nest_32_deep() {
    let server = TestServer::start(crate::support::config()).await;
    let admin = server.admin();
    for path in ["/users", "/api/keys", "/miner/stats", "/chat"] {
        let deep = nested(33).to_string();
        let refused = admin.send(Method::POST, path, &[], deep).await;
        let refused = refused.refused(400, "invalid_request");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("deeper than 32"), "{path}: {detail}");
        let flat = admin.send(Method::POST, path, &[], nested(32).to_string());
        let detail = flat.await.expect(400)["detail"].to_string();
        assert!(!detail.contains("deeper"), "{path}: {detail}");
    }
}
