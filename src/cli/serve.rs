//! `serve`: opens the database, starts the server and waits for signals. SIGTERM and SIGINT stop it, a second one at once;
//! SIGHUP reloads the configuration.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use r3mes_edge::{EdgeServer, upstream};
use tokio::signal::unix::{SignalKind, signal};

use super::settings::Settings;
use super::{
    Failure, GlobalArgs, Result, admin_key, client, files, logging, memory, notify, reload,
};

pub(super) async fn serve(settings: Settings, global: &GlobalArgs) -> Result {
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
    let mut listeners: Vec<_> = server.listeners().iter().collect();
    // Addresses before sockets, which not every client can use.
    listeners.sort_by_key(|listen| listen.address().is_none());
    let mut addresses = listeners.into_iter().map(client::local_address);
    let address = addresses.next().unwrap_or_default();
    store
        .announce(&client::announcement(&address))
        .map_err(|error| Failure::Failed(format!("the lock file was not written: {error}")))?;
    let (version, shown) = (env!("CARGO_PKG_VERSION"), database.display());
    let serving = format!("r3mes-edge {version} serves {shown} on {address}");
    log::info!("{serving}");
    for other in addresses {
        log::info!("it also serves on {other}");
    }
    if let Some(file) = &unused_key {
        println!("{}", next_steps(&address, file));
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
    let (curl, address) = match client::socket_path(address) {
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
