//! Ends a TCP connection with a reset while it carries an unfinished response that only the end of the connection delimits
//! (HTTP/1.0): after an orderly close, a partial response would look complete.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use socket2::SockRef;
use tokio::time::{sleep, timeout};

/// How long a reset waits for earlier writes to be sent.
const DRAIN: Duration = Duration::from_secs(2);

/// While set, every close of the socket is a reset (SO_LINGER), also when the process is killed.
/// A Unix socket has no reset.
#[derive(Default)]
pub(super) struct ResetOnClose {
    /// Keeps the socket open after its connection ended, until all written bytes are sent.
    socket: Mutex<Option<OwnedFd>>,
}

impl ResetOnClose {
    pub(super) fn set(&self, socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        set_socket_linger(socket, on.then_some(Duration::ZERO))?;
        let held_open = on.then(|| socket.try_clone_to_owned()).transpose()?;
        *self.socket() = held_open;
        Ok(())
    }

    /// If set, resets the connection after all written bytes are sent, as a reset discards unsent ones.
    pub(super) async fn close(&self) {
        let Some(socket) = self.socket().take() else {
            return;
        };
        // From here on the socket is writable only while nothing in it is unsent.
        if SockRef::from(&socket).set_tcp_notsent_lowat(1).is_err() {
            return;
        }
        let sent = async {
            let now = Timespec::default();
            while let Ok(0) = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&now)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(DRAIN, sent).await;
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
