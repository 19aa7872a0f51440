//! Commands for the database file itself: whether it is healthy, and of which version.

use std::path::PathBuf;

use clap::Subcommand;
use r3mes_edge::Config;
use r3mes_edge::store::check_database;
use serde_json::Value;

use super::client::Client;
use super::output::{answer, progress};
use super::requests::numbers;
use super::{Result, checked, import};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check every page, the schema, the foreign keys and every wallet's ledger, also while a server runs
    ///
    /// Example: r3mes-edge db check
    Check,
    /// Believe the clock of this machine at once, instead of after it has held for an hour
    ///
    /// After a jump of the clock nothing expires by it until then, and the alert clock_jump fires.
    ///
    /// Example: r3mes-edge db accept-clock
    AcceptClock,
    /// Import the database of an R3MES backend: accounts, balances and API keys
    #[command(after_help = import::HELP)]
    Import {
        /// The backend's database file; it is only read
        file: PathBuf,
    },
}

pub(super) fn check(config: &Config, json: bool) -> Result {
    let database = &config.database;
    progress("checking every page and every wallet");
    let check = check_database(database)?;
    let errors: String = check.errors().map(|error| format!("{error}\n")).collect();
    let verdict = match errors.is_empty() {
        true => "is sound",
        false => "is NOT sound",
    };
    let text = format!(
        "{errors}{} {verdict}: version {}, {}",
        database.display(),
        check.version,
        numbers(&check.ledger)
    );
    answer(json, serde_json::to_string(&check)?, text)?;
    checked("the database", check.errors().count())
}

pub(super) async fn accept_clock(client: &Client) -> Result {
    let accepted = client.post("/admin/clock/accept", &()).await?;
    let time: Value = serde_json::from_str(&accepted)?;
    let time = time["server_time_iso"].as_str().unwrap_or_default();
    let text = format!("the clock is accepted: it is {time}");
    answer(client.json, &accepted, text)
}
