//! What is read of the answers of real servers, and of odd ones.

use proptest::prelude::*;

use super::*;
use crate::upstream::inference::wire::Meter;
use crate::upstream::sse::Parser;

/// What a meter must find: content, a whole answer, tokens of the prompt, of its cache and of the answer.
type Metered = (bool, bool, Option<[i64; 3]>);

macro_rules! fixtures {
    ($($name:literal, $metered:expr;)*) => {
        &[$(($name, include_bytes!(concat!("../../../../tests/it/fixtures/completions/", $name)), $metered)),*]
    };
}

const FIXTURES: &[(&str, &[u8], Metered)] = fixtures! {
    "answer.openai.json", (true, true, Some([4, 0, 6]));
    "answer.llamacpp.json", (true, true, Some([4, 2, 6]));
    // It counts the first of four choices.
    "answer-array-n2.llamacpp.json", (true, true, None);
    "answer-limit.vllm.json", (true, true, Some([4, 0, 24]));
    "answer-cached.vllm.json", (true, true, Some([36, 32, 6]));
    "answer.sglang.json", (true, true, Some([4, 0, 6]));
    "answer.ollama.json", (true, true, Some([4, 0, 6]));
    "answer.localai.json", (true, true, Some([4, 0, 6]));
    "answer-empty.vllm.json", (false, true, Some([4, 0, 1]));
    "stream.openai.sse", (true, true, Some([4, 0, 6]));
    "stream.llamacpp.sse", (true, true, Some([4, 2, 6]));
    "stream-n2.llamacpp.sse", (true, true, Some([4, 0, 15]));
    "stream.vllm.sse", (true, true, Some([4, 0, 6]));
    "stream-continuous.vllm.sse", (true, true, Some([4, 0, 6]));
    "stream.sglang.sse", (true, true, Some([4, 0, 6]));
    "stream.ollama.sse", (true, true, Some([4, 0, 6]));
    "stream.localai.sse", (true, true, Some([4, 0, 6]));
    "stream-nousage.vllm.sse", (true, true, None);
    "stream-ping.llamacpp.sse", (true, true, Some([4, 0, 2]));
    "stream-error.openai.sse", (true, false, None);
    "stream-error.llamacpp.sse", (true, false, None);
    "stream-error.vllm.sse", (true, false, None);
    "stream-silent-error.vllm.sse", (false, false, None);
    "stream-error.sglang.sse", (true, false, None);
    "stream-error.ollama.sse", (true, false, None);
    "stream-cut.sse", (true, false, None);
    // An error written as text, with a finish reason: only the missing [DONE] distinguishes it from an answer.
    "stream-error.localai.sse", (true, true, None);
};

/// Reads a stream to its [DONE] or its end; whether that is a clean one.
fn read_stream(bytes: &[u8], meter: &mut Meter) -> Result<bool, UpstreamError> {
    let mut parser = Parser::default();
    parser.push(bytes);
    parser.push(b"\n\n");
    while let Some(event) = parser.next_event()? {
        if event.text() == "[DONE]" {
            break;
        }
        meter.add(&ChatCompletions.event(&event.name, event.text())?);
    }
    Ok(meter.is_finished())
}

#[test]
fn the_meter_finds_in_each_servers_answers_what_is_in_them() {
    for (name, bytes, expected) in FIXTURES {
        let choices = if name.contains("-n2") { 2 } else { 1 };
        let mut meter = Meter::new(choices);
        let is_whole = match name.ends_with(".json") {
            false => read_stream(bytes, &mut meter).unwrap_or(false),
            true => {
                meter.add(&ChatCompletions.whole(bytes).unwrap());
                meter.is_finished()
            }
        };
        let usage = meter.usage().filter(|_| is_whole);
        let usage = usage.map(|used| [used.prompt, used.cached, used.completion]);
        assert_eq!((meter.has_content(), is_whole, usage), *expected, "{name}");
    }
}

fn read_event(data: &str) -> Result<(bool, usize), UpstreamError> {
    let reading = ChatCompletions.event("", data)?;
    Ok((reading.has_content, reading.finished.len()))
}

#[test]
fn content_is_text_a_tool_call_reasoning_a_refusal_or_audio_and_nothing_else() {
    let has_content = |delta: &str| {
        let event = format!("{{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}");
        let (has_content, finished) = read_event(&event).unwrap();
        assert_eq!(finished, 0, "{delta}");
        has_content
    };
    for member in [
        "content",
        "reasoning_content",
        "reasoning",
        "refusal",
        "tool_calls",
        "function_call",
        "audio",
    ] {
        for something in [
            r#""a""#,
            r#"" ""#,
            r#""\ud83d""#,
            r#"[{"index":0}]"#,
            r#"[{"type":"text","text":"a"}]"#,
            r#"{"id":"x"}"#,
            "{ \"a\" : 1 }",
        ] {
            let delta = format!("{{\"role\":\"assistant\",\"{member}\": {something} }}");
            assert!(has_content(&delta), "{delta}");
        }
        for nothing in [
            "null",
            "false",
            r#""""#,
            "[]",
            "[ ]",
            "[\n]",
            "{}",
            "{ }",
            r#"[{"type":"text","text":""}]"#,
            r#"[{"text":""},{"text":""}]"#,
        ] {
            let delta = format!("{{\"role\":\"assistant\",\"{member}\": {nothing} }}");
            assert!(!has_content(&delta), "{delta}");
        }
    }
    for nothing in [
        "{}",
        "null",
        "7",
        "[]",
        r#""text""#,
        r#"{"role":"assistant"}"#,
    ] {
        assert!(!has_content(nothing), "{nothing}");
    }
}

