//! The command line: its grammar, which clap parses, and how a command ends. With `main.rs` the only code that prints,
//! exits, reads the environment or handles signals.

/// Not the standard one, which panics where the reader of stdout is gone.
macro_rules! println {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

mod address;
mod admin_key;
mod backup;
mod chat;
mod client;
mod config;
mod db;
mod demo;
mod doctor;
mod export;
mod failure;
mod files;
mod import;
mod init;
mod keys;
mod logging;
mod memory;
mod notify;
mod output;
mod reload;
mod remote;
mod requests;
mod serve;
mod settings;
mod statics;
mod status;
#[cfg(test)]
mod tests;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use r3mes_edge::config::Listen;
use rustix::fs::Access;

use self::client::Client;
use self::failure::{Failure, failed};
use self::settings::Settings;

#[derive(Parser)]
#[command(name = "r3mes-edge", version, about, long_about = None)]
#[command(after_help = "Without a command it serves. Example: r3mes-edge --listen 127.0.0.1:8000")]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    /// Print one JSON object on stdout, also for an error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What every command takes.
#[derive(Args, Clone)]
struct GlobalArgs {
    /// The configuration file [default: r3mes-edge.toml here, then /etc/r3mes-edge/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on; may be repeated [default: 127.0.0.1:8000]
    #[arg(long, global = true, value_name = "ADDR:PORT|unix:PATH")]
    listen: Vec<Listen>,
    /// The database file [default: r3mes-edge.db here]
    #[arg(long, global = true, value_name = "FILE")]
    database: Option<PathBuf>,
    /// The file with the admin key, by which commands ask a running server [default: <database>.admin-key]
    #[arg(long, global = true, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// A server elsewhere that a command asks, with --admin-key-file; it may be unix:PATH [default: that of the database]
    #[arg(long, global = true, value_name = "https://HOST", value_parser = remote::parse_url)]
    url: Option<String>,
    /// Certificates (PEM) of the authorities that --url trusts [default: those of browsers]
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Send the key to an http address of another machine, over a private network only
    #[arg(long, global = true)]
    plain_http: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT (the default)
    ///
    /// SIGHUP reloads the configuration: rates, alerts and the log level change without a restart.
    ///
    /// Example: r3mes-edge serve --listen 127.0.0.1:8000
    Serve,
    /// Run the server with a made-up model, chain and miner and a temporary database, to see everything work
    ///
    /// Example: r3mes-edge demo --listen 127.0.0.1:0
    Demo(demo::DemoArgs),
    /// Create a configuration to edit, the database and the first admin key; existing files are not changed
    ///
    /// Example: r3mes-edge init --config /etc/r3mes-edge/config.toml --database /var/lib/r3mes-edge/edge.db
    Init(init::InitArgs),
    /// Show the state of the running server: version, uptime, upstreams, miner, alerts
    ///
    /// It exits with 0 whatever the state is, and with 5 if no server answers; `doctor` looks for what is wrong.
    ///
    /// Example: r3mes-edge status --url https://edge.example --admin-key-file edge.key
    Status,
    /// List the alerts that fire, and those that ended lately
    ///
    /// Example: r3mes-edge alerts
    Alerts,
    /// Send one paid message to a model, and print its answer as it comes
    ///
    /// A wallet pays: that of a key in --key-file or in the variable R3MES_EDGE_KEY; without such a key the admin key
    /// charges the wallet that --wallet names. What was charged is on stderr at the end.
    ///
    /// Example: r3mes-edge chat 'Which port has HTTPS?' --wallet remes1…
    Chat(chat::Chat),
    /// Check and print the configuration
    ///
    /// Example: r3mes-edge config print --origin
    #[command(subcommand)]
    Config(config::Command),
    /// Create, list, rotate and revoke API keys
    ///
    /// Example: r3mes-edge keys list
    #[command(subcommand)]
    Keys(keys::Command),
    /// Create, show, list and block accounts
    ///
    /// Example: r3mes-edge users list
    #[command(subcommand)]
    Users(requests::Users),
    /// Add credits to a wallet or deduct them
    ///
    /// Example: r3mes-edge credits grant remes1… 100 --reason welcome
    #[command(subcommand)]
    Credits(requests::Movements),
    /// Show what was used and charged, by day, key or model
    ///
    /// Lost requests are those that were not paid, as their client left; cached tokens are those of prompts that came from a
    /// cache. A request without a key has none.
    ///
    /// The usage is known by whole UTC days: those that the period touches, at most 366.
    ///
    /// Example: r3mes-edge usage --by model --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z
    Usage(requests::Used),
    /// Verify and export the ledger
    ///
    /// Example: r3mes-edge ledger verify
    #[command(subcommand)]
    Ledger(export::Ledger),
    /// List who made which administrative change
    ///
    /// Example: r3mes-edge audit list
    #[command(subcommand)]
    Audit(requests::Audit),
    /// Create, list, verify and restore backups, also while a server runs
    ///
    /// Example: r3mes-edge backup create
    #[command(subcommand)]
    Backup(backup::Command),
    /// Replace the database with a backup, as `backup restore` does; the server must not run
    ///
    /// Example: r3mes-edge restore r3mes-edge.db.20261125T120000.000Z.backup
    Restore {
        /// The backup, which is verified first
        file: PathBuf,
    },
    /// Check the database, or import that of an R3MES backend
    ///
    /// Example: r3mes-edge db check
    #[command(subcommand)]
    Db(db::Command),
    /// Check file modes, disk space, listeners, upstreams, the server and its admin key, with advice
    ///
    /// It changes nothing, and exits with 1 if there is a problem.
    ///
    /// Example: r3mes-edge doctor --json
    Doctor,
    /// Print the alerting rules for Prometheus and the dashboard for Grafana
    ///
    /// Example: r3mes-edge metrics rules > r3mes-edge.rules.yml
    #[command(subcommand)]
    Metrics(statics::Metrics),
    /// List, open and reset the circuit breakers of upstreams
    ///
    /// Example: r3mes-edge breaker list
    #[command(subcommand)]
    Breaker(requests::Breakers),
    /// Print the completion script for a shell
    ///
    /// Example, for bash: r3mes-edge completions bash > ~/.local/share/bash-completion/completions/r3mes-edge
    ///
    /// zsh reads a file _r3mes-edge in a folder of its fpath, fish ~/.config/fish/completions/r3mes-edge.fish.
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version and the build, for a bug report
    ///
    /// Example: r3mes-edge version --json
    Version,
}

impl Command {
    /// Whether it is a request to a server, which may be elsewhere; the others work on files of this machine.
    const fn asks_server(&self) -> bool {
        match self {
            Self::Status | Self::Alerts | Self::Chat(_) | Self::Keys(_) | Self::Users(_) => true,
            Self::Credits(_) | Self::Usage(_) | Self::Audit(_) | Self::Breaker(_) => true,
            Self::Ledger(command) => matches!(command, export::Ledger::Verify { .. }),
            Self::Backup(backup::Command::Create(_) | backup::Command::List) => true,
            Self::Db(command) => matches!(command, db::Command::AcceptClock),
            _ => false,
        }
    }
}

type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// The result of a check that found `n` errors.
fn checked(what: &str, errors: usize) -> Result {
    match errors {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "integrity check of {what} found {n} errors; restore a good backup"
        ))),
    }
}

