//! What a request of the endpoints besides chats may contain, over TCP: what is forwarded, dropped or refused before any charge,
//! and the default requests of Codex and Claude Code.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, config_with_inference, config_with_nodes,
};

const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const MESSAGES: &str = "/v1/messages";
const RERANK: &str = "/v1/rerank";
const RESPONSES: &str = "/v1/responses";

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/", $name))
    };
}

/// An answer of llama.cpp to each.
pub(crate) fn script(seen: &Seen) -> Scripted {
    let is_stream = seen.body.contains("\"stream\":true");
    let stream = match seen.path.as_str() {
        COMPLETIONS => fixture!("completions/stream.llamacpp.sse"),
        MESSAGES => fixture!("messages/stream.llamacpp.sse"),
        _ => fixture!("responses/stream.llamacpp.sse"),
    };
    if is_stream {
        let (scripted, frames) = Scripted::held();
        frames.send(stream);
        return scripted;
    }
    let answer = match seen.path.as_str() {
        COMPLETIONS => fixture!("completions/answer.llamacpp.json"),
        EMBEDDINGS => fixture!("embeddings/answer.llamacpp.json"),
        MESSAGES => fixture!("messages/answer.llamacpp.json"),
        RERANK => fixture!("rerank/answer.llamacpp.json"),
        _ => fixture!("responses/answer.llamacpp.json"),
    };
    Scripted::whole(200, answer)
}

async fn post(
    caller: &Caller,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, String) {
    let (status, _, body) = caller.open(Method::POST, path, headers, body).await;
    let body = body.collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The members without which there is no answer.
pub(crate) fn essential(path: &str) -> &'static str {
    match path {
        COMPLETIONS => r#""prompt":[ "h\u0069" ],"max_tokens":9"#,
        EMBEDDINGS => r#""input":[ "h\u0069" ]"#,
        MESSAGES => r#""messages":[ {"role":"user", "content":"h\u0069"} ],"max_tokens":9"#,
        RERANK => r#""query":"h\u0069","documents":[ "a", {"text":"b"} ]"#,
        _ => r#""input":[ {"role":"user", "content":"h\u0069"} ],"max_output_tokens":9"#,
    }
}

async fn ask(caller: &Caller, path: &str, more: &str) -> (u16, String) {
    let body = format!("{{{}{more}}}", essential(path));
    post(caller, path, &[], body).await
}

#[tokio::test]
async fn each_listed_member_of_an_endpoint_arrives_byte_for_byte_or_is_dropped_as_its_list_says() {
    const SAMPLERS: [&str; 12] = [
        "\"temperature\":1e-1",
        "\"top_p\":1.0",
        "\"frequency_penalty\":-2",
        "\"presence_penalty\":0.50",
        "\"top_k\":40",
        "\"min_p\":0.05",
        "\"repetition_penalty\":1.1",
        "\"repeat_penalty\":1.1",
        "\"seed\":-1",
        "\"stop\":[ \"a\" , \"\\u0062\" ]",
        "\"logit_bias\":{\"7\": -100}",
        "\"logprobs\":5",
    ];
    let upstream = Upstream::inference(script).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 999).await;
    for (path, forwarded, dropped) in [
        (
            COMPLETIONS,
            &[&SAMPLERS[..], &["\"suffix\":\"s\""]].concat()[..],
            &["\"user\":\"u\"", "\"echo\":false"][..],
        ),
        (
            EMBEDDINGS,
            &[
                "\"encoding_format\":\"float\"",
                "\"encoding_format\":\"base64\"",
                "\"dimensions\":4",
            ],
            &["\"user\":\"u\"", "\"wallet_address\":null"],
        ),
        (
            RERANK,
            &[
                "\"top_n\":2",
                "\"return_documents\":false",
                "\"max_tokens_per_doc\":99",
                "\"instruction\":\"i\"",
                "\"instruct\":\"i\"",
            ],
            &[
                "\"user\":\"u\"",
                "\"max_chunks_per_doc\":9",
                "\"rank_fields\":[\"text\"]",
            ],
        ),
        (
            RESPONSES,
            &[
                "\"instructions\":\"i\"",
                "\"temperature\":1",
                "\"top_p\":0.9",
                "\"tools\":[ {\"type\":\"function\",\"name\":\"f\",\"parameters\":{}},{\"type\":\"custom\",\"name\":\"c\"} ]",
                "\"tools\":[ {\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]} ]",
                "\"tool_choice\":{\"type\":\"function\",\"name\":\"f\"}",
                "\"parallel_tool_calls\":false",
                "\"reasoning\":{\"effort\":\"low\" , \"summary\":\"auto\"}",
                "\"text\":{\"format\":{\"type\":\"json_object\"},\"verbosity\":\"low\"}",
                "\"include\":[\"reasoning.encrypted_content\",\"message.output_text.logprobs\"]",
                "\"top_logprobs\":20",
            ],
            &[
                "\"metadata\":{\"a\":\"b\"}",
                "\"user\":\"u\"",
                "\"safety_identifier\":\"s\"",
                "\"prompt_cache_key\":\"k\"",
                "\"prompt_cache_retention\":\"24h\"",
                "\"client_metadata\":{\"a\":\"b\"}",
                "\"background\":false",
                "\"truncation\":\"disabled\"",
                "\"service_tier\":\"auto\"",
                "\"stream_options\":{\"include_obfuscation\":false}",
            ],
        ),
        (
            MESSAGES,
            &[
                "\"system\":[ {\"type\":\"text\",\"text\":\"s\",\"cache_control\":{\"type\":\"ephemeral\"}} ]",
                "\"system\":\"s\"",
                "\"temperature\":1",
                "\"top_p\":0.9",
                "\"top_k\":40",
                "\"stop_sequences\":[ \"END\" ]",
                "\"tools\":[ {\"name\":\"f\",\"input_schema\":{},\"strict\":true} ]",
                "\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":true}",
                "\"thinking\":{\"type\":\"adaptive\",\"display\":\"omitted\"}",
                "\"output_config\":{\"effort\":\"high\"}",
            ],
            &[
                "\"metadata\":{\"user_id\":\"u\"}",
                "\"cache_control\":{\"type\":\"ephemeral\"}",
                "\"context_management\":{\"edits\":[]}",
                "\"safeguards\":[]",
                "\"service_tier\":\"auto\"",
            ],
        ),
    ] {
        let essential = essential(path).split(",\"max_").next().unwrap();
        for (members, arrives) in [(forwarded, true), (dropped, false)] {
            for member in members {
                let (status, text) = ask(&caller, path, &format!(",{member}")).await;
                assert_eq!(status, 200, "{path} {member}: {text}");
                let seen = upstream.seen(path).pop().unwrap().body;
                assert!(seen.contains(essential), "{seen}");
                assert_eq!(seen.contains(member), arrives, "{member}: {seen}");
                let name = member.split_inclusive(':').next().unwrap();
                assert_eq!(seen.contains(&format!(",{name}")), arrives, "{seen}");
            }
        }
    }
}

