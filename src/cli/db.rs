//! The database file itself: is it well, and of which version.

use std::path::PathBuf;

use clap::Subcommand;
use r3mes_edge::store::check_database;
use serde_json::json;

use super::access::open_failure;
use super::progress::Progress;
use super::settings::Settings;
use super::{Failure, import};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check every page, the schema, what refers to what, and every wallet's ledger; beside a running server too
    #[command(after_help = "Example: r3mes-edge db check")]
    Check,
    /// Import the database of an R3MES backend: accounts, balances and API keys
    #[command(after_help = import::HELP)]
    Import {
        /// The backend's database file; it is only read
        file: PathBuf,
    },
}

pub(super) async fn run(command: &Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    match command {
        Command::Check => {
            let progress = Progress::start("checking every page and every wallet", json);
            let check = check_database(database).map_err(open_failure)?;
            drop(progress);
            let mistakes = check.mistakes().count();
            if json {
                println!("{}", json!(check));
            } else {
                for mistake in check.mistakes() {
                    println!("{mistake}");
                }
                println!(
                    "{}: version {}, {} wallets, {} entries",
                    database.display(),
                    check.version,
                    check.ledger.wallets,
                    check.ledger.entries
                );
            }
            match mistakes {
                0 => Ok(()),
                n => Err(Failure::Failed(format!(
                    "integrity check found {n} errors; stop the server and put the newest good copy in its place with restore"
                ))),
            }
        }
        Command::Import { file } => import::run(settings, json, file).await,
    }
}
