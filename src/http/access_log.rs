//! The access log: one line and one count per request, also where its client disconnected before there was a response.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;

use super::route::{Method, Route};
use crate::app::App;
use crate::limits::Decision;
use crate::metrics::RouteSlot;
use crate::model::Wallet;
use crate::timings::RequestTimings;

/// Counts a request and writes its line when dropped: when hyper is done with the body, or, with the status still 499, when
/// the client disconnected before there was a response.
pub(crate) struct AccessLogGuard {
    app: Arc<App>,
    pub(super) timings: Arc<RequestTimings>,
    pub(super) request_id: String,
    /// The row of the table that it matched.
    pub(super) route: Option<&'static Route>,
    /// Whether a route of the host's answers it, whose paths and methods are unknown here.
    pub(super) is_host: bool,
    pub(super) status: Option<u16>,
    /// How long the server took to make the response.
    pub(super) ready: Option<Duration>,
    pub(super) key_id: Option<String>,
    pub(super) wallet: Option<Wallet>,
    /// Of the body, as far as hyper took it.
    pub(super) bytes: u64,
    pub(super) rate: Option<Decision>,
    /// The page that sent it, if its origin is allowed.
    pub(super) origin: Option<HeaderValue>,
}

impl AccessLogGuard {
    /// In a box, as a response carries it a long way.
    pub(super) fn new(app: &Arc<App>, request_id: String) -> Box<Self> {
        Box::new(Self {
            app: Arc::clone(app),
            timings: Arc::new(RequestTimings::start(&app.clock)),
            request_id,
            route: None,
            is_host: false,
            status: None,
            ready: None,
            key_id: None,
            wallet: None,
            bytes: 0,
            rate: None,
            origin: None,
        })
    }

    /// A successful read is logged at debug level, as is an unmatched route, which anyone can send without limit.
    fn level(&self, status: u16) -> log::Level {
        let is_read = self.route.is_some_and(|route| route.method == Method::Get);
        match status {
            _ if self.route.is_none() && !self.is_host => log::Level::Debug,
            500 => log::Level::Error,
            501.. => log::Level::Warn,
            ..400 if is_read => log::Level::Debug,
            _ => log::Level::Info,
        }
    }

    /// How long the server took up to now.
    pub(super) fn server_time(&self) -> Duration {
        self.timings.server_time(&self.app.clock)
    }
}

impl Drop for AccessLogGuard {
    fn drop(&mut self) {
        let took = self.timings.elapsed(&self.app.clock);
        let ready = self.ready.unwrap_or_else(|| self.server_time());
        // The route's template, never the path: a path sent in error may hold a key.
        let (method, route, slot) = match self.route {
            Some(row) => (row.method.as_str(), row.path, RouteSlot::of(row.index)),
            None if self.is_host => ("-", "own", RouteSlot::HOST),
            None => ("-", "-", RouteSlot::NONE),
        };
        let is_bounded = self.route.is_none_or(|route| !route.unbounded);
        let metrics = &self.app.metrics;
        metrics.request(slot, self.status, ready, is_bounded);
        let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let wallet = self.wallet.map(|wallet| wallet.short());
        // As nginx logs a client that disconnected.
        let status = self.status.unwrap_or(499);
        log::log!(
            target: "r3mes_edge::http",
            self.level(status),
            method, route, status,
            ms = millis(took),
            upstream_ms = millis(self.timings.waited()),
            bytes = self.bytes,
            request_id = self.request_id.as_str(),
            key_id = self.key_id.as_deref().unwrap_or("-"),
            wallet = wallet.as_deref().unwrap_or("-");
            "{method} {route} {status}"
        );
    }
}
