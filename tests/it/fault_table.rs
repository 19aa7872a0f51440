//! What a chat costs in every fault, as one table: each row is a real server, a wallet with five credits, and one fault.

mod nodes;

use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::chat::{held_inference, whole};
use crate::faults::{Faults, money};
use crate::support::{
    Caller, Frames, Process, RawAnswer, RawUpstream, Scripted, TestServer, Then, Upstream, W1, W2,
    config_with_inference, config_with_nodes, eventually, next_text,
};

/// For each: what the client saw, what was charged, and the breaker, which one more failure opens here.
const TABLE: &str = "
the upstream refuses                   text    502 upstream_bad_response  0  OPEN
the upstream refuses                   events  502 upstream_bad_response  0  OPEN
the upstream refuses                   whole   502 upstream_bad_response  0  OPEN
it hangs before its head               text    504 upstream_timeout       0  OPEN
it hangs before its head               events  504 upstream_timeout       0  OPEN
it hangs before its head               whole   504 upstream_timeout       0  OPEN
it hangs after its head                text    504 upstream_timeout       0  OPEN
it hangs after its head                events  504 upstream_timeout       0  OPEN
it hangs after its head                whole   504 upstream_timeout       0  OPEN
it hangs after its first text          text    200 cut                    1  OPEN
it hangs after its first text          events  200 error event, cut       1  OPEN
it hangs after its first text          whole   504 upstream_timeout       0  OPEN
it sends half a frame and is cut       text    502 upstream_bad_response  0  OPEN
it sends half a frame and is cut       events  502 upstream_bad_response  0  OPEN
it sends half a frame and is cut       whole   502 upstream_bad_response  0  OPEN
it is cut after its first text         text    200 cut                    1  OPEN
it is cut after its first text         events  200 error event, cut       1  OPEN
it is cut after its first text         whole   502 upstream_bad_response  0  OPEN
it closes without [DONE]               text    200 cut                    1  OPEN
it closes without [DONE]               events  200 error event, cut       1  OPEN
it closes without [DONE]               whole   502 upstream_bad_response  0  OPEN
it finishes and ends without [DONE]    text    200 whole                  1  CLOSED
it finishes and ends without [DONE]    events  200 whole                  1  CLOSED
an error follows its finish            text    200 cut                    1  OPEN
an error follows its finish            events  200 error event, cut       1  OPEN
it finishes and hangs                  text    200 whole                  1  CLOSED
it finishes and hangs                  events  200 whole                  1  CLOSED
it answers 500                         text    502 upstream_bad_response  0  OPEN
it answers 500                         events  502 upstream_bad_response  0  OPEN
it answers 500                         whole   502 upstream_bad_response  0  OPEN
it answers 429                         text    503 overloaded             0  CLOSED
it answers 429                         events  503 overloaded             0  CLOSED
it answers 429                         whole   503 overloaded             0  CLOSED
it answers garbage                     text    502 upstream_bad_response  0  OPEN
it answers garbage                     events  502 upstream_bad_response  0  OPEN
it answers garbage                     whole   502 upstream_bad_response  0  OPEN
an error stands in its 200             text    502 upstream_bad_response  0  OPEN
an error stands in its 200             events  502 upstream_bad_response  0  OPEN
an error stands in its 200             whole   502 upstream_bad_response  0  OPEN
an error follows its first text        text    200 cut                    1  OPEN
an error follows its first text        events  200 error event, cut       1  OPEN
r3mes: HTTP/1.0 with chunks            text    200 whole                  1  CLOSED
r3mes: HTTP/1.0 with chunks            events  200 whole                  1  CLOSED
r3mes: HTTP/1.0 with chunks            whole   200 whole                  1  CLOSED
r3mes: HTTP/1.0 until it closes        text    200 whole                  1  CLOSED
r3mes: HTTP/1.0 until it closes        events  200 whole                  1  CLOSED
r3mes: HTTP/1.0 until it closes        whole   200 whole                  1  CLOSED
r3mes: no inference, 503               text    502 upstream_bad_response  0  OPEN
r3mes: no inference, 503               events  502 upstream_bad_response  0  OPEN
r3mes: no inference, 503               whole   502 upstream_bad_response  0  OPEN
r3mes: its first piece is an error     text    502 upstream_bad_response  0  OPEN
r3mes: its first piece is an error     events  502 upstream_bad_response  0  OPEN
r3mes: its first piece is an error     whole   502 upstream_bad_response  0  OPEN
r3mes: its last piece is an error      text    200 cut                    1  OPEN
r3mes: its last piece is an error      events  200 error event, cut       1  OPEN
r3mes: its last piece is an error      whole   502 upstream_bad_response  0  OPEN
r3mes: it closes within its chunks     text    200 cut                    1  OPEN
r3mes: it closes within its chunks     events  200 error event, cut       1  OPEN
r3mes: it closes within its chunks     whole   502 upstream_bad_response  0  OPEN
the client leaves the queue            text    left                       0  CLOSED
the client leaves the queue            events  left                       0  CLOSED
the client leaves the queue            whole   left                       0  CLOSED
the client leaves before the first     text    left                       0  CLOSED
the client leaves before the first     events  left                       0  CLOSED
the client leaves before the first     whole   left                       0  CLOSED
the client leaves after the first      text    left                       1  CLOSED
the client leaves after the first      events  left                       1  CLOSED
the client reads nothing for too long  text    200 cut                    1  CLOSED
the client reads nothing for too long  events  200 cut                    1  CLOSED
shutdown before the first              text    503 shutting_down          0  -
shutdown before the first              events  503 shutting_down          0  -
shutdown before the first              whole   503 shutting_down          0  -
shutdown after the first               text    200 cut                    1  -
shutdown after the first               events  200 error event, cut       1  -
the disk is full at the hold           text    503 storage_unavailable    0  CLOSED
the disk is full at the hold           events  503 storage_unavailable    0  CLOSED
the disk is full at the hold           whole   503 storage_unavailable    0  CLOSED
the disk is full at first              text    200 whole                  1  CLOSED
the disk is full at first              events  200 whole                  1  CLOSED
the disk is full at first              whole   200 whole                  1  CLOSED
the charge fails for good              text    200 cut                    0  CLOSED
the charge fails for good              events  200 error event, cut       0  CLOSED
the charge fails for good              whole   503 storage_unavailable    0  CLOSED
nothing is given on a full disk        text    503 overloaded             0  CLOSED
nothing is given on a full disk        events  503 overloaded             0  CLOSED
nothing is given on a full disk        whole   503 overloaded             0  CLOSED
";

