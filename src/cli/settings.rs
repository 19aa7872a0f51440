//! Where the configuration comes from: flags over environment over file over defaults.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use r3mes_edge::Config;
use r3mes_edge::config::{Listen, Mistakes, Origins, Reader};
use r3mes_edge::store::real_path;

use super::{Failure, Places};

/// The configuration, and where it came from.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) file: Option<PathBuf>,
    pub(super) origins: Origins,
    /// What was said about it on the command line.
    pub(super) places: Places,
}

impl Settings {
    /// Follows symbolic links to the real database, before anything is derived from its name.
    pub(super) fn resolve(&mut self) {
        self.config.database = real_path(&self.config.database);
    }
}

/// Why there is none.
pub(super) enum Unread {
    /// The file cannot be used.
    File(Failure),
    /// What it and the environment say is wrong.
    Mistakes(Option<PathBuf>, Mistakes),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::File(failure) => failure,
            Unread::Mistakes(_, mistakes) => Self::Usage(mistakes.to_string()),
        }
    }
}

/// Reads what there is.
pub(super) fn load(places: &Places) -> Result<Settings, Unread> {
    let file = find(places.config.as_deref()).map_err(Unread::File)?;
    read(places, file)
}

/// Reads this file, or none.
pub(super) fn read(places: &Places, file: Option<PathBuf>) -> Result<Settings, Unread> {
    let mut reader = Reader::default();
    if let Some(file) = &file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Unread::File(Failure::Usage(format!("{}: {error}", file.display())))
        })?;
        reader = reader.file(&file.display().to_string(), &text);
    }
    let mut environment: Vec<_> = std::env::vars_os().collect();
    environment.sort();
    for (variable, value) in &environment {
        let variable = variable.to_string_lossy();
        if let Some(key) = variable.strip_prefix("R3MES_EDGE_") {
            reader = reader.set(key, value, &variable);
        }
    }
    let listen: Vec<_> = places.listen.iter().map(Listen::to_string).collect();
    // A list, as a path may have a comma in it.
    let listen = (!listen.is_empty()).then(|| serde_json::Value::from(listen).to_string());
    let flags = [
        ("listen", "--listen", listen.as_deref().map(OsStr::new)),
        (
            "database",
            "--database",
            places.database.as_deref().map(Path::as_os_str),
        ),
    ];
    for (key, flag, value) in flags {
        if let Some(value) = value {
            reader = reader.set(key, value, flag);
        }
    }
    match reader.finish() {
        Ok((config, origins)) => Ok(Settings {
            config,
            file,
            origins,
            places: places.clone(),
        }),
        Err(mistakes) => Err(Unread::Mistakes(file, mistakes)),
    }
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
