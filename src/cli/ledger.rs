use clap::Subcommand;
use r3mes_edge::model::Wallet;
use serde_json::Value;

use super::access::{Access, PATIENCE, ask_patiently, open_failure};
use super::progress::Progress;
use super::settings::Settings;
use super::{Failure, export};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check every wallet: balance = sum of its entries, every reservation with at most one end
    #[command(after_help = "Example: r3mes-edge ledger verify --database r3mes-edge.db")]
    Verify,
    /// Print every movement of credits, oldest first
    #[command(after_help = export::HELP)]
    Export {
        /// Only this wallet's
        #[arg(long, value_parser = Wallet::parse)]
        wallet: Option<Wallet>,
        /// How [default: csv, json with --json]
        #[arg(long)]
        format: Option<export::Format>,
    },
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    match command {
        Command::Verify => verify(settings, json).await,
        Command::Export { wallet, format } => {
            export::run(&settings.config.database, wallet, format, json)
        }
    }
}

async fn verify(settings: &Settings, json: bool) -> Result<(), Failure> {
    let what = "checking every wallet";
    let report: Value = match Access::reading(&settings.config.database)? {
        Access::Server { address, database } => {
            let _shown = Progress::start(what, json);
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
        Access::File(mut reader) => {
            let progress = Progress::start(what, json);
            let report = reader.verify_ledger(|done| progress.reach(done));
            let report = report.map_err(open_failure)?;
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
