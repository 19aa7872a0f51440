//! What a server's refusal, and a server that is healthy but odd, mean for its client, its money, its breaker, and the other
//! servers: the rows of the kinds A5, A8 to A10, A16, A17 and A19 to A21 of the faults found from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Answer, Caller, RawAnswer, RawRequest, RawUpstream, TestServer, Then, W1, config_with_nodes,
    eventually,
};

/// (A7, whose faults are times, is in `nodes.rs`, A11 in `config.rs`.) Fault, form of the answer, what the client saw: status, code or text, `Retry-After`, bytes of the model's text and how
/// the answer ended; what was charged, the breaker whose health check fails after one counted failure, and whether a second
/// server is asked, which is well.
const TABLE: &str = "
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
A8  it ends well without text          text    502 upstream_bad_response            0 clean  0  CLOSED  none
A8  it ends well without text          events  200                                  0 clean  0  CLOSED  none
A8  it ends well without text          whole   200                                  0 clean  0  CLOSED  none
A9  it refuses stream_options          text    200                                  4 clean  1  CLOSED  none
A9  it refuses stream_options          events  200                                  4 clean  1  CLOSED  none
A10 it closes as the next chat comes   events  200                                  4 clean  1  CLOSED  none
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
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
    let word = word.unwrap_or_else(|| ": nothing\n\n".to_owned());
    RawAnswer::chunked(head, &[&word, &end], then)
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
    match fault {
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

    async fn ask(&self) -> (String, Answer) {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let (path, body) = match self.form {
            "text" => ("/chat", json!({ "message": "hi" })),
            form => {
                let body =
                    json!({ "stream": form == "events", "messages": messages, "temperature": 1 });
                ("/v1/chat/completions", body)
            }
        };
        let answer = self.caller.post(path, &body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("secret"), "{text}");
        let what = match answer.status {
            200 => String::new(),
            _ => {
                let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
                let after = match answer.header("retry-after") {
                    "" => String::new(),
                    after => format!(" after {after}"),
                };
                format!("{}{after}", problem["code"].as_str().unwrap())
            }
        };
        let content = if text.contains("part") { 4 } else { 0 };
        let seen = format!("{} {what}", answer.status);
        // `post` fails where an answer is cut.
        (format!("{seen:<36} {content} clean"), answer)
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
            assert_eq!(alone.ask().await.1.status, 200);
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