const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"part\"}}]}\n\n";

/// The faults of the storage, under an answer that ends well.
const MONEY: [&str; 3] = [
    "the disk is full at the hold",
    "the disk is full at first",
    "the charge fails for good",
];

/// The upstream's scripted answer, where the row does not control it by hand.
fn script(fault: &str, whole: bool) -> Option<Scripted> {
    let (scripted, frames) = Scripted::held();
    let part = if whole { "{\"choices\":[{\"mess" } else { WORD };
    let error = "{\"error\":{\"message\":\"secret\"}}";
    match fault {
        "it sends half a frame and is cut" => {
            frames.send("data: {\"choi");
            frames.cut();
        }
        "it closes without [DONE]" => frames.send(part),
        "it finishes and ends without [DONE]" => {
            frames.send(WORD);
            frames.send(FINISH);
        }
        "it answers 500" => return Some(Scripted::whole(500, "secret")),
        "it answers 429" | "nothing is given on a full disk" => {
            return Some(Scripted::whole(429, "secret"));
        }
        "it answers garbage" => frames.send("<html>secret</html>"),
        "an error stands in its 200" if whole => frames.send(error),
        "an error stands in its 200" => frames.send(format!("data: {error}\n\n")),
        "an error follows its finish" => {
            frames.send(WORD);
            frames.send(format!("{FINISH}data: {error}\n\n"));
        }
        "an error follows its first text" => frames.send(format!("{WORD}data: {error}\n\n")),
        fault if MONEY.contains(&fault) && whole => {
            return Some(Scripted::completion("part"));
        }
        fault if MONEY.contains(&fault) => {
            frames.send(WORD);
            frames.send_done();
        }
        _ => return None,
    }
    Some(scripted)
}

