use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::access::{Access, ask};
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what the breaker before each upstream is doing
    #[command(after_help = "Example: r3mes-edge breaker list")]
    List,
    /// Keep every call from an upstream until its breaker is reset
    #[command(after_help = "Example: r3mes-edge breaker open node")]
    Open {
        /// The upstream, as `breaker list` names it
        name: String,
    },
    /// Close a breaker, forced open or not, and forget what it counted
    #[command(after_help = "Example: r3mes-edge breaker reset node")]
    Reset {
        /// The upstream, as `breaker list` names it
        name: String,
    },
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let (method, path, body) = match command {
        Command::List => ("GET", "/admin/breakers".to_owned(), None),
        Command::Open { name } => ("POST", path_of(&name)?, Some(json!({ "state": "open" }))),
        Command::Reset { name } => ("POST", path_of(&name)?, Some(json!({ "state": "reset" }))),
    };
    let Access::Server { address, database } = Access::open(&settings.config.database).await?
    else {
        return Err(Failure::Unavailable(format!(
            "no server runs on {}: there are breakers in a running one only",
            settings.config.database.display()
        )));
    };
    let answer = ask(&address, &database, method, &path, body.as_ref()).await?;
    if json {
        println!("{answer}");
        return Ok(());
    }
    match answer["breakers"].as_array() {
        Some(breakers) => breakers.iter().for_each(show),
        None => show(&answer),
    }
    Ok(())
}

fn path_of(name: &str) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(Failure::Usage(format!(
            "{name:?} is no upstream's name: letters, digits, dots, dashes or underscores"
        )));
    }
    Ok(format!("/admin/breakers/{name}"))
}

fn show(breaker: &Value) {
    let text = |name: &str| breaker[name].as_str().unwrap_or_default();
    let wait = breaker["retry_after_seconds"].as_u64();
    let wait = wait
        .map(|seconds| format!("  for {seconds} s"))
        .unwrap_or_default();
    let line = format!(
        "{:16}  {:9}{wait}  {}",
        text("name"),
        text("state"),
        text("reason")
    );
    println!("{}", line.trim_end());
}
