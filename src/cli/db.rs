//! The database file itself: is it well, and of which version.

use std::path::PathBuf;

use clap::Subcommand;
use r3mes_edge::store::{Migrated, check_database, migrate_database};
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
    /// Bring the database to another version; a copy is made first, and the server must not run
    #[command(
        after_help = "The server does this by itself for an older file. With more than 16 MiB the copy is verified, and older samples come along, after the stop: by the server, or, where that is an older one, by the same command once more beside it.\n\nExample, before an older program takes over: r3mes-edge db migrate --to 1"
    )]
    Migrate {
        /// The version [default: this program's]
        #[arg(long, value_name = "VERSION")]
        to: Option<i64>,
        /// Try it, and keep nothing of it
        #[arg(long)]
        dry_run: bool,
    },
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
        Command::Migrate { to, dry_run } => {
            let progress = Progress::start("copying the database and bringing it over", json);
            let done = migrate_database(database, *to, *dry_run).map_err(open_failure)?;
            drop(progress);
            if json {
                let Migrated {
                    from,
                    to,
                    backup,
                    unfinished,
                } = &done;
                println!(
                    "{}",
                    json!({ "from": from, "to": to, "backup": backup, "unfinished": unfinished })
                );
            } else {
                println!("{done}");
            }
            Ok(())
        }
        Command::Import { file } => import::run(settings, json, file).await,
    }
}
