//! The guards of the endpoints besides chats.

use super::*;

const PICTURE: &str = "data:image/png;base64,AAAA";

fn error(guard: &Guard, body: &str) -> Option<InputError> {
    guard.check(members(body, "").unwrap()).err()
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/it/fixtures/", $name))
    };
}

/// Requests of fixtures, each with how many pictures it has.
#[test]
fn ordinary_requests_pass_with_their_pictures_counted() {
    for (guard, body, media) in [
        (&COMPLETIONS, fixture!("requests/completions/plain.json"), 0),
        (
            &COMPLETIONS,
            fixture!("requests/completions/stream.json"),
            0,
        ),
        (
            &COMPLETIONS,
            fixture!("requests/completions/tokens.json"),
            0,
        ),
        (
            &COMPLETIONS,
            fixture!("requests/completions/array-n2.json"),
            0,
        ),
        (&EMBEDDINGS, fixture!("requests/embeddings/plain.json"), 0),
        (&EMBEDDINGS, fixture!("requests/embeddings/base64.json"), 0),
        (&EMBEDDINGS, fixture!("requests/embeddings/tokens.json"), 0),
        (&RERANK, fixture!("requests/rerank/plain.json"), 0),
        (&RESPONSES, fixture!("requests/responses/plain.json"), 0),
        (
            &RESPONSES,
            fixture!("requests/responses/stream-tools.json"),
            0,
        ),
        (&MESSAGES, fixture!("requests/messages/plain.json"), 0),
        (
            &MESSAGES,
            fixture!("requests/messages/stream-tools.json"),
            0,
        ),
        // Members and tools as in requests of Codex 0.159 that github.com/Ranger-Marketing-Vertriebs-GmbH/agent-pier recorded
        // (tests/fixtures/protocol-adapter/clients/codex), the search included; texts are our own. The second one is composed of
        // items from there and from codex-rs/protocol/src/models.rs of an older version; it was not recorded as a whole.
        (&RESPONSES, fixture!("requests/codex.json"), 0),
        (&RESPONSES, fixture!("requests/codex-next.json"), 2),
        // Recorded from Codex 0.171.0 without a sandbox, after a few calls of tools; long texts are shortened.
        (&RESPONSES, fixture!("requests/codex-unsandboxed.json"), 2),
        // Members as in a request of Claude Code 2.1.291 recorded there (clients/claude-code/text.json) and in
        // code.claude.com/docs/en/llm-gateway-protocol; texts are our own, and most tools are shortened from what is known of
        // them. The other two are composed from the documentation, not recorded.
        (&MESSAGES, fixture!("requests/claude-code.json"), 0),
        (&MESSAGES, fixture!("requests/claude-code-next.json"), 2),
        (&MESSAGES, fixture!("requests/claude-code-title.json"), 0),
    ] {
        let checked = guard.check(members(body, "").unwrap());
        let checked = checked.unwrap_or_else(|error| panic!("{error:?} {body}"));
        assert_eq!(checked.media, media, "{body}");
        assert_eq!(checked.extra, [""; 0], "{body}");
    }
}

/// Each member of a hostile request is refused by itself, besides the ones that make it one that can be answered.
#[test]
fn each_dangerous_member_of_a_hostile_request_is_refused_by_its_name() {
    for (guard, body, ordinary) in [
        (
            &COMPLETIONS,
            fixture!("requests/completions/hostile.llamacpp.json"),
            "model prompt max_tokens cache_prompt",
        ),
        (
            &COMPLETIONS,
            fixture!("requests/completions/hostile.sglang.json"),
            "model prompt max_tokens n",
        ),
        (
            &COMPLETIONS,
            fixture!("requests/completions/hostile.vllm.json"),
            "model prompt max_tokens n",
        ),
        (
            &EMBEDDINGS,
            fixture!("requests/embeddings/chat.vllm.json"),
            "model",
        ),
        (
            &RERANK,
            fixture!("requests/rerank/multimodal.json"),
            "model query",
        ),
        (
            &RERANK,
            fixture!("requests/rerank/tei.llamacpp.json"),
            "query",
        ),
        (
            &RESPONSES,
            fixture!("requests/responses/hostile.json"),
            "model max_output_tokens max_tool_calls",
        ),
        (
            &MESSAGES,
            fixture!("requests/messages/hostile.json"),
            "model max_tokens",
        ),
    ] {
        let members = members(body, "").unwrap();
        for (name, value) in &members {
            // Tools and contents of messages one by one.
            let values = match (value.get().starts_with('['), name.as_str()) {
                (true, "tools") => {
                    let tools = crate::model::items(value).unwrap();
                    tools.iter().map(|tool| format!("[{tool}]")).collect()
                }
                (true, "messages" | "input") => {
                    let message: Value = serde_json::from_str(value.get()).unwrap();
                    let parts = message[0]["content"].as_array().unwrap().clone();
                    let one = |part| json!([{ "role": "user", "content": [part] }]).to_string();
                    parts.into_iter().map(one).collect()
                }
                _ => vec![value.get().to_owned()],
            };
            for value in values {
                let body = format!("{{\"{name}\":{value}}}");
                let checked = guard.check(crate::model::members(&body, "").unwrap());
                if names(ordinary).any(|listed| listed == name) {
                    continue;
                }
                let is_refused = match &checked {
                    Ok(checked) => checked.extra == [name.as_str()],
                    Err(error) => error.pointer.starts_with(&format!("/{name}")),
                };
                assert!(is_refused, "{body}: {checked:?}");
            }
        }
    }
}

