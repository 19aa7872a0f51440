//! What a completion may contain: what is forwarded, dropped or refused before any charge, and the nesting limit of bodies.

use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{
    Process, Scripted, TestServer, Upstream, W1, W2, config_with_inference, config_with_nodes,
    edge, edge_output,
};

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
        ("tools", nested(9), "invalid_request", "/tools"),
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

    let body =
        json!({ "messages": image("data:image/png;base64,AAAA"), "best_of": null, "x": null });
    caller.post(PATH, &body).await.expect(200);
    assert_eq!(upstream.seen(PATH).len(), 1);
    server.assert_ledger_adds_up().await;
}

/// Names that are dangerous at one of the servers, or unknown.
const REFUSED: &[&str] = &[
    "_debug_render_only",
    "bad_words",
    "background",
    "best_of",
    "bootstrap_host",
    "cache_salt",
    "chat_format",
    "chat_parser",
    "chat_template",
    "conversation",
    "custom_logit_processor",
    "custom_params",
    "data_parallel_rank",
    "documents",
    "ebnf",
    "ec_transfer_params",
    "echo",
    "embed_overrides",
    "extra_body",
    "extra_key",
    "generation_prompt",
    "grammar",
    "grammar_triggers",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "id_slot",
    "ignore_eos",
    "json_schema",
    "kv_transfer_params",
    "lora",
    "lora_path",
    "max_length",
    "max_new_tokens",
    "max_output_tokens",
    "media_io_kwargs",
    "min_tokens",
    "mm_processor_kwargs",
    "multimodal_data",
    "n_cache_reuse",
    "n_cmpl",
    "n_discard",
    "n_keep",
    "n_predict",
    "n_probs",
    "num_predict",
    "options",
    "preserved_tokens",
    "previous_response_id",
    "priority",
    "prompt",
    "prompt_embeds",
    "prompt_logprobs",
    "regex",
    "request_id",
    "response_fields",
    "return_hidden_states",
    "return_progress",
    "return_routed_experts",
    "return_tokens",
    "rid",
    "session_id",
    "session_params",
    "stop_regex",
    "t_max_predict_ms",
    "timings_per_token",
    "use_beam_search",
    "verbose",
    "vllm_xargs",
    "a new one",
];

fn chat_with(name: &str, value: Value) -> String {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    body[name] = value;
    body.to_string()
}

#[tokio::test]
async fn each_dangerous_parameter_is_refused_by_its_name_in_every_case_of_its_letters() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    for name in REFUSED {
        let mut title = name.to_string();
        title[..1].make_ascii_uppercase();
        for spelt in [name.to_string(), name.to_uppercase(), title] {
            let answer = caller.send(Method::POST, PATH, &[], chat_with(&spelt, json!(1)));
            let refused = answer.await.refused(400, "unsupported_parameter");
            assert_eq!(refused["error"]["param"], spelt);
            assert_eq!(refused["errors"][0]["pointer"], format!("/{spelt}"));
            assert!(
                refused["detail"].as_str().unwrap().starts_with(&spelt),
                "{refused}"
            );
        }
    }
    let unknown = chat_with("grammar", json!("root ::= a"));
    let refused = caller
        .send(Method::POST, PATH, &[], unknown)
        .await
        .expect(400);
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("[[inference]] pass = [\"grammar\"]"),
        "{detail}"
    );
    assert!(upstream.seen(PATH).is_empty());
    assert_eq!(server.balance(W1).await, Credits::from_micro(1_000_000));
}

