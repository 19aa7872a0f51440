//! Commands for copies of the database: making and checking them, and putting one in the database's place.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use r3mes_edge::store::{
    LedgerReport, back_up, backup_file, prune_backups, restore, verify_backup,
};
use r3mes_edge::{Clock, Config};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::output::answer;
use super::progress::Progress;
use super::requests::ledger_summary;
use super::{Failure, admin_key, checked, client};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Copy the whole database, beside a running server or without one
    ///
    /// Example: r3mes-edge backup create --keep 7
    Create(Create),
    /// Check every page of a copy, and every wallet's ledger
    ///
    /// Example: r3mes-edge backup verify r3mes-edge.db.20261125T120000.000Z.backup
    Verify {
        /// The copy
        file: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Create {
    /// The new file [default: in backup.folder or beside the database, named by the time]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Then delete all copies there but the newest so many
    #[arg(long, value_name = "N", conflicts_with = "to", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

/// A copy, and what it was found to hold.
#[derive(Deserialize, Serialize)]
struct Copied {
    #[serde(rename(deserialize = "path"))]
    file: PathBuf,
    ledger: LedgerReport,
}

pub(super) async fn create(create: Create, config: &Config, json: bool) -> Result<(), Failure> {
    let database = &config.database;
    let copied = if create.to.is_none() && client::server_of(database)?.is_some() {
        // By the server, so that no write waits; in the folder of its own configuration.
        let _shown = Progress::start("the server copies, and checks the copy", json);
        let made = client::call(config, "POST", "/admin/backup", String::new()).await?;
        serde_json::from_str(&made)?
    } else {
        let beside = || backup_file(database, config.backup.folder(), Clock::default().now());
        let file = create.to.unwrap_or_else(beside);
        let _shown = Progress::start("copying the database", json);
        let ledger = back_up(database, &file)?;
        Copied { file, ledger }
    };
    show(&copied, json)?;
    let Some(keep) = create.keep else {
        return Ok(());
    };
    let (folder, now) = (copied.file.parent(), Clock::default().now());
    prune_backups(database, folder, keep.into(), now)
        .map_err(|error| Failure::Failed(format!("old copies were not deleted: {error}")))
}

pub(super) fn verify(file: PathBuf, json: bool) -> Result<(), Failure> {
    let progress = Progress::start("checking every page and every wallet", json);
    let ledger = verify_backup(&file)?;
    drop(progress);
    let errors = ledger.mistakes.len();
    show(&Copied { file, ledger }, json)?;
    checked("the copy", errors)
}

fn show(copied: &Copied, json: bool) -> Result<(), Failure> {
    answer(&serde_json::to_string(copied)?, json, |_| {
        let summary = ledger_summary(&copied.ledger);
        Ok(format!("{}: {summary}", copied.file.display()))
    })
}

/// Puts a copy in the database's place.
pub(super) async fn run_restore(config: &Config, file: &Path, json: bool) -> Result<(), Failure> {
    let database = &config.database;
    let suffix = format!("{}.replaced", Clock::default().now().compact());
    let progress = Progress::start("copying the database", json);
    let old = restore(file, database, &suffix)?;
    drop(progress);
    let done = json!({ "database": database, "replaced": old });
    answer(&done.to_string(), json, |_| {
        let mut text = format!(
            "{} now holds what {} does",
            database.display(),
            file.display()
        );
        if let Some(old) = old {
            text += &format!(
                "\nwhat was there before is now {}; it belongs together with its -wal",
                old.display()
            );
        }
        Ok(text)
    })?;
    admin_key::report(database).await;
    Ok(())
}
