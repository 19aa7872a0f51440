//! A real server on port 0 over a file in a temporary folder, callers that check the shape of every answer, and
//! upstreams that do what the test says.

mod process;
mod raw_upstream;
mod upstream;

pub(crate) use process::{Process, edge, edge_output, on_a_small_disk};
pub(crate) use raw_upstream::{RawAnswer, RawRequest, RawUpstream, Then};
pub(crate) use upstream::{Frames, Loading, Scripted, Seen, Upstream};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::config::{Listen, RatesConfig};
use r3mes_edge::limits::RateClass;
use r3mes_edge::model::{Credits, Timestamp, Wallet};
use r3mes_edge::store::{Actor, issue_key};
use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
use serde_json::{Value, json};

pub(crate) const W1: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";
pub(crate) const W2: &str = "remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx";
pub(crate) const W3: &str = "remes16kykek0kkvk803mfw4e3wukykhaccla26tvxhq";

pub(crate) fn wallet(text: &str) -> Wallet {
    Wallet::parse(text).unwrap()
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures")
        .join(name);
    std::fs::read(path).unwrap()
}

/// A configuration for tests: no discovery of upstreams, no rate limits.
pub(crate) fn config() -> Config {
    let mut config = Config::read("listen = \"127.0.0.1:0\"\ndiscover = false", []).unwrap();
    config.rates = RatesConfig::off();
    config.limits.per_address = 10_000;
    config
}

/// The same with the rate that a class has by default.
pub(crate) fn config_with_rate(class: RateClass) -> Config {
    let mut config = config();
    let rate = RatesConfig::default().get(class);
    config.rates.set(class, rate);
    config
}

/// The same with one inference server of a kind.
pub(crate) fn config_with_inference(kind: &str, upstream: &Upstream) -> Config {
    let mut config = config_with_nodes(kind, &[upstream.url()]);
    config.inference[0].name = "node".to_owned();
    config
}

/// The same with several inference servers of a kind, each of its own name.
pub(crate) fn config_with_nodes(kind: &str, urls: &[String]) -> Config {
    let mut text = "listen = \"127.0.0.1:0\"\ndiscover = false".to_owned();
    for (at, url) in urls.iter().enumerate() {
        text +=
            &format!("\n[[inference]]\nname = \"node-{at}\"\nkind = \"{kind}\"\nurl = \"{url}\"");
    }
    let mut config = Config::read(&text, []).unwrap();
    config.rates = RatesConfig::off();
    config.limits.per_address = 10_000;
    config
}

/// A running server with its folder.
pub(crate) struct TestServer {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Repository>,
    server: Option<EdgeServer>,
    pub(crate) base: String,
    admin: String,
    folder: Option<tempfile::TempDir>,
}

