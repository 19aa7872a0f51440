use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use r3mes_edge::Clock;
use r3mes_edge::store::{
    LedgerReport, back_up, backup_file, prune_backups, restore, verify_backup,
};
use serde_json::{Value, json};

use super::Failure;
use super::access::{PATIENCE, ask_patiently, open_failure, running};
use super::progress::Progress;
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Copy the whole database, beside a running server or without one
    #[command(after_help = "Example: r3mes-edge backup create --keep 7")]
    Create(Create),
    /// Check every page of a copy, and every wallet's ledger
    #[command(
        after_help = "Example: r3mes-edge backup verify r3mes-edge.db.20261125T120000.000Z.backup"
    )]
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

pub(super) async fn create(
    create: &Create,
    settings: &Settings,
    json: bool,
) -> Result<(), Failure> {
    let database = &settings.config.database;
    let (file, ledger) = match &create.to {
        Some(to) => copy_here(database, to, json)?,
        None => copy(settings, json).await?,
    };
    show(&file, &ledger, json);
    let Some(keep) = create.keep else {
        return Ok(());
    };
    prune_backups(database, file.parent(), keep.into(), Clock::default().now())
        .map_err(|error| Failure::Failed(format!("old copies were not deleted: {error}")))
}

pub(super) fn verify(file: &Path, json: bool) -> Result<(), Failure> {
    let progress = Progress::start("checking every page and every wallet", json);
    let report = verify_backup(file).map_err(open_failure)?;
    drop(progress);
    let (file, ledger) = told(file, &report)?;
    show(&file, &ledger, json);
    match report.mistakes.len() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "integrity check of the copy found {n} errors"
        ))),
    }
}

/// Puts a copy in the database's place.
pub(super) fn run_restore(settings: &Settings, file: &Path, json: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    let kept = format!("{}.replaced", Clock::default().now().compact());
    let progress = Progress::start("copying the database", json);
    let old = restore(file, database, &kept).map_err(open_failure)?;
    drop(progress);
    if json {
        println!("{}", json!({ "database": database, "replaced": old }));
    } else {
        println!(
            "{} is now what {} holds",
            database.display(),
            file.display()
        );
        if let Some(old) = old {
            println!(
                "what was there before is kept as {}; it belongs together with its -wal",
                old.display()
            );
        }
    }
    super::admin_key::report(database);
    Ok(())
}

/// Makes a copy in the folder for copies: by the running server, so that no write waits; else here.
async fn copy(settings: &Settings, json: bool) -> Result<(PathBuf, Value), Failure> {
    let (database, folder) = (&settings.config.database, settings.config.backup.folder());
    match running(database)? {
        Some(address) => {
            let _shown = Progress::start("the server copies, and checks the copy", json);
            let route = ("POST", "/admin/backup");
            let made = ask_patiently(&address, database, route.0, route.1, None, PATIENCE).await?;
            // Its folder is the server's to choose, whose configuration may be another.
            let path = made["path"].as_str().unwrap_or_default();
            Ok((path.into(), made["ledger"].clone()))
        }
        None => {
            let to = backup_file(database, folder, Clock::default().now());
            copy_here(database, &to, json)
        }
    }
}

fn copy_here(database: &Path, to: &Path, json: bool) -> Result<(PathBuf, Value), Failure> {
    let _shown = Progress::start("copying the database", json);
    told(to, &back_up(database, to).map_err(open_failure)?)
}

fn told(file: &Path, report: &LedgerReport) -> Result<(PathBuf, Value), Failure> {
    let ledger = serde_json::to_value(report);
    let ledger = ledger.map_err(|error| Failure::Failed(error.to_string()))?;
    Ok((file.to_owned(), ledger))
}

fn show(file: &Path, ledger: &Value, json: bool) {
    if json {
        println!("{}", json!({ "file": file, "ledger": ledger }));
        return;
    }
    println!(
        "{}: {} wallets, {} entries, {} open reservations",
        file.display(),
        ledger["wallets"],
        ledger["entries"],
        ledger["open_reservations"]
    );
    for mistake in ledger["mistakes"].as_array().into_iter().flatten() {
        println!("{}", mistake.as_str().unwrap_or_default());
    }
}
