//! The client of the server: a command sends a request and prints the response. If no server runs, the same handlers
//! respond in this process, so that no command needs two implementations.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use r3mes_edge::config::Listen;
use r3mes_edge::model::new_id;
use r3mes_edge::server::serve_local;
use r3mes_edge::store::{InstanceLock, LockError, OpenError};
use r3mes_edge::{Config, SqliteStore};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::admin_key::{self, Problem};
use super::output::{List, Members};
use super::{Failure, failed, logging};

/// How long to wait for the instance lock while another process holds it.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(100);

type BoxError = Box<dyn Error + Send + Sync>;

/// Where a request is handled.
enum Target {
    /// The running server, at `http://…` or `unix:/…`.
    Server(String),
    /// The handlers in this process, on the database under its lock.
    Store(Arc<SqliteStore>),
    /// The same, without the lock, on a file that may be read-only.
    File,
}

impl Target {
    async fn find(config: &Config, method: &str) -> Result<Self, Failure> {
        let target = match (server_of(&config.database)?, method) {
            (Some(address), _) => return Ok(Self::Server(address)),
            (None, "GET") => Self::File,
            (None, _) => match open(config).await {
                Err(OpenError::Locked(LockError::Held(Some(address)))) => {
                    return Ok(Self::Server(address));
                }
                opened => Self::Store(opened?),
            },
        };
        // The details of an internal error are only in the log.
        let mut log = config.log.clone();
        log.level = "error".to_owned();
        logging::start(&log);
        Ok(target)
    }
}

/// Opens the database for a command that writes. Another command may hold the lock for a moment, as may a server that is
/// starting and has no address yet.
pub(super) async fn open(config: &Config) -> Result<Arc<SqliteStore>, OpenError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match SqliteStore::open(&config.database, false) {
            Err(OpenError::Locked(LockError::Held(None))) if Instant::now() < deadline => {
                sleep(LOCK_RETRY).await;
            }
            opened => return Ok(Arc::new(opened?)),
        }
    }
}

/// The address of the server of a database, if one is running.
pub(super) fn server_of(database: &Path) -> Result<Option<String>, Failure> {
    Ok(InstanceLock::server_of(database).map_err(OpenError::Locked)?)
}

pub(super) async fn get(config: &Config, path: &str) -> Result<String, Failure> {
    call(config, "GET", path, String::new()).await
}

/// The body of a successful response.
pub(super) async fn call(
    config: &Config,
    method: &str,
    path: &str,
    body: String,
) -> Result<String, Failure> {
    let request = Request::builder().method(method).uri(path).body(body);
    let target = Target::find(config, method).await?;
    answer(config, &target, request.map_err(failed)?).await
}

/// A POST that must not be done twice: if the response is lost, it is retried with the same idempotency key.
pub(super) async fn post_idempotent(
    config: &Config,
    path: &str,
    body: String,
) -> Result<String, Failure> {
    let request = Request::post(path).header("idempotency-key", new_id("cli_"));
    let request = request.body(body).map_err(failed)?;
    let target = Target::find(config, "POST").await?;
    let mut pauses = [200, 400].into_iter();
    loop {
        match (
            answer(config, &target, request.clone()).await,
            pauses.next(),
        ) {
            (Err(Failure::Unavailable(_)), Some(pause)) => {
                sleep(Duration::from_millis(pause)).await;
            }
            (Err(Failure::Unavailable(text)), None) => {
                return Err(Failure::Unavailable(format!(
                    "{text}; check whether it was done before you try again"
                )));
            }
            (done, _) => return done,
        }
    }
}

/// Prints all pages of a list: as `{"name":[…],"next_cursor":null}`, or one `line` per item.
pub(super) async fn list(
    config: &Config,
    name: &str,
    query: &str,
    json: bool,
    line: fn(&Members) -> String,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(alias = "users", alias = "keys")]
        items: Vec<Box<RawValue>>,
        next_cursor: Option<String>,
    }
    let mut list = List::begin(json, &format!("{{\"{name}\":["));
    let mut cursor = String::new();
    loop {
        let page = get(config, &format!("{query}limit=500{cursor}")).await?;
        let page: Page = serde_json::from_str(&page)?;
        for item in &page.items {
            list.add(item, || Ok(line(&Members::of(item.get())?)))?;
        }
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if json {
        println!("],\"next_cursor\":null}}");
    }
    Ok(())
}

