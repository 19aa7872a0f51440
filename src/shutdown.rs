//! The stages of a shutdown, as one signal that every part of the server can wait for.
//!
//! Draining: no new requests; those in flight complete. Aborted: requests still in flight are ended now.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Stage {
    #[default]
    Running,
    Draining,
    Aborted,
}

/// The signal; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown(watch::Sender<Stage>);

impl Shutdown {
    pub(crate) fn drain(&self) {
        self.reach(Stage::Draining);
    }

    pub(crate) fn abort(&self) {
        self.reach(Stage::Aborted);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.0.borrow() >= Stage::Draining
    }

    pub(crate) async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    pub(crate) async fn aborted(&self) {
        self.reached(Stage::Aborted).await;
    }

    /// Returns half a second after the drain began; then incomplete requests are dropped, as a slow or silent client would
    /// delay the shutdown.
    pub(crate) async fn drain_grace_elapsed(&self) {
        self.draining().await;
        let _ = timeout(Duration::from_millis(500), self.aborted()).await;
    }

    fn reach(&self, stage: Stage) {
        self.0.send_modify(|now| *now = (*now).max(stage));
    }

    async fn reached(&self, stage: Stage) {
        // It fails only without a sender, and `self` is one.
        let _ = self.0.subscribe().wait_for(|now| *now >= stage).await;
    }
}
