//! What is read of the answers of real servers, and of odd ones.

use proptest::prelude::*;

use super::*;
use crate::upstream::inference::wire::Meter;
use crate::upstream::inference::wire::tests::{Fixture, check_fixtures, fixtures};

pub(in crate::upstream) const FIXTURES: &[Fixture] = fixtures! {
    "completions/answer.openai.json", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/answer.llamacpp.json", (true, true, [Some(4), Some(2), Some(6)]);
    // It counts the first of four choices.
    "completions/answer-array-n2.llamacpp.json", (true, true, [Some(4), Some(0), Some(8)]);
    "completions/answer-limit.vllm.json", (true, true, [Some(4), Some(0), Some(24)]);
    "completions/answer-cached.vllm.json", (true, true, [Some(36), Some(32), Some(6)]);
    "completions/answer.sglang.json", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/answer.ollama.json", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/answer.localai.json", (true, true, [Some(4), Some(0), Some(6)]);
    // Without content there is nothing to charge.
    "completions/answer-empty.vllm.json", (false, true, [None, None, None]);
    "completions/stream.openai.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream.llamacpp.sse", (true, true, [Some(4), Some(2), Some(6)]);
    "completions/stream-n2.llamacpp.sse", (true, true, [Some(4), Some(0), Some(15)]);
    // Recorded: each choice has a usage in an event of its own, after its end.
    "completions/chat-stream-n3.llamacpp.sse", (true, true, [Some(26), Some(25), Some(9)]);
    "completions/stream.vllm.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream-continuous.vllm.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream.sglang.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream.ollama.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream.localai.sse", (true, true, [Some(4), Some(0), Some(6)]);
    "completions/stream-nousage.vllm.sse", (true, true, [None, None, None]);
    "completions/stream-ping.llamacpp.sse", (true, true, [Some(4), Some(0), Some(2)]);
    "completions/stream-error.openai.sse", (true, false, [None, None, None]);
    "completions/stream-error.llamacpp.sse", (true, false, [None, None, None]);
    "completions/stream-error.vllm.sse", (true, false, [None, None, None]);
    "completions/stream-silent-error.vllm.sse", (false, false, [None, None, None]);
    "completions/stream-error.sglang.sse", (true, false, [None, None, None]);
    "completions/stream-error.ollama.sse", (true, false, [None, None, None]);
    "completions/stream-cut.sse", (true, false, [None, None, None]);
    // An error written as text, with a finish reason: only the missing [DONE] distinguishes it from an answer.
    "completions/stream-error.localai.sse", (true, true, [None, None, None]);
};

#[test]
fn the_meter_finds_in_each_servers_answers_what_is_in_them() {
    check_fixtures(&ChatCompletions, FIXTURES);
}

fn read_event(data: &str) -> Result<(bool, usize), UpstreamError> {
    let reading = ChatCompletions.event("", data)?;
    Ok((!reading.content.is_empty(), reading.finished.len()))
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
        r#"{"usage":null,"usage":{"prompt_tokens":3},"id":1,"id":2}"#,
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
        assert!(ChatCompletions.whole(&data).is_err());
        let reading = ChatCompletions.event("", &data).unwrap();
        assert!(reading.given_up.is_some() && reading.finished.is_empty());
        assert!(!reading.content.is_empty());
    }
}

#[test]
fn usage_that_is_none_is_not_counted_but_known_to_be_there() {
    let tokens = |usage: &str| {
        let data = format!("{{\"choices\":[],\"usage\": {usage} }}");
        let reading = ChatCompletions.event("", &data).unwrap();
        assert_eq!(&data[reading.usage.unwrap()], usage);
        reading.tokens.map(|(_, usage)| usage.prompt().unwrap())
    };
    for known in [
        r#"{"prompt_tokens":3,"completion_tokens":null}"#,
        r#"{"prompt_tokens":3,"completion_tokens":1.5}"#,
        r#"{"prompt_tokens":3,"prompt_tokens_details":"none"}"#,
        r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":-1}}"#,
    ] {
        assert_eq!(tokens(known), Some(3), "{known}");
    }
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
fn of_a_member_that_comes_twice_the_last_counts() {
    let data = r#"{"choices":[],"usage":{"prompt_tokens":9},"usage":{"prompt_tokens":3}}"#;
    let reading = ChatCompletions.event("", data).unwrap();
    let (_, used) = reading.tokens.unwrap();
    assert_eq!(used.prompt(), Some(3));
    assert_eq!(&data[reading.usage.unwrap()], r#"{"prompt_tokens":3}"#);
    let content = r#"{"choices":[{"index":0,"delta":{"content":"a","content":"b"}}],"choices":[{"index":0,"delta":{"content":"c"}}]}"#;
    let reading = ChatCompletions.event("", content).unwrap();
    assert_eq!(reading.text, Some("\"c\""));
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
    /// Each choice says so many words, and then ends; whose turn it is, is random.
    #[test]
    fn usages_of_each_choice_are_added_and_running_totals_never_are(words in prop::collection::vec(1..5_usize, 2..5), turns in prop::collection::vec(any::<prop::sample::Index>(), 40), style in 0..4_u8) {
        let mut left = words.clone();
        let (mut meter, mut said) = (Meter::new(words.len()), 0);
        let mut read = |choice: &str, usage: Option<usize>| {
            let usage = usage.map(|words| format!(",\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{words}}}"));
            let data = format!("{{\"choices\":[{choice}]{}}}", usage.unwrap_or_default());
            meter.add(&ChatCompletions.event("", &data).unwrap());
        };
        let mut open: Vec<usize> = (0..words.len()).collect();
        let mut turns = turns.iter().cycle();
        while !open.is_empty() {
            let at = turns.next().unwrap().index(open.len());
            let index = open[at];
            let of = words[index];
            if left[index] > 0 {
                left[index] -= 1;
                said += 1;
                let word = format!("{{\"index\":{index},\"delta\":{{\"content\":\"a\"}}}}");
                read(&word, (style == 3).then_some(of - left[index]));
                continue;
            }
            open.remove(at);
            let finish = format!("{{\"index\":{index},\"delta\":{{}},\"finish_reason\":\"stop\"}}");
            match style {
                // One for each beside its end, or after it; for all of them; running ones and their sum.
                0 => read(&finish, Some(of)),
                1 => {
                    read(&finish, None);
                    read("", Some(of));
                }
                2 => read(&finish, None),
                _ => read(&finish, Some(of)),
            }
        }
        if style >= 2 {
            read("", Some(said));
        }
        prop_assert!(meter.is_finished());
        let used = meter.usage().map(|used| (used.prompt, used.completion));
        prop_assert_eq!(used, Some((7, said as i64)));
        prop_assert_eq!(meter.estimate(), None);
    }

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
