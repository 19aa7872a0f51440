//! The real server with stand-ins around it, in one process: nothing else has to be installed to see everything work.
//!
//! `cargo run --release --example demo` prints curl lines to paste into another terminal and runs until Ctrl-C. The
//! stand-ins (an OpenAI-compatible inference server, a CometBFT chain, a miner's statistics page) make their answers up;
//! the server between them and curl is the one that ships. `--listen ADDR:PORT` listens elsewhere (port 0: any free one);
//! `--env-file FILE` writes the shell assignments to a file once it serves, for scripts.

#![allow(
    clippy::print_stdout,
    reason = "an example is a program: what it prints is what it shows"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use r3mes_edge::auth::{KeyRequest, Scopes, issue};
use r3mes_edge::model::{Credits, Ids, Timestamp, Wallet};
use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, interval};

const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { listen, env_file } = Arguments::read(std::env::args().skip(1))?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    // Before there is a folder: a signal that comes while it is being filled must not leave it behind.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let inference = stand_in(inference).await?;
    let chain = stand_in(chain).await?;
    let miner = stand_in(miner).await?;

    // Public reads by name, so that the printed lines work on every address that --listen may give.
    let config = format!(
        r#"
        listen = "{listen}"
        auth.public_reads = true
        chain.rpc = "http://{chain}"

        [[inference]]
        name = "stand-in"
        kind = "openai"
        url = "http://{inference}"

        [miner]
        url = "http://{miner}/stats"
        wallet = "{WALLET}"
        every = "2s"
        "#
    );
    let mut config = Config::read(&config, []).map_err(|mistakes| mistakes.join("\n"))?;
    let folder = Folder::make()?;
    config.database = folder.0.join("demo.db");
    let store = Arc::new(SqliteStore::open(&config.database, true)?);
    let (admin, key) = fill(&*store, config.auth.max_keys_per_wallet).await?;
    let server = EdgeServer::builder(config, store)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let edge = reachable(server.local_addr());

    let assignments =
        format!("EDGE='http://{edge}'\nADMIN='{admin}'\nWALLET='{WALLET}'\nKEY='{key}'\n");
    print!("{}", welcome(edge, [inference, chain, miner], &assignments));
    if let Some(file) = env_file {
        write_whole(&file, &assignments)?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.shutdown().await;
    drop(folder);
    println!("stopped; the temporary folder is removed");
    Ok(())
}

/// What stands on the command line.
struct Arguments {
    listen: SocketAddr,
    env_file: Option<PathBuf>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            env_file: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--listen" => {
                    read.listen = value()?
                        .parse()
                        .map_err(|_| "--listen wants ADDR:PORT".to_owned())?;
                }
                "--env-file" => read.env_file = Some(PathBuf::from(value()?)),
                _ => return Err("demo takes [--listen ADDR:PORT] [--env-file FILE]".to_owned()),
            }
        }
        Ok(read)
    }
}

/// A folder of our own that goes when the demo goes, also when it fails half-way.
struct Folder(PathBuf);

