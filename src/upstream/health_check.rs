use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;

use super::UpstreamError;
use super::inference::Node;
use crate::breaker::{HealthCheck, Outcome};

impl Node {
    /// Makes the health checks that the breaker asks for, in a task of its own: no client waits for them.
    pub(crate) fn run_health_checks(self: &Arc<Self>, check: Option<HealthCheck>) {
        let Some(mut check) = check else {
            return;
        };
        // A node that is gone for good must not outlive its server.
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut level = log::Level::Warn;
            while check.due().await
                && let Some(node) = node.upgrade()
            {
                let outcome = match node.check_health().await {
                    Ok(()) => Outcome::Success,
                    Err(error) => {
                        let name = node.at.breaker().name();
                        log::log!(level, "inference {name}: the health check failed: {error}");
                        level = log::Level::Debug;
                        match error {
                            UpstreamError::Connect(_) => Outcome::Unreachable,
                            _ => Outcome::Failure,
                        }
                    }
                };
                let Some(next) = check.end(outcome) else {
                    return;
                };
                check = next;
            }
        });
    }

    async fn check_health(&self) -> Result<(), UpstreamError> {
        const TIMEOUT: Duration = Duration::from_secs(2);
        let answer = timeout(TIMEOUT, self.at.client.send(self.health_request()?)).await;
        match answer.unwrap_or(Err(UpstreamError::Timeout("the health check")))? {
            answer if answer.status() == StatusCode::OK => Ok(()),
            answer => Err(UpstreamError::Status(answer.status().as_u16())),
        }
    }
}