#[tokio::test]
async fn each_listed_member_arrives_byte_for_byte_or_is_dropped_as_its_list_says() {
    const FORWARDED: &[(&str, &str)] = &[
        ("temperature", "1e-1"),
        ("top_p", "1.0"),
        ("frequency_penalty", "-2"),
        ("presence_penalty", "0.50"),
        ("seed", "-1"),
        ("stop", "[ \"a\" , \"\\u0062\" ]"),
        ("logit_bias", "{\"7\": -100}"),
        ("logprobs", "true"),
        ("top_logprobs", "20"),
        ("response_format", "{\"type\" : \"json_object\"}"),
        (
            "tools",
            "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]",
        ),
        ("tool_choice", "\"auto\""),
        ("parallel_tool_calls", "false"),
        ("functions", "[{\"name\":\"f\"}]"),
        ("function_call", "{\"name\":\"f\"}"),
        ("reasoning_effort", "\"none\""),
        ("verbosity", "\"low\""),
        ("top_k", "40"),
        ("min_p", "0.05"),
        ("typical_p", "1"),
        ("repetition_penalty", "1.1"),
        ("repeat_penalty", "1.1"),
        ("repeat_last_n", "-1"),
        ("mirostat", "2"),
        ("mirostat_tau", "5"),
        ("mirostat_eta", "0.1"),
        ("dry_multiplier", "0"),
        ("dry_base", "1.75"),
        ("dry_allowed_length", "2"),
        ("dry_penalty_last_n", "-1"),
        ("dry_sequence_breakers", "[\"\\n\"]"),
        ("xtc_probability", "0"),
        ("xtc_threshold", "0.1"),
        ("dynatemp_range", "0"),
        ("dynatemp_exponent", "1"),
        ("stop_token_ids", "[7]"),
        ("skip_special_tokens", "true"),
        ("include_stop_str_in_output", "false"),
        ("guided_choice", "[\"a\",\"b\"]"),
        ("structured_outputs", "{\"choice\":[\"a\"]}"),
        ("chat_template_kwargs", "{ \"enable_thinking\": false }"),
        ("reasoning_format", "\"auto\""),
        ("enable_thinking", "false"),
        ("thinking_budget_tokens", "99"),
        ("response_format", "null"),
    ];
    const DROPPED: &[(&str, &str)] = &[
        ("user", "\"u\""),
        ("metadata", "{\"a\":\"b\"}"),
        ("store", "false"),
        ("service_tier", "\"auto\""),
        ("service_tier", "\"default\""),
        ("safety_identifier", "\"s\""),
        ("prompt_cache_key", "\"k\""),
        ("prompt_cache_retention", "\"24h\""),
        ("cache_prompt", "true"),
        ("wallet_address", "null"),
    ];
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 99).await;
    const MESSAGES: &str = "\"messages\":[ {\"role\":\"user\", \"content\":\"h\\u0069\"} ]";
    for (members, arrives) in [(FORWARDED, true), (DROPPED, false)] {
        for (name, value) in members {
            let text = format!("\"{name}\":{value}");
            let answer = caller.send(Method::POST, PATH, &[], format!("{{{MESSAGES},{text}}}"));
            answer.await.expect(200);
            let seen = upstream.seen(PATH).pop().unwrap().body;
            assert!(seen.contains(MESSAGES), "{seen}");
            assert_eq!(seen.contains(&text), arrives, "{text}: {seen}");
            assert_eq!(seen.contains(&format!(",\"{name}\":")), arrives, "{seen}");
        }
    }
    for (name, value) in [("store", json!(true)), ("service_tier", json!("priority"))] {
        let answer = caller
            .send(Method::POST, PATH, &[], chat_with(name, value))
            .await;
        let refused = answer.refused(400, "unsupported_parameter");
        assert_eq!(refused["error"]["param"], name);
    }
    // Who pays.
    let own = caller.send(
        Method::POST,
        PATH,
        &[],
        chat_with("wallet_address", json!(W1)),
    );
    own.await.expect(200);
    let other = caller.send(
        Method::POST,
        PATH,
        &[],
        chat_with("wallet_address", json!(W2)),
    );
    other.await.refused(403, "forbidden");
    let wrong = caller.send(
        Method::POST,
        PATH,
        &[],
        chat_with("wallet_address", json!("x")),
    );
    wrong.await.refused(400, "invalid_wallet_address");
}

#[tokio::test]
async fn the_limit_and_the_number_of_answers_are_written_by_the_server_alone() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.max_output_tokens = Some(50);
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 9).await;
    for (limits, expected, n) in [
        ("", 50, Value::Null),
        (",\"max_tokens\":9", 9, Value::Null),
        (
            ",\"max_completion_tokens\":7,\"max_tokens\":9,\"thinking_budget_tokens\":4096",
            7,
            Value::Null,
        ),
        (",\"max_tokens\":4096,\"n\":1", 50, json!(1)),
    ] {
        let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{limits}}}");
        caller.send(Method::POST, PATH, &[], body).await.expect(200);
        let sent: Value = serde_json::from_str(&upstream.seen(PATH).pop().unwrap().body).unwrap();
        assert_eq!(
            (
                &sent["max_tokens"],
                &sent["max_completion_tokens"],
                &sent["n"]
            ),
            (&json!(expected), &json!(expected), &n)
        );
    }
}