/// Each with the first words of the reason.
#[test]
fn what_a_server_would_do_by_itself_is_refused_with_a_sentence_that_says_so() {
    for (guard, body, pointer, reason) in [
        (
            &RESPONSES,
            r#"{"background":true}"#,
            "/background",
            "the answer would be made later",
        ),
        (
            &RESPONSES,
            r#"{"store":true}"#,
            "/store",
            "nothing is stored",
        ),
        (
            &RESPONSES,
            r#"{"previous_response_id":"resp_1"}"#,
            "/previous_response_id",
            "nothing is stored",
        ),
        (
            &RESPONSES,
            r#"{"conversation":{"id":"c"}}"#,
            "/conversation",
            "nothing is stored",
        ),
        (
            &RESPONSES,
            r#"{"prompt":{"id":"p"}}"#,
            "/prompt",
            "a server would read it as a prompt",
        ),
        (
            &RESPONSES,
            r#"{"messages":[]}"#,
            "/messages",
            "a server would read it as a prompt",
        ),
        (
            &EMBEDDINGS,
            r#"{"content":["a"]}"#,
            "/content",
            "a server would read it as a prompt",
        ),
        (
            &EMBEDDINGS,
            r#"{"messages":[]}"#,
            "/messages",
            "a server would read it as a prompt",
        ),
        (
            &RERANK,
            r#"{"texts":["a"]}"#,
            "/texts",
            "a server would read it as a prompt",
        ),
        (
            &COMPLETIONS,
            r#"{"echo":true}"#,
            "/echo",
            "it would give the prompt",
        ),
        (
            &COMPLETIONS,
            r#"{"best_of":2}"#,
            "/best_of",
            "it can multiply",
        ),
        (
            &COMPLETIONS,
            r#"{"n_cmpl":1}"#,
            "/n_cmpl",
            "it can multiply",
        ),
        (
            &MESSAGES,
            r#"{"mcp_servers":[]}"#,
            "/mcp_servers",
            "the inference server would run tools",
        ),
        (
            &MESSAGES,
            r#"{"container":"c"}"#,
            "/container",
            "the inference server would run tools",
        ),
        (
            &MESSAGES,
            r#"{"n":2}"#,
            "/n",
            "this endpoint has no such member",
        ),
        (
            &RESPONSES,
            r#"{"n":2}"#,
            "/n",
            "this endpoint has no such member",
        ),
        (
            &EMBEDDINGS,
            r#"{"n":2}"#,
            "/n",
            "this endpoint has no such member",
        ),
        (
            &EMBEDDINGS,
            r#"{"stream":true}"#,
            "/stream",
            "this endpoint has no such member",
        ),
        (
            &RERANK,
            r#"{"stream_options":{}}"#,
            "/stream_options",
            "this endpoint has no such member",
        ),
        (
            &COMPLETIONS,
            r#"{"max_new_tokens":7}"#,
            "/max_new_tokens",
            "it limits the answer; max_tokens does that here",
        ),
        (
            &MESSAGES,
            r#"{"max_completion_tokens":7}"#,
            "/max_completion_tokens",
            "it limits the answer; max_tokens does that here",
        ),
        (
            &RESPONSES,
            r#"{"max_tokens":7}"#,
            "/max_tokens",
            "it limits the answer; max_output_tokens does that here",
        ),
        (
            &RESPONSES,
            r#"{"n_predict":-1}"#,
            "/n_predict",
            "it limits the answer; max_output_tokens does that here",
        ),
        (
            &EMBEDDINGS,
            r#"{"max_tokens":7}"#,
            "/max_tokens",
            "it limits the answer, which has no tokens here",
        ),
        (
            &RERANK,
            r#"{"max_length":7}"#,
            "/max_length",
            "it limits the answer, which has no tokens here",
        ),
    ] {
        let error = error(guard, body).expect(body);
        assert_eq!(
            (error.kind, error.pointer.as_str()),
            (InputKind::Parameter, pointer)
        );
        let expected = format!("{} is not supported: {reason}", &pointer[1..]);
        assert!(
            error.detail.starts_with(&expected),
            "{body}: {}",
            error.detail
        );
    }
}

