//! The admin key file: the one place outside a client where a key stands in plain text, readable by its owner only.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use r3mes_edge::auth::{KeyRequest, PlainKey, Scope, Scopes, keep};
use r3mes_edge::model::Ids;
use r3mes_edge::{Clock, Repository, SqliteStore};

use super::{Failure, files};

/// Where the admin key of `database` stands.
pub(super) fn path(database: &Path) -> PathBuf {
    database.with_added_extension("admin-key")
}

/// Reads the admin key of `database`.
pub(super) fn read(database: &Path) -> Result<PlainKey, Failure> {
    let path = path(database);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::Failed(format!(
            "the admin key cannot be read from {}: {error}",
            path.display()
        ))
    })?;
    PlainKey::parse(text.trim())
        .ok_or_else(|| Failure::Failed(format!("{} holds no key", path.display())))
}

/// Makes the first admin key if the database has none; returns its file then.
///
/// The file is written and synced before the hash is stored: a crash in between leaves a key that opens nothing yet, and
/// the next start stores its hash. The other order could leave a database nobody can administer.
pub(super) async fn ensure(
    store: &SqliteStore,
    database: &Path,
) -> Result<Option<PathBuf>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("the first admin key was not made: {error}"))
    };
    let mut before = None;
    loop {
        let keys = store
            .keys(None, before, 500)
            .await
            .map_err(|error| failed(&error))?;
        if keys.iter().any(|key| key.scopes.contains(Scope::Admin)) {
            return Ok(None);
        }
        match keys.last() {
            Some(last) => before = Some(last.id.clone()),
            None => break,
        }
    }
    let path = path(database);
    let key = match write_new(&path) {
        Ok(key) => key,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(database)?,
        Err(error) => return Err(failed(&format!("{}: {error}", path.display()))),
    };
    let ids = Ids::new().map_err(|error| failed(&error))?;
    let request = KeyRequest {
        wallet: None,
        name: "first admin key".to_owned(),
        scopes: Scopes::ADMIN,
        expires_at: None,
        login: false,
    };
    keep(
        store,
        &ids,
        &key,
        request,
        usize::MAX,
        Clock::default().now(),
        None,
    )
    .await
    .map_err(|error| failed(&error))?;
    Ok(Some(path))
}

fn write_new(path: &Path) -> std::io::Result<PlainKey> {
    let key = PlainKey::generate().map_err(std::io::Error::other)?;
    files::write_new(path, 0o600, format_args!("{}\n", key.reveal()))?;
    Ok(key)
}
