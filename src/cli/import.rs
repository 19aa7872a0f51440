//! `db import`: reads a database of the R3MES backend into ours. The report lists what was changed or refused, then counts.

use std::path::Path;

use r3mes_edge::Clock;
use r3mes_edge::import::{ImportReport, R3mesDatabase};
use serde_json::{Map, Value, json};

use super::Failure;
use super::access::{Access, open_failure, store_failure};
use super::settings::Settings;

/// The end of `--help`.
pub(super) const HELP: &str = "\
Neither server may run: stop the backend, and r3mes-edge, beside whose server this exits with 4.

Accounts, balances and API keys are imported in one transaction, all or nothing; an invalid row is
refused and the others are imported. The report lists every row that was changed or refused with
its table, id, field and reason, then the counts of each table. A balance becomes the ledger entry
\"opening\"; with more than 6 decimal places it is rounded half to even. A balance that is missing or
negative becomes 0; one that is no number, infinite or more than 1,000,000,000 refuses its row.
Reservations are skipped, and the pending ones counted: the backend subtracts their credits from a
balance when it confirms them and not before. A second import adds what is new.

Exit codes: 0 all rows are imported; 1 some rows were refused, or nothing was imported.

Example: r3mes-edge db import r3mes.db";

pub(super) async fn run(settings: &Settings, json: bool, file: &Path) -> Result<(), Failure> {
    let store = match Access::open(&settings.config.database).await? {
        Access::File(store) => store,
        Access::Server { address, .. } => {
            let text = format!("the server at {address} uses the database; stop it first");
            return Err(Failure::Conflict(text));
        }
    };
    let source = R3mesDatabase::open(file).map_err(open_failure)?;
    let report = source.import_into(&store, Clock::default().now());
    let report = report.await.map_err(store_failure)?;
    print(&report, json);
    let counts = report.tables.iter().filter_map(|(_, counts)| *counts);
    match counts.map(|counts| counts.refused).sum::<u64>() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} rows were refused; all others are imported"
        ))),
    }
}

fn print(report: &ImportReport, json: bool) {
    if json {
        let tables = report.tables.iter();
        let tables: Map<String, Value> = tables
            .map(|(table, counts)| ((*table).to_owned(), json!(counts)))
            .collect();
        let report = json!({
            "rows": report.notes,
            "tables": tables,
            "accounts_made": report.accounts_made,
            "pending_reservations": report.pending_reservations,
        });
        return println!("{report}");
    }
    for note in &report.notes {
        println!("{note}");
    }
    for (table, counts) in &report.tables {
        match counts {
            None => println!("{table}: no such table"),
            Some(counts) => println!(
                "{table}: {} imported, {} changed, {} refused, {} existing, {} skipped",
                counts.imported, counts.changed, counts.refused, counts.existing, counts.skipped
            ),
        }
    }
    if report.pending_reservations > 0 {
        println!(
            "{} pending reservations skipped: their credits are part of the balances",
            report.pending_reservations
        );
    }
    println!(
        "{} accounts created for wallets without a row in users",
        report.accounts_made
    );
}
