//! Whether a client that has ended its side of the connection is still there. A close and a half-close arrive as the same
//! segment; they differ in what is answered to bytes that are sent after it.

use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::{Instant, Sleep, sleep};

use super::listener::Stream;

/// Between the probes, and before the first one: most answers come before it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Every client of HTTP/1.1 skips it, also where it did not ask for it (RFC 9110, 15.2.1).
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(super) struct EndProbe(Pin<Box<Sleep>>);

impl EndProbe {
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep(INTERVAL)))
    }

    /// Ready when the client has left. While nothing of a response is written it `sends` probes; then the response is one.
    pub(super) fn poll(
        &mut self,
        stream: &mut dyn Stream,
        sends: bool,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(self.0.as_mut().poll(context));
            if is_reset(stream.as_fd()) {
                return Poll::Ready(());
            }
            // So few bytes fit into the buffer of an idle socket, whole or not at all.
            if sends
                && let Poll::Ready(Err(_)) = Pin::new(&mut *stream).poll_write(context, INTERIM)
            {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(Instant::now() + INTERVAL);
        }
    }
}

/// Whether both directions of a socket are closed.
fn is_reset(socket: BorrowedFd<'_>) -> bool {
    let mut sockets = [PollFd::new(&socket, PollFlags::empty())];
    let polled = poll(&mut sockets, Some(&Timespec::default()));
    let closed = PollFlags::HUP | PollFlags::ERR;
    polled.is_err() || sockets[0].revents().intersects(closed)
}
