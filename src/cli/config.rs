//! Commands for the configuration: whether it is valid, and what is in force.

use std::path::PathBuf;

use clap::Subcommand;
use r3mes_edge::config::{ConfigError, Origin, Setting};
use serde_json::{Value, json};

use super::output::answer;
use super::settings::{self, LoadError, Settings};
use super::{Failure, GlobalArgs};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check the configuration; the first error is shown with its place
    ///
    /// Exit code 2: the configuration has an error.
    ///
    /// Example: r3mes-edge config check --config new.toml && mv new.toml r3mes-edge.toml
    Check,
    /// Print the configuration in force; it reads back as the same
    ///
    /// Example: r3mes-edge config print --origin | grep -v '# default$'
    Print {
        /// Print of each setting where it comes from
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn run(command: &Command, global: &GlobalArgs, json: bool) -> Result<(), Failure> {
    let loaded = settings::load(global);
    match command {
        Command::Check => check(loaded, json),
        Command::Print { origin } => print(&loaded?, *origin, json),
    }
}

fn check(loaded: Result<Settings, LoadError>, json: bool) -> Result<(), Failure> {
    let name = |file: Option<PathBuf>| file.map(|file| file.display().to_string());
    match loaded {
        Ok(Settings { file, .. }) => {
            let file = name(file);
            let valid = json!({ "valid": true, "file": file });
            answer(&valid.to_string(), json, |_| {
                let file = file.as_deref();
                let file = file.unwrap_or("no file; defaults and environment only");
                Ok(format!("the configuration is valid: {file}"))
            })
        }
        Err(LoadError::Invalid(file, error)) if json => {
            println!(
                "{}",
                json!({ "valid": false, "file": name(file), "error": as_json(&error) })
            );
            Err(Failure::Usage(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn as_json(error: &ConfigError) -> Value {
    let mut object = match &error.origin {
        Origin::Default => json!({}),
        Origin::File { name, line, column } => {
            json!({ "file": &**name, "line": line, "column": column })
        }
        Origin::Named(name) => json!({ "origin": name }),
    };
    object["key"] = error.key.as_str().into();
    object["message"] = error.message.as_str().into();
    object
}

fn print(settings: &Settings, with_origin: bool, json: bool) -> Result<(), Failure> {
    if json && !with_origin {
        return answer(&serde_json::to_string(&settings.config)?, true, |_| {
            Ok(String::new())
        });
    }
    let all = settings.config.settings().map_err(Failure::Failed)?;
    if json {
        let member = |setting: Setting| {
            let origin = origin(settings, &setting.key);
            (
                setting.key,
                json!({ "value": setting.value, "origin": origin }),
            )
        };
        println!("{}", Value::Object(all.into_iter().map(member).collect()));
        return Ok(());
    }
    let mut table = "";
    for setting in &all {
        if setting.table != table {
            println!("\n{}", setting.header());
            table = &setting.table;
        }
        match with_origin {
            false => println!("{}", setting.toml()),
            true => println!("{}  # {}", setting.toml(), origin(settings, &setting.key)),
        }
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
