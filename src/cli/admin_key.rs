//! The admin key file, beside the database or where `--admin-key-file` names it: the only file of the server with a key in
//! plain text, readable by its owner only. The key becomes
//! invalid when another database is restored, or when it is revoked, rotated over HTTP, or edited; errors then name the
//! command that creates a new one, `keys create --admin`.

use std::fmt::Display;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use r3mes_edge::auth::{KeyRecord, KeyRequest, PlainKey, Scope, Scopes};
use r3mes_edge::store::Actor;
use r3mes_edge::{Clock, Repository, SqliteStore};

use super::output::note;
use super::{Failure, Result, failed, files};

/// How to make a server reload the file; it adopts a new key.
pub(super) const RELOAD: &str =
    "start the server or send it SIGHUP (a service: systemctl reload r3mes-edge)";

/// What `--admin-key-file` names.
static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// Uses this file instead of the one beside the database.
pub(super) fn name(file: PathBuf) {
    let _ = NAMED.set(file);
}

/// The admin key file of `database`.
pub(super) fn path(database: &Path) -> PathBuf {
    let beside = || database.with_added_extension("admin-key");
    NAMED.get().cloned().unwrap_or_else(beside)
}

/// An error of the key file, with advice: the same text for the log, `doctor` and every command.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Problem {
    /// Whether the file exists, but without a valid key.
    pub(super) is_refused: bool,
    text: String,
}

impl Problem {
    pub(super) fn new(database: &Path, is_refused: bool, what: impl Display) -> Self {
        let named = NAMED.get().map(|file| {
            let file = files::quoted(&files::absolute(file));
            format!(" --admin-key-file {file}")
        });
        let text = format!(
            "the admin key in {} {what}; to mend it: as the database's owner or root run r3mes-edge keys create --admin --database {}{}, then {RELOAD}",
            path(database).display(),
            files::quoted(&files::absolute(database)),
            named.unwrap_or_default()
        );
        Self { is_refused, text }
    }

    fn unchecked(database: &Path, error: impl Display) -> Self {
        Self::new(database, false, format!("was not checked: {error}"))
    }
}

/// The key in a file, and the file's metadata.
fn read_file(file: &Path) -> io::Result<(PlainKey, Metadata)> {
    let mut options = OpenOptions::new();
    // Opening a pipe must not block.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(file)?;
    let metadata = file.metadata()?;
    let mut text = zeroize::Zeroizing::new(String::new());
    if metadata.is_file() {
        file.take(1024).read_to_string(&mut text)?;
    }
    let key = PlainKey::parse(text.trim_start_matches('\u{feff}').trim());
    let key = key.ok_or_else(|| io::Error::other("it does not hold an API key"))?;
    Ok((key, metadata))
}

/// The key in a file that an argument names.
pub(super) fn read_key(argument: &str, file: &Path) -> Result<PlainKey> {
    let key = read_file(file).map(|(key, _)| key);
    key.map_err(|error| Failure::Usage(format!("{argument} {}: {error}", file.display())))
}

/// The key in the file that `--admin-key-file` names, for a server elsewhere.
pub(super) fn read_named() -> Result<PlainKey> {
    let missing = || {
        Failure::Usage(
            "--url needs --admin-key-file FILE, with an admin key of that server".to_owned(),
        )
    };
    read_key("--admin-key-file", NAMED.get().ok_or_else(missing)?)
}

/// The key in the admin key file, and the file's metadata.
pub(super) fn read(database: &Path) -> Result<(PlainKey, Metadata), Problem> {
    read_file(&path(database)).map_err(|error| {
        let is_refused = error.kind() != ErrorKind::NotFound;
        Problem::new(database, is_refused, format!("cannot be read: {error}"))
    })
}

/// Checks the database's record of the file's key.
fn validate(database: &Path, record: Option<&KeyRecord>) -> Result<(), Problem> {
    let (is_refused, what) = match record {
        None => {
            let what =
                "is not known to the database; if the file has mode 0600 and the database's owner";
            (false, format!("{what}, {RELOAD}, and it adopts the key"))
        }
        Some(key) if !is_valid(key) => {
            let what = "does not work: it is revoked, replaced, expired or not an admin key";
            (true, what.to_owned())
        }
        Some(key) => match key.ends_at() {
            None => return Ok(()),
            Some(end) => (false, format!("works until {end} only")),
        },
    };
    Err(Problem::new(database, is_refused, what))
}

fn is_valid(key: &KeyRecord) -> bool {
    key.is_active(Clock::default().now()) && key.scopes.contains(Scope::Admin)
}

/// The database's record of the key in the file, read also while a server runs.
async fn record(database: &Path, key: &PlainKey) -> Result<Option<KeyRecord>> {
    let store = SqliteStore::open_read_only(database)?;
    Ok(store.key_by_hash(key.hash()).await?)
}

