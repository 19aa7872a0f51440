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

/// Makes every close of a TCP socket a reset, for as long as an answer is under way that only the end of its connection
/// delimits: closed in order, half of it would look whole. That it is the kernel's business makes it hold after a kill
/// too. A Unix socket has no reset.
#[derive(Default)]
pub(super) struct ResetOnClose {
    /// Keeps the socket open once its connection is gone, until what was written has left.
    socket: Mutex<Option<OwnedFd>>,
}

impl ResetOnClose {
    pub(super) fn set(&self, socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        set_socket_linger(socket, on.then_some(Duration::ZERO))?;
        *self.socket() = match on {
            true => Some(socket.try_clone_to_owned()?),
            false => None,
        };
        Ok(())
    }

    /// Resets the connection, if it is set so, once what was written has been sent: what has not is lost with the reset.
    pub(super) async fn close(&self) {
        let Some(socket) = self.socket().take() else {
            return;
        };
        // From here on, the socket is writable only while nothing in it waits to be sent.
        if SockRef::from(&socket).set_tcp_notsent_lowat(1).is_err() {
            return;
        }
        let sent = async {
            let at_once = Timespec::default();
            while let Ok(0) = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&at_once)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(DRAIN, sent).await;
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
