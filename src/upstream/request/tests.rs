use super::*;
use crate::model::{Credits, Price};
use proptest::prelude::*;

fn sent(body: &str) -> Value {
    serde_json::from_str(
        &ApiRequest::parse(Api::ChatCompletions, body)
            .unwrap()
            .body("tiny", None, true, &[]),
    )
    .unwrap()
}

#[test]
fn members_are_passed_on_unchanged_and_what_is_set_here_is_written_anew() {
    let body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"temperature":1e-1,"logit_bias":{"7":1.0},"x":[ null ],"stream":true,"stream_options":{"z":1},"user":"u"}"#;
    let request = ApiRequest::parse(Api::ChatCompletions, body).unwrap();
    let text = request.body("tiny", None, true, &["user".to_owned()]);
    let end = r#""temperature":1e-1,"logit_bias":{"7":1.0},"x":[ null ],"user":"u"}"#;
    assert!(text.ends_with(end), "{text}");
    let body = sent(body);
    assert_eq!(body["model"], "tiny");
    assert_eq!(body["stream_options"], json!({ "include_usage": true }));
    assert_eq!(body["user"], Value::Null);
    let body = sent(r#"{"messages":[{"role":"user"}],"stream":null,"best_of":null}"#);
    assert_eq!(
        body,
        json!({ "model": "tiny", "stream": false, "messages": [{ "role": "user" }] })
    );
}

#[test]
fn a_member_beyond_the_lists_goes_to_servers_alone_that_pass_all_of_them() {
    let request = ApiRequest::parse(
        Api::ChatCompletions,
        r#"{"messages":[{"role":"user"}],"x":1,"y":1}"#,
    )
    .unwrap();
    let [none, x, y, both, all] = [&[][..], &["x"], &["y"], &["y", "x"], &["*"]]
        .map(|pass| pass.iter().map(ToString::to_string).collect::<Vec<_>>());
    let passed = |servers: &[&Vec<String>]| {
        let error = request
            .check_passed(servers.iter().map(|pass| &pass[..]))
            .err();
        error.map(|error| error.pointer)
    };
    assert_eq!(passed(&[]).unwrap(), "/x");
    assert_eq!(passed(&[&none, &y]).unwrap(), "/x");
    assert_eq!(passed(&[&x, &y]).unwrap(), "/y");
    assert_eq!(passed(&[&x, &both]), None);
    assert_eq!(passed(&[&none, &all]), None);
    assert!(request.may_go_to(&both) && request.may_go_to(&all));
    assert!(!request.may_go_to(&none) && !request.may_go_to(&x) && !request.may_go_to(&y));
}

