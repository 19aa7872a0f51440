//! What is written to the clients of each API besides what their server sends.

use super::*;

fn read_as(api: Api, events: &str) -> (String, Result<(), UpstreamError>) {
    let format = ResponseFormat::Events {
        api,
        include_usage: true,
        meta: meta(),
    };
    let pieces = Pieces([Some(Bytes::copy_from_slice(events.as_bytes()))].into());
    let mut answer = Answer::new(pieces, stream(), format);
    let (mut sent, end) = read_content(&mut answer);
    if end.is_ok() {
        let tokens = Tokens {
            prompt: 9,
            cached: 4,
            completion: 2,
        };
        let cost = Credits::from_micro(7);
        sent += std::str::from_utf8(&answer.take_end(Some(Paid { tokens, cost }))).unwrap();
    }
    (sent, end)
}

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9}}}\n\n";
const TEXT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n";

#[test]
fn a_message_begins_one_time_and_after_pings_alone() {
    let finish = "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n";
    for (before, starts_with) in [
        (START.to_owned(), START),
        (
            format!("event: ping\ndata: {{}}\n\n{START}"),
            "event: ping\ndata: {}\n\nevent: message_start\n",
        ),
        (
            format!("data: {{\"type\": \"ping\"}}\n\n: ping\n\n{START}"),
            "event: ping\ndata: {\"type\": \"ping\"}\n\nevent: message_start\n",
        ),
        (format!("{START}{START}"), START),
        (
            String::new(),
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"chatcmpl-1\"",
        ),
        (
            format!("event: x\ndata: {{}}\n\n{START}"),
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"chatcmpl-1\"",
        ),
    ] {
        let (sent, end) = read_as(Api::Messages, &format!("{before}{TEXT}{finish}"));
        assert_eq!(end, Ok(()), "{before}");
        assert!(sent.starts_with(starts_with), "{sent}");
        assert_eq!(sent.matches("event: message_start").count(), 1, "{sent}");
        assert!(sent.contains(TEXT), "{sent}");
    }
}

#[test]
fn an_end_whose_usage_is_missing_or_on_several_lines_has_its_cost() {
    let own = "\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"output_tokens\":2,\"cost\":0.000007}}";
    let delta = "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}";
    for (finish, expected) in [
        (
            format!("data: {delta}}}\n\n"),
            format!("data: {delta},{own}\n\n"),
        ),
        (
            format!("data: {delta},\"usage\":null}}\n\n"),
            format!("data: {delta},{own}\n\n"),
        ),
        (
            format!("data: {delta},\ndata: \"usage\":\ndata:  {{\"output_tokens\":2}}}}\n\n"),
            format!("data: {delta}, \"usage\":  {{\"cost\":0.000007,\"output_tokens\":2}}}}\n\n"),
        ),
    ] {
        let (sent, end) = read_as(Api::Messages, &format!("{START}{TEXT}{finish}"));
        assert_eq!(end, Ok(()));
        assert_eq!(
            sent,
            format!("{START}{TEXT}event: message_delta\n{expected}")
        );
    }
    let text = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    let own = "\"usage\":{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":2,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":11,\"cost\":0.000007}}";
    let completed = "\"type\":\"response.completed\"";
    for (response, expected) in [
        ("{\"output\":[]}", format!("{{\"output\":[],{own}")),
        ("{\"usage\":null}", format!("{{{own}")),
        ("{}", format!("{{{own}")),
    ] {
        for (before, after) in [
            ("", format!(",{completed}")),
            (&format!("{completed},"), String::new()),
        ] {
            let event = format!("data: {{{before}\"response\":{response}{after}}}\n\n");
            let (sent, end) = read_as(Api::Responses, &format!("{text}{event}"));
            assert_eq!(end, Ok(()));
            let expected = format!("\"response\":{expected}{after}}}\n\n");
            assert!(sent.ends_with(&expected), "{sent}");
        }
    }
}

#[test]
fn the_usage_that_is_added_to_a_completion_is_of_its_kind() {
    let text = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}\n\n";
    for (api, object) in [
        (Api::Completions, "text_completion"),
        (Api::ChatCompletions, "chat.completion.chunk"),
    ] {
        let (sent, end) = read_as(api, text);
        assert_eq!(end, Ok(()));
        let added = format!("\"object\":\"{object}\"");
        assert!(
            sent.contains(&added) && sent.contains("\"cost\":0.000007"),
            "{sent}"
        );
    }
}

#[test]
fn an_event_that_says_the_answer_ended_but_not_how_is_not_sent() {
    for (api, events) in [
        (Api::Messages, format!("{START}{TEXT}event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n")),
        (Api::Messages, format!("{START}{TEXT}data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":null}}}}\n\ndata: [DONE]\n\n")),
        (Api::Responses, "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\ndata: {\"type\":\"response.completed\"}\n\n".to_owned()),
    ] {
        let (sent, end) = read_as(api, &events);
        assert!(end.is_err(), "{events}");
        for mark in ["message_stop", "response.completed", "[DONE]"] {
            assert!(!sent.contains(mark), "{sent}");
        }
    }
}
