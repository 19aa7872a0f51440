//! What a new place needs: a configuration to fill in, the database, the first admin key. What is there is left alone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use r3mes_edge::SqliteStore;
use r3mes_edge::model::Wallet;
use serde_json::{Value, json};

use super::settings;
use super::{Failure, GlobalArgs, access, admin_key, files};

/// What is written into the configuration, besides what `--listen` and `--database` say.
#[derive(Args)]
pub(super) struct Given {
    /// Whose miner runs on this machine
    #[arg(long, value_parser = Wallet::parse)]
    wallet: Option<Wallet>,
}

/// A file, and whether it is new.
struct Made {
    file: PathBuf,
    new: bool,
}

pub(super) async fn run(given: &Given, places: &GlobalArgs, json: bool) -> Result<(), Failure> {
    let found = match &places.config {
        Some(named) => named.exists().then(|| named.clone()),
        None => settings::find(None)?,
    };
    // Read before anything is made: with a mistake in it nothing is.
    let mut in_force = settings::read(places, found.clone())?;
    in_force.resolve();
    let in_force = in_force.config;
    let config = match found {
        Some(file) => Made { file, new: false },
        None => {
            let here = || PathBuf::from(settings::HERE);
            let file = places.config.clone().unwrap_or_else(here);
            write_new(&file, &text(given, places)?)?;
            Made { file, new: true }
        }
    };
    let database = Made {
        new: !in_force.database.exists(),
        file: in_force.database,
    };
    // Of a database that is there, its server or its next start sees to the key.
    let key = if database.new {
        let store = SqliteStore::open(&database.file, true).map_err(access::open_failure)?;
        let key = admin_key::ensure(&store, &database.file).await?;
        drop(store);
        if key.is_none() {
            admin_key::report(&database.file);
        }
        key
    } else {
        None
    };
    tell(given, places, &config, &database, key.as_deref(), json);
    Ok(())
}

fn tell(
    given: &Given,
    places: &GlobalArgs,
    config: &Made,
    database: &Made,
    key: Option<&Path>,
    json: bool,
) {
    let next = next(places, config, database);
    let of = |made: &Made| json!({ "file": made.file.display().to_string(), "made": made.new });
    if json {
        let key = key.map_or(
            Value::Null,
            |key| json!({ "file": key.display().to_string(), "made": true }),
        );
        let told = json!({ "config": of(config), "database": of(database), "admin_key": key, "next": next });
        println!("{told}");
        return;
    }
    let named = config.file.display();
    if config.new {
        println!("{named} is written: every setting with its default, to fill in");
    } else {
        let unwritten = [
            ("--listen", !places.listen.is_empty()),
            ("--database", places.database.is_some()),
            ("--wallet", given.wallet.is_some()),
        ];
        let unwritten: Vec<_> = unwritten
            .iter()
            .filter(|(_, given)| *given)
            .map(|(flag, _)| *flag)
            .collect();
        let and = match unwritten.as_slice() {
            [] => String::new(),
            flags => format!(", without {}", flags.join(", ")),
        };
        println!("{named} was there already and stays as it is{and}");
    }
    let named = database.file.display();
    match (database.new, key) {
        (false, _) => println!("{named} was there already and stays as it is"),
        (true, None) => println!("{named} is made"),
        (true, Some(key)) => {
            println!("{named} is made");
            println!(
                "{} holds the first admin key; only you can read it",
                key.display()
            );
        }
    }
    println!("\nNext: look through the configuration, then start with\n\n  {next}");
}

/// The command that serves what is there now.
fn next(places: &GlobalArgs, config: &Made, database: &Made) -> String {
    let mut command = "r3mes-edge serve".to_owned();
    if places.config.is_some() {
        command += &format!(" --config {}", files::quoted(&config.file));
    }
    // What stands in the file that was written needs no flag.
    if !config.new && places.database.is_some() {
        command += &format!(" --database {}", files::quoted(&database.file));
    }
    for place in places.listen.iter().filter(|_| !config.new) {
        command += &format!(" --listen {place}");
    }
    command
}

