//! What the service manager is told (sd_notify(3)): that the server is ready, how it is, that it stops.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use r3mes_edge::{Repository, SqliteStore};

/// The way to the service manager, where one started us and wants to hear.
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Without a word that all is well in this time the manager ends us and starts us again.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As systemd has set the environment.
    pub(super) fn from_environment() -> Self {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let opened = open(name.as_bytes());
            opened
                .inspect_err(|error| log::warn!("the service manager is not told: {error}"))
                .ok()
        });
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // Of a parent's watchdog the child inherits the variables.
        let is_ours =
            number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&time| time > 0 && is_ours);
        Self {
            to,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// It serves.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// What is under way is finished, and then it ends.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: what is under way is finished first");
    }

    /// Tells how it is, for as long as it runs.
    ///
    /// The watchdog hears of it twice in its time, and only while a task that is handed to the worker threads runs and the
    /// writing thread is not stuck: what a new start mends. A full disk, a stranger's lock, an upstream that is down or a
    /// crowd of clients is nothing that a new start mends, so none of them withholds it.
    pub(super) async fn watch(&self, store: &SqliteStore, serving: &str) {
        if self.to.is_none() {
            return std::future::pending().await;
        }
        let limit = self.watchdog.unwrap_or(Duration::from_secs(60));
        let mut every = tokio::time::interval(limit / 2);
        loop {
            every.tick().await;
            let task = tokio::time::timeout(limit / 4, tokio::spawn(async {})).await;
            let stuck = match (task, store.busy_for()) {
                (Err(_), _) => Some("the worker threads run nothing".to_owned()),
                (_, Some(time)) if time > limit => Some(format!("a write takes {time:.0?}")),
                _ => None,
            };
            match stuck {
                Some(what) => {
                    log::error!("the watchdog is not told that all is well: {what}");
                    self.tell(&format!("STATUS=stuck: {what}"));
                }
                None if store.is_ready() => self.tell(&format!("WATCHDOG=1\nSTATUS={serving}")),
                None => self.tell("WATCHDOG=1\nSTATUS=the storage takes no writes"),
            }
        }
    }

    /// Never waits: a manager that does not listen is no reason to stop serving.
    fn tell(&self, words: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(words.as_bytes(), address)
        {
            log::debug!("the service manager was not told {words:?}: {error}");
        }
    }
}

fn open(name: &[u8]) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address(name)?))
}

fn address(name: &[u8]) -> std::io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))
}
