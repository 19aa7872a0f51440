//! Answers of every kind mixed at random, cut at random bytes, against a model of what they are.

use super::*;

/// A part of a stream, and what it means.
#[derive(Clone, Debug)]
enum Part {
    /// Text, which every client reads.
    Text(String),
    /// Content for clients of `/v1` alone.
    Other(&'static str),
    /// Neither content nor an error; `{}` stands for what is in an event of the format.
    Nothing(&'static str),
    Error(&'static str),
    /// The server gives up, with some text or none.
    GivenUp(&'static str, &'static str),
    Finish(&'static str),
    Done(&'static str),
}

/// How the body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Clean,
    Lost,
}

const OTHER: [&str; 6] = [
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\ud83d"}}]}}]}"#,
    r#"{"choices":[{"delta":{"reasoning_content":"why"},"finish_reason":null}]}"#,
    r#"{"choices":[{"delta":{"reasoning":{"text":"why"}},"finish_reason":""}]}"#,
    r#"{"choices":[{"delta":{"refusal":"no"}}]}"#,
    r#"{"choices":[{"delta":{"audio":{"id":"x"}}}]}"#,
    r#"{"choices":[{"delta":{"function_call":{"name":"f"}}}]}"#,
];

const NOTHING: [&str; 14] = [
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[ ]},\"finish_reason\":\"null\"}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"refusal\":false,\"reasoning\":{}},\"finish_reason\":\"\"}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":null},\"finish_reason\":null}]}\r\n\r\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1.5}}\n\n",
    "data: {\"prompt_progress\":{\"total\":9}}\n\n",
    "data: {\"choices\":[7],\"error\":null}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    ": keep-alive\n\n",
    "data:\n\n",
    "id: 7\n\n",
    "retry: 10\r\r",
    "\n",
];

const ERRORS: [&str; 12] = [
    "error: {\"message\":\"SECRET\"}\n\n",
    "event: error\ndata: {\"message\":\"SECRET\"}\n\n",
    "event: error\ndata: [DONE]\n\n",
    "data: {\"error\":{\"message\":\"SECRET\"}}\n\n",
    "data: {\"error\":\"SECRET\",\"choices\":[]}\n\n",
    "data: {\"object\":\"error\",\"message\":\"SECRET\"}\n\n",
    "data: {\"text\":\"SECRET\",\"error_code\":50001}\n\n",
    "data: {\"type\":\"error\",\"message\":\"SECRET\"}\n\n",
    "data: {\"detail\":\"SECRET\"}\n\n",
    "<html>SECRET</html>\n\n",
    "{\"message\":\"SECRET\"}\n\n",
    "data: <html>SECRET</html>\n\n",
];

const FINISHES: [&str; 5] = [
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "eos_token",
];

const GIVEN_UP: [(&str, &str); 3] = [("abort", ""), ("abort", "last"), ("error", "")];

const DONE: [&str; 5] = [
    "data: [DONE]\n\n",
    "data:[DONE]\r\n\r\n",
    "data: [DONE]\n",
    "data: [DONE]",
    "data: [DONE] \r\r",
];

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        6 => "[a-z ]{1,5}".prop_map(Part::Text),
        2 => prop::sample::select(&OTHER[..]).prop_map(Part::Other),
        5 => prop::sample::select(&NOTHING[..]).prop_map(Part::Nothing),
        1 => prop::sample::select(&ERRORS[..]).prop_map(Part::Error),
        1 => prop::sample::select(&GIVEN_UP[..]).prop_map(|(reason, text)| Part::GivenUp(reason, text)),
        1 => prop::sample::select(&FINISHES[..]).prop_map(Part::Finish),
    ]
}

fn end() -> impl Strategy<Value = (Option<Part>, Option<Part>, End)> {
    let finish = prop::sample::select(&FINISHES[..]).prop_map(Part::Finish);
    let done = prop::sample::select(&DONE[..]).prop_map(Part::Done);
    (
        prop::option::weighted(0.7, finish),
        prop::option::weighted(0.7, done),
        prop_oneof![9 => Just(End::Clean), 1 => Just(End::Lost)],
    )
}

impl Part {
    fn bytes(&self) -> String {
        match self {
            Self::Text(text) => event(text, ""),
            Self::Other(event) => format!("data: {event}\n\n"),
            Self::Finish(reason) => event("", &format!(",\"finish_reason\":\"{reason}\"")),
            Self::GivenUp(reason, text) => event(text, &format!(",\"finish_reason\":\"{reason}\"")),
            Self::Nothing(bytes) | Self::Error(bytes) | Self::Done(bytes) => (*bytes).to_owned(),
        }
    }
}

/// What a client may read of an answer: whether it is whole, whether it has content, and its text before an error.
fn model(parts: &[Part], text_only: bool) -> (bool, bool, String) {
    let (mut finished, mut content, mut read) = (false, false, String::new());
    for part in parts {
        match part {
            Part::Text(text) => {
                content = true;
                read += text;
            }
            Part::Other(_) => content |= !text_only,
            Part::Nothing(_) => {}
            Part::Error(_) => return (false, content, read),
            Part::GivenUp(_, text) => return (false, content || !text.is_empty(), read + text),
            Part::Finish(_) => finished = true,
            // Without it the end of the body is the end, and a connection that is lost after a finish loses nothing.
            Part::Done(_) => break,
        }
    }
    (finished, content, read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(10_000)))]

    #[test]
    fn a_broken_answer_never_looks_whole_and_a_whole_one_is_never_cut(
        mut parts in prop::collection::vec(part(), 0..8),
        (finish, done, end) in end(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        text_only in any::<bool>(),
        include_usage in any::<bool>(),
    ) {
        parts.extend(finish);
        parts.extend(done);
        let bytes: String = parts.iter().map(Part::bytes).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| Some(Bytes::copy_from_slice(&bytes.as_bytes()[pair[0]..pair[1]])));
        // A connection that is lost in the last line loses the line.
        let lost = (end == End::Lost && bytes.ends_with(['\n', '\r'])).then_some(None);
        let format = if text_only { ResponseFormat::Text } else { events(include_usage) };
        let mut answer = Answer::new(Pieces(pieces.chain(lost).collect()), stream(), format);
        let (sent, end) = read_content(&mut answer);
        let (whole, content, text) = model(&parts, text_only);

        prop_assert_eq!(answer.has_content(), content, "{:?}", end);
        let tail = answer.take_end(None);
        let tail = std::str::from_utf8(&tail).unwrap();
        prop_assert!(!sent.contains("SECRET") && !tail.contains("SECRET"), "{} {}", sent, tail);
        match (&end, text_only && !content) {
            (Ok(()), false) => prop_assert!(whole),
            (Err(UpstreamError::NoText), true) => prop_assert!(whole),
            (Err(_), _) => prop_assert!(!whole, "{:?}", end),
            (Ok(()), true) => prop_assert!(false, "an answer without text"),
        }
        if text_only {
            prop_assert_eq!(sent + tail, text);
        } else if content {
            // Nothing that a client reads as the end comes before it.
            prop_assert!(!sent.contains("\"finish_reason\":\"stop\"") && !sent.contains("[DONE]"), "{}", sent);
            let mut parser = Parser::default();
            parser.push((sent + tail).as_bytes());
            let mut read = String::new();
            while let Some(event) = parser.next_event().unwrap() {
                read += &ChatCompletions.event(&event.name, event.text()).unwrap().text.map(text_of).unwrap_or_default();
            }
            prop_assert_eq!(read, text);
        }
    }
}
