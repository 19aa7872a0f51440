//! `serve`: opens the database, starts the server and waits for signals. SIGTERM and SIGINT stop it, a second one at once;
//! SIGHUP reloads the configuration.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use r3mes_edge::{EdgeServer, upstream};
use rustix::fs::Access;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::address::{local_addresses, open_line, page, socket_path};
use super::settings::Settings;
use super::{
    Failure, GlobalArgs, Result, admin_key, client, files, logging, memory, notify, reload,
};

pub(super) async fn serve(settings: Settings, global: &GlobalArgs, json: bool) -> Result {
    // Before a database is created.
    upstream::check(&settings.config).map_err(|error| settings.located(error))?;
    let Settings {
        config,
        mut file,
        ignored,
        ..
    } = settings;
    logging::start(&config.log, &config.log.level);
    if let Some(file) = &file {
        log::info!("configuration from {}", file.display());
    }
    for variable in ignored {
        log::debug!(
            "{variable} is ignored: Kubernetes and Docker set such variables, and no setting has this name"
        );
    }
    // Before anything else: an early signal stops the server as gracefully as a late one.
    let handler = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("no signal handlers: {error}")))
    };
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut hangup = handler(SignalKind::hangup())?;
    // A write beyond the limit of a file's size (ulimit -f) fails like one on a full disk, instead of ending the process.
    let _too_large = handler(SignalKind::from_raw(libc::SIGXFSZ))?;
    raise_file_limit();
    let access = Access::READ_OK | Access::WRITE_OK;
    files::check_access(&config.database, access).map_err(Failure::Failed)?;
    let store = tokio::select! {
        opened = client::open(&config, true) => opened?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let database = config.database.clone();
    let unused_key = admin_key::ensure(&store, &database).await?;
    let mut running = config.clone();
    let server = EdgeServer::builder(config, Arc::clone(&store) as _);
    let server = server.start().await?;
    let mut addresses = local_addresses(server.listeners());
    let address = addresses.next().unwrap_or_default();
    store
        .announce(&address)
        .map_err(|error| Failure::Failed(format!("the lock file was not written: {error}")))?;
    client::announce_network(&database);
    let (version, shown) = (env!("CARGO_PKG_VERSION"), database.display());
    let serving = format!("r3mes-edge {version} serves {shown} on {address}");
    announce(&address, &database, unused_key.as_deref(), json);
    log::info!("{serving}");
    for other in addresses {
        log::info!("it also serves on {other}");
    }
    notify::send(&format!("READY=1\nSTATUS={serving}"));
    let mut trimming = pin!(memory::trim_heaps());
    let mut watching = pin!(notify::watch(&store, &serving));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                reload::reload(global, &mut file, &mut running, &server).await;
                admin_key::adopt(&store, &database).await;
            }
            () = &mut trimming => break,
            () = &mut watching => break,
        }
    }
    notify::send("STOPPING=1\nSTATUS=stopping: completing requests in flight");
    log::info!("stopping: requests in flight are completed; a second signal ends them at once");
    tokio::select! {
        () = server.shutdown() => log::info!("stopped"),
        _ = terminate.recv() => log::warn!("second signal: requests in flight are aborted"),
        _ = interrupt.recv() => log::warn!("second signal: requests in flight are aborted"),
    }
    Ok(())
}

/// Prints where the page is, on a terminal or at the first start, and then what to do with the first key.
fn announce(address: &str, database: &Path, unused_key: Option<&Path>, json: bool) {
    if json {
        let (open, first_key) = (page(address), unused_key);
        let started = json!({ "open": open, "address": address, "database": database, "admin_key_file": first_key });
        println!("{started}");
        return;
    }
    if unused_key.is_some() || stdout().is_terminal() {
        println!("{}", open_line(address));
    }
    if let Some(file) = unused_key {
        println!("{}", next_steps(address, file));
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

/// The commands to paste as long as the first key was not used.
fn next_steps(address: &str, key_file: &Path) -> String {
    let (curl, address) = match socket_path(address) {
        Some(socket) => (
            format!("curl --unix-socket {}", files::quoted(socket)),
            "http://localhost",
        ),
        None => ("curl".to_owned(), address),
    };
    include_str!("serve/first_start.txt")
        .replace("{address}", address)
        .replace("{curl}", &curl)
        .replace("{key_file}", &files::quoted(key_file))
}
