//! What the clients of an API need to read of every recorded stream, whichever server wrote it.

use super::*;
use crate::upstream::inference::wire::tests::Fixture;
use crate::upstream::inference::{messages, responses};

/// The events that a client reads of a recorded stream, whole or not.
fn relayed(api: Api, bytes: &[u8]) -> Vec<(String, Value)> {
    let format = ResponseFormat::Events {
        api,
        include_usage: true,
        meta: meta(),
    };
    let pieces = Pieces([Some(Bytes::copy_from_slice(bytes))].into());
    let mut answer = Answer::new(pieces, stream(), format);
    let (mut text, _) = read_content(&mut answer);
    let cost = Credits::from_micro(1_500);
    let paid = Paid {
        tokens: answer.usage().unwrap_or_default(),
        cost,
    };
    text += &String::from_utf8_lossy(&answer.take_end(Some(paid)));
    let events = text.split("\n\n").filter(|event| !event.is_empty());
    let events = events.map(|event| {
        let (name, data) = event.split_once("\ndata: ").expect("a name and data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        let name = name.strip_prefix("event: ").expect("a name").to_owned();
        assert_eq!(data["type"], name.as_str());
        (name, data)
    });
    events.collect()
}

/// The recorded streams, and whether each is whole.
fn streams(fixtures: &[Fixture]) -> impl Iterator<Item = (&'static str, &'static [u8], bool)> {
    let all = fixtures.iter();
    let all = all.map(|(name, bytes, (_, is_whole, _))| (*name, *bytes, *is_whole));
    all.filter(|(name, ..)| name.ends_with(".sse"))
}

/// The item that an event is of.
fn item<'a>(items: &'a mut [Value], event: &Value) -> &'a mut Value {
    let index = event["output_index"].as_u64().expect("an index");
    let item = items.get_mut(index as usize).expect("an item");
    assert_eq!(item["id"], event["item_id"], "{event}");
    item
}

#[test]
fn each_part_of_a_response_is_begun_before_its_text_and_found_by_its_indexes() {
    for (name, bytes, is_whole) in streams(responses::tests::FIXTURES) {
        let (mut items, mut cost) = (Vec::<Value>::new(), None);
        for (number, (kind, event)) in relayed(Api::Responses, bytes).into_iter().enumerate() {
            assert_eq!(event["sequence_number"], number, "{name}: {event}");
            let (_, kind) = kind.split_once('.').expect("a type of a response");
            match kind {
                "created" | "in_progress" => {
                    assert_eq!(event["response"]["output"], Value::Array(vec![]))
                }
                "output_item.added" => {
                    assert_eq!(event["output_index"], items.len(), "{name}");
                    items.push(serde_json::json!({ "id": event["item"]["id"] }));
                }
                "output_item.done" => {
                    let index = event["output_index"].as_u64().expect("an index");
                    assert_eq!(items[index as usize]["id"], event["item"]["id"], "{name}");
                }
                "content_part.added" => {
                    item(&mut items, &event)["content"] = event["part"]["text"].clone()
                }
                "reasoning_summary_part.added" => {
                    item(&mut items, &event)["summary"] = event["part"]["text"].clone()
                }
                "output_text.delta" | "reasoning_text.delta" | "output_text.done" => {
                    assert_eq!(event["content_index"], 0, "{name}");
                    assert!(
                        item(&mut items, &event)["content"].is_string(),
                        "{name}: {event}"
                    );
                }
                "reasoning_summary_text.delta" => {
                    assert_eq!(event["summary_index"], 0, "{name}");
                    assert!(
                        item(&mut items, &event)["summary"].is_string(),
                        "{name}: {event}"
                    );
                }
                "completed" | "incomplete" => {
                    cost = Some(event["response"]["usage"]["cost"].clone())
                }
                _ => {}
            }
        }
        assert_eq!(cost.is_some(), is_whole, "{name}");
        assert!(cost.is_none_or(|cost| cost == 0.0015), "{name}");
    }
}

#[test]
fn each_block_of_a_message_has_the_text_to_which_its_deltas_are_added() {
    for (name, bytes, _) in streams(messages::tests::FIXTURES) {
        let events = relayed(Api::Messages, bytes);
        if let Some((first, _)) = events.first() {
            assert_eq!(first, "message_start", "{name}");
        }
        for (_, event) in events
            .iter()
            .filter(|(kind, _)| kind == "content_block_start")
        {
            let block = &event["content_block"];
            match block["type"].as_str() {
                Some(kind @ ("text" | "thinking")) => assert_eq!(block[kind], "", "{name}"),
                kind => assert_eq!(kind, Some("tool_use"), "{name}"),
            }
        }
    }
    let start = |block: &str| {
        format!(
            "data: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{block}}}\n\n"
        )
    };
    let delta = "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    for (block, expected) in [
        (r#"{"type":"text"}"#, r#"{"text":"","type":"text"}"#),
        (
            r#"{"text":null,"type":"text"}"#,
            r#"{"text":"","type":"text"}"#,
        ),
        (
            r#"{"type":"thinking","signature":""}"#,
            r#"{"thinking":"","type":"thinking","signature":""}"#,
        ),
        (
            r#"{"type":"text","text":"b"}"#,
            r#"{"type":"text","text":"b"}"#,
        ),
        (
            r#"{"type":"tool_use","id":"1"}"#,
            r#"{"type":"tool_use","id":"1"}"#,
        ),
        (r#"{"type":"later"}"#, r#"{"type":"later"}"#),
        ("null", "null"),
    ] {
        let stream = start(block) + delta;
        let events = relayed(Api::Messages, stream.as_bytes());
        let block = events[1].1["content_block"].clone();
        assert_eq!(
            block,
            serde_json::from_str::<Value>(expected).expect("JSON")
        );
    }
}

/// llama.cpp begins a response again with each piece while its characters are not complete.
#[test]
fn a_response_begins_one_time() {
    let bytes = include_str!("../../../../tests/it/fixtures/responses/stream.llamacpp.sse");
    let begin = &bytes[..bytes
        .find("event: response.output_item.added")
        .expect("an item")];
    let delta = "event: response.output_text.delta";
    let again = bytes.replace(delta, &format!("{begin}{delta}"));
    assert!(again.matches("event: response.created").count() > 1);
    let expected = relayed(Api::Responses, bytes.as_bytes());
    assert_eq!(relayed(Api::Responses, again.as_bytes()), expected);
}

#[test]
fn a_message_without_a_start_has_the_tokens_of_its_prompt_in_its_last_usage() {
    let bytes =
        include_bytes!("../../../../tests/it/fixtures/messages/stream-nostart.llamacpp.sse");
    let format = ResponseFormat::Events {
        api: Api::Messages,
        include_usage: true,
        meta: meta(),
    };
    let pieces = Pieces([Some(Bytes::from_static(bytes))].into());
    let mut answer = Answer::new(pieces, stream(), format);
    let (_, end) = read_content(&mut answer);
    assert_eq!(end, Ok(()));
    let tokens = Tokens {
        prompt: 17,
        cached: 0,
        completion: 7,
    };
    let cost = Credits::from_micro(1_500);
    let end = answer.take_end(Some(Paid { tokens, cost }));
    let end = String::from_utf8_lossy(&end).into_owned();
    let usage = r#""usage":{"cost":0.0015,"input_tokens":17,"output_tokens":7}"#;
    assert!(end.contains(usage), "{end}");
}