#[test]
fn each_error_names_its_member() {
    for (body, pointer) in [
        (r#"{}"#, "/messages"),
        (r#"{"messages":[]}"#, "/messages"),
        (r#"{"messages":"hi"}"#, "/messages"),
        (r#"{"messages":["hi"]}"#, "/messages"),
        (r#"{"messages":null}"#, "/messages"),
        (
            r#"{"messages":[{"role":"user"}],"stream_options":{"include_usage":1}}"#,
            "/stream_options/include_usage",
        ),
        (
            r#"{"messages":[{"role":"user"}],"wallet_address":"x"}"#,
            "/wallet_address",
        ),
        (r#"{"messages":[{"role":"user"}],"model":7}"#, "/model"),
        (
            r#"{"messages":[{"role":"user"}],"stream":"yes"}"#,
            "/stream",
        ),
        (
            r#"{"messages":[{"role":"user"}],"stream_options":7}"#,
            "/stream_options",
        ),
        (r#"{"messages":[{"role":"user"}],"n":9}"#, "/n"),
        (r#"{"messages":[{"role":"user"}],"n":1.5}"#, "/n"),
        (
            r#"{"messages":[{"role":"user"}],"max_tokens":0}"#,
            "/max_tokens",
        ),
        (
            r#"{"messages":[{"role":"user"}],"max_tokens":-1}"#,
            "/max_tokens",
        ),
        (
            r#"{"messages":[{"role":"user"}],"max_completion_tokens":"7"}"#,
            "/max_completion_tokens",
        ),
        (
            r#"{"messages":[{"role":"user"}],"messages":[{"role":"user"}]}"#,
            "/messages",
        ),
    ] {
        assert_eq!(
            ApiRequest::parse(Api::ChatCompletions, body)
                .unwrap_err()
                .pointer,
            pointer,
            "{body}"
        );
    }
}

#[test]
fn a_whole_number_may_be_written_as_a_float() {
    let body = r#"{"messages":[{"role":"user"}],"n":2.0,"max_tokens":7e1,"max_completion_tokens":100,"top_logprobs":5.0,"seed":7.0,"thinking_budget_tokens":8.0,"stop_token_ids":[1.0]}"#;
    let read = ApiRequest::parse(Api::ChatCompletions, body).unwrap();
    assert_eq!((read.choices, read.max_tokens), (2, Some(70)));
    for wrong in ["0.5", "-1.0", "1e10", "8.5"] {
        let body = format!(r#"{{"messages":[{{"role":"user"}}],"max_tokens":{wrong}}}"#);
        let parsed = ApiRequest::parse(Api::ChatCompletions, &body);
        assert!(parsed.is_err(), "{wrong}");
    }
}

#[test]
fn json_that_a_template_writes_anew_is_counted_as_it_may_be_written() {
    let spaced = |messages: &str, members: &str| {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"a,b:[1e9]"}}{messages}]{members}}}"#
        );
        ApiRequest::parse(Api::ChatCompletions, &body)
            .unwrap()
            .spaced
    };
    let marks = |json: &str| json.bytes().filter(|byte| b",:[]{}".contains(byte)).count();
    assert_eq!(spaced("", ""), 0);
    // Written with a space after each mark, it has a byte more for each; on lines of their own each has two tokens more.
    let tool = |values: &str| {
        format!(
            r#"[{{"type":"function","function":{{"name":"f","parameters":{{"enum":{values}}}}}}}]"#
        )
    };
    let listed = tool("[1,1,1]");
    assert_eq!(
        spaced("", &format!(",\"tools\":{listed}")),
        2 * marks(&listed)
    );
    let large = tool("[1e14]");
    assert_eq!(
        spaced("", &format!(",\"tools\":{large}")),
        2 * marks(&large) + 16
    );
    let call = r#",{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"[1,1]"}}]}"#;
    let messages = format!(r#"[{{"role":"user","content":"a,b:[1e9]"}}{call}]"#);
    assert_eq!(spaced(call, ""), 2 * marks(&messages) + 16);
}

#[test]
fn a_conversation_becomes_one_text_or_is_refused_by_name() {
    let text = |body: &str| {
        ApiRequest::parse(Api::ChatCompletions, body)
            .unwrap()
            .as_text()
    };
    let one = r#"{"messages":[{"role":"user","content":"hi\n"}],"tools":null}"#;
    assert_eq!(text(one).unwrap(), "hi\n");
    let more = r#"{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
    assert_eq!(text(more).unwrap(), "system: be kind\n\nuser: ab");
    for (body, pointer) in [
        (
            r#"{"messages":[{"role":"user","content":"hi"}],"tools":[]}"#,
            "/tools",
        ),
        (
            r#"{"messages":[{"role":"user","content":"hi"},{"role":"user","content":null}]}"#,
            "/messages/1",
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
            "/messages/0",
        ),
    ] {
        assert_eq!(text(body).unwrap_err().pointer, pointer, "{body}");
    }
}

proptest! {
    #[test]
    fn a_server_without_pass_gets_listed_members_alone(names in prop::collection::vec("[a-z_]{1,6}|stop|seed|user|n_predict|Stop|n", 0..4), value in "null|7|\"x\"") {
        let members: String = names.iter().map(|name| format!(",\"{name}\":{value}")).collect();
        let body = format!("{{\"messages\":[{{\"role\":\"user\"}}]{members}}}");
        if let Ok(read) = ApiRequest::parse(Api::ChatCompletions, &body)
            && read.check_passed([&[][..]].into_iter()).is_ok()
        {
            let body: Value = serde_json::from_str(&read.body("m", None, true, &[])).unwrap();
            let is_listed = |name: &String| ["model", "stream", "messages", "n", "stop", "seed"].contains(&name.as_str());
            prop_assert!(body.as_object().unwrap().keys().all(is_listed), "{body}");
        }
    }

    #[test]
    fn no_body_makes_the_parser_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
        let _ = ApiRequest::parse(Api::ChatCompletions, &body).map(|read| (read.body("m", None, true, &[]), read.as_text()));
    }

    #[test]
    fn a_changed_request_is_refused_or_sent_as_json(at in any::<prop::sample::Index>(), with in "[ -~]{0,2}") {
        let mut body = r#"{"model":"general","messages":[{"role":"user","content":"hi"}],"stream":true,"seed":7}"#.to_owned();
        let at = at.index(body.len());
        body.replace_range(at..=at, &with);
        if let Ok(read) = ApiRequest::parse(Api::ChatCompletions, &body) {
            prop_assert!(serde_json::from_str::<Value>(&read.body("m", None, true, &[])).is_ok(), "{}", read.body("m", None, true, &[]));
        }
    }
}

/// Those of a model with a context of 1000 tokens, a picture of which has 100 of them.
fn terms(context_length: Option<u32>) -> Terms {
    Terms {
        price: Price::per_request(Credits::ZERO),
        max_output_tokens: None,
        context_length,
        media_tokens: 100,
        prompt_overhead: 512,
    }
}

#[test]
fn a_request_asks_for_8_answers_at_most_to_all_of_its_prompts() {
    let asked = |members: &str| {
        let body = format!("{{{members}}}");
        let parsed = ApiRequest::parse(Api::Completions, &body);
        parsed
            .map(|request| request.choices)
            .map_err(|error| error.pointer)
    };
    for (members, choices) in [
        (r#""prompt":"a""#, 1),
        (r#""prompt":"a","n":8"#, 8),
        (r#""prompt":[1,2,3],"n":8"#, 8),
        (r#""prompt":["a","b"],"n":4"#, 8),
        (r#""prompt":[[1],[2],[3]],"n":null"#, 3),
        (r#""prompt":["a","b","c","d","e","f","g","h"]"#, 8),
    ] {
        assert_eq!(asked(members), Ok(choices), "{members}");
    }
    for (members, pointer) in [
        (r#""prompt":"a","n":9"#, "/n"),
        (r#""prompt":["a","b"],"n":5"#, "/n"),
        (r#""prompt":[[1],[2],[3]],"n":3"#, "/n"),
        (
            r#""prompt":["a","b","c","d","e","f","g","h","i"]"#,
            "/prompt",
        ),
    ] {
        assert_eq!(asked(members), Err(pointer.to_owned()), "{members}");
    }
}

#[test]
fn each_sequence_has_at_most_the_context_and_each_document_its_query() {
    let bound = |api, body: &str, context| {
        ApiRequest::parse(api, body)
            .unwrap()
            .prompt_bound(&terms(context))
    };
    let long = "x".repeat(5000);
    for (api, body, sequences) in [
        (Api::Completions, format!(r#"{{"prompt":"{long}"}}"#), 1),
        (
            Api::Completions,
            format!(r#"{{"prompt":["{long}","a"]}}"#),
            2,
        ),
        (
            Api::Completions,
            format!(r#"{{"prompt":[[1{}],[2]]}}"#, ",7".repeat(5000)),
            2,
        ),
        (
            Api::Completions,
            format!(r#"{{"prompt":[1{}]}}"#, ",7".repeat(5000)),
            1,
        ),
        (
            Api::Embeddings,
            format!(r#"{{"input":["{long}","a","b"]}}"#),
            3,
        ),
        (
            Api::Messages,
            format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}]}}"#),
            1,
        ),
        (Api::Responses, format!(r#"{{"input":"{long}"}}"#), 1),
        (
            Api::Rerank,
            format!(r#"{{"query":"a","documents":["{long}","{long}"]}}"#),
            2,
        ),
        (
            Api::Rerank,
            format!(r#"{{"query":"{long}","documents":["a","b","c"]}}"#),
            3,
        ),
        (
            Api::Rerank,
            format!(r#"{{"query":"a","instruct":"{long}","documents":["a","b"]}}"#),
            2,
        ),
        (
            Api::Rerank,
            format!(r#"{{"query":"a","grammar":"{long}","documents":["a","b"]}}"#),
            2,
        ),
    ] {
        assert_eq!(
            bound(api, &body, Some(1000)),
            1000 * sequences,
            "{api:?} {body:.60}"
        );
        assert!(bound(api, &body, None) > 5000, "{api:?} {body:.60}");
    }
    // Each pair by itself: bytes of the query and of the document, as they are written.
    let body = r#"{"query":"ab","documents":["c",{"text":"d"}],"top_n":1}"#;
    assert_eq!(
        bound(Api::Rerank, body, None),
        (4 + 3 + 512) + (4 + 12 + 512)
    );
    // Each input has tokens of its own besides its text: they are fewer than the bytes between them.
    let body = format!(r#"{{"input":[{}]}}"#, vec![r#""a""#; 256].join(","));
    assert!(bound(Api::Embeddings, &body, None) >= 256 * 3);
    let body = format!(r#"{{"input":[{}]}}"#, vec!["[7]"; 256].join(","));
    assert!(bound(Api::Embeddings, &body, None) >= 256 * 3);
    // Pictures.
    let url = r#"{"type":"input_image","image_url":"data:image/png;base64,AAAA"}"#;
    let body = format!(r#"{{"input":[{{"role":"user","content":[{url},{url}]}}]}}"#);
    assert!(bound(Api::Responses, &body, None) >= 2 * (100 + 4) + 512);
}

#[test]
fn calls_whose_names_are_written_with_escapes_are_counted_too() {
    let spaced = |api, body: &str| ApiRequest::parse(api, body).unwrap().spaced;
    let call = |kind: &str| {
        format!(r#"{{"input":[{{"type":"{kind}","call_id":"c","name":"f","arguments":"[1,1]"}}]}}"#)
    };
    let plain = spaced(Api::Responses, &call("function_call"));
    assert!(plain > 0);
    assert_eq!(spaced(Api::Responses, &call("function_c\\u0061ll")), plain);
    let call = |kind: &str| {
        let block = format!(r#"{{"type":"{kind}","id":"t","name":"f","input":{{"a":[1,1]}}}}"#);
        format!(r#"{{"messages":[{{"role":"assistant","content":[{block}]}}]}}"#)
    };
    let plain = spaced(Api::Messages, &call("tool_use"));
    assert!(plain > 0);
    assert_eq!(spaced(Api::Messages, &call("tool_us\\u0065")), plain);
    assert_eq!(
        spaced(Api::Embeddings, r#"{"input":["function_call\"",":"]}"#),
        0
    );
}

/// A tool as servers give it to the template of a model, with a space after each mark.
fn as_chat_tool(tool: &Value, namespace: &str) -> String {
    let name = format!("{namespace}{}", tool["name"].as_str().unwrap());
    let schema = tool.get("input_schema").or(tool.get("parameters"));
    let function = json!({ "name": name, "description": tool["description"].as_str().unwrap_or(""), "parameters": schema });
    let tool = json!({ "type": "function", "function": function });
    tool.to_string().replace(',', ", ").replace(':', ": ")
}

#[test]
fn tools_that_get_the_shape_of_a_chat_are_within_the_bound_of_the_prompt() {
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [1, 1, 1] } } });
    let function = json!({ "type": "function", "name": "f", "parameters": schema });
    let named = |name: &str| json!({ "type": "namespace", "name": name, "tools": vec![function.clone(); 60] });
    let long = "n".repeat(128);
    for (api, more, tools) in [
        (
            Api::Messages,
            r#""messages":[{"role":"user","content":"a"}]"#,
            vec![json!({ "name": "f", "input_schema": schema }); 128],
        ),
        (
            Api::Messages,
            r#""messages":[{"role":"user","content":"a"}]"#,
            vec![json!({ "name": "f" }); 128],
        ),
        (
            Api::Responses,
            r#""input":"a""#,
            vec![function.clone(); 128],
        ),
        (
            Api::Responses,
            r#""input":"a""#,
            vec![json!({ "type": "function", "name": "f" }); 128],
        ),
        (
            Api::Responses,
            r#""input":"a""#,
            vec![json!({ "type": "custom", "name": "f" }); 128],
        ),
        (
            Api::Responses,
            r#""input":"a""#,
            vec![named(&long), named("a"), function.clone()],
        ),
    ] {
        let body = format!("{{{more},\"tools\":{}}}", Value::from(tools.clone()));
        let written = tools
            .iter()
            .flat_map(|tool| match tool["tools"].as_array() {
                Some(inner) => inner
                    .iter()
                    .map(|inner| as_chat_tool(inner, tool["name"].as_str().unwrap()))
                    .collect(),
                None => vec![as_chat_tool(tool, "")],
            });
        let written: usize = written.map(|tool| tool.len() + 1).sum();
        let bound = ApiRequest::parse(api, &body)
            .unwrap()
            .prompt_bound(&terms(None));
        assert!(
            usize::try_from(bound).unwrap() >= written,
            "{api:?} {bound} {written} {body:.99}"
        );
    }
}

#[test]
fn what_is_sent_is_what_was_asked_without_the_search_of_codex() {
    let body = include_str!("../../../tests/it/fixtures/requests/codex.json");
    let request = ApiRequest::parse(Api::Responses, body).unwrap();
    let asked: Value = serde_json::from_str(body).unwrap();
    let sent: Value = serde_json::from_str(&request.body("m", Some(7), true, &[])).unwrap();
    let tools = asked["tools"].as_array().unwrap();
    assert_eq!(
        sent["tools"].as_array().unwrap()[..],
        tools[..tools.len() - 1]
    );
    assert_eq!(
        (&sent["max_output_tokens"], &sent["store"]),
        (&json!(7), &json!(false))
    );
    assert_eq!(sent.get("stream_options"), None);
    assert!(request.wants_usage && request.stream);
}

proptest! {
    /// Of each endpoint.
    #[test]
    fn a_changed_request_of_any_endpoint_is_refused_or_sent_as_json(which in 0usize..5, at in any::<prop::sample::Index>(), with in "[ -~]{0,2}") {
        let (api, body) = [
            (Api::Completions, r#"{"prompt":["a","b"],"n":2,"max_tokens":9,"suffix":"s"}"#),
            (Api::Embeddings, r#"{"input":[[1,2],[3]],"encoding_format":"float"}"#),
            (Api::Messages, r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"tools":[{"name":"f"}],"max_tokens":9}"#),
            (Api::Rerank, r#"{"query":"a","documents":["b",{"text":"c"}],"top_n":1}"#),
            (Api::Responses, r#"{"input":[{"role":"user","content":"a"}],"tools":[{"type":"function","name":"f"}],"store":false}"#),
        ][which];
        let mut body = body.to_owned();
        let at = at.index(body.len());
        body.replace_range(at..=at, &with);
        if let Ok(read) = ApiRequest::parse(api, &body) {
            let sent = read.body("m", Some(7), true, &[]);
            let sent: Value = serde_json::from_str(&sent).unwrap();
            for limit in api.limits() {
                prop_assert_eq!(&sent[*limit], &json!(7));
            }
            prop_assert!(read.choices <= MOST_ANSWERS);
            prop_assert!(read.prompt_bound(&terms(None)) > 512 && read.as_text().is_err());
        }
    }
}

#[test]
fn the_budget_of_thinking_is_below_a_limit_that_is_lower_than_the_client_asked() {
    let sent = |asked: &str, budget: u32, limit| {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"a"}}],{asked}"thinking":{{"type":"enabled","budget_tokens":{budget}}}}}"#
        );
        let request = ApiRequest::parse(Api::Messages, &body).unwrap();
        let sent = request.body("tiny", Some(limit), true, &[]);
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent["thinking"]["type"], "enabled");
        sent["thinking"]["budget_tokens"].as_u64().unwrap()
    };
    // As Claude Code asks, of a server whose operator allows 4,096.
    assert_eq!(sent("\"max_tokens\":32000,", 31_999, 4_096), 4_095);
    assert_eq!(sent("", 31_999, 4_096), 4_095);
    assert_eq!(sent("\"max_tokens\":32000,", 4_096, 4_096), 4_095);
    assert_eq!(sent("\"max_tokens\":32000,", 2_000, 4_096), 2_000);
    // The client's own.
    assert_eq!(sent("\"max_tokens\":4096,", 5_000, 4_096), 5_000);
    // No budget is that low.
    assert_eq!(sent("\"max_tokens\":32000,", 2_000, 1_024), 2_000);
}