/// An R3MES node, whose server is Python's `http.server`: HTTP/1.0, and chunks all the same.
async fn r3mes_node(fault: &'static str) -> RawUpstream {
    const OK: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; charset=utf-8";
    RawUpstream::start(move |request| {
        let error = "\n[Error: secret out of memory]";
        let chunked = |chunks: &[&str]| RawAnswer::chunked(OK, chunks, Then::Close);
        let plain =
            |head: &str, body: &str| RawAnswer::new(format!("{head}\r\n\r\n{body}"), Then::Close);
        // Its health check fails too.
        if request.head.starts_with("GET /health ") || request.body.contains("poison") {
            return plain("HTTP/1.0 500 Internal Server Error", "secret");
        }
        match fault {
            "r3mes: HTTP/1.0 with chunks" => chunked(&["some ", "words"]),
            "r3mes: HTTP/1.0 until it closes" => plain(OK, "some words"),
            "r3mes: no inference, 503" => plain("HTTP/1.0 503 Service Unavailable", "secret"),
            "r3mes: its first piece is an error" => chunked(&[error]),
            "r3mes: its last piece is an error" => chunked(&["some ", "words", error]),
            _ => plain(
                &format!("{OK}\r\nTransfer-Encoding: chunked"),
                "5\r\nsome \r\n5\r\nwo",
            ),
        }
    })
    .await
}

/// The request of a row.
enum Node {
    OpenAi(Upstream),
    R3mes(RawUpstream),
}

impl Node {
    /// Answers under way, or where they end with their connection, connections.
    fn under_way(&self) -> usize {
        match self {
            Self::OpenAi(upstream) => upstream.under_way(),
            Self::R3mes(upstream) => upstream.connections(),
        }
    }
}

/// Everything a row needs.
struct Row {
    fault: &'static str,
    form: &'static str,
    server: TestServer,
    caller: Caller,
    upstream: Node,
    held: mpsc::UnboundedReceiver<Frames>,
    faults: Faults,
}

impl Row {
    async fn set_up(fault: &'static str, form: &'static str) -> Self {
        let (sender, held) = mpsc::unbounded_channel();
        let upstream = Upstream::start(move |seen| {
            if seen.path == "/v1/models" || seen.body.contains("poison") {
                return Scripted::whole(500, "secret");
            }
            if fault == "it hangs before its head" {
                return Scripted::silent();
            }
            script(fault, form == "whole").unwrap_or_else(|| {
                let (scripted, frames) = Scripted::held();
                sender.send(frames).unwrap();
                scripted
            })
        })
        .await;
        let (upstream, mut config) = match fault {
            _ if fault.starts_with("r3mes: ") => {
                let node = r3mes_node(fault).await;
                let config = config_with_nodes("r3mes", &[node.url()]);
                (Node::R3mes(node), config)
            }
            "the upstream refuses" => {
                let config = config_with_nodes("openai", &[Upstream::dead().await]);
                (Node::OpenAi(upstream), config)
            }
            _ => {
                let config = config_with_inference("openai", &upstream);
                (Node::OpenAi(upstream), config)
            }
        };
        config.inference[0].model = "tiny".to_owned();
        config.breaker.consecutive_failures = 2;
        let short = Duration::from_millis(100);
        match fault {
            "it hangs before its head" | "it hangs after its head" => {
                config.chat.first_text_timeout = short;
                config.chat.answer_timeout = short;
            }
            "it hangs after its first text" => {
                config.chat.answer_timeout = short;
                config.chat.idle_timeout = short;
            }
            // The upstream has the same timeout, which must not expire first on a busy machine.
            "the client reads nothing for too long" => {
                config.limits.write_timeout = Duration::from_secs(1);
            }
            "the client leaves the queue" => config.chat.in_flight = 1,
            "shutdown before the first" | "shutdown after the first" => {
                config.limits.shutdown_grace = Duration::from_millis(50);
            }
            _ => {}
        }
        let faults = Faults::default();
        let server = faults.serve(config).await;
        let caller = server.payer(W1, 5).await;
        // One failure before: one more is enough for a health check, which fails.
        let other = server.payer(W2, 1).await;
        let poison = json!({ "message": "poison" });
        other.post("/chat", &poison).await.expect(502);
        match fault {
            "the disk is full at the hold" => faults.fail("hold"),
            "the disk is full at first" => faults.fail_times("charge", 2),
            "the charge fails for good" => faults.fail("charge for good"),
            "nothing is given on a full disk" => faults.fail("charge"),
            _ => {}
        }
        Self {
            fault,
            form,
            server,
            caller,
            upstream,
            held,
            faults,
        }
    }

