//! The stand-ins: what they answer has the shape of the real thing and is made up. Their state is the time that has
//! passed since they started.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use r3mes_edge::model::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Interval, interval};

/// How one of them answers: the request, its body, when the stand-in started and how long ago that was.
pub(super) type Answer = fn(&Request<()>, &[u8], Since) -> Response<Pieces>;

#[derive(Clone, Copy)]
pub(super) struct Since {
    started: Timestamp,
    seconds: i64,
    /// Between two words of the inference server.
    pause: Duration,
}

/// Serves `answer` on a free port of this machine until the process ends, with a pause after each word.
pub(super) async fn stand_in(answer: Answer, pause: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let started = SystemTime::now();
    let respond = move |request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let seconds = started.elapsed().unwrap_or_default().as_secs();
        let since = Since {
            started: started.into(),
            seconds: seconds.cast_signed(),
            pause,
        };
        Ok::<_, hyper::Error>(answer(&Request::from_parts(head, ()), &body, since))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Words must leave one by one.
            let _ = stream.set_nodelay(true);
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(respond));
            // A connection that breaks is the server's to notice.
            tokio::spawn(async { connection.await.ok() });
        }
    });
    Ok(address)
}

/// A body that comes piece by piece, with a pause between two.
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    pause: Interval,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.left.is_empty() {
            ready!(self.pause.poll_tick(context));
        }
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn pieces(
    status: StatusCode,
    left: impl IntoIterator<Item = String>,
    pause: Duration,
) -> Response<Pieces> {
    let mut response = Response::new(Pieces {
        left: left.into_iter().map(Bytes::from).collect(),
        pause: interval(pause),
    });
    *response.status_mut() = status;
    response
}

fn answer(status: StatusCode, value: &Value) -> Response<Pieces> {
    pieces(status, [value.to_string()], Duration::from_secs(1))
}

fn nothing_here() -> Response<Pieces> {
    answer(
        StatusCode::NOT_FOUND,
        &json!({ "error": { "message": "no such page" } }),
    )
}

/// The inference server.
pub(super) fn inference(request: &Request<()>, body: &[u8], since: Since) -> Response<Pieces> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/v1/models") => answer(
            StatusCode::OK,
            &json!({ "object": "list", "data": [{ "id": "stand-in", "object": "model", "owned_by": "demo" }] }),
        ),
        ("POST", "/v1/chat/completions") => chat(body, since),
        ("POST", path) => other(path, body, since),
        _ => nothing_here(),
    }
}

