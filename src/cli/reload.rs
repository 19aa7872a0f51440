//! SIGHUP: the configuration is read again, and what can change while the server runs does.

use r3mes_edge::config::Change;
use r3mes_edge::{Config, EdgeServer};

use super::settings::{self, Settings};
use super::{Failure, GlobalArgs, logging};

/// Reads the configuration again and takes over what it can. With an error in it everything stays as it is.
///
/// `in_force` is what the server runs with; what needs a restart is told again each time until there was one.
pub(super) async fn reload(places: &GlobalArgs, in_force: &mut Config, server: &EdgeServer) {
    let places = places.clone();
    let read = tokio::task::spawn_blocking(move || settings::load(&places)).await;
    let Settings { config, file, .. } = match read {
        Ok(Ok(mut settings)) => {
            settings.resolve();
            settings
        }
        Ok(Err(error)) => {
            let failure = Failure::from(error);
            let text = failure.text().unwrap_or_default();
            return log::error!("the configuration was not reloaded, nothing is changed: {text}");
        }
        Err(error) => return log::error!("the configuration was not read again: {error}"),
    };
    let changes = match in_force.changes(&config) {
        Ok(changes) => changes,
        Err(error) => return log::error!("the configuration was not taken over: {error}"),
    };
    server.reload(&config);
    logging::set_level(&config.log);
    in_force.rates = config.rates;
    in_force.alerts = config.alerts;
    in_force.log.level = config.log.level;
    let (live, later): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::is_live);
    let told = |changes: Vec<Change>| {
        let each: Vec<_> = changes.into_iter().map(|change| change.what).collect();
        each.join(", ")
    };
    let from = file.map_or_else(String::new, |file| format!(" from {}", file.display()));
    let now = match live.is_empty() {
        true => "nothing changed".to_owned(),
        false => told(live),
    };
    // Also where the level has just been set higher: who sent the signal looks for it.
    match later.is_empty() {
        true => log::warn!("configuration read again{from}: {now}"),
        false => log::warn!(
            "configuration read again{from}: {now}; needs a restart: {}",
            told(later)
        ),
    }
}
