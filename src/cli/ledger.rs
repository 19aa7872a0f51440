use clap::Subcommand;
use r3mes_edge::Repository;
use serde_json::Value;

use super::Failure;
use super::access::{Access, PATIENCE, ask_patiently, store_failure};
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check every wallet: balance = sum of its entries, every reservation with at most one end
    #[command(after_help = "Example: r3mes-edge ledger verify --database r3mes-edge.db")]
    Verify,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let Command::Verify = command;
    let report: Value = match Access::open(&settings.config.database).await? {
        Access::Server { address, database } => {
            ask_patiently(
                &address,
                &database,
                "GET",
                "/admin/ledger/verify",
                None,
                PATIENCE,
            )
            .await?
        }
        Access::File(store) => {
            let report = store.verify_ledger().await.map_err(store_failure)?;
            serde_json::to_value(report).map_err(|error| Failure::Failed(error.to_string()))?
        }
    };
    let mistakes: Vec<&str> = report["mistakes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if json {
        println!("{report}");
    } else {
        println!(
            "{} wallets, {} entries, {} open reservations",
            report["wallets"], report["entries"], report["open_reservations"]
        );
        for mistake in &mistakes {
            println!("{mistake}");
        }
    }
    match mistakes.len() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "the ledger does not add up in {n} places"
        ))),
    }
}