    fn ask(&self) -> JoinHandle<(u16, hyper::HeaderMap, Incoming)> {
        let (path, body) = match self.form {
            "text" => ("/chat", json!({ "message": "hi" })),
            form => {
                let messages = json!([{ "role": "user", "content": "hi" }]);
                (
                    "/v1/chat/completions",
                    json!({ "stream": form == "events", "messages": messages }),
                )
            }
        };
        let caller = self.caller.clone();
        tokio::spawn(async move { caller.open(Method::POST, path, &[], body.to_string()).await })
    }

    /// Runs the fault; returns what the client saw.
    async fn happen(&mut self) -> String {
        match self.fault {
            "the client leaves the queue" => {
                let other = self.server.payer(W2, 5).await;
                let first = tokio::spawn(async move { other.chat("hi").await });
                let frames = self.held.recv().await.unwrap();
                let asking = self.ask();
                let store = &self.server.store;
                let holds = async |count| (store.gauges().holds == count).then_some(());
                eventually("it waits", async || holds(2).await).await;
                asking.abort();
                eventually("it left", async || holds(1).await).await;
                frames.send(WORD);
                frames.send_done();
                saw(first.await.unwrap()).await;
                "left".to_owned()
            }
            "the client leaves before the first" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                asking.abort();
                frames.reader_left().await;
                "left".to_owned()
            }
            "the client leaves after the first" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                frames.send(WORD);
                let (_, _, mut body) = asking.await.unwrap();
                next_text(&mut body).await.unwrap().unwrap();
                drop(body);
                frames.reader_left().await;
                "left".to_owned()
            }
            "the client reads nothing for too long" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                frames.send(WORD);
                let answer = asking.await.unwrap();
                // More than all buffers between the two hold.
                let long = format!(
                    "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
                    "x".repeat(100_000)
                );
                for _ in 0..300 {
                    frames.send(long.clone());
                }
                frames.reader_left().await;
                saw(answer).await
            }
            "shutdown before the first" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                let stopped = self.server.begin_shutdown();
                let seen = saw(asking.await.unwrap()).await;
                stopped.await.unwrap();
                drop(frames);
                seen
            }
            "shutdown after the first" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                frames.send(WORD);
                let answer = asking.await.unwrap();
                let stopped = self.server.begin_shutdown();
                let seen = saw(answer).await;
                stopped.await.unwrap();
                drop(frames);
                seen
            }
            "it finishes and hangs" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                frames.send(WORD);
                frames.send(FINISH);
                // It is given two seconds for its usage.
                let seen = saw(asking.await.unwrap()).await;
                frames.reader_left().await;
                seen
            }
            "it hangs after its first text" | "it is cut after its first text" => {
                let asking = self.ask();
                let frames = self.held.recv().await.unwrap();
                let whole = self.form == "whole";
                frames.send(if whole { "{\"choices\"" } else { WORD });
                let asking = match whole {
                    true => asking,
                    false => tokio::spawn(std::future::ready(asking.await.unwrap())),
                };
                if self.fault == "it is cut after its first text" {
                    frames.cut();
                    let mut asking = asking;
                    loop {
                        tokio::select! {
                            answer = &mut asking => return saw(answer.unwrap()).await,
                            // The cut overtook the head on a reused connection, so the request was retried.
                            Some(retried) = self.held.recv() => retried.cut(),
                        }
                    }
                }
                let seen = saw(asking.await.unwrap()).await;
                frames.reader_left().await;
                seen
            }
            _ => saw(self.ask().await.unwrap()).await,
        }
    }

    /// The row of the table, and how long the upstream's connection stayed open after the client had its answer.
    async fn run(mut self, state: &str) -> (String, Duration) {
        let seen = self.happen().await;
        let ended = Instant::now();
        eventually("the upstream is left alone", async || {
            (self.upstream.under_way() == 0).then_some(())
        })
        .await;
        let left = ended.elapsed();
        let (fault, form) = (self.fault, self.form);
        let breaker = if fault.starts_with("shutdown") {
            "-".to_owned()
        } else {
            eventually("the hold has its end", async || {
                (self.server.store.gauges().holds == 0).then_some(())
            })
            .await;
            self.server.assert_ledger_adds_up().await;
            eventually("the health check decided", async || {
                let health = self.server.anybody().get("/health").await.expect(200);
                (health["breakers"][0]["state"] == state).then_some(state.to_owned())
            })
            .await
        };
        self.faults.mend();
        let folder = self.server.shutdown().await;
        let (balance, errors) = money(&folder).await;
        assert_eq!(errors, Vec::<String>::new(), "{fault}, {form}");
        let charged = (5_000_000 - balance) / 1_000_000;
        (
            format!("{fault:<38} {form:<7} {seen:<26} {charged}  {breaker}"),
            left,
        )
    }
}

