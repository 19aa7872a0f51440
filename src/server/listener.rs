//! TCP and Unix listeners: binding, taking over a stale socket file, and accepting in turn.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket, UnixStream};
use tokio::time::{Instant, sleep};

use super::StartError;
use crate::config::{Listen, Peer};

/// Connections that wait in the kernel. In the usual queue of 128 a burst from one client makes others' first packets
/// drop, which their kernels send again only a second later.
const BACKLOG: u32 = 4096;

pub(super) enum Listener {
    Tcp(TcpListener),
    /// The file is dropped first: as long as the socket is open, no other file gets its inode.
    Unix(SocketFile, UnixListener),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + AsFd + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + AsFd + Send + Unpin> Stream for S {}

impl Listener {
    /// Binds all addresses or none.
    pub(super) async fn bind_all(addresses: &[Listen]) -> Result<Vec<Self>, StartError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            listeners.push(Self::bind(address, addresses).await?);
        }
        Ok(listeners)
    }

    async fn bind(address: &Listen, all: &[Listen]) -> Result<Self, StartError> {
        if let Some(what) = address.open_folder() {
            return Err(StartError::Config(what));
        }
        let bound = match address {
            Listen::Tcp(address) => bind_tcp(*address, all),
            Listen::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|error| StartError::Bind(address.clone(), error))
    }

    /// The address it is bound to, with the port that the system chose.
    pub(super) fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(file, _) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, Peer)>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, peer)| {
                // Nagle's algorithm would hold back small responses and single events of a stream.
                let _ = stream.set_nodelay(true);
                (Box::new(stream) as _, Peer::Address(peer.ip()))
            }),
            Self::Unix(_, listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| (Box::new(stream) as _, Peer::Unix)),
        }
    }
}

/// What [`accept`] remembers from one connection to the next.
#[derive(Default)]
pub(super) struct Accepting {
    /// Rotates, so that many connections at one listener do not starve another.
    first: usize,
    /// Attempts that failed since the last line of the log about them, and when that was.
    failures: u32,
    logged_at: Option<Instant>,
}

impl Accepting {
    /// One line in ten seconds, as the attempts of a server without file descriptors fail ten times a second.
    fn log_failure(&mut self, error: &io::Error) {
        self.failures += 1;
        let is_due = |at: Instant| at.elapsed() >= Duration::from_secs(10);
        if self.logged_at.is_none_or(is_due) {
            let failures = std::mem::take(&mut self.failures);
            log::error!("no connection was accepted in {failures} attempts: {error}");
            self.logged_at = Some(Instant::now());
        }
    }
}

