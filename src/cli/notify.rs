//! Reports readiness, status and stopping to the service manager (sd_notify(3)).

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use r3mes_edge::{Repository, SqliteStore};

/// The socket of the service manager, if it started this process.
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Without a message in this time the manager restarts the process.
    watchdog: Option<Duration>,
}

impl Notify {
    /// From the environment that systemd sets.
    pub(super) fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        let socket = name.and_then(|name| {
            let opened = open(name.as_bytes());
            opened
                .inspect_err(|error| log::warn!("the service manager is not notified: {error}"))
                .ok()
        });
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // A child inherits the variables of its parent's watchdog.
        let is_ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&time| time > 0 && is_ours);
        Self {
            socket,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Reports that the server is ready.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that the server is stopping.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: completing requests in flight");
    }

    /// Reports the status, until dropped.
    ///
    /// The watchdog is notified twice per period, but only while the worker threads run tasks and the writer thread is not
    /// stuck: a restart fixes these. It does not fix a full disk, another program's lock, an upstream that is down or high
    /// load, so none of them withholds the message.
    pub(super) async fn watch(&self, store: &SqliteStore, serving: &str) {
        if self.socket.is_none() {
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
                    log::error!("the watchdog is not notified: {what}");
                    self.send(&format!("STATUS=stuck: {what}"));
                }
                None if store.is_ready() => self.send(&format!("WATCHDOG=1\nSTATUS={serving}")),
                None => self.send("WATCHDOG=1\nSTATUS=the storage rejects writes"),
            }
        }
    }

    /// Never waits: a manager that does not read its socket must not stop the server.
    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            log::debug!("the service manager was not sent {message:?}: {error}");
        }
    }
}

fn open(name: &[u8]) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix(b"@") {
        let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?;
        return Ok((socket, address));
    }
    let address = SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?;
    Ok((socket, address))
}
