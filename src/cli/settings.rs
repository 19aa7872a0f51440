//! Loads the configuration: flags over environment over file over defaults. A file in the working folder is used only if
//! it is safe.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use r3mes_edge::Config;
use r3mes_edge::config::{ConfigError, Listen, Loader, Origins};
use r3mes_edge::store::real_path;

use super::{Failure, GlobalArgs};

/// The files that are used where none is named, in this order.
pub(super) const HERE: &str = "r3mes-edge.toml";
pub(super) const SYSTEM: &str = "/etc/r3mes-edge/config.toml";

/// The configuration and its sources.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) file: Option<PathBuf>,
    pub(super) origins: Origins,
    pub(super) global: GlobalArgs,
}

impl Settings {
    /// Follows symbolic links to the real database, before other names are derived from its own.
    pub(super) fn resolve(&mut self) {
        self.config.database = real_path(&self.config.database);
    }
}

/// Why no configuration was loaded.
pub(super) enum LoadError {
    /// The file cannot be used.
    File(Failure),
    /// The file, the environment or a flag has an error.
    Invalid(Option<PathBuf>, ConfigError),
}

impl From<Failure> for LoadError {
    fn from(failure: Failure) -> Self {
        Self::File(failure)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::File(failure) => failure,
            LoadError::Invalid(_, error) => Self::Usage(error.to_string()),
        }
    }
}

/// Loads the configuration, from the file that is named or found.
pub(super) fn load(global: &GlobalArgs) -> Result<Settings, LoadError> {
    read(global, find(global.config.as_deref())?)
}

/// Loads the configuration from this file, or without one.
pub(super) fn read(global: &GlobalArgs, file: Option<PathBuf>) -> Result<Settings, LoadError> {
    let text = file.as_deref().map(std::fs::read_to_string).transpose();
    let text = text.map_err(|error| unusable(file.as_deref(), &error))?;
    match merge(global, file.as_deref().zip(text.as_deref())) {
        Ok((config, origins)) => Ok(Settings {
            config,
            file,
            origins,
            global: global.clone(),
        }),
        Err(error) => Err(LoadError::Invalid(file, error)),
    }
}

/// Merges flags over environment over the file's text.
fn merge(
    global: &GlobalArgs,
    file: Option<(&Path, &str)>,
) -> Result<(Config, Origins), ConfigError> {
    let mut loader = Loader::default();
    if let Some((name, text)) = file {
        loader.file(&name.display().to_string(), text)?;
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
    loader.finish()
}

/// The file that is named, or the first of the default ones that exists.
pub(super) fn find(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let (here, system) = (Path::new(HERE), Path::new(SYSTEM));
    match named {
        Some(named) => Ok(Some(named.to_owned())),
        None if here.exists() => check_owner(here).map(|()| Some(here.to_owned())),
        None => Ok(system.exists().then(|| system.to_owned())),
    }
}

/// A file that is not named must be the caller's own: another user's could divert credits.
fn check_owner(file: &Path) -> Result<(), Failure> {
    let about = std::fs::metadata(file).map_err(|error| unusable(Some(file), &error))?;
    let me = rustix::process::geteuid().as_raw();
    if me == about.uid() && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    let shown = file.display();
    Err(Failure::Usage(format!(
        "{shown} is not used, as it is not yours or others can write it; name it with --config to use it anyway"
    )))
}

fn unusable(file: Option<&Path>, error: &std::io::Error) -> Failure {
    let file = file.unwrap_or(Path::new(HERE)).display();
    Failure::Usage(format!("{file}: {error}"))
}