impl TestServer {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_with(config, |store| Arc::new(store)).await
    }

    /// Starts over a store that `wrap` puts around the real one.
    pub(crate) async fn start_with(
        config: Config,
        wrap: impl FnOnce(SqliteStore) -> Arc<dyn Repository>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        raise_file_limit();
        let store = wrap(SqliteStore::open(&folder.path().join("edge.db"), true).unwrap());
        let clock = Clock::default();
        let request = KeyRequest {
            wallet: None,
            name: "test".to_owned(),
            scopes: Scopes::ADMIN,
            expires_at: None,
            login: false,
            limits: None,
        };
        let admin = issue_key(&*store, request, 10, Actor::local(clock.now()), None)
            .await
            .unwrap();
        let builder = EdgeServer::builder(config, Arc::clone(&store)).clock(clock.clone());
        let server = builder.start().await.unwrap();
        let base = format!("http://{}", server.local_addr());
        let admin = admin.key.reveal().to_owned();
        Self {
            clock,
            store,
            server: Some(server),
            base,
            admin,
            folder: Some(folder),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("edge.db")
    }

    /// Where it listens.
    pub(crate) fn listeners(&self) -> Vec<Listen> {
        self.server.as_ref().unwrap().listeners().to_vec()
    }

    /// A caller without a key.
    pub(crate) fn anybody(&self) -> Caller {
        Caller::new(&self.base, None)
    }

    /// The admin.
    pub(crate) fn admin(&self) -> Caller {
        Caller::new(&self.base, Some(&self.admin))
    }

    /// A caller with this key.
    pub(crate) fn with_key(&self, key: &str) -> Caller {
        Caller::new(&self.base, Some(key))
    }

    /// A caller with a new key of a wallet.
    pub(crate) async fn caller(&self, wallet: &str, scopes: &[&str]) -> Caller {
        let body = json!({ "wallet_address": wallet, "scopes": scopes });
        let made = self.admin().post("/api/keys", &body).await.expect(201);
        self.with_key(made["api_key"].as_str().unwrap())
    }

    /// A caller with a new key that may chat and read, whose wallet has so many credits.
    pub(crate) async fn payer(&self, wallet: &str, credits: u32) -> Caller {
        let caller = self.caller(wallet, &["chat", "read"]).await;
        if credits > 0 {
            let body = json!({ "amount": credits, "reason": "test" });
            self.admin()
                .post(&format!("/users/{wallet}/credits"), &body)
                .await
                .expect(200);
        }
        caller
    }

    /// Gives so many micro-credits to a wallet.
    pub(crate) async fn grant_micro(&self, wallet: &str, micro: i64) {
        let amount = Credits::from_micro(micro);
        let body = format!("{{\"amount\":{amount},\"reason\":\"test\"}}");
        let path = format!("/users/{wallet}/credits");
        let granted = self.admin().send(Method::POST, &path, &[], body).await;
        granted.expect(200);
    }

    /// Lets time pass until tomorrow's noon (UTC), so that hours and days lie where the test expects them.
    pub(crate) fn wait_for_noon(&self) -> Timestamp {
        let now = self.clock.now();
        let noon = now.day().plus(Duration::from_secs(36 * 3600));
        let wait = noon.millis().abs_diff(now.millis());
        self.clock.advance(Duration::from_millis(wait));
        noon
    }

    pub(crate) async fn balance(&self, text: &str) -> Credits {
        self.store.user(wallet(text)).await.unwrap().credits
    }

    /// Every balance is the sum of its ledger, with the running balances, usage and earnings that belong to it.
    pub(crate) async fn assert_ledger_adds_up(&self) {
        let report = self.store.verify_ledger(true).await.unwrap();
        assert_eq!(report.mistakes, Vec::<String>::new());
    }

    /// Stops the server gracefully, unless that was begun already; returns its folder with everything written.
    pub(crate) async fn shutdown(mut self) -> tempfile::TempDir {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
        self.folder.take().unwrap()
    }

    /// Begins the shutdown; the returned task ends with the server.
    pub(crate) fn begin_shutdown(&mut self) -> tokio::task::JoinHandle<()> {
        let server = self.server.take().unwrap();
        tokio::spawn(async move { server.shutdown().await })
    }
}

/// Polls until a condition holds, for work that the server does in the background. Every round is at least one turn of
/// the runtime; it does not sleep, and fails after a timeout.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    // By the clock, as a busy machine may do little else for thousands of rounds.
    let given_up = std::time::Instant::now() + Duration::from_secs(30);
    while std::time::Instant::now() < given_up {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::task::yield_now().await;
    }
    panic!("waited in vain: {what}");
}

/// A thousand chats need some thousand sockets in this one process.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// A client of the server.
#[derive(Clone)]
pub(crate) struct Caller {
    base: String,
    key: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Caller {
    pub(crate) fn new(base: &str, key: Option<&str>) -> Self {
        Self::over(HttpConnector::new(), base, key)
    }

    /// The same from an address of its own, so that its failures count against no other client.
    pub(crate) fn at(address: std::net::IpAddr, base: &str, key: Option<&str>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(address));
        Self::over(connector, base, key)
    }

    fn over(connector: HttpConnector, base: &str, key: Option<&str>) -> Self {
        Self {
            base: base.to_owned(),
            key: key.map(str::to_owned),
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// The same caller with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn key(&self) -> &str {
        self.key.as_deref().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[], body.to_string()).await
    }

