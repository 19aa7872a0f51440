//! What each kind of a server's refusal, broken answer or odd but whole one means for its client, its money, its breaker, and
//! the other servers: the kinds A1 to A10, A12 and A16 to A21 of the faults found from outside. (A11 is an address that is no
//! start, in `config.rs`; the times of A7 are in `nodes.rs`.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::http10::{self, CHAT, read_to_end};
use crate::support::{
    Caller, RawAnswer, RawRequest, RawUpstream, TestServer, Then, W1, config_with_nodes,
    eventually, next_text,
};

/// Fault, form of the answer, what the client saw: status, code, `Retry-After`, bytes of the model's text and how the answer
/// ended; what was charged, the breaker whose health check fails after one counted failure, and whether a second server is
/// asked, which is well.
const TABLE: &str = "
A1  a line `error: {...}`              text    502 upstream_bad_response            0 clean  0  OPEN    next
A1  a line `error: {...}`              events  502 upstream_bad_response            0 clean  0  OPEN    next
A1  a line `error: {...}` after text   text    200                                  4 cut    1  OPEN    none
A1  a line `error: {...}` after text   events  200 error event                      4 cut    1  OPEN    none
A1  an error page after text           text    200                                  4 cut    1  OPEN    none
A1  an error page after text           events  200 error event                      4 cut    1  OPEN    none
A1  a line of JSON after text          text    200                                  4 cut    1  OPEN    none
A1  a line of JSON after text          events  200 error event                      4 cut    1  OPEN    none
A2  an object `error`                  text    502 upstream_bad_response            0 clean  0  OPEN    next
A2  an object `error`                  events  502 upstream_bad_response            0 clean  0  OPEN    next
A2  an object `error` after text       text    200                                  4 cut    1  OPEN    none
A2  an object `error` after text       events  200 error event                      4 cut    1  OPEN    none
A2  an `error_code` after text         text    200                                  4 cut    1  OPEN    none
A2  an `error_code` after text         events  200 error event                      4 cut    1  OPEN    none
A2  an event `error` after text        text    200                                  4 cut    1  OPEN    none
A2  an event `error` after text        events  200 error event                      4 cut    1  OPEN    none
A2  a type `error` after text          text    200                                  4 cut    1  OPEN    none
A2  a type `error` after text          events  200 error event                      4 cut    1  OPEN    none
A2  a `detail` after text              text    200                                  4 cut    1  OPEN    none
A2  a `detail` after text              events  200 error event                      4 cut    1  OPEN    none
A2  a 200 with a `detail`              whole   502 upstream_bad_response            0 clean  0  OPEN    next
A3  the finish reason abort            text    200                                  4 cut    1  OPEN    none
A3  the finish reason abort            events  200 error event                      4 cut    1  OPEN    none
A3  the finish reason abort            whole   502 upstream_bad_response            0 clean  0  OPEN    next
A3  the finish reason error            text    200                                  4 cut    1  OPEN    none
A3  the finish reason error            events  200 error event                      4 cut    1  OPEN    none
A3  the finish reason error            whole   502 upstream_bad_response            0 clean  0  OPEN    next
A3  no finish reason                   text    200                                  4 cut    1  OPEN    none
A3  no finish reason                   events  200 error event                      4 cut    1  OPEN    none
A3  finish reasons that are empty      text    200                                  4 cut    1  OPEN    none
A3  finish reasons that are empty      events  200 error event                      4 cut    1  OPEN    none
A3  empty contents and finish reasons  text    502 upstream_bad_response            0 clean  0  OPEN    next
A3  empty contents and finish reasons  events  502 upstream_bad_response            0 clean  0  OPEN    next
A3  empty ones, then text and a finish text    200                                  4 clean  1  CLOSED  none
A3  empty ones, then text and a finish events  200                                  4 clean  1  CLOSED  none
A4  it is cut after text               http10  200                                  4 reset  1  OPEN    none
A4  it ends well                       http10  200                                  4 clean  1  CLOSED  none
A5  it answers 401                     text    502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 401                     events  502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 401                     whole   502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 403                     events  502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 302                     events  502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 404                     events  501 not_supported                    0 clean  0  CLOSED  next
A5  it answers 405                     events  501 not_supported                    0 clean  0  CLOSED  next
A5  it answers 501                     events  501 not_supported                    0 clean  0  CLOSED  next
A5  404, it has no such model          events  502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers 418                     events  502 upstream_bad_response            0 clean  0  CLOSED  next
A5  it answers a page                  events  502 upstream_bad_response            0 clean  0  OPEN    next
A5  it answers gzip                    events  502 upstream_bad_response            0 clean  0  OPEN    next
A5  it answers 500                     events  502 upstream_bad_response            0 clean  0  OPEN    next
A6  [DONE] with one line end           text    200                                  4 clean  1  CLOSED  none
A6  [DONE] with one line end           events  200                                  4 clean  1  CLOSED  none
A6  half a surrogate pair              text    200                                  7 clean  1  CLOSED  none
A6  half a surrogate pair              events  200                                  4 clean  1  CLOSED  none
A6  its content in parts               text    200                                  4 clean  1  CLOSED  none
A6  its content in parts               events  200                                  4 clean  1  CLOSED  none
A6  members of other types             text    200                                  4 clean  1  CLOSED  none
A6  members of other types             events  200                                  4 clean  1  CLOSED  none
A6  events of another kind between     text    200                                  4 clean  1  CLOSED  none
A6  events of another kind between     events  200                                  4 clean  1  CLOSED  none
A7  comments and reasoning, then text  text    200                                  4 clean  1  CLOSED  none
A7  comments and reasoning, then text  events  200                                  4 clean  1  CLOSED  none
A7  a comment, then nothing            text    504 upstream_timeout                 0 clean  0  OPEN    next
A7  a comment, then nothing            events  504 upstream_timeout                 0 clean  0  OPEN    next
A8  it ends well without text          text    502 upstream_bad_response            0 clean  0  CLOSED  none
A8  it ends well without text          events  200                                  0 clean  0  CLOSED  none
A8  it ends well without text          whole   200                                  0 clean  0  CLOSED  none
A9  it refuses stream_options          text    200                                  4 clean  1  CLOSED  none
A9  it refuses stream_options          events  200                                  4 clean  1  CLOSED  none
A10 it closes as the next chat comes   events  200                                  4 clean  1  CLOSED  none
A12 usage that is odd                  text    200                                  4 clean  1  CLOSED  none
A12 usage that is odd                  events  200                                  4 clean  1  CLOSED  none
A16 429, Retry-After: 30               text    503 overloaded after 30              0 clean  0  CLOSED  next
A16 429, Retry-After: 30               events  503 overloaded after 30              0 clean  0  CLOSED  next
A16 429, Retry-After: 30               whole   503 overloaded after 30              0 clean  0  CLOSED  next
A16 429                                events  503 overloaded after 1               0 clean  0  CLOSED  next
A16 503, Retry-After: 30               events  503 overloaded after 30              0 clean  0  CLOSED  next
A16 503                                events  502 upstream_bad_response            0 clean  0  OPEN    next
A16 503 while it loads, then an answer text    200                                  4 clean  1  CLOSED  next
A16 503 while it loads, then an answer events  200                                  4 clean  1  CLOSED  next
A16 503 while it loads, then an answer whole   200                                  4 clean  1  CLOSED  next
A16 503 loading, Retry-After: 30       events  503 model_loading after 30           0 clean  0  CLOSED  next
A16 503 loading for too long           events  503 model_loading after 5            0 clean  0  CLOSED  next
A17 it closes after each stream        text    200                                  4 clean  1  CLOSED  none
A17 it closes after each stream        events  200                                  4 clean  1  CLOSED  none
A18 no [DONE] after its finish         text    200                                  4 clean  1  CLOSED  none
A18 no [DONE] after its finish         events  200                                  4 clean  1  CLOSED  none
A19 400, its model was swapped         text    200                                  4 clean  1  CLOSED  none
A19 400, its model was swapped         events  200                                  4 clean  1  CLOSED  none
A19 400, it has no such model          events  502 upstream_bad_response            0 clean  0  CLOSED  next
A20 500 for a picture                  events  400 unsupported_media                0 clean  0  CLOSED  next
A20 500 for this request, it is well   events  502 upstream_bad_response            0 clean  0  CLOSED  next
A21 400, the context is too long       text    400 context_length_exceeded          0 clean  0  CLOSED  none
A21 400, the context is too long       events  400 context_length_exceeded          0 clean  0  CLOSED  none
A21 400, the context is too long       whole   400 context_length_exceeded          0 clean  0  CLOSED  none
A21 400, no such grammar               events  400 invalid_schema                   0 clean  0  CLOSED  none
A21 400, a wrong type                  events  400 invalid_request                  0 clean  0  CLOSED  none
A21 413                                events  400 invalid_request                  0 clean  0  CLOSED  none
A21 422                                events  400 invalid_request                  0 clean  0  CLOSED  none
";

