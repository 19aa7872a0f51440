//! What stands on the command line, and how it ends.

/// Not the standard one, which panics where nobody reads any more.
macro_rules! println {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

mod access;
mod admin_key;
mod backup;
mod breaker;
mod client;
mod completions;
mod config;
mod credits;
mod db;
mod doctor;
mod export;
mod files;
mod import;
mod init;
mod keys;
mod ledger;
mod logging;
mod memory;
mod metrics;
mod notify;
mod output;
mod progress;
mod reload;
mod serve;
mod settings;
mod users;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use r3mes_edge::config::Listen;

#[derive(Parser)]
#[command(name = "r3mes-edge", version, about, long_about = None)]
#[command(after_help = "Without a command it serves. Example: r3mes-edge --listen 127.0.0.1:8000")]
struct Cli {
    #[command(flatten)]
    places: GlobalArgs,
    /// Print one JSON value on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where things are.
#[derive(Args, Clone)]
struct GlobalArgs {
    /// The configuration file [default: r3mes-edge.toml here, then /etc/r3mes-edge/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, also several times [default: 127.0.0.1:8000]
    #[arg(long, global = true, value_name = "ADDR:PORT|unix:PATH")]
    listen: Vec<Listen>,
    /// The database file [default: r3mes-edge.db here]
    #[arg(long, global = true, value_name = "FILE")]
    database: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop (the default)
    #[command(
        after_help = "Example: r3mes-edge serve --listen 127.0.0.1:8000\n\nSIGHUP reads the configuration again: rates, alerts and the log's level change at once."
    )]
    Serve,
    /// Write a configuration to fill in, make the database and the first admin key; nothing is overwritten
    #[command(
        after_help = "Example: r3mes-edge init --config /etc/r3mes-edge/config.toml --database /var/lib/r3mes-edge/edge.db"
    )]
    Init(init::InitArgs),
    /// Check the configuration, print what is in force
    #[command(subcommand, after_help = "Example: r3mes-edge config print --origin")]
    Config(config::Command),
    /// Make, list and revoke API keys
    #[command(subcommand, after_help = "Example: r3mes-edge keys list")]
    Keys(keys::Command),
    /// Make accounts, show and list them
    #[command(subcommand, after_help = "Example: r3mes-edge users list")]
    Users(users::Command),
    /// Give credits to a wallet, take them
    #[command(
        subcommand,
        after_help = "Example: r3mes-edge credits grant remes1… 100 --reason welcome"
    )]
    Credits(credits::Command),
    /// Check that every balance is the sum of its ledger, print it
    #[command(subcommand, after_help = "Example: r3mes-edge ledger verify")]
    Ledger(ledger::Command),
    /// Copy the database, beside a running server too; check a copy
    #[command(subcommand, after_help = "Example: r3mes-edge backup create")]
    Backup(backup::Command),
    /// Put a copy in the database's place; the server must not run
    #[command(after_help = "Example: r3mes-edge restore r3mes-edge.db.20261125T120000.000Z.backup")]
    Restore {
        /// The copy, which is verified first
        file: PathBuf,
    },
    /// Check the database, bring it to another version, take over an R3MES backend's
    #[command(subcommand, after_help = "Example: r3mes-edge db check")]
    Db(db::Command),
    /// Check file modes, disk space, listeners, upstreams, the server and its admin key, with advice
    #[command(
        after_help = "Example: r3mes-edge doctor --json\n\nIt changes nothing, and ends with 1 where there is a problem."
    )]
    Doctor,
    /// Print what Prometheus and Grafana need to watch this version
    #[command(
        subcommand,
        after_help = "Example: r3mes-edge metrics rules > r3mes-edge.rules.yml"
    )]
    Metrics(metrics::Command),
    /// Look at the breakers before the upstreams, open one by hand, reset it
    #[command(subcommand, after_help = "Example: r3mes-edge breaker list")]
    Breaker(breaker::Command),
    /// Print what completes this command line in a shell
    #[command(after_help = completions::HELP)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Say what this program is, for a report of a mistake
    #[command(after_help = version::HELP)]
    Version,
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
    /// Whoever read the answer has seen enough.
    Unread,
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Conflict(_) => 4,
            Self::Unavailable(_) => 5,
            Self::Unread => 0,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text) => Some(text),
            Self::Unread => None,
        }
    }
}

/// Threads that serve, at most: of a machine with a hundred cores the others are the miner's.
const MOST_WORKERS: usize = 8;
/// Threads for what blocks, at most: scans, of which as many run as there are reading connections, copies, look-ups of
/// names.
const MOST_BLOCKING: usize = 64;

fn workers() -> usize {
    let cores = std::thread::available_parallelism();
    cores.map_or(1, std::num::NonZero::get).min(MOST_WORKERS)
}

/// Runs what the arguments say.
pub(crate) fn run() -> ExitCode {
    // clap ends the process itself, with 2, where the arguments make no sense.
    let Cli {
        places,
        json,
        command,
    } = Cli::parse();
    memory::limit_heaps(workers() + 1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(MOST_BLOCKING)
        .enable_all()
        .build();
    let done = runtime
        .map_err(|error| Failure::Failed(format!("no threads to run on: {error}")))
        .and_then(|runtime| {
            let done = runtime.block_on(execute(command.unwrap_or(Command::Serve), &places, json));
            // Dropped, it would wait for what blocks a thread: the system's resolver, say, while no name server answers.
            runtime.shutdown_background();
            done
        });
    // What is said below comes after what was logged.
    logging::flush();
    match done.and_then(|()| output::all_written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                eprintln!("r3mes-edge: {text}");
            }
            ExitCode::from(failure.code())
        }
    }
}

async fn execute(command: Command, places: &GlobalArgs, json: bool) -> Result<(), Failure> {
    let settings = || {
        let mut settings = settings::load(places).map_err(Failure::from)?;
        settings.resolve();
        Ok::<_, Failure>(settings)
    };
    // For what makes no database.
    let there = || {
        let settings = settings()?;
        access::present(&settings, places.database.is_some())?;
        Ok::<_, Failure>(settings)
    };
    match command {
        Command::Serve => serve::serve(settings()?).await,
        // These look at the configuration themselves: of one there is not yet, and of one that is wrong.
        Command::Init(given) => init::run(&given, places, json).await,
        Command::Config(command) => config::run(&command, places, json),
        Command::Keys(command) => keys::run(command, &there()?, json).await,
        Command::Users(command) => users::run(command, &there()?, json).await,
        Command::Credits(command) => credits::run(command, &there()?, json).await,
        Command::Ledger(command) => ledger::run(command, &there()?, json).await,
        Command::Backup(backup::Command::Create(create)) => {
            backup::create(&create, &there()?, json).await
        }
        Command::Backup(backup::Command::Verify { file }) => backup::verify(&file, json),
        Command::Restore { file } => backup::run_restore(&settings()?, &file, json),
        Command::Db(command) => db::run(&command, &there()?, json).await,
        Command::Doctor => doctor::run(&settings()?, json).await,
        Command::Metrics(command) => metrics::run(&command, json),
        Command::Breaker(command) => breaker::run(command, &there()?, json).await,
        Command::Completions { shell } => {
            completions::run(shell, Cli::command(), json);
            Ok(())
        }
        Command::Version => {
            version::run(json);
            Ok(())
        }
    }
}
