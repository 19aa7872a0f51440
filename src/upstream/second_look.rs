use std::sync::Arc;

use super::inference::Node;
use crate::breaker::{Case, Finding};

impl Node {
    /// Looks at the node's own page before the failures of one wallet shut the door for everybody. No client waits for
    /// it: it runs as a task of its own, for as long as a look may take.
    pub(crate) fn look_into(self: &Arc<Self>, case: Option<Case>) {
        let Some(case) = case else {
            return;
        };
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let well = node.look().await;
            case.close(if well { Finding::Well } else { Finding::Down });
        });
    }
}
