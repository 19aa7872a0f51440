//! What a client reads of an answer, for every format of upstream and client, and wherever the bytes are cut.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::*;
use crate::model::Credits;
use crate::upstream::inference::api::Api;
use crate::upstream::inference::chat_completions::ChatCompletions;
use crate::upstream::inference::wire::WireFormat;
use proptest::prelude::*;
use serde_json::Value;

fn meta() -> CompletionMeta {
    CompletionMeta {
        id: "chatcmpl-1".to_owned(),
        created: 1,
        model: "general".to_owned(),
    }
}

fn events(include_usage: bool) -> ResponseFormat {
    let meta = meta();
    ResponseFormat::Events {
        api: Api::ChatCompletions,
        include_usage,
        meta,
    }
}

fn whole() -> ResponseFormat {
    ResponseFormat::Whole {
        api: Api::ChatCompletions,
        meta: meta(),
    }
}

fn json() -> UpstreamFormat {
    UpstreamFormat::Json
}

fn text() -> UpstreamFormat {
    UpstreamFormat::Text(TextReader::default())
}

/// A body of these pieces, a frame each; `None` is the loss of its connection.
struct Pieces(VecDeque<Option<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let piece = self.0.pop_front();
        Poll::Ready(piece.map(|piece| piece.map(Frame::data).ok_or("connection reset")))
    }
}

/// Everything a client reads of an answer that comes in these pieces, and how it ends.
fn read<'a>(
    upstream: UpstreamFormat,
    format: ResponseFormat,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<Tokens>, UpstreamError>) {
    let pieces = pieces
        .into_iter()
        .map(|piece| Some(Bytes::copy_from_slice(piece)));
    let mut answer = Answer::new(Pieces(pieces.collect()), upstream, format);
    let (mut sent, end) = read_content(&mut answer);
    if end.is_ok() {
        sent.push_str(std::str::from_utf8(&answer.take_end(None)).unwrap());
    }
    (sent, end.map(|()| answer.usage()))
}

/// What a client reads before the end, and how it ends.
fn read_content(answer: &mut Answer<Pieces>) -> (String, Result<(), UpstreamError>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    }
    let mut sent = Vec::new();
    let end = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            while let Some(piece) = answer.next().await? {
                assert!(!piece.is_empty());
                sent.extend_from_slice(&piece);
            }
            Ok(())
        })
    });
    (String::from_utf8(sent).unwrap(), end)
}

fn stream() -> UpstreamFormat {
    UpstreamFormat::Events(Parser::default())
}

const REAL: &[u8] = include_bytes!("../../../tests/it/fixtures/openai-stream.sse");

#[test]
fn a_real_stream_is_read_as_text_or_relayed_with_its_usage_where_requested() {
    let usage = Some(Tokens {
        prompt: 9,
        cached: 0,
        completion: 5,
    });
    assert_eq!(
        read(stream(), ResponseFormat::Text, [REAL]),
        ("Hello, w\u{f6}rld \u{2600}".to_owned(), Ok(usage))
    );
    let (sent, end) = read(stream(), events(true), [REAL]);
    assert_eq!(end, Ok(usage));
    assert_eq!(format!("{sent}data: [DONE]\n\n").as_bytes(), REAL);
    let (sent, end) = read(stream(), events(false), [REAL]);
    assert_eq!(end, Ok(usage));
    assert!(
        !sent.contains("prompt_tokens") && sent.contains("w\\u00f6rld"),
        "{sent}"
    );
}

#[test]
fn a_cost_has_all_its_digits_wherever_its_usage_is_written() {
    let cost = Credits::from_micro(7);
    let tokens = Tokens::default();
    let end = "{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}";
    let none = format!("data: {{\"choices\":[{end}]}}\n\n");
    let null = format!("data: {{\"choices\":[{end}],\"usage\":null}}\n\n");
    let some = format!("data: {{\"choices\":[{end}],\"usage\":{{\"prompt_tokens\":3}}}}\n\n");
    let message = "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"a\"}}]}".to_owned();
    for (upstream, format, bytes) in [
        (stream(), events(true), none),
        (stream(), events(true), null),
        (stream(), events(true), some),
        (json(), whole(), message),
    ] {
        let pieces = Pieces([Some(Bytes::from(bytes))].into());
        let mut answer = Answer::new(pieces, upstream, format);
        read_content(&mut answer).1.unwrap();
        let end = answer.take_end(Some(Paid { tokens, cost }));
        let end = std::str::from_utf8(&end).unwrap();
        assert!(end.contains("\"cost\":0.000007"), "{end}");
    }
}

