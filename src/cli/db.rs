//! Commands for the database file itself: whether it is healthy, and of which version.

use std::path::PathBuf;

use clap::Subcommand;
use r3mes_edge::store::check_database;

use super::output::{answer, progress};
use super::settings::Settings;
use super::{Result, checked, import};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check every page, the schema, the foreign keys and every wallet's ledger, also while a server runs
    ///
    /// Example: r3mes-edge db check
    Check,
    /// Import the database of an R3MES backend: accounts, balances and API keys
    #[command(after_help = import::HELP)]
    Import {
        /// The backend's database file; it is only read
        file: PathBuf,
    },
}

pub(super) async fn run(command: &Command, settings: &Settings, json: bool) -> Result {
    let database = &settings.config.database;
    match command {
        Command::Check => {
            progress("checking every page and every wallet");
            let check = check_database(database)?;
            let errors: String = check.errors().map(|error| format!("{error}\n")).collect();
            let text = format!(
                "{errors}{}: version {}, {} wallets, {} entries",
                database.display(),
                check.version,
                check.ledger.wallets,
                check.ledger.entries
            );
            answer(json, serde_json::to_string(&check)?, text)?;
            checked("the database", check.errors().count())
        }
        Command::Import { file } => import::run(settings, json, file).await,
    }
}
