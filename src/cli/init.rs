//! `init`: writes a configuration to fill in, and creates the database and the first admin key. Existing files are left as
//! they are.

use std::io::ErrorKind;
use std::path::Path;

use clap::Args;
use r3mes_edge::model::Wallet;
use r3mes_edge::{Config, SqliteStore};
use serde_json::json;

use super::{Failure, GlobalArgs, Result, admin_key, files, settings};

/// What is written into the configuration, besides `--listen` and `--database`.
#[derive(Args)]
pub(super) struct InitArgs {
    /// Whose miner runs on this machine
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
        write_config(&config, &config_text(args, global, &loaded.config)?)?;
    }
    let database = loaded.resolve().config.database;
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
fn config_text(args: &InitArgs, global: &GlobalArgs, config: &Config) -> Result<String> {
    let mut config = config.clone();
    config.miner.wallet = args.wallet;
    let mut settings = Vec::new();
    for (key, value) in config.settings().map_err(Failure::Usage)? {
        let name = match &*key {
            "listen" if !global.listen.is_empty() => "listen",
            "database" if global.database.is_some() => "database",
            "miner.wallet" if args.wallet.is_some() => "wallet",
            _ => continue,
        };
        // JSON's way to write them is TOML's too, but for one character.
        let value = value.to_string().replace('\x7f', "\\u007F");
        settings.push(format!("{name} = {value}"));
    }
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let start = line.trim_start_matches("# ").split_inclusive(" = ").next();
        let start = start.filter(|start| start.ends_with(" = "));
        let set = start.and_then(|start| settings.iter().find(|set| set.starts_with(start)));
        if set.is_none() && !line.is_empty() && !line.starts_with(['#', '[']) {
            text += "# ";
        }
        text += set.map_or(line, String::as_str);
        text.push('\n');
    }
    Ok(text)
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

    const W1: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

    fn text(wallet: Option<Wallet>, global: &GlobalArgs) -> String {
        let mut config = Config::default();
        config.listen.clone_from(&global.listen);
        config.database = global.database.clone().unwrap_or_default();
        config_text(&InitArgs { wallet }, global, &config).unwrap()
    }

    fn no_flags() -> GlobalArgs {
        GlobalArgs {
            config: None,
            listen: Vec::new(),
            database: None,
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