const FAULT: usize = 39;

fn status(line: &str, headers: &str, body: &str) -> RawAnswer {
    let length = body.len();
    let head = format!("HTTP/1.1 {line}\r\n{headers}Content-Length: {length}\r\n\r\n");
    RawAnswer::new(head + body, Then::Keep)
}

fn error(line: &str, message: &str) -> RawAnswer {
    let body = json!({ "error": { "message": format!("{message} secret"), "param": null } });
    status(line, "", &body.to_string())
}

/// A whole answer in the form that the request asks for.
fn answer(request: &RawRequest, text: Option<&str>, then: Then) -> RawAnswer {
    let finish = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    if !request.body.contains("\"stream\":true") {
        let message = json!({ "role": "assistant", "content": text });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        return status("200 OK", "", &json!({ "choices": [choice] }).to_string());
    }
    let word = text.map(|text| {
        let choice = json!({ "index": 0, "delta": { "content": text } });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    });
    let end = format!("data: {finish}\n\ndata: [DONE]\n\n");
    let word = word.unwrap_or_else(|| ": nothing\n\n".to_owned());
    RawAnswer::chunked(EVENTS, &[&word, &end], then)
}

/// What a server streams in a row, where `WORD` is a text and `FINISH` the finish; `[DONE]` is after them unless it is there.
const STREAMS: &[(&str, &str)] = &[
    (
        "a line `error: {...}`",
        "error: {\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "a line `error: {...}` after text",
        "WORDerror: {\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "an error page after text",
        "WORD<html>secret</html>\n\nFINISH",
    ),
    (
        "a line of JSON after text",
        "WORD{\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "an object `error`",
        "data: {\"object\":\"error\",\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "an object `error` after text",
        "WORDdata: {\"object\":\"error\",\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "an `error_code` after text",
        "WORDdata: {\"text\":\"secret\",\"error_code\":50001}\n\nFINISH",
    ),
    (
        "an event `error` after text",
        "WORDevent: error\ndata: {\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "a type `error` after text",
        "WORDdata: {\"type\":\"error\",\"message\":\"secret\"}\n\nFINISH",
    ),
    (
        "a `detail` after text",
        "WORDdata: {\"detail\":\"secret\"}\n\nFINISH",
    ),
    (
        "the finish reason abort",
        "WORDdata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n",
    ),
    (
        "the finish reason error",
        "WORDdata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
    ),
    ("no finish reason", "WORD"),
    (
        "empty ones, then text and a finish",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\",\"tool_calls\":[ ]},\"finish_reason\":\"\"}]}\n\nWORD\
         data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"null\"}]}\n\nFINISH",
    ),
    (
        "events of another kind between",
        ": keep-alive\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\nWORDdata: {\"choices\":[7]}\n\nFINISH",
    ),
    (
        "finish reasons that are empty",
        "WORDdata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"\"}]}\n\n\
         data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"null\"}]}\n\n",
    ),
    (
        "empty contents and finish reasons",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[ ]},\"finish_reason\":\"\"}]}\n\n",
    ),
    ("it is cut after text", "WORD[DONE]"),
    ("it ends well", "WORDFINISH"),
    ("[DONE] with one line end", "WORDFINISHdata: [DONE]\n"),
    (
        "half a surrogate pair",
        "WORDdata: {\"choices\":[{\"delta\":{\"content\":\"\\ud83d\"}}]}\n\nFINISH",
    ),
    (
        "its content in parts",
        "data: {\"choices\":[{\"delta\":{\"content\":[{\"type\":\"text\",\"text\":\"part\"}]}}]}\n\nFINISH",
    ),
    (
        "members of other types",
        "WORDdata: {\"choices\":[{\"index\":\"0\",\"delta\":{\"refusal\":false,\"reasoning\":{}},\"finish_reason\":7}]}\n\nFINISH",
    ),
    (
        "comments and reasoning, then text",
        ": loading\n\n: prompt\n\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\nWORDFINISH",
    ),
    (
        "usage that is odd",
        "data: {\"choices\":[{\"delta\":{\"content\":\"part\"}}],\"usage\":{\"prompt_tokens\":-1,\"secret\":null}}\n\nFINISH\
         data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1.5,\"secret\":null}}\n\n",
    ),
    ("no [DONE] after its finish", "WORDFINISH[DONE]"),
];

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";

