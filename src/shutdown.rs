//! The stages of a shutdown, as one signal that every part of the server can wait for.
//!
//! Draining: no new requests; those in flight complete. Aborted: requests still in flight are ended now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::timeout;

/// The signal; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    draining: Arc<SetOnce<()>>,
    aborted: Arc<SetOnce<()>>,
}

impl Shutdown {
    pub(crate) fn drain(&self) {
        let _ = self.draining.set(());
    }

    pub(crate) fn abort(&self) {
        self.drain();
        let _ = self.aborted.set(());
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.initialized()
    }

    pub(crate) async fn draining(&self) {
        self.draining.wait().await;
    }

    pub(crate) async fn aborted(&self) {
        self.aborted.wait().await;
    }

    /// Returns half a second after the drain began; then incomplete requests are dropped, as a slow or silent client would
    /// delay the shutdown.
    pub(crate) async fn drain_grace_elapsed(&self) {
        self.draining().await;
        let _ = timeout(Duration::from_millis(500), self.aborted()).await;
    }
}
