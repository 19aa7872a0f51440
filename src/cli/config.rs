//! Looks at the configuration: is it right, and what is in force.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use r3mes_edge::config::{Mistakes, Origin};
use serde_json::{Map, Value, json};

use super::settings::{self, Settings, Unread};
use super::{Failure, Places};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Say whether the configuration is good, or every mistake with its place
    #[command(
        after_help = "Example: r3mes-edge config check --config new.toml && mv new.toml r3mes-edge.toml\n\nIt ends with 2 where there is a mistake."
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

pub(super) fn run(command: &Command, places: &Places, json: bool) -> Result<(), Failure> {
    let read = settings::load(places);
    match command {
        Command::Check => check(read, json),
        Command::Print { origin } => print(&read?, *origin, json),
    }
}

fn check(read: Result<Settings, Unread>, json: bool) -> Result<(), Failure> {
    let shown = |file: Option<PathBuf>| file.map(|file| file.display().to_string());
    match read {
        Ok(Settings { file, .. }) if json => {
            println!(
                "{}",
                json!({ "good": true, "file": shown(file), "mistakes": [] })
            );
            Ok(())
        }
        Ok(Settings { file, .. }) => {
            let from = file.as_deref().map_or_else(
                || {
                    "there is no file, every setting has its default or stands in the environment"
                        .into()
                },
                Path::to_string_lossy,
            );
            println!("the configuration is good: {from}");
            Ok(())
        }
        Err(Unread::Mistakes(file, mistakes)) if json => {
            let told = as_json(&mistakes);
            println!(
                "{}",
                json!({ "good": false, "file": shown(file), "mistakes": told })
            );
            Err(Failure::Usage(match mistakes.count() {
                1 => "the configuration has a mistake".to_owned(),
                n => format!("the configuration has {n} mistakes"),
            }))
        }
        Err(unread) => Err(unread.into()),
    }
}

fn as_json(mistakes: &Mistakes) -> Vec<Value> {
    let each = mistakes.iter().map(|mistake| {
        let mut told = match &mistake.origin {
            Origin::Default => json!({}),
            Origin::File { name, line, column } => {
                json!({ "file": &**name, "line": line, "column": column })
            }
            Origin::Named(name) => json!({ "origin": name }),
        };
        told["key"] = mistake.key.as_str().into();
        told["message"] = mistake.what.as_str().into();
        told
    });
    each.collect()
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
    let sections = settings.config.sections().map_err(Failure::Failed)?;
    if json {
        let lines = sections.into_iter().flat_map(|section| section.lines);
        let lines = lines.map(|line| {
            let origin = origin(settings, &line.key);
            (line.key, json!({ "value": line.value, "origin": origin }))
        });
        println!("{}", Value::Object(lines.collect::<Map<_, _>>()));
        return Ok(());
    }
    for section in sections {
        if !section.head.is_empty() {
            println!("\n{}", section.head);
        }
        for line in section.lines {
            match with_origin {
                false => println!("{}", line.toml),
                true => println!("{}  # {}", line.toml, origin(settings, &line.key)),
            }
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