#[tokio::test]
async fn hostile_requests_are_refused_by_name_and_nothing_is_sent_or_charged() {
    let upstream = Upstream::inference(script).await;
    let mut config = config_with_inference("openai", &upstream);
    // What the operator passes on does not open what is never passed on.
    config.inference[0].pass = vec!["*".to_owned()];
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    for (path, body) in [
        (
            COMPLETIONS,
            fixture!("requests/completions/hostile.llamacpp.json"),
        ),
        (
            COMPLETIONS,
            fixture!("requests/completions/hostile.sglang.json"),
        ),
        (
            COMPLETIONS,
            fixture!("requests/completions/hostile.vllm.json"),
        ),
        (EMBEDDINGS, fixture!("requests/embeddings/chat.vllm.json")),
        (RERANK, fixture!("requests/rerank/multimodal.json")),
        (RERANK, fixture!("requests/rerank/tei.llamacpp.json")),
        (RESPONSES, fixture!("requests/responses/hostile.json")),
        (MESSAGES, fixture!("requests/messages/hostile.json")),
    ] {
        let (status, text) = post(&caller, path, &[], body).await;
        assert_eq!(status, 400, "{path}: {}", text);
    }
    for (path, member) in [
        (COMPLETIONS, "\"n\":9"),
        (COMPLETIONS, "\"echo\":true"),
        (COMPLETIONS, "\"best_of\":4"),
        (COMPLETIONS, "\"n_predict\":-1"),
        (COMPLETIONS, "\"Prompt\":\"a\""),
        (COMPLETIONS, "\"messages\":[]"),
        (EMBEDDINGS, "\"content\":\"a\""),
        (EMBEDDINGS, "\"messages\":[]"),
        (EMBEDDINGS, "\"embed_overrides\":[]"),
        (EMBEDDINGS, "\"max_tokens\":7"),
        (EMBEDDINGS, "\"stream\":true"),
        (EMBEDDINGS, "\"INPUT\":\"a\""),
        (RERANK, "\"texts\":[\"a\"]"),
        (RERANK, "\"n\":2"),
        (RERANK, "\"Documents\":[\"a\"]"),
        (RERANK, "\"lora_path\":\"/srv\""),
        (RESPONSES, "\"background\":true"),
        (RESPONSES, "\"store\":true"),
        (RESPONSES, "\"previous_response_id\":\"r\""),
        (RESPONSES, "\"conversation\":\"c\""),
        (RESPONSES, "\"prompt\":{\"id\":\"p\"}"),
        (
            RESPONSES,
            "\"tools\":[{\"type\":\"mcp\",\"server_url\":\"http://a\"}]",
        ),
        (RESPONSES, "\"tools\":[{\"Type\":\"web_search\"}]"),
        (RESPONSES, "\"Tools\":[]"),
        (RESPONSES, "\"max_tokens\":7"),
        (RESPONSES, "\"n\":2"),
        (MESSAGES, "\"mcp_servers\":[]"),
        (MESSAGES, "\"container\":\"c\""),
        (MESSAGES, "\"fallbacks\":[]"),
        (
            MESSAGES,
            "\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"}]",
        ),
        (MESSAGES, "\"System\":\"a\""),
        (MESSAGES, "\"max_completion_tokens\":7"),
        (MESSAGES, "\"n_predict\":-1"),
    ] {
        let (status, text) = ask(&caller, path, &format!(",{member}")).await;
        assert_eq!(status, 400, "{path} {member}: {text}");
        let name = member.split('"').nth(1).unwrap();
        assert!(text.contains(name), "{path} {member}: {text}");
    }
    for path in [COMPLETIONS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES] {
        assert!(upstream.seen(path).is_empty(), "{path}");
    }
    assert_eq!(server.balance(W1).await, Credits::from_micro(1_000_000));
}