async fn answer(
    config: &Config,
    target: &Target,
    request: Request<String>,
) -> Result<String, Failure> {
    let database = &config.database;
    let response = match target {
        Target::Server(address) => ask(address, database, request).await?,
        Target::Store(store) => local(config, Arc::clone(store), request).await?,
        Target::File => {
            let read = async |store| local(config, store, request.clone()).await;
            SqliteStore::read_only(database, read).await?
        }
    };
    let (head, body) = response.into_parts();
    let body = String::from_utf8(body.into()).map_err(failed)?;
    if head.status.is_success() {
        return Ok(body);
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no reason given");
    let detail = detail.to_owned();
    Err(match (head.status.as_u16(), target) {
        (401 | 403, Target::Server(address)) => {
            let what = format!("is refused by the server at {address}: {detail}");
            failed(Problem::new(database, true, &what))
        }
        (404, _) => Failure::NotFound(detail),
        (402 | 409, _) => Failure::Conflict(detail),
        (400, _) => Failure::Usage(detail),
        (429 | 502.., _) => Failure::Unavailable(detail),
        _ => Failure::Failed(detail),
    })
}

/// Sends a request to the server at `address` as an admin; retries if rate-limited for less than the deadline.
async fn ask(
    address: &str,
    database: &Path,
    mut request: Request<String>,
) -> Result<Response<Bytes>, Failure> {
    let key = admin_key::read(database).map_err(failed)?;
    let key = key.reveal().parse().map_err(failed)?;
    request.headers_mut().insert("x-api-key", key);
    // The duration of an operation on the whole database depends on its size.
    let is_long = request.uri().path().starts_with("/admin/");
    let deadline = Duration::from_secs(if is_long { 3600 } else { 60 });
    let answered = async {
        loop {
            let response = send(address, request.clone()).await?;
            let wait = response.headers().get(RETRY_AFTER);
            let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
            match wait.map(Duration::from_secs) {
                // If all idempotency keys are in use it may be a day.
                Some(wait) if response.status() == 429 && wait < deadline => sleep(wait).await,
                _ => return Ok::<_, BoxError>(response),
            }
        }
    };
    let answered = timeout(deadline, answered).await;
    answered
        .unwrap_or_else(|_| Err("no answer in time".into()))
        .map_err(|error| {
            Failure::Unavailable(format!("the server at {address} was not reached: {error}"))
        })
}

/// Runs the library's handlers in this process, as for an admin.
async fn local(
    config: &Config,
    store: Arc<SqliteStore>,
    request: Request<String>,
) -> Result<Response<Bytes>, Failure> {
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let (answer, served) = tokio::join!(
        exchange(near, "localhost", request),
        serve_local(config, store, far)
    );
    served.map_err(failed)?;
    answer.map_err(failed)
}

/// Sends a request to the server at `address`, as [`local_address`] wrote it. The deadline is the caller's.
pub(super) async fn send(
    address: &str,
    request: Request<String>,
) -> Result<Response<Bytes>, BoxError> {
    match socket_path(address) {
        Some(path) => exchange(UnixStream::connect(path).await?, "localhost", request).await,
        None => {
            let host = address.trim_start_matches("http://");
            exchange(TcpStream::connect(host).await?, host, request).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    mut request: Request<String>,
) -> Result<Response<Bytes>, BoxError> {
    const LONGEST: usize = 64 << 20;
    let headers = request.headers_mut();
    headers.insert(HOST, host.parse()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// The address under which a local client reaches a server that listens there; stored in the lock file.
pub(super) fn local_address(listen: &Listen) -> String {
    let Some(address) = listen.address() else {
        return listen.to_string();
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The path of the Unix socket in an address, if it is one.
pub(super) fn socket_path(address: &str) -> Option<&Path> {
    address.strip_prefix("unix:").map(Path::new)
}