#[test]
fn an_event_that_is_not_understood_is_no_failure() {
    for odd in [
        r#"{"choices":{}}"#,
        r#"{"choices":[7]}"#,
        r#"{"choices":[{"delta":[],"index":"x","finish_reason":7}]}"#,
        r#"{"choices":null,"usage":[1.5]}"#,
        r#"{"usage":{"prompt_tokens":-1}}"#,
        r#"{"error":null,"error_code":0,"object":7}"#,
        r#"{"type":"ping"}"#,
        r#"{"prompt_progress":{"total":9}}"#,
        "{}",
    ] {
        assert_eq!(read_event(odd), Ok((false, 0)), "{odd}");
    }
}

#[test]
fn an_error_is_one_in_every_form_that_servers_give_it() {
    for error in [
        r#"{"error":{"message":"CUDA"}}"#,
        r#"{"error":"CUDA"}"#,
        r#"{"error":{}}"#,
        r#"{"choices":[],"error":true}"#,
        r#"{"object":"error","message":"CUDA"}"#,
        r#"{"type":"error"}"#,
        r#"{"text":"CUDA","error_code":50001}"#,
        r#"{"detail":"CUDA"}"#,
        r#"{"detail":[{"loc":["body"]}]}"#,
    ] {
        let read = read_event(error);
        assert!(
            matches!(read, Err(UpstreamError::Reported(_))),
            "{error}: {read:?}"
        );
    }
    for no_object in [
        "CUDA",
        "<html>",
        "[1]",
        "7",
        "\"text\"",
        "{\"choices\":[",
        "",
    ] {
        let read = read_event(no_object);
        assert!(
            matches!(read, Err(UpstreamError::Unreadable(_))),
            "{no_object}: {read:?}"
        );
    }
}

#[test]
fn a_choice_that_is_given_up_is_not_finished() {
    for reason in ["abort", "error", " error "] {
        let data = format!(
            "{{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"finish_reason\":\"{reason}\"}}]}}"
        );
        assert!(ChatCompletions.whole(data.as_bytes()).is_err());
        let reading = ChatCompletions.event("", &data).unwrap();
        assert!(reading.given_up.is_some() && reading.finished.is_empty() && reading.has_content);
    }
}

#[test]
fn usage_that_is_none_is_not_counted_but_known_to_be_there() {
    let tokens = |usage: &str| {
        let data = format!("{{\"choices\":[],\"usage\": {usage} }}");
        let reading = ChatCompletions.event("", &data).unwrap();
        assert_eq!(&data[reading.usage.unwrap()], usage);
        reading.tokens.map(|(_, tokens)| tokens.prompt)
    };
    assert_eq!(
        tokens(r#"{"prompt_tokens":3,"completion_tokens":null}"#),
        Some(3)
    );
    for odd in [
        r#"{"prompt_tokens":0,"completion_tokens":5}"#,
        r#"{"prompt_tokens":3.5}"#,
        r#"{"prompt_tokens":-3}"#,
        r#"{"prompt_tokens":null}"#,
        r#"{"completion_tokens":5}"#,
        r#"{"prompt_tokens":99999999999}"#,
        "[]",
        "\"none\"",
    ] {
        assert_eq!(tokens(odd), None, "{odd}");
    }
}

#[test]
fn half_a_surrogate_pair_is_a_replacement_character_and_parts_are_joined() {
    for (content, text) in [
        (r#""a \u2600""#, "a \u{2600}"),
        (
            r#"[{"type":"text","text":"a"},{"type":"x"},{"text":"b"}]"#,
            "ab",
        ),
        ("7", ""),
        ("{}", ""),
        ("[]", ""),
    ] {
        assert_eq!(text_of(content), text, "{content}");
    }
    assert_eq!(
        text_of(r#""a \ud83d smile \udc00""#),
        "a \u{FFFD} smile \u{FFFD}"
    );
}

proptest! {
    #[test]
    fn an_event_read_in_one_pass_says_the_same_as_one_read_by_parts(
        index in prop::option::of(0..3_u8),
        delta in prop::option::of("\\{(\"content\":(null|\"\"|\"a\"|\\[\\]|7)(,\"reasoning\":(null|\"b\"))?)?\\}|null"),
        text in prop::option::of("null|\"\"|\"a\""),
        finish in prop::option::of("null|\"\"|\"stop\"|\"abort\"|7"),
    ) {
        let members = [
            index.map(|index| format!("\"index\":{index}")),
            delta.map(|delta| format!("\"delta\":{delta}")),
            text.map(|text| format!("\"text\":{text}")),
            finish.map(|finish| format!("\"finish_reason\":{finish}")),
        ];
        let members: Vec<_> = members.into_iter().flatten().collect();
        let data = format!("{{\"choices\":[{{{}}}]}}", members.join(","));
        let said = |members: Members<'_, Vec<Choice<'_, Delta<'_>>>>| {
            let mut reading = Reading::default();
            let choices = members.choices.unwrap();
            choices.iter().for_each(|choice| choice.read_into(&mut reading));
            format!("{reading:?}")
        };
        let by_parts = Members::by_parts(&data).unwrap();
        prop_assert_eq!(said(serde_json::from_str(&data).unwrap()), said(by_parts));
    }
}
