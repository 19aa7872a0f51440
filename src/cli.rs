//! What stands on the command line, and how it ends.

mod access;
mod admin_key;
mod backup;
mod breaker;
mod db;
mod doctor;
mod import;
mod keys;
mod ledger;
mod logging;
mod memory;
mod metrics;
mod progress;
mod serve;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "r3mes-edge", version, about, long_about = None)]
#[command(after_help = "Without a command it serves. Example: r3mes-edge --listen 127.0.0.1:8000")]
struct Cli {
    #[command(flatten)]
    places: Places,
    /// Print one JSON value on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where things are.
#[derive(Args, Clone)]
struct Places {
    /// The configuration file [default: r3mes-edge.toml here, then /etc/r3mes-edge/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8000]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The database file [default: r3mes-edge.db here]
    #[arg(long, global = true, value_name = "FILE")]
    database: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop (the default)
    Serve,
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Check that every balance is the sum of its ledger
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Copy the database, beside a running server too; check a copy
    #[command(subcommand)]
    Backup(backup::Command),
    /// Put a copy in the database's place; the server must not run
    #[command(after_help = "Example: r3mes-edge restore r3mes-edge.db.20261125T120000.000Z.backup")]
    Restore {
        /// The copy, which is verified first
        file: PathBuf,
    },
    /// Check the database, bring it to another version, take over an R3MES backend's
    #[command(subcommand)]
    Db(db::Command),
    /// Look at files, disk, clock, upstreams and the server, and say what to do where something is odd
    #[command(
        after_help = "Example: r3mes-edge doctor --json\n\nIt changes nothing, and ends with 1 where there is a problem."
    )]
    Doctor,
    /// Print what Prometheus and Grafana need to watch this version
    #[command(subcommand)]
    Metrics(metrics::Command),
    /// Look at the breakers before the upstreams, open one by hand, reset it
    #[command(subcommand)]
    Breaker(breaker::Command),
}

/// Why a command failed, by its exit code.
#[derive(Debug)]
enum Failure {
    /// It did not work.
    Failed(String),
    /// Wrong arguments or configuration.
    Usage(String),
    /// What it is about is not there.
    NotFound(String),
    /// What is there already does not allow it.
    Conflict(String),
    /// The storage or the server cannot be used now.
    Unavailable(String),
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Conflict(_) => 4,
            Self::Unavailable(_) => 5,
        }
    }

    fn text(&self) -> &str {
        let (Self::Failed(text)
        | Self::Usage(text)
        | Self::NotFound(text)
        | Self::Conflict(text)
        | Self::Unavailable(text)) = self;
        text
    }
}

/// Runs what the arguments say.
pub(crate) fn run() -> ExitCode {
    // clap ends the process itself, with 2, where the arguments make no sense.
    let Cli {
        places,
        json,
        command,
    } = Cli::parse();
    let done = settings::load(&places).and_then(|settings| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Failure::Failed(format!("no threads to run on: {error}")))?;
        runtime.block_on(async {
            match command.unwrap_or(Command::Serve) {
                Command::Serve => serve::serve(settings).await,
                Command::Keys(command) => keys::run(command, &settings, json).await,
                Command::Ledger(command) => ledger::run(command, &settings, json).await,
                Command::Backup(command) => backup::run(&command, &settings, json).await,
                Command::Restore { file } => backup::run_restore(&settings, &file, json),
                Command::Db(command) => db::run(&command, &settings, json).await,
                Command::Doctor => doctor::run(&settings, json).await,
                Command::Metrics(command) => metrics::run(&command, json),
                Command::Breaker(command) => breaker::run(command, &settings, json).await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("r3mes-edge: {}", failure.text());
            ExitCode::from(failure.code())
        }
    }
}