#[tokio::test]
async fn a_passed_member_goes_to_the_servers_alone_that_pass_it() {
    let all = Upstream::inference(|_| Scripted::completion("all")).await;
    let some = Upstream::inference(|_| Scripted::completion("some")).await;
    let none = Upstream::inference(|_| Scripted::completion("none")).await;
    let mut config = config_with_nodes("openai", &[all.url(), some.url(), none.url()]);
    config.inference[0].pass = vec!["*".to_owned()];
    config.inference[1].pass = vec!["grammar".to_owned(), "user".to_owned()];
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 99).await;
    let ask = async |more: &str| {
        let body = format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"user\":\"u\"{more}}}"
        );
        caller.send(Method::POST, PATH, &[], body).await
    };
    for _ in 0..9 {
        ask(",\"grammar\":\"root ::= a\"").await.expect(200);
    }
    for _ in 0..3 {
        ask(",\"grammar\":\"root ::= a\",\"logits_all\":{\"a\" : 1.0}")
            .await
            .expect(200);
    }
    let (to_all, to_some) = (all.seen(PATH), some.seen(PATH));
    assert_eq!(
        (to_all.len() + to_some.len(), none.seen(PATH).len()),
        (12, 0)
    );
    for seen in &to_some {
        assert!(
            seen.body
                .ends_with(",\"grammar\":\"root ::= a\",\"user\":\"u\"}"),
            "{}",
            seen.body
        );
    }
    let unchanged = to_all
        .iter()
        .filter(|seen| seen.body.ends_with(",\"logits_all\":{\"a\" : 1.0}}"));
    assert_eq!(unchanged.count(), 3);
    assert!(
        to_all
            .iter()
            .all(|seen| !seen.body.contains("\"user\":\"u\""))
    );
    for name in REFUSED.iter().filter(|name| {
        r3mes_edge::Config::read(
            &format!(
                "[[inference]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\npass = [\"{name}\"]"
            ),
            [],
        )
        .is_err()
    }) {
        let refused = ask(&format!(",\"{name}\":1"))
            .await
            .refused(400, "unsupported_parameter");
        assert_eq!(refused["error"]["param"], *name);
    }
    for name in [
        "max_tokens",
        "n_predict",
        "n",
        "n_cmpl",
        "best_of",
        "image_url",
        "background",
        "store",
        "previous_response_id",
        "conversation",
        "id_slot",
        "session_id",
        "lora",
        "custom_logit_processor",
    ] {
        let (code, text) = check_pass(name);
        assert_eq!(code, 2, "{name}: {text}");
        assert!(
            text.contains(&format!("inference[0].pass: {name}: ")),
            "{text}"
        );
    }
}

/// `config check` with a member in `pass`.
fn check_pass(name: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let (database, file) = (
        folder.path().join("edge.db"),
        folder.path().join("edge.toml"),
    );
    let config =
        format!("[[inference]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\npass = [\"{name}\"]\n");
    std::fs::write(&file, config).unwrap();
    let (code, _, errors) = edge_output(
        &database,
        &["--config", file.to_str().unwrap(), "config", "check"],
    );
    (code, errors)
}

#[test]
fn what_is_passed_on_is_a_warning_at_the_start_and_what_never_is_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let config = |pass: &str| {
        format!(
            "[[inference]]\nname = \"open\"\nurl = \"http://127.0.0.1:1\"\npass = [\"{pass}\"]\n"
        )
    };
    let error = Process::try_serve(&database, &config("N_Predict"))
        .err()
        .unwrap();
    assert!(
        error.contains("inference[0].pass: N_Predict: is never passed on"),
        "{error}"
    );
    let file = folder.path().join("doctor.toml");
    std::fs::write(&file, config("*")).unwrap();
    let (_, report) = edge(&database, &["--config", file.to_str().unwrap(), "doctor"]);
    let found = report
        .lines()
        .find(|line| line.contains("inference server open gets"));
    assert!(
        found.is_some_and(|line| line.starts_with("warning  pass ")),
        "{report}"
    );
    let server = Process::serve(&database, &config("*"));
    let log = server.log().join("\n");
    let warning = log
        .lines()
        .find(|line| line.contains("inference server open gets"));
    assert!(
        warning.is_some_and(|line| line.to_lowercase().contains("warn")),
        "{log}"
    );
}

#[tokio::test]
async fn no_header_of_a_client_goes_to_an_inference_server() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    let headers = [
        ("x-conversation-id", "c"),
        ("x-data-parallel-rank", "1"),
        ("extra-usage", "1"),
        ("x-session-id", "s"),
        ("x-request-id", "own"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("openai-organization", "o"),
        ("user-agent", "client/1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("cookie", "a=b"),
        ("accept-language", "de"),
        ("x-wallet-address", W1),
        ("accept", "text/event-stream"),
    ];
    caller
        .send(Method::POST, PATH, &headers, chat_with("seed", json!(7)))
        .await
        .expect(200);
    let seen = upstream.seen(PATH).pop().unwrap().headers;
    let mut names: Vec<_> = seen.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept-encoding",
            "content-length",
            "content-type",
            "host",
            "user-agent"
        ]
    );
    assert!(
        seen["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("r3mes-edge/")
    );
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
