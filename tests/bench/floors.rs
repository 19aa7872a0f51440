//! What the server is held against, and what stands in for an inference server and a miner. Each runs as a process: this
//! program, started by itself.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::uri::{Authority, Scheme};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
use r3mes_edge::{Clock, Repository, SqliteStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::processes::WALLET;
use crate::wire::{find, length};

/// The argument by which this program is one of these.
pub(crate) const FLAG: &str = "--floor";

/// Serves as a floor until the standard input ends.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    // As many threads as the server has.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", listener.local_addr()?);
    match *arguments {
        ["bare"] => runtime.spawn(http(listener, Arc::new(Bare))),
        ["writer", database] => runtime.spawn(http(listener, Arc::new(Writer::open(database)?))),
        ["serial", database] => {
            let one = Some(tokio::sync::Mutex::new(()));
            let writer = Writer {
                one,
                ..Writer::open(database)?
            };
            runtime.spawn(http(listener, Arc::new(writer)))
        }
        ["upstream"] => runtime.spawn(upstream(listener)),
        ["proxy", upstream] => runtime.spawn(proxy(listener, upstream.parse()?)),
        _ => return Err("there is no such floor".into()),
    };
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

type Answering<'a> = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send + 'a>>;

/// What a floor does with a request.
trait Floor: Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> Answering<'_>;
}

async fn http(listener: TcpListener, floor: Arc<impl Floor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let floor = Arc::clone(&floor);
        let answer = service_fn(move |request| {
            let floor = Arc::clone(&floor);
            async move { Ok::<_, Infallible>(floor.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        // A connection that breaks is the load's to notice.
        tokio::spawn(async { connection.await.ok() });
    }
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// hyper answering 150 bytes.
struct Bare;

impl Floor for Bare {
    fn answer(&self, _: Request<Incoming>) -> Answering<'_> {
        const BODY: &[u8; 150] = br#"{"wallet_address":"remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm","credits":12.5,"is_miner":true,"key":{"id":"key_0000000000000000","scopes":["read"]}}"#;
        Box::pin(async { json(StatusCode::OK, &BODY[..]) })
    }
}

/// hyper on both sides, which passes on what comes as it comes: what a proxy made of it costs at least.
async fn proxy(listener: TcpListener, upstream: Authority) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (client, upstream) = (client.clone(), upstream.clone());
        let pass_on = service_fn(move |mut request: Request<Incoming>| {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(upstream.clone()));
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
            client.request(request)
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), pass_on);
        tokio::spawn(async { connection.await.ok() });
    }
}

/// hyper, and the storage's own writer behind it.
struct Writer {
    store: SqliteStore,
    clock: Clock,
    /// Where only one may write at a time: a transaction per request.
    one: Option<tokio::sync::Mutex<()>>,
}

impl Writer {
    fn open(database: &str) -> Result<Self> {
        let store = SqliteStore::open(Path::new(database), true)?;
        let clock = Clock::default();
        Ok(Self {
            store,
            clock,
            one: None,
        })
    }

    async fn write(&self, request: Request<Incoming>) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Body {
            worker: String,
            hashrate: f64,
            gpu_temperature: f64,
        }
        let body = request.into_body().collect().await?.to_bytes();
        let sample: Body = serde_json::from_slice(&body)?;
        let now = self.clock.now();
        let wallet = Wallet::parse(WALLET)?;
        let unit = HashrateUnit::GradientsPerHour;
        let sample = Sample {
            worker: sample.worker,
            gpu_temperature: Some(sample.gpu_temperature),
            ..Sample::new(wallet, now, sample.hashrate, unit)
        };
        let _alone = match &self.one {
            Some(one) => Some(one.lock().await),
            None => None,
        };
        self.store.record_samples(vec![sample], 1000, now).await?;
        Ok(())
    }
}

impl Floor for Writer {
    fn answer(&self, request: Request<Incoming>) -> Answering<'_> {
        Box::pin(async {
            match self.write(request).await {
                Ok(()) => json(StatusCode::CREATED, r#"{"accepted":1}"#),
                Err(error) => json(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        })
    }
}

/// The message that asks for an answer of so many words.
pub(crate) fn words(count: usize) -> String {
    format!("{count} words")
}

/// The same for one that comes as slowly as from a model.
pub(crate) fn slow_words(count: usize) -> String {
    format!("{count} words slowly")
}

/// Between two words of that one.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// With what a stream of OpenAI's API ends.
pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";

/// The inference server and the miner's page. By hand, so that it is no bound for those before it.
async fn upstream(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async { stand_in(stream).await.ok() });
    }
}

