//! How a command reaches the data: through the running server where there is one, else by opening the file itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use r3mes_edge::SqliteStore;
use r3mes_edge::store::{InstanceLock, LockError, OpenError, StoreError};
use serde_json::Value;

use super::{Failure, admin_key};

/// The way to the data.
pub(super) enum Access {
    /// No server runs: the file is ours until the command ends.
    File(SqliteStore),
    /// A server runs here.
    Server {
        /// `http://…`
        address: String,
        /// Its database, beside which the admin key stands.
        database: PathBuf,
    },
}

impl Access {
    /// Opens the file, or finds the server that has it.
    pub(super) async fn open(database: &Path) -> Result<Self, Failure> {
        // Looked at first: taking the lock would leave a lock file beside a database that is not there.
        if !database.exists() {
            let text = format!(
                "there is no database at {}; start the server once, or name one with --database",
                database.display()
            );
            return Err(Failure::NotFound(text));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
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
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(open_failure(error)),
            }
        }
    }
}

/// Where a server serves a database, if one does.
pub(super) fn running(database: &Path) -> Result<Option<String>, Failure> {
    if !database.exists() {
        return Err(open_failure(OpenError::Missing(database.to_owned())));
    }
    match InstanceLock::acquire(database) {
        Err(LockError::Held(address)) => Ok(address),
        Ok(_) => Ok(None),
        Err(error) => Err(open_failure(OpenError::Locked(error))),
    }
}

/// For what takes as long as the database is large.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) fn open_failure(error: OpenError) -> Failure {
    let text = error.to_string();
    match error {
        OpenError::Locked(LockError::Held(_)) => Failure::Conflict(text),
        OpenError::Missing(_) => Failure::NotFound(text),
        OpenError::Storage(error) => store_failure(error),
        OpenError::Foreign(_) => Failure::Failed(format!(
            "{text}; if it was one, its first page is damaged: put the newest good copy in its place with restore"
        )),
        OpenError::Locked(LockError::Io(..))
        | OpenError::NotR3mes(..)
        | OpenError::Damaged(..)
        | OpenError::Newer { .. }
        | OpenError::Io(..) => Failure::Failed(text),
    }
}

pub(super) fn store_failure(error: StoreError) -> Failure {
    let text = error.to_string();
    match error {
        StoreError::UserNotFound | StoreError::KeyNotFound => Failure::NotFound(text),
        StoreError::Conflict(_)
        | StoreError::Insufficient { .. }
        | StoreError::KeyReused
        | StoreError::AlreadyIssued => Failure::Conflict(text),
        StoreError::Busy | StoreError::Unavailable(_) | StoreError::Full => {
            Failure::Unavailable(text)
        }
        StoreError::TooMuch | StoreError::Damaged(_) | StoreError::Internal(_) => {
            Failure::Failed(text)
        }
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
    const SOON: Duration = Duration::from_secs(60);
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
    let key = admin_key::read(database)?;
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::Unavailable(format!("the server at {address} was not reached: {error}"))
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("{address}{path}"))
        .header("x-api-key", key.reveal())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(
            body.map(Value::to_string).unwrap_or_default(),
        )))
        .map_err(|error| wrong(&error))?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let whole = async {
        let response = client
            .request(request)
            .await
            .map_err(|error| wrong(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), 64 << 20)
            .collect()
            .await
            .map_err(|error| wrong(&error))?;
        let answer: Value =
            serde_json::from_slice(&body.to_bytes()).map_err(|error| wrong(&error))?;
        Ok((status.as_u16(), answer))
    };
    let answered = tokio::time::timeout(patience, whole).await;
    let (status, answer) = answered.unwrap_or_else(|_| Err(wrong(&"no answer in time")))?;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let detail = answer["detail"]
        .as_str()
        .unwrap_or("it gave no reason")
        .to_owned();
    Err(match status {
        404 => Failure::NotFound(detail),
        402 | 409 => Failure::Conflict(detail),
        400 => Failure::Usage(detail),
        429 | 502.. => Failure::Unavailable(detail),
        _ => Failure::Failed(detail),
    })
}
