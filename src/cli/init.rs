//! `init`: writes a configuration to fill in, and creates the database and the first admin key. Existing files are left as
//! they are.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use clap::Args;
use r3mes_edge::SqliteStore;
use r3mes_edge::model::Wallet;
use serde_json::json;

use super::address::will_open_line;
use super::{Failure, GlobalArgs, Result, admin_key, files, settings};

/// What is written into the configuration, besides `--listen` and `--database`.
#[derive(Args)]
pub(super) struct InitArgs {
    /// The wallet of the miner on this machine [default: none]
    #[arg(long, value_parser = Wallet::parse)]
    wallet: Option<Wallet>,
}

pub(super) async fn run(args: &InitArgs, global: &GlobalArgs, json: bool) -> Result {
    let found = settings::find(global);
    let config = found.clone().unwrap_or_else(|| settings::HERE.into());
    let new_config = !config.exists();
    // Loaded first: an invalid configuration changes nothing.
    let loaded = settings::read(global, found.filter(|_| !new_config))?;
    if new_config {
        write_config(&config, &config_text(args, global))?;
    }
    let loaded = loaded.resolve().config;
    let open = will_open_line(&loaded);
    let database = loaded.database;
    let new_database = !database.exists();
    let mut key = None;
    if new_database {
        let store = SqliteStore::open(&database, true)?;
        key = admin_key::ensure(&store, &database).await?;
        drop(store);
        if key.is_none() {
            admin_key::report(&database).await;
        }
    }
    let mut next = "r3mes-edge serve".to_owned();
    if global.config.is_some() {
        next += &format!(" --config {}", files::quoted(&config));
    }
    if json {
        let made = |file: &Path, made| json!({ "file": file.display().to_string(), "made": made });
        let report = json!({
            "config": made(&config, new_config),
            "database": made(&database, new_database),
            "admin_key": key.map(|key| made(&key, true)),
            "next": next,
        });
        println!("{report}");
        return Ok(());
    }
    println!("{open}\n");
    for (file, new) in [(&config, new_config), (&database, new_database)] {
        let what = match new {
            true => "is created",
            false => "exists and is not changed",
        };
        println!("{} {what}", file.display());
    }
    if let Some(key) = key {
        let key = key.display();
        println!("{key} holds the first admin key; only you can read it");
    }
    println!("\nNext: edit the configuration, then start with\n\n  {next}");
    Ok(())
}

/// The example with the settings that flags name, and all others commented out: a default may change with the version.
fn config_text(args: &InitArgs, global: &GlobalArgs) -> String {
    let mut settings = BTreeMap::new();
    if !global.listen.is_empty() {
        settings.insert("listen", json!(global.listen));
    }
    if let Some(database) = &global.database {
        settings.insert("database", json!(database.to_string_lossy()));
    }
    if let Some(wallet) = &args.wallet {
        settings.insert("wallet", json!(wallet));
    }
    let line = |line: &str| {
        let setting = line.trim_start_matches("# ").split_once(" = ");
        match setting.and_then(|(name, _)| Some((name, settings.get(name)?))) {
            // JSON is TOML too, but for one character.
            Some((name, value)) => format!("{name} = {value}\n").replace('\x7f', "\\u007F"),
            None if line.is_empty() || line.starts_with(['#', '[']) => format!("{line}\n"),
            None => format!("# {line}\n"),
        }
    };
    EXAMPLE.lines().map(line).collect()
}

const EXAMPLE: &str = include_str!("../../examples/config.toml");

fn write_config(file: &Path, text: &str) -> Result {
    // A file that others can write is not read from the working folder.
    files::create(file, 0o644, format_args!("{text}")).map_err(|error| {
        let what = format!("{}: {error}", file.display());
        match error.kind() {
            ErrorKind::AlreadyExists => Failure::Conflict(what),
            _ => Failure::Failed(what),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use r3mes_edge::Config;

    const W1: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

    fn text(wallet: Option<Wallet>, global: &GlobalArgs) -> String {
        config_text(&InitArgs { wallet }, global)
    }

    fn no_flags() -> GlobalArgs {
        GlobalArgs {
            config: None,
            listen: Vec::new(),
            database: None,
            admin_key_file: None,
            url: None,
            ca_file: None,
            plain_http: false,
        }
    }

    #[test]
    fn the_written_configuration_sets_only_what_the_flags_name() {
        let nothing = text(None, &no_flags());
        let set = |line: &&str| !line.is_empty() && !line.starts_with(['#', '[']);
        assert_eq!(nothing.lines().find(set), None);
        let config = Config::read(&nothing, []).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let flags = GlobalArgs {
            listen: vec!["[::1]:80".parse().unwrap()],
            database: Some("a \"quoted\"\u{7f} name.db".into()),
            ..no_flags()
        };
        let wallet = Some(Wallet::parse(W1).unwrap());
        let written = text(wallet, &flags);
        assert_eq!(written.lines().filter(set).count(), 3, "{written}");
        let config = Config::read(&written, []).unwrap();
        assert_eq!(config.listen, flags.listen);
        assert_eq!(Some(config.database), flags.database);
        assert_eq!(config.miner.wallet, wallet);
    }

    #[test]
    fn without_its_comment_marks_the_written_configuration_is_the_example() {
        let written = text(None, &no_flags());
        let setting = |line: &str| line.strip_prefix("# ").unwrap_or(line).to_owned();
        let settings = |text: &str| -> Vec<_> {
            text.split_once("\n\n")
                .unwrap()
                .1
                .lines()
                .map(setting)
                .collect()
        };
        assert_eq!(settings(&written), settings(EXAMPLE));
    }
}