fn chat(body: &[u8], since: Since) -> Response<Pieces> {
    // Only what is needed is looked at: the rest may be anything.
    #[derive(Default, serde::Deserialize)]
    struct Asked<'a> {
        stream: Option<bool>,
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        content: String,
    }
    let request: Asked<'_> = serde_json::from_slice(body).unwrap_or_default();
    let last = request.messages.last().map(|message| message.get());
    let message = last.and_then(|message| serde_json::from_str::<Message>(message).ok());
    let message = message.map(|message| message.content).unwrap_or_default();
    let mut words: Vec<&str> = message.split_whitespace().collect();
    words.reverse();
    let text = format!(
        "This is a stand-in, not a model. Your words, last one first: {}",
        words.join(" ")
    );
    let created = since.started.millis() / 1000 + since.seconds;
    let chat = |object: &str, choice: Value| json!({ "id": "chatcmpl-demo", "object": object, "created": created, "model": "stand-in", "choices": [choice] });
    if request.stream != Some(true) {
        let message = json!({ "role": "assistant", "content": text });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        return answer(StatusCode::OK, &chat("chat.completion", choice));
    }
    let event = |delta: Value, finish: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        format!("data: {}\n\n", chat("chat.completion.chunk", choice))
    };
    let mut events = vec![event(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(
        text.split_inclusive(' ')
            .map(|word| event(json!({ "content": word }), None)),
    );
    events.push(event(json!({}), Some("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    stream(events, since)
}

/// The endpoints beside the chat: the same answer to everything.
fn other(path: &str, body: &[u8], since: Since) -> Response<Pieces> {
    const TEXT: &str = "This is a stand-in, not a model.";
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15 });
    let tokens = json!({ "input_tokens": 7, "output_tokens": 8 });
    let block = json!({ "type": "text", "text": TEXT });
    let message = |content: Value, stop: Value| json!({ "id": "msg_demo", "type": "message", "role": "assistant", "model": "stand-in", "content": content, "stop_reason": stop, "stop_sequence": null, "usage": tokens });
    let part = json!({ "type": "output_text", "text": TEXT, "annotations": [] });
    let item = json!({ "type": "message", "id": "msg_demo", "role": "assistant", "status": "completed", "content": [part] });
    let response = |status: &str, output: Value| json!({ "id": "resp_demo", "object": "response", "created_at": since.seconds, "model": "stand-in", "status": status, "output": output, "usage": tokens });
    let choice = json!({ "index": 0, "text": TEXT, "finish_reason": "stop" });
    let completion = json!({ "id": "cmpl-demo", "object": "text_completion", "created": since.seconds, "model": "stand-in", "choices": [choice], "usage": usage });
    let (whole, events) = match path {
        "/v1/completions" => (completion.clone(), vec![completion]),
        "/v1/embeddings" => {
            let one = json!({ "object": "embedding", "index": 0, "embedding": [0.5, -0.25] });
            (
                json!({ "object": "list", "model": "stand-in", "data": [one], "usage": usage }),
                vec![],
            )
        }
        "/v1/rerank" => {
            let one = json!({ "index": 0, "relevance_score": 0.5 });
            (
                json!({ "model": "stand-in", "results": [one], "usage": usage }),
                vec![],
            )
        }
        "/v1/messages" => {
            let events = vec![
                json!({ "type": "message_start", "message": message(json!([]), Value::Null) }),
                json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
                json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": TEXT } }),
                json!({ "type": "content_block_stop", "index": 0 }),
                json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": tokens }),
                json!({ "type": "message_stop" }),
            ];
            (message(json!([block]), json!("end_turn")), events)
        }
        "/v1/responses" => {
            let events = vec![
                json!({ "type": "response.created", "response": response("in_progress", json!([])) }),
                json!({ "type": "response.output_text.delta", "item_id": "msg_demo", "output_index": 0, "content_index": 0, "delta": TEXT }),
                json!({ "type": "response.completed", "response": response("completed", json!([item])) }),
            ];
            (response("completed", json!([item])), events)
        }
        _ => return nothing_here(),
    };
    if request["stream"] != true || events.is_empty() {
        return answer(StatusCode::OK, &whole);
    }
    let mut written: Vec<String> = events
        .iter()
        .map(|event| match event["type"].as_str() {
            Some(name) => format!("event: {name}\ndata: {event}\n\n"),
            None => format!("data: {event}\n\n"),
        })
        .collect();
    if path == "/v1/completions" {
        written.push("data: [DONE]\n\n".to_owned());
    }
    stream(written, since)
}

fn stream(events: Vec<String>, since: Since) -> Response<Pieces> {
    let mut response = pieces(StatusCode::OK, events, since.pause);
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/event-stream"),
    );
    response
}

/// A block of the stand-in chain comes this often.
pub(super) const BLOCK_SECONDS: i64 = 3;
/// Where the chain stood when the demo started: high enough to page through.
const START_HEIGHT: i64 = 1_000;
/// What CometBFT gives at most in one answer.
const MOST_BLOCKS: i64 = 20;

/// The chain: CometBFT's shapes, with 64-bit numbers as texts.
pub(super) fn chain(request: &Request<()>, _: &[u8], since: Since) -> Response<Pieces> {
    let height = START_HEIGHT + since.seconds / BLOCK_SECONDS;
    let result = match request.uri().path() {
        "/status" => Ok(status(height, since)),
        "/blockchain" => blockchain(request.uri().query().unwrap_or_default(), height, since),
        _ => return nothing_here(),
    };
    match result {
        Ok(result) => answer(
            StatusCode::OK,
            &json!({ "jsonrpc": "2.0", "id": -1, "result": result }),
        ),
        Err(data) => {
            let error = json!({ "code": -32603, "message": "Internal error", "data": data });
            answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({ "jsonrpc": "2.0", "id": -1, "error": error }),
            )
        }
    }
}

/// A hash as CometBFT writes it, made of what it is the hash of.
fn hash(what: &str, height: i64) -> String {
    blake3::hash(format!("{what} {height}").as_bytes())
        .to_hex()
        .to_uppercase()
}

/// One of three validators, in turn.
fn validator(height: i64) -> String {
    let mut address = hash("validator", height % 3);
    address.truncate(40);
    address
}