/// The example with everything commented out but what was given: a default goes on following the version.
fn text(given: &Given, places: &GlobalArgs) -> Result<String, Failure> {
    let database = places.database.as_deref().map(|file| {
        let text = file.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::Usage("--database is not UTF-8".to_owned()))
    });
    let listen: Vec<_> = places.listen.iter().map(ToString::to_string).collect();
    let given = [
        ("listen", (!listen.is_empty()).then(|| Value::from(listen))),
        ("database", database.transpose()?.map(Value::from)),
        (
            "wallet",
            given.wallet.map(|wallet| wallet.to_string().into()),
        ),
    ];
    let (_, example) = EXAMPLE.split_once("\n\n").unwrap_or(("", EXAMPLE));
    let mut text = HEAD.to_owned();
    for line in example.lines() {
        let set = |(name, value): &(&str, Option<Value>)| {
            let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
            // JSON's way to write texts and lists is TOML's too, but for one character.
            let value = value.as_ref()?.to_string().replace('\x7f', "\\u007F");
            (setting.0 == *name).then(|| format!("{name} = {value}"))
        };
        let line = match given.iter().find_map(set) {
            Some(line) => line,
            None if line.is_empty() || line.starts_with(['#', '[']) => line.to_owned(),
            None => format!("# {line}"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

const EXAMPLE: &str = include_str!("../../examples/config.toml");

const HEAD: &str = "\
# The configuration of r3mes-edge. What is commented out has this default; take the # away to change it, then see with
# `r3mes-edge config check` that it is right. SIGHUP makes a running server read rates, alerts and log.level again.
#
# The environment lies over this file (R3MES_EDGE_LISTEN, R3MES_EDGE_RATES__CHAT), flags lie over both. Durations are texts
# like \"500ms\", \"10s\", \"5min\", \"90d\"; sizes like \"64KiB\"; rates like \"10/min\", or \"off\".

";

fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    // One that others may write is not read where it is found by chance.
    files::write_new(file, 0o644, format_args!("{text}")).map_err(|error| {
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

    fn places() -> GlobalArgs {
        GlobalArgs {
            config: None,
            listen: Vec::new(),
            database: None,
        }
    }

    #[test]
    fn what_is_written_sets_nothing_but_what_was_given() {
        let nothing = text(&Given { wallet: None }, &places()).unwrap();
        let set = |line: &&str| !line.is_empty() && !line.starts_with(['#', '[']);
        assert_eq!(nothing.lines().find(set), None);
        let config = Config::read(&nothing, []).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let places = GlobalArgs {
            listen: vec!["[::1]:80".parse().unwrap()],
            database: Some("a \"quoted\"\u{7f} name.db".into()),
            ..places()
        };
        let wallet = Some(Wallet::parse(W1).unwrap());
        let given = text(&Given { wallet }, &places).unwrap();
        assert_eq!(given.lines().filter(set).count(), 3, "{given}");
        let config = Config::read(&given, []).unwrap();
        assert_eq!(config.listen, places.listen);
        assert_eq!(Some(config.database), places.database);
        assert_eq!(config.miner.wallet, wallet);
    }

    #[test]
    fn taking_all_the_marks_away_leaves_the_example() {
        let written = text(&Given { wallet: None }, &places()).unwrap();
        let setting = |line: &str| line.strip_prefix("# ").unwrap_or(line).to_owned();
        let (_, example) = EXAMPLE.split_once("\n\n").unwrap();
        let written: Vec<_> = written
            .split_once("\n\n")
            .unwrap()
            .1
            .lines()
            .map(setting)
            .collect();
        let example: Vec<_> = example.lines().map(setting).collect();
        assert_eq!(written, example);
    }
}
