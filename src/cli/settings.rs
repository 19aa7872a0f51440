//! Where the configuration comes from: flags over environment over file over defaults.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use r3mes_edge::Config;
use r3mes_edge::config::{ConfigError, Listen, Loader, Origins};
use r3mes_edge::store::real_path;

use super::{Failure, GlobalArgs};

/// The configuration, and where it came from.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) file: Option<PathBuf>,
    pub(super) origins: Origins,
    /// What was said about it on the command line.
    pub(super) places: GlobalArgs,
}

impl Settings {
    /// Follows symbolic links to the real database, before anything is derived from its name.
    pub(super) fn resolve(&mut self) {
        self.config.database = real_path(&self.config.database);
    }
}

/// Why there is none.
pub(super) enum LoadError {
    /// The file cannot be used.
    File(Failure),
    /// The file, the environment or a flag has an error.
    Invalid(Option<PathBuf>, ConfigError),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::File(failure) => failure,
            LoadError::Invalid(_, error) => Self::Usage(error.to_string()),
        }
    }
}

/// Reads what there is.
pub(super) fn load(places: &GlobalArgs) -> Result<Settings, LoadError> {
    let file = find(places.config.as_deref()).map_err(LoadError::File)?;
    read(places, file)
}

/// Reads this file, or none.
pub(super) fn read(places: &GlobalArgs, file: Option<PathBuf>) -> Result<Settings, LoadError> {
    let text = match &file {
        None => None,
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            LoadError::File(Failure::Usage(format!("{}: {error}", file.display())))
        })?),
    };
    match lay_over(places, file.as_deref().zip(text.as_deref())) {
        Ok((config, origins)) => Ok(Settings {
            config,
            file,
            origins,
            places: places.clone(),
        }),
        Err(error) => Err(LoadError::Invalid(file, error)),
    }
}

/// Flags over environment over the file's text.
fn lay_over(
    places: &GlobalArgs,
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
    if !places.listen.is_empty() {
        let listen: Vec<_> = places.listen.iter().map(Listen::to_string).collect();
        // A list, as a path may have a comma in it.
        let listen = serde_json::Value::from(listen).to_string();
        loader.set("listen", OsStr::new(&listen), "--listen")?;
    }
    if let Some(database) = &places.database {
        loader.set("database", database.as_os_str(), "--database")?;
    }
    loader.finish()
}

/// Where a configuration is looked for, in this order.
pub(super) const HERE: &str = "r3mes-edge.toml";
pub(super) const SYSTEM: &str = "/etc/r3mes-edge/config.toml";

/// The file that is read where none or this one is named.
pub(super) fn find(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(named) = named {
        return Ok(Some(named.to_owned()));
    }
    let here = Path::new(HERE);
    if here.exists() {
        trusted(here)?;
        return Ok(Some(here.to_owned()));
    }
    let system = Path::new(SYSTEM);
    Ok(system.exists().then(|| system.to_owned()))
}

/// A file that is found by chance in a folder must be the caller's own: somebody else's could send the credits elsewhere.
#[cfg(unix)]
fn trusted(file: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(file)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let me = rustix::process::geteuid().as_raw();
    if me != about.uid() || about.mode() & 0o022 != 0 {
        let text = format!(
            "{} is ignored unless it is yours and nobody else may write it; name it with --config to use it anyway",
            file.display()
        );
        return Err(Failure::Usage(text));
    }
    Ok(())
}

#[cfg(not(unix))]
fn trusted(_: &Path) -> Result<(), Failure> {
    Ok(())
}