fn time(height: i64, since: Since) -> Timestamp {
    let after_start = (height - START_HEIGHT) * BLOCK_SECONDS * 1000;
    Timestamp::from_millis(since.started.millis() + after_start)
}

fn block_id(height: i64) -> Value {
    json!({ "hash": hash("block", height), "parts": { "total": 1, "hash": hash("parts", height) } })
}

fn status(height: i64, since: Since) -> Value {
    json!({
        "node_info": {
            "protocol_version": { "p2p": "8", "block": "11", "app": "0" },
            "id": validator(0).to_lowercase(),
            "listen_addr": "tcp://127.0.0.1:26656",
            "network": "r3mes-demo",
            "version": "0.38.0",
            "channels": "4020212223303800",
            "moniker": "stand-in",
            "other": { "tx_index": "on", "rpc_address": "tcp://127.0.0.1:26657" },
        },
        "sync_info": {
            "latest_block_hash": hash("block", height),
            "latest_app_hash": hash("app", height),
            "latest_block_height": height.to_string(),
            "latest_block_time": time(height, since),
            "earliest_block_hash": hash("block", 1),
            "earliest_app_hash": hash("app", 1),
            "earliest_block_height": "1",
            "earliest_block_time": time(1, since),
            "catching_up": false,
        },
        "validator_info": {
            "address": validator(0),
            "pub_key": { "type": "tendermint/PubKeyEd25519", "value": "A6DoBUypNtUAyEHWtQ9bFjfNg8Bo9CrnkUGl6k6OHN4=" },
            "voting_power": "10",
        },
    })
}

fn blockchain(query: &str, height: i64, since: Since) -> Result<Value, String> {
    let asked = |name: &str| {
        let number = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        query.split('&').find_map(number).unwrap_or(0)
    };
    // As CometBFT reads them: 0 is "not said", and of too wide a range the newest are given.
    let (lowest, highest): (i64, i64) = (asked("minHeight"), asked("maxHeight"));
    let highest = if highest == 0 {
        height
    } else {
        highest.min(height)
    };
    let lowest = lowest.max(1).max(highest - MOST_BLOCKS + 1);
    if lowest > highest {
        return Err(format!(
            "min height {lowest} can't be greater than max height {highest}"
        ));
    }
    let meta = |height: i64| {
        json!({
            "block_id": block_id(height),
            "block_size": 1_000 + height % 500,
            "header": {
                "version": { "block": "11", "app": "0" },
                "chain_id": "r3mes-demo",
                "height": height.to_string(),
                "time": time(height, since),
                "last_block_id": block_id(height - 1),
                "last_commit_hash": hash("commit", height - 1),
                "data_hash": hash("data", height),
                "validators_hash": hash("validators", 0),
                "next_validators_hash": hash("validators", 0),
                "consensus_hash": hash("consensus", 0),
                "app_hash": hash("app", height - 1),
                "last_results_hash": hash("results", height - 1),
                "evidence_hash": hash("evidence", 0),
                "proposer_address": validator(height),
            },
            "num_txs": (height * 7 % 13).to_string(),
        })
    };
    let metas: Vec<Value> = (lowest..=highest).rev().map(meta).collect();
    Ok(json!({ "last_height": height.to_string(), "block_metas": metas }))
}

/// The miner's page: figures that wander a little.
pub(super) fn miner(request: &Request<()>, _: &[u8], since: Since) -> Response<Pieces> {
    if request.uri().path() != "/stats" {
        return nothing_here();
    }
    let seconds = since.seconds as f64;
    let wave = (seconds / 7.0).sin();
    let rounded = |number: f64| (number * 100.0).round() / 100.0;
    let hashrate = rounded(42.5 + 2.5 * wave);
    let page = json!({
        "hashrate": hashrate,
        "loss": (8_000.0 * (-seconds / 3_600.0).exp()).round() / 10_000.0,
        "loss_trend": "decreasing",
        "estimated_earnings_per_day": rounded(hashrate * 2.4),
        "current_balance": 0.0,
        "gpu_temp": (67.0 + 2.0 * wave).round(),
        "vram_usage_mb": 7168,
        "vram_total_mb": 24564,
        "training_epoch": 3 + since.seconds / 600,
        "gradient_norm": rounded(1.27 + 0.1 * wave),
        "uptime_seconds": since.seconds,
    });
    answer(StatusCode::OK, &page)
}