/// An argument that becomes one segment of a request's path.
fn path_segment(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match !text.is_empty() && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("may hold letters, digits, dots, dashes and underscores"),
    }
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|wrong| {
        // `--help` and `--version` are no errors.
        if wrong.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            let text = wrong.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            output::failure(2, line.trim_start_matches("error: "));
        }
        // It ends the process, with 2 where the arguments are wrong.
        wrong.exit()
    });
    if let Some(file) = &cli.global.admin_key_file {
        admin_key::name(file.clone());
    }
    let json = cli.json;
    // What a server prints at its first start is not why it runs.
    let prints = !matches!(cli.command, None | Some(Command::Serve | Command::Demo(_)));
    // On a machine with many cores the rest is left to the miner.
    let cores = std::thread::available_parallelism();
    let workers = cores.map_or(1, NonZero::get).min(8);
    memory::limit_heaps(workers + 1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        // For scans, at most one per read connection, copies and name resolution.
        .max_blocking_threads(64)
        .enable_all()
        .build();
    let done = runtime.map_err(failed).and_then(|runtime| {
        let done = runtime.block_on(execute(cli));
        // Dropping it would wait for blocked threads, such as the system's resolver while no name server answers.
        runtime.shutdown_background();
        done
    });
    // Before the output below.
    logging::flush();
    let all_written = |()| {
        if prints {
            output::all_written()
        } else {
            Ok(())
        }
    };
    match done.and_then(all_written) {
        Ok(()) | Err(Failure::ReaderClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                output::failure(failure.code(), &failure);
            }
            output::note(format_args!("r3mes-edge: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

async fn execute(cli: Cli) -> Result {
    let (global, json) = (&cli.global, cli.json);
    let settings = || Ok::<_, Failure>(settings::load(global)?.resolve());
    // For commands that create no database.
    let existing = || settings().and_then(with_database);
    let client = || Client::new(global, json, || existing().map(|settings| settings.config));
    let command = cli.command.unwrap_or(Command::Serve);
    if global.url.is_some() && !command.asks_server() {
        let what = "--url is for commands that ask a server; this one works on files: run it on the server's machine";
        return Err(Failure::Usage(what.to_owned()));
    }
    match command {
        Command::Serve => serve::serve(settings()?, global, json).await,
        Command::Demo(args) => demo::run(args, global, json).await,
        // These two load the configuration themselves: there is none yet, or it is wrong.
        Command::Init(args) => init::run(&args, global, json).await,
        Command::Config(command) => config::run(&command, global, json),
        Command::Status => status::status(&client()?).await,
        Command::Alerts => status::alerts(&client()?).await,
        Command::Chat(chat) => chat::run(&chat, client()?).await,
        Command::Keys(command) => keys::run(command, &client()?).await,
        Command::Users(command) => requests::users(command, &client()?).await,
        Command::Credits(command) => requests::credits(command, &client()?).await,
        Command::Usage(used) => requests::usage(&used, &client()?).await,
        Command::Ledger(export::Ledger::Verify { full }) => {
            requests::verify_ledger(&client()?, full).await
        }
        Command::Ledger(export::Ledger::Export(options)) => {
            export::run(&existing()?.config, &options, json).await
        }
        Command::Audit(requests::Audit::List) => requests::audit(&client()?).await,
        Command::Backup(backup::Command::Create(create)) => {
            backup::create(create, &client()?).await
        }
        Command::Backup(backup::Command::List) => backup::list(&client()?).await,
        Command::Backup(backup::Command::Verify { file }) => backup::verify(file, json),
        Command::Backup(backup::Command::Restore { file }) | Command::Restore { file } => {
            backup::run_restore(&settings()?.config, &file, json).await
        }
        Command::Db(db::Command::Check) => db::check(&existing()?.config, json),
        Command::Db(db::Command::AcceptClock) => db::accept_clock(&client()?).await,
        Command::Db(db::Command::Import { file }) => import::run(&existing()?, json, &file).await,
        Command::Doctor => doctor::run(&settings()?, json).await,
        Command::Breaker(command) => requests::breakers(command, &client()?).await,
        Command::Metrics(command) => statics::metrics(&command, json),
        Command::Completions { shell } => statics::completions(shell, Cli::command(), json),
        Command::Version => statics::version(json),
    }
}

/// Refuses a database that does not exist.
fn with_database(settings: Settings) -> Result<Settings> {
    let database = &settings.config.database;
    let origin = settings.origins.of("database");
    let shown = files::absolute(database);
    let shown = shown.display();
    match database.try_exists() {
        Ok(true) => {
            files::check_access(database, Access::READ_OK).map_err(Failure::Failed)?;
            Ok(settings)
        }
        Ok(false) => Err(Failure::NotFound(format!(
            "there is no database at {shown} ({origin}); start the server, which creates it, or name another with --database"
        ))),
        Err(error) => Err(Failure::Failed(format!(
            "the database at {shown} ({origin}) cannot be accessed: {error}; run this as its owner or root, or name another with --database"
        ))),
    }
}
