//! Commands for the configuration: whether it is valid, and what is in force.

use clap::Subcommand;
use r3mes_edge::config::Origin;
use r3mes_edge::server;
use serde_json::{Map, Value, json};

use super::output::answer;
use super::settings::{self, Settings};
use super::{Failure, GlobalArgs, Result};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check the configuration, and the files, folders and addresses that it names; the first error is shown with its position
    ///
    /// It makes no request and may run beside the server. Run it as the server's user, whose permissions count.
    ///
    /// Exit code 2: the configuration has an error.
    ///
    /// Example: r3mes-edge config check --config new.toml && mv new.toml r3mes-edge.toml
    Check,
    /// Print the effective configuration as TOML
    ///
    /// Example: r3mes-edge config print --origin | grep -v '# default$'
    Print {
        /// Print each setting with its full key and its origin
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn run(command: &Command, global: &GlobalArgs, json: bool) -> Result {
    match command {
        Command::Check => check(global, json),
        Command::Print { origin } => print(&settings::load(global)?, *origin, json),
    }
}

fn check(global: &GlobalArgs, json: bool) -> Result {
    let file = settings::find(global);
    let name = file.as_ref().map(|file| file.display().to_string());
    let error = settings::read(global, file).and_then(|settings| {
        let checked = server::check(&settings.config);
        checked.map_err(|error| settings.located(error))
    });
    let error = error.err();
    if json {
        let report = json!({ "valid": error.is_none(), "file": name, "error": error });
        println!("{report}");
    } else if error.is_none() {
        let file = name.as_deref();
        let file = file.unwrap_or("no file; defaults and environment only");
        println!("the configuration is valid: {file}");
    }
    error.map_or(Ok(()), |error| Err(error.into()))
}

fn print(settings: &Settings, with_origin: bool, json: bool) -> Result {
    let config = &settings.config;
    if !with_origin {
        let toml = config.to_toml().map_err(Failure::Failed)?;
        return answer(json, serde_json::to_string(config)?, toml);
    }
    let mut members = Map::new();
    for (key, value) in config.settings().map_err(Failure::Failed)? {
        let origin = origin(settings, &key);
        match json {
            false => println!("{key} = {value}  # {origin}"),
            true => {
                members.insert(key, json!({ "value": value, "origin": origin }));
            }
        }
    }
    if json {
        println!("{}", Value::Object(members));
    }
    Ok(())
}

/// Where a setting comes from, on one line whatever the file is called.
fn origin(settings: &Settings, key: &str) -> String {
    let origin = match settings.origins.of(key) {
        Origin::File { name, line, .. } => format!("{name}:{line}"),
        origin => origin.to_string(),
    };
    origin.replace(char::is_control, "?")
}
