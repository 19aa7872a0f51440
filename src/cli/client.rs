//! The client of the server: a command sends a request and prints the response. If no server runs, the same handlers
//! respond in this process, so that no command needs two implementations.

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use r3mes_edge::config::Listen;
use r3mes_edge::model::new_id;
use r3mes_edge::server::serve_local;
use r3mes_edge::store::{InstanceLock, LockError, OpenError};
use r3mes_edge::{Config, SqliteStore};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::admin_key::{self, Problem};
use super::output::{List, row};
use super::{Failure, Result, failed, logging};

type Reply = Response<Bytes>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Opens the database under its lock, which another process may hold for a moment: a command, or a server that is starting
/// and has no address yet. With `create`, which is for a server, also one that is stopping.
pub(super) async fn open(config: &Config, create: bool) -> Result<Arc<SqliteStore>, OpenError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match SqliteStore::open(&config.database, create) {
            Err(OpenError::Locked(LockError::Held(address)))
                if (create || address.is_none()) && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(100)).await;
            }
            opened => return Ok(Arc::new(opened?)),
        }
    }
}

/// The address of the server of a database, if one is running.
pub(super) fn server_of(database: &Path) -> Result<Option<String>> {
    Ok(InstanceLock::server_of(database).map_err(OpenError::Locked)?)
}

/// The duration of an operation on the whole database depends on its size.
const LONG: [&str; 2] = ["/admin/backup", "/admin/ledger/verify"];

/// Sends the requests of a command; each method returns the body of a successful response.
pub(super) struct Client {
    pub(super) config: Config,
    /// Whether the command prints JSON.
    pub(super) json: bool,
}

