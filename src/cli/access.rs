//! How a command reaches the data: through the running server where there is one, else by opening the file itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use r3mes_edge::SqliteStore;
use r3mes_edge::auth::{PlainKey, Scope};
use r3mes_edge::model::{Timestamp, new_id};
use r3mes_edge::store::{InstanceLock, LockError, OpenError, SqliteReader, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admin_key::{Problem, State};
use super::settings::{HERE, SYSTEM, Settings};
use super::{Failure, admin_key, client};

/// How long whoever needs the database's lock waits for another process that has it.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(100);

/// The way to the data.
pub(super) enum Access<T = SqliteStore> {
    /// No server runs: the file is ours until the command ends, or one to be read.
    File(T),
    /// A server runs here.
    Server {
        /// `http://…` or `unix:/…`
        address: String,
        /// Its database, beside which the admin key stands.
        database: PathBuf,
    },
}

impl Access {
    /// Opens the file, or finds the server that has it.
    pub(super) async fn open(database: &Path) -> Result<Self, Failure> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match SqliteStore::open(database, false) {
                Ok(store) => return Ok(Self::File(store)),
                Err(OpenError::Locked(LockError::Held(Some(address)))) => {
                    return Ok(Self::Server {
                        address,
                        database: database.to_owned(),
                    });
                }
                // A server that is starting has the lock and no address yet.
                Err(OpenError::Locked(LockError::Held(None))) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_RETRY).await;
                }
                Err(error) => return Err(open_failure(error)),
            }
        }
    }
}

impl Access<SqliteReader> {
    /// The same for what is only read, which may be a file that cannot be written.
    pub(super) fn reading(database: &Path) -> Result<Self, Failure> {
        Ok(match running(database)? {
            Some(address) => Self::Server {
                address,
                database: database.to_owned(),
            },
            None => Self::File(SqliteReader::open(database).map_err(open_failure)?),
        })
    }
}

/// Looks whether there is a database, before its lock is taken, which would leave a lock file beside nothing; `named` is
/// whether the command line said where.
pub(super) fn present(settings: &Settings, named: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    if database.exists() {
        return Ok(());
    }
    let whole = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let looked = match &settings.file {
        _ if named => String::new(),
        Some(file) => format!(" (configured in {})", whole(file)),
        None => format!(
            " (and no configuration that names another: neither {} nor {SYSTEM} is there)",
            whole(HERE.as_ref())
        ),
    };
    Err(Failure::NotFound(format!(
        "there is no database at {}{looked}; start the server once, or name one with --database",
        whole(database)
    )))
}

/// Where a server serves a database, if one does.
pub(super) fn running(database: &Path) -> Result<Option<String>, Failure> {
    InstanceLock::server_of(database).map_err(|error| open_failure(OpenError::Locked(error)))
}

/// For what takes a moment, and for the wait until a rate allows it.
const SOON: Duration = Duration::from_secs(60);

/// For what takes as long as the database is large.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) fn open_failure(error: OpenError) -> Failure {
    let text = error.to_string();
    match error {
        OpenError::Locked(LockError::Held(_)) | OpenError::Older(..) => Failure::Conflict(text),
        OpenError::Missing(_) => Failure::NotFound(text),
        OpenError::Storage(error) => store_failure(error),
        OpenError::Changing(_) => Failure::Unavailable(text),
        OpenError::Foreign(_) => Failure::Failed(format!(
            "{text}; if it was one, its first page is damaged: put the newest good copy in its place with restore"
        )),
        _ => Failure::Failed(text),
    }
}

pub(super) fn store_failure(error: StoreError) -> Failure {
    let text = error.to_string();
    match error {
        StoreError::UserNotFound | StoreError::KeyNotFound => Failure::NotFound(text),
        StoreError::Conflict(_)
        | StoreError::Insufficient { .. }
        | StoreError::KeyReused
        | StoreError::AlreadyIssued(_) => Failure::Conflict(text),
        StoreError::Busy | StoreError::Unavailable(_) | StoreError::Full => {
            Failure::Unavailable(text)
        }
        _ => Failure::Failed(text),
    }
}

/// Asks the running server as its admin.
pub(super) async fn ask(
    address: &str,
    database: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    ask_patiently(address, database, method, path, body, SOON).await
}

/// The same, for what takes as long as the database is large.
pub(super) async fn ask_patiently(
    address: &str,
    database: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value, Failure> {
    let server = Server::new(address, database)?;
    let body = body.map(Value::to_string);
    let request = || server.head(method, path);
    let answer = server.exchange(request, body.unwrap_or_default(), patience);
    let answer = answer.await?;
    serde_json::from_str(&answer).map_err(|error| unreached(address, &error))
}

/// Asks for the text of an answer: read as a [`Value`], its amounts would pass through floats.
pub(super) async fn ask_text(
    address: &str,
    database: &Path,
    path: &str,
) -> Result<String, Failure> {
    let server = Server::new(address, database)?;
    let request = || server.head("GET", path);
    server.exchange(request, String::new(), SOON).await
}

/// Has the running server do what must not be done twice: where the answer is lost on its way it is asked again, under the
/// same `Idempotency-Key`.
pub(super) async fn do_once(
    address: &str,
    database: &Path,
    path: &str,
    body: String,
) -> Result<String, Failure> {
    const TRIES: u32 = 3;
    let server = Server::new(address, database)?;
    let once = new_id("once_");
    let request = || server.head("POST", path).header("idempotency-key", &once);
    let mut tries = 1;
    loop {
        match server.exchange(request, body.clone(), SOON).await {
            Err(Failure::Unavailable(_)) if tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(200) * tries).await;
                tries += 1;
            }
            Err(Failure::Unavailable(text)) => {
                return Err(Failure::Unavailable(format!(
                    "{text}; look whether it was done before you try again"
                )));
            }
            done => return done,
        }
    }
}