#[test]
fn tools_that_a_server_runs_are_refused_by_their_type_in_every_case_of_its_letters() {
    let function = r#"{"type":"function","name":"f"}"#;
    let tools = |tool: &str| format!("{{\"tools\":[{function},{tool}]}}");
    for kind in [
        "mcp",
        "web_search",
        "web_search_preview",
        "web_search_2025_08_26",
        "web_fetch",
        "file_search",
        "code_interpreter",
        "computer_use_preview",
        "computer",
        "image_generation",
        "local_shell",
        "shell",
        "apply_patch",
        "tool_search",
        "programmatic_tool_calling",
        "x",
    ] {
        // With a boolean it is the search that Codex adds.
        let access = if kind == "web_search" { "1" } else { "true" };
        for (tool, at) in [
            (format!(r#"{{"type":"{kind}"}}"#), "/tools/1/type"),
            (format!(r#"{{"Type":"{kind}"}}"#), "/tools/1/Type"),
            (
                format!(r#"{{"type":"{kind}","external_web_access":{access}}}"#),
                "/tools/1/type",
            ),
            (
                format!(r#"{{"type":"namespace","name":"n","tools":[{{"type":"{kind}"}}]}}"#),
                "/tools/1/tools/0/type",
            ),
        ] {
            let error = error(&RESPONSES, &tools(&tool)).expect(&tool);
            assert_eq!(
                (error.kind, error.pointer.as_str()),
                (InputKind::Parameter, at)
            );
            let expected = format!(
                "{} {kind} is not supported: the inference server would run this tool itself",
                &at[1..]
            );
            assert!(error.detail.starts_with(&expected), "{}", error.detail);
        }
        let choice = format!(r#"{{"tool_choice":{{"type":"{kind}"}}}}"#);
        assert_eq!(
            error(&RESPONSES, &choice).expect(kind).pointer,
            "/tool_choice/type"
        );
        let some = format!(
            r#"{{"tool_choice":{{"type":"allowed_tools","mode":"auto","tools":[{{"type":"{kind}"}}]}}}}"#
        );
        assert_eq!(
            error(&RESPONSES, &some).expect(kind).pointer,
            "/tool_choice/tools/0/type"
        );
    }
    for kind in [
        "web_search_20250305",
        "web_fetch_20250910",
        "code_execution_20250825",
        "bash_20250124",
        "text_editor_20250728",
        "memory_20250818",
        "computer_20250124",
        "tool_search_tool_regex_20251119",
        "mcp_toolset",
        "function",
    ] {
        for name in ["type", "Type", "TYPE"] {
            let body = format!(r#"{{"tools":[{{"name":"a","{name}":"{kind}"}}]}}"#);
            let error = error(&MESSAGES, &body).expect(&body);
            let expected = (InputKind::Parameter, format!("/tools/0/{name}"));
            assert_eq!((error.kind, error.pointer), expected);
            let expected = format!("tools/0/{name} {kind} is not supported");
            assert!(error.detail.starts_with(&expected), "{}", error.detail);
        }
    }
    let twice = r#"{"tools":[{"type":"function","name":"f","Type":"web_search"}]}"#;
    assert_eq!(error(&RESPONSES, twice).unwrap().pointer, "/tools/0/Type");
    let twice = r#"{"tools":[{"type":"custom","name":"f","TYPE":"web_search_20250305"}]}"#;
    assert_eq!(error(&MESSAGES, twice).unwrap().pointer, "/tools/0/TYPE");
}

#[test]
fn the_search_that_codex_adds_is_left_out_of_what_is_sent() {
    let sent = |tools: &str| {
        let tools = RawValue::from_string(tools.to_owned()).unwrap();
        assert_eq!(error(&RESPONSES, &format!("{{\"tools\":{tools}}}")), None);
        tools_sent(&tools).map(|tools| tools.get().to_owned())
    };
    let function = r#"{ "type":"function","name":"f"}"#;
    assert_eq!(sent(&format!("[{function} ]")), None);
    for search in [
        r#"{"type":"web_search","external_web_access":false,"filters":{}}"#,
        r#"{"type":"web_search","external_web_access":true}"#,
    ] {
        assert_eq!(
            sent(&format!("[{search},{function}]")),
            Some(format!("[{function}]"))
        );
        assert_eq!(sent(&format!("[{search}]")), Some("[]".to_owned()));
    }
    for value in ["null", "1", r#""true""#] {
        let tool = format!(r#"{{"type":"web_search","external_web_access":{value}}}"#);
        assert!(error(&RESPONSES, &format!("{{\"tools\":[{tool}]}}")).is_some());
    }
}

#[test]
fn names_in_other_letters_are_refused_for_each_member_of_an_endpoint() {
    for guard in ALL {
        let forwarded = guard.forwarded.iter().map(|(list, _)| *list);
        let dropped = guard.dropped.iter().map(|(list, _)| *list);
        for name in forwarded.chain(dropped).chain([guard.own]).flat_map(names) {
            let mut title = name.to_owned();
            title[..1].make_ascii_uppercase();
            for spelt in [title, name.to_uppercase()] {
                for value in ["null", "1", "\"x\"", "[]"] {
                    let error = error(guard, &format!("{{\"{spelt}\":{value}}}")).expect(&spelt);
                    let expected = (InputKind::Parameter, format!("/{spelt}"));
                    assert_eq!((error.kind, error.pointer), expected);
                    assert!(error.detail.ends_with(&format!("write it {name}")));
                }
            }
        }
    }
}

/// Each with a value that passes, one that does not, and the pointer of what is wrong.
#[test]
fn values_of_each_endpoint_have_bounds_and_errors_their_pointers() {
    let list = |item: &str, times| format!("[{}]", vec![item; times].join(","));
    let text = |text: &str| text.to_owned();
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let long = |bytes: usize| "x".repeat(bytes);
    let message = |content: &str| format!(r#"[{{"role":"user","content":{content}}}]"#);
    let tools =
        |schema: &str, times| list(&format!(r#"{{"name":"f","input_schema":{schema}}}"#), times);
    let functions = |schema: &str, times| {
        let tool = format!(r#"{{"type":"function","name":"f","parameters":{schema}}}"#);
        list(&tool, times)
    };
    let large = |bytes: usize| format!("{{\"title\":\"{}\"}}", "x".repeat(bytes - 12));
    let custom = |format: &str| format!(r#"[{{"type":"custom","name":"p","format":{format}}}]"#);
    for (guard, name, good, bad, pointer) in [
        (&COMPLETIONS, "prompt", text("\"\""), text("7"), ""),
        (
            &COMPLETIONS,
            "prompt",
            list("\"a\"", 8),
            list("\"a\"", 9),
            "",
        ),
        (&COMPLETIONS, "prompt", list("7", 999), text("[]"), ""),
        (&COMPLETIONS, "prompt", list("[7]", 8), list("[7]", 9), ""),
        (
            &COMPLETIONS,
            "prompt",
            text("[[1,2],[3]]"),
            text("[[1],[]]"),
            "",
        ),
        (
            &COMPLETIONS,
            "prompt",
            text("[\"a\",\"\"]"),
            text("[\"a\",7]"),
            "",
        ),
        (&COMPLETIONS, "prompt", text("[0]"), text("[-1]"), ""),
        (
            &COMPLETIONS,
            "prompt",
            text("[4294967295]"),
            text("[4294967296]"),
            "",
        ),
        (
            &COMPLETIONS,
            "prompt",
            text("[\"a\"]"),
            text("[{\"prompt_string\":\"a\"}]"),
            "",
        ),
        (&COMPLETIONS, "suffix", text("\"a\""), text("[\"a\"]"), ""),
        (&COMPLETIONS, "logprobs", text("5"), text("6"), ""),
        (&COMPLETIONS, "stop", list("\"a\"", 4), list("\"a\"", 5), ""),
        (
            &EMBEDDINGS,
            "input",
            list("\"a\"", 256),
            list("\"a\"", 257),
            "",
        ),
        (&EMBEDDINGS, "input", list("[7]", 256), list("[7]", 257), ""),
        (&EMBEDDINGS, "input", text("[7]"), text("[1.5]"), ""),
        (
            &EMBEDDINGS,
            "input",
            text("\"a\""),
            text("{\"content\":\"a\"}"),
            "",
        ),
        (
            &EMBEDDINGS,
            "input",
            text("\"a\""),
            text("[{\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://a\"}}]}]"),
            "",
        ),
        (
            &EMBEDDINGS,
            "encoding_format",
            text("\"base64\""),
            text("\"bytes\""),
            "",
        ),
        (&EMBEDDINGS, "dimensions", text("1"), text("0"), ""),
        (&RERANK, "query", text("\"a\""), text("[\"a\"]"), ""),
        (
            &RERANK,
            "documents",
            list("\"a\"", 256),
            list("\"a\"", 257),
            "",
        ),
        (
            &RERANK,
            "documents",
            text("[{\"text\":\"a\"}]"),
            text("[]"),
            "",
        ),
        (
            &RERANK,
            "documents",
            text("[\"a\"]"),
            text("[{\"text\":7}]"),
            "/0/text",
        ),
        (
            &RERANK,
            "documents",
            text("[\"a\"]"),
            text("[{}]"),
            "/0/text",
        ),
        (
            &RERANK,
            "documents",
            text("[\"a\"]"),
            text("[{\"text\":\"a\",\"image\":\"http://a\"}]"),
            "/0/image",
        ),
        (
            &RERANK,
            "documents",
            text("[\"a\"]"),
            text("[[\"a\"]]"),
            "/0",
        ),
        (&RERANK, "top_n", text("2"), text("0"), ""),
        (&RERANK, "return_documents", text("true"), text("1"), ""),
        (&RESPONSES, "input", text("\"a\""), text("[]"), ""),
        (&RESPONSES, "input", message("\"a\""), text("[\"a\"]"), ""),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"role\":\"user\"}]"),
            "/0/content",
        ),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"content\":\"a\"}]"),
            "/0/role",
        ),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"role\":\"tool\",\"content\":\"a\"}]"),
            "/0/role",
        ),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"type\":\"item_reference\",\"id\":\"msg_1\"}]"),
            "/0/type",
        ),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"Type\":\"item_reference\",\"id\":\"msg_1\"}]"),
            "/0/Type",
        ),
        (
            &RESPONSES,
            "input",
            message("[]"),
            text("[{\"type\":\"mcp_approval_response\"}]"),
            "/0/type",
        ),
        (
            &RESPONSES,
            "input",
            message("[{\"type\":\"input_text\",\"text\":\"a\"}]"),
            message("[{\"type\":\"input_text\",\"text\":7}]"),
            "/0/content/0/text",
        ),
        (
            &RESPONSES,
            "input",
            message("[{\"type\":\"refusal\",\"refusal\":\"a\"}]"),
            message("[{\"type\":\"input_audio\"}]"),
            "/0/content/0/type",
        ),
        (
            &RESPONSES,
            "input",
            message("\"a\""),
            message(&deep(14)),
            "/0/content",
        ),
        (
            &RESPONSES,
            "input",
            message("\"a\""),
            message(&deep(15)),
            "",
        ),
        (
            &RESPONSES,
            "tools",
            functions("{}", 128),
            functions("{}", 129),
            "",
        ),
        (
            &RESPONSES,
            "tools",
            functions(&large(65536), 3),
            functions(&large(65537), 1),
            "/0/parameters",
        ),
        (
            &RESPONSES,
            "tools",
            functions(&large(65000), 4),
            functions(&large(65536), 4),
            "",
        ),
        (
            &RESPONSES,
            "tools",
            functions(&deep(16), 1),
            functions(&deep(17), 1),
            "/0/parameters",
        ),
        (
            &RESPONSES,
            "tools",
            text("[]"),
            text("[{\"type\":\"function\"}]"),
            "/0/name",
        ),
        (
            &RESPONSES,
            "tools",
            text("[]"),
            text("[{\"name\":\"f\"}]"),
            "/0/type",
        ),
        (
            &RESPONSES,
            "tools",
            custom("{\"type\":\"text\"}"),
            custom("{\"type\":\"grammar\",\"syntax\":\"regex\",\"definition\":\"(a+)+$\"}"),
            "/0/format/syntax",
        ),
        (
            &RESPONSES,
            "tools",
            custom(&format!(
                "{{\"type\":\"grammar\",\"syntax\":\"lark\",\"definition\":\"{}\"}}",
                long(16382)
            )),
            custom(&format!(
                "{{\"type\":\"grammar\",\"syntax\":\"lark\",\"definition\":\"{}\"}}",
                long(16383)
            )),
            "/0/format/definition",
        ),
        (
            &RESPONSES,
            "tools",
            format!(
                "[{{\"type\":\"namespace\",\"name\":\"{}\",\"tools\":[]}}]",
                long(128)
            ),
            format!(
                "[{{\"type\":\"namespace\",\"name\":\"{}\",\"tools\":[]}}]",
                long(129)
            ),
            "/0/name",
        ),
        (
            &RESPONSES,
            "tools",
            text("[]"),
            text(
                "[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[]}]}]",
            ),
            "/0/tools/0/type",
        ),
        (
            &RESPONSES,
            "tool_choice",
            text("\"required\""),
            text("\"any\""),
            "",
        ),
        (
            &RESPONSES,
            "tool_choice",
            text("{\"type\":\"function\",\"name\":\"f\"}"),
            text("{}"),
            "/type",
        ),
        (
            &RESPONSES,
            "reasoning",
            text("{\"effort\":\"low\",\"summary\":null}"),
            text("{\"effort\":{}}"),
            "/effort",
        ),
        (
            &RESPONSES,
            "reasoning",
            text("{}"),
            text("{\"max_tokens\":9}"),
            "/max_tokens",
        ),
        (
            &RESPONSES,
            "include",
            text("[\"reasoning.encrypted_content\"]"),
            text("[\"file_search_call.results\"]"),
            "",
        ),
        (
            &RESPONSES,
            "text",
            text("{\"verbosity\":\"low\"}"),
            text("{\"grammar\":\"a\"}"),
            "/grammar",
        ),
        (
            &RESPONSES,
            "text",
            text("{\"format\":{\"type\":\"json_schema\",\"name\":\"a\",\"schema\":{}}}"),
            text("{\"format\":{\"type\":\"json_schema\",\"schema\":{\"pattern\":\"(a+)+$\"}}}"),
            "/format/schema/pattern",
        ),
        (
            &RESPONSES,
            "text",
            text("{\"format\":{\"type\":\"text\"}}"),
            text("{\"format\":{\"type\":\"grammar\"}}"),
            "/format/type",
        ),
        (&RESPONSES, "top_logprobs", text("20"), text("21"), ""),
        (&MESSAGES, "messages", message("\"a\""), text("[]"), ""),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            text("[{\"role\":\"user\"}]"),
            "/0/content",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            text("[{\"content\":[]}]"),
            "/0/role",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            text("[{\"role\":\"tool\",\"content\":[]}]"),
            "/0/role",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            message("[{\"type\":\"text\"}]"),
            "/0/content/0/text",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            message("[{\"text\":\"a\"}]"),
            "/0/content/0/type",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            message("[{\"type\":\"server_tool_use\"}]"),
            "/0/content/0/type",
        ),
        (
            &MESSAGES,
            "messages",
            message("[]"),
            message("[{\"type\":\"container_upload\",\"file_id\":\"f\"}]"),
            "/0/content/0/type",
        ),
        (
            &MESSAGES,
            "messages",
            message("\"a\""),
            message(&deep(15)),
            "",
        ),
        (&MESSAGES, "system", text("\"a\""), text("7"), ""),
        (
            &MESSAGES,
            "system",
            text("[{\"type\":\"text\",\"text\":\"a\"}]"),
            text("[{\"type\":\"image\"}]"),
            "/0/type",
        ),
        (
            &MESSAGES,
            "stop_sequences",
            list("\"a\"", 16),
            list("\"a\"", 17),
            "",
        ),
        (&MESSAGES, "tools", tools("{}", 128), tools("{}", 129), ""),
        (
            &MESSAGES,
            "tools",
            tools(&large(65536), 3),
            tools(&large(65537), 1),
            "/0/input_schema",
        ),
        (
            &MESSAGES,
            "tools",
            tools(&large(65000), 4),
            tools(&large(65536), 4),
            "",
        ),
        (
            &MESSAGES,
            "tools",
            tools(&deep(16), 1),
            tools(&deep(17), 1),
            "/0/input_schema",
        ),
        (
            &MESSAGES,
            "tools",
            text("[{\"name\":\"f\",\"type\":\"custom\"}]"),
            text("[{\"input_schema\":{}}]"),
            "/0/name",
        ),
        (
            &MESSAGES,
            "tool_choice",
            text("{\"type\":\"tool\",\"name\":\"f\"}"),
            text("\"auto\""),
            "",
        ),
        (
            &MESSAGES,
            "tool_choice",
            text("{\"type\":\"any\",\"disable_parallel_tool_use\":true}"),
            text("{\"type\":\"x\"}"),
            "/type",
        ),
        (
            &MESSAGES,
            "thinking",
            text("{\"type\":\"enabled\",\"budget_tokens\":1024}"),
            text("{\"type\":\"enabled\",\"budget_tokens\":-1}"),
            "/budget_tokens",
        ),
        (
            &MESSAGES,
            "thinking",
            text("{\"type\":\"disabled\"}"),
            text("{}"),
            "/type",
        ),
        (
            &MESSAGES,
            "output_config",
            text("{\"effort\":\"high\"}"),
            text("{\"grammar\":\"a\"}"),
            "/grammar",
        ),
        (
            &MESSAGES,
            "output_config",
            text("{\"format\":{\"type\":\"json_schema\",\"schema\":{}}}"),
            format!(
                "{{\"format\":{{\"type\":\"json_schema\",\"schema\":{}}}}}",
                large(16385)
            ),
            "/format/schema",
        ),
    ] {
        let wrong = |value: &str| error(guard, &format!("{{\"{name}\":{value}}}"));
        assert_eq!(wrong(&good), None, "{name} {good:.200}");
        assert_eq!(wrong("null"), None);
        let error = wrong(&bad).unwrap_or_else(|| panic!("{name} {bad:.200}"));
        assert_eq!(
            error.pointer,
            format!("/{name}{pointer}"),
            "{error:?} {bad:.200}"
        );
    }
}

#[test]
fn pictures_are_those_in_the_request_and_counted_and_no_address_or_file_passes() {
    let response = |part: &str| {
        (
            &RESPONSES,
            format!(r#"{{"input":[{{"role":"user","content":[{part}]}}]}}"#),
        )
    };
    let output = |part: &str| {
        let item = r#""type":"function_call_output","call_id":"c","output":"#;
        (&RESPONSES, format!(r#"{{"input":[{{{item}[{part}]}}]}}"#))
    };
    let message = |block: &str| {
        (
            &MESSAGES,
            format!(r#"{{"messages":[{{"role":"user","content":[{block}]}}]}}"#),
        )
    };
    let result = |block: &str| {
        message(&format!(
            r#"{{"type":"tool_result","tool_use_id":"t","content":[{block}]}}"#
        ))
    };
    let source = |source: &str| format!(r#"{{"type":"image","source":{{{source}}}}}"#);
    let input_image = |more: &str| format!(r#"{{"type":"input_image",{more}}}"#);
    let inline = format!("\"image_url\":\"{PICTURE}\"");
    for kind in ["png", "jpeg", "webp", "gif"] {
        let base64 = source(&format!(
            r#""type":"base64","media_type":"image/{kind}","data":"AAAA""#
        ));
        let url = input_image(&format!(
            "\"image_url\":\"data:image/{kind};base64,AAAA\",\"detail\":\"low\",\"file_id\":null"
        ));
        for (guard, body) in [
            message(&base64),
            result(&base64),
            response(&url),
            output(&url),
        ] {
            let checked = guard.check(members(&body, "").unwrap()).unwrap();
            assert_eq!(checked.media, 1, "{body}");
        }
    }
    for block in [
        source(r#""type":"url","url":"http://169.254.169.254/""#),
        source(r#""type":"url","url":"data:image/png;base64,AAAA""#),
        source(r#""type":"file","file_id":"file_1""#),
        source(r#""type":"base64","media_type":"image/svg+xml","data":"AAAA""#),
        source(r#""type":"base64","media_type":"text/html","data":"AAAA""#),
        source(r#""type":"base64","media_type":"image/png","data":"http://a.example/""#),
        source(r#""type":"base64","media_type":"image/png","data":"""#),
        source(r#""type":"base64","media_type":"image/png","data":"AAAA","url":"http://a""#),
        source(r#""type":"base64","media_type":"image/png","data":"AAAA","URL":"file:///a""#),
        source(r#""Type":"url","url":"http://a""#),
        r#"{"type":"document","source":{"type":"url","url":"http://127.0.0.1/x.pdf"}}"#.to_owned(),
        r#"{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}"#.to_owned(),
        r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#.to_owned(),
        r#"{"type":"document","source":{"type":"text","data":"a b","url":"http://a"}}"#.to_owned(),
        r#"{"type":"text","text":"a","source":{"type":"url","url":"http://a"}}"#.to_owned(),
        r#"{"type":"text","text":"a","image_url":"http://a"}"#.to_owned(),
        r#"{"type":"text","text":"a","Image_URL":{"url":"http://a"}}"#.to_owned(),
    ] {
        for (guard, body) in [message(&block), result(&block)] {
            let error = error(guard, &body).expect(&body);
            assert_eq!(error.kind, InputKind::Media, "{body} {error:?}");
        }
    }
    for part in [
        input_image("\"image_url\":\"http://127.0.0.1:9000/admin\""),
        input_image("\"image_url\":\"file:///etc/passwd\""),
        input_image("\"image_url\":\"/etc/passwd\""),
        input_image("\"image_url\":{\"url\":\"http://a\"}"),
        input_image(&format!("{inline},\"file_id\":\"file_1\"")),
        input_image(&format!("{inline},\"Image_url\":\"http://a\"")),
        r#"{"type":"input_file","file_url":"file:///etc/passwd"}"#.to_owned(),
        r#"{"type":"input_file","file_id":"f"}"#.to_owned(),
        r#"{"type":"input_file","filename":"a","file_data":"data:application/pdf;base64,AAAA"}"#
            .to_owned(),
        r#"{"type":"input_text","text":"a","video_url":"http://a"}"#.to_owned(),
    ] {
        for (guard, body) in [response(&part), output(&part)] {
            let error = error(guard, &body).expect(&body);
            assert_eq!(error.kind, InputKind::Media, "{body} {error:?}");
        }
    }
    for (guard, body) in [
        (
            &MESSAGES,
            r#"{"messages":[{"role":"user","content":"a","images":["http://a"]}]}"#,
        ),
        (
            &MESSAGES,
            r#"{"system":[{"type":"text","text":"a","file":"/etc/passwd."}]}"#,
        ),
        (&EMBEDDINGS, r#"{"image_url":"http://a"}"#),
        (&RERANK, r#"{"images":["http://a"]}"#),
    ] {
        assert!(error(guard, body).is_some(), "{body}");
    }
    let picture = source(r#""type":"base64","media_type":"image/png","data":"AAAA""#);
    let many = |count| vec![picture.clone(); count].join(",");
    assert_eq!(error(&MESSAGES, &message(&many(32)).1), None);
    assert_eq!(
        error(&MESSAGES, &message(&many(33)).1).unwrap().kind,
        InputKind::Media
    );
    let many = |count| vec![input_image(&inline); count].join(",");
    assert_eq!(error(&RESPONSES, &response(&many(32)).1), None);
    assert_eq!(
        error(&RESPONSES, &response(&many(33)).1).unwrap().kind,
        InputKind::Media
    );
    // What models and clients wrote of addresses is not loaded.
    for (guard, body) in [
        message(
            r#"{"type":"tool_use","id":"t","name":"f","input":{"url":"http://a","image_url":"http://a"}}"#,
        ),
        message(
            r#"{"type":"text","text":"http://a","citations":[{"type":"web_search_result_location","url":"http://a"}]}"#,
        ),
        message(
            r#"{"type":"document","title":"a","source":{"type":"text","media_type":"text/plain","data":"see http://a"}}"#,
        ),
        response(
            r#"{"type":"output_text","text":"http://a","annotations":[{"type":"url_citation","url":"http://a"}]}"#,
        ),
    ] {
        let checked = guard.check(members(&body, "").unwrap()).unwrap();
        assert_eq!(checked.media, 0, "{body}");
    }
}

#[test]
fn the_documentation_has_the_members_of_each_endpoint() {
    let text = include_str!("../../../../.github/docs/requests.md");
    for (path, guard) in [
        ("completions", &COMPLETIONS),
        ("embeddings", &EMBEDDINGS),
        ("messages", &MESSAGES),
        ("rerank", &RERANK),
        ("responses", &RESPONSES),
    ] {
        let (_, section) = text
            .split_once(&format!("### `POST /v1/{path}`"))
            .expect(path);
        let section = section.split("\n##").next().unwrap();
        let forwarded = guard.forwarded.iter().map(|(list, _)| *list);
        let dropped = guard.dropped.iter().map(|(list, _)| *list);
        let listed = forwarded.chain(dropped).chain([guard.own]).flat_map(names);
        for name in listed.filter(|name| !["model", "wallet_address"].contains(name)) {
            assert!(section.contains(&format!("`{name}`")), "{path} {name}");
        }
    }
}

/// A name: any, or one of the lists or of what is read within them, in some spelling.
fn any_name() -> impl Strategy<Value = String> {
    const INNER: &str = "type role content text source url data media_type file_id image_url name tools format schema input output \
                         call_id tool_use_id function custom namespace web_search image document tool_result";
    let lists = ALL.iter().flat_map(|guard| {
        let forwarded = guard.forwarded.iter().map(|(list, _)| *list);
        forwarded
            .chain([guard.own])
            .chain(guard.dropped.iter().map(|(list, _)| *list))
    });
    let listed = prop::sample::select(lists.chain([INNER]).flat_map(names).collect::<Vec<_>>());
    prop_oneof![
        4 => listed.clone().prop_map(str::to_owned),
        1 => listed.prop_map(str::to_uppercase),
        1 => name(),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any_name().prop_map(Value::from),
        Just(Value::from(PICTURE)),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_outside_the_lists_of_an_endpoint_is_forwarded_without_a_server_that_passes_it(
        guard in prop::sample::select(&ALL[..]),
        request in prop::collection::btree_map(any_name(), any_value(), 0..6),
    ) {
        let body = serde_json::to_string(&request).unwrap();
        if let Ok(checked) = guard.check(members(&body, "").unwrap()) {
            for (name, value) in &checked.forwarded {
                prop_assert!(guard.check_of(name).is_some() != checked.extra.contains(name), "{name}");
                prop_assert_eq!(&serde_json::from_str::<Value>(value.get()).unwrap(), &request[name]);
            }
            for name in &checked.extra {
                prop_assert!(guard.never_passed(name).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn no_value_of_a_member_of_an_endpoint_makes_its_check_panic(
        guard in prop::sample::select(&ALL[..]),
        name in any_name(),
        value in any_value(),
    ) {
        let _ = error(guard, &json!({ name: value }).to_string());
    }

    #[test]
    fn an_address_anywhere_in_a_conversation_is_refused(
        key in "(image_url|file_url|video_url|audio_url|file_id|file_data|input_audio|images)",
        scheme in "(http://|https://|file://|ftp://|//|data:text/html,)",
        depth in 0usize..4,
    ) {
        let mut part = json!({ key: format!("{scheme}a.example") });
        for _ in 0..depth {
            part = json!({ "more": [part] });
        }
        let content = json!([{ "type": "text", "text": "a", "more": part }]);
        let body = json!({ "messages": [{ "role": "user", "content": content }] });
        prop_assert!(error(&MESSAGES, &body.to_string()).is_some());
        let content = json!([{ "type": "input_text", "text": "a", "more": part }]);
        let body = json!({ "input": [{ "role": "user", "content": content }] });
        prop_assert!(error(&RESPONSES, &body.to_string()).is_some());
    }
}