impl Client {
    pub(super) async fn get(&self, path: &str) -> Result<String> {
        self.send(Method::GET, path, String::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<String> {
        let body = serde_json::to_string(body)?;
        self.send(Method::POST, path, body).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<String> {
        self.send(Method::DELETE, path, String::new()).await
    }

    /// If the server cannot be reached or its response is lost, a short request is retried; its idempotency key keeps a POST
    /// from being done twice.
    async fn send(&self, method: Method, path: &str, body: String) -> Result<String> {
        let mut request = Request::builder().method(&method).uri(path);
        if method == Method::POST {
            request = request.header("idempotency-key", new_id("cli_"));
        }
        let request = request.body(body).map_err(failed)?;
        for pause in [200, 400] {
            match respond(&self.config, request.clone()).await {
                Err(failure) if failure.code() == 5 && !LONG.contains(&path) => {
                    sleep(Duration::from_millis(pause)).await;
                }
                done => return done,
            }
        }
        respond(&self.config, request).await
    }

    /// Prints all pages of a list: as `{"name":[…],"next_cursor":null}`, or these columns of each item.
    pub(super) async fn list(&self, name: &str, query: &str, columns: &[(&str, usize)]) -> Result {
        #[derive(Deserialize)]
        struct Page {
            #[serde(alias = "users", alias = "keys", alias = "entries", alias = "usage")]
            items: Vec<Box<RawValue>>,
            next_cursor: Option<String>,
        }
        let mut list = List::begin(self.json, &format!("{{\"{name}\":["));
        let mut cursor = Some(String::new());
        while let Some(at) = cursor {
            let page = self.get(&format!("{query}limit=500{at}")).await?;
            let page: Page = serde_json::from_str(&page)?;
            for item in &page.items {
                list.add(item, || row(item.get(), columns))?;
            }
            cursor = page.next_cursor.map(|next| format!("&cursor={next}"));
        }
        if self.json {
            println!("],\"next_cursor\":null}}");
        }
        Ok(())
    }
}

/// Sends a request to the running server; without one the handlers respond in this process, to a GET on a file that may be
/// read-only, else under the database's lock.
async fn respond(config: &Config, request: Request<String>) -> Result<String> {
    let database = &config.database;
    let response = if let Some(address) = server_of(database)? {
        ask(&address, database, request).await?
    } else if request.method() == Method::GET {
        let store = SqliteStore::open_read_only(database)?;
        local(config, Arc::new(store), request).await?
    } else {
        match open(config, false).await {
            Err(OpenError::Locked(LockError::Held(Some(address)))) => {
                ask(&address, database, request).await?
            }
            opened => local(config, opened?, request).await?,
        }
    };
    let status = response.status();
    let body = String::from_utf8(response.into_body().into()).map_err(failed)?;
    if status.is_success() {
        return Ok(body.trim_end().to_owned());
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no reason given");
    let detail = detail.to_owned();
    Err(match status.as_u16() {
        400 => Failure::Usage(detail),
        401 | 403 => {
            let what = format!("is refused by the server: {detail}");
            failed(Problem::new(database, true, what))
        }
        402 | 409 => Failure::Conflict(detail),
        404 => Failure::NotFound(detail),
        429 | 502.. => Failure::Unavailable(detail),
        _ => Failure::Failed(detail),
    })
}

/// An extended attribute of the lock file with the server's network namespace; the file itself is the address alone.
const NETWORK: &str = "user.r3mes_edge.network";

/// The network namespace of this process; empty where there is no /proc.
fn network() -> Vec<u8> {
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    namespace.into_os_string().into_vec()
}

/// Adds this process's network namespace to the lock file, where its file system has extended attributes.
pub(super) fn announce_network(database: &Path) {
    let file = database.with_added_extension("lock");
    if let Err(error) = setxattr(&file, NETWORK, &network(), XattrFlags::empty()) {
        log::debug!("{} has no {NETWORK}: {error}", file.display());
    }
}

/// Refuses an address of another network namespace, a container's, say: another program may listen there in this one, and
/// must not get the admin key.
fn check_network(address: &str, database: &Path) -> Result {
    let (file, mut announced) = (database.with_added_extension("lock"), [0; 64]);
    let length = getxattr(&file, NETWORK, &mut announced).unwrap_or(0);
    let (server, here) = (&announced[..length], network());
    let is_known = length > 0 && !here.is_empty() && socket_path(address).is_none();
    if is_known && server != here {
        return Err(Failure::Unavailable(format!(
            "the server at {address} was not reached: it runs in another network (a container, say); run the command there, as with docker exec"
        )));
    }
    Ok(())
}

/// Sends a request to the server at `address` as an admin; retries if rate-limited for less than the deadline.
async fn ask(address: &str, database: &Path, mut request: Request<String>) -> Result<Reply> {
    check_network(address, database)?;
    let (key, _) = admin_key::read(database).map_err(failed)?;
    let key = key.reveal().parse().map_err(failed)?;
    request.headers_mut().insert("x-api-key", key);
    let is_long = LONG.contains(&request.uri().path());
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
    let answered = answered.unwrap_or_else(|_| Err("no answer in time".into()));
    answered.map_err(|error| {
        Failure::Unavailable(format!(
            "the server at {address} was not reached ({error}); check whether a change was made before you repeat it"
        ))
    })
}

/// Runs the library's handlers in this process, as for an admin.
async fn local(
    config: &Config,
    store: Arc<SqliteStore>,
    request: Request<String>,
) -> Result<Reply> {
    // The details of an internal error are only in the log.
    logging::start(&config.log, "error");
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let (answer, served) = tokio::join!(
        exchange(near, "localhost", request),
        serve_local(config, store, far)
    );
    served.map_err(failed)?;
    answer.map_err(failed)
}

/// Sends a request to the server at `address`, as [`local_address`] wrote it. The deadline is the caller's.
pub(super) async fn send(address: &str, request: Request<String>) -> Result<Reply, BoxError> {
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
) -> Result<Reply, BoxError> {
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
    let Some(mut address) = listen.address() else {
        return listen.to_string();
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// The path of the Unix socket in an address, if it is one.
pub(super) fn socket_path(address: &str) -> Option<&Path> {
    address.strip_prefix("unix:").map(Path::new)
}
