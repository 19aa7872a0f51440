//! Looks at the configuration: is it right, and what is in force.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use r3mes_edge::config::{ConfigError, Origin};
use serde_json::{Map, Value, json};

use super::settings::{self, LoadError, Settings};
use super::{Failure, GlobalArgs};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check the configuration; the first error is shown with its place
    #[command(
        after_help = "Example: r3mes-edge config check --config new.toml && mv new.toml r3mes-edge.toml\n\nExit code 2: the configuration has an error."
    )]
    Check,
    /// Print the configuration in force; it reads back as the same
    #[command(after_help = "Example: r3mes-edge config print --origin | grep -v '# default$'")]
    Print {
        /// Say of each setting where it comes from
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn run(command: &Command, places: &GlobalArgs, json: bool) -> Result<(), Failure> {
    let read = settings::load(places);
    match command {
        Command::Check => check(read, json),
        Command::Print { origin } => print(&read?, *origin, json),
    }
}

fn check(loaded: Result<Settings, LoadError>, json: bool) -> Result<(), Failure> {
    let shown = |file: Option<PathBuf>| file.map(|file| file.display().to_string());
    match loaded {
        Ok(Settings { file, .. }) if json => {
            println!("{}", json!({ "valid": true, "file": shown(file) }));
            Ok(())
        }
        Ok(Settings { file, .. }) => {
            let from = file.as_deref().map_or_else(
                || "no file; defaults and environment only".into(),
                Path::to_string_lossy,
            );
            println!("the configuration is valid: {from}");
            Ok(())
        }
        Err(LoadError::Invalid(file, error)) if json => {
            let file = shown(file);
            println!(
                "{}",
                json!({ "valid": false, "file": file, "error": as_json(&error) })
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
        let config = serde_json::to_string(&settings.config);
        println!(
            "{}",
            config.map_err(|error| Failure::Failed(error.to_string()))?
        );
        return Ok(());
    }
    let all = settings.config.settings().map_err(Failure::Failed)?;
    if json {
        let lines = all.into_iter().map(|setting| {
            let origin = origin(settings, &setting.key);
            let shown = json!({ "value": setting.value, "origin": origin });
            (setting.key, shown)
        });
        println!("{}", Value::Object(lines.collect::<Map<_, _>>()));
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
