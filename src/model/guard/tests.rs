use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::members;

mod endpoints;

const GUARD: &Guard = &CHAT_COMPLETIONS;

fn checked(body: &str) -> Result<Checked<'_>, InputError> {
    GUARD.check(members(body, "").unwrap())
}

fn refusal(body: &str) -> Option<InputError> {
    checked(body).err()
}

fn parts(parts: &str) -> String {
    format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"http://x"}},{parts}]}}]}}"#
    )
}

/// The names of a list.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split_whitespace()
}

#[test]
fn what_no_setting_passes_on_is_named_whatever_its_value_and_spelling() {
    let never = lists::NEVER.iter().flat_map(|(_, list)| names(list));
    for name in never.filter(|name| !GUARD.is_listed(name) || *name == "store") {
        for value in ["1", "true", "\"x\"", "{}", "[]"] {
            let error = refusal(&format!("{{\"{name}\":{value}}}")).unwrap();
            assert_eq!(error.kind, InputKind::Parameter);
            assert_eq!(error.pointer, format!("/{name}"));
            assert!(error.detail.starts_with(name), "{}", error.detail);
        }
        assert_eq!(refusal(&format!("{{\"{name}\":null}}")), None);
        let camel = name.replace('_', "");
        for spelt in [name.to_uppercase(), camel] {
            assert!(refusal(&format!("{{\"{spelt}\":1}}")).is_some(), "{spelt}");
            assert!(
                wrong_pass(std::slice::from_ref(&spelt)).is_some(),
                "{spelt}"
            );
        }
    }
    for (body, pointer) in [
        (r#"{"n_cmp\u006c":4}"#, "/n_cmpl"),
        (r#"{"N_Predict":true}"#, "/N_Predict"),
        ("{\"be\u{17f}t_of\":4}", "/be\u{17f}t_of"),
        ("{\"\u{212a}eep_alive\":4}", "/\u{212a}eep_alive"),
        (r#"{"N":4}"#, "/N"),
        (r#"{"Model":null}"#, "/Model"),
        (r#"{"Messages":[]}"#, "/Messages"),
        (r#"{"STREAM_options":{}}"#, "/STREAM_options"),
        (r#"{"MAX_tokens":7}"#, "/MAX_tokens"),
        (r#"{"Stop":7}"#, "/Stop"),
        (r#"{"maxOutputTokens":7}"#, "/maxOutputTokens"),
        (r#"{"max_new_tokens":7}"#, "/max_new_tokens"),
        (r#"{"max_length":7}"#, "/max_length"),
        (r#"{"max_output":7}"#, "/max_output"),
        (r#"{"store":true}"#, "/store"),
        (r#"{"image_urls":["http://x"]}"#, "/image_urls"),
        (
            r#"{"chat_template_kwargs":{"thinking":1,"chat_template":"{{x}}"}}"#,
            "/chat_template_kwargs/chat_template",
        ),
    ] {
        let error = refusal(body).expect(body);
        assert_eq!(
            (error.kind, error.pointer.as_str()),
            (InputKind::Parameter, pointer)
        );
    }
}

#[test]
fn members_are_forwarded_dropped_or_need_a_server_that_passes_them() {
    let body = r#"{"model":"m","user":"u","stop":["a"],"service_tier":"auto","grammar":"x","store":false,"seed":7,"metadata":null,"ignore_eos":false}"#;
    let checked = checked(body).unwrap();
    let names = |members: &[Member<'_>]| -> Vec<String> {
        members.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(
        names(&checked.forwarded),
        ["stop", "grammar", "seed", "ignore_eos"]
    );
    assert_eq!(names(&checked.dropped), ["user", "service_tier", "store"]);
    assert_eq!(checked.extra, ["grammar", "ignore_eos"]);
    let error = not_passed("gra\"mmar");
    assert_eq!(
        (error.kind, &*error.pointer),
        (InputKind::Parameter, "/gra\"mmar")
    );
    assert!(
        error
            .detail
            .ends_with("[[inference]] pass = [\"gra\\\"mmar\"]"),
        "{}",
        error.detail
    );
}

#[test]
fn pass_takes_the_name_of_a_member_that_may_be_passed_on() {
    let wrong = |name: &str| wrong_pass(&["seed".to_owned(), name.to_owned()]);
    for name in [
        "*",
        "grammar",
        "ignore_eos",
        "user",
        "prompt_cache_key",
        "web_search_options",
        "prediction",
    ] {
        assert_eq!(wrong(name), None);
    }
    for (name, part) in [
        ("max_tokens", "this server reads and sets it"),
        ("Max_Completion_Tokens", "this server reads and sets it"),
        ("n", "this server reads and sets it"),
        ("stream_options", "this server reads and sets it"),
        ("max_new_tokens", "it limits the answer"),
        ("maxOutputTokens", "it limits the answer"),
        ("n_predict", "it limits the answer"),
        ("n_cmpl", "it can multiply"),
        ("image_url", "would fetch"),
        ("images", "would fetch"),
        ("store", "nothing is stored"),
        ("messages", "a server would read it as a prompt"),
        ("max_output_tokens", "this server reads and sets it"),
        ("background", "the answer would be made later"),
        ("mcp_servers", "the inference server would run tools"),
        ("id_slot", "other people's requests"),
        ("Lora", "other people's requests"),
        ("Stop", "write it stop"),
        ("", "must be the name"),
        (" a", "must be the name"),
        ("a\nb", "must be the name"),
    ] {
        let message = wrong(name).expect(name);
        assert!(message.contains(part), "{name}: {message}");
    }
}

/// Each with a value that passes, one that does not, and the pointer of what is wrong.
#[test]
fn values_have_bounds_and_errors_their_pointers() {
    let list = |item: &str, times| format!("[{}]", vec![item; times].join(","));
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let biases = |count: usize| {
        let pairs: Vec<_> = (0..count).map(|id| format!("\"{id}\":-1.5")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let schema = |schema: &str| {
        format!(
            r#"{{"type":"json_schema","json_schema":{{"name":"x","strict":true,"schema":{schema}}}}}"#
        )
    };
    let long = |bytes: usize| format!("{{\"title\":\"{}\"}}", "x".repeat(bytes - 12));
    let tool = |parameters: &str| {
        format!(r#"{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}"#)
    };
    let tools = |bytes: usize| {
        let rest = tool("{\"title\":\"\"}").len() + 2 - 12;
        list(&tool(&long(bytes - rest)), 1)
    };
    let text = |text: &str| text.to_owned();
    for (name, good, bad, pointer) in [
        ("temperature", text("1e-1"), text("\"hot\""), ""),
        ("top_k", text("40.0"), text("1e999"), ""),
        ("min_p", text("0"), text("[1]"), ""),
        ("seed", text("-1"), text("7.5"), ""),
        (
            "seed",
            text("18446744073709551615"),
            text("18446744073709551616"),
            "",
        ),
        ("repeat_last_n", text("1048576"), text("1048577"), ""),
        ("dry_penalty_last_n", text("-1"), text("-2"), ""),
        ("stop", text("\"a\""), text("{}"), ""),
        ("stop", list("\"a\"", 4), list("\"a\"", 5), ""),
        ("stop", text("[]"), text("[1]"), ""),
        (
            "dry_sequence_breakers",
            list("\"a\"", 64),
            list("\"a\"", 65),
            "",
        ),
        ("stop_token_ids", list("7", 128), list("7", 129), ""),
        ("stop_token_ids", text("[-1]"), text("7"), ""),
        ("logit_bias", biases(300), biases(301), ""),
        ("logit_bias", text("{}"), text("[[7,1]]"), ""),
        ("logit_bias", text("{\"7\":200}"), text("{\"7\":\"x\"}"), ""),
        ("logprobs", text("true"), text("5"), ""),
        ("tool_choice", text("\"required\""), text("\"any\""), ""),
        ("repeat_penalty", text("1.1"), text("0"), ""),
        (
            "tools",
            text("[]"),
            list(&tool("7"), 1),
            "/0/function/parameters",
        ),
        ("functions", text("[]"), text("[{}]"), "/0/name"),
        ("top_logprobs", text("20"), text("21"), ""),
        ("top_logprobs", text("0"), text("-1"), ""),
        (
            "tool_choice",
            text("{\"type\":\"function\"}"),
            text("[]"),
            "",
        ),
        ("parallel_tool_calls", text("false"), text("\"x\""), ""),
        ("reasoning_effort", text("\"low\""), text("{}"), ""),
        ("thinking_budget_tokens", text("0"), text("-1"), ""),
        (
            "chat_template_kwargs",
            text("{\"enable_thinking\":false}"),
            text("7"),
            "",
        ),
        (
            "chat_template_kwargs",
            text("{\"reasoning_effort\":\"low\"}"),
            text("{\"thinking\":{}}"),
            "/thinking",
        ),
        ("guided_choice", text("[\"a\"]"), text("\"a\""), ""),
        (
            "guided_choice",
            list("\"aaaaaaa\"", 1638),
            list("\"aaaaaaa\"", 1639),
            "",
        ),
        (
            "structured_outputs",
            text("{\"choice\":[\"a\"]}"),
            text("{\"regex\":\"a\"}"),
            "/regex",
        ),
        (
            "structured_outputs",
            text("{}"),
            text("{\"choice\":\"a\"}"),
            "/choice",
        ),
        (
            "response_format",
            text("{\"type\":\"json_object\"}"),
            text("{\"type\":\"grammar\"}"),
            "/type",
        ),
        (
            "response_format",
            text("{\"type\":\"text\",\"schema\":null}"),
            text("{\"type\":\"text\",\"grammar\":\"x\"}"),
            "/grammar",
        ),
        (
            "response_format",
            schema(&long(16384)),
            schema(&long(16385)),
            "/json_schema/schema",
        ),
        (
            "response_format",
            schema(&deep(16)),
            schema(&deep(17)),
            "/json_schema/schema",
        ),
        (
            "response_format",
            schema(
                r##"{"properties":{"pattern":{"type":"string"},"n_predict":{},"image_url":{}},"x":{"$ref":"#/y"}}"##,
            ),
            schema(r#"{"properties":{"a":{"pattern":"(a{999}){999}"}}}"#),
            "/json_schema/schema/properties/a/pattern",
        ),
        (
            "response_format",
            schema("{}"),
            schema(r#"{"anyOf":[{"patternProperties":{"a*":{}}}]}"#),
            "/json_schema/schema/anyOf/0/patternProperties",
        ),
        (
            "response_format",
            schema("{}"),
            schema(r#"{"a":{"$ref":"https://a.example"}}"#),
            "/json_schema/schema/a/$ref",
        ),
        (
            "response_format",
            text(r#"{"type":"json_object","schema":{}}"#),
            text(r#"{"type":"json_object","schema":{"pattern":"a"}}"#),
            "/schema/pattern",
        ),
        ("tools", list(&tool("{}"), 128), list(&tool("{}"), 129), ""),
        ("tools", tools(65536), tools(65537), ""),
        (
            "tools",
            list(&tool(&deep(16)), 1),
            list(&tool(&deep(17)), 1),
            "/0/function/parameters",
        ),
        (
            "tools",
            list(
                &tool(r#"{"properties":{"url":{"default":"http://x","pattern":"^http"}}}"#),
                1,
            ),
            list(r#"{"type":"web_search"}"#, 1),
            "/0/type",
        ),
        ("tools", text("[]"), text("[{}]"), "/0/type"),
        (
            "tools",
            text("[]"),
            text(r#"[{"type":"function"}]"#),
            "/0/function",
        ),
        ("tools", text("[]"), text("{}"), ""),
        ("functions", text("[{\"name\":\"f\"}]"), text("[7]"), ""),
    ] {
        let wrong = |value: &str| refusal(&format!("{{\"{name}\":{value}}}"));
        assert_eq!(wrong(&good), None, "{name} {good:.200}");
        assert_eq!(wrong("null"), None);
        let error = wrong(&bad).unwrap_or_else(|| panic!("{name} {bad:.200}"));
        assert_eq!(error.pointer, format!("/{name}{pointer}"), "{error:?}");
    }
}

#[test]
fn requests_of_the_usual_clients_pass() {
    for body in [
        r#"{"temperature":1,"cache_prompt":true,"chat_template_kwargs":{"enable_thinking":false},"documents":[{"url":"https://a.example"}]}"#,
        r#"{"metadata":{"image_url":"http://x","lora":"x"},"user":"file:///x"}"#,
        r#"{"messages":[{"role":"user","content":"http://169.254.169.254/"}]}"#,
        r#"{"messages":[{"role":"assistant","content":null,"refusal":null,"audio":{"id":"audio_1"},"annotations":[{"type":"url_citation","url_citation":{"url":"https://a.example"}}],"tool_calls":[{"function":{"name":"f","arguments":{"url":"https://a.example"}}}]}]}"#,
    ] {
        assert_eq!(refusal(body), None, "{body}");
    }
    for (part, media) in [
        (r#"{"type":"refusal","refusal":"no"}"#, 0),
        (
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}}"#,
            1,
        ),
        (
            r#"{"type":"image_url","image_url":"DATA:image/JPEG;base64,AAAA"}"#,
            1,
        ),
        (
            r#"{"type":"input_audio","input_audio":{"data":"//vQ+A==","format":"mp3"}}"#,
            1,
        ),
    ] {
        let body = parts(part);
        assert_eq!(checked(&body).unwrap().media, media, "{part}");
    }
}

#[test]
fn media_that_is_not_an_inline_picture_or_sound_is_refused_with_its_pointer() {
    for (part, expected) in [
        (
            r#"{"image_url":{"url":"http://169.254.169.254/"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"HtTpS://a.example/"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":" \n\thttp://a.example/"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"\u0068ttp://a.example/"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_\u0075rl":{"\u0075rl":"http://a"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"file:///etc/passwd"}}"#,
            "image_url/url",
        ),
        (r#"{"image_url":{"url":"/etc/passwd"}}"#, "image_url/url"),
        (r#"{"image_url":{"url":"etc/passwd"}}"#, "image_url/url"),
        (r#"{"image_url":{"url":"//a.example/x"}}"#, "image_url/url"),
        (r#"{"image_url":{"url":"data\u200b:x"}}"#, "image_url/url"),
        (
            r#"{"image_url":{"url":"data:image/svg+xml;base64,AAAA"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"data:text/html;base64,AAAA"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"data:image/png,http://a"}}"#,
            "image_url/url",
        ),
        (
            r#"{"image_url":{"url":"data:image/png;base64,http://a"}}"#,
            "image_url/url",
        ),
        (
            r#"{"video_url":{"url":"data:video/mp4;base64,AAAA"}}"#,
            "video_url/url",
        ),
        (
            r#"{"file":{"file_data":"data:application/pdf;base64,AAAA"}}"#,
            "file/file_data",
        ),
        (r#"{"image_url":{"url":""}}"#, "image_url/url"),
        (r#"{"image_url":{"url":["http://a"]}}"#, "image_url/url/0"),
        (r#"{"image_url":"http://a.example/"}"#, "image_url"),
        (
            r#"{"Image_URL":{"URL":"http://a.example/"}}"#,
            "Image_URL/URL",
        ),
        (
            r#"{"type":"input_image","image_url":"http://a"}"#,
            "image_url",
        ),
        (r#"{"video_url":{"url":"http://a"}}"#, "video_url/url"),
        (r#"{"audio_url":{"url":"ftp://a"}}"#, "audio_url/url"),
        (r#"{"file_url":"http://a"}"#, "file_url"),
        (
            r#"{"input_audio":{"data":"http://a.example/a.wav","format":"wav"}}"#,
            "input_audio/data",
        ),
        (r#"{"input_audio":"http://a"}"#, "input_audio"),
        (r#"{"file":{"file_data":"file:///a"}}"#, "file/file_data"),
        (r#"{"file":{"file_id":"file-1"}}"#, "file/file_id"),
        (r#"{"type":"image","image":"http://a"}"#, "image"),
        (r#"{"type":"image","url":"http://a"}"#, "url"),
        (
            r#"{"type":"image","source":{"type":"url","url":"http://a"}}"#,
            "source/url",
        ),
        (
            r#"{"type":"video","video":["data:image/png;base64,a","http://a"]}"#,
            "video/1",
        ),
        (
            r#"{"type":"tool_result","content":[{"image_url":{"url":"http://a"}}]}"#,
            "content/0/image_url/url",
        ),
    ] {
        let error = refusal(&parts(part)).expect(part);
        assert_eq!(error.kind, InputKind::Media, "{part}");
        assert_eq!(
            error.pointer,
            format!("/messages/0/content/1/{expected}"),
            "{part}"
        );
    }
    let picture = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#;
    assert_eq!(
        checked(&parts(&vec![picture; 32].join(","))).unwrap().media,
        32
    );
    let many = refusal(&parts(&vec![picture; 33].join(","))).unwrap();
    assert_eq!(
        (many.kind, &*many.pointer),
        (InputKind::Media, "/messages"),
        "{many:?}"
    );
    for (message, pointer) in [
        (
            r#"{"role":"user","content":"x","images":["http://a"]}"#,
            "images/0",
        ),
        (
            r#"{"role":"user","content":{"image_url":{"url":"http://a"}}}"#,
            "content/image_url/url",
        ),
    ] {
        let error = refusal(&format!("{{\"messages\":[{message}]}}")).expect(message);
        let expected = (InputKind::Media, format!("/messages/0/{pointer}"));
        assert_eq!((error.kind, error.pointer), expected, "{message}");
    }
}

#[test]
fn a_message_has_a_role_and_a_content_of_texts_and_parts() {
    for (message, pointer) in [
        (r#""content":"x""#, "role"),
        (r#""role":"owner""#, "role"),
        (r#""role":7"#, "role"),
        (r#""role":"user","content":{"a":1}"#, "content"),
        (r#""role":"user","content":7"#, "content"),
        (r#""role":"user","content":["x"]"#, "content"),
        (
            r#""role":"user","Content":[{"type":"nope"}]"#,
            "Content/0/type",
        ),
        (
            r#""role":"user","content":[{"text":"a"}]"#,
            "content/0/type",
        ),
        (
            r#""role":"user","content":[{"type":"text"}]"#,
            "content/0/text",
        ),
        (
            r#""role":"user","content":[{"type":"text","text":7}]"#,
            "content/0/text",
        ),
        (
            r#""role":"user","content":[{"type":"image_url","text":"x"}]"#,
            "content/0/image_url",
        ),
        (
            r#""role":"user","content":[{"type":"input_audio","input_audio":7}]"#,
            "content/0/input_audio",
        ),
        (
            r#""role":"user","content":[{"type":"image_url","image_url":{"url":"data:,a","url":"http://a"}}]"#,
            "content/0/image_url/url",
        ),
        (r#""role":"user","content":"x","name":7"#, "name"),
        (
            r#""role":"assistant","reasoning_content":{}"#,
            "reasoning_content",
        ),
        (r#""role":"assistant","tool_calls":{}"#, "tool_calls"),
        (
            r#""role":"assistant","tool_calls":[{"id":"a"}]"#,
            "tool_calls/0/function",
        ),
        (
            r#""role":"assistant","tool_calls":[{"id":7,"function":{}}]"#,
            "tool_calls/0/id",
        ),
        (
            r#""role":"assistant","tool_calls":[{"function":{"name":7}}]"#,
            "tool_calls/0/function/name",
        ),
        (
            r#""role":"assistant","function_call":{}"#,
            "function_call/name",
        ),
    ] {
        let body = format!("{{\"messages\":[{{\"role\":\"user\"}},{{{message}}}]}}");
        let error = refusal(&body).expect(message);
        let expected = (InputKind::Field, format!("/messages/1/{pointer}"));
        assert_eq!((error.kind, error.pointer), expected, "{message}");
    }
    let deep = r#"{"messages":[{"role":"user","a":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}]}"#;
    assert_eq!(refusal(deep).unwrap().pointer, "/messages");
}

#[test]
fn a_member_that_is_passed_on_unchecked_names_no_media_to_fetch() {
    for (body, pointer) in [
        (r#"{"x":{"image_url":"http://a"}}"#, "/x/image_url"),
        (
            r#"{"x":[{"input_audio":{"data":"/etc/passwd."}}]}"#,
            "/x/0/input_audio/data",
        ),
    ] {
        let error = refusal(body).unwrap();
        assert_eq!((error.kind, &*error.pointer), (InputKind::Media, pointer));
    }
}

#[test]
fn the_document_lists_the_members_of_a_request() {
    let document: Value = serde_json::from_slice(crate::openapi::DOCUMENT).unwrap();
    for (name, guard) in [
        ("ChatCompletionRequest", &CHAT_COMPLETIONS),
        ("CompletionRequest", &COMPLETIONS),
        ("EmbeddingsRequest", &EMBEDDINGS),
        ("MessagesRequest", &MESSAGES),
        ("RerankRequest", &RERANK),
        ("ResponsesRequest", &RESPONSES),
    ] {
        let schema = &document["components"]["schemas"][name];
        let documented = schema["properties"].as_object().unwrap().keys();
        let mut documented: Vec<_> = documented.map(String::as_str).collect();
        let forwarded = guard.forwarded.iter().map(|(list, _)| *list);
        let dropped = guard.dropped.iter().map(|(list, _)| *list);
        let lists = forwarded.chain(dropped).chain([guard.own]);
        let mut listed: Vec<_> = lists.flat_map(names).collect();
        documented.sort_unstable();
        listed.sort_unstable();
        assert_eq!(documented, listed, "{name}");
    }
}

/// A name: any, or one of the lists in some spelling.
fn name() -> impl Strategy<Value = String> {
    let all = GUARD.forwarded.iter().map(|(list, _)| *list);
    let all = all.chain(lists::NEVER.iter().map(|(_, list)| *list));
    let all: Vec<_> = all.chain([GUARD.own]).flat_map(names).collect();
    let listed = prop::sample::select(all);
    prop_oneof![
        listed.clone().prop_map(str::to_owned),
        listed.clone().prop_map(str::to_uppercase),
        listed.prop_map(|name| name.replace('_', "")),
        "[a-z_]{0,12}",
        any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn only_the_data_url_of_a_picture_passes_as_an_address(scheme in "[ \\t]{0,2}[a-zA-Z+.-]{0,6}", kind in "(image/png|image/gif|text/html|[a-z/]{0,9})", rest in "[ -~]{0,20}", media in "(image_url|video_url|file)") {
        let address = format!("{scheme}:{kind};base64,{rest}");
        let part = json!({ "type": "image_url", &media: { "url": address } });
        let passes = refusal(&parts(&part.to_string())).is_none();
        let is_picture = ["image/png", "image/gif"].contains(&&*kind);
        let is_base64 = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte));
        prop_assert_eq!(passes, scheme.eq_ignore_ascii_case("data") && is_picture && is_base64);
    }

    #[test]
    fn nothing_outside_the_lists_is_forwarded_without_a_server_that_passes_it(request in prop::collection::btree_map(name(), value(), 0..6)) {
        let body = serde_json::to_string(&request).unwrap();
        if let Ok(checked) = checked(&body) {
            for (name, value) in &checked.forwarded {
                let is_listed = GUARD.check_of(name).is_some();
                prop_assert!(is_listed != checked.extra.contains(name), "{name}");
                let same = serde_json::from_str::<Value>(value.get()).unwrap();
                prop_assert_eq!(&same, &request[name]);
            }
            for name in &checked.extra {
                prop_assert!(never_passed(name).is_none() && wrong_pass(std::slice::from_ref(name)).is_none_or(|wrong| wrong.contains("must be the name")), "{name}");
            }
        }
    }

    #[test]
    fn no_value_of_a_listed_member_makes_a_check_panic(name in name(), value in value()) {
        let _ = refusal(&json!({ name: value }).to_string());
    }
}