/// The next connection of any listener.
pub(super) async fn accept(
    listeners: &[Listener],
    state: &mut Accepting,
) -> (Box<dyn Stream>, Peer) {
    loop {
        let first = &mut state.first;
        let accepted = poll_fn(|context| {
            for _ in 0..listeners.len() {
                let listener = &listeners[*first % listeners.len()];
                *first = first.wrapping_add(1);
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        });
        match accepted.await {
            Ok(accepted) => return accepted,
            // Likely no file descriptors are left.
            Err(error) => state.log_failure(&error),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn bind_tcp(address: SocketAddr, all: &[Listen]) -> io::Result<Listener> {
    let socket = tcp_socket(address, all)?;
    socket.listen(BACKLOG).map(Listener::Tcp)
}

/// A socket that is bound and does not listen yet: until then others may be bound to the same address.
fn tcp_socket(address: SocketAddr, all: &[Listen]) -> io::Result<TcpSocket> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // [::] accepts IPv4 too, unless an IPv4 listener has the same port.
    let mut others = all.iter().filter_map(Listen::address);
    if address.is_ipv6() && others.any(|a| a.is_ipv4() && a.port() == address.port()) {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

/// Whether the addresses can be bound, as far as that can be known without doing it: a place that is in use may be that of the
/// server that is running.
pub(super) fn check(addresses: &[Listen]) -> Result<(), String> {
    for listen in addresses {
        let tried = match listen {
            Listen::Tcp(address) => tcp_socket(*address, addresses).map(drop),
            Listen::Unix(path) => check_socket_file(path),
        };
        match tried {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(format!(
                    "{listen}: {error}; name an address of this machine and a port that this user may use"
                ));
            }
            _ => {}
        }
        if let Some(what) = listen.open_folder() {
            return Err(format!("{what}; chmod o-w the folder, or name another"));
        }
    }
    Ok(())
}

/// Neither removes a stale socket nor makes one.
fn check_socket_file(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    let what = |what: &str| io::Error::other(what.to_owned());
    if !std::fs::metadata(parent)?.is_dir() {
        return Err(what("its folder is a file"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(what("a file that is no socket has this name"))
        }
        _ => Ok(()),
    }
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    remove_stale_socket(path).await?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    // Before `listen`, from which on clients can connect.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))?;
    Ok(Listener::Unix(file, socket.listen(BACKLOG)?))
}

/// Removes a socket that a crash left. One that still answers, or a file that is not a socket, is not removed.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use io::ErrorKind::{AddrInUse, ConnectionRefused, NotFound};
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        let what = "a file that is no socket has this name; move it away";
        return Err(io::Error::new(AddrInUse, what));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(AddrInUse, "another program answers there")),
        Err(error) if error.kind() == ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of our socket; dropped, it is removed, unless another file has its name by then.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("{} was not removed: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(path: &Path) -> Result<Listener, String> {
        let bound = Listener::bind(&Listen::Unix(path.to_owned()), &[]).await;
        bound.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_socket_file_has_mode_0660_and_is_removed_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let listener = bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        let again = bind(&path).await.err().unwrap();
        assert!(again.contains("another program answers there"), "{again}");
        assert!(
            again.contains(&format!("unix:{}", path.display())),
            "{again}"
        );
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_any_other_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path).await.unwrap());
        let link = folder.path().join("link.sock");
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(folder.path().join("file"), "precious").unwrap();
        for (name, why) in [
            ("file", "no socket"),
            ("link.sock", "no socket"),
            ("none/x", "No such"),
        ] {
            let refused = bind(&folder.path().join(name)).await.err().unwrap();
            assert!(refused.contains(why), "{name}: {refused}");
        }
        assert_eq!(
            std::fs::read(folder.path().join("file")).unwrap(),
            b"precious"
        );
        drop(live);
    }

    #[tokio::test]
    async fn a_listener_does_not_remove_the_socket_file_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let first = bind(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = bind(&path).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_world_writable_folder_is_refused_unless_it_is_sticky() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let open = |mode| std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode));
        open(0o777).unwrap();
        let refused = bind(&path).await.err().unwrap();
        assert!(refused.contains("everybody may write"), "{refused}");
        for mode in [0o1777, 0o770] {
            open(mode).unwrap();
            drop(bind(&path).await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_to_accept_that_fail_are_one_line_of_the_log_in_ten_seconds() {
        let mut state = Accepting::default();
        let error = io::Error::from_raw_os_error(24);
        let mut lines = 0;
        for _ in 0..300 {
            state.log_failure(&error);
            // Logged, the count begins anew.
            lines += u32::from(state.failures == 0);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(lines, 3);
    }

    #[tokio::test]
    async fn listeners_are_accepted_from_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let listeners = [
            Listener::bind(&"127.0.0.1:0".parse().unwrap(), &[])
                .await
                .unwrap(),
            bind(&path).await.unwrap(),
        ];
        let address = listeners[0].address().unwrap().address().unwrap();
        let mut callers = Vec::new();
        for _ in 0..4 {
            callers.push(std::net::TcpStream::connect(address).unwrap());
        }
        let _local = UnixStream::connect(&path).await.unwrap();
        let (mut state, mut peers) = (Accepting::default(), Vec::new());
        for _ in 0..2 {
            peers.push(accept(&listeners, &mut state).await.1);
        }
        assert!(peers.contains(&Peer::Unix), "{peers:?}");
    }

    #[tokio::test]
    async fn the_ipv6_and_ipv4_wildcards_can_share_a_port() {
        // The port that was free for one may be in use for the other.
        let mut listeners = Vec::new();
        for _ in 0..20 {
            let any = "0.0.0.0:0".parse().unwrap();
            listeners = vec![Listener::bind(&any, &[]).await.unwrap()];
            let first = listeners[0].address().unwrap();
            let port = first.address().unwrap().port();
            let second = format!("[::]:{port}").parse().unwrap();
            if let Ok(second) = Listener::bind(&second, &[first, second.clone()]).await {
                listeners.push(second);
                break;
            }
        }
        let address = listeners.last().unwrap().address().unwrap().address();
        let port = address.unwrap().port();
        for client in ["[::1]", "127.0.0.1"] {
            let address = format!("{client}:{port}");
            let _client = std::net::TcpStream::connect(address).unwrap();
            accept(&listeners, &mut Accepting::default()).await;
        }
    }
}