/// What a client that reads the response to its end sees.
async fn saw((status, _, mut body): (u16, hyper::HeaderMap, Incoming)) -> String {
    let (mut text, mut cut) = (String::new(), false);
    while let Some(piece) = next_text(&mut body).await {
        match piece {
            Ok(piece) => text += &piece,
            Err(_) => {
                cut = true;
                break;
            }
        }
    }
    assert!(
        !text.contains("secret"),
        "an upstream's text reached the client: {text}"
    );
    if status >= 400 {
        let body: Value = serde_json::from_str(&text).unwrap();
        return format!("{status} {}", body["code"].as_str().unwrap());
    }
    let event = text.lines().rfind(|line| !line.is_empty());
    let error = event.is_some_and(|event| event.starts_with("data: {\"error\":{"));
    match (cut, error) {
        (false, false) => format!("{status} whole"),
        (true, false) => format!("{status} cut"),
        (true, true) => format!("{status} error event, cut"),
        (false, true) => format!("{status} error event and a clean end"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_fault_the_client_sees_the_outcome_and_pays_only_for_content() {
    let mut slowest = Duration::ZERO;
    let mut wrong = Vec::new();
    for expected in TABLE.lines().filter(|line| !line.is_empty()) {
        let (fault, rest) = expected.split_at(38);
        let form = rest.split_whitespace().next().unwrap();
        let state = rest.split_whitespace().last().unwrap();
        let (row, left) = Row::set_up(fault.trim(), form).await.run(state).await;
        println!("{row}");
        slowest = slowest.max(left);
        if row != expected {
            wrong.push((row, expected));
        }
    }
    println!("at most {slowest:?} until the upstream was left alone");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_charged_what_ended_and_nothing_that_was_under_way() {
    let (upstream, mut held) = held_inference().await;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let config = format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"\n",
        upstream.url()
    );
    let server = Process::serve(&database, &config);
    let admin = server.admin();
    let path = format!("/users/{W1}/credits");
    let grant = json!({ "amount": 5, "reason": "test" });
    admin.post(&path, &grant).await.expect(200);
    let ask = |stream: bool| {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let body = json!({ "stream": stream, "messages": messages }).to_string();
        let admin = admin.clone();
        tokio::spawn(async move {
            let payer = [("x-wallet-address", W1)];
            let path = "/v1/chat/completions";
            admin.try_open(Method::POST, path, &payer, body).await
        })
    };
    let ended = ask(true);
    let frames = held.recv().await.unwrap();
    frames.send(WORD);
    frames.send_done();
    let (_, _, body) = ended.await.unwrap().unwrap();
    // Who sees the end has paid.
    assert!(whole(body).await.unwrap().ends_with("data: [DONE]\n\n"));
    let streaming = ask(true);
    let stream = held.recv().await.unwrap();
    stream.send(WORD);
    let (_, _, mut body) = streaming.await.unwrap().unwrap();
    next_text(&mut body).await.unwrap().unwrap();
    let waiting = [ask(true), ask(false)];
    let silent = [held.recv().await.unwrap(), held.recv().await.unwrap()];
    let health = admin.get("/health").await.expect(200);
    assert_eq!(health["storage"]["holds"], 3);
    server.kill();
    assert!(
        next_text(&mut body).await.unwrap().is_err(),
        "a killed stream ended as if it were whole"
    );
    for asked in waiting {
        assert!(asked.await.unwrap().is_none());
    }
    for frames in silent.iter().chain([&stream]) {
        frames.reader_left().await;
    }
    let server = Process::serve(&database, &config);
    let path = format!("/users/{W1}/ledger");
    let ledger = server.admin().get(&path).await.expect(200);
    assert_eq!(ledger["credits"], 4);
    assert_eq!(ledger["entries"].as_array().unwrap().len(), 2);
    // Nothing is left to be done.
    let health = server.admin().get("/health").await.expect(200);
    assert_eq!(health["storage"]["holds"], 0);
    let report = server.admin().get("/admin/ledger/verify").await.expect(200);
    assert_eq!(report["mistakes"], json!([]));
    assert_eq!(server.terminate(), Some(0));
}
