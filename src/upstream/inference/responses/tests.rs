//! What is read of the answers of real servers.

use super::*;
use crate::upstream::inference::wire::Meter;
use crate::upstream::inference::wire::tests::{Fixture, check_fixtures, fixtures};

pub(in crate::upstream) const FIXTURES: &[Fixture] = fixtures! {
    "responses/answer.openai.json", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/answer-tool.openai.json", (true, true, [Some(80), Some(0), Some(18)]);
    "responses/answer-incomplete.openai.json", (true, true, [Some(12), Some(0), Some(64)]);
    "responses/answer-failed.openai.json", (false, false, [None, None, None]);
    "responses/answer-refusal.openai.json", (true, true, [Some(12), Some(0), Some(9)]);
    "responses/answer.llamacpp.json", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/answer.vllm.json", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/answer-turns.vllm.json", (true, true, [Some(1300), Some(500), Some(90)]);
    "responses/answer-queued.vllm.json", (false, false, [None, None, None]);
    "responses/answer-incomplete.sglang.json", (true, true, [Some(12), Some(0), Some(64)]);
    "responses/answer.ollama.json", (true, true, [Some(36), Some(0), Some(20)]);
    "responses/answer.localai.json", (true, true, [Some(36), Some(0), Some(20)]);
    "responses/answer-repeat.lmstudio.json", (true, true, [None, None, Some(20)]);
    "responses/stream.openai.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/stream-tool.openai.sse", (true, true, [Some(80), Some(0), Some(18)]);
    "responses/stream-incomplete.openai.sse", (true, true, [Some(36), Some(0), Some(64)]);
    "responses/stream.vllm.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/stream.sglang.sse", (true, true, [Some(36), Some(0), Some(20)]);
    "responses/stream.ollama.sse", (true, true, [Some(36), Some(0), Some(20)]);
    "responses/stream.llamacpp.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "responses/stream-tool.llamacpp.sse", (true, true, [Some(80), Some(0), Some(18)]);
    "responses/stream-error.llamacpp.sse", (true, false, [None, None, None]);
    "responses/stream-error.openai.sse", (false, false, [None, None, None]);
    "responses/stream-failed.openai.sse", (false, false, [None, None, None]);
    "responses/stream-failed.sglang.sse", (true, false, [None, None, None]);
    "responses/stream-cut.vllm.sse", (true, false, [None, None, None]);
    "responses/stream-error.localai.sse", (true, false, [None, None, None]);
    "responses/stream.localai.sse", (true, true, [Some(36), Some(0), Some(20)]);
    "responses/stream-cut.ollama.sse", (true, false, [None, None, None]);
    "responses/stream-hidden-error.sse", (true, true, [None, None, None]);
};

#[test]
fn the_meter_finds_in_each_servers_answers_what_is_in_them() {
    check_fixtures(&Responses, FIXTURES);
}

#[test]
fn an_end_without_its_response_and_one_that_failed_are_errors() {
    for (name, event) in [
        ("", r#"{"type":"response.completed"}"#),
        ("", r#"{"type":"response.completed","response":null}"#),
        ("", r#"{"type":"response.incomplete","response":"x"}"#),
        ("response.completed", "{}"),
        (
            "",
            r#"{"type":"response.completed","response":{"status":"failed"}}"#,
        ),
        (
            "",
            r#"{"type":"response.completed","response":{"error":{"code":"x"}}}"#,
        ),
        (
            "",
            r#"{"type":"response.cancelled","response":{"status":"cancelled"}}"#,
        ),
        ("response.failed", "{}"),
        ("error", "{}"),
        ("", r#"{"type":"error","code":"server_error"}"#),
    ] {
        assert!(Responses.event(name, event).is_err(), "{name} {event}");
    }
}

#[test]
fn each_form_of_output_is_content_and_an_empty_one_is_none() {
    let bytes = |items: &str| {
        let whole = format!(r#"{{"object":"response","status":"completed","output":[{items}]}}"#);
        let mut meter = Meter::new(1);
        meter.add(&Responses.whole(&whole).unwrap());
        meter.has_content().then(|| meter.estimate().unwrap())
    };
    let text = r#"{"type":"message","content":[{"type":"output_text","text":"123456"}]}"#;
    for (items, expected) in [
        (text.to_owned(), Some(2)),
        (format!("{text},{text}"), Some(4)),
        (format!("{text},7,null,{{}},{text}"), Some(4)),
        (
            r#"{"type":"message","content":"123456"}"#.to_owned(),
            Some(2),
        ),
        (
            r#"{"type":"message","content":[{"type":"refusal","refusal":"123456"}]}"#.to_owned(),
            Some(2),
        ),
        (
            r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"123456"}]}"#
                .to_owned(),
            Some(2),
        ),
        (
            r#"{"type":"function_call","name":"f","arguments":"{}"}"#.to_owned(),
            Some(1),
        ),
        (
            r#"{"type":"function_call","name":"f","arguments":""}"#.to_owned(),
            Some(1),
        ),
        (
            r#"{"type":"custom_tool_call","name":"f","input":"123456"}"#.to_owned(),
            Some(2),
        ),
        (
            r#"{"type":"message","content":[{"type":"output_text","text":""}]}"#.to_owned(),
            None,
        ),
        (
            r#"{"type":"reasoning","summary":[],"content":null}"#.to_owned(),
            None,
        ),
        (String::new(), None),
    ] {
        assert_eq!(bytes(&items), expected, "{items}");
    }
}

#[test]
fn an_odd_part_of_a_usage_leaves_the_others_known() {
    for (usage, expected) in [
        (
            r#"{"input_tokens":36,"output_tokens":20,"input_tokens_details":{"cached_tokens":32}}"#,
            [Some(36), Some(32), Some(20)],
        ),
        (
            r#"{"input_tokens":36,"output_tokens":20,"input_tokens_details":{"cached_tokens":99}}"#,
            [Some(36), Some(36), Some(20)],
        ),
        (
            r#"{"input_tokens":36,"output_tokens":20,"input_tokens_details":[]}"#,
            [Some(36), Some(0), Some(20)],
        ),
        (
            r#"{"input_tokens":36,"output_tokens":20,"input_tokens_details":{"cached_tokens":-1}}"#,
            [Some(36), Some(0), Some(20)],
        ),
        (
            r#"{"input_tokens":36,"output_tokens":-1}"#,
            [Some(36), Some(0), None],
        ),
        (
            r#"{"input_tokens":"36","output_tokens":20}"#,
            [None, Some(0), Some(20)],
        ),
        (
            r#"{"input_tokens":0,"output_tokens":20}"#,
            [None, Some(0), Some(20)],
        ),
    ] {
        let event = format!(
            r#"{{"type":"response.completed","response":{{"output":[{{"type":"x_call"}}],"usage":{usage}}}}}"#
        );
        let mut meter = Meter::new(1);
        meter.add(&Responses.event("", &event).unwrap());
        let found = meter.reported();
        let found = [
            found.prompt(),
            found.cached.map(i64::from),
            found.output.map(i64::from),
        ];
        assert_eq!(found, expected, "{usage}");
    }
}