#[test]
fn only_the_usage_is_withheld_from_a_client_that_did_not_request_it() {
    let other = "data: {\"choices\":[],\"filtered\":true}\n\n";
    let with = |usage: &str| {
        let text = event(
            "a",
            &format!(",\"finish_reason\": null}}], \"usage\": {usage}, \"x\":[{{"),
        );
        let end = event(
            "",
            &format!(",\"finish_reason\":\"stop\"}}],\"usage\":{usage},\"x\":[{{"),
        );
        (text, end)
    };
    for usage in [
        "{\"prompt_tokens\":1}",
        "{\"prompt_tokens\":1.5}",
        "{\"prompt_tokens\":null}",
        "{ }",
        "[-1]",
        "\"none\"",
    ] {
        let ((text, end), (text_without, end_without)) = (with(usage), with("null"));
        let alone = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
        let body = [&text, other, &end, &alone, "data: [DONE]\n\n"].concat();
        let (sent, _) = read(stream(), events(false), [body.as_bytes()]);
        assert_eq!(sent, [&text_without, other, &end_without].concat());
        let (sent, _) = read(stream(), events(true), [body.as_bytes()]);
        assert_eq!(sent, [&text, other, &end, &alone].concat());
    }
}

#[test]
fn an_answer_starts_with_its_first_content_and_without_any_is_a_failure() {
    let role: &[u8] = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    let call: &[u8] = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n";
    let done: &[u8] = b"data: [DONE]\n\n";
    let finish: &[u8] = b"data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
    let half_an_emoji: &[u8] = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"\\ud83d\"}}]}}]}\n\n";
    let (sent, end) = read(stream(), events(false), [half_an_emoji, finish, done]);
    assert_eq!(
        (sent.as_bytes(), end),
        ([half_an_emoji, finish].concat().as_slice(), Ok(None))
    );
    let none: &[u8] = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[]}}]}\n\n";
    assert!(read(stream(), events(false), [none, done]).1.is_err());
    let (sent, end) = read(stream(), events(false), [role, b": still here\n\n", done]);
    assert_eq!(sent, "");
    assert!(matches!(end, Err(UpstreamError::Unreadable(_))));
    let (sent, end) = read(stream(), events(false), [role, call, finish, done]);
    assert_eq!(
        (sent.as_bytes(), end),
        ([role, call, finish].concat().as_slice(), Ok(None))
    );
    assert!(
        read(stream(), ResponseFormat::Text, [role, call, done])
            .1
            .is_err(),
        "a tool call is no text"
    );
}

#[test]
fn text_before_an_error_is_sent_before_the_failure() {
    let text = event("part", "") + "data: {\"error\":{\"message\":\"CUDA\"}}\n\n";
    // Also where the server goes on as if nothing had happened.
    for after in ["", "data: [DONE]\n\n"] {
        let text = text.clone() + after;
        let (sent, end) = read(stream(), ResponseFormat::Text, [text.as_bytes()]);
        assert_eq!(sent, "part");
        assert!(matches!(end, Err(UpstreamError::Reported(_))));
    }
}

#[test]
fn a_whole_completion_is_relayed_unchanged_and_an_error_in_it_is_not() {
    let completion: &[u8] = b" {\"id\":\"x\",\"choices\":[{\"message\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1},\"z\":1.0}\n";
    let (sent, end) = read(json(), whole(), [&completion[..9], &completion[9..]]);
    assert_eq!(sent.as_bytes(), completion.trim_ascii());
    assert_eq!(
        end,
        Ok(Some(Tokens {
            prompt: 2,
            cached: 0,
            completion: 1
        }))
    );
    for bad in [
        "{\"error\":{\"message\":\"secret\"}}",
        "{\"choices\":[]}",
        "{}",
        "<html>",
        "",
        "[1]",
    ] {
        let (sent, end) = read(json(), whole(), [bad.as_bytes()]);
        assert!(sent.is_empty() && end.is_err(), "{bad}");
    }
}

