use std::path::{Path, PathBuf};

use r3mes_edge::Config;

use super::{Failure, Places};

/// The configuration, and where it came from.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) file: Option<PathBuf>,
}

/// Flags over environment over file over defaults.
pub(super) fn load(places: &Places) -> Result<Settings, Failure> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.to_str()?.strip_prefix("R3MES_EDGE_")?.to_owned();
            Some((name, value.to_str()?.to_owned()))
        })
        .collect();
    let file = find(places.config.as_deref())?;
    let text = match &file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?,
        None => String::new(),
    };
    let settings = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut config = Config::read(&text, settings).map_err(|mistakes| {
        let origin = file.as_ref().map_or_else(
            || "configuration".to_owned(),
            |file| file.display().to_string(),
        );
        Failure::Usage(
            mistakes
                .iter()
                .map(|mistake| format!("{origin}: {mistake}"))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    })?;
    if let Some(listen) = places.listen {
        config.listen = listen;
    }
    if let Some(database) = &places.database {
        config.database.clone_from(database);
    }
    Ok(Settings { config, file })
}

fn find(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(named) = named {
        return Ok(Some(named.to_owned()));
    }
    let here = Path::new("r3mes-edge.toml");
    if here.exists() {
        trusted(here)?;
        return Ok(Some(here.to_owned()));
    }
    let system = Path::new("/etc/r3mes-edge/config.toml");
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
