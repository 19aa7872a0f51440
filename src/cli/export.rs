//! The ledger as a table or as JSON, written as it is read: from the file itself, so that its size does not matter.

use clap::{Args, Subcommand, ValueEnum};
use r3mes_edge::Config;
use r3mes_edge::model::Wallet;
use r3mes_edge::store::LedgerEntry;
use r3mes_edge::{Repository, SqliteStore};

use super::Failure;
use super::output::{List, progress};

#[derive(Subcommand)]
pub(super) enum Ledger {
    /// Check that each entry's balance is the one before it plus the amount, and the newest the wallet's
    ///
    /// Example: r3mes-edge ledger verify --database r3mes-edge.db
    Verify {
        /// Check all of it, not only what is new since the last check without an error
        #[arg(long)]
        full: bool,
    },
    /// Print all ledger entries, oldest first
    ///
    /// It reads the file itself, beside a running server too, page by page until it reaches the newest entry. Oldest first: a
    /// wallet's amounts up to an entry add up to its balance.
    ///
    /// CSV is RFC 4180, in UTF-8. A text that a spreadsheet would take for a formula (it begins with = + - or @) has a '
    /// before it; JSON holds every text as it is.
    ///
    /// Example: r3mes-edge ledger export --wallet remes1… > ledger.csv
    Export(Export),
}

#[derive(Args)]
pub(super) struct Export {
    /// Only entries of this wallet
    #[arg(long, value_parser = Wallet::parse)]
    wallet: Option<Wallet>,
    /// The format [default: csv, json with --json]
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table with a header line
    Csv,
    /// A JSON array
    Json,
}

pub(super) async fn run(config: &Config, options: &Export, json: bool) -> Result<(), Failure> {
    let json = match options.format {
        Some(Format::Csv) if json => {
            return Err(Failure::Usage("--json is not --format csv".to_owned()));
        }
        format => json || format == Some(Format::Json),
    };
    let store = SqliteStore::open_read_only(&config.database)?;
    let next_page = |after| store.export_ledger(options.wallet, after, PAGE);
    let mut page = next_page(None).await?;
    progress("reading the ledger");
    let mut list = List::begin(json, "[");
    if !json {
        println!("{}\r", LedgerEntry::CSV_HEADER);
    }
    while let Some(last) = page.last() {
        for entry in &page {
            let record = || entry.entry.csv_record(entry.wallet_address);
            list.add(entry, || Ok(format!("{}\r", record())))?;
        }
        // A page that is not full reached the newest entry.
        page = match page.len() {
            PAGE => next_page(Some(last.entry.id)).await?,
            _ => Vec::new(),
        };
    }
    if json {
        println!("]");
    }
    Ok(())
}

/// Entries read at a time.
const PAGE: usize = 1000;
