//! The admin key file: the one place outside a client where a key stands in plain text, readable by its owner only.
//!
//! Its key stops working where another database is restored, or the key is revoked, rotated over HTTP, or edited. Whoever
//! notices says so with [`Problem`], and `keys create --admin` mends it.

use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use r3mes_edge::auth::{KeyRecord, KeyRequest, PlainKey, Scope, Scopes};
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::SqliteReader;
use r3mes_edge::{Clock, Repository, SqliteStore};

use super::output::note;
use super::{Failure, files};

/// Where the admin key of `database` stands.
pub(super) fn path(database: &Path) -> PathBuf {
    database.with_added_extension("admin-key")
}

/// What the key in the file is to the database.
pub(super) enum State {
    /// It opens everything, until it ends.
    Works {
        id: String,
        ends_at: Option<Timestamp>,
    },
    /// The database has no such key.
    Unknown,
    /// It opens nothing, and why.
    Refused(String),
}

impl State {
    /// Of a key that was looked up in the database.
    pub(super) fn of(record: Option<KeyRecord>, now: Timestamp) -> Self {
        let Some(record) = record else {
            return Self::Unknown;
        };
        if record.is_revoked(now) {
            Self::Refused("it was revoked, or another took its place".to_owned())
        } else if record.is_expired(now) {
            Self::Refused("it has expired".to_owned())
        } else if !record.scopes.contains(Scope::Admin) {
            Self::Refused("it is no admin key".to_owned())
        } else {
            let ends_at = record.ends_at();
            let id = record.id;
            Self::Works { id, ends_at }
        }
    }

    /// What is to be done about it, if anything.
    pub(super) fn problem(&self, database: &Path, server: bool) -> Option<Problem> {
        let file = path(database);
        let file = file.display();
        let (what, advice) = match self {
            Self::Works { ends_at: None, .. } => return None,
            Self::Works {
                ends_at: Some(end), ..
            } => (
                format!("the admin key in {file} works until {end} only"),
                mend(database, server),
            ),
            Self::Unknown => (
                format!("the database does not know the admin key in {file}"),
                format!(
                    "the server adopts it at its next start or on SIGHUP, if the file has mode 0600 and the database's owner; or {}",
                    mend(database, server)
                ),
            ),
            Self::Refused(why) => (
                format!("the admin key in {file} does not work: {why}"),
                mend(database, server),
            ),
        };
        Some(Problem { what, advice })
    }
}

/// What is wrong with the key file, and how to mend it: one text for the log, `doctor` and every command.
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; to mend it: {}", self.what, self.advice)
    }
}

impl Problem {
    /// Of a file in which there is no key.
    fn no_key(database: &Path, what: &dyn fmt::Display, server: bool) -> Self {
        Self {
            what: format!(
                "there is no admin key in {}: {what}",
                path(database).display()
            ),
            advice: mend(database, server),
        }
    }

    /// Of a key that the running server refuses.
    pub(super) fn refused(database: &Path, address: &str, detail: &str) -> Self {
        let file = path(database);
        Self {
            what: format!(
                "the server at {address} refuses the admin key in {}: {detail}",
                file.display()
            ),
            advice: format!(
                "if the file was just written, {RELOAD}, and it adopts the key; else {}",
                mend(database, true)
            ),
        }
    }
}

/// What has a running server look at the file again.
pub(super) const RELOAD: &str =
    "send the server SIGHUP (a service: systemctl reload r3mes-edge) or restart it";

/// The command that makes a new key; a running server has to be told.
fn mend(database: &Path, server: bool) -> String {
    let whole = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    let then = match server {
        true => format!(", then {RELOAD}"),
        false => String::new(),
    };
    format!(
        "as the database's owner or root run r3mes-edge keys create --admin --database {}{then}",
        files::quoted(&whole)
    )
}

/// Reads the admin key of `database`, to ask its running server with.
pub(super) fn read(database: &Path) -> Result<PlainKey, Failure> {
    read_beside(database, true).map_err(|problem| Failure::Failed(problem.to_string()))
}

/// The same; `server` is whether one runs.
pub(super) fn read_beside(database: &Path, server: bool) -> Result<PlainKey, Problem> {
    match read_file(database) {
        Ok((key, _)) => Ok(key),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Problem {
            what: format!("{} cannot be read: {error}", path(database).display()),
            advice: "run this as the file's owner or root".to_owned(),
        }),
        Err(error) => Err(Problem::no_key(database, &error, server)),
    }
}

fn read_file(database: &Path) -> std::io::Result<(PlainKey, Metadata)> {
    let mut options = OpenOptions::new();
    // A pipe in the file's place must not make anybody wait.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path(database))?;
    let about = file.metadata()?;
    let mut text = zeroize::Zeroizing::new(String::new());
    if about.is_file() {
        file.take(1024).read_to_string(&mut text)?;
    }
    match PlainKey::parse(text.trim()) {
        Some(key) => Ok((key, about)),
        None => Err(std::io::Error::other("the file holds something else")),
    }
}

/// The state of the file's key in a database that no server has.
pub(super) fn state_in_file(database: &Path, key: &PlainKey) -> Result<State, Failure> {
    let record =
        SqliteReader::open(database).and_then(|mut reader| reader.key_by_hash(&key.hash()));
    let record = record.map_err(super::access::open_failure)?;
    Ok(State::of(record, Clock::default().now()))
}

