use super::*;
use proptest::prelude::*;

fn named() -> CompletionMeta {
    CompletionMeta {
        id: "chatcmpl-1".to_owned(),
        created: 1,
        model: "general".to_owned(),
    }
}

fn events(usage: bool) -> ResponseFormat {
    ResponseFormat::Events {
        usage,
        named: named(),
    }
}

/// Everything a client reads of an answer that comes in these pieces, and how it ended.
fn read<'a>(
    wire: UpstreamFormat,
    form: ResponseFormat,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<Usage>, UpstreamError>) {
    let mut decoder = Decoder::new(wire, form);
    let mut told = Vec::new();
    let mut pieces = pieces.into_iter();
    let ended = loop {
        match decoder.step() {
            Ok(Step::Ready(piece)) => told.extend_from_slice(&piece),
            Ok(Step::Done) => break Ok(decoder.usage),
            Ok(Step::More) => {
                let more = match pieces.next() {
                    Some(piece) => decoder.take(piece),
                    None => decoder.end(),
                };
                if let Err(error) = more {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    (String::from_utf8(told).unwrap(), ended)
}

fn stream() -> UpstreamFormat {
    UpstreamFormat::Events(Parser::default())
}

const REAL: &[u8] = include_bytes!("../../../tests/it/fixtures/openai-stream.sse");

#[test]
fn a_real_stream_is_read_as_text_or_passed_on_and_its_usage_is_for_those_who_asked() {
    let usage = Some(Usage {
        prompt_tokens: 9,
        completion_tokens: 5,
    });
    assert_eq!(
        read(stream(), ResponseFormat::Text, [REAL]),
        ("Hello, w\u{f6}rld \u{2600}".to_owned(), Ok(usage))
    );
    let (told, ended) = read(stream(), events(true), [REAL]);
    assert_eq!(ended, Ok(usage));
    assert_eq!(format!("{told}data: [DONE]\n\n").as_bytes(), REAL);
    let (told, ended) = read(stream(), events(false), [REAL]);
    assert_eq!(ended, Ok(usage));
    assert!(
        !told.contains("prompt_tokens") && told.contains("w\\u00f6rld"),
        "{told}"
    );
}

#[test]
fn only_the_usage_is_kept_from_a_client_that_did_not_ask() {
    let text: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":1}}\n\n";
    let other: &[u8] = b"data: {\"choices\":[],\"filtered\":true}\n\n";
    let usage: &[u8] = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2}}\n\n";
    let (told, _) = read(
        stream(),
        events(false),
        [text, other, usage, b"data: [DONE]\n\n"],
    );
    assert_eq!(told.as_bytes(), [text, other].concat());
}

#[test]
fn what_is_no_content_waits_for_some_and_alone_it_is_a_failure() {
    let role: &[u8] = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    let call: &[u8] = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n";
    let done: &[u8] = b"data: [DONE]\n\n";
    let (told, ended) = read(stream(), events(false), [role, b": still here\n\n", done]);
    assert_eq!(told, "");
    assert!(matches!(ended, Err(UpstreamError::Unreadable(_))));
    let (told, ended) = read(stream(), events(false), [role, call, done]);
    assert_eq!(
        (told.as_bytes(), ended),
        ([role, call].concat().as_slice(), Ok(None))
    );
    assert!(
        read(stream(), ResponseFormat::Text, [role, call, done])
            .1
            .is_err(),
        "a tool call is no text"
    );
}

#[test]
fn what_came_before_a_fault_goes_out_before_it() {
    let text = event("part", "") + "data: {\"error\":{\"message\":\"CUDA\"}}\n\n";
    // Also where the server goes on as if nothing had happened.
    for after in ["", "data: [DONE]\n\n"] {
        let text = text.clone() + after;
        let (told, ended) = read(stream(), ResponseFormat::Text, [text.as_bytes()]);
        assert_eq!(told, "part");
        assert!(matches!(ended, Err(UpstreamError::Cut(_))));
    }
}

#[test]
fn a_whole_completion_comes_through_untouched_and_an_error_in_it_does_not() {
    let whole: &[u8] = b" {\"id\":\"x\",\"choices\":[{\"message\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1},\"z\":1.0}\n";
    let form = || ResponseFormat::Whole { named: named() };
    let (told, ended) = read(
        UpstreamFormat::Json(BytesMut::new()),
        form(),
        [&whole[..9], &whole[9..]],
    );
    assert_eq!(told.as_bytes(), whole.trim_ascii());
    assert_eq!(
        ended,
        Ok(Some(Usage {
            prompt_tokens: 2,
            completion_tokens: 1
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
        let (told, ended) = read(
            UpstreamFormat::Json(BytesMut::new()),
            form(),
            [bad.as_bytes()],
        );
        assert!(told.is_empty() && ended.is_err(), "{bad}");
    }
}

#[test]
fn a_text_is_told_in_openai_s_words() {
    let pieces: [&[u8]; 3] = [b"w\xC3", b"\xB6rld", b" \xE2\x98"];
    let wire = || UpstreamFormat::Text(NodeText::default());
    assert_eq!(
        read(wire(), ResponseFormat::Text, pieces).0,
        "w\u{f6}rld \u{FFFD}"
    );
    let (told, ended) = read(wire(), events(false), pieces);
    assert_eq!(ended, Ok(None));
    let mut again = Parser::default();
    again.push(told.as_bytes());
    let mut text = String::new();
    let mut last = None;
    while let Some(event) = again.next_event().unwrap() {
        let chunk = Chunk::parse(&event).unwrap();
        text += chunk.text().unwrap_or_default();
        last = chunk.choices()[0]
            .finish_reason()
            .map(|reason| reason.into_owned());
    }
    assert_eq!(
        (text.as_str(), last.as_deref()),
        ("w\u{f6}rld \u{FFFD}", Some("stop"))
    );
    let whole = read(wire(), ResponseFormat::Whole { named: named() }, pieces).0;
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(
        whole["choices"][0]["message"]["content"],
        "w\u{f6}rld \u{FFFD}"
    );
    assert!(
        read(wire(), events(false), [&b""[..]]).1.is_err(),
        "nothing is no answer"
    );
}

fn event(text: &str, more: &str) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}{more}}}]}}\n\n")
}

