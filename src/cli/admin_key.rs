//! The admin key file: the only file of the server with a key in plain text, readable by its owner only. The key becomes
//! invalid when another database is restored, or when it is revoked, rotated over HTTP, or edited; errors then name the
//! command that creates a new one, `keys create --admin`.

use std::fmt::Display;
use std::fs::{Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use r3mes_edge::auth::{KeyRecord, KeyRequest, PlainKey, Scope, Scopes};
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::StoreError;
use r3mes_edge::{Clock, Repository, SqliteStore};

use super::output::note;
use super::{Failure, failed, files};

/// Where the admin key of `database` is stored.
pub(super) fn path(database: &Path) -> PathBuf {
    database.with_added_extension("admin-key")
}

/// An error of the key file, with advice: the same text for the log, `doctor` and every command.
#[derive(Debug, thiserror::Error)]
#[error("{what}; to mend it: {advice}")]
pub(super) struct Problem {
    /// Whether the file exists, but without a valid key.
    pub(super) is_refused: bool,
    pub(super) what: String,
    pub(super) advice: String,
}

impl Problem {
    pub(super) fn new(database: &Path, is_refused: bool, what: &str) -> Self {
        let whole = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
        Self {
            is_refused,
            what: format!("the admin key in {} {what}", path(database).display()),
            advice: format!(
                "as the database's owner or root run r3mes-edge keys create --admin --database {}, then {RELOAD}",
                files::quoted(&whole)
            ),
        }
    }

    fn unread(database: &Path, error: &std::io::Error) -> Self {
        let is_refused = error.kind() != ErrorKind::NotFound;
        Self::new(database, is_refused, &format!("cannot be read: {error}"))
    }

    fn unchecked(database: &Path, error: &dyn Display) -> Self {
        Self::new(database, false, &format!("was not checked: {error}"))
    }
}

/// How to make a server reload the file; it adopts a new key.
pub(super) const RELOAD: &str =
    "start the server or send it SIGHUP (a service: systemctl reload r3mes-edge)";

/// The status of a key in the database.
pub(super) enum KeyState {
    /// A valid admin key: its id and expiry.
    Valid(String, Option<Timestamp>),
    Unknown,
    /// Not valid; why.
    Refused(&'static str),
}

impl KeyState {
    fn of(record: Option<KeyRecord>) -> Self {
        let now = Clock::default().now();
        match record {
            None => Self::Unknown,
            Some(key) if key.is_revoked(now) => Self::Refused("it was revoked or replaced"),
            Some(key) if key.is_expired(now) => Self::Refused("it has expired"),
            Some(key) if !key.scopes.contains(Scope::Admin) => {
                Self::Refused("it is not an admin key")
            }
            Some(key) => Self::Valid(key.id.clone(), key.ends_at()),
        }
    }

    /// The error of a file with such a key.
    pub(super) fn check(&self, database: &Path) -> Result<(), Problem> {
        let (is_refused, what) = match self {
            Self::Valid(_, None) => return Ok(()),
            Self::Valid(_, Some(end)) => (false, format!("works until {end} only")),
            Self::Unknown => (
                false,
                format!(
                    "is not known to the database; if the file has mode 0600 and the database's owner, {RELOAD}, and it adopts the key"
                ),
            ),
            Self::Refused(why) => (true, format!("does not work: {why}")),
        };
        Err(Problem::new(database, is_refused, &what))
    }
}

/// The admin key of `database`.
pub(super) fn read(database: &Path) -> Result<PlainKey, Problem> {
    let read = read_file(database).map(|(key, _)| key);
    read.map_err(|error| Problem::unread(database, &error))
}

fn read_file(database: &Path) -> std::io::Result<(PlainKey, Metadata)> {
    let mut options = OpenOptions::new();
    // Opening a pipe must not block.
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

/// The status of a key in the database, which is read also while a server runs.
pub(super) async fn state_of(database: &Path, key: &PlainKey) -> Result<KeyState, Failure> {
    let look_up =
        async |store: Arc<SqliteStore>| Ok(KeyState::of(store.key_by_hash(key.hash()).await?));
    SqliteStore::read_only(database, look_up).await
}

/// Checks that the file holds a valid key.
pub(super) async fn check(database: &Path) -> Result<(), Problem> {
    match state_of(database, &read(database)?).await {
        Ok(state) => state.check(database),
        Err(failure) => Err(Problem::unchecked(database, &failure)),
    }
}

/// Prints on stderr whether the file's key is valid.
pub(super) async fn report(database: &Path) {
    match check(database).await {
        Ok(()) => note(format!(
            "the admin key in {} opens the database",
            path(database).display()
        )),
        Err(problem) => note(problem),
    }
}

/// Creates the first admin key if the database has none, and returns its file; otherwise adopts a new key in the file.
///
/// The file is written and synced before the hash is stored: a crash in between leaves a key that is not valid yet, and
/// the next start stores its hash. The other order could leave a database without an administrator.
pub(super) async fn ensure(
    store: &SqliteStore,
    database: &Path,
) -> Result<Option<PathBuf>, Failure> {
    if has_admin_key(store).await? {
        adopt(store, database).await;
        return Ok(None);
    }
    let path = path(database);
    let key = PlainKey::generate().map_err(failed)?;
    match files::create(&path, 0o600, format_args!("{}\n", key.reveal())) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let file = path.display();
            return Err(Failure::Failed(format!(
                "no admin key was made: {file}: {error}"
            )));
        }
        // Or created by a start that ended before it stored the hash.
        _ => {}
    }
    match adopt_unknown(store, database, "first admin key").await {
        Ok(_) => Ok(Some(path)),
        Err(problem) => {
            log::warn!("{problem}");
            Ok(None)
        }
    }
}

async fn has_admin_key(store: &SqliteStore) -> Result<bool, StoreError> {
    let mut before = None;
    loop {
        let keys = store.keys(None, before, 500).await?;
        if keys.iter().any(|key| key.scopes.contains(Scope::Admin)) {
            return Ok(true);
        }
        match keys.last() {
            Some(last) => before = Some(last.id.clone()),
            None => return Ok(false),
        }
    }
}

/// Adopts a new key in the file, and logs any other error of the file.
pub(super) async fn adopt(store: &SqliteStore, database: &Path) {
    let file = path(database);
    match adopt_unknown(store, database, "admin key file").await {
        Ok(None) => {}
        Ok(Some(id)) => log::warn!("adopted the new admin key in {} as {id}", file.display()),
        Err(problem) => log::warn!("{problem}"),
    }
}

/// Stores the hash of the file's key if the database does not know it, and returns its id. Only the database's owner can
/// have written a file of mode 0600 that is the owner's, so such a file proves as much as access to the database.
async fn adopt_unknown(
    store: &SqliteStore,
    database: &Path,
    name: &str,
) -> Result<Option<String>, Problem> {
    let unchecked = |error: &dyn Display| Problem::unchecked(database, error);
    let shared = database.to_owned();
    let read = move || Ok((read_file(&shared)?, std::fs::metadata(&shared)?.uid()));
    let read = tokio::task::spawn_blocking(read).await;
    let ((key, about), owner) = read
        .map_err(|error| unchecked(&error))?
        .map_err(|error| Problem::unread(database, &error))?;
    let known = store.key_by_hash(key.hash()).await;
    let state = KeyState::of(known.map_err(|error| unchecked(&error))?);
    if !matches!(state, KeyState::Unknown) {
        return state.check(database).map(|()| None);
    }
    let (mode, user) = (about.mode() & 0o7777, about.uid());
    if mode & 0o077 != 0 || user != owner {
        let what = format!(
            "is new and is ignored: the file has mode {mode:04o} and belongs to user {user}; if you wrote it, chmod 600 and chown {owner} it"
        );
        return Err(Problem::new(database, true, &what));
    }
    let request = KeyRequest {
        wallet: None,
        name: name.to_owned(),
        scopes: Scopes::ADMIN,
        expires_at: None,
        login: false,
    };
    let record = request.record(&key, Clock::default().now());
    let id = record.id.clone();
    let stored = store.create_key(record, usize::MAX, None).await;
    stored.map_err(|error| unchecked(&error))?;
    Ok(Some(id))
}

/// Permission to replace the key in the file, checked before anything is changed.
pub(super) struct Writable {
    file: PathBuf,
    owner: (u32, u32),
}

impl Writable {
    /// # Errors
    /// If the caller is neither the database's owner nor root, or the folder is not writable.
    pub(super) fn check(database: &Path) -> Result<Self, Failure> {
        let (file, about) = (path(database), std::fs::metadata(database).map_err(failed)?);
        let (owner, me) = (
            (about.uid(), about.gid()),
            rustix::process::geteuid().as_raw(),
        );
        let refused =
            |why: String| Failure::Failed(format!("{} cannot be written: {why}", file.display()));
        if me != 0 && me != owner.0 {
            let why = format!(
                "only the owner of the database (user {}) or root may",
                owner.0
            );
            return Err(refused(why));
        }
        rustix::fs::access(files::folder_of(&file), rustix::fs::Access::WRITE_OK)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { file, owner })
    }

    /// Writes `key` to the file, synced to the disk.
    pub(super) fn write(self, key: &str) -> std::io::Result<PathBuf> {
        files::replace(&self.file, self.owner, format_args!("{key}\n"))?;
        Ok(self.file)
    }
}
