//! Reports readiness, status and stopping to the service manager (sd_notify(3)), if one started this process.

use std::env;
use std::ffi::OsStr;
use std::io::Result;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use r3mes_edge::{Repository, SqliteStore};

/// Reports the status, until dropped.
///
/// The watchdog is notified twice per period, but only while the worker threads run tasks and the writer thread is not
/// stuck: a restart fixes these. It does not fix a full disk, another program's lock, an upstream that is down or high
/// load, so none of them withholds the message.
pub(super) async fn watch(store: &SqliteStore, serving: &str) {
    let limit = watchdog().unwrap_or(Duration::from_secs(60));
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
                send(&format!("STATUS=stuck: {what}"));
            }
            None if store.is_ready() => send(&format!("WATCHDOG=1\nSTATUS={serving}")),
            None => send("WATCHDOG=1\nSTATUS=the storage rejects writes"),
        }
    }
}

/// Without a message in this time the manager restarts the process.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    // A child inherits the variables of its parent's watchdog.
    let is_ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    let time = number("WATCHDOG_USEC").filter(|&time| time > 0 && is_ours);
    time.map(Duration::from_micros)
}

/// Sends a message; without a service manager it does nothing.
pub(super) fn send(message: &str) {
    if let Some(name) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send_to(&name, message)
    {
        log::warn!("the service manager is not notified: {error}");
    }
}

/// Never waits: a manager that does not read its socket must not stop the server.
fn send_to(name: &OsStr, message: &str) -> Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?
        }
        _ => SocketAddr::from_pathname(name)?,
    };
    socket.send_to_addr(message.as_bytes(), &address)
}
