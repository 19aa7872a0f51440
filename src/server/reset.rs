//! Ends a TCP connection with a reset while it carries an unfinished response that only the end of the connection delimits
//! (HTTP/1.0): after an orderly close, a partial response would look complete. A Unix socket has no reset.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How long a reset waits for earlier writes to be sent.
const DRAIN: Duration = Duration::from_secs(2);

/// While set, every close of the socket is a reset (SO_LINGER), also when the process is killed.
pub(super) fn set(socket: BorrowedFd<'_>, on: bool) {
    let _ = set_socket_linger(socket, on.then_some(Duration::ZERO));
}

/// Holds the socket open after its connection ended until all written bytes are sent, as a reset discards unsent ones.
pub(super) fn close_when_sent(socket: BorrowedFd<'_>) {
    let (Ok(socket), Ok(runtime)) = (socket.try_clone_to_owned(), Handle::try_current()) else {
        return;
    };
    // From here on the socket is writable only while nothing in it is unsent.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(1);
    let sent = async move {
        let now = Timespec::default();
        while let Ok(0) = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&now)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // Created in the task, as a timer needs its runtime.
    runtime.spawn(async { timeout(DRAIN, sent).await });
}
