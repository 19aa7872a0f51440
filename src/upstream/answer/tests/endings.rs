//! The recorded answers of every API, cut at random bytes and ended at random places, against what was in them until then.

use super::*;
use crate::model::Credits;
use crate::upstream::inference::wire::Meter;
use crate::upstream::inference::wire::tests::{Fixture, choices};
use crate::upstream::inference::{chat_completions, lists, messages, responses};

const APIS: [(Api, &[Fixture]); 6] = [
    (Api::Completions, chat_completions::tests::FIXTURES),
    (Api::ChatCompletions, chat_completions::tests::FIXTURES),
    (Api::Messages, messages::tests::FIXTURES),
    (Api::Responses, responses::tests::FIXTURES),
    (Api::Embeddings, lists::tests::FIXTURES),
    (Api::Rerank, lists::tests::FIXTURES),
];

/// What ends a stream in place of its rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// The end of the body.
    Clean,
    /// The loss of the connection.
    Lost,
    /// An event that reports an error, and then all of the rest.
    Error,
    /// What looks like the end of some API, and then the end of the body.
    Marker,
}

const ERRORS: [&str; 4] = [
    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"SECRET\"}}\n\n",
    "event: error\ndata: {\"code\":500,\"message\":\"SECRET\",\"type\":\"server_error\"}\n\n",
    "data: {\"error\":{\"code\":500,\"message\":\"SECRET\",\"type\":\"server_error\"}}\n\n",
    "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"SECRET\"}\n\n",
];

/// What says nothing, between two events.
const NOISE: [&str; 7] = [
    "",
    ": ping\n\n",
    "\n",
    "id: 7\nretry: 10\n\n",
    "event: ping\ndata: {}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "data:\n\n",
];

/// The same events, as another server might write them: with noise between them, with data on several lines, and with other
/// ends of lines.
fn rewritten(text: &str, noise: &str, splits: bool, line_end: &str) -> String {
    let mut text = text.replace("\n\n", &format!("\n\n{noise}"));
    if splits {
        text = text.replace("data: {", "data:\ndata: {\ndata:");
    }
    text.replace('\n', line_end)
}

/// The places after each event.
fn boundaries(text: &str, line_end: &str) -> Vec<usize> {
    let end = line_end.repeat(2);
    let ends = text.match_indices(&end).map(|(at, end)| at + end.len());
    std::iter::once(0).chain(ends).collect()
}

fn format(api: Api, is_stream: bool) -> ResponseFormat {
    let meta = meta();
    match is_stream {
        true => ResponseFormat::Events {
            api,
            include_usage: true,
            meta,
        },
        false => ResponseFormat::Whole { api, meta },
    }
}

/// What the events in these bytes say together, and how they end: with an error or the end of the stream.
fn metered(api: Api, choices: usize, text: &str) -> (Meter, Option<Result<(), ()>>) {
    let mut meter = Meter::new(choices);
    let mut parser = Parser::default();
    parser.push(text.as_bytes());
    while let Ok(Some(event)) = parser.next_event() {
        if event.text().is_empty() {
            continue;
        }
        if event.text() == "[DONE]" {
            return (meter, Some(Ok(())));
        }
        match api.wire().event(&event.name, event.text()) {
            Ok(reading) => {
                meter.add(&reading);
                if reading.is_end {
                    return (meter, Some(Ok(())));
                }
            }
            Err(_) => return (meter, Some(Err(()))),
        }
    }
    (meter, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(10_000)))]

    #[test]
    fn no_broken_answer_of_any_api_looks_whole_and_none_without_content_is_paid(
        api in prop::sample::select(APIS.to_vec()),
        fixture in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        ending in prop::sample::select(vec![Ending::Clean, Ending::Lost, Ending::Error, Ending::Marker]),
        error in prop::sample::select(ERRORS.to_vec()),
        noise in prop::sample::select(NOISE.to_vec()),
        splits in any::<bool>(),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (api, fixtures) = api;
        let (name, bytes, _) = fixture.get(fixtures);
        let is_stream = !name.ends_with(".json");
        let mut text = std::str::from_utf8(bytes).unwrap().to_owned();
        if is_stream {
            text = rewritten(&text, noise, splits, line_end);
        }
        let bytes = text.as_bytes();
        let ends = boundaries(&text, line_end);
        let mut bytes = match (is_stream, ending) {
            (true, Ending::Error | Ending::Marker) => text[..ends[at.index(ends.len())]].to_owned(),
            _ => String::from_utf8_lossy(&bytes[..at.index(bytes.len() + 1)]).into_owned(),
        };
        let (before, ended) = metered(api, choices(name), &bytes);
        if is_stream && ending == Ending::Error {
            let rest = text[bytes.len()..].to_owned();
            bytes += error;
            bytes += &rest;
        } else if is_stream && ending == Ending::Marker {
            bytes += "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\ndata: [DONE]\n\n";
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| Some(Bytes::copy_from_slice(&bytes.as_bytes()[pair[0]..pair[1]])));
        let lost = (ending == Ending::Lost).then_some(None);
        let upstream = if is_stream { stream() } else { json() };
        let mut answer = Answer::new(Pieces(pieces.chain(lost).collect()), upstream, format(api, is_stream));
        answer = answer.to(choices(name) as u32, None, true);
        let (sent, end) = read_content(&mut answer);
        let paid = Paid { tokens: Tokens::default(), cost: Credits::from_micro(7) };
        let tail = answer.take_end(end.is_ok().then_some(paid));
        let tail = String::from_utf8_lossy(&tail).into_owned();

        if is_stream {
            // A last event without an end counts where the body ends cleanly.
            let (after, _) = metered(api, choices(name), &format!("{bytes}\n\n"));
            let is_complete = match ending {
                Ending::Clean => after.may_end(),
                // An error after a finish is one, unless the stream had ended.
                Ending::Error => before.may_end() && ended == Some(Ok(())),
                _ => before.may_end(),
            };
            prop_assert_eq!(end.is_ok(), is_complete && ended != Some(Err(())), "{}: {:?}: {}", name, end, bytes);
            let ends: &[&str] = match api {
                Api::ChatCompletions | Api::Completions if choices(name) == 1 => &["\"finish_reason\":\"", "[DONE]"],
                Api::Messages => &["message_stop", "\"stop_reason\":\"", "[DONE]"],
                Api::Responses => &["\"response.completed\"", "\"response.incomplete\"", "[DONE]"],
                _ => &["[DONE]"],
            };
            for mark in ends.iter().chain(&["SECRET"]) {
                prop_assert!(!sent.contains(mark), "{}: {}", name, sent);
            }
            let read = if ending == Ending::Clean { after } else { before };
            prop_assert_eq!(answer.has_content(), read.has_content());
            prop_assert_eq!(answer.usage(), read.usage());
            prop_assert_eq!(answer.estimated_completion(), read.estimate());
            prop_assert!(answer.has_content() || sent.is_empty(), "{}: {}", name, sent);
            if api == Api::Messages && answer.has_content() {
                let starts = (sent.clone() + &tail).matches("event: message_start").count();
                prop_assert_eq!(starts, 1, "{}: {}", name, sent);
            }
        } else {
            let is_json = serde_json::from_str::<Value>(&bytes).is_ok();
            prop_assert!(sent.is_empty());
            prop_assert!(end.is_err() || (is_json && ending != Ending::Lost), "{}: {}", name, bytes);
        }
        if end.is_ok() && answer.has_content() && !bytes.trim_start().starts_with('[') {
            prop_assert_eq!(tail.matches("\"cost\":0.000007").count(), 1, "{}: {}", name, tail);
        }
    }
}