#[test]
fn a_finish_reason_and_a_clean_end_without_done_is_a_whole_answer() {
    let is_whole = |events: &str| {
        let (text, ended) = read(stream(), ResponseFormat::Text, [events.as_bytes()]);
        assert_eq!(text, "part", "{events}");
        let (passed_on, same) = read(stream(), self::events(false), [events.as_bytes()]);
        assert!(passed_on.contains("part"), "{passed_on}");
        assert_eq!(ended, same, "{events}");
        if let Err(error) = &ended {
            assert!(matches!(error, UpstreamError::Cut(_)), "{error}");
        }
        ended.is_ok()
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
    for reason in [
        "null",
        "\"\"",
        "\" \"",
        "\"null\"",
        "\"abort\"",
        "\"error\"",
        "7",
        "[]",
    ] {
        let finish = format!(",\"finish_reason\":{reason}");
        assert!(!is_whole(&event("part", &finish)), "{reason}");
    }
    assert!(!is_whole(&event("part", "")));
    let error = "data: {\"error\":{\"message\":\"CUDA\"}}\n\n";
    assert!(!is_whole(
        &(event("part", ",\"finish_reason\":\"stop\"") + error)
    ));
}

#[test]
fn every_choice_that_appeared_has_to_finish() {
    let choice = |index: usize, finish: &str| event("a", &format!(",\"index\":{index}{finish}"));
    let finish = ",\"finish_reason\":\"stop\"";
    let ended = |events: String| read(stream(), ResponseFormat::Text, [events.as_bytes()]).1;
    let begun = choice(0, "") + &choice(1, "");
    assert!(ended(begun.clone() + &choice(0, finish)).is_err());
    assert!(ended(begun.clone() + &choice(0, finish) + &choice(1, finish)).is_ok());
    // What comes after a finish does not take it back.
    assert!(ended(begun + &choice(1, finish) + &choice(0, finish) + &choice(0, "")).is_ok());
    let many: String = (0..200).map(|index| choice(index, finish)).collect();
    assert!(matches!(ended(many), Err(UpstreamError::Unreadable(_))));
}

#[test]
fn the_last_event_needs_no_blank_line_after_it() {
    let text = event("part", "");
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
        let (told, ended) = read(
            stream(),
            ResponseFormat::Text,
            [text.as_bytes(), done.as_bytes()],
        );
        assert_eq!((told.as_str(), ended), ("part", Ok(None)), "{done:?}");
    }
    let last = event("part", ",\"finish_reason\":\"stop\"");
    let (told, ended) = read(stream(), events(false), [last.trim_end().as_bytes()]);
    assert_eq!((told, ended), (last, Ok(None)));
    for cut in [
        "data: [DON",
        "data: {\"choi",
        "data",
        "da",
        "\n",
        ": comment",
    ] {
        let (told, ended) = read(
            stream(),
            ResponseFormat::Text,
            [text.as_bytes(), cut.as_bytes()],
        );
        assert_eq!(told, "part", "{cut:?}");
        assert!(ended.is_err(), "{cut:?}");
    }
}