/// The record of the file's key, if it is a valid admin key.
pub(super) async fn valid_record(database: &Path) -> Result<Option<KeyRecord>> {
    match read(database) {
        Ok((key, _)) => Ok(record(database, &key).await?.filter(is_valid)),
        Err(_) => Ok(None),
    }
}

/// Checks that the file holds a valid key.
pub(super) async fn check(database: &Path) -> Result<(), Problem> {
    match record(database, &read(database)?.0).await {
        Ok(record) => validate(database, record.as_ref()),
        Err(failure) => Err(Problem::unchecked(database, failure)),
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

/// Creates the first admin key if the database has none; otherwise adopts a new key in the file. Returns the file as long as
/// the first key was not used: a start that fails, as its port is taken, may have been the first.
///
/// The file is written and synced before the hash is stored: a crash in between leaves a key that is not valid yet, and
/// the next start stores its hash. The other order could leave a database without an administrator.
pub(super) async fn ensure(store: &SqliteStore, database: &Path) -> Result<Option<PathBuf>> {
    if store.has_admin_key().await? {
        adopt(store, database).await;
        return Ok(is_first_and_unused(store, database)
            .await?
            .then(|| path(database)));
    }
    let path = path(database);
    let key = PlainKey::generate().map_err(failed)?;
    match files::create(&path, 0o600, format_args!("{}\n", key.reveal())) {
        // It exists where a start ended before it stored the hash.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(format_args!(
            "the first admin key was not created: {}: {error}",
            path.display()
        ))),
        _ => {
            let adopted = adopt_unknown(store, database, FIRST).await;
            let adopted = adopted.inspect_err(|problem| log::warn!("{problem}"));
            Ok(adopted.is_ok().then_some(path))
        }
    }
}

/// The name of the first key.
const FIRST: &str = "first admin key";

async fn is_first_and_unused(store: &SqliteStore, database: &Path) -> Result<bool> {
    let Ok((key, _)) = read(database) else {
        return Ok(false);
    };
    let record = store.key_by_hash(key.hash()).await?;
    Ok(record.is_some_and(|key| key.name == FIRST && key.last_used.is_none()))
}

/// Stores the file's key if the database does not know it; logs that, or the file's error.
pub(super) async fn adopt(store: &SqliteStore, database: &Path) {
    match adopt_unknown(store, database, "admin key file").await {
        Ok(None) => {}
        Ok(Some(id)) => {
            let file = path(database);
            log::info!("adopted the new admin key in {} as {id}", file.display());
        }
        Err(problem) => log::warn!("{problem}"),
    }
}

/// Only the database's owner can have written a file of mode 0600 that is the owner's, so such a file proves as much as
/// access to the database.
async fn adopt_unknown(
    store: &SqliteStore,
    database: &Path,
    name: &str,
) -> Result<Option<String>, Problem> {
    let (key, file) = read(database)?;
    let known = store.key_by_hash(key.hash()).await;
    let known = known.map_err(|error| Problem::unchecked(database, error))?;
    if known.is_some() {
        return validate(database, known.as_ref()).map(|()| None);
    }
    let (owner, _) = owner_of(database).map_err(|error| Problem::unchecked(database, error))?;
    let (mode, user) = (file.mode() & 0o7777, file.uid());
    if mode & 0o077 != 0 || user != owner {
        let what = format!(
            "is new and is ignored: the file has mode {mode:04o} and belongs to user {user}; if you wrote it, chmod 600 and chown {owner} it"
        );
        return Err(Problem::new(database, true, what));
    }
    let request = KeyRequest {
        wallet: None,
        name: name.to_owned(),
        scopes: Scopes::ADMIN,
        expires_at: None,
        login: false,
        limits: None,
    };
    let actor = Actor::local(Clock::default().now());
    let record = request.record(&key, actor.at);
    let id = record.id.clone();
    let stored = store.create_key(record, usize::MAX, actor, None).await;
    stored.map_err(|error| Problem::unchecked(database, error))?;
    Ok(Some(id))
}

fn owner_of(database: &Path) -> io::Result<(u32, u32)> {
    let metadata = fs::metadata(database)?;
    Ok((metadata.uid(), metadata.gid()))
}

/// Checks, before a key is made for it, that the caller may replace the file: the database's owner or root.
pub(super) fn check_writable(database: &Path) -> Result {
    let (owner, _) = owner_of(database).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if me == 0 || me == owner {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "only the owner of {} (user {owner}) or root may replace its admin key",
        database.display()
    )))
}

/// Replaces the key in the file, synced to the disk, for the user whose `like` is; returns the file's name.
pub(super) fn write(database: &Path, like: &Path, key: &str) -> io::Result<String> {
    let file = path(database);
    files::replace(&file, owner_of(like)?, format_args!("{key}\n"))?;
    Ok(file.display().to_string())
}