#[tokio::test]
async fn a_passed_member_of_any_endpoint_goes_to_the_servers_alone_that_pass_it() {
    let open = Upstream::inference(script).await;
    let closed = Upstream::inference(script).await;
    let mut config = config_with_nodes("openai", &[open.url(), closed.url()]);
    config.inference[0].pass = vec![
        "grammar".to_owned(),
        "user".to_owned(),
        "metadata".to_owned(),
    ];
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 99).await;
    for path in [COMPLETIONS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES] {
        for _ in 0..4 {
            let (status, text) = ask(&caller, path, ",\"grammar\":{\"a\" : 1.0}").await;
            assert_eq!(status, 200, "{path}: {text}");
        }
        let seen = open.seen(path);
        assert_eq!((seen.len(), closed.seen(path).len()), (4, 0), "{path}");
        assert!(
            seen[0].body.contains(",\"grammar\":{\"a\" : 1.0}"),
            "{}",
            seen[0].body
        );
        let (status, text) = ask(&caller, path, ",\"min_tokens\":1").await;
        assert_eq!(status, 400, "{path}: {text}");
        assert!(text.contains("min_tokens is not supported"), "{text}");
        assert!(text.contains("[[inference]] pass = ["), "{text}");
    }
    let dropped = |path| if path == MESSAGES { "metadata" } else { "user" };
    for path in [COMPLETIONS, MESSAGES, RESPONSES] {
        let member = format!("\"{}\":{{\"a\":\"b\"}}", dropped(path));
        for _ in 0..8 {
            let (status, text) = ask(&caller, path, &format!(",{member}")).await;
            assert_eq!(status, 200, "{path}: {text}");
        }
        let with = |upstream: &Upstream| {
            let seen = upstream.seen(path);
            seen.iter()
                .filter(|seen| seen.body.contains(&member))
                .count()
        };
        assert_eq!(with(&open), open.seen(path).len() - 4, "{path}");
        assert_eq!(with(&closed), 0, "{path}");
    }
}

#[tokio::test]
async fn a_member_that_is_missing_or_wrong_is_named_with_what_is_right() {
    let upstream = Upstream::inference(script).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 1).await;
    for (path, body, detail) in [
        (
            COMPLETIONS,
            "{}",
            "prompt must be a text, the ids of its tokens, or an array of 1 to 8 of either",
        ),
        (
            COMPLETIONS,
            r#"{"prompt":["a","b","c"],"n":3}"#,
            "n times the 3 prompts must be at most 8",
        ),
        (
            EMBEDDINGS,
            "{}",
            "input must be a text, the ids of its tokens, or an array of 1 to 256 of either",
        ),
        (
            EMBEDDINGS,
            r#"{"input":null}"#,
            "input must be a text, the ids of its tokens",
        ),
        (
            RERANK,
            r#"{"query":"a"}"#,
            "documents must be an array of 1 to 256 texts, or objects with a text",
        ),
        (RERANK, r#"{"documents":["a"]}"#, "query must be a text"),
        (
            RESPONSES,
            "{}",
            "input must be a text, or an array of at least one item, each an object",
        ),
        (
            RESPONSES,
            r#"{"input":"a","max_output_tokens":0}"#,
            "max_output_tokens must be a whole number from 1",
        ),
        (
            MESSAGES,
            "{}",
            "messages must be an array of at least one message, each an object",
        ),
        (
            MESSAGES,
            r#"{"messages":[{"role":"user","content":"a"}],"max_tokens":0}"#,
            "max_tokens must be a whole number from 1",
        ),
    ] {
        let (status, text) = post(&caller, path, &[], body).await;
        assert_eq!(status, 400, "{path} {body}");
        assert!(text.contains(detail), "{path} {body}: {}", text);
    }
    assert_eq!(server.balance(W1).await, Credits::from_micro(1_000_000));
}