/// What the file's key is to the server that runs beside it.
pub(super) async fn key_state(
    address: &str,
    database: &Path,
    key: PlainKey,
) -> Result<State, Failure> {
    let server = Server {
        address,
        database,
        key,
    };
    server.key_state().await
}

/// What the server would have answered, in JSON.
pub(super) fn text(answer: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(answer).map_err(|error| Failure::Failed(error.to_string()))
}

/// Reads an answer.
pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a str) -> Result<T, Failure> {
    serde_json::from_str(answer)
        .map_err(|error| Failure::Failed(format!("the answer is not what was asked for: {error}")))
}

fn unreached(address: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Unavailable(format!("the server at {address} was not reached: {error}"))
}

/// The running server, and the key to ask it with.
struct Server<'a> {
    address: &'a str,
    database: &'a Path,
    key: PlainKey,
}

impl<'a> Server<'a> {
    fn new(address: &'a str, database: &'a Path) -> Result<Self, Failure> {
        let key = admin_key::read(database)?;
        Ok(Self {
            address,
            database,
            key,
        })
    }

    fn head(&self, method: &str, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", self.key.reveal())
            .header("content-type", "application/json")
    }

    /// The text of a success.
    async fn exchange(
        &self,
        request: impl Fn() -> Builder,
        body: String,
        patience: Duration,
    ) -> Result<String, Failure> {
        let (status, body) = self.send(request, body, patience).await?;
        if status.is_success() {
            return String::from_utf8(body.into()).map_err(|error| unreached(self.address, &error));
        }
        let detail = self.detail(&body)?;
        let refused = match status.as_u16() {
            401 => true,
            // By its scopes, or for a reason of its own.
            403 => matches!(self.key_state().await, Ok(State::Refused(_))),
            _ => false,
        };
        Err(match status.as_u16() {
            _ if refused => {
                let problem = Problem::refused(self.database, self.address, &detail);
                Failure::Failed(problem.to_string())
            }
            404 => Failure::NotFound(detail),
            402 | 409 => Failure::Conflict(detail),
            400 => Failure::Usage(detail),
            429 | 502.. => Failure::Unavailable(detail),
            _ => Failure::Failed(detail),
        })
    }

    async fn key_state(&self) -> Result<State, Failure> {
        #[derive(Deserialize)]
        struct Me {
            key: Key,
        }
        #[derive(Deserialize)]
        struct Key {
            id: String,
            scopes: Vec<String>,
            expires_at: Option<String>,
        }
        let request = || self.head("GET", "/auth/me");
        let (status, body) = self.send(request, String::new(), SOON).await?;
        if status == StatusCode::UNAUTHORIZED {
            return Ok(State::Refused(self.detail(&body)?));
        }
        let me: Me =
            serde_json::from_slice(&body).map_err(|error| unreached(self.address, &error))?;
        if !me
            .key
            .scopes
            .iter()
            .any(|scope| scope == Scope::Admin.as_str())
        {
            return Ok(State::Refused("it is no admin key".to_owned()));
        }
        let ends_at = me
            .key
            .expires_at
            .as_deref()
            .map(Timestamp::parse)
            .transpose();
        Ok(State::Works {
            id: me.key.id,
            ends_at: ends_at.map_err(|error| unreached(self.address, &error))?,
        })
    }

    fn detail(&self, body: &[u8]) -> Result<String, Failure> {
        let answer: Value =
            serde_json::from_slice(body).map_err(|error| unreached(self.address, &error))?;
        let detail = answer["detail"].as_str().unwrap_or("it gave no reason");
        Ok(detail.to_owned())
    }

    /// Status and body of an answer. What a rate refuses is asked again when it says.
    async fn send(
        &self,
        request: impl Fn() -> Builder,
        body: String,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let wrong = |error: &dyn std::fmt::Display| unreached(self.address, error);
        let body = Bytes::from(body);
        let whole = async {
            loop {
                let request = request().body(Full::new(body.clone()));
                let request = request.map_err(|error| wrong(&error))?;
                let response = client::send(self.address, request).await;
                let response = response.map_err(|error| wrong(&error))?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, 64 << 20).collect().await;
                let body = body.map_err(|error| wrong(&error))?.to_bytes();
                let wait = head.headers.get("retry-after");
                let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
                match wait.map(Duration::from_secs) {
                    // Where all Idempotency-Keys are taken it may be a day.
                    Some(wait)
                        if head.status == StatusCode::TOO_MANY_REQUESTS && wait < patience =>
                    {
                        tokio::time::sleep(wait).await;
                    }
                    _ => return Ok((head.status, body)),
                }
            }
        };
        let answered = tokio::time::timeout(patience, whole).await;
        answered.unwrap_or_else(|_| Err(wrong(&"no answer in time")))
    }
}
