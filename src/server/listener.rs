use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket, UnixStream};

use super::StartError;
use crate::config::{Listen, Peer};

/// Connections that wait in the kernel. In the usual queue of 128 a burst of strangers' leaves no room for anybody else's
/// first packet, which its kernel then sends again only a second later.
const QUEUE: u32 = 4096;

/// Where connections come in.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// The file goes first: as long as the socket is open, no other file has its inode.
    Unix(SocketFile, UnixListener),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + AsFd + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + AsFd + Send + Unpin> Stream for S {}

impl Listener {
    /// Binds one of all the places that there are to be.
    pub(super) async fn bind(place: &Listen, all: &[Listen]) -> Result<Self, StartError> {
        if let Some(what) = place.open_folder() {
            return Err(StartError::Config(what));
        }
        let bound = match place {
            Listen::Tcp(address) => bind_tcp(*address, all).map(Self::Tcp),
            Listen::Unix(path) => bind_unix(path)
                .await
                .map(|(file, listener)| Self::Unix(file, listener)),
        };
        bound.map_err(|error| StartError::Bind(place.clone(), error))
    }

    /// Where it really listens.
    pub(super) fn place(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(file, _) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, Peer)>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, peer)| {
                // Small answers and single words of a stream must not wait for more (Nagle).
                let _ = stream.set_nodelay(true);
                (
                    Box::new(stream) as Box<dyn Stream>,
                    Peer::Address(peer.ip()),
                )
            }),
            Self::Unix(_, listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| (Box::new(stream) as Box<dyn Stream>, Peer::Unix)),
        }
    }
}

/// The next connection of any of them. `turn` says which is asked first, so that a crowd at one keeps nobody out at another.
pub(super) async fn accept(
    listeners: &[Listener],
    turn: &mut usize,
) -> io::Result<(Box<dyn Stream>, Peer)> {
    std::future::poll_fn(|context| {
        for _ in 0..listeners.len() {
            let asked = &listeners[*turn % listeners.len()];
            *turn = turn.wrapping_add(1);
            if let Poll::Ready(accepted) = asked.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

fn bind_tcp(address: SocketAddr, all: &[Listen]) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    // [::] takes the IPv4 addresses too, unless they have a listener of their own.
    let mut others = all.iter().filter_map(Listen::address);
    if address.is_ipv6() && others.any(|a| a.is_ipv4() && a.port() == address.port()) {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(QUEUE)
}

async fn bind_unix(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    remove_stale_socket(path).await?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::of(path)?;
    // Before anybody can connect, which is from `listen` on.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok((file, socket.listen(QUEUE)?))
}

/// Removes a socket that a crash left. What answers, and what is no socket, stays.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let taken = |what| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(about) if !about.file_type().is_socket() => {
            return taken("a file that is no socket has this name; move it away");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue is full.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => taken("another program answers there"),
    }
}

/// The file of a socket of ours; dropped, it is gone, unless another has taken its name.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("{} was left behind: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|about| (about.dev(), about.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(path: &Path) -> Result<Listener, String> {
        let bound = Listener::bind(&Listen::Unix(path.to_owned()), &[]).await;
        bound.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_group_and_gone_with_its_listener() {
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
    async fn a_socket_that_nobody_answers_on_is_replaced_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path).await.unwrap());
        let link = folder.path().join("link.sock");
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(folder.path().join("file"), "precious").unwrap();
        for (name, told) in [
            ("file", "no socket"),
            ("link.sock", "no socket"),
            ("none/x", "No such"),
        ] {
            let refused = bind(&folder.path().join(name)).await.err().unwrap();
            assert!(refused.contains(told), "{name}: {refused}");
        }
        assert_eq!(
            std::fs::read(folder.path().join("file")).unwrap(),
            b"precious"
        );
        drop(live);
    }

    #[tokio::test]
    async fn the_end_of_one_server_leaves_the_socket_of_the_next() {
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
    async fn a_folder_that_everybody_may_write_to_is_refused_unless_it_is_like_tmp() {
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

    #[tokio::test]
    async fn each_listener_has_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let listeners = [
            Listener::bind(&"127.0.0.1:0".parse().unwrap(), &[])
                .await
                .unwrap(),
            bind(&path).await.unwrap(),
        ];
        let address = listeners[0].place().unwrap().address().unwrap();
        let mut callers = Vec::new();
        for _ in 0..4 {
            callers.push(std::net::TcpStream::connect(address).unwrap());
        }
        let _local = UnixStream::connect(&path).await.unwrap();
        let (mut turn, mut peers) = (0, Vec::new());
        for _ in 0..2 {
            peers.push(accept(&listeners, &mut turn).await.unwrap().1);
        }
        assert!(peers.contains(&Peer::Unix), "{peers:?}");
    }

    #[tokio::test]
    async fn all_addresses_of_ipv6_and_all_of_ipv4_share_a_port() {
        // The port that one got free may be taken for the other.
        let mut listeners = Vec::new();
        for _ in 0..20 {
            let any = "0.0.0.0:0".parse().unwrap();
            listeners = vec![Listener::bind(&any, &[]).await.unwrap()];
            let first = listeners[0].place().unwrap();
            let port = first.address().unwrap().port();
            let second = format!("[::]:{port}").parse().unwrap();
            if let Ok(second) = Listener::bind(&second, &[first, second.clone()]).await {
                listeners.push(second);
                break;
            }
        }
        let address = listeners.last().unwrap().place().unwrap().address();
        let port = address.unwrap().port();
        for client in ["[::1]", "127.0.0.1"] {
            let address = format!("{client}:{port}");
            let _client = std::net::TcpStream::connect(address).unwrap();
            accept(&listeners, &mut 0).await.unwrap();
        }
    }
}
