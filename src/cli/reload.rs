//! SIGHUP: reloads the configuration and applies the settings that can change while the server runs.

use std::path::PathBuf;

use r3mes_edge::{Config, EdgeServer};

use super::{GlobalArgs, Result, failed, logging, settings};

/// Reloads the configuration and applies what it can; with an error in it, or without its file, nothing changes.
///
/// `file` is where it was read from, `in_force` is the configuration in use; changes that need a restart are logged at each
/// reload until then.
pub(super) async fn reload(
    global: &GlobalArgs,
    file: &mut Option<PathBuf>,
    in_force: &mut Config,
    server: &EdgeServer,
) {
    match apply(global, file, in_force, server).await {
        // A warning, so that the sender of the signal sees it at a higher log level too.
        Ok(changes) => log::warn!("configuration reloaded: {changes}"),
        Err(error) => {
            log::error!("the configuration was not reloaded, nothing is changed: {error}");
        }
    }
}

async fn apply(
    global: &GlobalArgs,
    file: &mut Option<PathBuf>,
    in_force: &mut Config,
    server: &EdgeServer,
) -> Result<String> {
    let (global, before) = (global.clone(), file.clone());
    let loaded = tokio::task::spawn_blocking(move || settings::reload(&global, before)).await;
    let loaded = loaded.map_err(failed)??.resolve();
    *file = loaded.file;
    let config = loaded.config;
    let changes = in_force.changes(&config).map_err(failed)?;
    server.reload(&config);
    logging::set_level(&config.log.level);
    in_force.rates = config.rates;
    in_force.alerts = config.alerts;
    in_force.log.level = config.log.level;
    Ok(match changes.is_empty() {
        true => "nothing changed".to_owned(),
        false => changes.join(", "),
    })
}
