//! `serve`: opens the database, starts the server and waits for signals. SIGTERM and SIGINT stop it, a second one at once;
//! SIGHUP reloads the configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use r3mes_edge::store::{LockError, OpenError};
use r3mes_edge::{EdgeServer, SqliteStore, StartError};
use tokio::signal::unix::{SignalKind, signal};

use super::notify::Notify;
use super::settings::Settings;
use super::{Failure, admin_key, client, files, logging, memory, reload};

pub(super) async fn serve(settings: Settings) -> Result<(), Failure> {
    let Settings {
        config,
        file,
        global,
        ..
    } = settings;
    logging::start(&config.log);
    if let Some(file) = &file {
        log::info!("configuration from {}", file.display());
    }
    // Before anything else: an early signal stops the server as gracefully as a late one.
    let failed = |error| Failure::Failed(format!("no signal handlers: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // A write beyond the limit of a file's size (ulimit -f) fails like one on a full disk, instead of ending the process.
    let _too_large = signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(failed)?;
    raise_file_limit();
    let opened = tokio::select! {
        opened = open(&config.database) => opened?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let store = Arc::new(opened);
    let database = config.database.clone();
    let first_key = admin_key::ensure(&store, &database).await?;
    let mut running = config.clone();
    let server = EdgeServer::builder(config, Arc::clone(&store) as _).start();
    let server = server.await.map_err(|error| match error {
        StartError::Config(what) => Failure::Usage(what),
        other => Failure::Failed(other.to_string()),
    })?;
    let mut listeners: Vec<_> = server.listeners().iter().collect();
    // Addresses before sockets, which not every client can use.
    listeners.sort_by_key(|listen| listen.address().is_none());
    let addresses: Vec<_> = listeners.into_iter().map(client::local_address).collect();
    let address = addresses.first().cloned().unwrap_or_default();
    store
        .announce(&address)
        .map_err(|error| Failure::Failed(format!("the lock file was not written: {error}")))?;
    let (version, shown) = (env!("CARGO_PKG_VERSION"), database.display());
    let serving = format!("r3mes-edge {version} serves {shown} on {address}");
    log::info!("{serving}");
    for other in addresses.iter().skip(1) {
        log::info!("it also serves on {other}");
    }
    if let Some(file) = &first_key {
        println!("{}", next_steps(&address, file));
    }
    let notify = Notify::from_environment();
    notify.ready(&serving);
    let mut trimming = std::pin::pin!(memory::trim_heaps());
    let mut watching = std::pin::pin!(notify.watch(&store, &serving));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                reload::reload(&global, &mut running, &server).await;
                admin_key::adopt(&store, &database).await;
            }
            () = &mut trimming => break,
            () = &mut watching => break,
        }
    }
    notify.stopping();
    log::info!("stopping: requests in flight are completed; a second signal ends them at once");
    tokio::select! {
        () = server.shutdown() => log::info!("stopped"),
        _ = terminate.recv() => log::warn!("second signal: requests in flight are aborted"),
        _ = interrupt.recv() => log::warn!("second signal: requests in flight are aborted"),
    }
    Ok(())
}

/// Opens the database. A command may hold its lock for a moment, and a server that stops for some seconds.
async fn open(database: &Path) -> Result<SqliteStore, Failure> {
    let deadline = Instant::now() + client::LOCK_TIMEOUT;
    loop {
        match SqliteStore::open(database, true) {
            Err(OpenError::Locked(LockError::Held(_))) if Instant::now() < deadline => {
                tokio::time::sleep(client::LOCK_RETRY).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Every connection is a file descriptor, and the soft limit is usually 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let current = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open files stays at {current:?}: {error}");
    }
}

/// The commands to paste after the first start.
fn next_steps(address: &str, key_file: &Path) -> String {
    let key_file = files::quoted(key_file);
    let (curl, address) = match client::socket_path(address) {
        Some(socket) => (
            format!("curl --unix-socket {}", files::quoted(socket)),
            "http://localhost",
        ),
        None => ("curl".to_owned(), address),
    };
    format!(
        r#"
The first admin key is in {key_file}; only you can read it. Paste these lines into another terminal in this folder:

  EDGE={address} ADMIN=$(cat {key_file}) WALLET=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

  {curl} -s $EDGE/users -H "X-API-Key: $ADMIN" -d '{{"wallet_address":"'$WALLET'"}}'
  {curl} -s $EDGE/users/$WALLET/credits -H "X-API-Key: $ADMIN" -d '{{"amount":100,"reason":"welcome"}}'
  KEY=$({curl} -s $EDGE/api/keys -H "X-API-Key: $ADMIN" -d '{{"wallet_address":"'$WALLET'","scopes":["chat","read","miner"]}}' | grep -o 'r3mes_[0-9A-Za-z]\{{49\}}')
  {curl} -s $EDGE/miner/stats -H "X-API-Key: $KEY" -d '{{"hashrate":42.5,"gpu_temperature":67}}'
  {curl} -s $EDGE/miner/stats/$WALLET
  {curl} -s $EDGE/users/$WALLET/ledger -H "X-API-Key: $KEY"
  {curl} -s $EDGE/health

With an inference server there, this costs one credit:

  {curl} -sN $EDGE/chat -H "X-API-Key: $KEY" -d '{{"message":"Hello"}}'
"#
    )
}
