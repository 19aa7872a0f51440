//! Loads the configuration: flags over environment over file over defaults. A file in the working folder is used only if
//! it is safe.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
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
    /// Variables that an orchestrator sets.
    pub(super) ignored: Vec<String>,
}

impl Settings {
    /// Adds to an error where its setting comes from.
    pub(super) fn located(&self, error: ConfigError) -> ConfigError {
        let origin = self.origins.of(&error.key);
        ConfigError { origin, ..error }
    }

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
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        loader.file(&name, &text)?;
    }
    let mut environment: Vec<_> = std::env::vars_os().collect();
    environment.sort();
    let mut ignored = Vec::new();
    for (variable, value) in &environment {
        let variable = variable.to_string_lossy();
        match variable.strip_prefix("R3MES_EDGE_") {
            // A key for `chat`, and no setting.
            Some(super::chat::KEY_VARIABLE) => {}
            Some(name) if is_injected(name) => ignored.push(variable.into_owned()),
            Some(key) => loader.set(key, value, &variable)?,
            None => {}
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
        ignored,
    })
}

/// Loads it again from the file that it was read from, which must still be there and safe; without one, as at the start.
pub(super) fn reload(global: &GlobalArgs, file: Option<PathBuf>) -> Result<Settings, ConfigError> {
    match file {
        Some(file) if global.config.is_none() && !is_safe(&file) => {
            let what = "is not yours, or others can write it: chown it and chmod go-w it";
            Err(ConfigError {
                origin: named(&file),
                key: String::new(),
                message: what.to_owned(),
            })
        }
        Some(file) => read(global, Some(file)),
        None => load(global),
    }
}

fn named(file: &Path) -> Origin {
    let name = file.display().to_string();
    Origin::Named { name }
}

/// Why a file was not read, and what to do.
fn unreadable(file: &Path, error: &io::Error) -> ConfigError {
    let advice = match error.kind() {
        ErrorKind::NotFound => "name one that exists with --config, or write one with init",
        ErrorKind::PermissionDenied => {
            "run this as a user who may read it, or name another with --config"
        }
        ErrorKind::InvalidData => "save it as UTF-8",
        _ => "name another with --config",
    };
    ConfigError {
        origin: named(file),
        key: String::new(),
        message: format!("{error}; {advice}"),
    }
}

/// Whether Kubernetes (for each Service) or Docker (for each link) sets a variable of this name where a service is called
/// `r3mes-edge`, or begins so; the name is that after `R3MES_EDGE_`.
fn is_injected(name: &str) -> bool {
    let name = format!("_{name}");
    let of_link = name == "_NAME" || name.starts_with("_ENV_");
    let of_service = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_");
    of_link || (of_service && !name.contains("__"))
}

/// The file that is named, or the first of the default ones that exists and is safe.
pub(super) fn find(global: &GlobalArgs) -> Option<PathBuf> {
    let default = [HERE, SYSTEM].map(PathBuf::from);
    let mut default = default.into_iter();
    // Where it is not known whether there is one, reading it gives the reason.
    let may_exist = |file: &PathBuf| file.try_exists().unwrap_or(true);
    let found = || default.find(|file| may_exist(file) && is_safe(file));
    global.config.clone().or_else(found)
}

/// A file in the working folder must be the caller's own: another user's could divert credits.
fn is_safe(file: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let metadata = std::fs::metadata(file);
    let is_own = metadata.map_or(true, |file| file.uid() == me && file.mode() & 0o022 == 0);
    if !is_own && file == HERE {
        note(format!(
            "r3mes-edge: warning: {HERE} is skipped, as it is not yours or others can write it; name it with --config to use it anyway"
        ));
    }
    is_own || file == SYSTEM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_has_a_name_that_an_orchestrator_sets() {
        for (key, _) in Config::default().settings().unwrap() {
            let name = key.to_uppercase().replace('.', "__");
            assert!(!is_injected(&name), "{name}");
        }
        for name in [
            "SERVICE_HOST",
            "METRICS_SERVICE_PORT_HTTP",
            "PORT",
            "NAME",
            "ENV_A__B",
        ] {
            assert!(is_injected(name), "{name}");
        }
        for name in ["CHAT__PORT", "IMPORT", "PORTS", "SERVICE", "HOST", "NAMES"] {
            assert!(!is_injected(name), "{name}");
        }
    }
}