/// The answer of a row of [`STREAMS`], if it is one.
fn stream(fault: &str) -> Option<RawAnswer> {
    let (_, pieces) = STREAMS.iter().find(|(named, _)| *named == fault)?;
    let word = "data: {\"choices\":[{\"delta\":{\"content\":\"part\"}}]}\n\n";
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let mut text = pieces.replace("WORD", word).replace("FINISH", finish);
    match pieces.split_once("[DONE]") {
        None => text += "data: [DONE]\n\n",
        // Its place is there, but it is not.
        Some((_, "")) => text = text.replace("[DONE]", ""),
        Some(_) => {}
    }
    Some(RawAnswer::chunked(EVENTS, &[&text], Then::Keep))
}

/// What the server of a row answers; `chats` are the chats before this one.
fn script(fault: &str, request: &RawRequest, chats: usize) -> RawAnswer {
    const LOADING: &str =
        r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    let ok = |then| answer(request, Some("part"), then);
    let (kind, fault) = fault.split_at(4);
    if request.is("GET /v1/models") {
        let is_healthy = kind == "A19 " || fault.ends_with("it is well");
        let model = if chats > 0 { "large" } else { "tiny" };
        return match is_healthy {
            true => status(
                "200 OK",
                "",
                &format!("{{\"data\":[{{\"id\":\"{model}\"}}]}}"),
            ),
            false => error("500 Internal Server Error", "not well"),
        };
    }
    let is_whole = !request.body.contains("\"stream\":true");
    if !is_whole && let Some(answer) = stream(fault) {
        return answer;
    }
    match fault {
        "a comment, then nothing" => {
            let chunk = "Transfer-Encoding: chunked\r\n\r\n5\r\n: a\n\n\r\n";
            RawAnswer::new(format!("{EVENTS}\r\n{chunk}"), Then::Keep)
        }
        "a 200 with a `detail`" => status("200 OK", "", "{\"detail\":\"secret\"}"),
        "the finish reason abort" | "the finish reason error" => {
            let reason = &fault["the finish reason ".len()..];
            let choice = json!({ "message": { "content": "part" }, "finish_reason": reason });
            status("200 OK", "", &json!({ "choices": [choice] }).to_string())
        }
        "it answers 401" => error("401 Unauthorized", "no such key"),
        "it answers 403" => error("403 Forbidden", ""),
        "it answers 302" => status("302 Found", "Location: /login\r\n", "secret"),
        "it answers 404" => status("404 Not Found", "", "404 page not found"),
        "it answers 405" => error("405 Method Not Allowed", ""),
        "it answers 418" => error("418 I'm a teapot", ""),
        "it answers 501" => error("501 Not Implemented", ""),
        "it answers 500" => error("500 Internal Server Error", "out of memory"),
        "404, it has no such model" => error("404 Not Found", "model 'tiny' not found"),
        "it answers a page" => status("200 OK", "Content-Type: text/html\r\n", "<html>secret"),
        "it answers gzip" => status("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}secret"),
        "it ends well without text" => answer(request, None, Then::Keep),
        "it refuses stream_options" if request.body.contains("stream_options") => error(
            "400 Bad Request",
            "Unrecognized request argument supplied: stream_options",
        ),
        // The first answer ends well; the connection is reset when the second request comes on it.
        "it closes as the next chat comes" if request.on_connection > 0 => {
            RawAnswer::new("", Then::Reset)
        }
        "429, Retry-After: 30" => status("429 Too Many Requests", "Retry-After: 30\r\n", "{}"),
        "429" => status("429 Too Many Requests", "", "{}"),
        "503, Retry-After: 30" => status("503 Service Unavailable", "Retry-After: 30\r\n", "{}"),
        "503" => status("503 Service Unavailable", "", "{}"),
        "503 while it loads, then an answer" if chats < 2 => {
            status("503 Service Unavailable", "", LOADING)
        }
        "503 loading, Retry-After: 30" => {
            status("503 Service Unavailable", "Retry-After: 30\r\n", LOADING)
        }
        "503 loading for too long" => status("503 Service Unavailable", "", LOADING),
        "it closes after each stream" => ok(Then::Close),
        "400, its model was swapped"
            if chats > 0 && !request.body.contains("\"model\":\"large\"") =>
        {
            error("400 Bad Request", "Invalid model name passed in model=tiny")
        }
        "400, it has no such model" => error("400 Bad Request", "Invalid model name"),
        "500 for a picture" => error(
            "500 Internal Server Error",
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        ),
        "500 for this request, it is well" => error("500 Internal Server Error", "assertion"),
        "400, the context is too long" => error(
            "400 Bad Request",
            "This model's maximum context length is 8192 tokens. However, you requested 9001",
        ),
        "400, no such grammar" => error(
            "400 Bad Request",
            "Failed to initialize samplers: failed to parse grammar",
        ),
        "400, a wrong type" => status(
            "400 Bad Request",
            "",
            r#"{"error":{"message":"secret","param":"temperature"}}"#,
        ),
        "413" => status("413 Payload Too Large", "", "secret"),
        "422" => status("422 Unprocessable Content", "", "{}"),
        _ => ok(Then::Keep),
    }
}