async fn stand_in(mut stream: TcpStream) -> std::io::Result<()> {
    let streams = [
        ("POST /v1/chat/completions ", chat_stream()),
        ("POST /v1/messages ", message_stream()),
        ("POST /v1/responses ", response_stream()),
    ];
    let page = |page: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len())
    };
    let mut raw = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = find(&raw, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut raw).await? == 0 {
                return Ok(());
            }
        };
        let whole = head + length(&raw[..head]).unwrap_or(0);
        while raw.len() < whole {
            if stream.read_buf(&mut raw).await? == 0 {
                return Ok(());
            }
        }
        let asked = streams
            .iter()
            .find(|(line, _)| raw.starts_with(line.as_bytes()));
        if let Some((_, [first, word, last])) = asked {
            let body = &raw[head..whole];
            let words = requested(body);
            if find(body, br#""stream":true"#).is_none() {
                let whole = whole_answer(&"word ".repeat(words));
                stream.write_all(page(&whole).as_bytes()).await?;
            } else {
                let pause = find(body, b"slowly").map(|_| PAUSE);
                stream.write_all(first.as_bytes()).await?;
                // Each leaves as it comes, as it does from a model.
                for _ in 1..words {
                    if let Some(pause) = pause {
                        tokio::time::sleep(pause).await;
                    }
                    stream.write_all(word.as_bytes()).await?;
                }
                stream.write_all(last.as_bytes()).await?;
            }
        } else {
            let page = page(if raw.starts_with(b"GET /stats ") {
                r#"{"hashrate":42.5,"gpu_temp":67.0,"uptime_seconds":3600}"#
            } else {
                r#"{"object":"list","data":[{"id":"stand-in","object":"model"}]}"#
            });
            stream.write_all(page.as_bytes()).await?;
        }
        raw.drain(..whole);
    }
}

/// The head of a stream with its first word, another word, and the end.
type Stream = [String; 3];

fn stream(begin: &[String], word: &str, end: &[String]) -> Stream {
    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = |events: &[String]| events.iter().map(|event| chunk(event)).collect::<String>();
    let (begin, word, end) = (chunks(begin), chunk(word), chunks(end));
    [format!("{HEAD}{begin}{word}"), word, end + "0\r\n\r\n"]
}

fn chat_stream() -> Stream {
    let role = event(r#"{"role":"assistant","content":""}"#, "null");
    let word = event(r#"{"content":"word "}"#, "null");
    let finish = event("{}", r#""stop""#);
    stream(
        &[role],
        &word,
        &[finish, String::from_utf8_lossy(DONE).into_owned()],
    )
}

/// As llama.cpp writes them.
fn message_stream() -> Stream {
    let event = |kind: &str, members: &str| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{members}}}\n\n")
    };
    let start = r#","message":{"id":"chatcmpl-stand-in","type":"message","role":"assistant","content":[],"model":"stand-in","stop_reason":null,"stop_sequence":null,"usage":{"cache_read_input_tokens":0,"input_tokens":3,"output_tokens":0}}"#;
    let block = r#","index":0,"content_block":{"type":"text","text":""}"#;
    let word = r#","index":0,"delta":{"type":"text_delta","text":"word "}"#;
    let finish =
        r#","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":1}"#;
    let begin = [
        event("message_start", start),
        event("content_block_start", block),
    ];
    let end = [
        event("content_block_stop", r#","index":0"#),
        event("message_delta", finish),
        event("message_stop", ""),
    ];
    stream(&begin, &event("content_block_delta", word), &end)
}

/// As vLLM writes them.
fn response_stream() -> Stream {
    let event = |kind: &str, members: &str| {
        format!("event: {kind}\ndata: {{{members},\"sequence_number\":0,\"type\":\"{kind}\"}}\n\n")
    };
    let response = |status: &str, more: &str| {
        format!(
            r#""response":{{"id":"resp_stand-in","object":"response","created_at":1795489200,"status":"{status}","model":"stand-in",{more}}}"#
        )
    };
    let message = |text: &str| {
        format!(r#"{{"id":"msg_1","type":"message","role":"assistant","content":[{text}]}}"#)
    };
    let part = r#"{"type":"output_text","text":"word ","annotations":[]}"#;
    let item = r#""output_index":0,"item""#;
    let delta =
        r#""item_id":"msg_1","output_index":0,"content_index":0,"delta":"word ","logprobs":[]"#;
    let usage = r#""usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":0},"output_tokens":1,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":4}"#;
    let begin = [
        event(
            "response.created",
            &response("in_progress", r#""output":[],"usage":null"#),
        ),
        event(
            "response.output_item.added",
            &format!("{item}:{}", message("")),
        ),
    ];
    let whole = format!(r#""output":[{}],{usage}"#, message(part));
    let end = [
        event(
            "response.output_item.done",
            &format!("{item}:{}", message(part)),
        ),
        event("response.completed", &response("completed", &whole)),
    ];
    stream(&begin, &event("response.output_text.delta", delta), &end)
}

/// How many words a chat asks for.
fn requested(body: &[u8]) -> usize {
    const CONTENT: &[u8] = br#""content":""#;
    let from = find(body, CONTENT).map_or(body.len(), |at| at + CONTENT.len());
    let digits = body[from..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

fn whole_answer(text: &str) -> String {
    let choice = format!(
        r#"{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}"#
    );
    let usage = r#"{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}"#;
    format!(
        r#"{{"id":"chatcmpl-stand-in","object":"chat.completion","created":1795489200,"model":"stand-in","choices":[{choice}],"usage":{usage}}}"#
    )
}

fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-stand-in\",\"object\":\"chat.completion.chunk\",\"created\":1795489200,\"model\":\"stand-in\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
