//! Loads the configuration: flags over environment over file over defaults. A file in the working folder is used only if
//! it is safe.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use r3mes_edge::Config;
use r3mes_edge::config::{ConfigError, Listen, Loader, Origin, Origins};
use r3mes_edge::store::real_path;

use super::GlobalArgs;
use super::output::note;

/// The files that are used where none is named, in this order.
pub(super) const HERE: &str = "r3mes-edge.toml";
pub(super) const SYSTEM: &str = "/etc/r3mes-edge/config.toml";

/// The configuration and its sources.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) file: Option<PathBuf>,
    pub(super) origins: Origins,
}

impl Settings {
    /// Follows symbolic links to the real database, before other names are derived from its own.
    pub(super) fn resolve(mut self) -> Self {
        self.config.database = real_path(&self.config.database);
        self
    }
}

/// Loads the configuration, from the file that is named or found.
pub(super) fn load(global: &GlobalArgs) -> Result<Settings, ConfigError> {
    read(global, find(global))
}

/// Merges flags over environment over this file's text.
pub(super) fn read(global: &GlobalArgs, file: Option<PathBuf>) -> Result<Settings, ConfigError> {
    let mut loader = Loader::default();
    if let Some(file) = &file {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
            origin: Origin::Named { name: name.clone() },
            key: String::new(),
            message: error.to_string(),
        })?;
        loader.file(&name, &text)?;
    }
    let mut environment: Vec<_> = std::env::vars_os().collect();
    environment.sort();
    for (variable, value) in &environment {
        let variable = variable.to_string_lossy();
        if let Some(key) = variable.strip_prefix("R3MES_EDGE_") {
            loader.set(key, value, &variable)?;
        }
    }
    if !global.listen.is_empty() {
        let listen: Vec<_> = global.listen.iter().map(Listen::to_string).collect();
        // A list, as a path may have a comma in it.
        let listen = serde_json::Value::from(listen).to_string();
        loader.set("listen", OsStr::new(&listen), "--listen")?;
    }
    if let Some(database) = &global.database {
        loader.set("database", database.as_os_str(), "--database")?;
    }
    let (config, origins) = loader.finish()?;
    Ok(Settings {
        config,
        file,
        origins,
    })
}

/// The file that is named, or the first of the default ones that exists and is safe.
pub(super) fn find(global: &GlobalArgs) -> Option<PathBuf> {
    let default = [HERE, SYSTEM].map(PathBuf::from);
    let mut default = default.into_iter();
    let found = || default.find(|file| file.exists() && is_safe(file));
    global.config.clone().or_else(found)
}

/// A file in the working folder must be the caller's own: another user's could divert credits.
fn is_safe(file: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let metadata = std::fs::metadata(file);
    let is_own = metadata.is_ok_and(|file| file.uid() == me && file.mode() & 0o022 == 0);
    if !is_own && file == HERE {
        note(format!(
            "r3mes-edge: warning: {HERE} is skipped, as it is not yours or others can write it; name it with --config to use it anyway"
        ));
    }
    is_own || file == SYSTEM
}
