//! The client of the server: a command sends a request and prints the response. If no server runs, the same handlers
//! respond in this process, so that no command needs two implementations.

use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use r3mes_edge::auth::PlainKey;
use r3mes_edge::model::new_id;
use r3mes_edge::server::serve_local;
use r3mes_edge::store::{InstanceLock, LockError, OpenError};
use r3mes_edge::{Config, SqliteStore};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::address::socket_path;
use super::admin_key::{self, Problem};
use super::output::{Column, List, header, row};
use super::remote::{self, BoxError, Remote};
use super::{Failure, GlobalArgs, Result, failed, logging};

type Reply = Response<Bytes>;

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
    /// That of this machine's server; the default one for a server elsewhere.
    pub(super) config: Config,
    /// Whether the command prints JSON.
    pub(super) json: bool,
    /// The server that `--url` names.
    pub(super) remote: Option<Remote>,
    /// A key that is sent instead of the admin's.
    pub(super) key: Option<PlainKey>,
}

/// A server that is asked.
struct Server {
    address: String,
    key: HeaderValue,
}

impl Client {
    /// For the server that `--url` names, else for that of this database.
    pub(super) fn new(
        global: &GlobalArgs,
        json: bool,
        config: impl FnOnce() -> Result<Config>,
    ) -> Result<Self> {
        let remote = Remote::new(global)?;
        let config = match remote {
            Some(_) => Config::default(),
            None => config()?,
        };
        let key = None;
        Ok(Self {
            config,
            json,
            remote,
            key,
        })
    }

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
            match self.respond(request.clone()).await {
                Err(failure) if failure.code() == 5 && !LONG.contains(&path) => {
                    sleep(Duration::from_millis(pause)).await;
                }
                done => return done,
            }
        }
        self.respond(request).await
    }

    /// Prints all pages of a list: as `{"name":[…],"next_cursor":null}`, or these columns of each item.
    pub(super) async fn list(&self, name: &str, query: &str, columns: &[Column]) -> Result {
        #[derive(Deserialize)]
        struct Page {
            #[serde(alias = "users", alias = "keys", alias = "entries", alias = "usage")]
            items: Vec<Box<RawValue>>,
            next_cursor: Option<String>,
        }
        let mut list = List::new(self.json, name, header(columns));
        let mut cursor = Some(String::new());
        while let Some(at) = cursor {
            let page = self.get(&format!("{query}limit=500{at}")).await?;
            let page: Page = serde_json::from_str(&page)?;
            for item in &page.items {
                list.add(item, || row(item.get(), columns))?;
            }
            cursor = page.next_cursor.map(|next| format!("&cursor={next}"));
        }
        list.end(",\"next_cursor\":null")
    }

    /// The address of the server that is asked, if there is one: that of `--url`, or of the one that runs on the database.
    pub(super) fn address(&self) -> Result<Option<String>> {
        match &self.remote {
            Some(remote) => Ok(Some(remote.address.clone())),
            None => server_of(&self.config.database),
        }
    }

    /// The same for what only a running server has.
    pub(super) fn running(&self, what: &str) -> Result<String> {
        self.address()?.ok_or_else(|| {
            Failure::Unavailable(format!(
                "no server runs on {}: only a running one has {what}; start it, or name another with --url",
                self.config.database.display()
            ))
        })
    }

    /// The server at an address, with the key for it.
    fn server(&self, address: String) -> Result<Server> {
        let database = &self.config.database;
        if self.remote.is_none() {
            check_network(&address, database)?;
        }
        let read;
        let key = match &self.key {
            Some(key) => key,
            None if self.remote.is_some() => {
                read = admin_key::read_named()?;
                &read
            }
            None => {
                read = admin_key::read(database).map_err(failed)?.0;
                &read
            }
        };
        let mut key: HeaderValue = key.reveal().parse().map_err(failed)?;
        key.set_sensitive(true);
        Ok(Server { address, key })
    }

    fn ca_file(&self) -> Option<&Path> {
        self.remote.as_ref()?.ca_file.as_deref()
    }

    /// Sends a request to the server, or without one lets the handlers respond in this process: to a GET on a file that may be
    /// read-only, else under the database's lock.
    async fn respond(&self, request: Request<String>) -> Result<String> {
        let (config, database) = (&self.config, &self.config.database);
        let response = if let Some(address) = self.address()? {
            self.ask(address, request).await?
        } else if request.method() == Method::GET {
            let store = SqliteStore::open_read_only(database)?;
            local(config, Arc::new(store), request).await?
        } else {
            match open(config, false).await {
                Err(OpenError::Locked(LockError::Held(Some(address)))) => {
                    self.ask(address, request).await?
                }
                opened => local(config, opened?, request).await?,
            }
        };
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.into()).map_err(failed)?;
        if head.status.is_success() {
            return Ok(body.trim_end().to_owned());
        }
        let to = head.headers.get(LOCATION);
        let to = to.and_then(|to| to.to_str().ok());
        Err(self.refusal(head.status, to, &body))
    }

    /// Why a response is no success.
    fn refusal(&self, status: StatusCode, to: Option<&str>, body: &str) -> Failure {
        let problem: Value = serde_json::from_str(body).unwrap_or_default();
        let detail = match (problem["detail"].as_str(), to) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(to)) => format!("status {status}: name the address it leads to: {to}"),
            (None, None) => format!("status {status} without a reason; is it an r3mes-edge?"),
        };
        match status.as_u16() {
            400 => Failure::Usage(detail),
            401 | 403 if self.key.is_some() => {
                Failure::Failed(format!("the key is refused by the server: {detail}"))
            }
            401 | 403 if self.remote.is_some() => {
                let file = admin_key::path(&self.config.database);
                let file = file.display();
                Failure::Failed(format!(
                    "the key in {file} is refused by the server: {detail}"
                ))
            }
            401 | 403 => {
                let what = format!("is refused by the server: {detail}");
                failed(Problem::new(&self.config.database, true, what))
            }
            402 | 409 => Failure::Conflict(detail),
            404 => Failure::NotFound(detail),
            429 | 502.. => Failure::Unavailable(detail),
            _ => Failure::Failed(detail),
        }
    }

    /// Sends a request to the server at `address`; retries if rate-limited for less than the deadline.
    async fn ask(&self, address: String, mut request: Request<String>) -> Result<Reply> {
        let Server { address, key } = self.server(address)?;
        request.headers_mut().insert("x-api-key", key);
        let is_long = LONG.contains(&request.uri().path());
        let deadline = Duration::from_secs(if is_long { 3600 } else { 60 });
        let answered = async {
            loop {
                let response = send(&address, self.ca_file(), request.clone()).await?;
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
        answered.map_err(|error| not_reached(&address, &error))
    }

    /// Sends a request whose answer is read as it comes; it must be a success. It is not retried.
    pub(super) async fn open(
        &self,
        address: String,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>> {
        let Server { address, key } = self.server(address)?;
        let request = Request::post(path).header("x-api-key", key).body(body);
        let request = request.map_err(failed)?;
        let response = remote::open(&address, self.ca_file(), request).await;
        let response = response.map_err(|error| not_reached(&address, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let response = whole(response).await.map_err(failed)?;
        let body = String::from_utf8_lossy(response.body());
        Err(self.refusal(status, None, &body))
    }
}

fn not_reached(address: &str, error: &BoxError) -> Failure {
    Failure::Unavailable(format!(
        "the server at {address} was not reached ({error}); check whether a change was made before you repeat it"
    ))
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
        async { whole(remote::exchange(TokioIo::new(near), "localhost", request).await?).await },
        serve_local(config, store, far)
    );
    served.map_err(failed)?;
    answer.map_err(failed)
}

/// Sends a request to the server at `address`, and reads the whole answer. The deadline is the caller's.
pub(super) async fn send(
    address: &str,
    ca_file: Option<&Path>,
    request: Request<String>,
) -> Result<Reply, BoxError> {
    whole(remote::open(address, ca_file, request).await?).await
}

async fn whole(response: Response<Incoming>) -> Result<Reply, BoxError> {
    const LONGEST: usize = 64 << 20;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}