#[test]
fn a_plain_text_is_written_in_openais_formats() {
    let pieces: [&[u8]; 3] = [b"w\xC3", b"\xB6rld", b" \xE2\x98"];
    assert_eq!(
        read(text(), ResponseFormat::Text, pieces).0,
        "w\u{f6}rld \u{FFFD}"
    );
    let (sent, end) = read(text(), events(false), pieces);
    assert_eq!(end, Ok(None));
    let mut again = Parser::default();
    again.push(sent.as_bytes());
    let mut joined = String::new();
    let mut last = String::new();
    while let Some(event) = again.next_event().unwrap() {
        let reading = ChatCompletions.event(&event.name, event.text()).unwrap();
        joined += &reading.text.map(text_of).unwrap_or_default();
        last = event.text().to_owned();
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(joined, "w\u{f6}rld \u{FFFD}");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    let whole = read(text(), whole(), pieces).0;
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(
        whole["choices"][0]["message"]["content"],
        "w\u{f6}rld \u{FFFD}"
    );
    assert!(
        read(text(), events(false), [&b""[..]]).1.is_err(),
        "an empty answer is a failure"
    );
}

fn event(text: &str, more: &str) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}{more}}}]}}\n\n")
}

#[test]
fn a_finish_reason_and_a_clean_end_without_done_is_a_whole_answer() {
    let is_whole = |events: &str| {
        let (text, end) = read(stream(), ResponseFormat::Text, [events.as_bytes()]);
        assert_eq!(text, "part", "{events}");
        let (relayed, same) = read(stream(), self::events(false), [events.as_bytes()]);
        assert!(relayed.contains("part"), "{relayed}");
        assert_eq!(end, same, "{events}");
        if let Err(error) = &end {
            assert!(
                matches!(error, UpstreamError::Cut(_) | UpstreamError::Reported(_)),
                "{error}"
            );
        }
        end.is_ok()
    };
    for reason in ["stop", "length", "tool_calls", "eos_token"] {
        let finish = format!(",\"index\":0,\"finish_reason\":\"{reason}\"");
        assert!(is_whole(&event("part", &finish)), "{reason}");
        let finish = event("", &finish);
        assert!(is_whole(&(event("part", "") + &finish)), "{reason}");
        // The usage comes after it.
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2}}\n\n";
        assert!(is_whole(&(event("part", "") + &finish + usage)), "{reason}");
    }
    for reason in ["null", "\"\"", "\" \"", "\"null\"", "7", "[]"] {
        let finish = format!(",\"finish_reason\":{reason}");
        assert!(!is_whole(&event("part", &finish)), "{reason}");
    }
    assert!(!is_whole(&event("part", "")));
    for reason in ["abort", "error"] {
        let finish = event("", &format!(",\"finish_reason\":\"{reason}\""));
        assert!(!is_whole(&(event("part", "") + &finish)), "{reason}");
    }
    let error = "data: {\"error\":{\"message\":\"CUDA\"}}\n\n";
    let finish = event("", ",\"finish_reason\":\"stop\"");
    assert!(!is_whole(&(event("part", "") + &finish + error)));
}

#[tokio::test]
async fn from_the_finish_reason_on_everything_is_withheld() {
    let finish = event("", ",\"finish_reason\":\"stop\"");
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2}}\n\n";
    for (pieces, free) in [
        ([event("part", ""), finish.clone()], false),
        ([finish.clone(), String::new()], true),
    ] {
        let tail = format!("{}{usage}", if free { &finish } else { &pieces[1] });
        let body = [pieces.concat().as_str(), usage, "data: [DONE]\n\n"].concat();
        let body = Pieces([Some(Bytes::from(body))].into());
        let mut answer = Answer::new(body, stream(), events(true));
        if !free {
            assert_eq!(answer.next().await.unwrap().unwrap(), event("part", ""));
        }
        assert_eq!(answer.next().await, Ok(None));
        assert_eq!(answer.has_content(), !free);
        assert_eq!(answer.take_end(None), tail);
    }
}

