use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;

use crate::app::App;
use crate::call::RequestTimings;
use crate::limits::Decision;
use crate::model::Wallet;
use crate::routes::{MatchedRoute, Method};

/// What is known of a request at its end. Dropped, it counts the request and writes its line: when hyper is done with
/// the answer, or, with the status still 499, when the client left before there was one.
pub(crate) struct AccessLogGuard {
    app: Arc<App>,
    pub(super) trace: Arc<RequestTimings>,
    pub(super) request_id: String,
    pub(super) reached: MatchedRoute,
    pub(super) status: Option<u16>,
    /// How long it took until the answer was there, apart from its client.
    pub(super) ready: Option<Duration>,
    pub(super) key_id: Option<String>,
    pub(super) wallet: Option<Wallet>,
    /// Of the body, as far as hyper took it.
    pub(super) bytes: u64,
    pub(super) verdict: Option<Decision>,
    /// The allowed origin of the page that asks.
    pub(super) origin: Option<HeaderValue>,
}

impl AccessLogGuard {
    /// In a box, as an answer carries it a long way.
    pub(super) fn begin(app: &Arc<App>, request_id: String) -> Box<Self> {
        Box::new(Self {
            app: Arc::clone(app),
            trace: Arc::new(RequestTimings::begin(&app.clock)),
            request_id,
            reached: MatchedRoute::Nothing,
            status: None,
            ready: None,
            key_id: None,
            wallet: None,
            bytes: 0,
            verdict: None,
            origin: None,
        })
    }

    /// The level of its line in the access log: what went well and changed nothing is for who debugs, as is what met no route,
    /// which anybody can send without end.
    fn level(&self, status: u16) -> log::Level {
        let is_read = match self.reached {
            MatchedRoute::Route(route) => route.method == Method::Get,
            MatchedRoute::Nothing => return log::Level::Debug,
            MatchedRoute::Own => false,
        };
        match status {
            500 => log::Level::Error,
            501.. => log::Level::Warn,
            ..400 if is_read => log::Level::Debug,
            _ => log::Level::Info,
        }
    }

    /// How long it took up to now, apart from its client.
    pub(super) fn server_time(&self) -> Duration {
        self.trace.server_time(&self.app.clock)
    }
}

impl Drop for AccessLogGuard {
    fn drop(&mut self) {
        let took = self.trace.elapsed(&self.app.clock);
        let ready = self.ready.unwrap_or_else(|| self.server_time());
        self.app.metrics.request(self.reached, self.status, ready);
        let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        // The route's template, never the path: what a client sends by mistake may be a key.
        let (method, route) = match self.reached {
            MatchedRoute::Nothing => ("-", "-"),
            MatchedRoute::Route(route) => (route.method.as_str(), route.path),
            MatchedRoute::Own => ("-", "own"),
        };
        let wallet = self.wallet.map(|wallet| wallet.short());
        // As nginx has it for a client that left.
        let status = self.status.unwrap_or(499);
        log::log!(
            target: "r3mes_edge::http",
            self.level(status),
            method, route, status,
            ms = millis(took),
            upstream_ms = millis(self.trace.waited()),
            bytes = self.bytes,
            request_id = self.request_id.as_str(),
            key_id = self.key_id.as_deref().unwrap_or("-"),
            wallet = wallet.as_deref().unwrap_or("-");
            "{method} {route} {status}"
        );
    }
}
