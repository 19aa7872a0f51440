//! `db import`: imports a database of the R3MES backend, and prints what was changed or refused, and the counts.

use std::path::Path;

use r3mes_edge::Clock;
use r3mes_edge::store::{Actor, ImportReport};
use serde_json::json;

use super::Failure;
use super::client;
use super::settings::Settings;

/// The end of `--help`.
pub(super) const HELP: &str = "\
Neither server may run: stop the backend, and r3mes-edge, beside whose server this exits with 4.
Accounts, balances and API keys are imported in one transaction, all or nothing; invalid rows are
refused and listed with table, id, field and reason. Reservations are skipped: the backend lowers a
balance when it confirms them and not before. A second import adds what is new.

Exit codes: 0 all rows are imported; 1 some rows were refused, or nothing was imported.

Example: r3mes-edge db import r3mes.db";

pub(super) async fn run(settings: &Settings, json: bool, file: &Path) -> Result<(), Failure> {
    let store = client::open(&settings.config, false).await?;
    let report = store
        .import_r3mes(file, Actor::local(Clock::default().now()))
        .await?;
    match json {
        true => println!("{}", json!(report)),
        false => print(&report),
    }
    let tables = report.tables.values().flatten();
    match tables.map(|counts| counts.refused).sum::<u64>() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} rows were refused; all others are imported"
        ))),
    }
}

fn print(report: &ImportReport) {
    for note in &report.notes {
        let mut text = format!("{} {}", note.table, note.row);
        if let Some(wallet) = note.wallet_address {
            text += &format!(" {wallet}");
        }
        text += &format!(": {}: {}: {}", note.outcome, note.field, note.reason);
        if let Some(new) = &note.new {
            let old = note.old.as_deref().unwrap_or("it");
            text += &format!(": {old} becomes {new}");
        }
        println!("{text}");
    }
    for (table, counts) in &report.tables {
        match counts {
            None => println!("{table}: no such table"),
            Some(counts) => println!(
                "{table}: {} imported, {} changed, {} refused, {} existing",
                counts.imported, counts.changed, counts.refused, counts.existing
            ),
        }
    }
    println!(
        "{} accounts created for wallets without a row in users",
        report.accounts_made
    );
}