#[tokio::test]
async fn the_default_requests_of_codex_are_answered() {
    let upstream = Upstream::inference(script).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 9).await;
    let headers = [
        ("accept", "text/event-stream"),
        ("originator", "codex_exec"),
        ("user-agent", "codex_exec/0.159.2 (Mac OS 26.5.1; arm64)"),
        ("session-id", "01a115ae-0000-7000-8000-0000000000aa"),
        ("thread-id", "01a115ae-0000-7000-8000-0000000000aa"),
        (
            "x-client-request-id",
            "01a115ae-0000-7000-8000-0000000000aa",
        ),
        ("x-codex-beta-features", "remote_compaction_v2"),
        (
            "x-codex-window-id",
            "01a115ae-0000-7000-8000-0000000000aa:0",
        ),
        ("x-codex-turn-metadata", "{\"sandbox\":\"seatbelt\"}"),
    ];
    for body in [
        fixture!("requests/codex.json"),
        fixture!("requests/codex-next.json"),
        fixture!("requests/codex-unsandboxed.json"),
    ] {
        // Of the configured default adapter.
        let mut asked: Value = serde_json::from_str(body).unwrap();
        asked.as_object_mut().unwrap().remove("model");
        let (status, text) = post(&caller, RESPONSES, &headers, asked.to_string()).await;
        assert_eq!(status, 200, "{}", text);
        assert!(text.contains("response.completed"), "{}", text);
        let seen = upstream.seen(RESPONSES).pop().unwrap();
        let sent: Value = serde_json::from_str(&seen.body).unwrap();
        let mut names: Vec<_> = sent.as_object().unwrap().keys().collect();
        names.sort_unstable();
        let is_sent =
            |name: &&str| !["text", "instructions"].contains(name) || asked.get(*name).is_some();
        let expected = [
            "include",
            "input",
            "instructions",
            "model",
            "parallel_tool_calls",
            "reasoning",
            "store",
            "stream",
            "text",
            "tool_choice",
            "tools",
        ];
        assert_eq!(
            names,
            expected.iter().copied().filter(is_sent).collect::<Vec<_>>()
        );
        for name in ["input", "instructions", "reasoning", "include"] {
            assert_eq!(sent.get(name), asked.get(name), "{name}");
        }
        assert_eq!(sent["store"], json!(false));
        let (tools, all) = (
            sent["tools"].as_array().unwrap(),
            asked["tools"].as_array().unwrap(),
        );
        assert_eq!(tools[..], all[..all.len() - 1]);
        assert_eq!(all[all.len() - 1]["type"], "web_search");
        assert!(
            seen.headers
                .keys()
                .all(|name| !name.as_str().starts_with("x-codex"))
        );
    }
}

#[tokio::test]
async fn the_default_requests_of_claude_code_are_answered() {
    let upstream = Upstream::inference(script).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 9).await;
    let headers = [
        ("accept", "application/json"),
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,prompt-caching-scope-2026-01-05,\
             mid-conversation-system-2026-04-07,effort-2025-11-24",
        ),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("user-agent", "claude-cli/2.1.291 (external, cli)"),
        ("x-app", "cli"),
        (
            "x-claude-code-session-id",
            "00000000-0000-4000-8000-000000000003",
        ),
        ("x-stainless-lang", "js"),
        ("x-stainless-retry-count", "0"),
    ];
    for body in [
        fixture!("requests/claude-code.json"),
        fixture!("requests/claude-code-next.json"),
        fixture!("requests/claude-code-title.json"),
    ] {
        let mut asked: Value = serde_json::from_str(body).unwrap();
        asked.as_object_mut().unwrap().remove("model");
        let path = "/v1/messages?beta=true";
        let (status, text) = post(&caller, path, &headers, asked.to_string()).await;
        assert_eq!(status, 200, "{}", text);
        assert!(text.contains("message_stop"), "{}", text);
        let seen = upstream.seen(MESSAGES).pop().unwrap();
        let sent: Value = serde_json::from_str(&seen.body).unwrap();
        for dropped in ["metadata", "context_management", "safeguards"] {
            assert_eq!(sent.get(dropped), None);
        }
        for name in [
            "messages",
            "system",
            "tools",
            "thinking",
            "output_config",
            "temperature",
        ] {
            assert_eq!(sent.get(name), asked.get(name), "{name}");
        }
        assert!(
            seen.headers
                .keys()
                .all(|name| !name.as_str().starts_with("anthropic"))
        );
    }
}