#[test]
fn the_last_event_needs_no_blank_line_after_it() {
    let text = event("part", "");
    let finish = event("", ",\"finish_reason\":\"stop\"");
    for done in [
        "data: [DONE]",
        "data: [DONE]\n",
        "data: [DONE]\r\n",
        "data: [DONE]\r",
        "data:[DONE] \n\n",
        "data:\t[DONE]\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}",
    ] {
        let (sent, end) = read(
            stream(),
            ResponseFormat::Text,
            [text.as_bytes(), finish.as_bytes(), done.as_bytes()],
        );
        assert_eq!((sent.as_str(), end), ("part", Ok(None)), "{done:?}");
    }
    let last = event("part", ",\"finish_reason\":\"stop\"");
    let (sent, end) = read(stream(), events(false), [last.trim_end().as_bytes()]);
    assert_eq!((sent, end), (last, Ok(None)));
    for cut in [
        "data: [DON",
        "data: {\"choi",
        "data",
        "da",
        "\n",
        ": comment",
    ] {
        let (sent, end) = read(
            stream(),
            ResponseFormat::Text,
            [text.as_bytes(), cut.as_bytes()],
        );
        assert_eq!(sent, "part", "{cut:?}");
        assert!(end.is_err(), "{cut:?}");
    }
}

#[test]
fn a_piece_that_begins_as_the_errors_of_r3mes_nodes_do_is_not_text() {
    let formats = || [ResponseFormat::Text, events(false), whole()];
    let is_error = |end: &Result<Option<Tokens>, UpstreamError>| matches!(end, Err(UpstreamError::Reported(what)) if what.contains("[Error: CUDA"));
    // Wherever the first piece is cut, it is put together.
    let first = b"\n[Error: CUDA secret]";
    for at in 0..9 {
        for format in formats() {
            let (sent, end) = read(text(), format, [&first[..at], &first[at..]]);
            assert!(sent.is_empty() && end.is_err(), "{sent}");
        }
    }
    for format in formats() {
        let whole = matches!(format, ResponseFormat::Whole { .. });
        let pieces: [&[u8]; 4] = [b"some ", b"words", first, b" more"];
        let (sent, end) = read(text(), format, pieces);
        assert!(is_error(&end), "{end:?}");
        assert!(!sent.contains("secret") && !sent.contains("more"), "{sent}");
        assert_eq!(whole, sent.is_empty(), "{sent}");
        assert!(
            whole || sent.contains("some ") && sent.contains("words"),
            "{sent}"
        );
    }
}

#[test]
fn a_model_that_quotes_an_error_is_not_aborted() {
    let honest: [&[&[u8]]; 6] = [
        &[b"the log reads:\n[Error: no]\nand no more"],
        &[b"the log reads:", b"\n", b"[Error", b": no]"],
        &[b"\n", b"[", b"Errors: none"],
        &[b"\n[Error"],
        &[b"\n"],
        &[b"[Error: no]"],
    ];
    for pieces in honest {
        let (sent, end) = read(text(), ResponseFormat::Text, pieces.iter().copied());
        assert_eq!(
            (sent.as_bytes(), end),
            (pieces.concat().as_slice(), Ok(None))
        );
    }
}

proptest! {
    #[test]
    fn the_boundaries_of_an_answers_pieces_change_nothing(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(REAL.len() + 1)).chain([0, REAL.len()]).collect();
        cuts.sort_unstable();
        for format in [ResponseFormat::Text, events(true), events(false)] {
            let pieces = cuts.windows(2).map(|pair| &REAL[pair[0]..pair[1]]);
            prop_assert_eq!(read(stream(), format.clone(), pieces), read(stream(), format, [REAL]));
        }
    }

    #[test]
    fn a_text_is_read_whole_wherever_it_is_cut(text in any::<String>(), at in any::<prop::sample::Index>()) {
        let (first, second) = text.as_bytes().split_at(at.index(text.len() + 1));
        let mut reader = TextReader::default();
        let read = reader.push(first).and_then(|first| Ok(first + &reader.push(second)? + &reader.end()));
        prop_assert_eq!(read, Ok(text));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut changed = REAL.to_vec();
        let at = at.index(changed.len());
        changed[at] = byte;
        for format in [ResponseFormat::Text, events(true), whole()] {
            let _ = read(stream(), format.clone(), [bytes.as_slice()]);
            let _ = read(stream(), format.clone(), [changed.as_slice()]);
            let _ = read(json(), format.clone(), [bytes.as_slice()]);
            let text = read(text(), format, [bytes.as_slice()]);
            prop_assert!(text.1.is_ok() != bytes.is_empty());
        }
    }
}

mod apis;
mod endings;
mod generated;
mod missing;