impl Folder {
    fn make() -> std::io::Result<Self> {
        // The standard library's only source of randomness; no secret is made of it, only a name nobody has yet.
        let suffix = std::hash::RandomState::new().build_hasher().finish();
        let name = format!("r3mes-edge-demo-{}-{suffix:016x}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays is a small folder among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An admin key, and a wallet with a key and 100 credits, made before the server starts: from then on it is the only one
/// that writes.
async fn fill(store: &dyn Repository, max_keys: usize) -> Result<(String, String), Box<dyn Error>> {
    let ids = Ids::new().map_err(|error| error.to_string())?;
    let now = Clock::default().now();
    let wallet = Wallet::parse(WALLET)?;
    let request = |wallet, name: &str, scopes| KeyRequest {
        wallet,
        name: name.to_owned(),
        scopes,
        expires_at: None,
        login: false,
    };
    let admin = request(None, "demo admin", Scopes::ADMIN);
    let admin = issue(store, &ids, admin, max_keys, now, None).await?;
    let scopes = Scopes::parse(["chat", "read", "miner"])?;
    let key = request(Some(wallet), "demo", scopes);
    let key = issue(store, &ids, key, max_keys, now, None).await?;
    let welcome = Credits::from_micro(100_000_000);
    store
        .grant(wallet, welcome, "welcome".to_owned(), now, None)
        .await?;
    Ok((admin.key.reveal().to_owned(), key.key.reveal().to_owned()))
}

/// Where a client on this machine reaches a server that listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A script that waits for the file must never read half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)?;
    std::fs::rename(part, file)
}

/// The lines to paste are the indented ones. None has a comment after it or a bare `?` in it, which zsh would trip over.
fn welcome(
    edge: SocketAddr,
    [inference, chain, miner]: [SocketAddr; 3],
    assignments: &str,
) -> String {
    let assignments: String = assignments
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    format!(
        r#"
The real r3mes-edge serves on http://{edge}, over a database that is thrown away at the end.
STAND-INS in this process make up what it reads:
- inference (OpenAI API)  http://{inference}        no model: it turns your words around
- chain (CometBFT RPC)    http://{chain}        a block every {BLOCK_SECONDS} s
- miner page              http://{miner}/stats  read every 2 s

Paste these lines into another terminal, one after the other (sh, bash, zsh); the keys die with this demo:

{assignments}
  curl -s -w '\n' $EDGE/users/$WALLET
  curl -sN $EDGE/chat -H "X-API-Key: $KEY" -d '{{"message":"Which words come back to me?"}}'
  curl -s -w '\n' $EDGE/users/$WALLET/ledger -H "X-API-Key: $KEY"
  curl -s -w '\n' $EDGE/miner/stats/$WALLET
  curl -s -w '\n' "$EDGE/miner/hashrate/$WALLET?hours=1"
  curl -s -w '\n' $EDGE/network/stats
  curl -s -w '\n' $EDGE/chain/status
  curl -s -w '\n' "$EDGE/blocks?limit=3"
  curl -s $EDGE/metrics | grep chat_
  curl -s -w '\n' $EDGE/health

The whole story, every answer checked, from the folder of the repository:

  EDGE=$EDGE ADMIN=$ADMIN bash examples/curl.sh

Ctrl-C ends the demo.
"#
    )
}

// ---------------------------------------------------------------------------------------------------------------------
// The stand-ins. Their state is the time that has passed since they started.

/// How one of them answers: the request, its body, when the stand-in started and how long ago that was.
type Answer = fn(&Request<()>, &[u8], Since) -> Response<Pieces>;

#[derive(Clone, Copy)]
struct Since {
    started: Timestamp,
    seconds: i64,
}

/// Serves `answer` on a free port of this machine until the process ends.
async fn stand_in(answer: Answer) -> std::io::Result<SocketAddr> {
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
struct Pieces {
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

fn pieces(status: StatusCode, left: impl IntoIterator<Item = String>) -> Response<Pieces> {
    let mut response = Response::new(Pieces {
        left: left.into_iter().map(Bytes::from).collect(),
        pause: interval(Duration::from_millis(120)),
    });
    *response.status_mut() = status;
    response
}

fn answer(status: StatusCode, value: &Value) -> Response<Pieces> {
    pieces(status, [value.to_string()])
}

fn nothing_here() -> Response<Pieces> {
    answer(
        StatusCode::NOT_FOUND,
        &json!({ "error": { "message": "no such page" } }),
    )
}

/// The inference server.
fn inference(request: &Request<()>, body: &[u8], since: Since) -> Response<Pieces> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/v1/models") => answer(
            StatusCode::OK,
            &json!({ "object": "list", "data": [{ "id": "stand-in", "object": "model", "owned_by": "demo" }] }),
        ),
        ("POST", "/v1/chat/completions") => chat(body, since),
        _ => nothing_here(),
    }
}

fn chat(body: &[u8], since: Since) -> Response<Pieces> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let messages = request["messages"].as_array();
    let message = messages.and_then(|messages| messages.last()?["content"].as_str());
    let mut words: Vec<&str> = message.unwrap_or_default().split_whitespace().collect();
    words.reverse();
    let text = format!(
        "This is a stand-in, not a model. Your words, last one first: {}",
        words.join(" ")
    );
    let created = since.started.millis() / 1000 + since.seconds;
    let chat = |object: &str, choice: Value| json!({ "id": "chatcmpl-demo", "object": object, "created": created, "model": "stand-in", "choices": [choice] });
    if request["stream"] != true {
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
    let mut response = pieces(StatusCode::OK, events);
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/event-stream"),
    );
    response
}

/// A block of the stand-in chain comes this often.
const BLOCK_SECONDS: i64 = 3;
/// Where the chain stood when the demo started: high enough to page through.
const START_HEIGHT: i64 = 1_000;
/// What CometBFT gives at most in one answer.
const MOST_BLOCKS: i64 = 20;

/// The chain: CometBFT's shapes, with 64-bit numbers as texts.
fn chain(request: &Request<()>, _: &[u8], since: Since) -> Response<Pieces> {
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
fn miner(request: &Request<()>, _: &[u8], since: Since) -> Response<Pieces> {
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
