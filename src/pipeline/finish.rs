use std::sync::Arc;
use std::time::Instant;

use hyper::header::HeaderValue;

use crate::app::App;
use crate::limits::Verdict;

/// What is known of a request at its end. Dropped, it counts the request and writes its line: when hyper is done with
/// the answer, or, with the status still 499, when the client left before there was one.
pub(crate) struct Finish {
    app: Arc<App>,
    started: Instant,
    pub(super) request_id: String,
    pub(super) route: &'static str,
    pub(super) method: &'static str,
    pub(super) status: u16,
    pub(super) key_id: Option<String>,
    pub(super) verdict: Option<Verdict>,
    /// The allowed origin of the page that asks.
    pub(super) origin: Option<HeaderValue>,
}

impl Finish {
    pub(super) fn begin(app: &Arc<App>, request_id: String) -> Self {
        let (app, started) = (Arc::clone(app), Instant::now());
        Self {
            app,
            started,
            request_id,
            route: "none",
            method: "none",
            status: 499,
            key_id: None,
            verdict: None,
            origin: None,
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.app
            .metrics
            .request(self.route, self.method, self.status, took);
        // The route's template, never the path: what a client sends by mistake may be a key.
        log::info!(
            target: "r3mes_edge::http",
            "{} {} {} {:.1}ms {} {}",
            self.method,
            self.route,
            self.status,
            took.as_secs_f64() * 1000.0,
            self.request_id,
            self.key_id.as_deref().unwrap_or("-"),
        );
    }
}
