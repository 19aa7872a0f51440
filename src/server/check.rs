//! What a start would fail on beyond the configuration's text, and what would fail later: files, folders, addresses.

use std::path::Path;

use super::listener;
use crate::config::{Config, ConfigError, Origin};
use crate::store::folder_of;
use crate::{alerts, upstream};

/// Checks what the settings name: files with keys and certificates, folders, the database's place, the addresses to listen
/// on. It changes nothing, makes no request, and may run beside the server. Must be called in a tokio runtime.
///
/// # Errors
/// The first setting that cannot be used; its origin is left to the caller.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let at = |key: &'static str| move |what| ConfigError::new(Origin::Default, key, what);
    listener::check(&config.listen).map_err(at("listen"))?;
    check_database(&config.database).map_err(at("database"))?;
    upstream::check(config)?;
    if let Some(folder) = config.backup.folder() {
        check_folder(folder).map_err(at("backup.folder"))?;
    }
    alerts::check(&config.alerts).map_err(at("alerts.webhook_file"))
}

fn check_database(database: &Path) -> Result<(), String> {
    let shown = database.display();
    check_folder(folder_of(database))?;
    match database.metadata() {
        Ok(found) if !found.is_file() => Err(format!(
            "{shown} is no file; name a file in an existing folder"
        )),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!(
            "{shown}: {error}; run this as the server's user or root"
        )),
        _ => Ok(()),
    }
}

fn check_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    match folder.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{shown} is no folder; name an existing folder")),
        Err(error) => Err(format!(
            "{shown}: {error}; create the folder, for the server's user, or name another"
        )),
    }
}