/// Says on stderr whether the file's key opens a database that no server has.
pub(super) fn report(database: &Path) {
    let file = path(database);
    let problem = match read_file(database) {
        Ok((key, _)) => match state_in_file(database, &key) {
            Ok(state) => state.problem(database, false),
            Err(failure) => {
                let what = failure.text().unwrap_or_default();
                note(format_args!(
                    "the admin key in {} was not checked: {what}",
                    file.display()
                ));
                return;
            }
        },
        Err(error) => Some(Problem::no_key(database, &error, false)),
    };
    match problem {
        None => note(format_args!(
            "the admin key in {} opens the database",
            file.display()
        )),
        Some(problem) => note(format_args!("{problem}")),
    }
}

/// Makes the first admin key if the database has none; returns its file then. Else adopts a new key in the file.
///
/// The file is written and synced before the hash is stored: a crash in between leaves a key that opens nothing yet, and
/// the next start stores its hash. The other order could leave a database nobody can administer.
pub(super) async fn ensure(
    store: &SqliteStore,
    database: &Path,
) -> Result<Option<PathBuf>, Failure> {
    let failed = |error: &dyn fmt::Display| {
        Failure::Failed(format!("the first admin key was not made: {error}"))
    };
    let mut before = None;
    loop {
        let keys = store
            .keys(None, before, 500)
            .await
            .map_err(|error| failed(&error))?;
        if keys.iter().any(|key| key.scopes.contains(Scope::Admin)) {
            adopt(store, database).await;
            return Ok(None);
        }
        match keys.last() {
            Some(last) => before = Some(last.id.clone()),
            None => break,
        }
    }
    let path = path(database);
    match write_new(&path) {
        Ok(()) => {}
        // Made by a start that ended before it stored the hash.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(&format!("{}: {error}", path.display()))),
    }
    match adopt_unknown(store, database, "first admin key").await {
        Ok(_) => Ok(Some(path)),
        Err(problem) => {
            log::warn!("{problem}");
            Ok(None)
        }
    }
}

fn write_new(path: &Path) -> std::io::Result<()> {
    let key = PlainKey::generate().map_err(std::io::Error::other)?;
    files::write_new(path, 0o600, format_args!("{}\n", key.reveal()))
}

/// Adopts a new key in the file, and logs what else keeps it from working.
pub(super) async fn adopt(store: &SqliteStore, database: &Path) {
    match adopt_unknown(store, database, "admin key file").await {
        Ok(None) => {}
        Ok(Some(id)) => log::warn!(
            "adopted the new admin key in {} as {id}",
            path(database).display()
        ),
        Err(problem) => log::warn!("{problem}"),
    }
}

/// Stores the hash of the file's key where the database does not know it yet; returns its id then. Only whoever owns the
/// database can have written a file of mode 0600 that is the owner's, so such a file is as good as a look into the database.
async fn adopt_unknown(
    store: &SqliteStore,
    database: &Path,
    name: &str,
) -> Result<Option<String>, Problem> {
    let shared = database.to_owned();
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let (key, about) = read_file(&shared)?;
        Ok((key, about, std::fs::metadata(&shared)?.uid()))
    });
    let read = read.await.map_err(std::io::Error::other);
    let (key, about, owner) = read
        .and_then(|read| read)
        .map_err(|error| Problem::no_key(database, &error, true))?;
    let unchecked = |error: &dyn fmt::Display| Problem {
        what: format!(
            "the admin key in {} was not looked up: {error}",
            path(database).display()
        ),
        advice: RELOAD.to_owned(),
    };
    let now = Clock::default().now();
    let known = store.key_by_hash(key.hash()).await;
    let state = State::of(known.map_err(|error| unchecked(&error))?, now);
    if !matches!(state, State::Unknown) {
        return state.problem(database, true).map_or(Ok(None), Err);
    }
    if about.mode() & 0o077 != 0 || about.uid() != owner {
        let file = path(database);
        return Err(Problem {
            what: format!(
                "the new admin key in {} is ignored: the file has mode {:04o} and belongs to user {}",
                file.display(),
                about.mode() & 0o7777,
                about.uid()
            ),
            advice: format!(
                "if you wrote it, chmod 600 and chown {owner} it and {RELOAD}; else {}",
                mend(database, true)
            ),
        });
    }
    let request = KeyRequest {
        name: name.to_owned(),
        ..admin_request()
    };
    let record = request.record(&key, now);
    let id = record.id.clone();
    let stored = store.create_key(record, usize::MAX, None).await;
    stored.map_err(|error| unchecked(&error))?;
    Ok(Some(id))
}

/// A key that may do everything and does not end.
pub(super) fn admin_request() -> KeyRequest {
    KeyRequest {
        wallet: None,
        name: String::new(),
        scopes: Scopes::ADMIN,
        expires_at: None,
        login: false,
    }
}

/// The right to put another key into the file, asked for before anything is changed.
pub(super) struct Writable {
    file: PathBuf,
    database: Metadata,
}

impl Writable {
    /// # Errors
    /// Where the caller is neither the database's owner nor root, or the folder cannot be written.
    pub(super) fn check(database: &Path) -> Result<Self, Failure> {
        let file = path(database);
        let failed =
            |error: std::io::Error| Failure::Failed(format!("{}: {error}", file.display()));
        let about = std::fs::metadata(database).map_err(failed)?;
        let me = rustix::process::geteuid().as_raw();
        if me != 0 && me != about.uid() {
            return Err(Failure::Failed(format!(
                "only the owner of {} (user {}) or root may write {}; you are user {me}",
                database.display(),
                about.uid(),
                file.display()
            )));
        }
        let folder = files::folder_of(&file);
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            file,
            database: about,
        })
    }

    /// Puts `key` into the file, on the disk when this returns.
    pub(super) fn write(self, key: &PlainKey) -> Result<PathBuf, std::io::Error> {
        let owner = (self.database.uid(), self.database.gid());
        files::replace(&self.file, owner, format_args!("{}\n", key.reveal()))?;
        Ok(self.file)
    }
}