#[test]
fn a_piece_that_begins_as_an_r3mes_node_begins_its_errors_is_none_of_the_text() {
    let wire = || UpstreamFormat::Text(NodeText::default());
    let forms = || {
        [
            ResponseFormat::Text,
            events(false),
            ResponseFormat::Whole { named: named() },
        ]
    };
    let is_error = |ended: &Result<Option<Usage>, UpstreamError>| matches!(ended, Err(UpstreamError::Cut(what)) if what.contains("[Error: CUDA"));
    // Wherever the first piece is cut, it is put together.
    let first = b"\n[Error: CUDA secret]";
    for at in 0..9 {
        for form in forms() {
            let (told, ended) = read(wire(), form, [&first[..at], &first[at..]]);
            assert!(told.is_empty() && ended.is_err(), "{told}");
        }
    }
    for form in forms() {
        let whole = matches!(form, ResponseFormat::Whole { .. });
        let pieces: [&[u8]; 4] = [b"some ", b"words", first, b" more"];
        let (told, ended) = read(wire(), form, pieces);
        assert!(is_error(&ended), "{ended:?}");
        assert!(!told.contains("secret") && !told.contains("more"), "{told}");
        assert_eq!(whole, told.is_empty(), "{told}");
        assert!(
            whole || told.contains("some ") && told.contains("words"),
            "{told}"
        );
    }
}

#[test]
fn a_model_that_quotes_an_error_is_not_cut_off() {
    let honest: [&[&[u8]]; 6] = [
        &[b"the log says:\n[Error: no]\nand no more"],
        &[b"the log says:", b"\n", b"[Error", b": no]"],
        &[b"\n", b"[", b"Errors: none"],
        &[b"\n[Error"],
        &[b"\n"],
        &[b"[Error: no]"],
    ];
    for pieces in honest {
        let (told, ended) = read(
            UpstreamFormat::Text(NodeText::default()),
            ResponseFormat::Text,
            pieces.iter().copied(),
        );
        assert_eq!(
            (told.as_bytes(), ended),
            (pieces.concat().as_slice(), Ok(None))
        );
    }
}

proptest! {
    #[test]
    fn where_an_answer_is_cut_changes_nothing(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(REAL.len() + 1)).chain([0, REAL.len()]).collect();
        places.sort_unstable();
        for form in [ResponseFormat::Text, events(true), events(false)] {
            let pieces = places.windows(2).map(|pair| &REAL[pair[0]..pair[1]]);
            prop_assert_eq!(read(stream(), form.clone(), pieces), read(stream(), form, [REAL]));
        }
    }

    #[test]
    fn a_text_comes_out_whole_wherever_it_is_cut(text in any::<String>(), at in any::<prop::sample::Index>()) {
        let (first, second) = text.as_bytes().split_at(at.index(text.len() + 1));
        let mut utf8 = utf8::Utf8::default();
        prop_assert_eq!(utf8.push(first) + &utf8.push(second) + utf8.end(), text);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut changed = REAL.to_vec();
        let at = at.index(changed.len());
        changed[at] = byte;
        for form in [ResponseFormat::Text, events(true), ResponseFormat::Whole { named: named() }] {
            let _ = read(stream(), form.clone(), [bytes.as_slice()]);
            let _ = read(stream(), form.clone(), [changed.as_slice()]);
            let _ = read(UpstreamFormat::Json(BytesMut::new()), form.clone(), [bytes.as_slice()]);
            let text = read(UpstreamFormat::Text(NodeText::default()), form, [bytes.as_slice()]);
            prop_assert!(text.1.is_ok() != bytes.is_empty());
        }
    }
}
