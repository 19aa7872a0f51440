use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use r3mes_edge::Clock;
use r3mes_edge::store::{LedgerReport, back_up, restore, verify_backup};
use serde_json::json;

use super::Failure;
use super::access::open_failure;
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
    /// The new file [default: beside the database, named by the time]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Then delete all copies beside the database but the newest so many
    #[arg(long, value_name = "N", conflicts_with = "to", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

/// What a copy's name ends with.
const EXTENSION: &str = "backup";

pub(super) fn run(command: &Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    match command {
        Command::Create(create) => {
            let named = || database.with_added_extension(format!("{}.{EXTENSION}", stamp()));
            let to = create.to.clone().unwrap_or_else(named);
            let report = back_up(database, &to).map_err(open_failure)?;
            show(&to, &report, json);
            match create.keep {
                Some(keep) => thin_out(database, keep.into()),
                None => Ok(()),
            }
        }
        Command::Verify { file } => {
            let report = verify_backup(file).map_err(open_failure)?;
            show(file, &report, json);
            match report.mistakes.len() {
                0 => Ok(()),
                n => Err(Failure::Failed(format!("the copy is wrong in {n} places"))),
            }
        }
    }
}

/// Puts a copy in the database's place.
pub(super) fn run_restore(settings: &Settings, file: &Path, json: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    let kept = format!("{}.replaced", stamp());
    let old = restore(file, database, &kept).map_err(open_failure)?;
    if json {
        println!("{}", json!({ "database": database, "replaced": old }));
    } else {
        println!(
            "{} is now what {} holds",
            database.display(),
            file.display()
        );
        if let Some(old) = old {
            println!("what was there before is kept as {}", old.display());
        }
    }
    Ok(())
}

fn stamp() -> String {
    Clock::default().now().compact()
}

fn show(file: &Path, report: &LedgerReport, json: bool) {
    if json {
        println!("{}", json!({ "file": file, "ledger": report }));
        return;
    }
    println!(
        "{}: {} wallets, {} entries, {} open reservations",
        file.display(),
        report.wallets,
        report.entries,
        report.open_reservations
    );
    for mistake in &report.mistakes {
        println!("{mistake}");
    }
}

/// Deletes the copies beside the database but the newest `keep`; only files whose names this program gave.
fn thin_out(database: &Path, keep: usize) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::Failed(format!("old copies were not deleted: {error}"));
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let ours = |file: &PathBuf| {
        let text = file.file_name().unwrap_or_default().to_string_lossy();
        let stamp = text
            .strip_prefix(&*name)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(EXTENSION))
            .and_then(|rest| rest.strip_suffix('.'));
        stamp.is_some_and(|stamp| {
            stamp.len() == 20
                && stamp
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b"T.Z".contains(&b))
        })
    };
    let folder = database
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    let mut copies: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(ours)
        .collect();
    // Their names rise with the time.
    copies.sort();
    for old in copies.iter().rev().skip(keep) {
        std::fs::remove_file(old).map_err(failed)?;
    }
    Ok(())
}
