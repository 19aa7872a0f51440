//! Ends a TCP connection with a reset while it carries an unfinished response that only the end of the connection delimits
//! (HTTP/1.0): closed in order, half of it would look complete.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use socket2::SockRef;
use tokio::time::{sleep, timeout};

/// How long a reset waits for what was written before it.
const DRAIN: Duration = Duration::from_secs(2);

/// Makes every close of the socket a reset while it is set. As this is the kernel's business, it holds after a kill too.
/// A Unix socket has no reset.
#[derive(Default)]
pub(super) struct ResetOnClose {
    /// Keeps the socket open after its connection ended, until what was written has been sent.
    socket: Mutex<Option<OwnedFd>>,
}

impl ResetOnClose {
    pub(super) fn set(&self, socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        set_socket_linger(socket, on.then_some(Duration::ZERO))?;
        let held_open = on.then(|| socket.try_clone_to_owned()).transpose()?;
        *self.socket() = held_open;
        Ok(())
    }

    /// Resets the connection, if it is set, after what was written has been sent: the rest is lost with the reset.
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
