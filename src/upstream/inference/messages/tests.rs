//! What is read of the answers of real servers.

use super::*;
use crate::upstream::inference::wire::Meter;
use crate::upstream::inference::wire::tests::{Fixture, check_fixtures, fixtures};

pub(in crate::upstream) const FIXTURES: &[Fixture] = fixtures! {
    "messages/answer.anthropic.json", (true, true, [Some(12), Some(0), Some(6)]);
    "messages/answer-cached.anthropic.json", (true, true, [Some(2104), Some(2000), Some(6)]);
    "messages/answer-tool-thinking.anthropic.json", (true, true, [Some(80), Some(0), Some(40)]);
    "messages/answer-limit.anthropic.json", (true, true, [Some(12), Some(0), Some(32)]);
    "messages/answer.llamacpp.json", (true, true, [Some(36), Some(32), Some(20)]);
    "messages/answer-tool.llamacpp.json", (true, true, [Some(80), Some(0), Some(18)]);
    "messages/answer.vllm.json", (true, true, [Some(36), Some(32), Some(20)]);
    "messages/answer-old.vllm.json", (true, true, [Some(36), Some(0), Some(6)]);
    "messages/answer.sglang.json", (true, true, [Some(36), Some(32), Some(6)]);
    "messages/answer.ollama.json", (true, true, [Some(36), Some(0), Some(20)]);
    "messages/answer.localai.json", (true, true, [Some(36), Some(0), Some(6)]);
    "messages/stream.anthropic.sse", (true, true, [Some(36), Some(32), Some(6)]);
    "messages/stream-tool-thinking.anthropic.sse", (true, true, [Some(80), Some(0), Some(40)]);
    "messages/stream-error.anthropic.sse", (true, false, [None, None, None]);
    "messages/stream.llamacpp.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "messages/stream-tool.llamacpp.sse", (true, true, [Some(80), Some(0), Some(18)]);
    "messages/stream-nostart.llamacpp.sse", (true, true, [None, None, Some(7)]);
    "messages/stream-error.llamacpp.sse", (true, false, [None, None, None]);
    "messages/stream.vllm.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "messages/stream-tool.vllm.sse", (true, true, [Some(80), Some(0), Some(18)]);
    "messages/stream-error.vllm.sse", (true, false, [None, None, None]);
    "messages/stream.sglang.sse", (true, true, [Some(36), Some(32), Some(20)]);
    "messages/stream-error.sglang.sse", (true, false, [None, None, None]);
    "messages/stream-error-early.sglang.sse", (false, false, [None, None, None]);
    "messages/stream.ollama.sse", (true, true, [Some(36), Some(0), Some(20)]);
    "messages/stream-tool.ollama.sse", (true, true, [Some(80), Some(0), Some(18)]);
    "messages/stream-cut.ollama.sse", (true, false, [None, None, None]);
    "messages/stream.localai.sse", (true, true, [None, None, Some(6)]);
    "messages/stream-error.localai.sse", (false, false, [None, None, None]);
    "messages/stream-cut.sse", (true, false, [None, None, None]);
};

#[test]
fn the_meter_finds_in_each_servers_answers_what_is_in_them() {
    check_fixtures(&Messages, FIXTURES);
}

/// What the events say together.
fn metered(events: &[&str]) -> (bool, bool, Usage) {
    let mut meter = Meter::new(1);
    for event in events {
        meter.add(&Messages.event("", event).unwrap());
    }
    (meter.has_content(), meter.is_finished(), meter.reported())
}

const START: &str =
    r#"{"type":"message_start","message":{"usage":{"input_tokens":36,"output_tokens":1}}}"#;
const TEXT: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a long text of many tokens"}}"#;

#[test]
fn the_start_says_nothing_of_the_output_and_a_later_zero_nothing_of_the_prompt() {
    let prompt = Usage {
        input: Some(36),
        ..Usage::default()
    };
    assert_eq!(metered(&[START, TEXT]), (true, false, prompt));
    let mut cut = Meter::new(1);
    for event in [START, TEXT] {
        cut.add(&Messages.event("", event).unwrap());
    }
    assert_eq!(cut.estimate(), Some(7));
    for (usage, output) in [
        ("{\"output_tokens\":20}", Some(20)),
        ("{\"input_tokens\":0,\"output_tokens\":20}", Some(20)),
        ("{\"input_tokens\":null,\"output_tokens\":20}", Some(20)),
        (
            "{\"input_tokens\":-4,\"cache_read_input_tokens\":\"x\",\"output_tokens\":20}",
            Some(20),
        ),
        ("{\"output_tokens\":2.5}", None),
        ("{}", None),
        ("null", None),
        ("[]", None),
    ] {
        let delta = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{usage}}}"#
        );
        let found = metered(&[START, TEXT, &delta]);
        assert_eq!(found, (true, true, Usage { output, ..prompt }), "{usage}");
    }
}

#[test]
fn an_event_is_what_its_type_says_and_without_one_what_its_name_says() {
    let kind = |name, data| {
        let reading = Messages.event(name, data).unwrap();
        (reading.kind, reading.is_ping(), reading.is_end)
    };
    assert_eq!(kind("ping", "{}"), (Some("ping"), true, false));
    assert_eq!(
        kind("", "{\"type\": \"ping\"}"),
        (Some("ping"), true, false)
    );
    assert_eq!(
        kind("message_stop", "{\"type\":\"ping\"}"),
        (Some("ping"), true, false)
    );
    assert_eq!(
        kind("message_stop", "{}"),
        (Some("message_stop"), false, true)
    );
    assert_eq!(kind("", "{}"), (None, false, false));
}

#[test]
fn a_call_is_content_by_its_name_alone_and_an_empty_block_is_none() {
    let has_content = |block: &str| {
        let event =
            format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#);
        metered(&[&event]).0
    };
    assert!(has_content(
        r#"{"type":"tool_use","id":"x","name":"f","input":{}}"#
    ));
    assert!(has_content(r#"{"type":"tool_use","id":"x","name":"f"}"#));
    assert!(has_content(r#"{"type":"redacted_thinking","data":"x"}"#));
    assert!(!has_content(r#"{"type":"text","text":""}"#));
    assert!(!has_content(
        r#"{"type":"thinking","thinking":"","signature":"x"}"#
    ));
}