struct Row {
    server: TestServer,
    caller: Caller,
    form: &'static str,
    /// How many chats the odd server and the good one had.
    asked: [Arc<AtomicUsize>; 2],
    _upstreams: [RawUpstream; 2],
}

impl Row {
    /// The odd server alone, or before a good one.
    async fn set_up(fault: &'static str, form: &'static str, is_alone: bool) -> Self {
        let asked: [Arc<AtomicUsize>; 2] = Default::default();
        let count = Arc::clone(&asked[0]);
        let odd = RawUpstream::start(move |request| {
            let is_chat = request.is("POST /v1/chat/completions");
            let chats = match is_chat {
                true => count.fetch_add(1, Ordering::SeqCst),
                false => count.load(Ordering::SeqCst),
            };
            script(fault, request, chats)
        })
        .await;
        let count = Arc::clone(&asked[1]);
        let good = RawUpstream::start(move |request| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(request, Some("good"), Then::Keep)
        })
        .await;
        let urls = match is_alone {
            true => vec![odd.url()],
            false => vec![odd.url(), good.url()],
        };
        let mut config = config_with_nodes("openai", &urls);
        for node in &mut config.inference {
            node.model = "tiny".to_owned();
        }
        if fault.contains("its model was swapped") {
            config.inference[0].model = String::new();
        }
        config.breaker.consecutive_failures = 1;
        if fault.contains("for too long") {
            config.chat.head_timeout = Duration::from_millis(200);
        }
        if fault.ends_with("then nothing") {
            config.chat.first_text_timeout = Duration::from_millis(200);
        }
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 9).await;
        Self {
            server,
            caller,
            form,
            asked,
            _upstreams: [odd, good],
        }
    }

    /// What the client sees, and the status.
    async fn ask(&self) -> (String, u16) {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let (path, body) = match self.form {
            "text" | "http10" => (CHAT, json!({ "message": "hi" })),
            form => {
                let body =
                    json!({ "stream": form == "events", "messages": messages, "temperature": 1 });
                ("/v1/chat/completions", body)
            }
        };
        let mut after = String::new();
        let (status, text, end) = if self.form == "http10" {
            let (answer, end) = read_to_end(http10::ask(&self.caller, path).await).await;
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            let status: u16 = head["HTTP/1.0 ".len()..][..3].parse().unwrap();
            let end = if end.is_ok() { "clean" } else { "reset" };
            (status, text.to_owned(), end)
        } else {
            let body = body.to_string();
            let opened = self.caller.open(Method::POST, path, &[], body).await;
            let (status, headers, mut body) = opened;
            if let Some(seconds) = headers.get("retry-after") {
                after = format!(" after {}", seconds.to_str().unwrap());
            }
            let (mut text, mut end) = (String::new(), "clean");
            while let Some(piece) = next_text(&mut body).await {
                match piece {
                    Ok(piece) => text += &piece,
                    Err(_) => {
                        end = "cut";
                        break;
                    }
                }
            }
            (status, text, end)
        };
        assert!(!text.contains("secret"), "{text}");
        let last = text.lines().rfind(|line| !line.is_empty());
        let what = match status {
            200 if last.is_some_and(|last| last.starts_with("data: {\"error\":{")) => "error event",
            200 => "",
            _ => {
                let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
                &problem["code"].as_str().unwrap().to_owned()
            }
        };
        // A text that is a replacement character too is counted where the client reads text alone.
        let content = match (text.contains("part"), self.form) {
            (true, "text" | "http10") => text.trim_end().len(),
            (true, _) => "part".len(),
            (false, _) => 0,
        };
        let seen = format!("{status} {what}{after}");
        (format!("{seen:<36} {content} {end:<5}"), status)
    }

    async fn breaker(&self, state: &str) {
        eventually("the breaker is as expected", async || {
            let health = self.server.anybody().get("/health").await.expect(200);
            (health["breakers"][0]["state"] == state).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_judged_by_what_it_means() {
    let mut wrong = Vec::new();
    for expected in TABLE.lines().filter(|line| !line.is_empty()) {
        let (fault, rest) = expected.split_at(FAULT);
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (form, state) = (words[0], words[words.len() - 2]);
        let fault = fault.trim();

        let alone = Row::set_up(fault, form, true).await;
        let before = alone.server.balance(W1).await.micro();
        if fault.starts_with("A10") || fault.contains("its model was swapped") {
            // Over the connection that is reset later, and before the model is swapped.
            assert_eq!(alone.ask().await.1, 200);
        }
        let paid = alone.server.balance(W1).await.micro();
        let (seen, _) = alone.ask().await;
        let charged = (paid - alone.server.balance(W1).await.micro()) / 1_000_000;
        assert!(before >= paid);
        alone.breaker(state).await;
        if state == "CLOSED" {
            // One fault more or less makes no difference.
            assert_eq!(alone.ask().await.0, seen, "{expected}");
            alone.breaker(state).await;
        }
        alone.server.assert_ledger_adds_up().await;

        let beside = Row::set_up(fault, form, false).await;
        beside.ask().await;
        let [odd, good] = &beside.asked;
        assert!(odd.load(Ordering::SeqCst) > 0, "{expected}");
        let failover = match good.load(Ordering::SeqCst) {
            0 => "none",
            _ => "next",
        };
        let row = format!("{fault:<FAULT$}{form:<7} {seen}  {charged}  {state:<6}  {failover}");
        println!("{row}");
        if row != expected {
            wrong.push((row, expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