    /// A whole answer, its shape checked.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let head_only = method == Method::HEAD;
        let asked = method.clone();
        let (status, headers, body) = self.open(method, path, headers, body).await;
        let body = body.collect().await.unwrap().to_bytes();
        let answer = Answer {
            status,
            headers,
            body,
        };
        answer.check_shape(head_only);
        crate::openapi::check(&asked, path, &answer);
        answer
    }

    /// Only the head of the answer; the body comes as the test takes it.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (u16, HeaderMap, Incoming) {
        self.try_open(method, path, headers, body).await.unwrap()
    }

    /// The same for a server that may die.
    pub(crate) async fn try_open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<(u16, HeaderMap, Incoming)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.client.request(request).await.ok()?;
        let (head, body) = response.into_parts();
        Some((head.status.as_u16(), head.headers, body))
    }

    /// Sends a request to a server that may die; the status of a whole answer, if there was one.
    pub(crate) async fn try_post(&self, path: &str, body: String) -> Option<u16> {
        let (status, _, body) = self.try_open(Method::POST, path, &[], body).await?;
        body.collect().await.ok()?;
        Some(status)
    }

    /// Asks for a chat and returns with the head of its answer.
    pub(crate) async fn chat(&self, message: &str) -> (u16, HeaderMap, Incoming) {
        self.open(
            Method::POST,
            "/chat",
            &[],
            json!({ "message": message }).to_string(),
        )
        .await
    }
}

/// The next piece of a streamed body; `None` at its clean end, an error where it is cut.
pub(crate) async fn next_text(body: &mut Incoming) -> Option<Result<String, hyper::Error>> {
    loop {
        match body.frame().await? {
            Err(error) => return Some(Err(error)),
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(String::from_utf8(data.to_vec()).unwrap()));
                }
            }
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// An error that must have this status and code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        body
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// What holds for every answer: no unexpected header, a request id, and errors in the one shape.
    #[track_caller]
    pub(crate) fn check_shape(&self, head_only: bool) {
        const KNOWN: &[&str] = &[
            "age",
            "allow",
            "cache-control",
            "connection",
            "content-length",
            "content-security-policy",
            "content-type",
            "cross-origin-resource-policy",
            "date",
            "etag",
            "link",
            "ratelimit",
            "ratelimit-policy",
            "referrer-policy",
            "request-id",
            "retry-after",
            "transfer-encoding",
            "www-authenticate",
            "x-accel-buffering",
            "x-cache",
            "x-content-type-options",
            "x-credits-charged",
            "x-request-id",
            "vary",
            "access-control-allow-origin",
            "idempotency-replayed",
            "access-control-allow-methods",
            "access-control-allow-headers",
            "access-control-expose-headers",
            "access-control-max-age",
        ];
        for name in self.headers.keys() {
            assert!(
                KNOWN.contains(&name.as_str()),
                "the answer has the header {name}"
            );
        }
        assert!(!self.header("x-request-id").is_empty());
        assert!(!self.header("cache-control").is_empty());
        if self.status < 400 {
            return;
        }
        let is_anthropic = self.headers.contains_key("request-id");
        assert_eq!(
            self.header("content-type"),
            match is_anthropic {
                true => "application/json",
                false => "application/problem+json",
            }
        );
        assert_eq!(
            self.headers.contains_key("www-authenticate"),
            self.status == 401
        );
        assert_eq!(
            self.headers.contains_key("allow"),
            self.status == 405,
            "a refusal with Allow is a 405"
        );
        if head_only {
            return;
        }
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        if is_anthropic {
            assert_eq!(body["type"], "error");
            assert_eq!(body["request_id"], self.header("request-id"));
            assert_eq!(self.header("request-id"), self.header("x-request-id"));
            return;
        }
        let waits = matches!(self.status, 429 | 503) || body["code"] == "idempotency_in_progress";
        assert_eq!(self.headers.contains_key("retry-after"), waits);
        assert_eq!(body["status"], self.status);
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert_eq!(
            body["type"],
            format!("urn:r3mes-edge:{}", body["code"].as_str().unwrap())
        );
        assert_eq!(body["error"]["code"], body["code"]);
        for text in ["title", "detail", "message"] {
            assert!(!body[text].as_str().unwrap().is_empty());
        }
        if body["code"] == "invalid_request" {
            assert!(body["errors"][0]["pointer"].is_string(), "{body}");
        }
    }
}
